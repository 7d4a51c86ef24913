"""Active learning as a way to choose training data: query, add, train, repeat."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dpet_jax.methods.base import Learner, Plan, Pool, Selection, generator
from dpet_jax.methods.query import RoundState
from dpet_jax.methods.rounds import RoundsMethod, sizes_of_rounds
from dpet_jax.section import Count, CountFromZero, Passes


class ActiveLearning(RoundsMethod):
    """Random initial set, then rounds that add the most informative examples.

    Every round trains on everything selected so far, unless `replay` says less. It has
    new parameters, as in the paper; otherwise the weights go on, and only the optimizer
    starts anew.

    Source:
        Park, Papailiopoulos & Lee (2022), "Active Learning is a Strong Baseline for
        Data Subset Selection".
    """

    kind: Literal["active_learning"] = "active_learning"
    initial_size: Count = Field(
        1000, description="examples of the first round, drawn at random"
    )
    passes_per_round: Passes = Field(200, description="over all that was chosen so far")
    max_rounds: CountFromZero = Field(10, description="rounds after the initial one")
    from_scratch: bool = Field(True, description="new parameters in every round")

    @model_validator(mode="after")
    def _something_goes_on(self) -> "ActiveLearning":
        if self.from_scratch and not self.restart:
            raise ValueError(
                "restart false keeps the momentum, but new parameters have none; set "
                "from_scratch: false, or leave restart at true"
            )
        if self.from_scratch and self.boost is not None:
            raise ValueError(
                "boost trains a network that the next round would throw away; set "
                "from_scratch: false, or leave boost at null"
            )
        return self

    @property
    def reset(self) -> Literal["none", "optimizer", "all"]:
        """What starts anew before a round."""
        return "all" if self.from_scratch else super().reset

    def planned_visits(self, pool: Pool) -> int:
        """Count round 0 and all later rounds."""
        n = pool.num_examples
        first = min(self.initial_size, n)
        later = sizes_of_rounds(first, self.query_size, self.max_rounds, n)
        return self.visits_of_rounds([(first, 0), *later], n)

    def first(self, state: RoundState, learner: Learner) -> tuple[RoundState, Plan]:
        """Train on the initial set, round 0."""
        drawn = generator(state.seed, "initial").permutation(state.num_examples)
        drawn = drawn[: self.initial_size].astype(np.int32)
        chosen = Selection(drawn, np.full(drawn.size, np.nan, np.float32))
        return self.round_on(state, chosen, learner)
