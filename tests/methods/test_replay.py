"""Replay: which old examples a round trains on, what that costs, and boosts."""

import json
from itertools import pairwise

import numpy as np
import pytest
from fakes.learner import FixedScores, Forbidden
from pydantic import ValidationError

from dpet_jax.methods.active_learning import ActiveLearning
from dpet_jax.methods.base import Pool, Selection, TrainResult
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.query import RoundState
from dpet_jax.methods.replay import REPLAYS, Balanced, Reservoir
from dpet_jax.methods.rounds import sizes_of_rounds
from dpet_jax.run.counters import Counters
from dpet_jax.run.position import Position
from dpet_jax.section import kind_of

N = 60
LABELS = np.asarray(np.arange(N) % 3, np.int32)
POOL = Pool(N, LABELS, 3)
SCORES = np.asarray((7 * np.arange(N)) % N, np.float32)
KINDS = [kind_of(replay) for replay in REPLAYS]
MEMORIES = ["uniform", "balanced", "herding", "loss", "reservoir"]


def dpet(replay, **changes):
    options = {"warmup_passes": 2, "query_size": 6, "passes_per_round": 4}
    options |= {"max_rounds": 5, "replay": replay}
    return Dpet(**(options | changes))


def active_learning(replay, **changes):
    options = {"initial_size": 4, "query_size": 6, "passes_per_round": 4}
    options |= {"max_rounds": 5, "from_scratch": False, "replay": replay}
    return ActiveLearning(**(options | changes))


def trained(plan, loss=None):
    rows = np.unique(plan.index_set)
    losses = np.asarray(1 + rows % 5 if loss is None else np.full(rows.size, loss))
    return TrainResult(rows, losses.astype(np.float32), rows > 0, 0.0 * rows)


def play(method, seed=0, learner=None, pool=POOL, losses=None, through=lambda s: s):
    """Return the states before each plan is observed, and the plans."""
    learner = learner or FixedScores(SCORES)
    state, states, plans = method.start(pool, seed), [], []
    while True:
        state, plan = method.plan(through(state), learner)
        if plan is None:
            return states, plans
        states.append(state)
        plans.append(plan)
        loss = losses(plan.label) if losses else None
        state = method.observe(through(state), trained(plan, loss))


def rounds_of(method, **options):
    """Return new, old and the rows of each pass, for each round."""
    found = []
    for state, plan in zip(*play(method, **options), strict=True):
        if plan.label.startswith("round "):
            rows = np.broadcast_to(plan.index_set, (plan.passes, plan.size))
            found.append((set(state.new.tolist()), set(state.old.tolist()), rows))
    return found


def through_a_checkpoint(state):
    """Save and restore a state, as a run that is resumed does."""
    saved = Position(state, Counters(1)).saved()
    restored = Position(RoundState.begin(1, 1), Counters(1))
    restored.restore(saved[0], json.loads(json.dumps(saved[1])))
    return restored.state


# every kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_holds_the_new_ones_and_old_ones_each_once(kind):
    for new, old, rows in rounds_of(dpet({"kind": kind})):
        for row in rows.tolist():
            assert len(set(row)) == len(row)
            assert row == sorted(row)
            assert new <= set(row) <= new | old
        assert rows.dtype == np.int32


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_selects_the_same_examples(kind):
    expected = play(dpet({"kind": "all"}))[0][-1]
    found = play(dpet({"kind": kind}))[0][-1]
    np.testing.assert_array_equal(found.indices, expected.indices)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [dpet, active_learning])
def test_a_state_that_went_through_checkpoints_gives_the_same_plans(kind, make):
    method = make({"kind": kind, "anchor": 0.3}, boost={"threshold": 9})
    _, plans = play(method)
    _, again = play(method, through=through_a_checkpoint)
    assert len(plans) > 5
    for left, right in zip(plans, again, strict=True):
        assert left.label == right.label
        np.testing.assert_array_equal(left.index_set, right.index_set)


@pytest.mark.parametrize("make", [dpet, active_learning])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("anchor", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("sizes", [(6, 5, 4), (7, 99, 3), (60, 3, 2), (1, 9, 2)])
def test_planned_visits_are_those_of_a_whole_run(make, kind, anchor, sizes):
    replay = {"kind": kind, "anchor": anchor}
    if kind in MEMORIES:
        replay["ratio"] = 1.5
    query_size, max_rounds, passes = sizes
    method = make(
        replay, query_size=query_size, max_rounds=max_rounds, passes_per_round=passes
    )
    _, plans = play(method, seed=4)
    assert method.planned_visits(POOL) == sum(plan.visits for plan in plans)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_which_old_ones_are_drawn(kind):
    def sets(seed):
        random = dpet({"kind": kind}, score="random")
        return [plan.index_set.tolist() for plan in play(random, seed)[1]]

    assert sets(1) == sets(1)
    assert sets(1)[-1] != sets(2)[-1]


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"herding"}))
def test_only_herding_asks_the_learner(kind):
    method = dpet({"kind": kind}, score="random")
    assert method.scores == ()
    assert len(play(method, learner=Forbidden())[1]) == 6


