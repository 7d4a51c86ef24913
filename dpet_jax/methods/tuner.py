"""The tuner of DPET: sets its keys as training goes, by what training gives away.

Warm-up and rounds are given in pieces. After a piece come the losses of the examples
that it trained on, each from before the step that learnt from it; before a query a
random sample of examples that no round has trained on is looked at. Validation and test
play no part: they are left to targets. Every rule is a function of a few numbers.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator

from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import Learner, Plan, Span, TrainResult, generator
from dpet_jax.section import (
    Count,
    NonNegative,
    Passes,
    Positive,
    PositiveShare,
    Section,
    Share,
    UpToOne,
)

#: The score whose negative exponential is the probability of the label.
LOSS = "cross_entropy"
#: Steps of a piece at least, as the last of them is filled up with rows that are
#: computed and not trained on: of so many steps that is an eighth at most.
_STEPS_OF_A_PIECE = 8

#: What a bandit may choose among: the scores of the paper, and chance.
Arm = Literal["least_confidence", "margin", "entropy", "random"]
#: How often a number is doubled or halved at most.
Doublings = Literal[0, 1, 2, 3, 4]

# the rules


def smoothed(values: np.ndarray, weight: int | float) -> np.ndarray:
    """Return the exponential moving average up to each value, begun at the first.

    Args:
        values: float[l].
        weight: Share of the newest value, in (0, 1].
    """
    means = np.array(values, np.float64)
    for place in range(1, means.size):
        means[place] = means[place - 1] + weight * (values[place] - means[place - 1])
    return means


def gains(losses: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return what the loss fell by from each look to the next, per cost of the latter.

    Args:
        losses: float[l], nats.
        costs: float[l], of what was trained on before each look; NaN where unknown,
            which makes the gain NaN.

    Returns:
        float[l - 1].
    """
    return -np.diff(losses) / costs[1:]


def leaves_warm_up(
    gain: np.ndarray, share: int | float, rounds_gain: int | float | None
) -> bool:
    """Decide whether a warm-up ends, by its smoothed gains of loss per cost.

    g < max(share * max g, g of a round): when it has slowed down to a share of its best
    pace, or below that of the rounds that would follow; but not before it has gained
    anything, for a high rate may make the first losses rise. The losses of RS2's passes
    are those of examples that the present cycle has not seen before, so they tell of
    learning and not of memory.

    Args:
        gain: float[l], the last one newest; without any nothing is decided.
        share: Of the largest.
        rounds_gain: Of a round; None if not known.

    Source:
        The paper gives the reason, that the gain slows down; its code counts passes.
        The rule is ours.
    """
    best = gain.max(initial=0.0)
    return bool(best > 0 and gain[-1] < max(share * best, rounds_gain or 0.0))


def round_ends(gain: np.ndarray, promised: int | float | None) -> bool:
    """Decide whether a round ends, by its smoothed gains of loss per cost.

    It ends when it gains less than the last round did on average, its query included:
    a new round promises as much; but not before it has gained anything, for at the high
    rate that a round begins with losses rise first.

    Args:
        gain: float[l], of the round, the last one newest.
        promised: Of the last one; None if not known.

    Source:
        Charnov (1976), "Optimal Foraging, the Marginal Value Theorem": leave a patch
        when its rate falls to the average rate with the way to the next one counted.
    """
    if promised is None or not np.any(gain > 0):
        return False
    return bool(gain[-1] < promised)


def cooldown_passes(given: int, left: int, share: int | float) -> int:
    """Return the passes in which the learning rate of what ends early still falls.

    Args:
        given: Passes so far.
        left: Passes that there might have been at most.
        share: Of all passes, that they are.

    Source:
        Hagele et al. (2024), "Scaling Laws and Compute-Optimal Training Beyond Fixed
        Training Durations", where a fifth of the steps does.
    """
    return min(left, math.ceil(share / (1 - share) * given - 1e-9))


def query_sizes(query_size: int, doublings: int) -> tuple[int, ...]:
    """Return the sizes that a query may have, ascending.

    Its own, doubled and halved so often, as far as a half is whole: all are multiples
    of the smallest, so that sets have few sizes.
    """
    sizes = [query_size << times for times in range(doublings + 1)]
    for times in range(1, doublings + 1):
        if query_size % (1 << times):
            break
        sizes.append(query_size >> times)
    return tuple(sorted(sizes))


