"""Methods of rounds: each adds to a growing set what a query of the pool finds."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from dpet_jax.methods.base import (
    PROXY,
    Auxiliary,
    Coreset,
    Learner,
    Method,
    Selection,
    generator,
)
from dpet_jax.methods.proxy import ProxyConfig
from dpet_jax.methods.tuner import TunerState
from dpet_jax.scores.registry import lookup, selectable_scores
from dpet_jax.section import AtLeastOne, Count, Fraction, Section


def score_to_rank_by(name: str) -> str:
    """Return the name of a score that can rank examples, as it is.

    Raises:
        ValueError: If no score is called so, or it ranks nothing.
    """
    if not lookup(name).selectable:
        raise ValueError(
            f"{name!r} serves another end than to choose examples; take one of "
            f"{', '.join(selectable_scores())}"
        )
    return name


ScoreName = Annotated[str, AfterValidator(score_to_rank_by)]


class Known(NamedTuple):
    """Scores of some of the pool that are known before a query.

    Attributes:
        indices: int32[s], positions in the training split.
        values: float32[s], larger = more informative.
    """

    indices: np.ndarray
    values: np.ndarray


class DiversityConfig(Section):
    """Spread a round's examples out, among the best by score."""

    kind: Literal["none", "k_center", "badge", "stratified"] = Field(
        "none",
        description="how examples of a query are spread out; none: the best by score",
    )
    shortlist: AtLeastOne = Field(
        3.0, description="times query_size: the best by score that it chooses from"
    )


