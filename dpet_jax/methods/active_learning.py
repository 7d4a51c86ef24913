"""Active learning as a way to choose training data: query, add, train, repeat."""

from typing import Literal

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import Learner, Plan, Pool, Selection, generator
from dpet_jax.methods.query import QueryMethod, RoundState, visits_of_rounds
from dpet_jax.section import Count, CountFromZero, Passes


class ActiveLearning(QueryMethod):
    """Random initial set, then rounds that add the most informative examples.

    Every round trains on everything selected so far, as the paper does with new
    parameters; otherwise the weights go on and only the optimizer starts anew.

    Source:
        Park, Papailiopoulos & Lee (2022), "Active Learning is a Strong Baseline for
        Data Subset Selection".
    """

    kind: Literal["active_learning"] = "active_learning"
    initial_size: Count = 1000
    passes_per_round: Passes = 200
    max_rounds: CountFromZero = Field(10, description="rounds after the initial one")
    from_scratch: bool = Field(True, description="new parameters in every round")

    def planned_visits(self, pool: Pool) -> int:
        """Count round 0 and all later rounds over their growing sets."""
        first = min(self.initial_size, pool.num_examples)
        later = visits_of_rounds(
            first, self.query_size, self.max_rounds, pool.num_examples
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
            chosen = self.query(
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
