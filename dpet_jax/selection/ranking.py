"""Ranking: from scores over a pool to the examples to train on next."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from dpet_jax.arrays import Scores


def top_k(
    scores: Scores, num_select: int, *, key: Key[Array, ""] | None = None
) -> Int32[Array, " m"]:
    """Take the `num_select` largest scores, most informative first.

    Ties go to the smaller index, or to chance when a key is given.

    Args:
        scores: One score an example; minus infinity marks what must not be taken.
        num_select: How many to take, at most as many as there are.
        key: Breaks ties at random.

    Returns:
        Positions in `scores`, in descending order of score.

    Raises:
        ValueError: If a score is NaN (a diverged model must not pick examples) or if
            more are asked for than may be taken.
    """
    if num_select > scores.shape[0]:
        raise ValueError(f"cannot take {num_select} of {scores.shape[0]} examples")
    chosen, has_nan = _top_k(scores, num_select, key)
    if bool(has_nan):
        raise ValueError("scores contain NaN")
    if num_select and bool(scores[chosen[-1]] == -jnp.inf):
        raise ValueError(f"fewer than {num_select} examples may be taken")
    return chosen


@partial(jax.jit, static_argnames="num_select")
def _top_k(
    scores: Scores, num_select: int, key: Key[Array, ""] | None
) -> tuple[Int32[Array, " m"], Bool[Array, ""]]:
    # lax.top_k would rank NaN first, so the caller has to know
    has_nan = jnp.isnan(scores).any()
    # and -0.0, the entropy of a certain prediction, below 0.0
    scores = jnp.where(scores == 0.0, 0.0, scores)
    if key is None:
        return jax.lax.top_k(scores, num_select)[1], has_nan
    shuffled = jax.random.permutation(key, scores.shape[0])
    chosen = shuffled[jax.lax.top_k(scores[shuffled], num_select)[1]]
    return chosen.astype(jnp.int32), has_nan


@jax.jit
def blend(
    scores: Scores, dissimilarities: Scores, weight: Float32[Array, ""] | float
) -> Float32[Array, " n"]:
    """Blend two scores after bringing both to the same scale by rank.

    (1 - w) r(score) + w r(dissimilarity), where r maps the smallest value to 0 and the
    largest to 1 by rank, so that neither unit nor outliers weigh in. The paper names a
    score and a dissimilarity but no way to combine them.

    Args:
        scores: One score an example; minus infinity marks what must not be taken, and
            stays.
        dissimilarities: Aligned with `scores`.
        weight: Share w of the dissimilarity, in [0, 1].

    Returns:
        Importance in [0, 1]; NaN throughout where an input is NaN.
    """
    allowed = scores > -jnp.inf
    weight = jnp.asarray(weight, jnp.float32)
    blended = (1.0 - weight) * _ranks(scores, allowed) + weight * _ranks(
        dissimilarities, allowed
    )
    has_nan = jnp.isnan(scores).any() | jnp.isnan(dissimilarities).any()
    return jnp.where(has_nan, jnp.nan, jnp.where(allowed, blended, -jnp.inf))


def _ranks(values, allowed):
    """Average ranks of ties, scaled to [0, 1] over the allowed values."""
    ordered = jnp.sort(jnp.where(allowed, values, -jnp.inf))
    below = jnp.searchsorted(ordered, values, side="left")
    up_to = jnp.searchsorted(ordered, values, side="right")
    excluded = jnp.sum(~allowed).astype(jnp.float32)
    largest = jnp.maximum(jnp.sum(allowed) - 1, 1).astype(jnp.float32)
    return ((below + up_to - 1).astype(jnp.float32) / 2.0 - excluded) / largest
