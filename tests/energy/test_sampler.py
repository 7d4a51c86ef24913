"""Ticks stay on their grid, and the thread that follows them ends when it should."""

import gc
import threading
import time

import pytest

from dpet_jax.energy import Source
from dpet_jax.energy.sensing.sampler import Clock, Sampler, Ticks, reading_period_s

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


# the thread, in real time, of which no number is expected

LONG_S = 60  # for what takes no time unless it hangs


class Counting:
    def __init__(self, ticks=3):
        self.left, self.enough = ticks, threading.Event()

    def tick(self):
        self.left -= 1
        if self.left <= 0:
            self.enough.set()


def begun(counting, period_s=0.02):
    return Sampler(counting.tick, Ticks(period_s, time.monotonic()), time.monotonic)


def the_thread():
    (thread,) = [t for t in threading.enumerate() if t.name == "dpet-energy-sampler"]
    return thread


def test_thread_ticks_until_stopped():
    counting = Counting()
    sampler = begun(counting)
    assert sampler.running
    assert counting.enough.wait(LONG_S)
    sampler.stop()
    assert not sampler.running
    left = counting.left
    sampler.stop()
    assert counting.left == left <= 0


def test_clock_calls_at_every_tick_until_ended():
    clock, counting = Clock(), Counting()
    end = clock.every(Ticks(0.02, clock()), counting.tick)
    assert counting.enough.wait(LONG_S)
    end()
    assert "dpet-energy-sampler" not in {t.name for t in threading.enumerate()}


def test_stop_does_not_wait_for_the_next_tick_nor_the_process_for_the_thread():
    sampler = begun(Counting(), period_s=600.0)
    assert the_thread().daemon
    sampler.stop()
    assert not sampler.running


def test_stop_waits_for_the_tick_that_is_under_way():
    class Slow:
        def __init__(self):
            self.began, self.go_on = threading.Event(), threading.Event()
            self.ended = False

        def tick(self):
            self.began.set()
            assert self.go_on.wait(LONG_S)
            self.ended = True

    slow = Slow()
    # the first tick is due at once, and stop would wait two minutes
    sampler = Sampler(slow.tick, Ticks(60.0, time.monotonic() - 60.0), time.monotonic)
    assert slow.began.wait(LONG_S)
    threading.Timer(0.05, slow.go_on.set).start()
    sampler.stop()
    assert slow.ended
    assert not sampler.running


def test_stop_gives_up_on_a_hanging_sensor_after_two_periods_and_a_second(monkeypatch):
    sampler, waited_s = begun(Counting(), period_s=600.0), []
    thread = the_thread()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", lambda _, s=None: waited_s.append(s))
        sampler.stop()
    assert waited_s == [1201]
    thread.join(LONG_S)
    assert not sampler.running


def test_thread_ends_when_its_meter_is_collected():
    counting = Counting()
    sampler, enough = begun(counting), counting.enough
    assert enough.wait(LONG_S)
    thread = the_thread()
    del counting
    gc.collect()
    thread.join(LONG_S)
    assert not sampler.running


def test_thread_ends_when_the_sampler_is_collected():
    counting = Counting()
    sampler = begun(counting, period_s=600.0)
    thread = the_thread()
    del sampler
    gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()
