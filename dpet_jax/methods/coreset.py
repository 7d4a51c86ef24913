"""Train on a coreset that an earlier run saved."""

import numpy as np

from dpet_jax.methods.base import Coreset, Plan
from dpet_jax.methods.standard import OnePlan


def saved_coreset(chosen: Coreset, passes: int) -> OnePlan:
    """Train on a given index set in every pass.

    Args:
        chosen: The coreset; it is handed on as this run's own.
        passes: How often to run over it.
    """

    def make_plan(num_examples: int, seed: int) -> Plan:
        del num_examples, seed
        return Plan(np.sort(chosen.indices), label="coreset", passes=passes)

    return OnePlan(make_plan, chosen)
