"""Training on what an earlier run chose."""

import numpy as np

from dpet_jax.methods.base import Coreset, Method, Pool
from dpet_jax.methods.coreset import saved_coreset

POOL = Pool(31, np.zeros(31, np.int32), 2)
CHOSEN = Coreset(
    np.array([9, 2, 30], np.int32),
    np.array([1, 1, 2], np.int32),
    np.array([0.1, 0.5, np.nan], np.float32),
)


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


def test_every_pass_trains_on_the_saved_examples():
    method = saved_coreset(CHOSEN, 6)
    assert isinstance(method, Method)
    state, plan = method.plan(method.start(POOL, 0), Forbidden())
    assert plan.index_set.tolist() == [2, 9, 30]
    assert (plan.passes, plan.label) == (6, "coreset")
    assert method.planned_visits(POOL) == plan.visits == 18
    assert method.plan(state, Forbidden())[1] is None


def test_coreset_is_handed_on_in_the_order_of_entering():
    method = saved_coreset(CHOSEN, 1)
    assert method.coreset(method.start(POOL, 0)) is CHOSEN
    assert CHOSEN.indices.tolist() == [9, 2, 30]


def test_seed_changes_nothing():
    method = saved_coreset(CHOSEN, 2)
    plans = [method.plan(method.start(POOL, seed), Forbidden())[1] for seed in (0, 1)]
    np.testing.assert_array_equal(plans[0].index_set, plans[1].index_set)
