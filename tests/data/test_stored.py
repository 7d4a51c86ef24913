"""Rows in a file and pictures decoded later: the same data, made once, or an error."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from dpet_jax.data import dataset, prepare, stored
from dpet_jax.data.dataset import content_hash
from dpet_jax.data.pictures import Pictures, with_grain
from dpet_jax.data.rows import Rows
from dpet_jax.data.sources import Digits, Folder, Npz, Parquet
from dpet_jax.data.stored import home_of, read_source, rows_folder
from dpet_jax.methods.base import Plan
from dpet_jax.training.chunks import Batches


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dpet_jax" / "rows"


def images(count, side=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side + 1, 3), np.uint8)


@pytest.fixture
def any_machine(monkeypatch):
    """Let pictures be opened where Grain is not installed."""
    monkeypatch.setattr(stored, "with_grain", lambda: None)


@pytest.fixture
def npz(tmp_path):
    labels = np.arange(40) % 4
    path = tmp_path / "set.npz"
    np.savez(
        path,
        train_images=images(40),
        train_labels=labels,
        test_images=images(8, seed=1),
        test_labels=labels[:8],
    )
    return path


@pytest.fixture
def folder(tmp_path, as_picture):
    """Class folders of JPEGs of several sizes, one of them grey."""
    for split, count in (("train", 9), ("test", 4)):
        for name in "ab":
            place = tmp_path / "set" / split / name
            place.mkdir(parents=True)
            for row in range(count):
                array = images(1, side=8 + row % 3, seed=row)[0]
                array = array[:, :, 0] if row == 2 else array
                (place / f"{row}.jpg").write_bytes(as_picture(array, "jpeg"))
    return tmp_path / "set"


@pytest.fixture
def parquet(tmp_path, as_picture):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "hub"
    path.mkdir()
    for name, count in (
        ("train-00000-of-00002", 12),
        ("train-00001-of-00002", 8),
        ("test", 6),
    ):
        blobs = [as_picture(one) for one in images(count, seed=count)]
        labels = pa.array(np.arange(count) % 2)
        pq.write_table(
            pa.table({"image": blobs, "label": labels}), path / f"{name}.parquet"
        )
    return path


def read(section):
    return prepare(read_source(section), section)


def assert_same(left, right):
    for one in fields(left):
        if one.init:
            a, b = (np.asarray(getattr(data, one.name)) for data in (left, right))
            np.testing.assert_array_equal(a, b, err_msg=one.name)


SPLIT = {"validation_fraction": 0.25, "train_examples": 9, "label_noise": 0.2}


@pytest.mark.parametrize("placement", ["host", "stream"])
@pytest.mark.parametrize("kind", [Folder, Parquet])
@pytest.mark.usefixtures("any_machine")
def test_data_are_those_that_are_decoded_at_once(kind, placement, folder, parquet):
    path = folder if kind is Folder else parquet
    keys = {"path": path, "image_size": 5, **SPLIT}
    whole = read(kind(**keys))
    kept = read(kind(**keys, placement=placement))
    assert isinstance(kept.images, Rows)
    assert_same(kept, whole)
    assert_same(read(kind(**keys, placement=placement)), whole)
    # one hash for all, so that a run may be resumed at another placement
    assert content_hash(kept) == content_hash(whole)


@pytest.mark.parametrize("kind", [Folder, Parquet])
@pytest.mark.usefixtures("any_machine")
def test_auto_keeps_what_memory_does_not_hold_in_a_file_or_streams_it(
    kind, folder, parquet, monkeypatch, refused
):
    section = kind(path=folder if kind is Folder else parquet, image_size=5)
    pixels = 26 * 5 * 5 * 3
    for there, free, placement in (
        (2 * pixels, 0, "auto"),
        (2 * pixels - 1, pixels, "host"),
        (0, pixels - 1, "stream"),
    ):
        monkeypatch.setattr(stored, "memory", lambda there=there: there)
        monkeypatch.setattr(stored, "_free", lambda _, free=free: free)
        if placement == "stream" and kind is Parquet:
            assert "nor does a copy of its pictures fit" in refused(home_of, section)
            monkeypatch.setattr(stored, "_files", lambda _: [("all", 0, 0)])
        home = home_of(section)
        assert home.placement == placement
        assert bool(home.reason) == (placement != "auto")
    assert "26 images of 5 x 5 pixels take up to 0.00195 MB" in home.reason
    assert "0.00195 MB free in" in home.reason
    monkeypatch.setattr(stored, "with_grain", with_grain)
    monkeypatch.setitem(sys.modules, "grain", None)
    message = refused(home_of, section)
    assert str(section.path) in message
    assert "pip install 'dpet-jax[stream]'" in message


@pytest.mark.usefixtures("any_machine")
def test_what_auto_cannot_look_at_is_read_which_says_what_is_wrong(folder, npz):
    assert home_of(Npz(path=npz)) == home_of(Digits()) == ("auto", "")
    assert home_of(Folder(path=folder / "none")) == ("auto", "")
    assert home_of(Npz(path=npz, placement="host")) == ("host", "")


def test_rows_of_any_source_with_a_path_are_kept(npz):
    for keys in ({}, {"image_size": 3}, {"classes": ("1", "3")}, SPLIT):
        whole, kept = (
            read(Npz(path=npz, **keys, placement=placement))
            for placement in ("device", "host")
        )
        assert_same(kept, whole)
        assert content_hash(kept) == content_hash(whole)
    # size alone decides what is in the file
    assert len(list(rows_folder().iterdir())) == 2


def test_a_source_without_a_path_stays_in_memory(cache):
    data = read(Digits(placement="host"))
    assert isinstance(data.images, np.ndarray)
    assert not cache.exists()


def test_a_second_run_neither_reads_nor_passes_over_the_data(npz, monkeypatch):
    section = Npz(path=npz, placement="host")
    before = read(section), content_hash(read(section))

    def refuse(*_):
        raise AssertionError("what is kept is not found again")

    monkeypatch.setattr(Npz, "read", refuse)
    monkeypatch.setattr(dataset, "chunks", refuse)
    data = read(section)
    assert_same(data, before[0])
    assert content_hash(data) == before[1]


def test_another_file_at_the_path_is_read_anew(npz):
    section = Npz(path=npz, placement="host")
    first = read(section)
    arrays = dict(np.load(npz))
    arrays["train_images"] = arrays["train_images"][:, ::-1]
    np.savez(npz, **arrays)
    os.utime(npz, ns=(1, 1))  # whatever the clock's steps are
    assert read(section).fingerprint != first.fingerprint


def test_the_content_of_a_file_that_was_written_to_is_looked_at_again(npz, cache):
    section = Npz(path=npz, placement="host")
    before = content_hash(read(section))
    (file,) = cache.glob("*/images.npy")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(1, 1))
    assert content_hash(read(section)) != before


@pytest.mark.parametrize("damage", ["images.npy", "labels.npz", "about.json"])
def test_kept_rows_that_are_damaged_say_which_folder_to_delete(
    npz, cache, refused, damage
):
    section = Npz(path=npz, placement="host")
    read(section)
    (file,) = cache.glob(f"*/{damage}")
    file.write_bytes(file.read_bytes()[:-20])
    message = refused(read, section)
    assert str(file.parent) in message
    assert "delete the folder" in message
    for each in file.parent.iterdir():
        each.unlink()
    file.parent.rmdir()
    read(section)


def test_nothing_stays_of_rows_that_could_not_be_written(npz, cache, monkeypatch):
    section = Npz(path=npz, placement="host")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "_describe", full)
    with pytest.raises(OSError, match="No space"):
        read(section)
    assert list(cache.iterdir()) == []


def test_more_than_the_disk_holds_is_refused(npz, cache, refused, monkeypatch):
    free = type("Usage", (), {"free": 100})
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: free)
    message = refused(read, Npz(path=npz, placement="host"))
    assert "XDG_CACHE_HOME" in message
    assert str(cache) in message


@pytest.mark.usefixtures("any_machine")
def test_pixels_are_no_stream(npz, refused):
    message = refused(read, Npz(path=npz, placement="stream"))
    assert "data.placement: stream decodes pictures" in message
    assert "choose host" in message


@pytest.mark.usefixtures("any_machine")
def test_a_damaged_picture_is_named_before_training(folder, refused):
    broken = folder / "train" / "b" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:60])
    section = Folder(path=folder, image_size=5, placement="stream")
    assert str(broken) in refused(read, section)


@pytest.mark.usefixtures("any_machine")
def test_pictures_of_several_sizes_need_one(folder, refused):
    section = Folder(path=folder, placement="stream")
    assert "--data.image_size=N" in refused(read, section)


@pytest.mark.usefixtures("any_machine")
def test_kept_pictures_of_several_sizes_need_one_too(parquet, as_picture, refused):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    larger = [as_picture(one) for one in images(6, side=9)]
    table = pa.table({"image": larger, "label": pa.array(np.arange(6) % 2)})
    pq.write_table(table, parquet / "test.parquet")
    for _ in range(2):
        message = refused(read, Parquet(path=parquet, placement="stream"))
        assert "--data.image_size=N" in message


def batches_of(data, first_step, part):
    plan = Plan(np.arange(9, dtype=np.int32), passes=2, label="test")
    batches = Batches(plan, 4, 0, 0)
    index = data.images.index
    stream = data.images.place.batches(batches, index, first_step, part)
    got = list(stream)
    stream.close()
    rows = [batches.rows(step, 1) for step in range(first_step, batches.num_steps)]
    return got, [np.where(each >= 0, each, ~each)[part] for each in rows]


@pytest.mark.parametrize(("first_step", "part"), [(0, [0, 1, 2, 3]), (3, [2, 3])])
def test_grain_decodes_the_steps_of_a_plan_from_any_on(parquet, first_step, part):
    pytest.importorskip("grain")
    section = Parquet(path=parquet, image_size=5, placement="stream", **SPLIT)
    data = read(section)
    got, rows = batches_of(data, first_step, np.array(part))
    whole = np.asarray(data.images)
    assert len(got) == 5 - first_step
    for batch, each in zip(got, rows, strict=True):
        np.testing.assert_array_equal(batch, whole[each])


KILLED = """
import multiprocessing, os, sys
import numpy as np
from dpet_jax.data.pictures import Pictures
from dpet_jax.methods.base import Plan
from dpet_jax.training.chunks import Batches

