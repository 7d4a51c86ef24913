import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.errors import UserError
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
