"""MNIST's idx files, packed or not, and what is said of wrong ones."""

import gzip
import struct

import numpy as np
import pytest

from dpet_jax.data.new_images import read_new_images
from dpet_jax.data.sources import Idx
from dpet_jax.data.sources.idx import holds_idx
from dpet_jax.errors import UserError

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}


def idx(array):
    """The bytes of an idx file, written out by hand."""
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        ("train", "images"): rng.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        ("train", "labels"): np.array([0, 1, 2, 0, 1, 2], np.uint8),
        ("test", "images"): rng.integers(0, 256, (3, 4, 5), dtype=np.uint8),
        ("test", "labels"): np.array([2, 1, 0], np.uint8),
    }


def write(folder, arrays, end="", dot="-"):
    for key, array in arrays.items():
        content = idx(array)
        name = NAMES[key].replace("-idx", f"{dot}idx") + end
        packed = gzip.compress(content) if end else content
        (folder / name).write_bytes(packed)
    return folder


def refused(folder, **keys):
    with pytest.raises(UserError) as caught:
        Idx(path=folder, **keys).read()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("end", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_images_and_labels_come_back_packed_or_not(tmp_path, arrays, end, dot):
    folder = tmp_path / "things"
    folder.mkdir()
    assert not holds_idx(folder)
    source = Idx(path=write(folder, arrays, end, dot)).read()
    assert holds_idx(folder)
    assert (source.name, source.class_names) == ("things", ("0", "1", "2"))
    for split, found in (("train", source.train), ("test", source.test)):
        images = arrays[split, "images"][..., None]
        np.testing.assert_array_equal(found.images, images)
        assert found.labels.tolist() == arrays[split, "labels"].tolist()


def test_classes_get_names_that_are_as_many_as_they(tmp_path, arrays):
    write(tmp_path, arrays)
    names = ("shirt", "shoe", "coat")
    assert Idx(path=tmp_path, class_names=names).read().class_names == names
    message = refused(tmp_path, class_names=names[:2])
    assert "data.class_names: 2 names" in message
    assert "give 3 names" in message


def test_missing_files_are_named(tmp_path, arrays):
    write(tmp_path, arrays)
    (tmp_path / NAMES["test", "images"]).unlink()
    (tmp_path / NAMES["test", "labels"]).unlink()
    message = refused(tmp_path)
    assert "lacks t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte" in message
    assert "download" in message


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda b: b[:-1], "119 bytes after a header that says 6 x 4 x 5 = 120"),
        (lambda b: b + b"\0", "more bytes after a header"),
        (lambda _: b"", "begins with nothing, but images in bytes begin with 00000803"),
        (lambda b: b[:9], "begins with 00000803"),
        (lambda b: b"\0\0\x0d\3" + b[4:], "begins with 00000d03"),
        (lambda _: idx(np.zeros(6, np.uint8)), "it holds labels: give each file"),
        (gzip.compress, "it is packed: end its name with .gz"),
        (lambda b: b[:4] + b"\xff" * 12, "more than this machine's memory"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, arrays, wrong, told):
    write(tmp_path, arrays)
    file = tmp_path / NAMES["train", "images"]
    file.write_bytes(wrong(file.read_bytes()))
    message = refused(tmp_path)
    assert message.startswith(f"{file}: ")
    assert told in message


@pytest.mark.parametrize(
    "wrong", [lambda b: b[:-9], lambda _: b"no gzip", bytes.swapcase]
)
def test_a_packed_file_that_is_damaged_is_refused(tmp_path, arrays, wrong):
    write(tmp_path, arrays, ".gz")
    file = tmp_path / (NAMES["train", "images"] + ".gz")
    file.write_bytes(wrong(file.read_bytes()))
    assert refused(tmp_path).startswith(f"{file}: ")


def test_labels_of_another_set_are_refused(tmp_path, arrays):
    arrays["train", "labels"] = arrays["train", "labels"][:5]
    write(tmp_path, arrays)
    assert "5 labels, but" in refused(tmp_path)


def test_the_test_split_is_what_a_model_predicts_of(tmp_path, arrays):
    write(tmp_path, arrays)
    new = read_new_images(tmp_path, (4, 5, 1), ("a", "b", "c"))
    np.testing.assert_array_equal(new.images[..., 0], arrays["test", "images"])
    assert (new.names, new.labels.tolist()) == (["0", "1", "2"], [2, 1, 0])
