import os
import pickle

import numpy as np
import pytest

from dpet_jax.data.unpickle import unpickle_arrays


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_and_lists_of_python_3_come_back(protocol):
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    batch = {"data": data, "labels": [1, 2, 3], "name": b"\xff\x00"}
    loaded = unpickle_arrays(pickle.dumps(batch, protocol), "x")
    np.testing.assert_array_equal(loaded["data"], data)
    assert loaded["data"].dtype == np.uint8
    assert loaded["labels"] == [1, 2, 3]
    assert loaded["name"] == b"\xff\x00"


class Touch:
    """Unpickles by making a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_calls_a_function_is_refused_and_the_function_not_called(
    tmp_path, refused
):
    victim = tmp_path / "made"
    blob = pickle.dumps({"data": Touch(str(victim))})
    message = refused(unpickle_arrays, blob, "a.tar, data_batch_1")
    assert "a.tar, data_batch_1" in message
    assert "mkdir" in message
    assert "download" in message
    assert not victim.exists()
    pickle.loads(blob)  # the trap works: the plain loader falls into it
    assert victim.exists()


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"hello",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.arange(9)}, 2)[:-20],
    ],
)
def test_what_is_no_dictionary_of_arrays_is_refused_by_name(refused, blob):
    message = refused(unpickle_arrays, blob, "a.tar, meta")
    assert "a.tar, meta: not a pickled dictionary of arrays" in message


def test_bytes_in_another_codec_are_refused_by_its_name(refused):
    def text(string):
        return b"X" + len(string).to_bytes(4, "little") + string

    def blob(codec):
        call = b"c_codecs\nencode\n(" + text(b"abc") + text(codec) + b"tR"
        return b"\x80\x02}(" + text(b"key") + call + b"u."

    assert unpickle_arrays(blob(b"latin1"), "x") == {"key": b"abc"}
    assert "codec utf-16" in refused(unpickle_arrays, blob(b"utf-16"), "x")
