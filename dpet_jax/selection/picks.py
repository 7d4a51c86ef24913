"""Shared parts of greedy selectors: candidates, the best of them, buffers of picks."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from dpet_jax.methods.base import Selection


class Picks(NamedTuple):
    """Buffers that a compiled selector fills in greedy order.

    Attributes:
        indices: Positions of the picks; only the first `num_select` mean anything.
        gains: The gain at which each entered.
    """

    indices: Int32[Array, " c"]
    gains: Float32[Array, " c"]


def no_picks(capacity: int) -> Picks:
    """Return buffers for that many picks."""
    return Picks(jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, jnp.float32))


def added(
    picks: Picks,
    turn: Int32[Array, ""],
    index: Int32[Array, ""],
    gain: Float32[Array, ""],
) -> Picks:
    """Write down the pick of one turn."""
    return Picks(picks.indices.at[turn].set(index), picks.gains.at[turn].set(gain))


def best(
    values: Float32[Array, " n"], available: Bool[Array, " n"]
) -> Int32[Array, ""]:
    """Find the largest value among the available; ties go to the smaller index."""
    largest = jnp.max(jnp.where(available, values, -jnp.inf))
    positions = jnp.arange(values.shape[0], dtype=jnp.int32)
    # an available minus infinity must not tie with what is not available
    return jnp.min(jnp.where(available & (values == largest), positions, len(values)))


def candidates(
    num_select: int,
    allowed: Bool[Array, " n"] | None,
    *arrays: Float[Array, "n _"],
) -> Bool[Array, " n"]:
    """Return which rows may be picked, after checking what is asked for.

    Args:
        num_select: How many are to be picked.
        allowed: Which rows may be picked; None is all of them.
        arrays: What the selector reads of each row; rows not allowed may hold anything.

    Raises:
        ValueError: If more are asked for than may be picked, or if an allowed row is
            not finite.
    """
    if allowed is None:
        allowed = jnp.ones(arrays[0].shape[0], jnp.bool_)
    count, finite = jax.device_get(_census(allowed, arrays))
    if not 0 <= num_select <= count:
        raise ValueError(f"cannot pick {num_select} of {count} candidates")
    if not finite:
        raise ValueError("a candidate is not finite")
    return allowed


@jax.jit
def _census(allowed, arrays):
    finite = jnp.ones_like(allowed)
    for array in arrays:
        finite &= jnp.isfinite(array).all(axis=1)
    return jnp.sum(allowed), jnp.all(finite | ~allowed)


def selection(
    picks: Picks, num_select: int, weights: Float32[Array, " c"] | None = None
) -> Selection:
    """Bring picks to the host.

    Args:
        picks: As a compiled selector returned them.
        num_select: How many of them there are.
        weights: Loss weights aligned with the picks; None for equal ones.

    Raises:
        ValueError: If a gain or weight overflowed.
    """
    indices, gains, shares = jax.device_get((*picks, weights))
    gains = gains[:num_select]
    if shares is not None:
        shares = shares[:num_select]
    if np.isnan(gains).any() or (shares is not None and np.isnan(shares).any()):
        raise ValueError("the candidates' values are too large for float32")
    return Selection(indices[:num_select], gains, shares)


def rounded_up(num_select: int, most: int) -> int:
    """Round a budget up to a power of two, at most `most`: a capacity many share."""
    return min(most, 2 ** math.ceil(math.log2(max(num_select, 1))))
