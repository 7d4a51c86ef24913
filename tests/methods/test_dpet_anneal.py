"""DPET in one schedule: its passes, budget, controls and coreset."""

import numpy as np
import pytest
from fakes.learner import Forbidden
from pydantic import ValidationError

from dpet_jax.methods.base import Method, Pool, Span, TrainResult
from dpet_jax.methods.dpet_anneal import DpetAnneal, chances_of, unbiased_weights
from dpet_jax.methods.dynamic import InfoBatch, hard_but_learnable

N = 1000
LABELS = np.arange(N, dtype=np.int32) % 4
POOL = Pool(N, LABELS, 4)


def losses_of(plan_index):
    return np.random.default_rng(plan_index).gamma(2.0, size=N).astype(np.float32)


class InBatches(Forbidden):
    """A learner that is asked for its batch size alone."""

    def __init__(self, batch_size):
        self.batch_size = batch_size


def margins_of(plan_index):
    """Not in the order of the losses."""
    return np.random.default_rng([plan_index, 1]).uniform(0, 2, N).astype(np.float32)


def run(method, *, seed=0, losses=losses_of, batch=25):
    """Return the plans, each with the losses known before it, and the last state."""
    assert isinstance(method, Method)
    state, plans = method.start(POOL, seed), []
    while True:
        known = state.margins if method.asks_margins else state.losses
        state, plan = method.plan(state, InBatches(batch))
        if plan is None:
            return plans, state
        plans.append((plan, known))
        rows = np.unique(plan.index_set)
        assert rows.size == plan.index_set.size, "an example twice in a pass"
        zeros = np.zeros(rows.size)
        new = losses(len(plans))[rows]
        margins = margins_of(len(plans))[rows] if method.asks_margins else None
        result = TrainResult(rows, new, zeros > 0, zeros, margins)
        state = method.observe(state, result)


