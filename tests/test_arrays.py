"""Arrays of files that a user names."""

import os
import zipfile

import numpy as np
import pytest

from dpet_jax.arrays import memory, read_arrays
from dpet_jax.errors import UserError


def test_memory_is_that_of_the_machine():
    assert 2**28 < memory() < 2**46


def test_wanted_arrays_are_read_and_all_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.ones(2))
    arrays, names = read_arrays(tmp_path / "a.npz", ("y", "z"))
    assert names == ["x", "y"]
    assert arrays.keys() == {"y"}
    assert arrays["y"].tolist() == [1, 1]


def header(shape):
    """The beginning of an .npy file that claims a shape."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive(path, content, claimed=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content)
        if claimed is not None:
            file.infolist()[0].file_size = claimed


@pytest.mark.parametrize(
    ("shape", "claimed", "words"),
    [
        ("(1000000000000000,)", None, "memory"),
        ("(10,)", None, "cannot be read"),
        ("(4,)", 2**50, "unpacks to 1,125,899.9 GB"),
        ("(-4,)", None, "cannot be read"),
        ("(4,) + [" + "[" * 50, None, "cannot be read"),
    ],
)
def test_claims_are_checked_before_they_are_followed(tmp_path, shape, claimed, words):
    archive(tmp_path / "a.npz", header(shape) + b"abcd", claimed)
    with pytest.raises(UserError, match=words) as caught:
        read_arrays(tmp_path / "a.npz", ("x",))
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    names = ("pipe.npz", "folder.npz", "loop.npz", "no.npz", "x" * 300, "a\0b")
    for name in names:
        with pytest.raises(UserError, match="no such file, or no regular one"):
            read_arrays(tmp_path / name, ("x",))
