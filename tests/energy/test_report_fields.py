"""A report is read as it is: what it lacks is empty, and nothing stands for it."""

import math

import pytest

from dpet_jax.energy.report.fields import ends, joined, known, number, part, parts, text


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf, "1", True, [1]])
def test_what_is_no_finite_number_is_none(bad):
    assert number(bad) is None


@pytest.mark.parametrize("good", [0, 0.0, -1.5, 10**12])
def test_number_stays_as_it_is(good):
    assert number(good) == good
    assert type(number(good)) is type(good)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), ("", None), (None, None), (True, "true"), (False, "false"), (3, "3")],
)
def test_truth_is_written_as_json_has_it_and_nothing_as_none(value, expected):
    assert text(value) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [(["a", None, "b"], "a; b"), ([], None), (None, None), ([None], None)],
)
def test_texts_are_joined_and_none_of_them_is_none(values, expected):
    assert joined(values) == expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([1.0, 2.0], (1.0, 2.0)),
        ((1.0, math.nan), (1.0, None)),
        (None, (None, None)),
        ([1.0], (None, None)),
        ("ab", (None, None)),
    ],
)
def test_interval_without_two_ends_has_none(interval, expected):
    assert ends(interval) == expected


def test_missing_and_null_parts_are_empty():
    assert part({}, "a") == part({"a": None}, "a") == {}
    assert parts({}, "a") == parts({"a": None}, "a") == []
    assert part({"a": {"b": 1}}, "a") == {"b": 1}


def test_only_what_is_none_is_left_out():
    assert known(a=None, b=0, c="") == {"b": 0, "c": ""}
