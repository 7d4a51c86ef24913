"""The time of day, and how long the machine slept."""

import re
import time

import pytest

from dpet_jax.energy.accounts.state import suspended_s, utc_now


def test_time_of_day_is_utc_to_the_second(monkeypatch):
    real = time.gmtime
    monkeypatch.setattr(time, "gmtime", lambda: real(1_772_359_201.9))
    monkeypatch.setattr(time, "localtime", None)
    assert utc_now() == "2026-03-01T10:00:01Z"


def test_time_of_day_is_now():
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert utc_now() >= before
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", utc_now())


def test_sleep_is_what_the_monotonic_clock_leaves_out(monkeypatch):
    clocks = {"boot": 500.0, "monotonic": 380.0}
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", "boot", raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", "monotonic")
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    assert suspended_s() == 120.0


def test_machine_that_does_not_tell_has_not_slept(monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "clock_gettime", None)
    assert suspended_s() == 0.0


def test_this_machine_does_not_sleep_between_two_questions():
    assert suspended_s() == pytest.approx(suspended_s(), abs=0.1)