# what a round costs, by the formulas


def cost(kind, rounds=20, passes=10, **replay):
    """Return the cost of rounds of 1,000 of 50,000, in passes over all data."""
    pool = Pool(50_000, np.zeros(50_000, np.int32), 1)
    shape = {"query_size": 1000, "passes_per_round": passes}
    shape |= {"keep_fraction": 1, "warmup_passes": 1}
    method = Dpet(replay={"kind": kind, **replay}, max_rounds=rounds, **shape)
    return method.planned_visits(pool) / 50_000 - 1


def test_all_costs_what_the_growing_set_does():
    assert cost("all") == pytest.approx(10 * 1000 * (20 * 21 / 2) / 50_000)
    assert cost("all") == pytest.approx(42)


def test_chunks_cost_twice_the_new_ones_and_more_once_there_are_more_than_passes():
    assert cost("chunk") == pytest.approx(8.7)
    assert cost("chunk", rounds=11) == pytest.approx((1 + 10 * 2) * 10 / 50)


def test_new_ones_alone_cost_themselves():
    assert cost("none") == pytest.approx(20 * 10 / 50)


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_memory_costs_its_share_of_the_new_ones_once_it_is_full(kind):
    assert cost(kind) == pytest.approx((1 + 19 * 2) * 10 / 50)
    assert cost(kind, ratio=0.5) == pytest.approx((1 + 19 * 1.5) * 10 / 50)
    # full after 1,000, 2,000 and 3,000 old ones
    assert cost(kind, ratio=3) == pytest.approx((1 + 2 + 3 + 17 * 4) * 10 / 50)
    assert cost(kind, ratio=99) == pytest.approx(42)


def test_an_anchor_is_a_share_of_the_whole_pass():
    assert cost("none", anchor=0.2) == pytest.approx(20 * 10 / 50 / 0.8)
    assert cost("all", rounds=3, anchor=0.5) == pytest.approx(6 * 10 / 50 * 2)
    # a pass is at most all data
    assert cost("none", rounds=1, anchor=0.99) == pytest.approx(10)


# one kind after another


def test_all_is_the_default_and_one_row():
    assert dpet({"kind": "all"}) == dpet({})
    assert Dpet().replay.kind == ActiveLearning().replay.kind == "all"
    for state, plan in list(zip(*play(dpet({})), strict=True))[1:]:
        np.testing.assert_array_equal(plan.index_set, np.sort(state.indices))
        assert (plan.learning_rate, plan.learning_rate_factor) == (None, 1.0)


def test_none_trains_on_new_ones_alone():
    for new, _, rows in rounds_of(dpet({"kind": "none"})):
        assert all(set(row) == new for row in rows.tolist())


