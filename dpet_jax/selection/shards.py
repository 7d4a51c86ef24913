"""Facility location over more examples than one greedy search can go through."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Key

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import Factors, Gradients
from dpet_jax.selection.coverage import gains_of
from dpet_jax.selection.picks import candidates, on_the_host
from dpet_jax.selection.submodular import (
    cosine_rows,
    facility_location_of_gradients,
    units_of,
)

# Candidates whose gains are found by one call.
_BLOCK = 16
# Rounding of gains summed in another order; bounds stay above them.
_ABOVE = 1.0 + 2.0**-18


@on_the_host
def facility_location_in_shards(
    gradients: Gradients,
    num_select: int,
    *,
    shards: int,
    key: Key[Array, ""],
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick as `facility_location_of_gradients`, by shards and then among their picks.

    The examples are dealt out at random. In each shard as many are picked as are asked
    for in all, which covers the shard; then as many again among all these, which covers
    all examples. The better of that set and of the shards' own is returned. Instead of
    n^2 similarities some n^2 / shards + n shards num_select are looked at.

    With f* the best that as many examples can cover, the picks cover in expectation at
    least (1 - 1/e) / 2 f*, whatever the number of shards, and for every way of dealing
    out at least (1 - 1/e)^2 f* / min(shards, num_select).

    Args:
        gradients: As factors.
        num_select: How many to pick.
        shards: How many; 1 is one search over all.
        key: Deals the examples out.
        allowed: Which examples may be picked and have to be covered; None is all.

    Returns:
        Picks in greedy order; a gain is what the pick added to the coverage of all.

    Raises:
        ValueError: If there is no shard, if more are asked for than may be picked, or
            if a factor is not finite.

    Source:
        Mirzasoleiman, Karbasi, Sarkar & Krause (2013), "Distributed Submodular
        Maximization", for the algorithm, GreeDi, and the bound that always holds;
        Barbosa, Ene, Nguyen & Ward (2015), "The Power of Randomization", for the other.
    """
    allowed = candidates(num_select, allowed, *gradients)
    if shards < 1:
        raise ValueError(f"there is at least one shard, not {shards}")
    if shards == 1:
        return facility_location_of_gradients(gradients, num_select, allowed=allowed)
    known = np.flatnonzero(np.asarray(allowed))
    dealt = known[np.asarray(jax.random.permutation(key, known.size))]
    size = -(-known.size // shards)
    units, proposals = units_of(gradients, allowed), []
    for first in range(0, known.size, size):
        rows = dealt[first : first + size]
        padded = np.zeros(size, np.int32)
        padded[: rows.size] = rows
        part = _gathered(gradients, jnp.asarray(padded))
        there = jnp.asarray(np.arange(size) < rows.size)
        count = min(num_select, rows.size)
        picked = facility_location_of_gradients(part, count, allowed=there)
        proposals.append(rows[picked.indices])
    merged = _greedy(units, allowed, np.sort(np.concatenate(proposals)), num_select)
    covered = [_covered(units, allowed, rows) for rows in proposals]
    best = int(np.argmax(covered))
    if proposals[best].size == num_select and covered[best] > merged.gains.sum():
        return _greedy(units, allowed, np.sort(proposals[best]), num_select)
    return merged


def _greedy(
    units: Factors, allowed: Bool[Array, " n"], among: np.ndarray, num_select: int
) -> Selection:
    """Pick lazily among some examples, covering all.

    A gain only shrinks, so that one found earlier is an upper bound: the candidates
    with the largest bounds are looked at until none of the others can gain more.

    Source:
        Minoux (1978), "Accelerated Greedy Algorithms for Maximizing Submodular Set
        Functions".
    """
    level = jnp.where(allowed, 0.0, jnp.inf)
    bounds = np.full(among.size, np.inf)
    gains, picks = [], []
    for _ in range(num_select):
        fresh = np.full(among.size, -np.inf)
        while True:
            order = np.argsort(-bounds, kind="stable")[:_BLOCK]
            open_ = np.isneginf(fresh[order]) & ~np.isneginf(bounds[order])
            waiting = order[open_]
            best = int(np.argmax(fresh))
            if not waiting.size or bounds[waiting[0]] < fresh[best]:
                break
            block = np.resize(waiting, _BLOCK)
            found = np.asarray(_gains(units, level, jnp.asarray(among[block])))
            fresh[block] = found
            bounds[block] = np.minimum(bounds[block], found * _ABOVE)
        gains.append(fresh[best])
        picks.append(among[best])
        bounds[best] = -np.inf
        level = _raised(units, level, jnp.asarray(among[best : best + 1]))
    return Selection(np.array(picks, np.int32), np.array(gains, np.float32))


def _covered(units: Factors, allowed: Bool[Array, " n"], rows: np.ndarray) -> float:
    """Return how well some examples cover all."""
    level = jnp.where(allowed, 0.0, jnp.inf)
    for first in range(0, rows.size, _BLOCK):
        block = np.resize(rows[first : first + _BLOCK], _BLOCK)
        level = _raised(units, level, jnp.asarray(block))
    return float(np.asarray(level, np.float64)[np.asarray(allowed)].sum())


@jax.jit
def _gathered(gradients: Gradients, rows: Int32[Array, " s"]) -> Gradients:
    return jax.tree.map(lambda factor: factor[rows], gradients)


@jax.jit
def _gains(
    units: Factors, level: Float32[Array, " n"], which: Int32[Array, " b"]
) -> Float32[Array, " b"]:
    return gains_of(cosine_rows(units, which), level)


@jax.jit
def _raised(
    units: Factors, level: Float32[Array, " n"], which: Int32[Array, " b"]
) -> Float32[Array, " n"]:
    return jnp.maximum(level, jnp.max(cosine_rows(units, which), axis=0))
