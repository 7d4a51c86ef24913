import shutil
from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.training.checkpoint import Checkpoints

HOST = {
    "empty": np.zeros(0, np.int32),
    "nan": np.array([np.nan, 1.5], np.float32),
    "table": np.arange(6, dtype=np.int32).reshape(2, 3),
}


def save(checkpoints, number):
    models = {
        "main": {"w": jnp.full(4, float(number))},
        "proxy": {"w": jnp.full(2, -float(number)), "plans": jnp.int32(number)},
    }
    checkpoints.save(models, HOST, {"number": number})


LIKE = {
    "main": {"w": jnp.zeros(4)},
    "proxy": {"w": jnp.zeros(2), "plans": jnp.int32(0)},
}


@pytest.mark.parametrize("wanted", [(), ("main",), ("main", "proxy")])
def test_a_checkpoint_restores_the_models_that_are_wanted(tmp_path, wanted):
    checkpoints = Checkpoints(tmp_path / "here")
    assert checkpoints.latest is None
    save(checkpoints, 0)
    save(checkpoints, 1)
    restored = checkpoints.restore({name: LIKE[name] for name in wanted})
    assert tuple(restored.models) == wanted
    expected = {"main": np.ones(4), "proxy": -np.ones(2)}
    for name, tree in restored.models.items():
        np.testing.assert_array_equal(tree["w"], expected[name])
    assert restored.meta == checkpoints.read_meta() == {"number": 1}
    assert restored.host.keys() == HOST.keys()
    for name, array in HOST.items():
        np.testing.assert_array_equal(restored.host[name], array)
        assert restored.host[name].dtype == array.dtype
    checkpoints.close()


def test_a_checkpoint_without_host_arrays_is_one_too(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"main": {"w": jnp.zeros(1)}}, {}, {})
    assert checkpoints.restore({}).host == {}


def test_only_the_latest_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in range(4):
        save(checkpoints, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 0)
    checkpoints.close()
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    (tmp_path / "1" / "commit_success.txt").unlink()
    (tmp_path / "7").mkdir()
    again = Checkpoints(tmp_path)
    assert again.latest == 0
    save(again, 5)
    assert again.restore({}).meta == {"number": 5}


def test_reading_only_makes_nothing(tmp_path):
    save(Checkpoints(tmp_path / "a"), 0)
    before = sorted(tmp_path.rglob("*"))
    reader = Checkpoints(tmp_path / "a", read_only=True)
    assert reader.restore(LIKE).meta == {"number": 0}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_another_format_is_not_resumed(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr("dpet_jax.training.checkpoint.FORMAT", 2)
    save(checkpoints, 0)
    checkpoints.check_format()
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"format 2, .*cannot be resumed.*--overwrite"):
        checkpoints.check_format()
    # its parameters are as good as ever
    assert checkpoints.read_meta() == {"number": 0}
    checkpoints.close()


# damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with two checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    with closing(Checkpoints(folder)) as checkpoints:
        save(checkpoints, 0)
        save(checkpoints, 1)
    return folder


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS = [cut, flip, Path.unlink]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(saved, tmp_path, harm):
    # every file is harmed, each in one of the ways
    for number, whole in enumerate(files_of(saved / "1")[HARMS.index(harm) :: 3]):
        if whole == saved / "1" / "commit_success.txt" and harm is Path.unlink:
            continue  # it was never committed, then
        if whole.name == "files.json" and harm is Path.unlink:
            continue  # of an earlier version
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        path = folder / whole.relative_to(saved)
        harm(path)
        # a list that is damaged may name a file that never was
        named = folder / "1" if whole.name == "files.json" else path
        with (
            closing(Checkpoints(folder, read_only=True)) as checkpoints,
            pytest.raises(DamagedFileError, match=f"^{named}.*: damaged: "),
        ):
            checkpoints.check_whole()
        with closing(Checkpoints(folder)) as checkpoints:
            (problem,) = checkpoints.set_damaged_aside()
            assert problem.startswith(str(named))
            assert "damaged-1" in problem
            assert checkpoints.latest == 0
            assert checkpoints.read_meta() == {"number": 0}
            save(checkpoints, 7)
            assert checkpoints.set_damaged_aside() == []
            assert checkpoints.restore(LIKE).meta == {"number": 7}


def test_checkpoints_that_are_all_damaged_leave_none(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "a")
    for step in ("0", "1"):
        flip(tmp_path / "a" / step / "meta" / "metadata")
    with closing(Checkpoints(tmp_path / "a")) as checkpoints:
        assert len(checkpoints.set_damaged_aside()) == 2
        assert checkpoints.latest is None


def test_a_damaged_checkpoint_of_an_earlier_version_is_named(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "a")
    (tmp_path / "a" / "1" / "files.json").unlink()
    (tmp_path / "a" / "1" / "model_main" / "_METADATA").write_text("{")
    with closing(Checkpoints(tmp_path / "a")) as checkpoints:
        assert checkpoints.set_damaged_aside() == []
        with pytest.raises(DamagedFileError, match=f"^{tmp_path / 'a' / '1'}: damaged"):
            checkpoints.restore(LIKE)


def test_a_full_disk_leaves_the_checkpoints_there_were(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "a")
    full = shutil.disk_usage(tmp_path)._replace(free=2**19)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with closing(Checkpoints(tmp_path / "a")) as checkpoints:
        with pytest.raises(OSError, match="No space left") as caught:
            save(checkpoints, 2)
        assert caught.value.filename == str(tmp_path / "a")
        assert checkpoints.restore(LIKE).meta == {"number": 1}


def test_an_error_of_the_system_inside_orbax_is_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def refuse(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write [os_error_code='122']")

    monkeypatch.setattr(checkpoints._manager, "save", refuse)
    with pytest.raises(OSError, match="quota") as caught:
        save(checkpoints, 0)
    assert caught.value.filename == str(tmp_path / "0")
