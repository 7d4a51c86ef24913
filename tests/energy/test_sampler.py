"""Ticks stay on their grid, and the thread that follows them ends when it should."""

import gc
import threading
import time

import pytest

from dpet_jax.energy import Source
from dpet_jax.energy.sensing.sampler import Sampler, Ticks, reading_period_s

COUNTER = Source("counter", "counter")
POWER = Source("power", "power")


# how often


@pytest.mark.parametrize(
    ("sources", "period_s"),
    [
        ([COUNTER, COUNTER], 0.1),
        ([COUNTER, POWER], 0.05),
        ([POWER], 0.05),
        ([], 1.0),
    ],
)
def test_period_suits_the_sources(sources, period_s):
    assert reading_period_s(None, sources) == period_s


@pytest.mark.parametrize("asked", [0.02, 0.3, 5.0])
def test_period_asked_for_is_used(asked):
    assert reading_period_s(asked, [POWER]) == asked


@pytest.mark.parametrize("asked", [0.0, 0.0199, 5.001, -1.0, float("nan")])
def test_period_out_of_range_is_refused(asked):
    with pytest.raises(ValueError, match=r"choose between 0\.02 and 5\.0 s"):
        reading_period_s(asked, [POWER])


# the grid


def test_ticks_stay_on_the_grid_however_long_each_takes():
    ticks, now, began = Ticks(0.5, 100.0), 100.0, []
    for took_s in (0.125, 0.25, 0.0, 0.4375, 0.125):
        now += ticks.wait_s(now)
        began.append(now)
        now += took_s
    assert began == [100.5, 101, 101.5, 102, 102.5]
    assert ticks.missed == 0


def test_tick_that_is_late_by_less_than_a_period_comes_at_once():
    ticks = Ticks(0.5, 100.0)
    assert ticks.wait_s(100.75) == 0
    assert ticks.missed == 0
    # and the one after it is on the grid again
    assert ticks.wait_s(100.875) == 0.125


def test_ticks_after_a_delay_are_counted_and_not_made_up_for():
    ticks = Ticks(0.5, 100.0)
    assert ticks.wait_s(100.0) == 0.5
    assert ticks.wait_s(102.625) == 0  # those of 101, 101.5 and 102 were missed
    assert ticks.missed == 3
    assert ticks.wait_s(102.75) == 0.25
    assert ticks.wait_s(103.0) == 0.5
    assert ticks.missed == 3


def test_ticks_are_neither_lost_nor_made_in_a_long_run():
    ticks, now, count = Ticks(0.1, 0.0), 0.0, 0
    while now < 99.95:
        now += ticks.wait_s(now)
        count += 1
        now += 0.35 if count % 50 == 0 else 0.01
    assert abs(count + ticks.missed - 1000) <= 3
    assert ticks.missed >= 2 * (count // 50) - 3


# the thread


class Counting:
    def __init__(self, ticks=3):
        self.left, self.enough = ticks, threading.Event()

    def tick(self):
        self.left -= 1
        if self.left <= 0:
            self.enough.set()


def begun(counting, period_s=0.02):
    return Sampler(counting.tick, Ticks(period_s, time.monotonic()), time.monotonic)


def test_thread_ticks_until_stopped():
    counting = Counting()
    sampler = begun(counting)
    assert sampler.running
    assert counting.enough.wait(20)
    sampler.stop()
    assert not sampler.running
    left = counting.left
    sampler.stop()
    assert counting.left == left <= 0


def test_stop_does_not_wait_for_the_next_tick():
    sampler = begun(Counting(), period_s=600.0)
    began = time.monotonic()
    sampler.stop()
    assert not sampler.running
    assert time.monotonic() - began < 60


def test_stop_waits_for_the_tick_that_is_under_way():
    class Slow:
        def __init__(self):
            self.began, self.go_on, self.ended = threading.Event(), None, False

        def tick(self):
            self.began.set()
            assert self.go_on.wait(20)
            self.ended = True

    slow = Slow()
    slow.go_on = threading.Event()
    sampler = begun(slow)
    assert slow.began.wait(20)
    threading.Timer(0.05, slow.go_on.set).start()
    sampler.stop()
    assert slow.ended
    assert not sampler.running


def test_stop_gives_up_on_a_hanging_sensor_after_two_periods_and_a_second():
    sampler, waited_s = begun(Counting(), period_s=600.0), []
    join, sampler._thread.join = sampler._thread.join, waited_s.append
    sampler.stop()
    assert waited_s == [1201]
    join(20)
    assert not sampler.running


def test_thread_does_not_keep_the_process_alive():
    sampler = begun(Counting(), period_s=600.0)
    assert sampler._thread.daemon
    sampler.stop()


def test_thread_ends_when_its_meter_is_collected():
    counting = Counting()
    sampler, enough = begun(counting), counting.enough
    assert enough.wait(20)
    del counting
    gc.collect()
    sampler._thread.join(20)
    assert not sampler.running


def test_thread_ends_when_the_sampler_is_collected():
    counting = Counting()
    sampler = begun(counting, period_s=600.0)
    thread = sampler._thread
    del sampler
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()