def test_chunks_take_turns_and_leave_no_old_one_out():
    found = rounds_of(dpet({"kind": "chunk"}, max_rounds=8))
    # min(floor(old / 6), 4) chunks of 6, 12, ... old ones
    sizes = [0, 6, 6, 6, 6, 8, 9, 11]
    for (new, old, rows), size in zip(found, sizes, strict=True):
        chunks = [frozenset(row) - new for row in rows.tolist()]
        assert {len(chunk) for chunk in chunks} == {size}
        count = max(1, min(len(old) // 6, 4))
        assert set().union(*chunks) == old
        assert all(a == b for a, b in zip(chunks, chunks[count:], strict=False))
        shared = sum(map(len, set(chunks))) - len(old)
        assert shared == count * size - len(old)


def test_chunks_are_shuffled_anew_in_each_round():
    orders = [rows[0] for _, _, rows in rounds_of(dpet({"kind": "chunk"}))]
    second = [row for row in orders[2].tolist() if row in orders[1]]
    assert len(second) < 12


def test_fewer_old_than_new_ones_are_one_chunk():
    *_, rows = rounds_of(active_learning({"kind": "chunk"}))[1]
    assert rows.shape == (4, 10)
    assert (rows == rows[0]).all()


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_memory_is_the_same_in_all_passes_and_full(kind):
    for new, old, rows in rounds_of(dpet({"kind": kind, "ratio": 2})):
        assert (rows == rows[0]).all()
        assert len(set(rows[0].tolist()) - new) == min(12, len(old))


def test_uniform_draws_every_old_one_as_often():
    method = dpet({"kind": "uniform"}, score="margin", max_rounds=4)
    counts = np.zeros(N)
    for seed in range(300):
        new, old, rows = rounds_of(method, seed=seed)[-1]
        counts[sorted(set(rows[0].tolist()) - new)] += 1
    # binomial: 300 draws of 6 of 18, mean 100, standard deviation 8
    assert (np.abs(counts[sorted(old)] - 100) < 40).all()


def state_after(sizes, seed=0, labels=LABELS):
    """Return a state whose rounds have added 0, 1, 2, ... in this order."""
    state, start = RoundState.begin(N, seed)._replace(known=labels), 0
    for index, size in enumerate(sizes):
        rows = np.arange(start, start + size, dtype=np.int32)
        state = state.extended(index, Selection(rows, np.zeros(size, np.float32)))
        start += size
    return state


def test_reservoir_only_replaces_what_it_holds_by_what_came_last():
    before = state_after([5, 5, 5, 5])
    for count in range(2, 8):
        after = state_after([5] * (count + 1))
        before = state_after([5] * count)
        memory = Reservoir().old_rows(before, 1, Forbidden())
        later = Reservoir().old_rows(after, 1, Forbidden())
        assert set(later.tolist()) <= {*memory.tolist(), *before.new.tolist()}
        same = later == memory
        np.testing.assert_array_equal(np.isin(later[~same], before.new), True)


def test_reservoir_is_a_uniform_sample_of_all_old_ones():
    counts = np.zeros(30)
    for seed in range(500):
        memory = Reservoir().old_rows(state_after([30, 6], seed), 1, Forbidden())
        assert len(set(memory.tolist())) == 6
        counts[memory] += 1
    # binomial: 500 draws of 6 of 30, mean 100, standard deviation 9
    assert (np.abs(counts - 100) < 45).all()


def test_balanced_keeps_equal_shares_of_unequal_classes():
    # 40, 8 and 2 of the three classes
    labels = np.repeat([0, 1, 2, 0], [20, 8, 2, 30]).astype(np.int32)
    for seed in range(20):
        state = state_after([25, 25, 10], seed, labels)
        memory = Balanced().old_rows(state, 1, Forbidden())
        assert len(set(memory.tolist())) == 10
        np.testing.assert_array_equal(np.bincount(labels[memory]), [4, 4, 2])


def test_balanced_samples_each_class_uniformly():
    labels = np.repeat([0, 1], [40, 20]).astype(np.int32)
    counts = np.zeros(N)
    for seed in range(500):
        # the stream has 40 of one class, then 12 of another, and 8 are new
        state = state_after([30, 22, 8], seed, labels)
        counts[Balanced().old_rows(state, 1, Forbidden())] += 1
    # 500 draws of 4 of 40, mean 50; and of 4 of 12, mean 167
    assert (np.abs(counts[:40] - 50) < 35).all()
    assert (np.abs(counts[40:52] - 500 / 3) < 60).all()
    assert counts[52:].sum() == 0


def test_balanced_only_replaces_what_it_holds_by_what_came_last():
    for count in range(2, 8):
        before, after = state_after([5] * count), state_after([5] * (count + 1))
        memory = Balanced().old_rows(before, 1, Forbidden())
        later = Balanced().old_rows(after, 1, Forbidden())
        assert set(later.tolist()) <= {*memory.tolist(), *before.new.tolist()}


def test_herding_asks_for_old_ones_class_by_class_once_there_are_too_many():
    learner = FixedScores(SCORES)
    method = dpet({"kind": "herding"})
    assert method.scores == ("margin", "logits", "features")
    assert dpet({"kind": "herding"}, diversity={"kind": "badge"}).scores == (
        "margin",
        "logits",
        "features",
    )
    states, plans = play(method, learner=learner)
    asked = [one for one in learner.asked if one[0] == "herding"]
    # rounds 1 and 2 have nothing to choose
    for (_, pool, size, options), state, plan in zip(
        asked, states[3:], plans[3:], strict=True
    ):
        assert pool.tolist() == sorted(state.old.tolist())
        assert (size, options) == (6, {"per_class": True})
        chosen = pool[np.argsort(-SCORES[pool], kind="stable")][:6]
        assert set(plan.index_set.tolist()) == {*chosen.tolist(), *state.new.tolist()}


def test_loss_draws_in_proportion_to_the_last_losses():
    method = dpet({"kind": "loss", "ratio": 1 / 6}, max_rounds=4)
    counts = np.zeros(N)
    for seed in range(1000):
        new, old, rows = rounds_of(method, seed=seed)[-1]
        counts[sorted(set(rows[0].tolist()) - new)] += 1
    old = np.array(sorted(old))
    expected = 1000 * (1 + old % 5) / (1 + old % 5).sum()
    assert counts.sum() == 1000
    assert (np.abs(counts[old] - expected) < 5 * np.sqrt(expected)).all()


def test_loss_takes_those_without_any_last():
    def played(loss_of):
        method = dpet({"kind": "loss", "ratio": 1.5}, max_rounds=3)
        state = method.start(POOL, 0)
        for _ in range(4):
            state, plan = method.plan(state, FixedScores(SCORES))
            result = trained(plan)
            losses = loss_of(result.index_set).astype(np.float32)
            state = method.observe(state, result._replace(losses=losses))
        return state, set(plan.index_set.tolist()) - set(state.new.tolist())

    state, memory = played(lambda rows: np.where(rows % 3 == 0, 2.0, 0.0))
    assert len(memory) == 9
    assert {row for row in state.old.tolist() if row % 3 == 0} <= memory
    assert len(played(lambda rows: 0.0 * rows)[1]) == 9


def test_loss_keeps_only_the_last_losses():
    method = dpet({"kind": "loss"})
    states, _ = play(method, losses=lambda label: float(label == "round 5"))
    state = method.observe(
        states[-1],
        TrainResult(
            *(np.array(x) for x in ([3], [0.25], [True], [0.0])),
        ),
    )
    assert state.known[3] == 0.25


def test_anchors_are_drawn_anew_for_each_pass_from_all_other_data():
    drawn = []
    for new, old, rows in rounds_of(dpet({"kind": "none", "anchor": 0.5})):
        for row in rows.tolist():
            anchors = set(row) - new
            assert (len(set(row)), len(anchors)) == (12, 6)
            drawn.append(frozenset(anchors))
        assert any(set(row) & old for row in rows.tolist()) or not old
    assert len(set(drawn)) == len(drawn) == 20


def test_anchors_go_with_chunks_in_one_plan():
    method = dpet({"kind": "chunk", "anchor": 0.25})
    for (new, old, rows), (_, _, bare) in zip(
        rounds_of(method), rounds_of(dpet({"kind": "chunk"})), strict=True
    ):
        for row, without in zip(rows.tolist(), bare.tolist(), strict=True):
            assert set(without) < set(row)
            assert len(set(row)) == round(len(without) / 0.75)
        assert new | old <= set(rows.ravel().tolist())


# rates and restarts


def test_a_rounds_rate_is_not_that_of_the_warm_up():
    _, (warm_up, *rounds) = play(dpet({}, round_learning_rate=0.02))
    assert warm_up.learning_rate is None
    assert {plan.learning_rate for plan in rounds} == {0.02}


@pytest.mark.parametrize("make", [dpet, active_learning])
def test_the_optimizer_goes_on_where_it_is_not_restarted(make):
    assert {plan.reset for plan in play(make({}))[1][1:]} == {"optimizer"}
    assert {plan.reset for plan in play(make({}, restart=False))[1]} == {"none"}


# boosts


def falling(label):
    """Return losses of rounds: 2, 1, 0.95, 0.5, 0.48; boosts have 100."""
    kind, _, number = label.partition(" ")
    return {"boost": 100.0}.get(kind) or dict(
        enumerate([2.0, 2.0, 1.0, 0.95, 0.5, 0.48])
    ).get(int(number or 0), 1.9)


def test_a_boost_follows_a_round_that_hardly_lowered_the_loss():
    _, plans = play(dpet({}, boost={}, max_rounds=6), losses=falling)
    labels = [plan.label for plan in plans]
    # the warm-up is no round, so nothing comes before round 1
    assert labels == [
        *("warm-up", "round 1", "round 2", "round 3", "boost 3"),
        *("round 4", "round 5", "boost 5", "round 6"),
    ]
    boost = plans[4]
    assert boost.index_set.shape == (10, N // 3)
    assert (boost.passes, boost.reset) == (10, "optimizer")
    assert (boost.learning_rate, boost.learning_rate_factor) == (None, 0.1)
    # without replacement, as RS2 is
    assert len(set(boost.index_set[:3].ravel().tolist())) == N
    assert (boost.index_set != plans[7].index_set).any()


@pytest.mark.parametrize(("threshold", "boosts"), [(0.049, 1), (0.051, 2), (0.6, 4)])
def test_the_threshold_is_relative_to_the_loss_before(threshold, boosts):
    # 2 to 1 by 50 %, 1 to 0.95 by 5 %, 0.95 to 0.5 by 47 %, 0.5 to 0.48 by 4 %
    method = dpet({}, boost={"threshold": threshold}, max_rounds=6)
    labels = [plan.label for plan in play(method, losses=falling)[1]]
    assert sum(label.startswith("boost") for label in labels) == boosts


def test_a_rising_loss_is_no_better_than_a_still_one():
    method = dpet({}, boost={}, max_rounds=3)
    labels = [
        p.label for p in play(method, losses=lambda label: 1 + len(label) / 1e3)[1]
    ]
    assert "boost 2" in labels
    rising = play(method, losses=lambda label: float(label[-1].replace("p", "0")))[1]
    assert "boost 2" not in [plan.label for plan in rising]


@pytest.mark.parametrize("make", [dpet, active_learning])
@pytest.mark.parametrize(
    ("query_size", "max_rounds"), [(6, 5), (25, 9), (6, 1), (6, 2)]
)
def test_planned_visits_have_a_boost_wherever_there_may_be_one(
    make, query_size, max_rounds
):
    shape = {"query_size": query_size, "max_rounds": max_rounds}
    boost = {"passes": 3, "keep_fraction": 0.25, "learning_rate_factor": 0.5}
    method = make({"kind": "chunk"}, boost=boost, **shape)
    _, plans = play(method, losses=lambda _: 1.0)
    assert method.planned_visits(POOL) == sum(plan.visits for plan in plans)
    _, plans = play(method, losses=lambda label: 1.0 if "boost" in label else 0.0)
    fewer = make({"kind": "chunk"}, **shape).planned_visits(POOL)
    assert fewer == sum(plan.visits for plan in plans)


def test_no_boost_comes_without_a_query_after_it():
    for method in (dpet({}, boost={}), dpet({}, boost={}, query_size=20, max_rounds=9)):
        _, plans = play(method, losses=lambda _: 1.0)
        assert plans[-1].label.startswith("round ")


# keys


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        *((kind, {"kind", "anchor"}) for kind in ("all", "none", "chunk")),
        *((kind, {"kind", "anchor", "ratio"}) for kind in MEMORIES),
    ],
)
def test_a_kind_has_the_keys_that_it_reads(kind, keys):
    assert set(dpet({"kind": kind}).replay.model_dump()) == keys


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "chunk", "ratio": 2},
        {"kind": "der"},
        {"anchor": 1},
        {"anchor": -0.1},
        {"kind": "uniform", "ratio": 0},
    ],
)
def test_a_replay_refuses_what_it_cannot_do(bad):
    with pytest.raises(ValidationError):
        dpet(bad)


