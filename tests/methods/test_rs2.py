"""RS2 as a method: one plan whose every pass has its own row."""

import numpy as np
import pytest
from fakes.learner import Forbidden
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpet_jax.methods.base import Method, Pool
from dpet_jax.methods.rs2 import Rs2, kept, rs2_passes

POOL = Pool(31, np.zeros(31, np.int32), 2)


def only_plan(method, seed=0):
    state, plan = method.plan(method.start(POOL, seed), Forbidden())
    assert method.plan(state, Forbidden())[1] is None
    return plan


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("keep_fraction", [1.0, 0.37, 0.1])
def test_each_pass_trains_on_its_own_subset(keep_fraction, replacement):
    method = Rs2(keep_fraction=keep_fraction, passes=9, replacement=replacement)
    assert isinstance(method, Method)
    plan = only_plan(method, seed=4)
    subsets = rs2_passes(31, keep_fraction, 9, 4, replacement=replacement)
    np.testing.assert_array_equal(plan.index_set, subsets)
    assert (plan.passes, plan.label, plan.reset) == (9, "rs2", "none")
    assert plan.schedule is None
    assert plan.weights is None


def test_passes_are_without_replacement_unless_asked_for():
    first, second = only_plan(Rs2(keep_fraction=0.5, passes=2)).index_set
    assert len(set(first.tolist()) | set(second.tolist())) == 31


@pytest.mark.parametrize("keep_fraction", [1.0, 0.37, 0.01])
def test_planned_visits_are_those_of_the_plan(keep_fraction):
    method = Rs2(keep_fraction=keep_fraction, passes=5)
    assert method.planned_visits(POOL) == only_plan(method, seed=9).visits


def test_rs2_asks_for_no_score_and_chooses_no_coreset():
    method = Rs2(keep_fraction=0.5, passes=2)
    assert method.scores == ()
    assert method.coreset(method.start(POOL, 0)) is None


def test_seed_decides_the_plan():
    plans = [
        only_plan(Rs2(keep_fraction=0.5, passes=3), seed).index_set.tolist()
        for seed in (1, 1, 2)
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


# the subsets: no repeats inside a pass, and even coverage over passes

fast = settings(deadline=None, derandomize=True, max_examples=80)
sizes = st.integers(1, 60)
fractions = st.floats(0.01, 1.0)
FRACTIONS = (1.0, 0.9, 0.5, 0.37, 1 / 3, 0.3, 0.01)


@pytest.mark.parametrize(
    ("num_examples", "keep_fraction", "size"),
    [(10, 0.3, 3), (10, 1.0, 10), (10, 0.01, 1), (1617, 1 / 3, 539), (10, 0.37, 4)],
)
def test_pass_keeps_the_rounded_share_and_at_least_one(
    num_examples, keep_fraction, size
):
    assert kept(num_examples, keep_fraction) == size


def assert_even(rows, num_examples):
    """After t passes every example was seen floor(t m / n) times or once more."""
    seen = np.zeros(num_examples, int)
    for done, row in enumerate(rows, start=1):
        assert len(set(row.tolist())) == row.size
        np.add.at(seen, row, 1)
        fair = done * row.size // num_examples
        assert set(seen.tolist()) <= {fair, fair + 1}


@fast
@given(num_examples=sizes, keep_fraction=fractions, seed=st.integers(0, 99))
@example(num_examples=3, keep_fraction=0.67, seed=0)
def test_passes_without_replacement_cover_the_data_evenly(
    num_examples, keep_fraction, seed
):
    rows = rs2_passes(num_examples, keep_fraction, 12, seed)
    assert rows.dtype == np.int32
    assert rows.shape == (12, kept(num_examples, keep_fraction))
    assert_even(rows, num_examples)


@pytest.mark.parametrize("keep_fraction", FRACTIONS)
@pytest.mark.parametrize("num_examples", [10, 100, 101])
def test_passes_cover_the_data_evenly_for_long(num_examples, keep_fraction):
    assert_even(rs2_passes(num_examples, keep_fraction, 150, 5), num_examples)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("keep_fraction", FRACTIONS)
def test_first_passes_do_not_depend_on_how_many_are_asked_for(
    keep_fraction, replacement
):
    def draw(passes):
        return rs2_passes(40, keep_fraction, passes, 2, replacement=replacement)

    for few in (1, 3, 8):
        np.testing.assert_array_equal(draw(few), draw(20)[:few])


@fast
@given(num_examples=sizes, keep_fraction=fractions, seed=st.integers(0, 99))
def test_passes_with_replacement_hold_no_example_twice(
    num_examples, keep_fraction, seed
):
    rows = rs2_passes(num_examples, keep_fraction, 6, seed, replacement=True)
    assert rows.dtype == np.int32
    assert rows.shape == (6, kept(num_examples, keep_fraction))
    assert rows.min() >= 0
    assert rows.max() < num_examples
    assert all(len(set(row.tolist())) == row.size for row in rows)


def test_passes_with_replacement_are_independent_draws():
    rows = rs2_passes(20, 0.5, 2000, 0, replacement=True)
    members = np.zeros((2000, 20))
    np.put_along_axis(members, rows, 1, axis=1)
    # Binomial(2000, 1/2): mean 1000, standard deviation 22.4.
    assert (np.abs(members.sum(0) - 1000) < 5 * 22.4).all()
    # being in one pass says nothing about the next: 1999 pairs, 1/4 both in
    both = (members[1:] * members[:-1]).sum(0)
    assert (np.abs(both - 1999 / 4) < 5 * 22.4).all()


def test_passes_without_replacement_are_not_independent():
    first, second = rs2_passes(20, 0.5, 2, 0)
    assert not set(first.tolist()) & set(second.tolist())


@pytest.mark.parametrize("replacement", [False, True])
def test_seed_decides_the_passes(replacement):
    def draw(seed):
        return rs2_passes(50, 0.3, 5, seed, replacement=replacement).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_order_of_every_walk_through_the_data_is_another():
    walks = rs2_passes(30, 1.0, 6, 0)
    assert len({tuple(walk) for walk in walks.tolist()}) == 6


def test_every_example_is_equally_likely_in_a_pass_that_ends_an_order():
    # n = 10, m = 7: pass 1 is a tail of 3 and 4 of the next order
    times = np.zeros(10)
    for seed in range(1000):
        times[rs2_passes(10, 0.7, 2, seed)[1]] += 1
    # Binomial(1000, 0.7): mean 700, standard deviation 14.5.
    assert (np.abs(times - 700) < 5 * 14.5).all()
