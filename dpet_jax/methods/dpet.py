"""DPET: an RS2 warm-up, then rounds that add the most informative examples."""

import numpy as np

from dpet_jax.methods.active_learning import RoundState, visits_of_rounds
from dpet_jax.methods.base import (
    Coreset,
    Learner,
    Plan,
    Pool,
    Span,
    TrainResult,
    generator,
)
from dpet_jax.methods.query import Query
from dpet_jax.methods.sampling import rs2_passes


class Dpet:
    """Warm up on random subsets, then train on a coreset that grows round by round.

    The warm-up's examples do not count as selected. A round scores the not yet selected
    examples without augmentation, adds the most informative ones, and trains on old and
    new together; the weights go on, the optimizer starts anew.

    Args:
        query: How a round ranks the pool; `artifact` also repeats the warm-up of the
            authors' code.
        warmup_passes: RS2 passes before round 1.
        keep_fraction: Share of the data in a warm-up pass. The paper calls its 0.3 a
            "data reduction"; its code keeps a third.
        passes_per_round: Passes over the coreset in each round.
        max_rounds: Rounds after the warm-up.

    Source:
        Scala, Pontieri & Flesca (2024), "DPET: A Data and Parameter Efficient Training
        Framework for Green AI".
    """

    def __init__(
        self,
        query: Query,
        *,
        warmup_passes: int,
        keep_fraction: float,
        passes_per_round: int,
        max_rounds: int,
    ) -> None:
        self.query = query
        self.warmup_passes = warmup_passes
        self.keep_fraction = keep_fraction
        self.passes_per_round = passes_per_round
        self.max_rounds = max_rounds

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of everything that a round asks the learner for."""
        return self.query.asks

    def planned_visits(self, pool: Pool) -> int:
        """Count the warm-up and all rounds over their growing sets."""
        warm_up = self._warm_up(pool.num_examples, seed=0).visits
        rounds = visits_of_rounds(
            0, self.query.size, self.max_rounds, pool.num_examples
        )
        return warm_up + self.passes_per_round * rounds

    def start(self, pool: Pool, seed: int) -> RoundState:
        """Begin with nothing selected."""
        return RoundState.begin(pool.num_examples, seed)

    def plan(
        self, state: RoundState, learner: Learner
    ) -> tuple[RoundState, Plan | None]:
        """Warm up, then query the pool and train on old and new examples together."""
        round_index, counted = state.plans, state._replace(plans=state.plans + 1)
        if round_index == 0:
            return counted, self._warm_up(state.num_examples, state.seed)
        if round_index > self.max_rounds:
            return state, None
        chosen = self.query.select(
            learner, state.num_examples, state.indices, state.seed, round_index
        )
        if chosen.indices.size == 0:
            return state, None
        counted = counted.extended(round_index, chosen)
        plan = Plan(
            np.sort(counted.indices),
            label=f"round {round_index}",
            passes=self.passes_per_round,
            reset="optimizer",
        )
        return counted, plan

    def observe(self, state: RoundState, result: TrainResult) -> RoundState:
        """Learn nothing from the result; the next query looks at the model itself."""
        del result
        return state

    def coreset(self, state: RoundState) -> Coreset | None:
        """Return everything selected so far; the warm-up's examples are not."""
        return state.coreset

    def _warm_up(self, num_examples: int, seed: int) -> Plan:
        if self.query.artifact:
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
