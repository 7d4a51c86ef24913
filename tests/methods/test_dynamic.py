"""Dynamic methods: what a pass visits, with which weights, on which schedule."""

from fractions import Fraction

import numpy as np
import pytest
from fakes.learner import Forbidden
from pydantic import ValidationError
from scipy.stats import rankdata

from dpet_jax.methods.base import MAIN, Method, Pool, TrainResult
from dpet_jax.methods.dynamic import (
    EpsilonGreedy,
    InfoBatch,
    LossThreshold,
    StaleSelectiveBackprop,
    cdf_below,
)

N = 2000
POOL = Pool(N, np.zeros(N, np.int32), 2)


def infobatch(r, annealing_start, passes):
    return InfoBatch(
        prune_probability=r, annealing_start=annealing_start, passes=passes
    )


def threshold(p, threshold_per, subset_size, drop_highest=0.0, *, passes):
    return LossThreshold(
        prune_fraction=p,
        threshold_per=threshold_per,
        subset_size=subset_size,
        drop_highest=drop_highest,
        passes=passes,
    )


def stale(beta, refresh_every, passes, refresh_by="training"):
    return StaleSelectiveBackprop(
        beta=beta, refresh_every=refresh_every, passes=passes, refresh_by=refresh_by
    )


def greedy(keep_fraction, epsilon, passes):
    return EpsilonGreedy(keep_fraction=keep_fraction, epsilon=epsilon, passes=passes)


def losses_of(plan_index):
    """Losses that change from plan to plan, different for every example."""
    return np.random.default_rng(plan_index).gamma(2.0, size=N).astype(np.float32)


def run(method, *, seed=0, losses=losses_of, learner=None):
    """Run all plans; every example that is visited gets a new loss."""
    assert isinstance(method, Method)
    state, plans = method.start(POOL, seed), []
    while True:
        state, plan = method.plan(state, learner or Forbidden())
        if plan is None:
            assert method.coreset(state) is None
            return plans
        rows = np.unique(plan.index_set)
        assert rows.size == plan.index_set.size, "an example twice in a pass"
        new = losses(len(plans))[rows]
        zeros = np.zeros(rows.size)
        plans.append((plan, state.losses))
        state = method.observe(state, TrainResult(rows, new, zeros > 0, zeros))


def visits(plans):
    return sum(plan.visits for plan, _ in plans)


# InfoBatch


@pytest.mark.parametrize(
    ("share", "passes"),
    [
        *(("0.875", passes) for passes in (1, 5, 7, 8, 9, 30, 50, 90, 100, 200)),
        *(("0.29", 100), ("0.9", 10), ("0.55", 100), ("1", 12), ("0.05", 10)),
    ],
)
def test_infobatch_anneals_where_the_published_sampler_does(share, passes):
    """It counts its epochs from 1, and prunes in those not above delta * E."""
    plans = run(infobatch(0.5, float(share), passes))
    assert len(plans) == passes
    for index, (plan, _) in enumerate(plans):
        full = index == 0 or index + 1 > Fraction(share) * passes
        assert (plan.size == N) is full
        assert (plan.weights is None) is full


def test_infobatch_weights_add_up_to_the_data_in_expectation():
    plans = run(infobatch(0.5, 1.0, 200))[1:]
    sums = [plan.weights.sum() for plan, _ in plans]
    # about half are easy, each adds 0 or 2: sd of the mean is sqrt(N / 2 / 199)
    assert np.mean(sums) == pytest.approx(N, abs=4 * np.sqrt(N / 2 / len(sums)))


@pytest.mark.parametrize("r", [0.25, 0.5])
def test_infobatch_leaves_out_easy_examples_alone_and_reweights_those_that_stay(r):
    for plan, before in run(infobatch(r, 1.0, 10))[1:]:
        easy = before < before.mean()
        stays = np.zeros(N, bool)
        stays[plan.index_set] = True
        assert stays[~easy].all()
        assert 1 - stays[easy].mean() == pytest.approx(r, abs=0.06)
        expected = np.where(easy, 1 / (1 - r), 1.0)[plan.index_set]
        np.testing.assert_allclose(plan.weights, expected, rtol=1e-6)