class QueryMethod(Method):
    """A method that asks round by round which examples of the pool to add."""

    score: ScoreName = Field(
        "margin", description="one of `dpet list`, or package.module:function"
    )
    query_size: Count = Field(1000, description="fewer only when the pool runs out")
    candidate_fraction: Fraction = Field(
        1.0, description="share of the pool that is scored, drawn anew each round"
    )
    diversity: DiversityConfig = Field(
        DiversityConfig(), description="spreads the examples of a query out"
    )
    proxy: ProxyConfig | None = Field(
        None, description="a narrower network that scores; its cost counts as selection"
    )

    @model_validator(mode="after")
    def _network_is_asked(self) -> "QueryMethod":
        if self.proxy is not None and self.score == "random":
            raise ValueError(
                "score random asks no network, so a proxy would never be trained; "
                "leave proxy at null"
            )
        if self.score == "random" and self.diversity.kind != "none":
            raise ValueError(
                "diversity chooses among the best by score; score is random"
            )
        return self

    @property
    def label(self) -> str:
        """Its name and what it ranks by."""
        by = self.score.rpartition(":")[2].replace("_", " ")
        if self.proxy is not None:
            by = f"{by} by a proxy of width {self.proxy.width_multiplier:g}"
        return f"{super().label} ({by})"

    @property
    def ranked_by(self) -> tuple[str, ...]:
        """Names of the scores that rank the pool: none at random, or two to blend."""
        return () if self.score == "random" else (self.score,)

    @property
    def blend_weight(self) -> float:
        """Share of the second of two scores."""
        return 0.0

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of everything that a round asks the learner for."""
        if self.diversity.kind == "none":
            return self.ranked_by
        return (*self.ranked_by, "logits", "features")

    @property
    def auxiliary(self) -> Auxiliary | None:
        """The proxy, if there is one."""
        if self.proxy is None:
            return None
        return Auxiliary(PROXY, self.proxy.width_multiplier)

    def query(
        self,
        learner: Learner,
        num_examples: int,
        selected: np.ndarray,
        seed: int,
        round_index: int,
        *,
        query_size: int | None = None,
        score: str | None = None,
        known: Known | None = None,
    ) -> Selection:
        """Pick from the examples not selected yet.

        Args:
            learner: Scores the candidates with the model as it stands.
            num_examples: n.
            selected: int32[m], positions that are in already.
            seed: The run's seed.
            round_index: Decides the random draws.
            query_size: Examples to pick; None is the key's.
            score: To rank by; None is what `ranked_by` names.
            known: What need not be computed of a single score.

        Returns:
            At most `query_size` examples, most informative first; empty when the pool
            is.
        """
        pool = np.setdiff1d(np.arange(num_examples, dtype=np.int32), selected)
        size = min(query_size or self.query_size, pool.size)
        ranked_by = self.ranked_by
        if score is not None:
            ranked_by = () if score == "random" else (score,)
        if not ranked_by or size == 0:
            drawn = generator(seed, "query", round_index).permutation(pool)[:size]
            return Selection(drawn, np.full(size, np.nan, np.float32))
        count = min(pool.size, max(size, round(self.candidate_fraction * pool.size)))
        if count < pool.size:
            draw = generator(seed, "candidates", round_index).permutation(pool)
            pool = np.sort(draw[:count])
        best = size
        if self.diversity.kind != "none":
            best = min(pool.size, max(size, round(self.diversity.shortlist * size)))
        if known is None:
            chosen = learner.select(
                "top_k", pool, best, scores=ranked_by, weight=self.blend_weight
            )
        else:
            values = _completed(learner, pool, ranked_by[0], known)
            chosen = learner.select("top_k", pool, best, values=values)
        if best == size:
            return chosen
        draws = generator(seed, "diversity", round_index)
        return learner.select(
            self.diversity.kind, chosen.indices, size, seed=int(draws.integers(2**31))
        )

    def coreset(self, state: "RoundState") -> Coreset:
        """Return everything selected so far."""
        return state.coreset


def _completed(
    learner: Learner, pool: np.ndarray, score: str, known: Known
) -> np.ndarray:
    """Return the scores of a sorted pool, computing only those not known yet."""
    inside = np.isin(known.indices, pool)
    indices = known.indices[inside]
    rest = np.setdiff1d(pool, indices)
    values = np.empty(pool.size, np.float32)
    values[np.searchsorted(pool, indices)] = known.values[inside]
    if rest.size:
        values[np.searchsorted(pool, rest)] = learner.score((score,), rest)[score]
    return values


class RoundState(NamedTuple):
    """Which examples were selected, and when.

    Attributes:
        num_examples: n.
        seed: The run's seed.
        plans: Plans given out so far.
        indices: int32[m], positions in the order in which they entered.
        round_index: int32[m], the round in which each entered.
        scores: float32[m], the score at which each entered.
        known: What a replay goes by for each example, such as its last loss; empty if
            it goes by nothing.
        round_losses: float64[r], mean training loss of each round; empty where no boost
            goes by it.
        boosted: Whether the last plan was a boost.
        tuner: What the tuner knows; None where there is none.
    """

    num_examples: int
    seed: int
    plans: int
    indices: np.ndarray
    round_index: np.ndarray
    scores: np.ndarray
    known: np.ndarray = np.zeros(0, np.float32)
    round_losses: np.ndarray = np.zeros(0, np.float64)
    boosted: bool = False
    tuner: TunerState | None = None

    @classmethod
    def begin(cls, num_examples: int, seed: int) -> "RoundState":
        """Return the state with nothing selected."""
        return cls(num_examples, seed, 0, *Coreset.empty()[:3])

    @property
    def coreset(self) -> Coreset:
        """The examples selected so far."""
        return Coreset(self.indices, self.round_index, self.scores)

    @property
    def last_round(self) -> int:
        """The last round that has selected any."""
        return int(self.round_index[-1])

    @property
    def new(self) -> np.ndarray:
        """The examples that the last round has added, in their order."""
        return self.indices[self.round_index == self.last_round]

    @property
    def old(self) -> np.ndarray:
        """The examples of all rounds before it, in their order."""
        return self.indices[self.round_index != self.last_round]

    def extended(self, round_index: int, chosen: Selection) -> "RoundState":
        """Return the state after a selection was added."""
        coreset = self.coreset.extended(round_index, chosen)
        return self._replace(
            indices=coreset.indices,
            round_index=coreset.round_index,
            scores=coreset.scores,
        )
