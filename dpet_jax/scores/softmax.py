"""Softmax without cancellation, for scores of nearly certain predictions.

1 - p and p - 1 cancel in float32: of a probability of 0.9999999 they keep one digit,
and the last bit of a logit decides which. Sums over the other classes cancel nothing.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from dpet_jax.scores.arrays import Logits, Score, vector_of_one


def gaps_below_best(logits: Logits) -> Float32[Array, " k"]:
    """Return max z - z, in float32: 0 for the likeliest class, else positive.

    Raises:
        ValueError: If the logits are not those of one example.
    """
    logits = vector_of_one(logits, "logits")
    return jnp.max(logits) - logits


def weights_beside(
    gaps: Float32[Array, " k"], index: Int[Array, ""]
) -> tuple[Float32[Array, " k"], Score]:
    """Return the softmax of all classes but one, before division by its total.

    w_j = exp(-gap_j), but 0 for the class left out; p_j = w_j / total.

    Args:
        gaps: From `gaps_below_best`.
        index: The class to leave out, in [0, k).

    Returns:
        The weights, and the total over all classes, the one left out included. The
        probability left over by that class is sum(w) / total, without cancellation.
    """
    weights = jnp.exp(-gaps)
    beside = jnp.where(
        jnp.arange(gaps.shape[-1], dtype=index.dtype) == index, 0.0, weights
    )
    return beside, jnp.exp(-gaps[index]) + jnp.sum(beside)
