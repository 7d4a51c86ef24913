"""DPET: an RS2 warm-up, then a coreset that grows round by round."""

from itertools import pairwise

import numpy as np
import pytest
from fakes.learner import FixedScores, Forbidden
from pydantic import ValidationError

from dpet_jax.methods.base import Method, Pool, Span, TrainResult
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.rs2 import rs2_passes

N = 30
POOL = Pool(N, np.zeros(N, np.int32), 2)
SCORES = np.asarray((7 * np.arange(N)) % N, np.float32)


def method_of(**changes):
    return Dpet(**({"query_size": 4, "max_rounds": 3} | changes))


def pools_of(learner):
    return [pool.tolist() for _, pool, _, _ in learner.asked]


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


def test_first_plan_is_the_warm_up_of_twenty_passes_over_a_third():
    assert isinstance(method_of(), Method)
    _, (plan, *_) = run(method_of(), seed=6)
    assert plan.index_set.shape == (20, N // 3)
    np.testing.assert_array_equal(plan.index_set, rs2_passes(N, 1 / 3, 20, 6))
    assert (plan.label, plan.passes, plan.reset) == ("warm-up", 20, "none")
    assert plan.schedule is None


def test_rounds_train_on_old_and_new_together_with_a_new_optimizer():
    _, (_, *rounds) = run(method_of())
    assert [plan.label for plan in rounds] == ["round 1", "round 2", "round 3"]
    assert [plan.size for plan in rounds] == [4, 8, 12]
    for plan in rounds:
        assert (plan.passes, plan.reset, plan.weights) == (10, "optimizer", None)
        assert plan.index_set.dtype == np.int32
        assert plan.schedule is None
    for before, after in pairwise(rounds):
        assert set(before.index_set.tolist()) < set(after.index_set.tolist())


def test_warm_up_examples_are_not_removed_from_the_pool():
    learner = FixedScores(SCORES)
    run(method_of(), learner=learner)
    assert pools_of(learner)[0] == list(range(N))
    assert [len(pool) for pool in pools_of(learner)] == [30, 26, 22]


def test_rounds_add_the_most_informative_and_never_one_twice():
    learner = FixedScores(SCORES)
    state, _ = run(method_of(), learner=learner)
    assert state.indices.tolist() == np.argsort(-SCORES)[:12].tolist()
    for done, pool in enumerate(pools_of(learner)):
        assert not set(pool) & set(state.indices[: 4 * done].tolist())


def test_coreset_records_round_and_score_and_not_the_warm_up():
    method = method_of()
    empty = method.coreset(method.plan(method.start(POOL, 0), Forbidden())[0])
    assert empty.indices.size == 0
    state, plans = run(method)
    coreset = method.coreset(state)
    assert sorted(coreset.indices.tolist()) == plans[-1].index_set.tolist()
    assert coreset.round_index.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    np.testing.assert_array_equal(coreset.scores, SCORES[coreset.indices])


@pytest.mark.parametrize("max_rounds", [0, 1, 5])
def test_method_stops_after_its_rounds(max_rounds):
    method = method_of(max_rounds=max_rounds)
    state, plans = run(method)
    assert len(plans) == 1 + max_rounds
    assert method.plan(state, Forbidden())[1] is None


@pytest.mark.parametrize("score", ["margin", "random"])
@pytest.mark.parametrize(
    ("size", "sizes"),
    [(14, [14, 28, 30]), (10, [10, 20, 30]), (40, [30]), (30, [30])],
)
def test_last_query_takes_what_is_left_and_the_empty_pool_ends_the_run(
    size, sizes, score
):
    state, (_, *rounds) = run(method_of(score=score, query_size=size, max_rounds=99))
    assert [plan.size for plan in rounds] == sizes
    assert sorted(state.indices.tolist()) == list(range(N))


def test_random_control_never_asks_the_learner_and_has_the_same_sizes():
    method = method_of(score="random")
    state, plans = run(method, learner=Forbidden())
    assert method.scores == ()
    assert [plan.visits for plan in plans] == [p.visits for p in run(method_of())[1]]
    assert len(set(state.indices.tolist())) == 12
    assert np.isnan(state.scores).all()


def test_random_control_has_the_warm_up_of_every_other_score():
    control = run(method_of(score="random"), seed=3)[1][0]
    np.testing.assert_array_equal(
        control.index_set, run(method_of(), seed=3)[1][0].index_set
    )


def test_candidate_fraction_scores_only_that_share_anew_each_round():
    learner = FixedScores(SCORES)
    run(method_of(candidate_fraction=0.5), learner=learner)
    assert [len(pool) for pool in pools_of(learner)] == [15, 13, 11]
    assert len({tuple(pool) for pool in pools_of(learner)}) == 3
    first, second, _ = pools_of(learner)
    assert second != [i for i in first if i in second]


def test_dissimilarity_asks_for_two_scores_and_passes_its_weight():
    learner = FixedScores(SCORES)
    method = method_of(dissimilarity={"kind": "kl", "weight": 0.3})
    assert method.scores == ("margin", "cross_entropy")
    run(method, learner=learner)
    wanted = {"scores": ("margin", "cross_entropy"), "weight": 0.3}
    assert [options for *_, options in learner.asked] == [wanted] * 3


@pytest.mark.parametrize("compat", ["none", "artifact"])
@pytest.mark.parametrize("keep_fraction", [1.0, 0.37, 1 / 3])
@pytest.mark.parametrize("size", [1, 7, 30, 31])
@pytest.mark.parametrize("max_rounds", [0, 4, 40])
def test_planned_visits_are_those_of_a_whole_run(
    keep_fraction, size, max_rounds, compat
):
    method = method_of(
        query_size=size,
        compat=compat,
        keep_fraction=keep_fraction,
        warmup_passes=7,
        max_rounds=max_rounds,
    )
    _, plans = run(method, seed=5)
    assert method.planned_visits(POOL) == sum(plan.visits for plan in plans)


def test_seed_decides_the_plans():
    def sets(seed):
        plans = run(method_of(candidate_fraction=0.4), seed)[1]
        return [plan.index_set.tolist() for plan in plans]

    assert sets(1) == sets(1)
    for left, right in zip(sets(1), sets(2), strict=True):
        assert left != right


# the authors' code, quirks included


def artifact_warm_up(num_examples, **changes):
    method = method_of(compat="artifact", **changes)
    pool = Pool(num_examples, np.zeros(num_examples, np.int32), 2)
    return method.plan(method.start(pool, 2), Forbidden())[1]


def test_artifact_finishes_the_shuffled_order_it_is_in():
    plan = artifact_warm_up(31)
    assert plan.index_set.shape == (21, 10)
    assert (plan.passes, plan.label) == (21, "warm-up")
    for order in plan.index_set.reshape(7, 30).tolist():
        assert len(set(order)) == 30  # the remainder of one is dropped
        assert set(order) <= set(range(31))
    assert len({tuple(order) for order in plan.index_set.reshape(7, 30).tolist()}) == 7


@pytest.mark.parametrize(
    ("keep_fraction", "warmup_passes", "shape"),
    [(1.0, 5, (5, 31)), (0.5, 5, (6, 15)), (0.3, 20, (21, 10)), (0.25, 8, (8, 7))],
)
def test_artifact_cuts_orders_into_whole_chunks(keep_fraction, warmup_passes, shape):
    plan = artifact_warm_up(
        31, keep_fraction=keep_fraction, warmup_passes=warmup_passes
    )
    assert plan.index_set.shape == shape


def test_artifact_schedule_lasts_ten_warm_up_passes_and_climbs_again():
    assert artifact_warm_up(31).schedule == Span(0, 100, cyclic=True)
    assert artifact_warm_up(31, passes_per_round=4).schedule == Span(0, 40, True)


def test_artifact_asks_for_its_own_score_and_leaves_the_rounds_as_they_are():
    learner = FixedScores(SCORES)
    method = method_of(dissimilarity={"kind": "kl"}, compat="artifact")
    assert method.scores == ("artifact_margin_kl",)
    _, (_, *rounds) = run(method, learner=learner)
    assert learner.asked[0][3]["scores"] == ("artifact_margin_kl",)
    assert [plan.size for plan in rounds] == [4, 8, 12]
    assert {plan.schedule for plan in rounds} == {None}


# keys


def test_dpet_defaults_are_the_papers():
    method = Dpet()
    assert method.warmup_passes == 20
    assert method.keep_fraction == 1 / 3
    assert method.query_size == 1000
    assert method.passes_per_round == 10
    assert method.dissimilarity.kind == "none"
    assert method.candidate_fraction == 1.0
    assert method.compat == "none"
    assert method.proxy is None


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("keep_fraction", 0),
        ("keep_fraction", 1.01),
        ("candidate_fraction", 0),
        ("query_size", 0),
        ("warmup_passes", 0),
        ("max_rounds", -1),
        ("score", "zero_one"),
        ("proxy", {"width_multiplier": 0}),
        ("proxy", {"width_multiplier": 1.5}),
        ("proxy", {"depth_multiplier": 0.5}),
        ("dissimilarity", {"kind": "kl", "weight": 1.1}),
        ("keep_fraction", float("nan")),
    ],
)
def test_dpet_refuses_what_it_cannot_train_on(key, bad):
    with pytest.raises(ValidationError):
        Dpet(**{key: bad})


@pytest.mark.parametrize("changes", [{"keep_fraction": 1}, {"max_rounds": 0}])
def test_dpet_takes_the_borders_of_its_ranges(changes):
    assert Dpet(**changes).model_dump().items() >= changes.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "random", "dissimilarity": {"kind": "kl"}},
        {"compat": "artifact", "score": "el2n"},
        {"compat": "artifact", "score": "random"},
        {"compat": "artifact", "candidate_fraction": 0.5},
        {"compat": "artifact", "proxy": {"width_multiplier": 0.5}},
        {"compat": "artifact", "diversity": {"kind": "badge"}},
        {"score": "random", "diversity": {"kind": "k_center"}},
        {"score": "random", "proxy": {"width_multiplier": 0.5}},
    ],
)
def test_dpet_refuses_settings_that_contradict_each_other(changes):
    with pytest.raises(ValidationError, match="value_error"):
        Dpet(**changes)
    for key in changes:
        rest = {name: value for name, value in changes.items() if name != key}
        Dpet(**rest)
