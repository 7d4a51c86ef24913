"""Selective backpropagation: what is looked at, what is trained on, and when."""

import numpy as np
import pytest
from fakes.learner import Forbidden

from dpet_jax.methods.base import MAIN, Method, Pool, TrainResult
from dpet_jax.methods.selective_backprop import SelectiveBackprop

N = 1000
POOL = Pool(N, np.zeros(N, np.int32), 2)


class Losses(Forbidden):
    """A learner whose losses are the positions; remembers where it looked."""

    def __init__(self):
        self.looked = []

    def score(self, names, index_set, model=MAIN):
        assert (names, model) == (("cross_entropy",), MAIN)
        self.looked.append(index_set)
        return {"cross_entropy": index_set.astype(np.float32)}


def run(beta, seed=0, **options):
    options = {"passes": 6, "look_ahead": 100, "history_size": 500} | options
    method = SelectiveBackprop(beta=beta, **options)
    assert isinstance(method, Method)
    learner, state, plans = Losses(), method.start(POOL, seed), []
    while True:
        state, plan = method.plan(state, learner)
        if plan is None:
            assert method.coreset(state) is None
            return learner.looked, plans
        plans.append(plan)
        nothing = np.zeros(0)
        state = method.observe(
            state, TrainResult(nothing, nothing, nothing > 0, nothing)
        )


def test_every_pass_looks_at_every_example_once_in_a_new_order():
    looked, _ = run(1.0)
    assert {rows.size for rows in looked} == {100}
    passes = np.concatenate(looked).reshape(6, N)
    for order in passes:
        np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert not np.array_equal(passes[0], passes[1])


def test_a_look_ends_with_the_pass():
    looked, _ = run(1.0, passes=2, look_ahead=300)
    assert [rows.size for rows in looked] == [300, 300, 300, 100] * 2


def test_beta_zero_trains_on_everything_once_a_pass():
    _, plans = run(0.0)
    visited = np.concatenate([plan.index_set for plan in plans])
    np.testing.assert_array_equal(np.bincount(visited, minlength=N), np.full(N, 6))


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_high_losses_are_trained_on_in_proportion_to_their_rank(beta):
    _, plans = run(beta, passes=60)
    visited = np.concatenate([plan.index_set for plan in plans])
    counts = np.bincount(visited, minlength=N).reshape(10, -1).mean(1) / 60
    expected = (((np.arange(N) + 1) / N) ** beta).reshape(10, -1).mean(1)
    np.testing.assert_allclose(counts, expected, atol=0.03)


def test_plans_are_whole_batches_but_for_the_last():
    _, plans = run(2.0, passes=3)
    assert all(plan.visits % 32 == 0 for plan in plans[:-1])
    assert plans[0].label == "pass 1"
    assert plans[-1].label == "pass 3"


def test_chosen_examples_wait_for_a_batch_and_none_is_lost():
    few, _ = run(8.0, passes=4, look_ahead=10), None
    _, plans = few
    assert {plan.visits for plan in plans[:-1]} == {32}
    # about one in nine
    total = sum(plan.visits for plan in plans)
    assert total == pytest.approx(4 * N / 9, rel=0.2)


def test_losses_are_ranked_against_the_latest_alone(monkeypatch):
    # as losses fall they would all rank low among the old ones, and none be chosen
    def falling(self, names, index_set, model=MAIN):
        del names, model
        self.looked.append(index_set)
        losses = index_set / N - len(self.looked)
        return {"cross_entropy": losses.astype(np.float32)}

    monkeypatch.setattr(Losses, "score", falling)
    _, plans = run(1.0, passes=20, history_size=100)
    assert sum(plan.visits for plan in plans) == pytest.approx(20 * N / 2, rel=0.05)
    _, plans = run(1.0, passes=20, history_size=10**6)
    assert sum(plan.visits for plan in plans) < 20 * N / 10


def test_schedule_follows_the_looking_from_beginning_to_end():
    _, plans = run(1.0, passes=4)
    edge = 0.0
    for plan in plans:
        span = plan.schedule
        assert span.start / span.horizon == pytest.approx(edge, abs=0.01)
        edge = (span.start + plan.visits) / span.horizon
    assert edge == pytest.approx(1.0, abs=0.01)


def test_the_seed_decides():
    first, again, other = (run(1.0, seed=seed)[1] for seed in (1, 1, 2))
    assert [p.index_set.tolist() for p in first] == [
        p.index_set.tolist() for p in again
    ]
    assert first[0].index_set.tolist() != other[0].index_set.tolist()
