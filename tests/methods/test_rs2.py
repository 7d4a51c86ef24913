"""RS2 as a method: one plan whose every pass has its own row."""

import numpy as np
import pytest

from dpet_jax.methods.base import Method, Pool
from dpet_jax.methods.rs2 import rs2
from dpet_jax.methods.sampling import rs2_passes

POOL = Pool(31, np.zeros(31, np.int32), 2)


class Forbidden:
    """A learner that must not be asked."""

    def score(self, names, index_set):
        raise AssertionError((names, index_set))

    def select(self, selector, index_set, num_select, **options):
        raise AssertionError((selector, index_set, num_select, options))

    def fresh(self, seed):
        raise AssertionError(seed)

    def train(self, plan, model):
        raise AssertionError((plan, model))


def only_plan(method, seed=0):
    state, plan = method.plan(method.start(POOL, seed), Forbidden())
    assert method.plan(state, Forbidden())[1] is None
    return plan


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("keep_fraction", [1.0, 0.37, 0.1])
def test_each_pass_trains_on_its_own_subset(keep_fraction, replacement):
    method = rs2(keep_fraction, 9, replacement=replacement)
    assert isinstance(method, Method)
    plan = only_plan(method, seed=4)
    subsets = rs2_passes(31, keep_fraction, 9, 4, replacement=replacement)
    np.testing.assert_array_equal(plan.index_set, subsets)
    assert (plan.passes, plan.label, plan.reset) == (9, "rs2", "none")
    assert plan.schedule is None
    assert plan.weights is None


def test_passes_are_without_replacement_unless_asked_for():
    first, second = only_plan(rs2(0.5, 2)).index_set
    assert len(set(first.tolist()) | set(second.tolist())) == 31


@pytest.mark.parametrize("keep_fraction", [1.0, 0.37, 0.01])
def test_planned_visits_are_those_of_the_plan(keep_fraction):
    method = rs2(keep_fraction, 5)
    assert method.planned_visits(POOL) == only_plan(method, seed=9).visits


def test_rs2_asks_for_no_score_and_chooses_no_coreset():
    method = rs2(0.5, 2)
    assert method.scores == ()
    assert method.coreset(method.start(POOL, 0)) is None


def test_seed_decides_the_plan():
    plans = [only_plan(rs2(0.5, 3), seed).index_set.tolist() for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
