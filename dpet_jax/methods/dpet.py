"""DPET: an RS2 warm-up, then rounds that add the most informative examples."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dpet_jax.methods.base import Learner, Plan, Pool, Span, TrainResult, generator
from dpet_jax.methods.query import Known, RoundState
from dpet_jax.methods.replay import Replay
from dpet_jax.methods.rounds import RoundsMethod, sizes_of_rounds
from dpet_jax.methods.rs2 import rs2_passes
from dpet_jax.methods.tuner import (
    Fixed,
    Place,
    TunerConfig,
    most_visits,
    query_sizes,
)
from dpet_jax.section import CountFromZero, Fraction, Passes, Section, UpToOne

#: Dissimilarity of a prediction to its label, by the name of the score that is it:
#: ||p - y|| on probabilities (a factor changes no rank), and KL(y || p) = -log p_y.
DISSIMILARITY_SCORES = {"euclidean": "el2n", "kl": "cross_entropy"}

_ARTIFACT_SCORES = ("margin", "entropy", "least_confidence")


class DissimilarityConfig(Section):
    """How far a prediction is from its label, blended into the score."""

    kind: Literal["none", "euclidean", "kl"] = Field(
        "none", description="how far an example lies from those of earlier rounds"
    )
    weight: UpToOne = Field(0.5, description="lambda; 0 is the score alone")


class Dpet(RoundsMethod):
    """RS2 warm-up, then rounds that add the most informative examples.

    The warm-up's examples do not count as selected. A round scores the not yet selected
    examples without augmentation, adds the most informative ones, and trains on new and
    old together, on all of these unless `replay` says less; the weights go on, the
    optimizer starts anew.

    Source:
        Scala, Pontieri & Flesca (2024), "DPET: A Data and Parameter Efficient Training
        Framework for Green AI".
    """

    kind: Literal["dpet"] = "dpet"
    warmup_passes: Passes = Field(20, description="RS2 passes before round 1")
    keep_fraction: Fraction = Field(
        1 / 3,
        description="of the data in a warm-up pass; the paper calls its 0.3 a data "
        "reduction, its code keeps a third",
    )
    passes_per_round: Passes = Field(
        10, description="over the new examples and those replayed"
    )
    max_rounds: CountFromZero = Field(40, description="rounds after the warm-up")
    dissimilarity: DissimilarityConfig = Field(
        DissimilarityConfig(), description="blended with the score"
    )
    compat: Literal["none", "artifact"] = Field(
        "none", description="artifact: repeat the authors' code, quirks included"
    )
    tuner: TunerConfig | None = Field(
        None,
        description="sets lengths, sizes, score and replay as training goes; {} has "
        "defaults",
    )

    @model_validator(mode="after")
    def _score_fits(self) -> "Dpet":
        if self.score == "random" and self.dissimilarity.kind != "none":
            raise ValueError("dissimilarity needs a score; score is random")
        if self.compat == "none":
            return self
        if self.score not in _ARTIFACT_SCORES:
            raise ValueError(
                f"compat artifact knows margin, entropy and least_confidence, "
                f"not {self.score}"
            )
        if self.candidate_fraction != 1:
            raise ValueError(
                "compat artifact scores the whole pool; leave candidate_fraction at 1.0"
            )
        if self.proxy is not None:
            raise ValueError(
                "compat artifact scores with the model itself; leave proxy at null"
            )
        if self.diversity.kind != "none":
            raise ValueError("compat artifact has no diversity; leave it at none")
        changed = [
            name
            for name in ("replay", "round_learning_rate", "restart", "boost")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.tuner is not None:
            raise ValueError(
                "compat artifact counts passes and examples as the authors did; leave "
                "tuner at null"
            )
        if changed:
            raise ValueError(
                f"compat artifact trains on all that is selected, from the optimizer's "
                f"rate down; leave {' and '.join(changed)} as they are by default, or "
                "compat at none"
            )
        return self

    @model_validator(mode="after")
    def _tuner_fits(self) -> "Dpet":
        if self.tuner is None:
            return self
        if self.proxy is not None:
            raise ValueError(
                "tuner goes by losses of the model itself, which a proxy would hide; "
                "leave proxy or tuner at null"
            )
        if self.boost is not None:
            raise ValueError(
                "tuner gives rounds in pieces, but boost compares whole rounds; leave "
                "one of them at null"
            )
        blended = [
            name
            for name in ("dissimilarity", "diversity")
            if getattr(self, name).kind != "none"
        ]
        if self.tuner.score is not None and blended:
            raise ValueError(
                f"tuner.score chooses among scores, chance among them, that stand for "
                f"themselves; set {' and '.join(blended)} to none, or tuner.score to "
                "null"
            )
        return self

    @property
    def label(self) -> str:
        """The name that its authors gave it, and what it ranks by."""
        label = super().label.replace("dpet", "DPET")
        if self.tuner is None:
            return label
        if self.tuner.score is not None:
            label = label.replace(f"({self.score.rpartition(':')[2]}", "(EXP3", 1)
        return f"{label}, tuned"

    @property
    def ranked_by(self) -> tuple[str, ...]:
        """The score, and the dissimilarity to blend in; or the authors' own formula."""
        if self.compat == "artifact":
            return (f"artifact_{self.score}_{self.dissimilarity.kind}",)
        if self.dissimilarity.kind == "none":
            return super().ranked_by
        return (self.score, DISSIMILARITY_SCORES[self.dissimilarity.kind])

    @property
    def blend_weight(self) -> float:
        """Share of the dissimilarity."""
        return 0.0 if self.dissimilarity.kind == "none" else self.dissimilarity.weight

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of everything that a query, a replay and the tuner ask for."""
        if self.tuner is None:
            return super().scores
        return tuple(dict.fromkeys((*super().scores, *self._fixed.names)))

    @property
    def tunes(self) -> bool:
        """Whether there is a tuner."""
        return self.tuner is not None

    @property
    def ends_early(self) -> bool:
        """Whether the tuner sets more than the score."""
        if self.tuner is None:
            return False
        rules = ("warmup", "query_size", "passes", "replay")
        return any(getattr(self.tuner, rule) is not None for rule in rules)

    @property
    def asks_joules(self) -> bool:
        """Whether the tuner counts in joules."""
        return self.tuner is not None and self.tuner.cost == "joules"

    def planned_visits(self, pool: Pool) -> int:
        """Count the warm-up and all rounds.

        With a tuner they are the most that there may be: every pass is given, queries
        have the sizes that make it most, and the replay its largest ratio.
        """
        n = pool.num_examples
        warm_up = self._warm_up(n, seed=0).visits
        if self.tuner is None:
            rounds = sizes_of_rounds(0, self.query_size, self.max_rounds, n)
            return warm_up + self.visits_of_rounds(rounds, n)
        rule, passes, replay = self.tuner.query_size, self.passes_per_round, self.replay
        ratio = self._fixed.ratio
        if ratio is not None:
            replay = self._replay_of(self.tuner.ratios(ratio)[1])
        in_rounds = most_visits(
            lambda new, old: replay.pass_size(new, old, passes, n),
            query_sizes(self.query_size, 0 if rule is None else rule.doublings),
            self.max_rounds,
            n,
        )
        return warm_up + passes * in_rounds

    def start(self, pool: Pool, seed: int) -> RoundState:
        """Begin with nothing selected."""
        begun = super().start(pool, seed)
        if self.tuner is None:
            return begun
        tuner = self.tuner.start(pool.num_examples, self._fixed)
        return begun._replace(tuner=tuner)

    def tune(self, state: RoundState, learner: Learner) -> RoundState:
        """Decide whether what is under way ends, or how the next round is to be."""
        if self.tuner is None or state.tuner is None:
            return state
        tuner = self.tuner.judged(state.tuner, warming=state.plans == 1)
        left = state.indices.size < state.num_examples
        query = 0 < state.plans <= self.max_rounds and left
        if query and not tuner.under_way:
            at = Place(state.num_examples, state.indices, state.seed, state.plans)
            tuner = self.tuner.look(tuner, learner, at, self._fixed)
        return state._replace(tuner=tuner)

    def plan(
        self, state: RoundState, learner: Learner
    ) -> tuple[RoundState, Plan | None]:
        """Warm up, then query the pool and train on what was found, round by round.

        With a tuner in pieces, after each of which it may end.
        """
        tuner = state.tuner
        if self.tuner is None or tuner is None:
            return super().plan(state, learner)
        if not tuner.under_way:
            state, whole = self._whole(state, learner)
            if whole is None:
                return state, None
            tuner = tuner.begun(whole)
        warming = state.plans == 1
        tuner, piece = self.tuner.piece(
            tuner,
            learner.batch_size,
            warming=warming,
            reset="none" if warming else self.reset,
            learning_rate=None if warming else self.round_learning_rate,
        )
        return state._replace(tuner=tuner), piece

    def _whole(
        self, state: RoundState, learner: Learner
    ) -> tuple[RoundState, Plan | None]:
        """Return the warm-up or the next round as it is without pieces."""
        tuner = state.tuner
        assert self.tuner is not None
        assert tuner is not None
        if state.plans == 0:
            return self.first(state, learner)
        if state.plans > self.max_rounds:
            return state, None
        known = None
        if tuner.sample_scores.size:
            known = Known(tuner.sample, tuner.sample_scores)
        chosen = self.query(
            learner,
            state.num_examples,
            state.indices,
            state.seed,
            state.plans,
            query_size=tuner.query_size,
            score=self.tuner.arm(tuner),
            known=known,
        )
        if chosen.indices.size == 0:
            return state, None
        replay = None if tuner.ratio is None else self._replay_of(tuner.ratio)
        return self.round_on(state, chosen, learner, replay)

    def observe(self, state: RoundState, result: TrainResult) -> RoundState:
        """Keep what the replay, the boost and the tuner go by."""
        state = super().observe(state, result)
        if self.tuner is None or state.tuner is None:
            return state
        return state._replace(tuner=state.tuner.observed(result, self.tuner.cost))

    @property
    def _fixed(self) -> Fixed:
        assert self.tuner is not None
        names = self.tuner.scores(self.ranked_by)
        ratio = getattr(self.replay, "ratio", None)
        return Fixed(self.query_size, self.max_rounds, ratio, names)

    def _replay_of(self, ratio: int | float) -> Replay:
        return self.replay.model_copy(update={"ratio": ratio})

    def first(self, state: RoundState, learner: Learner) -> tuple[RoundState, Plan]:
        """Warm up."""
        del learner
        plan = self._warm_up(state.num_examples, state.seed)
        return state._replace(plans=1), plan

    def _warm_up(self, num_examples: int, seed: int) -> Plan:
        if self.compat == "artifact":
            return self._artifact_warm_up(num_examples, seed)
        subsets = rs2_passes(num_examples, self.keep_fraction, self.warmup_passes, seed)
        return Plan(subsets, label="warm-up", passes=self.warmup_passes)

    def _artifact_warm_up(self, num_examples: int, seed: int) -> Plan:
        """Repeat the warm-up of the authors' code, two quirks included.

        It cuts each shuffled order into round(1 / keep_fraction) chunks, drops the
        remainder, and finishes the order it is in: 20 passes over thirds become 21. Its
        cosine has the horizon of `passes_per_round` warm-up passes and climbs again
        after it, so the rate falls, rises and falls.
        """
        chunks = max(1, round(1 / self.keep_fraction))
        size = num_examples // chunks
        passes = chunks * -(-self.warmup_passes // chunks)
        rows = [
            generator(seed, "rs2", index).permutation(num_examples)[: chunks * size]
            for index in range(passes // chunks)
        ]
        subsets = np.concatenate(rows).reshape(passes, size).astype(np.int32)
        span = Span(0, self.passes_per_round * size, cyclic=True)
        return Plan(subsets, label="warm-up", passes=passes, schedule=span)
