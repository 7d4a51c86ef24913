"""An exponential moving average of the weights, evaluated in place of the last ones.

Parameters and running statistics of the normalisation are averaged together, beside
training, which never reads the average.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32


class Average(NamedTuple):
    """The average after some steps.

    Attributes:
        steps: How many.
        mean: Tree of float32 arrays; the weights as drawn before the first step.
    """

    steps: Int32[Array, ""]
    mean: Any


def new_average(weights: Any) -> Average:
    """Return the average before the first step.

    Args:
        weights: Tree of float32 arrays, as the network was drawn.
    """
    return Average(jnp.zeros((), jnp.int32), weights)


def moved(average: Average, weights: Any, decay: Float32[Array, ""]) -> Average:
    """Return the average after a step.

    At first, while 1 / (1 - decay) steps have not passed, it is the plain mean of the
    weights after each step, so that the weights as drawn have no part in it.

    Args:
        average: Before the step.
        weights: After the step.
        decay: Share of the average that stays from step to step.
    """
    steps = average.steps + 1
    share = jnp.maximum(1.0 - decay, 1.0 / steps.astype(jnp.float32))
    mean = jax.tree.map(
        lambda old, new: old + share * (new - old), average.mean, weights
    )
    return Average(steps, mean)