def next_query_size(
    size: int,
    unlearned: int | float,
    gain: int | float,
    sizes: tuple[int, ...],
    least_gain: int | float,
) -> int:
    """Choose the size of a query.

    k' = k * unlearned / max(gain, least gain) / 2, brought to the nearest of the sizes
    that there may be, by its logarithm: at the last round's pace two rounds are left.

    Args:
        size: Of the last query, k.
        unlearned: 1 - the mean probability of the label, in the sample now.
        gain: What that probability has gained in the last round.
        sizes: Of which one is taken.
        least_gain: So that none, or a loss, does not ask for everything.

    Source:
        None; ours. Stated in accuracies it would let validation steer the method.
    """
    wanted = size * unlearned / max(gain, least_gain) / 2
    wanted = min(max(wanted, sizes[0]), sizes[-1])
    return min(sizes, key=lambda known: abs(math.log2(wanted / known)))


def gamma_of(num_arms: int, rounds: int) -> float:
    """Return the exploration of EXP3 for a number of rounds.

    min(1, sqrt(K ln K / ((e - 1) T))): rewards of a round being at most 1, those of the
    best arm add up to at most T.

    Source:
        Auer, Cesa-Bianchi, Freund & Schapire (2002), "The Nonstochastic Multiarmed
        Bandit Problem", corollary 3.2.
    """
    most = num_arms * math.log(num_arms) / ((math.e - 1) * max(1, rounds))
    return min(1.0, math.sqrt(most))


def exp3_chances(log_weights: np.ndarray, gamma: int | float) -> np.ndarray:
    """Return the chance of each arm: (1 - gamma) w / sum w + gamma / K.

    Args:
        log_weights: float64[K], log w.
        gamma: Exploration, in (0, 1].

    Source:
        Auer et al. (2002), figure 1.
    """
    weights = np.exp(log_weights - log_weights.max())
    return (1 - gamma) * weights / weights.sum() + gamma / weights.size


def exp3_updated(
    log_weights: np.ndarray,
    arm: int,
    chance: int | float,
    reward: int | float,
    gamma: int | float,
) -> np.ndarray:
    """Return the weights after a reward: w exp(gamma x / (p K)) of the arm drawn.

    Dividing by the chance p makes the reward that is not seen unbiased.

    Args:
        log_weights: float64[K], log w.
        arm: That was drawn.
        chance: With which it was.
        reward: x, in [0, 1].
        gamma: Exploration, in (0, 1].

    Source:
        Auer et al. (2002), figure 1.
    """
    updated = log_weights.copy()
    updated[arm] += gamma * reward / (chance * log_weights.size)
    return updated


def reward_of(before: int | float, after: int | float, epochs: int | float) -> float:
    """Return the share of what is not learnt that an epoch at a round's pace learns.

    1 - (after / before)^(1 / epochs), and 0 where nothing was gained. It lies in [0, 1]
    as EXP3 needs it, without a scale to be guessed, and is the same early and late in a
    run in which every epoch learns an equal share of what is left.

    Args:
        before: Unlearned share of the sample, in [0, 1].
        after: Of the same examples after the round.
        epochs: What query and round cost, above 0.
    """
    if after >= before:
        return 0.0
    return 1.0 - (after / before) ** (1.0 / epochs)


def forgotten_share(learnt: np.ndarray, now: np.ndarray) -> float:
    """Return the share of the probability of their labels that examples have lost.

    Args:
        learnt: float[m], the probability after the round that added each.
        now: float[m], the same now.

    Returns:
        In [0, 1]; 0 without examples.
    """
    known = float(learnt.sum())
    return max(0.0, 1.0 - float(now.sum()) / known) if known > 0 else 0.0