def test_infobatch_draws_anew_in_every_pass_and_for_every_seed():
    def same(index):
        del index
        return losses_of(0)

    first, second = (plan.index_set for plan, _ in run(infobatch(0.5, 1.0, 3))[1:])
    assert not np.array_equal(first, second)
    sets = [
        run(infobatch(0.5, 1.0, 2), seed=seed, losses=same)[1][0].index_set
        for seed in (0, 1, 0)
    ]
    assert not np.array_equal(sets[0], sets[1])
    np.testing.assert_array_equal(sets[0], sets[2])


# thresholds


@pytest.mark.parametrize("p", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("threshold_per", ["cycle", "pass"])
def test_threshold_visits_what_the_pruning_rate_says(p, threshold_per):
    method = threshold(p, threshold_per, 5000, 0.0, passes=30)
    plans = run(method)
    share = visits(plans) / (30 * N)
    assert share == pytest.approx(1 - 0.8 * p, abs=0.015)
    assert share == pytest.approx(method.expected_share(), abs=0.015)


def test_threshold_of_a_cycle_stands_until_the_next_full_pass():
    plans = [plan for plan, _ in run(threshold(0.3, "cycle", 5000, 0.0, passes=12))]
    assert [plan.passes for plan in plans] == [1, 4, 1, 4, 1, 1]
    assert [plan.size == N for plan in plans] == [True, False] * 3
    anew = [plan for plan, _ in run(threshold(0.3, "pass", 5000, 0.0, passes=12))]
    assert [plan.passes for plan in anew] == [1] * 12
    assert not np.array_equal(anew[1].index_set, anew[2].index_set)


def test_threshold_keeps_high_losses_and_cuts_the_highest_where_told():
    (_, _), (plan, before) = run(threshold(0.3, "cycle", N, 0.1, passes=2))
    low, high = np.quantile(before.astype(np.float64), (0.3, 0.9))
    expected = np.flatnonzero((before >= low) & (before <= high))
    np.testing.assert_array_equal(plan.index_set, expected)


def test_threshold_is_the_quantile_of_a_random_subset():
    sizes = {
        run(threshold(0.3, "cycle", 50, 0.0, passes=2), seed=seed)[1][0].size
        for seed in range(5)
    }
    assert len(sizes) > 1, "all losses gave the threshold, not fifty of them"
    assert all(0.4 * N < size < N for size in sizes)


def test_equal_losses_are_all_kept():
    def equal(index):
        del index
        return np.ones(N, np.float32)

    plans = run(threshold(0.3, "cycle", 100, 0.0, passes=2), losses=equal)
    assert plans[1][0].size == N


# stale selective backprop


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_stale_selective_backprop_visits_one_in_beta_plus_one(beta):
    plans = run(stale(beta, 30, 30))
    assert plans[0][0].size == N
    share = visits(plans[1:]) / (29 * N)
    assert share == pytest.approx(1 / (beta + 1), abs=0.01)


def test_stale_selective_backprop_prefers_the_biggest_losers():
    def constant(index):
        del index
        return np.arange(N, dtype=np.float32)

    plans = run(stale(2.0, 100, 100), losses=constant)[1:]
    counts = np.zeros(N)
    for plan, _ in plans:
        counts[plan.index_set] += 1
    tenths = counts.reshape(10, -1).mean(1) / len(plans)
    expected = ((np.arange(N) + 1) / N) ** 2
    np.testing.assert_allclose(tenths, expected.reshape(10, -1).mean(1), atol=0.02)


def test_full_passes_come_when_due():
    plans = run(stale(1.0, 3, 7))
    assert [plan.size == N for plan, _ in plans] == [
        *(True, False, False),
        *(True, False, False),
        True,
    ]


class Looking(Forbidden):
    """A learner that only looks at losses: the n-th time at those of 100 + n."""

    def __init__(self):
        self.looks = []

    def score(self, names, index_set, model=MAIN):
        assert (names, model) == (("cross_entropy",), MAIN)
        np.testing.assert_array_equal(index_set, np.arange(N))
        self.looks.append(losses_of(100 + len(self.looks)))
        return {"cross_entropy": self.looks[-1]}


def test_stale_losses_are_looked_at_every_so_often_as_published():
    """Its authors' selector marks an example when its loss is so many passes old."""
    method, learner = StaleSelectiveBackprop(beta=2.0, passes=8), Looking()
    assert (method.refresh_by, method.refresh_every) == ("forward", 3)
    assert method.scores == ("cross_entropy",)
    assert stale(2.0, 3, 8).scores == ()
    plans = run(method, learner=learner)
    age, looks = 0, []  # primed by the first pass
    for index in range(1, 8):
        age += 1
        if age >= 3:
            age = 0
            looks.append(index)
    assert len(learner.looks) == len(looks) == 2
    known = np.full(N, np.inf, np.float32)
    for index, (plan, before) in enumerate(plans):
        if index in looks:
            known = learner.looks[looks.index(index)].copy()
        np.testing.assert_array_equal(before, known)
        chances = (rankdata(known, "max") / N) ** 2
        assert (plan.size == N) is (index == 0)
        if index:
            assert plan.size == pytest.approx(chances.sum(), abs=5 * np.sqrt(N) / 2)
        known[plan.index_set] = losses_of(index)[plan.index_set]
    foreseen = method.planned_visits(POOL)
    assert foreseen == round(N + 7 * N / 3)
    assert visits(plans) == pytest.approx(foreseen, rel=0.05)


def test_share_of_losses_not_above():
    history = np.array([1.0, 2.0, 2.0, 4.0])
    got = cdf_below(np.array([0.0, 1.0, 2.0, 3.0, 9.0]), history)
    np.testing.assert_allclose(got, [0, 0.25, 0.75, 0.75, 1])


# epsilon-greedy


def test_epsilon_greedy_takes_the_highest_losses_and_a_share_by_chance():
    plans = run(greedy(0.3, 0.2, 40))
    assert {plan.size for plan, _ in plans} == {600}
    for plan, before in plans[10:]:
        highest = np.argsort(-before, kind="stable")[: round(0.6 * 600)]
        assert np.isin(highest, plan.index_set).all()
    plan, before = run(greedy(0.3, 0.0, 40))[-1]
    np.testing.assert_array_equal(
        np.sort(before[plan.index_set]), np.sort(before)[-600:]
    )


def test_epsilon_one_is_random():
    plans = run(greedy(0.3, 1.0, 50))
    counts = np.zeros(N)
    for plan, _ in plans:
        counts[plan.index_set] += 1
    assert counts.std() == pytest.approx(np.sqrt(50 * 0.3 * 0.7), rel=0.1)


# the schedule


def test_passes_share_the_schedule_however_many_examples_they_visit():
    for method in (infobatch(0.5, 0.875, 12), threshold(0.3, "cycle", 99, passes=12)):
        plans, done = run(method), 0
        for plan, _ in plans:
            begins = plan.schedule.start / plan.schedule.horizon
            ends = (plan.schedule.start + plan.visits) / plan.schedule.horizon
            assert begins == pytest.approx(done / 12)
            done += plan.passes
            assert ends == pytest.approx(done / 12)
        assert done == 12


def test_visits_are_foreseen_roughly():
    for method in (
        infobatch(0.5, 0.875, 24),
        threshold(0.3, "cycle", 99, 0.1, passes=24),
        stale(3.0, 3, 24),
        greedy(0.4, 0.5, 24),
    ):
        foreseen = method.planned_visits(POOL)
        assert visits(run(method)) == pytest.approx(foreseen, rel=0.15)


# keys


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (InfoBatch, {"prune_probability": 1}),
        (InfoBatch, {"annealing_start": 0}),
        (LossThreshold, {"threshold_per": "epoch"}),
        (LossThreshold, {"refresh_every": 0}),
        (LossThreshold, {"prune_fraction": 0.6, "drop_highest": 0.4}),
        (StaleSelectiveBackprop, {"beta": -1}),
        (StaleSelectiveBackprop, {"refresh_by": "backward"}),
        (EpsilonGreedy, {"epsilon": 1.1}),
    ],
)
def test_methods_refuse_what_they_cannot_do(method, changes):
    assert method().paced
    with pytest.raises(ValidationError):
        method(**changes)
