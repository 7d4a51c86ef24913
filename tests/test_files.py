"""Files that are whole or absent, and lines that survive a crash."""

from contextlib import closing, suppress

import numpy as np
import pytest

from dpet_jax.errors import DamagedFileError
from dpet_jax.files import (
    JsonLines,
    csv_cell,
    read_json,
    read_lines,
    read_npz,
    read_yaml,
    replacing,
    write_whole,
)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_writing_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def break_off():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        break_off()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("torn", [b"", b'{"b": 2', b"\xff\xfe", b"{"])
def test_a_torn_last_line_is_left_out_and_then_cut(tmp_path, torn):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert read_lines(path) == [{"a": 1}]
    with closing(JsonLines(path)) as file:
        assert file.lines == 1
        file.append({"c": 3})
        # there without any flush
        assert read_lines(path) == [{"a": 1}, {"c": 3}]
        assert file.lines == 2
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'


def test_a_new_file_of_lines_begins_empty(tmp_path):
    with closing(JsonLines(tmp_path / "new.jsonl")):
        assert read_lines(tmp_path / "new.jsonl") == []


READERS = {
    read_json: (b'{"a": 1}', b'{"a": ', b"[1]", b"\xff", b"", b"[" * 100_000),
    read_yaml: (b"a: 1", b"a: [", b"- 1", b"\xff", b"", b"a: !!python/object:os.x {}"),
}


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_our_own_is_whole_or_named(tmp_path, read):
    path = tmp_path / "file"
    whole, *damaged = READERS[read]
    path.write_bytes(whole)
    assert read(path) == {"a": 1}
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=f"^{path}: damaged: ."):
            read(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read(path)


def test_arrays_are_whole_or_their_file_is_named(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"rows": np.arange(50), "names": np.array(["a", "b"])}
    np.savez_compressed(path, **arrays)
    whole = path.read_bytes()
    read = read_npz(path)
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    # every byte cut off, and every byte changed: what is read is right, or named
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=f"^{path}: damaged: ."):
            read_npz(path)
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        )
        with suppress(DamagedFileError):
            read = read_npz(path)
            assert all(np.array_equal(read[k], arrays[k]) for k in read.keys() & arrays)
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(DamagedFileError, match=r"a\.npy: damaged"):
        read_npz(tmp_path / "a.npy")


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_text_is_no_formula_in_a_table(first):
    assert csv_cell(f"{first}1+1") == f"'{first}1+1"


@pytest.mark.parametrize("value", [-0.5, -3, None, True, "", "a=1", "'-1", " =1"])
def test_numbers_and_other_text_stay_in_a_table(value):
    assert csv_cell(value) is value
