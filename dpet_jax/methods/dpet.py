"""DPET: an RS2 warm-up, then rounds that add the most informative examples."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dpet_jax.methods.base import Learner, Plan, Pool, Span, generator
from dpet_jax.methods.query import RoundState
from dpet_jax.methods.rounds import RoundsMethod, sizes_of_rounds
from dpet_jax.methods.rs2 import rs2_passes
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
        if changed:
            raise ValueError(
                f"compat artifact trains on all that is selected, from the optimizer's "
                f"rate down; leave {' and '.join(changed)} as they are by default, or "
                "compat at none"
            )
        return self

    @property
    def label(self) -> str:
        """The name that its authors gave it, and what it ranks by."""
        return super().label.replace("dpet", "DPET")

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

    def planned_visits(self, pool: Pool) -> int:
        """Count the warm-up and all rounds."""
        n = pool.num_examples
        rounds = sizes_of_rounds(0, self.query_size, self.max_rounds, n)
        return self._warm_up(n, seed=0).visits + self.visits_of_rounds(rounds, n)

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