@pytest.mark.parametrize("epochs", [0.3, 1.0, 1.7, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("drop", ["auto", 0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "keys", [{"final": 0.0}, {}, {"by": "margin"}, {"unbiased": True}]
)
def test_examples_seen_are_the_budget_on_one_schedule(epochs, drop, keys):
    method = DpetAnneal(epochs=epochs, drop=drop, **keys)
    plans, _ = run(method)
    budget = method.planned_visits(POOL)
    assert budget == round(epochs * N)
    seen = 0
    for plan, _ in plans:
        assert plan.schedule == Span(seen, budget)
        assert plan.reset == "none"
        seen += plan.visits
    assert seen == budget


@pytest.mark.parametrize(("p", "e"), [(0.5, 0.05), (0.35, 0.0), (0.7, 0.2)])
@pytest.mark.parametrize("by", ["loss", "margin", "one_minus_p", "random", "easy"])
def test_sizes_of_the_middle_are_those_of_its_random_twin(p, e, by):
    plans, _ = run(DpetAnneal(epochs=8, drop=p, revisit=e, by=by))
    size = round((1 - p + p * e) * N) // 25 * 25  # whole batches
    sizes = [plan.size for plan, _ in plans]
    middle = [s for s in sizes if s == size]
    assert len(middle) >= 6
    assert sizes[0] == N
    # before the last share of the budget begins, and then everything, cut at its end
    assert sizes[1 : len(middle) + 1] == middle
    last = plans[len(middle) + 1 :]
    start = last[0][0].schedule.start
    assert start >= 0.85 * 8 * N > start - size
    assert all(plan.size in (N, (8 * N - start) % N) for plan, _ in last)


@pytest.mark.parametrize("by", ["loss", "margin"])
def test_the_lowest_are_left_out_but_for_a_few(by):
    plans, _ = run(DpetAnneal(epochs=8, drop=0.5, revisit=0.1, by=by))
    visited_anyway = set()
    for plan, known in plans[1:6]:
        lowest = np.argsort(known)[: N // 2]
        assert np.isin(np.setdiff1d(np.arange(N), lowest), plan.index_set).all()
        revisited = np.intersect1d(lowest, plan.index_set)
        assert revisited.size == 50
        visited_anyway |= {*np.searchsorted(np.sort(known), known[revisited])}
    # anyone of them may be
    assert len(visited_anyway) > 150


def test_the_opposite_control_leaves_the_highest_out():
    (_, (plan, known), *_), _ = run(
        DpetAnneal(epochs=8, drop=0.5, by="easy", revisit=0.0)
    )
    np.testing.assert_array_equal(plan.index_set, np.sort(np.argsort(known)[: N // 2]))


def test_one_minus_p_chooses_as_the_loss():
    one, _ = run(DpetAnneal(epochs=8, by="one_minus_p"))
    other, _ = run(DpetAnneal(epochs=8, by="loss"))
    for (plan, known), (twin, _) in zip(one, other, strict=True):
        np.testing.assert_array_equal(plan.index_set, twin.index_set)
        # computed, 1 - p ranks the examples in the same order
        missed = -np.expm1(-known.astype(np.float64))
        np.testing.assert_array_equal(
            np.argsort(missed, kind="stable"), np.argsort(known, kind="stable")
        )


def test_margins_are_asked_for_only_where_they_rank():
    assert DpetAnneal(by="margin").asks_margins
    assert not DpetAnneal(by="margin", drop=0.0).asks_margins
    # a clock may leave more than the planned passes, and then auto drops
    assert DpetAnneal(by="margin", epochs=2).asks_margins
    assert not DpetAnneal(by="one_minus_p").asks_margins
    assert not InfoBatch().asks_margins
    method = DpetAnneal(epochs=8, by="margin")
    state, plan = method.plan(method.start(POOL, 0), InBatches(25))
    assert np.isinf(state.margins).all()
    zeros = np.zeros(N)
    with pytest.raises(AssertionError, match="given them"):
        method.observe(state, TrainResult(plan.index_set, zeros, zeros > 0, zeros))


def test_the_random_control_asks_no_loss():
    method = DpetAnneal(epochs=8, drop=0.5, by="random")
    one, _ = run(method)
    other, _ = run(method, losses=lambda k: -losses_of(k))
    for (plan, _), (twin, _) in zip(one, other, strict=True):
        np.testing.assert_array_equal(plan.index_set, twin.index_set)


def test_equal_losses_are_left_out_by_chance():
    plans, _ = run(
        DpetAnneal(epochs=8, revisit=0.0), losses=lambda _: np.zeros(N, np.float32)
    )
    middle = [plan.index_set for plan, _ in plans[1:6]]
    counts = np.bincount(np.concatenate(middle), minlength=N)
    # of 5 passes with chance 1/2 each; a preferred half would be in all 5 or in none
    assert 150 < np.count_nonzero((counts == 2) | (counts == 3)) < 950


def test_highest_losses_can_be_left_out_too():
    (_, (plan, known), *_), _ = run(
        DpetAnneal(epochs=8, drop=0.3, drop_highest=0.2, revisit=0.0)
    )
    ranked = np.argsort(known)
    np.testing.assert_array_equal(plan.index_set, np.sort(ranked[300:800]))


def test_auto_drops_half_at_most_where_there_is_time_for_it():
    assert DpetAnneal(epochs=2.9).dropped == 0.0
    assert DpetAnneal(epochs=3.0).dropped == 0.5
    assert DpetAnneal(epochs=2.0, drop=0.3).dropped == 0.3


@pytest.mark.parametrize(("right", "dropped"), [(0.0, 0.0), (0.2, 0.2), (0.8, 0.5)])
@pytest.mark.parametrize("by", ["loss", "random"])
def test_auto_drops_no_more_than_is_predicted_right(right, dropped, by):
    losses = np.full(N, 0.70, np.float32)  # a probability just below 1/2
    losses[: round(right * N)] = 0.69
    method = DpetAnneal(epochs=8, revisit=0.0, by=by)
    plans, _ = run(method, losses=lambda _: losses)
    assert plans[1][0].facts["dropped"] == pytest.approx(dropped)
    if by == "loss" and dropped:
        left_out = np.setdiff1d(np.arange(N), plans[1][0].index_set)
        assert left_out.max() < round(right * N)


@pytest.mark.parametrize(("visits", "dropped"), [(2 * N, 0.0), (5 * N, 0.5)])
def test_auto_goes_by_the_time_that_a_clock_leaves(visits, dropped):
    for planned in (2.0, 6.0):
        assert DpetAnneal(epochs=planned).lasting(visits, N).dropped == dropped
        fixed = DpetAnneal(epochs=planned, drop=0.2).lasting(visits, N)
        assert (fixed.epochs, fixed.dropped) == (visits / N, 0.2)


def test_full_passes_come_first():
    plans, _ = run(DpetAnneal(epochs=8, full_first=3))
    assert [plan.size for plan, _ in plans[:3]] == [N] * 3
    assert plans[3][0].size < N


def test_passes_are_whole_batches_but_for_the_end_of_the_budget():
    plans, _ = run(DpetAnneal(epochs=8), batch=64)
    *before, last = [plan.size for plan, _ in plans]
    assert all(size % 64 == 0 for size in before)
    assert before[0] == 960
    assert (sum(before) + last) == 8 * N
    # what the first pass left over has no loss yet and comes in the second
    (first, _), (second, known), *_ = plans
    unseen = np.setdiff1d(np.arange(N), first.index_set)
    assert np.isinf(known[unseen]).all()
    assert np.isin(unseen, second.index_set).all()
    # a batch as large as a pass, or larger, is no reason to train on nothing
    plans, _ = run(DpetAnneal(epochs=4), batch=1000)
    assert sum(plan.visits for plan, _ in plans) == 4 * N


def test_a_pass_says_how_much_was_learnt_before_it():
    share = 0.37
    losses = np.full(N, 1.0, np.float32)
    losses[: round(share * N)] = 0.6  # a probability of 0.55
    plans, _ = run(DpetAnneal(epochs=8, drop=0.5), losses=lambda _: losses)
    assert plans[1][0].facts["learnt"] == pytest.approx(share)
    assert plans[1][0].facts["dropped"] == pytest.approx(0.5 - 0.025)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"drop": 0.6, "drop_highest": 0.4}, "leave nothing"),
        ({"unbiased": True, "by": "random"}, "unbiased goes with by loss"),
        ({"unbiased": True, "by": "margin"}, "unbiased goes with by loss"),
        ({"by": "entropy"}, "one_minus_p"),
        ({"unbiased": True, "drop_highest": 0.1}, "unbiased goes with by loss"),
        ({"drop": "some"}, "auto"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        DpetAnneal(**keys)


# unbiased


def test_chances_have_the_mean_that_is_asked_for():
    difficulty = np.random.default_rng(0).beta(0.5, 2.0, 5000)
    for mean in (0.3, 0.5, 0.9, 1.0):
        chances = chances_of(difficulty, mean)
        assert chances.mean() == pytest.approx(mean, abs=1e-6)
        assert chances.min() >= 0.1
        assert chances.max() <= 1.0
        order = np.argsort(difficulty)
        assert (np.diff(chances[order]) >= 0).all()
    assert chances_of(np.zeros(5), 0.5).tolist() == [0.1] * 5


def test_weighted_visits_have_the_gradient_of_everything():
    rng = np.random.default_rng(1)
    chances = rng.uniform(0.1, 1.0, 400)
    values, weights = rng.normal(size=400) + 1.0, unbiased_weights(chances)
    visited = rng.random((20_000, 400)) < chances
    # a step divides by the rows of its batch: the mean number of visits
    steps = (visited * weights * values).sum(axis=1) / chances.sum()
    assert steps.mean() == pytest.approx(values.mean(), rel=0.005)


def test_two_chances_are_those_of_infobatch():
    method = InfoBatch(passes=8, prune_probability=0.4)
    state = method.start(POOL, 3)._replace(passes=2, losses=losses_of(0))
    rows, weights, _ = method.choose(state)
    easy = state.losses < state.losses.mean(dtype=np.float64)
    chances = np.where(easy, 0.6, 1.0)
    np.testing.assert_allclose(
        unbiased_weights(chances)[rows], weights * chances.mean(), rtol=1e-6
    )


def test_the_unbiased_form_visits_by_chance_and_weighs_by_its_inverse():
    plans, _ = run(DpetAnneal(epochs=8, drop=0.5, unbiased=True))
    middle = [plan for plan, _ in plans if plan.weights is not None]
    assert len(middle) >= 5
    for plan, known in plans[1:5]:
        chances = chances_of(1 - np.exp(-known.astype(np.float64)), 0.5)
        expected = chances.mean() / chances[plan.index_set]
        np.testing.assert_allclose(plan.weights, expected, rtol=1e-4)
        assert plan.size == pytest.approx(N / 2, abs=4 * (N / 4) ** 0.5)


def test_the_unbiased_form_weighs_two_levels_as_infobatch_does():
    share, easy_loss = 0.75, 0.1
    losses = np.full(N, 1e3, np.float32)
    losses[: round(share * N)] = easy_loss
    anneal = DpetAnneal(epochs=8, drop=0.3, unbiased=True)
    (_, (plan, _), *_), _ = run(anneal, losses=lambda _: losses)
    # the chance of the easy ones for which the mean is 0.7
    chance = (0.7 - (1 - share)) / share
    infobatch = InfoBatch(passes=8, prune_probability=1 - chance)
    state = infobatch.start(POOL, 0)._replace(passes=2, losses=losses)
    rows, weights, _ = infobatch.choose(state)
    theirs = {bool(losses[row] < 1): w for row, w in zip(rows, weights, strict=True)}
    ours = np.array([theirs[easy] for easy in losses[plan.index_set] < 1])
    assert len(theirs) == 2
    # theirs of mean 1 over what is visited: times the mean chance
    np.testing.assert_allclose(plan.weights, 0.7 * ours, rtol=1e-5)


# the coreset


def test_the_coreset_is_what_was_kept_but_the_hardest_of_each_class():
    method = DpetAnneal(epochs=8, drop=0.5, coreset_fraction=0.2)
    # the higher the row, the higher its loss
    _, state = run(method, losses=lambda _: np.linspace(0, 2, N, dtype=np.float32))
    coreset = method.coreset(state)
    assert np.bincount(LABELS[coreset.indices]).tolist() == [50] * 4
    for label in range(4):
        rows = np.flatnonzero(label == LABELS)
        # 30 % of 250 are too hard; of the rest the 50 with the most passes and losses
        expected = rows[::-1][75:125]
        found = coreset.indices[LABELS[coreset.indices] == label]
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))
    mean = np.linspace(0, 2, N)[coreset.indices]
    np.testing.assert_allclose(coreset.columns["mean_loss"], mean, rtol=1e-5)
    np.testing.assert_allclose(coreset.scores, mean, rtol=1e-5)
    middle = sum(plan.size < N for plan, _ in run(method)[0][:-1])
    assert coreset.columns["kept"].max() <= middle
    assert coreset.columns["kept"].min() > 0
    assert (coreset.round_index > 0).all()
    assert coreset.by_product


@pytest.mark.parametrize("keys", [{"coreset_fraction": 0.4}, {"drop": 0.0}])
def test_a_large_coreset_is_chance_within_each_class(keys):
    method = DpetAnneal(epochs=8, **keys)
    losses = np.linspace(0, 2, N, dtype=np.float32)
    coreset = method.coreset(run(method, losses=lambda _: losses)[1])
    share = method.coreset_fraction
    assert np.bincount(LABELS[coreset.indices]).tolist() == [round(250 * share)] * 4
    assert np.isnan(coreset.scores).all()
    assert losses[coreset.indices].mean() == pytest.approx(1.0, abs=0.1)
    assert coreset.columns["kept"].shape == coreset.indices.shape


def test_small_classes_keep_their_share():
    labels = np.array([0] * 90 + [1] * 10, np.int32)
    often, loss = np.arange(100), np.arange(100.0)
    rng = np.random.default_rng(0)
    rows = hard_but_learnable(labels, 95, (often, loss), rng)
    assert rows.size == np.unique(rows).size == 95
    assert np.bincount(labels[rows]).tolist() == [86, 9] or rows.size == 95


def test_no_coreset_where_none_is_asked_for():
    method = DpetAnneal(epochs=2, coreset_fraction=None)
    assert method.coreset(run(method)[1]) is None
    published = InfoBatch(passes=3)
    assert published.coreset(run(published)[1]) is None
    asked = InfoBatch(passes=3, coreset_fraction=0.1)
    assert asked.coreset(run(asked)[1]).indices.size == 100
