"""Every example once a pass, fill rows marked, and no trace of how steps are cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.methods.base import Plan
from dpet_jax.training.batches import Batches

fast = settings(deadline=None, derandomize=True, max_examples=60)
sizes = st.integers(1, 23)
batch_sizes = st.integers(1, 9)
passes = st.integers(1, 4)


def plan_of(size, num_passes):
    """Positions 100, 103, ...: none equals its own place in the plan."""
    return Plan(100 + 3 * np.arange(size, dtype=np.int32), "x", num_passes)


def by_pass(batches):
    rows = batches.rows(0, batches.num_steps)
    return rows.reshape(batches.plan.passes, -1)


@fast
@given(size=sizes, batch_size=batch_sizes, num_passes=passes, seed=st.integers(0, 9))
def test_pass_visits_each_example_once_and_fills_up_from_its_own_beginning(
    size, batch_size, num_passes, seed
):
    plan = plan_of(size, num_passes)
    batches = Batches(plan, batch_size, seed, plan_index=2)
    rows = by_pass(batches)
    assert rows.dtype == np.int32
    assert rows.shape[1] % batch_size == 0
    assert rows.shape[1] - size < batch_size
    for real, fill in zip(rows[:, :size], rows[:, size:], strict=True):
        assert sorted(real.tolist()) == plan.index_set.tolist()
        wrapped = [int(real[place % size]) for place in range(fill.size)]
        assert [-1 - int(row) for row in fill] == wrapped


def test_set_smaller_than_a_batch_wraps_around_more_than_once():
    rows = Batches(plan_of(2, 1), 5, seed=0, plan_index=0).rows(0, 1)
    first, second = rows[:2]
    assert {int(first), int(second)} == {100, 103}
    assert rows[2:].tolist() == [~first, ~second, ~first]


@fast
@given(
    size=sizes,
    batch_size=batch_sizes,
    num_passes=passes,
    cuts=st.lists(st.integers(1, 7), max_size=30),
)
def test_rows_do_not_depend_on_how_the_steps_are_cut(
    size, batch_size, num_passes, cuts
):
    plan = plan_of(size, num_passes)
    whole = Batches(plan, batch_size, 1, 0)
    rows = whole.rows(0, whole.num_steps)
    pieces = Batches(plan, batch_size, 1, 0)
    step = 0
    for cut in [*cuts, *[7] * whole.num_steps]:
        count = min(cut, whole.num_steps - step)
        if count == 0:
            break
        piece = pieces.rows(step, count)
        wanted = rows[step * batch_size : (step + count) * batch_size]
        np.testing.assert_array_equal(piece, wanted)
        step += count
    assert step == whole.num_steps


def test_rows_of_an_early_step_can_be_had_after_a_late_one():
    batches = Batches(plan_of(10, 3), 4, 0, 0)
    first = batches.rows(0, 1)
    batches.rows(7, 1)
    np.testing.assert_array_equal(batches.rows(0, 1), first)


@fast
@given(size=sizes, batch_size=batch_sizes, num_passes=passes)
def test_visits_before_a_step_count_the_real_rows_before_it(
    size, batch_size, num_passes
):
    batches = Batches(plan_of(size, num_passes), batch_size, 0, 0)
    rows = batches.rows(0, batches.num_steps)
    for step in range(batches.num_steps + 1):
        real = int((rows[: step * batch_size] >= 0).sum())
        assert batches.visits_before(step) == real
    assert batches.visits_before(batches.num_steps) == batches.plan.visits


def test_passes_plans_and_seeds_are_shuffled_differently():
    orders = [
        tuple(row)
        for seed, plan_index in ((0, 0), (1, 0), (0, 1))
        for row in by_pass(Batches(plan_of(40, 2), 8, seed, plan_index)).tolist()
    ]
    assert len(set(orders)) == 6


def test_same_seed_and_plan_give_the_same_rows():
    left, right = (by_pass(Batches(plan_of(40, 2), 8, 3, 4)) for _ in range(2))
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("batch_size", [2, 4, 5])
def test_index_set_with_rows_gives_each_pass_its_own_row(batch_size):
    index_set = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 5, 2, 9]], np.int32)
    batches = Batches(Plan(index_set, "x", passes=3), batch_size, 0, 0)
    for real, row in zip(by_pass(batches)[:, :4], index_set, strict=True):
        assert sorted(real.tolist()) == sorted(row.tolist())


@pytest.mark.parametrize(
    ("size", "batch_size", "num_passes", "steps"),
    [(8, 4, 3, 6), (9, 4, 3, 9), (1, 4, 2, 2), (4, 4, 1, 1)],
)
def test_every_pass_takes_its_own_last_step(size, batch_size, num_passes, steps):
    assert Batches(plan_of(size, num_passes), batch_size, 0, 0).num_steps == steps
