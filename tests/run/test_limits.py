"""When a run ends, and how far it may go before anyone looks."""

import sys
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpet_jax.run.counters import Counters
from dpet_jax.run.limits import Limits

STEP_FLOPS, BATCH = 30, 10
FULL = 100  # FLOPs of a full pass


def counters(**done):
    return Counters(FULL, **done)


def test_all_targets_are_ascending_unique_and_hold_the_one_that_ends():
    assert Limits(targets=(0.9, 0.5)).all_targets == (0.5, 0.9)
    assert Limits(targets=(0.9, 0.5), stop_target=0.7).all_targets == (0.5, 0.7, 0.9)
    assert Limits(targets=(0.5, 0.7), stop_target=0.7).all_targets == (0.5, 0.7)
    assert Limits(stop_target=0.7).all_targets == (0.7,)
    assert Limits().all_targets == ()


@pytest.mark.parametrize(
    ("every", "flops", "grid_point", "steps"),
    [
        (1.0, 0, 1, 4),  # 100 / 30
        (1.0, 90, 1, 1),
        (1.0, 120, 2, 3),  # 80 / 30
        (0.3, 0, 1, 1),  # exactly one step
        (0.6, 0, 1, 2),  # exactly two
        (2.0, 10, 1, 7),  # 190 / 30
        (0.1, 0, 1, 1),  # less than a step
        (1.0, 500, 2, 1),  # overdue, as after much scoring
    ],
)
def test_steps_to_evaluation_reach_the_grid_and_no_further(
    every, flops, grid_point, steps
):
    done = counters(flops=flops, grid_point=grid_point)
    assert Limits(every=every).steps_to_evaluation(done, STEP_FLOPS) == steps


@pytest.mark.parametrize(
    ("limits", "done", "steps"),
    [
        (Limits(epochs=2.0), {}, 7),  # 200 / 30
        (Limits(epochs=2.0), {"flops": 150}, 2),  # 50 / 30
        (Limits(epochs=2.0), {"flops": 190}, 1),
        (Limits(epochs=0.1), {}, 1),
        (Limits(visits=45), {}, 5),
        (Limits(visits=45), {"visits": 40}, 1),
        (Limits(visits=40), {}, 4),
        (Limits(visits=45, epochs=1.0), {}, 4),
        (Limits(visits=15, epochs=1.0), {}, 2),
        (Limits(visits=5), {"visits": 9}, 1),
        (Limits(), {"flops": 10**9, "visits": 10**9}, sys.maxsize),
        (Limits(seconds=1.0), {}, sys.maxsize),
    ],
)
def test_steps_to_budget_pass_it_by_less_than_a_batch(limits, done, steps):
    found = limits.steps_to_budget(counters(**done), STEP_FLOPS, BATCH)
    assert found == steps


@pytest.mark.parametrize(
    ("limits", "done", "seconds", "reason"),
    [
        (Limits(), {"flops": 10**9, "visits": 10**9}, 1e9, None),
        (Limits(epochs=2.0), {"flops": 199}, 0, None),
        (Limits(epochs=2.0), {"flops": 200}, 0, "budget.epochs"),
        (Limits(visits=40), {"visits": 39}, 0, None),
        (Limits(visits=40), {"visits": 40}, 0, "budget.visits"),
        (Limits(seconds=5.0), {}, 4.999, None),
        (Limits(seconds=5.0), {}, 5.0, "budget.seconds"),
        (Limits(epochs=9.0, seconds=5.0), {"flops": 100}, 6.0, "budget.seconds"),
        (Limits(epochs=9.0, visits=40), {"visits": 41}, 0, "budget.visits"),
    ],
)
def test_budget_is_exhausted_exactly_when_it_is_used_up(limits, done, seconds, reason):
    assert limits.exhausted(counters(**done), float(seconds)) == reason


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    full_steps=st.integers(1, 10**5),
    step_flops=st.integers(1, 10**9),
    hundredths=st.integers(1, 10**4),
)
@example(full_steps=105, step_flops=100, hundredths=6535)  # 686174.9999999999
@example(full_steps=8754195, step_flops=100, hundredths=3859)  # 33782438505.000004
def test_steps_to_a_budget_of_epochs_use_it_up_and_pass_it_by_less_than_a_step(
    full_steps, step_flops, hundredths
):
    limits = Limits(epochs=hundredths / 100)
    done = Counters(full_steps * step_flops)
    done.flops = step_flops * limits.steps_to_budget(done, step_flops, batch_size=1)
    assert limits.exhausted(done, 0.0) == "budget.epochs"
    over = Fraction(done.flops, done.full_pass_flops) - Fraction(hundredths, 100)
    assert -1e-9 < over < Fraction(1, full_steps) + Fraction(1, 10**9)


@pytest.mark.parametrize(
    ("limits", "done"),
    [
        (Limits(epochs=1.0, visits=40, seconds=5.0), {"flops": 100, "visits": 40}),
        (Limits(epochs=1.0, seconds=5.0), {"flops": 100}),
    ],
)
def test_budget_of_epochs_is_named_before_the_others(limits, done):
    assert limits.exhausted(counters(**done), 9.0) == "budget.epochs"


@pytest.mark.parametrize(
    ("limit", "spent", "step", "pending", "steps"),
    [
        (None, 5.0, 0.1, 0, sys.maxsize),
        (2.0, None, 0.1, 0, sys.maxsize),
        (2.0, 1.0, None, 0, sys.maxsize),
        (2.0, 2.0, None, 0, 0),
        (2.0, 1.0, 0.25, 0, 4),
        (2.0, 1.0, 0.25, 3, 1),
        (2.0, 1.0, 0.25, 9, 0),
        (2.0, 1.0, 0.3, 0, 3),
        (2.0, 2.5, 0.25, 0, 0),
    ],
)
def test_wh_allow_as_many_steps_as_are_not_spent_or_pending(
    limit, spent, step, pending, steps
):
    assert Limits(wh=limit).steps_to_wh(spent, step, pending) == steps


def test_a_budget_of_wh_is_used_up_when_no_step_fits():
    counters = Counters(full_pass_flops=100)
    assert Limits(wh=2.0).exhausted(counters, 0.0, 0) == "budget.wh"
    assert Limits(wh=2.0).exhausted(counters, 0.0, 1) is None


@pytest.mark.parametrize(
    ("visits", "steps", "reason"),
    [(0, 3, None), (10, 2, None), (24, 1, None), (25, 1, "paused"), (99, 1, "paused")],
)
def test_a_run_pauses_at_the_first_step_that_reaches_the_place(visits, steps, reason):
    limits, done = Limits(pause=25), counters(visits=visits)
    assert limits.steps_to_pause(done, BATCH) == steps
    assert limits.exhausted(done, 0.0) == reason
    assert Limits().steps_to_pause(done, BATCH) == sys.maxsize


def test_a_budget_that_is_used_up_ends_a_run_before_it_pauses():
    limits = Limits(pause=25, visits=25)
    assert limits.exhausted(counters(visits=25), 0.0) == "budget.visits"
