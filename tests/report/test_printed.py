import pytest

from dpet_jax.report.printed import (
    NONE,
    percent,
    points,
    signed,
    significant,
    span,
    target_name,
    times,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (0.0, "0"),
        (12.345, "12.3"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (1234567.0, "1,230,000"),
        (0.012345, "0.0123"),
        (0.00001234, "1.23e-05"),
        (-3.14159, "-3.14"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert significant(value) == text


def test_signs_are_always_there_and_are_no_hyphens():
    assert signed(2.0) == "+2.00"
    assert signed(-2.0) == "\N{MINUS SIGN}2.00"
    assert signed(0.0) == "0"
    assert points(0.0123) == "+1.2"
    assert points(-0.0123) == "\N{MINUS SIGN}1.2"
    assert points(-0.0001) == "0.0"
    assert signed(None) == points(None) == NONE


def test_percent_has_one_decimal():
    assert percent(0.96666) == "96.7 %"
    assert percent(None) == NONE
    assert target_name(0.9) == "90 %"
    assert target_name(0.925) == "92.5 %"


def test_range_without_extent_says_so():
    assert span(1.0, 2.0) == "1.00 to 2.00"
    assert span(2.0, 2.0) == "no spread"
    assert span(None, 2.0) == NONE


def test_ratio_is_so_many_times():
    assert times(2.345) == "2.35\N{MULTIPLICATION SIGN}"
    assert times(None) == NONE