def next_ratio(
    ratio: int | float,
    forgotten: int | float,
    tolerated: int | float,
    bounds: tuple[int | float, int | float],
) -> float:
    """Choose the ratio of a replay: in proportion to what was forgotten.

    Args:
        ratio: Of the last round.
        forgotten: Share that was, with it.
        tolerated: Share that may be.
        bounds: The smallest and the largest ratio. In one round it changes by a factor
            of 2 at most.

    Source:
        None; a proportional rule of ours.
    """
    factor = min(max(forgotten / tolerated, 0.5), 2.0)
    return float(min(max(ratio * factor, bounds[0]), bounds[1]))


def passes_of_piece(size: int, batch_size: int) -> int:
    """Return the passes of a piece, so that rows that fill a step up are few."""
    return max(1, math.ceil(_STEPS_OF_A_PIECE * batch_size / size))


def place_of_piece(
    given: int, passes: int, most: int, size: int, *, last: bool
) -> Span:
    """Return where a piece lies on the schedule of what it is a piece of.

    The last one takes the schedule from where it is to its end, be it that more passes
    were possible.

    Args:
        given: Passes before it.
        passes: Its own.
        most: Of all pieces together, if nothing ends them.
        size: Examples of a pass.
        last: Whether no other follows.
    """
    if not last:
        return Span(given * size, most * size)
    left = passes * size
    start = round(left * given / (most - given))
    return Span(start, start + left)


def most_visits(
    pass_size: Any, sizes: tuple[int, ...], rounds: int, num_examples: int
) -> int:
    """Return the most examples that passes of rounds have together, one a round.

    Of all sequences of queries of the given sizes; the last query of each takes what is
    left of the pool.

    Args:
        pass_size: Examples of a pass, by how many are new and how many old.
        sizes: Of queries, multiples of the smallest.
        rounds: At most.
        num_examples: n.
    """
    unit = min(sizes)
    full = -(-num_examples // unit)
    olds = [unit * place for place in range(full)]
    cost = {
        size // unit: np.array(
            [pass_size(min(size, num_examples - old), old) for old in olds], np.int64
        )
        for size in sizes
    }
    # by examples selected, in units: the most visits so far; the last one is the pool
    best = np.full(full + 1, -1, np.int64)
    best[0] = most = 0
    for _ in range(min(rounds, full)):
        grown = np.full(full + 1, -1, np.int64)
        for step, visits in cost.items():
            reached = np.where(best[:full] >= 0, best[:full] + visits, -1)
            inner = max(0, full - step)
            np.maximum(grown[step:full], reached[:inner], out=grown[step:full])
            grown[full] = max(grown[full], reached[inner:].max())
        best = grown
        most = max(most, int(best.max()))
    return most


# the keys


class WarmUpRule(Section):
    """End the warm-up when it gains little; see `leaves_warm_up`."""

    share: UpToOne = Field(0.1, description="of the best pace, below which it ends")
    least_passes: Passes = Field(3, description="before it may end")
    rounds_gain: NonNegative | None = Field(
        None,
        description="nats an epoch that rounds gained in an earlier run, `gain` of its "
        "plan events, below which it ends; null where not known",
    )


class QuerySizeRule(Section):
    """Choose how many examples a query adds; see `next_query_size`."""

    doublings: Doublings = Field(
        2, description="up from query_size and down, as far as halves are whole"
    )
    least_gain: Positive = Field(0.002, description="of the label's probability")


class PassesRule(Section):
    """End a round when a new one promises more; see `round_ends`."""

    least_passes: Passes = Field(2, description="before it may end")


