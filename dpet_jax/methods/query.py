"""The query of a round: which examples of the pool to add next."""

from dataclasses import dataclass

import numpy as np

from dpet_jax.methods.base import Learner, Selection, generator

#: Dissimilarity of a prediction to its label, by the name of the score that is it:
#: ||p - y|| on probabilities (a factor changes no rank), and KL(y || p) = -log p_y.
DISSIMILARITY_SCORES = {"euclidean": "el2n", "kl": "cross_entropy"}


@dataclass(frozen=True)
class Query:
    """How a round ranks the pool.

    Attributes:
        score: A score's name, or "random", the control that scores nothing.
        size: Examples to add, fewer only when the pool runs out.
        candidate_fraction: Share of the pool that is scored, drawn anew each round.
        dissimilarity: "none", or a key of `DISSIMILARITY_SCORES` to blend in.
        weight: Share of the dissimilarity in the blend.
        artifact: Rank by the authors' own formula instead.
        diversity: "none", or a selector that spreads the choice out among the best.
        shortlist: How many times `size` of the best it chooses from.
    """

    score: str
    size: int
    candidate_fraction: float = 1.0
    dissimilarity: str = "none"
    weight: float = 0.0
    artifact: bool = False
    diversity: str = "none"
    shortlist: float = 1.0

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores that a round asks for."""
        if self.score == "random":
            return ()
        if self.artifact:
            return (f"artifact_{self.score}_{self.dissimilarity}",)
        if self.dissimilarity == "none":
            return (self.score,)
        return (self.score, DISSIMILARITY_SCORES[self.dissimilarity])

    @property
    def asks(self) -> tuple[str, ...]:
        """Names of everything that a round asks the learner for."""
        if self.diversity == "none":
            return self.scores
        return (*self.scores, "logits", "features")

    def select(
        self,
        learner: Learner,
        num_examples: int,
        selected: np.ndarray,
        seed: int,
        round_index: int,
    ) -> Selection:
        """Pick from the examples not selected yet.

        Args:
            learner: Scores the candidates with the model as it stands.
            num_examples: n.
            selected: int32[m], positions that are in already.
            seed: The run's seed.
            round_index: Decides the random draws.

        Returns:
            At most `size` examples, most informative first; empty when the pool is.
        """
        pool = np.setdiff1d(np.arange(num_examples, dtype=np.int32), selected)
        size = min(self.size, pool.size)
        if self.score == "random" or size == 0:
            drawn = generator(seed, "query", round_index).permutation(pool)[:size]
            return Selection(drawn, np.full(size, np.nan, np.float32))
        count = min(pool.size, max(size, round(self.candidate_fraction * pool.size)))
        if count < pool.size:
            draw = generator(seed, "candidates", round_index).permutation(pool)
            pool = np.sort(draw[:count])
        best = size
        if self.diversity != "none":
            best = min(pool.size, max(size, round(self.shortlist * size)))
        chosen = learner.select(
            "top_k", pool, best, scores=self.scores, weight=self.weight
        )
        if best == size:
            return chosen
        draws = generator(seed, "diversity", round_index)
        return learner.select(
            self.diversity, chosen.indices, size, seed=int(draws.integers(2**31))
        )
