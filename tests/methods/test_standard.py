"""Methods that are one plan; full-data training is the plainest."""

import numpy as np
import pytest
from fakes.learner import Forbidden

from dpet_jax.methods.base import Method, Plan, Pool, TrainResult
from dpet_jax.methods.standard import OnePlanMethod, Standard


def pool(num_examples):
    return Pool(num_examples, np.zeros(num_examples, np.int32), 2)


def plans_of(method, num_examples, seed=0):
    state, plans = method.start(pool(num_examples), seed), []
    while True:
        state, plan = method.plan(state, Forbidden())
        if plan is None:
            return state, plans
        plans.append(plan)


def test_standard_is_every_example_in_every_pass():
    method = Standard(passes=7)
    assert isinstance(method, Method)
    _, (plan,) = plans_of(method, 11)
    assert plan.index_set.tolist() == list(range(11))
    assert plan.index_set.dtype == np.int32
    assert (plan.passes, plan.label, plan.reset) == (7, "standard", "none")
    assert plan.weights is None
    assert plan.schedule is None


def test_standard_asks_for_no_score_and_chooses_no_coreset():
    method = Standard(passes=1)
    state, _ = plans_of(method, 3)
    assert method.scores == ()
    assert method.coreset(state) is None


@pytest.mark.parametrize(("num_examples", "passes"), [(11, 7), (1, 1), (100, 3)])
def test_planned_visits_are_those_of_the_plan(num_examples, passes):
    method = Standard(passes=passes)
    _, plans = plans_of(method, num_examples)
    assert method.planned_visits(pool(num_examples)) == sum(p.visits for p in plans)


def test_finished_method_stays_finished_and_its_result_teaches_nothing():
    method = Standard(passes=2)
    state, _ = plans_of(method, 4)
    result = TrainResult(np.arange(4), np.ones(4), np.ones(4, bool), np.zeros(4))
    assert method.observe(state, result) == state
    assert method.plan(state, Forbidden()) == (state, None)


def test_plan_is_made_from_the_pool_and_the_seed_of_the_start():
    seen = []

    class Mine(OnePlanMethod):
        def make_plan(self, num_examples, seed):
            seen.append((num_examples, seed))
            return Plan(np.arange(num_examples, dtype=np.int32), "x")

    plans_of(Mine(), 5, seed=8)
    assert seen == [(5, 8)]
    assert Mine().kind == f"{__name__}:{Mine.__qualname__}"
    assert Mine().label == "Mine"