if __name__ == "__main__":
    pictures = Pictures((5, 5), workers=1)
    index = pictures.added([open(sys.argv[1], "rb").read()] * 8, str)
    plan = Plan(np.arange(8, dtype=np.int32), passes=9, label="x")
    decoded = pictures.batches(Batches(plan, 4, 0, 0), index, 0, np.arange(4))
    next(decoded)
    assert multiprocessing.active_children()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_processes_that_decode_end_with_the_one_that_is_killed(folder, tmp_path):
    pytest.importorskip("grain")
    program = tmp_path / "killed.py"
    program.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, program, folder / "train" / "a" / "0.jpg"],
        capture_output=True,  # which ends when no process holds the pipe any more
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -9, done.stderr


def test_without_grain_a_stream_says_what_to_install(
    parquet, cache, refused, monkeypatch
):
    monkeypatch.setitem(sys.modules, "grain", None)
    message = refused(read, Parquet(path=parquet, placement="stream"))
    assert "pip install 'dpet-jax[stream]'" in message
    assert not cache.exists()


@pytest.mark.usefixtures("any_machine")
def test_a_process_that_decodes_is_sent_no_pictures(parquet):
    data = read(Parquet(path=parquet, image_size=5, placement="stream"))
    place = data.images.place
    assert isinstance(place, Pictures)
    blobs = place._parts[0].files
    sent = pickle.dumps(blobs)
    assert len(sent) < 500
    assert pickle.loads(sent)[3] == blobs[3]


def test_facts_are_json(npz, cache):
    read(Npz(path=npz, placement="host"))
    (facts,) = cache.glob("*/facts.json")
    assert all(len(key.split()[-1]) == 64 for key in json.loads(facts.read_text()))
