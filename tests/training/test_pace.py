"""The length of chunks and what a step will use, learned on a pretended clock."""

from types import SimpleNamespace

import pytest

from dpet_jax.training import pace
from dpet_jax.training.pace import Pace


@pytest.fixture
def time(monkeypatch):
    time = SimpleNamespace(now=10.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(pace, "time", time)
    return time


def train(learned, time, steps, step_s, wh=None):
    dispatched = time.now
    time.now += steps * step_s
    learned.waited(steps, dispatched, wh)


def test_chunks_come_to_last_a_second_growing_fourfold_at_most(time):
    learned, sizes = Pace(), []
    for _ in range(5):
        sizes.append(learned.steps)
        train(learned, time, learned.steps, 0.01)
    assert sizes == [4, 16, 64, 100, 100]
    train(learned, time, learned.steps, 10.0)
    assert learned.steps == 1


def test_a_chunk_that_queued_behind_another_is_timed_from_the_others_end(time):
    learned = Pace()
    learned.waited(4, time.now - 0.04, None)
    queued = time.now - 0.03
    time.now += 0.04
    learned.waited(4, queued, None)
    assert learned.steps == 64  # as 0.01 s a step allows, and not 0.0175
    time.now += 0.64
    learned.waited(64, queued, None)
    assert learned.steps == 100


def test_a_step_uses_what_chunks_used_on_average(time):
    learned = Pace()
    learned.begin(5.0)
    assert learned.step_wh is None
    train(learned, time, 10, 0.1, wh=5.2)
    assert learned.step_wh == pytest.approx(0.02)
    for total in range(20):
        train(learned, time, 10, 0.1, wh=5.2 + 0.5 * (total + 1))
    assert learned.step_wh == pytest.approx(0.05, rel=0.01)


def test_what_something_else_used_in_between_is_not_the_steps(time):
    learned = Pace()
    learned.begin(0.0)
    train(learned, time, 10, 0.1, wh=0.2)
    learned.begin(7.0)
    train(learned, time, 10, 0.1, wh=7.2)
    assert learned.step_wh == pytest.approx(0.02)


def test_without_a_source_nothing_is_foreseen(time):
    learned = Pace()
    learned.begin(None)
    train(learned, time, 10, 0.1, wh=None)
    assert learned.step_wh is None


def test_a_counter_that_stood_still_foresees_nothing_negative(time):
    learned = Pace()
    learned.begin(3.0)
    train(learned, time, 10, 0.1, wh=2.9)
    assert learned.step_wh == 0.0
