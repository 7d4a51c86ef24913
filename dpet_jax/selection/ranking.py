"""Ranking: from scores over a pool to the examples to train on next."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from dpet_jax.scores.arrays import Scores
from dpet_jax.selection.picks import refuse_traced


def top_k(
    scores: Float[Array, " n"], num_select: int, *, key: Key[Array, ""] | None = None
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
    refuse_traced("top_k", (scores, key))
    if not 0 <= num_select <= scores.shape[0]:
        raise ValueError(f"cannot take {num_select} of {scores.shape[0]} examples")
    order, allowed = descending(scores, key=key)
    if num_select > allowed:
        raise ValueError(f"fewer than {num_select} examples may be taken")
    return order[:num_select]


def descending(
    scores: Float[Array, " n"], *, key: Key[Array, ""] | None = None
) -> tuple[Int32[Array, " n"], int]:
    """Order all positions, most informative first: one program for every set size.

    Args:
        scores: One score an example; minus infinity marks what must not be taken.
        key: Breaks ties at random; without it they go to the smaller index.

    Returns:
        Positions in `scores` in descending order of score, and how many of them may be
        taken.

    Raises:
        ValueError: If a score is NaN.
    """
    refuse_traced("descending", (scores, key))
    ranking = rank(scores, key)
    has_nan, allowed = jax.device_get((ranking.has_nan, ranking.allowed))
    if has_nan:
        raise ValueError("scores contain NaN")
    return ranking.order, int(allowed)


class Ranking(NamedTuple):
    """A pool in order, on the device.

    Attributes:
        order: Positions, most informative first.
        scores: The score of each, in that order.
        has_nan: Whether any score is NaN; the order then means nothing.
        allowed: How many of the positions may be taken.
    """

    order: Int32[Array, " n"]
    scores: Scores
    has_nan: Bool[Array, ""]
    allowed: Int32[Array, ""]


@jax.jit
def rank(scores: Float[Array, " n"], key: Key[Array, ""] | None = None) -> Ranking:
    """Rank a pool without waiting for the device.

    The caller has to look at `has_nan`: a sort would hide NaN at one of its ends.

    Args:
        scores: One score an example; minus infinity marks what must not be taken.
        key: Breaks ties at random; without it they go to the smaller index.

    Returns:
        The order and what there is to check about it.
    """
    if jnp.ndim(scores) != 1:
        raise ValueError(f"scores are one for each example, not {jnp.shape(scores)}")
    has_nan = jnp.isnan(scores).any()
    allowed = jnp.sum(scores > -jnp.inf, dtype=jnp.int32)
    # -0.0, the entropy of a certain prediction, must tie with 0.0
    scores = jnp.where(scores == 0.0, 0.0, scores)
    if key is None:
        order = jnp.argsort(scores, stable=True, descending=True).astype(jnp.int32)
    else:
        shuffled = jax.random.permutation(key, scores.shape[0])
        order = jnp.argsort(scores[shuffled], stable=True, descending=True)
        order = shuffled[order].astype(jnp.int32)
    return Ranking(order, scores[order].astype(jnp.float32), has_nan, allowed)


@partial(jax.jit, static_argnames="size")
def stretch(
    ranking: Ranking, first: Int32[Array, ""], size: int
) -> tuple[Int32[Array, " size"], Float32[Array, " size"]]:
    """Cut a stretch of fixed size out of a ranking, so that a host reads no more.

    Args:
        ranking: The pool in order.
        first: Where the stretch begins, at most `size` before the end.
        size: Its length; each length is a program of its own.

    Returns:
        Positions and their scores.
    """
    return (
        lax.dynamic_slice_in_dim(ranking.order, first, size),
        lax.dynamic_slice_in_dim(ranking.scores, first, size),
    )


@jax.jit
def blend(
    scores: Float[Array, " n"],
    dissimilarities: Float[Array, " n"],
    weight: Float[Array, ""] | float,
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
