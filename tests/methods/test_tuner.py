"""The tuner: its rules as functions of numbers, and DPET's plans under them."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from fakes.learner import FixedScores
from pydantic import ValidationError

from dpet_jax.errors import DivergedError
from dpet_jax.methods import tuner as rules
from dpet_jax.methods.base import MAIN, Cost, Pool, Selection, Span, TrainResult
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.query import Known
from dpet_jax.methods.tuner import TunerConfig
from dpet_jax.run.counters import Counters
from dpet_jax.run.position import Position

N = 80
POOL = Pool(N, np.asarray(np.arange(N) % 4, np.int32), 4)
OFF = dict.fromkeys(("warmup", "query_size", "passes", "score", "replay"))


def only(*names, **changes):
    """Return the keys of a tuner with some of its rules."""
    return {k: v for k, v in OFF.items() if k not in names} | changes


# the rules


def test_smoothing_moves_by_its_share_of_the_difference():
    assert rules.smoothed(np.array([4.0, 0.0, 2.0]), 0.5).tolist() == [4.0, 2.0, 2.0]
    assert rules.smoothed(np.array([4.0, 0.0]), 0.25).tolist() == [4.0, 3.0]
    assert rules.smoothed(np.zeros(0), 0.5).size == 0


def test_gains_are_what_the_loss_fell_by_over_the_later_cost():
    found = rules.gains(np.array([2.0, 1.5, 1.6]), np.array([9.0, 0.5, 0.1]))
    np.testing.assert_allclose(found, [1.0, -1.0])
    unknown = rules.gains(np.array([2.0, 1.0]), np.array([1.0, math.nan]))
    assert np.isnan(unknown).all()


@pytest.mark.parametrize(
    ("gain", "share", "rounds_gain", "ends"),
    [
        ([], 0.1, None, False),
        ([1.0], 0.1, None, False),
        ([1.0, 0.11], 0.1, None, False),
        ([1.0, 0.09], 0.1, None, True),
        ([0.2, 1.0, 0.15], 0.1, None, False),  # the best, and not the first, counts
        ([1.0, -0.1], 0.0, None, True),
        ([1.0, 0.5], 0.1, 0.6, True),
        ([1.0, 0.5], 0.1, 0.4, False),
        ([1.0, math.nan], 0.1, 5.0, False),
        ([-1.0, -0.04], 0.1, 0.6, False),  # nothing was gained yet
        ([-1.0, 0.4, 0.03], 0.1, None, True),
    ],
)
def test_warm_up_ends_below_a_share_of_its_best_or_below_a_round(
    gain, share, rounds_gain, ends
):
    assert rules.leaves_warm_up(np.array(gain), share, rounds_gain) is ends


@pytest.mark.parametrize(
    ("gain", "promised", "ends"),
    [
        ([0.2], None, False),
        ([0.2], 0.1, False),
        ([0.1], 0.2, True),
        ([0.3, 0.1], 0.2, True),
        ([math.nan, 0.1], 0.2, True),
        ([math.nan], 0.2, False),
        ([], 0.2, False),
        # the rate has risen, and what it costs is not yet won back
        ([-0.4, -0.1], 0.2, False),
        ([-0.4, 0.1], 0.2, True),
    ],
)
def test_round_ends_below_what_a_new_one_promises_once_it_has_gained(
    gain, promised, ends
):
    assert rules.round_ends(np.array(gain), promised) is ends


@pytest.mark.parametrize(
    ("given", "left", "share", "passes"),
    [
        (8, 12, 0.2, 2),
        (9, 12, 0.2, 3),
        (1, 12, 0.2, 1),
        (16, 2, 0.2, 2),
        (8, 9, 0.0, 0),
    ],
)
def test_cooldown_is_a_share_of_all_passes_as_far_as_some_are_left(
    given, left, share, passes
):
    assert rules.cooldown_passes(given, left, share) == passes


@pytest.mark.parametrize(
    ("size", "doublings", "sizes"),
    [
        (1000, 2, (250, 500, 1000, 2000, 4000)),
        (10, 2, (5, 10, 20, 40)),
        (7, 1, (7, 14)),
        (8, 0, (8,)),
    ],
)
def test_query_sizes_are_multiples_of_the_smallest(size, doublings, sizes):
    assert rules.query_sizes(size, doublings) == sizes
    assert all(known % sizes[0] == 0 for known in sizes)


@pytest.mark.parametrize(
    ("size", "unlearned", "gain", "wanted"),
    [
        (1000, 0.2, 0.1, 1000),  # two rounds at this pace are left
        (1000, 0.3, 0.05, 4000),  # 3000 is nearer to 4000 than to 2000, by logarithm
        (1000, 0.27, 0.05, 2000),
        (500, 0.01, 0.1, 250),
        (2000, 0.5, -0.1, 4000),  # a loss asks for the most that there is, no more
        (1000, 0.004, 0.0, 1000),
    ],
)
def test_query_size_follows_what_is_left_over_the_last_gain(
    size, unlearned, gain, wanted
):
    sizes = rules.query_sizes(1000, 2)
    assert rules.next_query_size(size, unlearned, gain, sizes, 0.002) == wanted


def test_exploration_is_that_of_the_corollary():
    assert rules.gamma_of(4, 40) == pytest.approx(0.284041, abs=1e-6)
    assert rules.gamma_of(4, 1) == 1.0
    assert rules.gamma_of(2, 0) == pytest.approx(0.898215, abs=1e-5)


def test_exp3_is_that_of_figure_1_on_plain_weights():
    rng, gamma, weights = np.random.default_rng(0), 0.3, np.ones(4)
    log_weights = np.zeros(4)
    for _ in range(50):
        chances = rules.exp3_chances(log_weights, gamma)
        expected = (1 - gamma) * weights / weights.sum() + gamma / 4
        np.testing.assert_allclose(chances, expected, rtol=1e-9)
        assert chances.sum() == pytest.approx(1)
        arm, reward = int(rng.choice(4, p=chances)), float(rng.random())
        weights[arm] *= np.exp(gamma * (reward / chances[arm]) / 4)
        log_weights = rules.exp3_updated(
            log_weights, arm, float(chances[arm]), reward, gamma
        )


def test_exp3_comes_to_prefer_the_arm_that_pays():
    rng, gamma, log_weights = np.random.default_rng(1), 0.1, np.zeros(4)
    drawn = np.zeros(4)
    for _ in range(2000):
        chances = rules.exp3_chances(log_weights, gamma)
        arm = int(rng.choice(4, p=chances))
        drawn[arm] += 1
        reward = float(rng.random() < (0.6 if arm == 2 else 0.3))
        log_weights = rules.exp3_updated(
            log_weights, arm, float(chances[arm]), reward, gamma
        )
    assert drawn[2] > 0.6 * drawn.sum()
    huge = rules.exp3_chances(np.array([4000.0, 0.0]), 0.5)  # exp would overflow
    np.testing.assert_allclose(huge, [0.75, 0.25])


def test_reward_is_the_share_that_an_epoch_at_this_pace_learns():
    assert rules.reward_of(0.4, 0.2, 1.0) == pytest.approx(0.5)
    assert rules.reward_of(0.4, 0.2, 0.5) == pytest.approx(0.75)
    assert rules.reward_of(0.4, 0.2, 2) == pytest.approx(1 - math.sqrt(0.5))
    assert rules.reward_of(0.4, 0.5, 1.0) == 0
    assert rules.reward_of(0.0, 0.0, 1.0) == 0
    assert rules.reward_of(0.4, 0.0, 1.0) == 1


def test_replay_grows_with_what_was_forgotten_within_its_bounds():
    learnt, now = np.array([0.8, 0.4]), np.array([0.7, 0.2])
    assert rules.forgotten_share(learnt, now) == pytest.approx(0.25)
    assert rules.forgotten_share(now, learnt) == 0
    assert rules.forgotten_share(now[:0], now[:0]) == 0
    assert rules.next_ratio(1.0, 0.06, 0.05, (0.25, 4.0)) == pytest.approx(1.2)
    assert rules.next_ratio(1.0, 0.9, 0.05, (0.25, 4.0)) == 2
    assert rules.next_ratio(1.0, 0.0, 0.05, (0.25, 4.0)) == 0.5
    assert rules.next_ratio(3.0, 0.9, 0.05, (0.25, 4.0)) == 4
    assert rules.next_ratio(0.3, 0.0, 0.05, (0.25, 4.0)) == 0.25


def test_rows_that_fill_up_a_step_are_an_eighth_of_a_piece_at_most():
    for size in (1, 30, 64, 100, 511, 512, 5000):
        passes = rules.passes_of_piece(size, 64)
        visits = passes * size
        assert (-visits % 64) / visits <= 1 / 8
        assert passes == 1 or (passes - 1) * size < 8 * 64


@pytest.mark.parametrize(
    ("given", "passes", "most"), [(6, 2, 20), (1, 1, 8), (5, 3, 8)]
)
def test_last_piece_takes_the_schedule_from_where_it_is_to_its_end(given, passes, most):
    assert rules.place_of_piece(given, passes, most, 50, last=False) == Span(
        50 * given, 50 * most
    )
    last = rules.place_of_piece(given, passes, most, 50, last=True)
    assert last.start / last.horizon == pytest.approx(given / most, abs=0.01)
    assert last.start + 50 * passes == last.horizon


def every_sequence(cost, sizes, rounds, num_examples, old=0):
    if rounds == 0 or old == num_examples:
        return 0
    found = []
    for size in sizes:
        new = min(size, num_examples - old)
        rest = every_sequence(cost, sizes, rounds - 1, num_examples, old + new)
        found.append(cost(new, old) + rest)
    return max(found)


@pytest.mark.parametrize("rounds", [0, 1, 3, 6])
@pytest.mark.parametrize("num_examples", [3, 8, 11, 26])
@pytest.mark.parametrize(
    "cost",
    [
        lambda new, old: new + old,
        lambda new, _: new,
        lambda new, old: new + -(-old // max(1, min(old // new, 4))),
        lambda new, old: min(26, round((new + min(2 * new, old)) / 0.75)),
    ],
    ids=["all", "none", "chunk", "memory and anchor"],
)
def test_most_visits_are_those_of_the_worst_sequence(cost, num_examples, rounds):
    sizes = (2, 4, 8)
    expected = every_sequence(cost, sizes, rounds, num_examples)
    assert rules.most_visits(cost, sizes, rounds, num_examples) == expected


# DPET under them


class Looks(FixedScores):
    """Scores from a table, and losses that fall by a share from look to look.

    Attributes:
        looked: Names and positions of every `score`.
        losses: float32[n], now.
    """

    batch_size = 4

    def __init__(self, fall=0.8):
        super().__init__((7 * np.arange(N)) % N)
        self.fall, self.looked = fall, []
        self.losses = 0.5 + np.arange(N, dtype=np.float32) / N

    def score(self, names, index_set, model=MAIN):
        assert model == MAIN
        self.looked.append((names, index_set.copy()))
        kinds = {"cross_entropy": self.losses}
        found = {name: kinds.get(name, self.scores)[index_set] for name in names}
        if "cross_entropy" in names:
            self.losses = self.losses * np.float32(self.fall)
        return found

    def select(self, selector, index_set, num_select, model=MAIN, **options):
        assert model == MAIN
        values = options.pop("values", None)
        self.asked.append((selector, index_set.copy(), num_select, options))
        if values is not None:  # as good as scored here, so that mistakes show
            np.testing.assert_array_equal(values, self.scores[index_set])
        best = index_set[np.argsort(-self.scores[index_set], kind="stable")]
        return Selection(best[:num_select], self.scores[best[:num_select]])


def method_of(tuner, **changes):
    options = {"warmup_passes": 12, "query_size": 8, "passes_per_round": 9}
    return Dpet(**(options | {"max_rounds": 4, "tuner": tuner} | changes))


def falling(warm=0.5, rounds=0.9):
    """Return losses that fall by a share from piece to piece, anew in each stretch."""
    place = {"label": "", "loss": 0.0}

    def loss(plan):
        begins = plan.label != place["label"]
        share = warm if plan.label == "warm-up" else rounds
        place["loss"] = 2.0 if begins else place["loss"] * share
        place["label"] = plan.label
        return place["loss"]

    return loss


def play(
    method, learner=None, seed=0, losses=None, cost=Cost, through=lambda state: state
):
    """Return the states at the plans, and the plans."""
    learner, losses = learner or Looks(), losses or falling()
    state, states, plans = method.start(POOL, seed), [], []
    while True:
        state = method.tune(through(state), learner) if method.tunes else state
        state, plan = method.plan(state, learner)
        if plan is None:
            return states, plans
        states.append(state)
        plans.append(plan)
        rows = np.unique(plan.index_set)
        paid = plan.visits / N
        result = TrainResult(
            rows,
            np.full(rows.size, losses(plan), np.float32),
            rows > 0,
            0.0 * rows,
            cost=cost(paid, 3 * paid, None),
        )
        state = method.observe(through(state), result)


def facts_of(plans, label=None):
    return [p.facts.get("tuner", {}) for p in plans if label in (None, p.label)]


def pieces_of(plans, label):
    return [plan for plan in plans if plan.label == label]


def restored(method):
    """Return what puts a state through a checkpoint, JSON included."""

    def through(state):
        arrays, plain = Position(state, Counters(1)).saved()
        fresh = Position(method.start(POOL, 0), Counters(1))
        fresh.restore(arrays, json.loads(json.dumps(plain, allow_nan=False)))
        return fresh.state

    return through


def test_warm_up_is_given_in_pieces_of_what_it_would_have_been():
    (_, (whole, *_)), (_, plans) = (
        play(method_of(None, warmup_passes=24)),
        play(method_of(only("warmup"), warmup_passes=24)),
    )
    pieces = pieces_of(plans, "warm-up")
    given = sum(piece.passes for piece in pieces)
    assert len(pieces) > 2
    assert given < whole.passes
    rows = np.concatenate([piece.index_set for piece in pieces])
    np.testing.assert_array_equal(rows, whole.index_set[:given])
    places = [piece.stretch for piece in pieces]
    assert places[0] == Span(0, whole.visits)
    for before, after, piece in zip(places, places[1:], pieces, strict=False):
        reached = (before.start + piece.visits) / before.horizon
        assert after.start / after.horizon == pytest.approx(reached, abs=0.02)
    assert places[-1].start + pieces[-1].visits == places[-1].horizon
    assert [facts["ends"] for facts in facts_of(pieces)[1:]] == [
        *[False] * (len(pieces) - 2),
        True,
    ]


def test_losses_that_keep_falling_leave_the_warm_up_its_passes():
    loss = iter(np.linspace(9, 1, 40).tolist())
    _, plans = play(method_of(only("warmup")), losses=lambda _: next(loss))
    assert sum(piece.passes for piece in pieces_of(plans, "warm-up")) == 12
    whole = play(method_of(None))[1]
    for plan, expected in zip(plans[-4:], whole[1:], strict=True):
        np.testing.assert_array_equal(plan.index_set, expected.index_set)
        assert (plan.stretch, plan.passes) == (None, expected.passes)


def test_warm_up_goes_on_until_its_least_passes():
    tuner = only("warmup", warmup={"least_passes": 11})
    passes = sum(p.passes for p in pieces_of(play(method_of(tuner))[1], "warm-up"))
    assert passes == 12
    tuner = only("warmup", warmup={"least_passes": 1, "rounds_gain": 100.0})
    pieces = pieces_of(play(method_of(tuner))[1], "warm-up")
    assert [piece.passes for piece in pieces] == [2, 2, 1]  # two looks, and a cooldown


def test_a_round_ends_early_and_the_next_begins_with_a_new_optimizer():
    _, plans = play(method_of(only("passes")))
    firsts = {}
    for plan in plans:
        assert plan.reset == (
            "optimizer"
            if plan.label not in firsts and plan.label != "warm-up"
            else "none"
        )
        firsts.setdefault(plan.label, plan)
    rounds = [
        sum(piece.passes for piece in pieces_of(plans, f"round {index}"))
        for index in range(1, 5)
    ]
    assert rounds[0] == 9  # nothing is promised before the second one
    assert min(rounds[1:]) < 9
    assert max(rounds) == 9
    for piece in pieces_of(plans, "round 3"):
        np.testing.assert_array_equal(piece.index_set, firsts["round 3"].index_set)


def test_without_a_cooldown_what_ends_is_over():
    _, plans = play(method_of(only("warmup", cooldown=0), warmup_passes=24))
    assert not any(f.get("ends") for f in facts_of(plans, "warm-up"))
    assert sum(p.passes for p in pieces_of(plans, "warm-up")) < 24
    (first, *_) = facts_of(plans, "round 1")
    assert first["ended"]["slope"] < 0.1 * first["ended"]["best_slope"]


def test_query_sizes_follow_the_sample():
    _, plans = play(method_of(only("query_size")), Looks(fall=1.0))
    assert [f["query_size"] for f in facts_of(plans)[1:]] == [8, 32, 32, 32]
    assert [plan.size for plan in plans[1:]] == [8, 40, 72, 80]
    _, plans = play(method_of(only("query_size")), Looks(fall=0.4))
    assert [f["query_size"] for f in facts_of(plans)[1:]] == [8, 4, 2, 2]


def test_the_sample_is_never_in_a_round_and_is_scored_once():
    learner = Looks()
    states, plans = play(method_of(only("query_size", sample=5)), learner)
    looks = learner.looked
    for state, (names, sample), (_, rest), before in zip(
        states[1:], looks[::2], looks[1::2], states, strict=False
    ):
        assert names == ("margin", "cross_entropy")
        assert sample.size == 5
        assert not {*sample.tolist()} & {*before.indices.tolist()}
        both = np.sort(np.concatenate([sample, rest]))
        pool = np.setdiff1d(np.arange(N), before.indices)
        np.testing.assert_array_equal(both, pool)
        assert state.tuner.sample_scores.size == 0
    assert len(looks) == 2 * (len(plans) - 1)


def test_gain_is_that_of_the_same_examples_before_and_after():
    _, plans = play(method_of(only("query_size", query_size={"doublings": 0})))
    facts = facts_of(plans)[1:]
    assert "learnt" not in facts[0]
    order = np.random.default_rng([0, *b"tuner sample", 0]).permutation(N)
    chosen = set(np.argsort(-Looks().scores)[:8].tolist())
    sample = [i for i in order[:8].tolist() if i not in chosen]
    before = Looks().losses[sample].astype(np.float64)
    gained = np.exp(-0.8 * before).mean() - np.exp(-before).mean()
    assert facts[1]["learnt"] == pytest.approx(gained, rel=1e-5)
    epochs = 9 * 8 / N
    assert facts[1]["round_epochs"] == pytest.approx(epochs)
    assert facts[1]["gain"] == pytest.approx(0.2 * before.mean() / epochs, rel=1e-5)


def test_scores_are_drawn_by_chances_that_the_facts_tell():
    method = method_of(only("score"), max_rounds=9, query_size=4)
    learner = Looks()
    _, plans = play(method, learner)
    facts = facts_of(plans)[1:]
    assert {*facts[0]["chances"].values()} == {0.25}
    assert len({f["score"] for f in facts}) > 1
    for before, after in pairwise(facts):
        arm, other = before["score"], before["chances"]
        assert 0 < after["reward"] <= 1
        raised = after["chances"][arm] - other[arm]
        assert raised >= max(after["chances"][k] - other[k] for k in other)
    asked = sum(f["score"] != "random" for f in facts)
    assert len(learner.asked) == asked  # chance asks nobody
    assert "random" not in method.scores
    assert {"entropy", "cross_entropy", "least_confidence"} <= {*method.scores}


def test_replay_follows_what_old_examples_have_forgotten():
    tuner, replay = only("replay"), {"kind": "uniform", "ratio": 1.0}
    _, plans = play(method_of(tuner, replay=replay), Looks(fall=1.3))
    ratios = [f.get("replay_ratio") for f in facts_of(plans)[1:]]
    assert ratios == [None, 1.0, 2.0, 4.0]  # nothing is old, then nothing was known
    assert [plan.size for plan in plans[2:]] == [16, 24, 32]
    _, plans = play(method_of(tuner, replay=replay), Looks(fall=0.9))
    assert facts_of(plans)[-1]["replay_ratio"] < 1
    assert facts_of(plans)[-1]["forgotten"] == 0
    _, plans = play(method_of(tuner))  # all old ones, and no ratio to choose
    assert facts_of(plans) == [{}] * 5


@pytest.mark.parametrize("cost", ["epochs", "seconds", "joules"])
@pytest.mark.parametrize("replay", [{"kind": "all"}, {"kind": "loss", "ratio": 0.5}])
def test_a_state_goes_through_a_checkpoint_at_any_moment(cost, replay):
    method = method_of({"cost": cost}, replay=replay)
    _, plain = play(method)
    _, saved = play(method, through=restored(method))
    for left, right in zip(plain, saved, strict=True):
        np.testing.assert_array_equal(left.index_set, right.index_set)
        assert (left.label, left.passes, left.stretch, left.facts) == (
            right.label,
            right.passes,
            right.stretch,
            right.facts,
        )


@pytest.mark.parametrize("replay", [{}, {"kind": "chunk"}, {"kind": "uniform"}])
@pytest.mark.parametrize("tuner", [{}, only("query_size"), only("passes", "replay")])
@pytest.mark.parametrize("seed", range(3))
def test_planned_visits_are_never_exceeded(tuner, replay, seed):
    method = method_of(tuner, replay=replay, max_rounds=6)
    rng = np.random.default_rng(seed)
    learner = Looks(fall=float(rng.uniform(0.7, 1.2)))
    _, plans = play(method, learner, seed, lambda _: float(rng.random()))
    assert sum(plan.visits for plan in plans) <= method.planned_visits(POOL)


def test_planned_visits_are_those_of_a_run_that_nothing_ends():
    loss = iter(np.linspace(9, 1, 400).tolist())
    method = method_of(only("warmup", "passes"), max_rounds=1)
    _, plans = play(method, losses=lambda _: next(loss))
    assert sum(plan.visits for plan in plans) == method.planned_visits(POOL)
    assert method.planned_visits(POOL) == method_of(None, max_rounds=1).planned_visits(
        POOL
    )


def test_seconds_decide_as_epochs_do_where_both_go_together():
    _, epochs = play(method_of({}))
    _, seconds = play(method_of({"cost": "seconds"}))
    for left, right in zip(epochs, seconds, strict=True):
        np.testing.assert_array_equal(left.index_set, right.index_set)
        (of_left,), (of_right,) = facts_of([left]), facts_of([right])
        assert of_left.keys() == of_right.keys()
        for name, value in of_left.items():
            close = isinstance(value, float | dict)
            wanted = pytest.approx(value, rel=1e-9) if close else value
            assert of_right[name] == wanted


def test_what_nobody_measures_ends_nothing():
    method = method_of({"cost": "joules"})
    _, plans = play(method)
    assert sum(p.passes for p in pieces_of(plans, "warm-up")) == 12
    assert sum(p.passes for p in pieces_of(plans, "round 2")) == 9
    for facts in facts_of(plans):
        assert facts.get("slope") is None
        assert "reward" not in facts
    json.dumps(facts_of(plans), allow_nan=False)


def test_a_loss_that_is_no_number_is_a_diverged_run():
    learner = Looks()
    learner.losses[:] = np.nan
    with pytest.raises(DivergedError, match="sample"):
        play(method_of(only("query_size")), learner)


def test_known_scores_are_left_out_of_a_query():
    learner = Looks()
    known = Known(np.array([70, 3], np.int32), learner.scores[[70, 3]])
    selected = np.arange(20, 60, dtype=np.int32)
    chosen = method_of(None).query(learner, N, selected, 0, 1, known=known)
    (_, asked), *_ = learner.looked
    assert not {3, 70} & {*asked.tolist()}
    expected = Looks().select("top_k", np.setdiff1d(np.arange(N), selected), 8)
    assert chosen.indices.tolist() == expected.indices.tolist()


# keys


def test_there_is_no_tuner_by_default():
    method = Dpet()
    assert method.tuner is None
    assert not any((method.tunes, method.ends_early, method.asks_joules))
    assert method.start(POOL, 0).tuner is None


def test_a_tuner_says_what_it_asks_for():
    assert Dpet(tuner={}).tunes
    assert Dpet(tuner={}).ends_early
    assert not Dpet(tuner=only("score")).ends_early
    assert Dpet(tuner={"cost": "joules"}).asks_joules
    assert Dpet(tuner={}).label == "DPET (EXP3), tuned"
    assert Dpet(tuner=only("passes")).label == "DPET (margin), tuned"
    assert Dpet(tuner=only("passes")).scores == ("margin", "cross_entropy")
    blended = Dpet(tuner=only("passes"), dissimilarity={"kind": "euclidean"})
    assert blended.scores == ("margin", "el2n", "cross_entropy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuner": {}, "compat": "artifact"}, "leave tuner at null"),
        ({"tuner": {}, "proxy": {}}, "leave proxy or tuner"),
        ({"tuner": {}, "boost": {}}, "boost compares whole rounds"),
        ({"tuner": {}, "dissimilarity": {"kind": "kl"}}, "dissimilarity to none"),
        ({"tuner": {}, "diversity": {"kind": "badge"}}, "diversity to none"),
        ({"tuner": OFF}, "no rule left"),
        ({"tuner": {"score": {"arms": ["margin", "margin"]}}}, "an arm twice"),
        ({"tuner": {"score": {"arms": ["margin"]}}}, "at least 2"),
        ({"tuner": {"score": {"arms": ["margin", "el2n"]}}}, "least_confidence"),
        ({"tuner": {"warmup": {"share": 1.5}}}, "less than or equal to 1"),
        ({"tuner": {"query_size": {"doublings": 5}}}, "Input should be 0"),
        ({"tuner": {"cooldown": 1.0}}, "less than 1"),
    ],
)
def test_a_tuner_refuses_what_it_cannot_do(changes, message):
    with pytest.raises(ValidationError, match=message):
        Dpet(**changes)


def test_rules_go_one_by_one_and_their_sections_have_defaults():
    tuner = TunerConfig(**only("warmup", warmup={"share": 0.2}))
    assert tuner.warmup.least_passes == 3
    assert tuner.passes is tuner.score is None
    assert TunerConfig().score.exploration(40) == rules.gamma_of(4, 40)
    assert TunerConfig(score={"gamma": 0.1}).score.exploration(40) == 0.1
