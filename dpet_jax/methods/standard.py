"""Methods that are a single plan, and full-data training, the first of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dpet_jax.methods.base import Coreset, Learner, Plan, Pool, TrainResult


class OnePlanState(NamedTuple):
    """Before or after the only plan.

    Attributes:
        num_examples: n.
        seed: The run's seed.
        planned: Whether the plan was given out.
    """

    num_examples: int
    seed: int
    planned: bool


class OnePlan:
    """A method whose whole course is known before it starts.

    Args:
        make_plan: Maps the number of examples and the seed to the plan.
        chosen: The coreset the plan trains on, if it is one.
    """

    scores: tuple[str, ...] = ()

    def __init__(
        self, make_plan: Callable[[int, int], Plan], chosen: Coreset | None = None
    ) -> None:
        self.make_plan = make_plan
        self.chosen = chosen

    def planned_visits(self, pool: Pool) -> int:
        """Count the plan's visits, which no seed changes."""
        return self.make_plan(pool.num_examples, 0).visits

    def start(self, pool: Pool, seed: int) -> OnePlanState:
        """Begin with the plan still to give."""
        return OnePlanState(pool.num_examples, seed, planned=False)

    def plan(
        self, state: OnePlanState, learner: Learner
    ) -> tuple[OnePlanState, Plan | None]:
        """Give the plan once."""
        del learner
        if state.planned:
            return state, None
        return state._replace(planned=True), self.make_plan(
            state.num_examples, state.seed
        )

    def observe(self, state: OnePlanState, result: TrainResult) -> OnePlanState:
        """Learn nothing from the result."""
        del result
        return state

    def coreset(self, state: OnePlanState) -> Coreset | None:
        """Return the given coreset, or None."""
        del state
        return self.chosen


def standard(passes: int) -> OnePlan:
    """Train on every example in every pass."""

    def make_plan(num_examples: int, seed: int) -> Plan:
        del seed
        everything = np.arange(num_examples, dtype=np.int32)
        return Plan(everything, label="standard", passes=passes)

    return OnePlan(make_plan)
