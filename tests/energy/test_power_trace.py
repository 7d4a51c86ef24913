"""The power over time in few numbers, of which none is lost."""

import itertools

import pytest

from dpet_jax.energy.accounts.logbook import Trace


def joules(trace, channel="gpu"):
    return sum(
        row["w"][channel] * (row["end_s"] - row["start_s"])
        for row in trace.bins()
        if channel in row["w"]
    )


def test_bin_tells_mean_power_between_two_moments():
    trace = Trace()
    trace.add(10.0, 12.0, {"gpu": 600.0, "cpu": 100.0})
    trace.add(12.0, 13.0, {"gpu": 100.0})
    assert trace.bins() == [
        {"start_s": 10, "end_s": 12, "w": {"gpu": 300, "cpu": 50}},
        {"start_s": 12, "end_s": 13, "w": {"gpu": 100}},
    ]


@pytest.mark.parametrize("most", [1, 2, 7, 512])
@pytest.mark.parametrize("adds", [1, 8, 9, 1000, 2049])
def test_trace_stays_small_and_loses_no_joule(most, adds):
    trace = Trace(most)
    for k in range(adds):
        trace.add(float(k), k + 1.0, {"gpu": float(k)})
        assert len(trace.bins()) <= most + 1
        assert len(trace._bins) + len(trace._waiting) <= most + 1
    bins = trace.bins()
    assert joules(trace) == pytest.approx(adds * (adds - 1) / 2)
    assert bins[0]["start_s"] == 0
    assert bins[-1]["end_s"] == adds
    for one, other in itertools.pairwise(bins):
        assert one["end_s"] == other["start_s"]


def test_detail_is_kept_as_far_as_there_is_room():
    trace = Trace(8)
    for k in range(1000):
        trace.add(float(k), k + 1.0, {"gpu": 1.0})
    assert len(trace.bins()) >= 4
    lengths = [row["end_s"] - row["start_s"] for row in trace.bins()]
    assert max(lengths) == 128


def test_bins_are_joined_only_when_there_are_more_than_asked_for():
    for trace, most in ((Trace(8), 8), (Trace(), 512)):
        for k in range(most):
            trace.add(float(k), k + 1.0, {"gpu": 1.0})
        assert len(trace.bins()) == most
        trace.add(most + 0.0, most + 1.0, {"gpu": 1.0})
        assert len(trace.bins()) == most // 2 + 1


def test_channel_that_comes_later_or_leaves_keeps_its_joules():
    trace = Trace(2)
    for k, used in enumerate(({"a": 1.0}, {"b": 2.0}, {"a": 3.0, "b": 4.0}, {})):
        trace.add(float(k), k + 1.0, used)
    assert joules(trace, "a") == 4
    assert joules(trace, "b") == 6


def test_moment_without_length_has_no_power():
    trace = Trace()
    trace.add(1.0, 1.0, {"gpu": 0.0})
    assert trace.bins() == []


def test_low_power_is_the_fifth_percentile():
    trace = Trace()
    for k in reversed(range(101)):
        trace.add(100.0 - k, 101.0 - k, {"gpu": float(k)})
    trace.add(101.0, 102.0, {"cpu": 1.0})
    assert trace.low_w("gpu") == 5
    assert trace.low_w("cpu") == 1
    assert trace.low_w("dram") is None
