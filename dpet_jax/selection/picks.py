"""Shared parts of greedy selectors: candidates, the best of them, buffers of picks."""

import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import (
    Factors,
    Gradients,
    exponents,
    scaled,
    scaled_rows,
    without,
)
from dpet_jax.scores.scale import ORDINARY, ZERO, exponent, times_two_to, unordinary

_P, _R = ParamSpec("_P"), TypeVar("_R")


def on_the_host(select: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a selector, which looks at values: it refuses traced ones.

    Its arrays are read as 32-bit numbers and it computes with such, so that
    `jax_enable_x64` changes no pick.
    """

    @functools.wraps(select)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        refuse_traced(select.__name__, (args, kwargs))
        enabled = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        with jax.enable_x64(False) if enabled else nullcontext():
            args, kwargs = jax.tree.map(_in_32_bits, (args, kwargs))
            return select(*args, **kwargs)

    return wrapped


def refuse_traced(name: str, values: Any) -> None:
    """Refuse values that stand for others inside `jax.jit`, `jax.vmap` or a gradient.

    Raises:
        ValueError: If there are any.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values)):
        raise ValueError(
            f"{name} is called outside jax.jit and jax.vmap: it looks at values, and "
            "compiles what it runs itself"
        )


def _in_32_bits(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != jnp.float32:
        with np.errstate(over="ignore"):  # what is infinite then is refused
            return leaf.astype(np.float32)
    if isinstance(leaf, jax.Array) and leaf.dtype in (jnp.int64, jnp.uint64):
        most = np.iinfo(np.int32)  # what is out of range stays so
        return jnp.asarray(np.clip(np.asarray(leaf), most.min, most.max), jnp.int32)
    return leaf


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
        ValueError: If more are asked for than may be picked, if an allowed row is not
            finite, or if `allowed` is no boolean for each row.
    """
    n = arrays[0].shape[0]
    if allowed is None:
        allowed = jnp.ones(n, jnp.bool_)
    allowed = one_for_each(allowed, n)
    lengths = {array.shape[0] for array in arrays}
    if lengths != {n}:
        raise ValueError(f"arrays of {sorted(lengths)} rows are not those of one pool")
    count, finite = jax.device_get(_census(allowed, arrays))
    if not 0 <= num_select <= count:
        raise ValueError(f"cannot pick {num_select} of {count} candidates")
    if not finite:
        raise ValueError("a candidate is not finite in float32")
    return allowed


def one_for_each(allowed: Any, n: int) -> Bool[Array, " n"]:
    """Return a mask of the rows, after checking that it is one.

    Raises:
        ValueError: If it is not one boolean for each of n rows.
    """
    allowed = jnp.asarray(allowed)
    if allowed.shape != (n,) or allowed.dtype != jnp.bool_:
        raise ValueError(
            f"allowed is one boolean for each of {n} rows, not an array of shape "
            f"{allowed.shape} and dtype {allowed.dtype}"
        )
    return allowed


def in_range(gradients: Gradients, allowed: Bool[Array, " n"]) -> tuple[Factors, int]:
    """Return gradients whose squares fit float32, divided by 2^power, and the power.

    Those of ordinary size are returned as they are, and a selector's program for them
    knows of no scale; for `ScaledGradients` it is another.
    """
    if _ordinary(gradients, allowed)[0]:
        return gradients, 0
    own, power = _scaled(gradients, allowed)
    return own, int(power)


def rows_of_gradients_in_range(
    gradients: Gradients, allowed: Bool[Array, " n"]
) -> Factors:
    """Return gradients of which only the directions are those that were given."""
    if _ordinary(gradients, allowed)[1]:
        return gradients
    return _scaled_rows(gradients, allowed)


@jax.jit
def _ordinary(gradients, allowed):
    """Return whether squares fit next to the largest, and each by itself."""
    errors, features = (jnp.where(allowed, each, ZERO) for each in exponents(gradients))
    fit = ~jnp.any((errors > ORDINARY) | (features > ORDINARY))
    # squares of small features are lost beside the 1 for the bias, as they should be
    lengths = jnp.where(errors > ZERO, errors + jnp.maximum(features, 0), ZERO)
    largest = jnp.max(lengths, initial=ZERO)
    small = (errors > ZERO) & (errors < -2 * ORDINARY)
    return fit & (unordinary(largest) == 0), fit & ~jnp.any(small)


@jax.jit
def _scaled(gradients, allowed):
    return scaled(without(gradients, allowed))


@jax.jit
def _scaled_rows(gradients, allowed):
    return scaled_rows(without(gradients, allowed))


def rows_in_range(
    rows: Float32[Array, "n d"], known: Bool[Array, " n"]
) -> tuple[Float32[Array, "n d"], int]:
    """Return rows whose squares fit float32, divided by 2^power, and the power.

    Args:
        rows: Returned as they are where they are of ordinary size.
        known: Which of them count.
    """
    power = int(_power_of_rows(rows, known))
    return (times_two_to_power(rows, -power), power) if power else (rows, 0)


@jax.jit
def _power_of_rows(rows, known):
    largest = jnp.max(jnp.where(known[:, None], jnp.abs(rows), 0.0), initial=0.0)
    return unordinary(exponent(largest))


#: `times_two_to` as a program.
times_two_to_power = jax.jit(times_two_to)


@jax.jit
def _census(allowed, arrays):
    finite = jnp.ones_like(allowed)
    for array in arrays:
        finite &= jnp.isfinite(array).all(axis=1)
    return jnp.sum(allowed, dtype=jnp.int32), jnp.all(finite | ~allowed)


def selection(
    picks: Picks,
    num_select: int,
    n: int,
    weights: Float32[Array, " c"] | None = None,
    *,
    power: int = 0,
) -> Selection:
    """Bring picks to the host.

    Args:
        picks: As a compiled selector returned them.
        num_select: How many of them there are.
        n: How many rows there are to pick from.
        weights: Loss weights aligned with the picks; None for equal ones.
        power: Gains are to be multiplied by 2^power; infinite above float32.

    Raises:
        ValueError: If gains or weights have no number, so that picks mean nothing.
    """
    indices, gains, shares = jax.device_get((*picks, weights))
    indices, gains = indices[:num_select], times_two_to_on_host(gains, power)
    gains = gains[:num_select]
    numbers = not np.isnan(gains).any()
    if shares is not None:
        shares = shares[:num_select]
        numbers &= bool(np.isfinite(shares).all())
    # a pick compared with no number is no row, or one that was picked before
    apart = np.unique(indices).size == num_select
    if not (numbers and apart and np.all((indices >= 0) & (indices < n))):
        raise ValueError("the candidates' values are too large for float32")
    return Selection(indices, gains, shares)


def times_two_to_on_host(values: np.ndarray, power: int) -> np.ndarray:
    """Return values multiplied by 2^power; infinite above float32."""
    with np.errstate(over="ignore"):
        return np.ldexp(values, power) if power else values


def rounded_up(num_select: int, most: int) -> int:
    """Round a budget up to a power of two, at most `most`: a capacity many share."""
    return min(most, 2 ** math.ceil(math.log2(max(num_select, 1))))