def test_labels_tell_a_replay_that_is_not_the_usual_one():
    assert dpet({}).label == "DPET (margin)"
    assert dpet({"kind": "loss"}).label == "DPET (margin), replay loss"


@pytest.mark.parametrize(
    "changes",
    [
        {"replay": {"kind": "chunk"}},
        {"replay": {"anchor": 0.1}},
        {"round_learning_rate": 0.1},
        {"restart": False},
        {"boost": {}},
    ],
)
def test_the_authors_code_has_none_of_it(changes):
    with pytest.raises(ValidationError, match=rf"leave {next(iter(changes))} as"):
        Dpet(compat="artifact", **changes)
    Dpet(compat="artifact", replay={"kind": "all"}, restart=True)


@pytest.mark.parametrize("changes", [{"restart": False}, {"boost": {}}])
def test_new_parameters_have_nothing_to_go_on_with(changes):
    with pytest.raises(ValidationError, match="set from_scratch: false"):
        active_learning({}, from_scratch=True, **changes)
    active_learning({}, **changes)


@pytest.mark.parametrize(
    ("before", "size", "rounds", "sizes"),
    [
        (0, 3, 3, [(3, 0), (3, 3), (3, 6)]),
        (4, 3, 2, [(3, 4), (3, 7)]),
        (0, 25, 9, [(25, 0), (25, 25), (10, 50)]),
        (60, 1, 5, []),
        (0, 60, 5, [(60, 0)]),
    ],
)
def test_sizes_of_rounds_by_hand(before, size, rounds, sizes):
    assert sizes_of_rounds(before, size, rounds, N) == sizes


def test_the_examples_of_a_state_are_new_or_old():
    state = state_after([3, 4, 2])
    assert (state.old.size, state.new.tolist()) == (7, [7, 8])
    assert state.last_round == 2
    for left, right in pairwise([state_after([3]), state_after([3, 4])]):
        assert right.old.tolist() == left.new.tolist()
