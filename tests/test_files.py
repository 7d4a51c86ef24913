"""Files that are whole or absent, and lines that survive a crash."""

from contextlib import closing

import pytest

from dpet_jax.files import JsonLines, csv_cell, read_lines, replacing, write_whole


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


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_text_is_no_formula_in_a_table(first):
    assert csv_cell(f"{first}1+1") == f"'{first}1+1"


@pytest.mark.parametrize("value", [-0.5, -3, None, True, "", "a=1", "'-1", " =1"])
def test_numbers_and_other_text_stay_in_a_table(value):
    assert csv_cell(value) is value
