"""Every second of a run belongs to one phase, the innermost open window's."""

import pytest

from dpet_jax.energy import PHASES, PhaseClock


class Time:
    """A clock that stands still until told otherwise."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def time():
    return Time()


def spent(clock):
    return {phase: s for phase, s in clock.seconds().items() if s}


def test_seconds_outside_every_window_are_other(time):
    clock = PhaseClock(now=time)
    time.pass_by(2)
    assert spent(clock) == {"other": 2}
    with clock.window("train"):
        time.pass_by(3)
    time.pass_by(4)
    assert spent(clock) == {"train": 3, "other": 6}


def test_every_phase_is_told_even_when_nothing_was_spent(time):
    assert PhaseClock(now=time).seconds() == dict.fromkeys(PHASES, 0.0)


def test_inner_window_pauses_the_outer_one(time):
    clock = PhaseClock(now=time)
    with clock.window("train"):
        time.pass_by(1)
        with clock.window("eval"):
            time.pass_by(10)
            with clock.window("compile"):
                time.pass_by(100)
            time.pass_by(20)
        time.pass_by(2)
    assert spent(clock) == {"train": 3, "eval": 30, "compile": 100}


def test_window_inside_one_of_the_same_phase_counts_once(time):
    clock = PhaseClock(now=time)
    with clock.window("train"), clock.window("train"):
        time.pass_by(5)
    assert spent(clock) == {"train": 5}


def test_phases_add_up_to_the_total_at_every_moment(time):
    clock = PhaseClock(now=time)
    for seconds, phase in enumerate(PHASES, start=1):
        time.pass_by(0.5)
        with clock.window(phase):
            time.pass_by(seconds)
            assert clock.total_s == pytest.approx(time.now - 100)
            assert sum(clock.seconds().values()) == pytest.approx(time.now - 100)
    assert clock.total_s == pytest.approx(0.5 * len(PHASES) + sum(range(1, 8)))


def test_reading_inside_an_open_window_counts_it_up_to_now(time):
    clock = PhaseClock(now=time)
    with clock.window("select"):
        time.pass_by(3)
        assert spent(clock) == {"select": 3}
        time.pass_by(4)
    assert spent(clock) == {"select": 7}


def test_device_is_waited_for_before_a_window_closes(time):
    clock = PhaseClock(barrier=lambda: time.pass_by(7), now=time)
    with clock.window("train"):
        time.pass_by(1)
    assert spent(clock) == {"train": 8}


def test_barrier_given_later_is_the_one_waited_for(time):
    clock = PhaseClock(now=time)
    with clock.window("data"):
        clock.barrier = lambda: time.pass_by(2)
    assert spent(clock) == {"data": 2}


def test_window_in_which_something_fails_still_closes(time):
    clock = PhaseClock(now=time)

    def fail():
        with clock.window("eval"), clock.window("data"):
            time.pass_by(3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    time.pass_by(4)
    assert spent(clock) == {"data": 3, "other": 4}


def test_window_whose_device_fails_still_closes(time):
    def fail():
        raise RuntimeError

    clock = PhaseClock(barrier=fail, now=time)
    with pytest.raises(RuntimeError), clock.window("eval"):
        time.pass_by(3)
    time.pass_by(4)
    assert spent(clock) == {"eval": 3, "other": 4}


def test_unknown_phase_is_refused_and_opens_nothing(time):
    clock = PhaseClock(now=time)
    with pytest.raises(ValueError, match="no phase called 'lunch'"):
        clock.window("lunch").__enter__()
    time.pass_by(1)
    assert spent(clock) == {"other": 1}


def test_seconds_of_earlier_segments_are_added(time):
    clock = PhaseClock(now=time)
    with clock.window("train"):
        time.pass_by(1)
    clock.resume({"train": 10.0, "eval": 5.0})
    assert spent(clock) == {"train": 11, "eval": 5}
    assert clock.total_s == 16


def test_returned_seconds_are_a_copy(time):
    clock = PhaseClock(now=time)
    clock.seconds()["train"] = 99.0
    assert clock.total_s == 0


def test_clock_of_its_own_goes_forward():
    clock = PhaseClock()
    first = clock.total_s
    assert clock.total_s > first >= 0
