"""Full-data training, and the base of methods that are a single plan."""

from abc import abstractmethod
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import Learner, Method, Plan, Pool
from dpet_jax.section import Passes


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


class OnePlanMethod(Method):
    """A method whose whole course is known before it starts."""

    @abstractmethod
    def make_plan(self, num_examples: int, seed: int) -> Plan:
        """Return the plan; no seed may change its visits."""

    def planned_visits(self, pool: Pool) -> int:
        """Count the plan's visits."""
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


class Standard(OnePlanMethod):
    """Every example in every pass."""

    kind: Literal["standard"] = "standard"
    passes: Passes = Field(200, description="over all training examples")

    def make_plan(self, num_examples: int, seed: int) -> Plan:
        """Return all examples, so many times."""
        del seed
        everything = np.arange(num_examples, dtype=np.int32)
        return Plan(everything, label="standard", passes=self.passes)
