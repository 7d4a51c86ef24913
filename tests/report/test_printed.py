"""Text for terminals: lines and tables that fit, wrapped at words."""

import pytest

from dpet_jax.report.formats import to_text
from dpet_jax.report.printed import fitted
from dpet_jax.report.sheets import Entry, Sheet


def test_a_line_that_fits_stays_as_it_is():
    assert (
        fitted("to 0.8            2.02 epochs", 80) == "to 0.8            2.02 epochs"
    )


def test_a_long_line_goes_on_below_where_its_text_began():
    line = "energy            not measurable here (gpu: no driver; cpu: no sensor)"
    assert fitted(line, 45).split("\n") == [
        "energy            not measurable here (gpu:",
        "                  no driver; cpu: no sensor)",
    ]


def test_lines_without_a_name_are_indented_below():
    told = fitted("runs come from several devices and cannot be compared", 30)
    assert told.split("\n") == [
        "runs come from several",
        "  devices and cannot be",
        "  compared",
    ]


def test_each_of_several_lines_is_wrapped_alone():
    assert fitted("a b c\nd", 80) == "a b c\nd"
    assert fitted("aaaa bbbb cccc\ndddd eeee", 11) == "aaaa bbbb\n  cccc\ndddd eeee"


@pytest.mark.parametrize(
    "line",
    [
        "interrupted; go on with: dpet run some/where/config.yaml --seed=3 --resume",
        "use         dpet predict fits/photos --data=NEW_PICTURES/of/today",
        "run folder  /a/path/that/is/longer/than/the/terminal/is/wide/enough/for",
    ],
)
def test_what_people_copy_stays_on_one_line(line):
    told = fitted(line, 40)
    assert line.rpartition("  ")[2].strip() in told


def test_words_are_never_cut():
    line = "warning           " + " ".join(["incomprehensibilities"] * 5)
    assert fitted(line, 40).count("incomprehensibilities") == 5


def wide(columns=12, rows=("standard", "DPET in one schedule, half the width, tuned")):
    header = ("method", *(f"{60 + k} %" for k in range(columns)))
    body = tuple(
        (Entry(name), *(Entry(f"{k + 10:,}.5") for k in range(columns)))
        for name in rows
    )
    return Sheet("cost", "Cost to reach an accuracy, in epochs", header, body)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_table_is_wider_than_the_terminal_and_none_loses_a_number(width):
    text = to_text(wide(), width)
    assert max(map(len, text.splitlines())) <= width
    for k in range(12):
        assert text.count(f"{60 + k} %") == 1
        assert text.count(f"{k + 10}.5") == 2


def test_a_table_that_fits_has_a_line_for_each_row():
    assert to_text(wide(2, ("standard", "DPET"))).splitlines() == [
        "Cost to reach an accuracy, in epochs",
        "  method    60 %  61 %",
        "  standard  10.5  11.5",
        "  DPET      10.5  11.5",
    ]


def test_names_are_wrapped_at_words_before_numbers_move_below():
    lines = to_text(wide(6, ("DPET in one schedule",)), 54).splitlines()
    assert [line.split()[0] for line in lines] == ["Cost", "method", "DPET", "schedule"]
    assert lines[-1].split()[1:] == ["10.5", "11.5", "12.5", "13.5", "14.5", "15.5"]