class ScoreRule(Section):
    """Choose the score of each query by EXP3, chance among them."""

    arms: tuple[Arm, ...] = Field(
        ("least_confidence", "margin", "entropy", "random"),
        min_length=2,
        description="what it chooses among, in place of method.score",
    )
    gamma: PositiveShare | None = Field(
        None, description="exploration; null is the best for max_rounds"
    )

    @field_validator("arms")
    @classmethod
    def _each_once(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        if len({*arms}) < len(arms):
            raise ValueError(f"names an arm twice among {', '.join(arms)}")
        return arms

    def exploration(self, rounds: int) -> float:
        """Return gamma."""
        return gamma_of(len(self.arms), rounds) if self.gamma is None else self.gamma


class ReplayRule(Section):
    """Choose the ratio of a replay that has one; see `next_ratio`."""

    tolerated: PositiveShare = Field(
        0.05, description="share of the label's probability that may be forgotten"
    )
    doublings: Doublings = Field(2, description="up from the replay's ratio and down")


class Fixed(NamedTuple):
    """What a method's config fixes, as far as the tuner goes by it.

    Attributes:
        query_size: Of the first query.
        rounds: At most.
        ratio: Of the replay; None if it has none.
        names: Of `TunerConfig.scores`.
    """

    query_size: int
    rounds: int
    ratio: int | float | None
    names: tuple[str, ...]


class Place(NamedTuple):
    """Where a run is, before a query.

    Attributes:
        num_examples: n.
        selected: int32[m], positions that are in already.
        seed: The run's seed.
        round_index: Of the round that is next.
    """

    num_examples: int
    selected: np.ndarray
    seed: int
    round_index: int


class TunerState(NamedTuple):
    """What the tuner knows; plain numbers and arrays, all of which are saved.

    Attributes:
        rows: int32[m] or int32[passes, m], the index set of the warm-up or round that
            is given in pieces; empty between them.
        label: Its label.
        most: Its passes, if nothing ends it.
        given: Those that were given out.
        ends: Whether the next piece is the last.
        losses: float64[l], mean training loss at each look at it, nats.
        epochs: float64[l], full-pass equivalents before each look.
        costs: float64[l], the same in the unit of `cost`; NaN where unknown.
        epoch_cost: Of an epoch, as the warm-up had it; None while unknown.
        cycle: What query and round have cost since the last query, in epochs by
            `costs`; None where unknown.
        promised: Nats an epoch of the last round; None while unknown.
        sample: int32[s], the examples that were looked at before the last query.
        sample_losses: float32[s], their losses then.
        sample_scores: float32[s], their scores, until the query has read them.
        query_size: Of the last query, or of the next one where it is chosen.
        log_weights: float64[K] of EXP3.
        arm: Position of the score in use.
        chance: With which it was drawn; 1.0 at first.
        ratio: Of the replay; None where it has none.
        learnt: float32[n], probability of the label when an example was first looked
            at after the round that added it; NaN before. Empty without replay rule.
        facts: Numbers behind the decisions for the next plan.
    """

    rows: np.ndarray = np.zeros(0, np.int32)
    label: str = ""
    most: int = 0
    given: int = 0
    ends: bool = False
    losses: np.ndarray = np.zeros(0, np.float64)
    epochs: np.ndarray = np.zeros(0, np.float64)
    costs: np.ndarray = np.zeros(0, np.float64)
    epoch_cost: int | float | None = None
    cycle: int | float | None = 0.0
    promised: int | float | None = None
    sample: np.ndarray = np.zeros(0, np.int32)
    sample_losses: np.ndarray = np.zeros(0, np.float32)
    sample_scores: np.ndarray = np.zeros(0, np.float32)
    query_size: int = 0
    log_weights: np.ndarray = np.zeros(0, np.float64)
    arm: int = 0
    chance: int | float = 1.0
    ratio: int | float | None = None
    learnt: np.ndarray = np.zeros(0, np.float32)
    facts: dict[str, Any] = {}  # noqa: RUF012 - never changed in place

    @property
    def under_way(self) -> bool:
        """Whether a warm-up or a round is given in pieces and has not ended."""
        return self.rows.size > 0

    def begun(self, plan: Plan) -> "TunerState":
        """Return the state in which a warm-up or a round is to be given in pieces."""
        fresh = TunerState()
        return self._replace(
            rows=plan.index_set,
            label=plan.label,
            most=plan.passes,
            given=0,
            ends=False,
            losses=fresh.losses,
            epochs=fresh.epochs,
            costs=fresh.costs,
        )

    def observed(self, result: TrainResult, unit: str) -> "TunerState":
        """Return the state after a piece was trained on.

        Args:
            result: Of training.
            unit: Of costs; what nobody measured is NaN.
        """
        epochs = math.nan if result.cost is None else result.cost.epochs
        cost = None if result.cost is None else getattr(result.cost, unit)
        loss = result.losses.mean(dtype=np.float64)
        return self._replace(
            losses=np.append(self.losses, loss),
            epochs=np.append(self.epochs, epochs),
            costs=np.append(self.costs, math.nan if cost is None else cost),
        )

    def costs_in_epochs(self) -> np.ndarray:
        """Return what the looks cost, in epochs of the warm-up; NaN where unknown."""
        epoch = self.epoch_cost or self._epoch_cost()
        costs = self.costs / epoch if epoch else np.full(self.costs.size, math.nan)
        return np.where(costs > 0, costs, math.nan)

    def _epoch_cost(self) -> float | None:
        return _known(float(self.costs.sum() / self.epochs.sum()))

    def closed(self, *, warming: bool) -> "TunerState":
        """Return the state after the end of a warm-up or a round."""
        costs = self.costs_in_epochs()
        total = float(costs.sum())
        ended = self._replace(rows=self.rows[..., :0].reshape(-1), ends=False)
        ended = ended._replace(losses=self.losses[:0], cycle=_known(total))
        if warming:
            return ended._replace(epoch_cost=self._epoch_cost())
        if self.losses.size < 2:
            return ended._replace(promised=None)
        # where the loss rose, as it may at a rate that starts anew, none was to be had
        fall = max(0.0, float(self.losses[0] - self.losses[-1]))
        return ended._replace(promised=_known(fall / total))


def _known(number: int | float) -> float | None:
    """Return a number as JSON can have it: None for one that is not known."""
    return float(number) if math.isfinite(number) else None


class TunerConfig(Section):
    """Set DPET's keys as training goes; each rule may be left out with null."""

    cost: Literal["epochs", "seconds", "joules"] = Field(
        "epochs",
        description="that gains are counted per: full-pass equivalents, the same in "
        "every run, or what this machine takes",
    )
    sample: Count = Field(
        1000,
        description="examples looked at before a query that no round has trained on, a "
        "tenth of all at most",
    )
    smoothing: PositiveShare = Field(0.5, description="share of the newest gain")
    cooldown: Share = Field(
        0.2,
        description="last share of the passes of what ends early, in which the "
        "schedule goes to its end",
    )
    warmup: WarmUpRule | None = Field(WarmUpRule(), description="when to leave it")
    query_size: QuerySizeRule | None = Field(
        QuerySizeRule(), description="how many examples to add"
    )
    passes: PassesRule | None = Field(PassesRule(), description="when to end a round")
    score: ScoreRule | None = Field(ScoreRule(), description="what to rank by")
    replay: ReplayRule | None = Field(
        ReplayRule(), description="idle where the replay has no ratio"
    )

    @model_validator(mode="after")
    def _something_is_tuned(self) -> "TunerConfig":
        rules = (self.warmup, self.query_size, self.passes, self.score, self.replay)
        if not any(rules):
            raise ValueError("has no rule left; set tuner: null to tune nothing")
        return self

    @property
    def samples(self) -> bool:
        """Whether it looks at a sample before a query."""
        return self.query_size is not None or self.score is not None

    def scores(self, ranked_by: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of what a look asks for, each from one forward pass.

        Args:
            ranked_by: Scores that the method ranks by where no bandit chooses one; two
                that are blended are left out, as ranks need the whole pool.
        """
        if self.score is not None:
            ranked_by = tuple(name for name in self.score.arms if name != "random")
        if len(ranked_by) > 1 and self.score is None:
            ranked_by = ()
        return tuple(dict.fromkeys((*ranked_by, LOSS)))

    def start(self, num_examples: int, fixed: Fixed) -> TunerState:
        """Return the state before the warm-up.

        Args:
            num_examples: n.
            fixed: What it goes by.
        """
        known, ratio = TunerState(query_size=fixed.query_size), fixed.ratio
        if self.score is not None:
            known = known._replace(log_weights=np.zeros(len(self.score.arms)))
        if self.replay is not None and ratio is not None:
            learnt = np.full(num_examples, np.nan, np.float32)
            known = known._replace(ratio=ratio, learnt=learnt)
        return known

    def arm(self, tuner: TunerState) -> str | None:
        """Return the score of the next query; None where no bandit chooses it."""
        return None if self.score is None else self.score.arms[tuner.arm]

    def ratios(self, ratio: int | float) -> tuple[float, float]:
        """Return the smallest and the largest ratio of a replay."""
        doublings = 0 if self.replay is None else self.replay.doublings
        return float(ratio / 2**doublings), float(ratio * 2**doublings)

    # what ends early

    def judged(self, tuner: TunerState, *, warming: bool) -> TunerState:
        """Return the state after what was learnt of the last piece is taken in.

        Args:
            tuner: The state.
            warming: Whether it was of the warm-up.
        """
        if not tuner.losses.size:
            return tuner
        if not tuner.under_way:
            return tuner.closed(warming=warming)
        gain = gains(tuner.losses, tuner.costs_in_epochs())
        gain = smoothed(gain, self.smoothing)
        facts: dict[str, Any] = {"given": tuner.given}
        if gain.size:
            facts["slope"] = _known(gain[-1])
        ends = False
        if warming and self.warmup is not None:
            rule = self.warmup
            ends = tuner.given >= rule.least_passes and leaves_warm_up(
                gain, rule.share, rule.rounds_gain
            )
            if gain.size:
                facts["best_slope"] = _known(gain.max())
        elif not warming and self.passes is not None:
            least = self.passes.least_passes
            ends = tuner.given >= least and round_ends(gain, tuner.promised)
            facts["promised"] = tuner.promised
        left = tuner.most - tuner.given
        if ends and cooldown_passes(tuner.given, left, self.cooldown) == 0:
            tuner, facts = tuner.closed(warming=warming), {"ended": facts}
        else:
            facts["ends"] = ends
        return tuner._replace(ends=ends and tuner.under_way, facts=facts)

    def piece(
        self,
        tuner: TunerState,
        batch_size: int,
        *,
        warming: bool,
        reset: Literal["none", "optimizer", "all"],
        learning_rate: int | float | None,
    ) -> tuple[TunerState, Plan]:
        """Return the next piece of a warm-up or a round.

        Args:
            tuner: The state.
            batch_size: Rows of a training step.
            warming: Whether it is of the warm-up.
            reset: What starts anew before the first piece.
            learning_rate: Peak of the schedule; None is the optimizer's.
        """
        given, left, size = tuner.given, tuner.most - tuner.given, tuner.rows.shape[-1]
        if (self.warmup if warming else self.passes) is None:
            passes = left
        elif tuner.ends:
            passes = cooldown_passes(given, left, self.cooldown)
        else:
            passes = min(left, passes_of_piece(size, batch_size))
        last = tuner.ends or passes == left
        place = None
        if given or not last:
            place = place_of_piece(given, passes, tuner.most, size, last=last)
        rows = tuner.rows
        plan = Plan(
            rows if rows.ndim == 1 else rows[given : given + passes],
            label=tuner.label,
            passes=passes,
            reset="none" if given else reset,
            learning_rate=learning_rate,
            stretch=place,
            facts={"tuner": tuner.facts} if tuner.facts else {},
        )
        return tuner._replace(
            rows=np.zeros(0, np.int32) if last else rows,
            given=given + passes,
            facts={},
            sample_scores=tuner.sample_scores[:0],
        ), plan

    # before a query

    def look(
        self,
        tuner: TunerState,
        learner: Learner,
        at: Place,
        fixed: Fixed,
    ) -> TunerState:
        """Look at the sample, and choose size, score and replay of the next round.

        The sample is the beginning of an order that never changes, without what rounds
        have trained on: what is left of it at the next query is compared with itself.

        Args:
            tuner: The state.
            learner: Scores with the model as it stands.
            at: Where the run is.
            fixed: What it goes by.

        Raises:
            DivergedError: If a loss of the sample is not finite.
        """
        n = at.num_examples
        order = generator(at.seed, "tuner sample").permutation(n).astype(np.int32)
        count = min(self.sample, -(-n // 10))
        inside = np.zeros(n, bool)
        inside[at.selected] = True
        facts: dict[str, Any] = {}
        if self.samples:
            sample = order[~inside[order]][:count]
            found = learner.score(fixed.names, sample)
            tuner = self._rewarded(tuner, sample, found[LOSS], facts, fixed)
            tuner = self._sized(tuner, facts, fixed)
            tuner = self._drawn(tuner, found, facts, at, fixed)
        if self.replay is not None and tuner.ratio is not None and at.selected.size:
            old = order[inside[order]][:count]
            losses = learner.score((LOSS,), old)[LOSS]
            tuner = self._remembered(tuner, old, losses, facts, fixed)
        return tuner._replace(facts=tuner.facts | facts)

    def _rewarded(
        self,
        tuner: TunerState,
        sample: np.ndarray,
        losses: np.ndarray,
        facts: dict[str, Any],
        fixed: Fixed,
    ) -> TunerState:
        """Compare the sample with what it was before the last round."""
        if not np.isfinite(losses).all():
            raise DivergedError("losses of the tuner's sample are not finite")
        unlearned = float(1 - np.exp(-losses.astype(np.float64)).mean())
        facts["unlearned"] = unlearned
        # both lie in the same order, so that what is left of one begins the other
        stayed = np.isin(tuner.sample, sample)
        before = tuner.sample_losses[stayed].astype(np.float64)
        after = losses[: before.size].astype(np.float64)
        updated = tuner._replace(sample=sample, sample_losses=losses)
        if not before.size:
            return updated
        facts["learnt"] = float(np.exp(-after).mean() - np.exp(-before).mean())
        if not tuner.cycle:
            return updated
        facts["round_epochs"] = tuner.cycle
        facts["gain"] = float(before.mean() - after.mean()) / tuner.cycle
        if self.score is None:
            return updated
        was, left = (float(1 - np.exp(-some).mean()) for some in (before, after))
        reward = facts["reward"] = reward_of(was, left, tuner.cycle)
        gamma = self.score.exploration(fixed.rounds)
        weights = exp3_updated(
            tuner.log_weights, tuner.arm, tuner.chance, reward, gamma
        )
        return updated._replace(log_weights=weights)

    def _sized(
        self, tuner: TunerState, facts: dict[str, Any], fixed: Fixed
    ) -> TunerState:
        rule = self.query_size
        if rule is not None and "learnt" in facts:
            size = next_query_size(
                tuner.query_size,
                facts["unlearned"],
                facts["learnt"],
                query_sizes(fixed.query_size, rule.doublings),
                rule.least_gain,
            )
            tuner = tuner._replace(query_size=size)
        facts["query_size"] = tuner.query_size
        return tuner

    def _drawn(
        self,
        tuner: TunerState,
        found: dict[str, np.ndarray],
        facts: dict[str, Any],
        at: Place,
        fixed: Fixed,
    ) -> TunerState:
        """Draw the score, and keep what the sample has of it already."""
        ranked = next((name for name in fixed.names if name != LOSS), None)
        if self.score is not None:
            gamma = self.score.exploration(fixed.rounds)
            chances = exp3_chances(tuner.log_weights, gamma)
            draw = generator(at.seed, "tuner arm", at.round_index)
            arm = int(draw.choice(chances.size, p=chances))
            tuner = tuner._replace(arm=arm, chance=float(chances[arm]))
            ranked = self.score.arms[arm]
            facts["score"] = ranked
            facts["chances"] = dict(zip(self.score.arms, chances.tolist(), strict=True))
        scores = found.get(str(ranked), tuner.sample_scores[:0])
        return tuner._replace(sample_scores=scores)

    def _remembered(
        self,
        tuner: TunerState,
        old: np.ndarray,
        losses: np.ndarray,
        facts: dict[str, Any],
        fixed: Fixed,
    ) -> TunerState:
        """Compare examples of rounds with what they were when these had ended."""
        assert self.replay is not None
        assert tuner.ratio is not None
        assert fixed.ratio is not None
        now = np.exp(-losses.astype(np.float32))
        known = ~np.isnan(tuner.learnt[old])
        learnt = tuner.learnt.copy()
        learnt[old[~known]] = now[~known]
        if known.any():
            share = forgotten_share(
                tuner.learnt[old][known].astype(np.float64),
                now[known].astype(np.float64),
            )
            chosen = next_ratio(
                tuner.ratio, share, self.replay.tolerated, self.ratios(fixed.ratio)
            )
            tuner = tuner._replace(ratio=chosen)
            facts["forgotten"] = share
        facts["replay_ratio"] = tuner.ratio
        return tuner._replace(learnt=learnt)
