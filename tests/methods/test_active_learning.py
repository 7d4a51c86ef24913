"""Active learning: a random start, then rounds of query, add, train."""

from itertools import pairwise

import numpy as np
import pytest
from fakes.learner import FixedScores
from pydantic import ValidationError

from dpet_jax.methods.active_learning import ActiveLearning
from dpet_jax.methods.base import Method, Pool, TrainResult

N = 20
POOL = Pool(N, np.zeros(N, np.int32), 2)
SCORES = np.asarray((7 * np.arange(N)) % N, np.float32)


def method_of(**changes):
    options = {"query_size": 3, "initial_size": 4, "passes_per_round": 2}
    return ActiveLearning(**(options | {"max_rounds": 3} | changes))


def run(method, seed=0, learner=None):
    learner, state, plans = learner or FixedScores(SCORES), method.start(POOL, seed), []
    while True:
        state, plan = method.plan(state, learner)
        if plan is None:
            return state, plans
        plans.append(plan)
        nothing = np.zeros(0)
        result = TrainResult(nothing, nothing, nothing > 0, nothing)
        state = method.observe(state, result)


def test_rounds_train_on_old_and_new_examples_together():
    assert isinstance(method_of(), Method)
    state, plans = run(method_of())
    assert [plan.label for plan in plans] == [
        "round 0",
        "round 1",
        "round 2",
        "round 3",
    ]
    assert [plan.size for plan in plans] == [4, 7, 10, 13]
    assert {plan.passes for plan in plans} == {2}
    for before, after in pairwise(plans):
        assert set(before.index_set.tolist()) < set(after.index_set.tolist())
    coreset = method_of().coreset(state)
    assert sorted(coreset.indices.tolist()) == plans[-1].index_set.tolist()
    assert coreset.round_index.tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 3


def test_round_zero_is_random_and_asks_nobody():
    learner = FixedScores(SCORES)
    state, _ = run(method_of(max_rounds=0), learner=learner)
    assert learner.asked == []
    assert np.isnan(state.scores).all()
    draws = [
        tuple(run(method_of(), seed)[1][0].index_set.tolist()) for seed in range(99)
    ]
    assert len(set(draws)) > 50
    # Hypergeometric: 99 draws of 4 from 20, mean 19.8, standard deviation 4.
    assert (np.abs(np.bincount(np.concatenate(draws), minlength=N) - 19.8) < 20).all()


def test_later_rounds_add_the_most_informative_of_the_rest():
    state, _ = run(method_of())
    first = set(state.indices[:4].tolist())
    ranked = [i for i in np.argsort(-SCORES).tolist() if i not in first]
    assert state.indices[4:].tolist() == ranked[:9]
    np.testing.assert_array_equal(state.scores[4:], SCORES[ranked[:9]])


@pytest.mark.parametrize(
    ("from_scratch", "reset"), [(True, "all"), (False, "optimizer")]
)
def test_from_scratch_draws_new_parameters_in_every_round(from_scratch, reset):
    _, plans = run(method_of(from_scratch=from_scratch))
    assert [plan.reset for plan in plans] == [reset] * 4


@pytest.mark.parametrize("initial_size", [1, 4, 19, 20, 50])
@pytest.mark.parametrize("size", [1, 3, 16, 40])
@pytest.mark.parametrize("max_rounds", [0, 1, 9])
def test_planned_visits_are_those_of_a_whole_run(initial_size, size, max_rounds):
    method = method_of(
        query_size=size, initial_size=initial_size, max_rounds=max_rounds
    )
    state, plans = run(method)
    assert method.planned_visits(POOL) == sum(plan.visits for plan in plans)
    assert len(set(state.indices.tolist())) == state.indices.size <= N
    assert len(plans) <= max_rounds + 1


def test_seed_decides_the_plans():
    def sets(seed):
        return [
            plan.index_set.tolist() for plan in run(method_of(score="random"), seed)[1]
        ]

    assert sets(1) == sets(1)
    assert sets(1) != sets(2)


def test_finished_method_stays_finished():
    method = method_of()
    state, _ = run(method)
    assert method.plan(state, FixedScores(SCORES))[1] is None


def test_active_learning_refuses_a_proxy_that_would_never_be_asked():
    with pytest.raises(ValidationError, match=r"random asks no network.*proxy at null"):
        method_of(score="random", proxy={})
    assert method_of(proxy={}).proxy.width_multiplier == 0.25
