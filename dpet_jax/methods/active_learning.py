"""Active learning as a way to choose training data: query, add, train, repeat."""

from typing import NamedTuple

import numpy as np

from dpet_jax.methods.base import (
    Coreset,
    Learner,
    Plan,
    Pool,
    Selection,
    TrainResult,
    generator,
)
from dpet_jax.methods.query import Query


class RoundState(NamedTuple):
    """Which examples were selected, and when.

    Attributes:
        num_examples: n.
        seed: The run's seed.
        plans: Plans given out so far.
        indices: int32[m], positions in the order in which they entered.
        round_index: int32[m], the round in which each entered.
        scores: float32[m], the score at which each entered.
    """

    num_examples: int
    seed: int
    plans: int
    indices: np.ndarray
    round_index: np.ndarray
    scores: np.ndarray

    @classmethod
    def begin(cls, num_examples: int, seed: int) -> "RoundState":
        """Return the state with nothing selected."""
        return cls(num_examples, seed, 0, *Coreset.empty())

    @property
    def coreset(self) -> Coreset:
        """The examples selected so far."""
        return Coreset(self.indices, self.round_index, self.scores)

    def extended(self, round_index: int, chosen: Selection) -> "RoundState":
        """Return the state after a selection was added."""
        coreset = self.coreset.extended(round_index, chosen)
        return self._replace(**coreset._asdict())


def visits_of_rounds(
    sizes_before: int, query_size: int, rounds: int, num_examples: int
) -> int:
    """Add up the sizes of growing sets, one pass each."""
    sizes = [
        min(sizes_before + query_size * index, num_examples)
        for index in range(1, rounds + 1)
        if sizes_before + query_size * (index - 1) < num_examples
    ]
    return sum(sizes)


class ActiveLearning:
    """Start from random examples; each round add the most informative ones and train.

    Args:
        query: How a round ranks the pool.
        initial_size: Random examples of round 0.
        passes_per_round: Passes over everything selected so far.
        max_rounds: Rounds after round 0.
        from_scratch: Draw new parameters in every round, as the paper does; otherwise
            the weights go on and only the optimizer starts anew.

    Source:
        Park, Papailiopoulos & Lee (2022), "Active Learning is a Strong Baseline for
        Data Subset Selection".
    """

    def __init__(
        self,
        query: Query,
        *,
        initial_size: int,
        passes_per_round: int,
        max_rounds: int,
        from_scratch: bool,
    ) -> None:
        self.query = query
        self.initial_size = initial_size
        self.passes_per_round = passes_per_round
        self.max_rounds = max_rounds
        self.from_scratch = from_scratch

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of everything that a round asks the learner for."""
        return self.query.asks

    def planned_visits(self, pool: Pool) -> int:
        """Count round 0 and all later rounds over their growing sets."""
        first = min(self.initial_size, pool.num_examples)
        later = visits_of_rounds(
            first, self.query.size, self.max_rounds, pool.num_examples
        )
        return self.passes_per_round * (first + later)

    def start(self, pool: Pool, seed: int) -> RoundState:
        """Begin with nothing selected."""
        return RoundState.begin(pool.num_examples, seed)

    def plan(
        self, state: RoundState, learner: Learner
    ) -> tuple[RoundState, Plan | None]:
        """Query the pool and train on old and new examples together."""
        if state.plans > self.max_rounds:
            return state, None
        if state.plans == 0:
            drawn = generator(state.seed, "initial").permutation(state.num_examples)
            drawn = drawn[: self.initial_size].astype(np.int32)
            chosen = Selection(drawn, np.full(drawn.size, np.nan, np.float32))
        else:
            chosen = self.query.select(
                learner, state.num_examples, state.indices, state.seed, state.plans
            )
        if chosen.indices.size == 0:
            return state, None
        state = state.extended(state.plans, chosen)
        plan = Plan(
            np.sort(state.indices),
            label=f"round {state.plans}",
            passes=self.passes_per_round,
            reset="all" if self.from_scratch else "optimizer",
        )
        return state._replace(plans=state.plans + 1), plan

    def observe(self, state: RoundState, result: TrainResult) -> RoundState:
        """Learn nothing from the result; the next query looks at the model itself."""
        del result
        return state

    def coreset(self, state: RoundState) -> Coreset | None:
        """Return everything selected so far."""
        return state.coreset
