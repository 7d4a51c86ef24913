"""Submodular functions, maximised greedily: facility location and graph cut.

Each takes a matrix of similarities, or gradients by the last layer as factors with the
similarity 1/2 + 1/2 cos. Neither a smaller budget nor another class size compiles a
second program.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, Key

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import (
    Factors,
    Gradients,
    inner_products,
    products_with,
    squared_lengths,
    unit_gradients,
    weighted_sum,
    without,
)
from dpet_jax.scores.scale import exponent, unordinary
from dpet_jax.selection.coverage import Rows, rows_of_matrix
from dpet_jax.selection.greedy import Greedy, cover
from dpet_jax.selection.picks import (
    Picks,
    added,
    best,
    candidates,
    no_picks,
    on_the_host,
    one_for_each,
    rows_of_gradients_in_range,
    selection,
    times_two_to_power,
)

_ROWS_COMPARED = 16
_SYMMETRIC = 1e-4


@on_the_host
def facility_location(
    similarity: Float32[Array, "n n"],
    num_select: int,
    *,
    greedy: Greedy = "auto",
    epsilon: float = 0.01,
    key: Key[Array, ""] | None = None,
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick examples such that every example is similar to a pick.

    f(S) = sum_i max_{j in S} s_ij with f(empty) = 0. It is monotone and submodular, so
    greedy picks reach 1 - 1/e of the largest value that as many can have.

    Args:
        similarity: Symmetric, finite and not negative.
        num_select: How many to pick.
        greedy: "exact" evaluates all gains before each pick. "lazy" picks the same and
            reads only what may matter. "auto" is lazy on CPUs and exact elsewhere,
            where reading is cheap and programs should not branch. "stochastic" takes
            the best of ceil(n / k ln(1 / epsilon)) drawn candidates and reaches
            1 - 1/e - epsilon on average.
        epsilon: What stochastic greedy may lose; the other two ignore it.
        key: Draws for stochastic greedy, which alone takes one.
        allowed: Which examples may be picked and have to be covered; None is all.

    Returns:
        Picks in greedy order; a gain is what the pick added to f, so the gains add up
        to f(S). Ties go to the smaller index as far as float32 separates them: two
        examples nearest to one another often gain the same, and rounding may decide.

    Raises:
        ValueError: If more are asked for than may be picked, if similarities are
            negative, not finite or not symmetric (some rows are compared with their
            columns), or if an option is unknown or does not fit another.

    Source:
        Minoux (1978) for lazy evaluation; Mirzasoleiman et al. (2015), "Lazier Than
        Lazy Greedy", for the stochastic one.
    """
    similarity, allowed, power = _similarities(similarity, num_select, allowed)
    covered = cover(
        rows_of_matrix,
        similarity,
        allowed,
        num_select,
        greedy=greedy,
        epsilon=epsilon,
        key=key,
    )
    return selection(covered.picks, num_select, allowed.size, power=power)


@on_the_host
def facility_location_of_gradients(
    gradients: Gradients,
    num_select: int,
    *,
    greedy: Greedy = "auto",
    epsilon: float = 0.01,
    key: Key[Array, ""] | None = None,
    allowed: Bool[Array, " n"] | None = None,
    memory_limit: int = 2**30,
) -> Selection:
    """Pick as `facility_location` does, by the cosine of last-layer gradients.

    s_ij = 1/2 + 1/2 cos(g_i, g_j), in [0, 1].

    Args:
        gradients: As factors.
        num_select: How many to pick.
        greedy: As in `facility_location`; "exact" needs the matrix, and "auto" is
            lazy where it does not fit.
        epsilon: As in `facility_location`.
        key: As in `facility_location`.
        allowed: Which examples may be picked and have to be covered; None is all.
        memory_limit: Bytes that the matrix of similarities may take. Where it needs
            more, blocks of rows are computed anew whenever they are read: nothing is
            approximated, and a few dozen rows are all that is held.

    Returns:
        Picks in greedy order, with their gains.

    Raises:
        ValueError: As `facility_location`, or if a factor is not finite.
    """
    allowed = candidates(num_select, allowed, *gradients)
    covered = cover(
        cosine_rows,
        units_of(gradients, allowed),
        allowed,
        num_select,
        greedy=greedy,
        epsilon=epsilon,
        key=key,
        memory_limit=memory_limit,
    )
    return selection(covered.picks, num_select, allowed.size)


@on_the_host
def graph_cut(
    similarity: Float32[Array, "n n"],
    num_select: int,
    *,
    redundancy: float = 1.0,
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick examples similar to all others, but not to one another.

    f(S) = sum_{i in V, j in S} s_ij - redundancy sum_{i, j in S} s_ij, pairs counted
    in both orders and with i = j. It is submodular for s >= 0, and monotone when
    redundancy <= 1/2: only then does greedy reach 1 - 1/e.

    `redundancy` is what submodlib calls lambdaVal. DeepCore's `lam` (1 by default) and
    apricot's `alpha` multiply the first sum instead: they are 1 / redundancy, and
    DeepCore leaves out i = j, which only matters where the s_ii differ.

    Args:
        similarity: Symmetric, finite and not negative.
        num_select: How many to pick.
        redundancy: Weight of the similarity among picks, at least 0.
        allowed: Which examples may be picked and count; None is all.

    Returns:
        Picks in greedy order, ties to the smaller index; a gain is what the pick added
        to f, possibly negative where redundancy > 1/2.

    Raises:
        ValueError: If more are asked for than may be picked, if similarities are
            negative, not finite or not symmetric, or if redundancy is negative.

    Source:
        Iyer, Khargonkar, Bilmes & Asnani (2021), "Submodular Combinatorial Information
        Measures with Applications in Machine Learning", for the generalised graph cut.
    """
    similarity, allowed, power = _similarities(similarity, num_select, allowed)
    _check_redundancy(redundancy)
    totals, centre = _totals_of_matrix(similarity, allowed)
    picks = cut_picks(
        rows_of_matrix,
        similarity,
        totals,
        jnp.diagonal(similarity),
        centre,
        allowed,
        jnp.int32(num_select),
        jnp.float32(redundancy),
    )
    return selection(picks, num_select, allowed.size, power=power)


@on_the_host
def graph_cut_of_gradients(
    gradients: Gradients,
    num_select: int,
    *,
    redundancy: float = 1.0,
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick as `graph_cut` does, by the cosine of last-layer gradients, in linear space.

    s_ij = 1/2 + 1/2 cos(g_i, g_j). Sums of cosines are inner products with a sum of
    unit gradients, and each pick costs one row of cosines: n^2 numbers never exist.

    Args:
        gradients: As factors.
        num_select: How many to pick.
        redundancy: As in `graph_cut`.
        allowed: Which examples may be picked and count; None is all.

    Returns:
        Picks in greedy order, with their gains.

    Raises:
        ValueError: If more are asked for than may be picked, if a factor is not finite
            or if redundancy is negative.
    """
    allowed = candidates(num_select, allowed, *gradients)
    _check_redundancy(redundancy)
    units = units_of(gradients, allowed)
    totals, diagonal = _totals_of_units(units, allowed)
    picks = cut_picks(
        cosine_rows,
        units,
        totals,
        diagonal,
        jnp.float32(0.5),
        allowed,
        jnp.int32(num_select),
        jnp.float32(redundancy),
    )
    return selection(picks, num_select, allowed.size)


def cosine_rows(units: Factors, which: Int32[Array, " b"]) -> Float32[Array, "b n"]:
    """Compute 1/2 + 1/2 cos of some unit gradients with all."""
    some = jax.tree.map(lambda factor: factor[which], units)
    return 0.5 + 0.5 * jnp.clip(inner_products(some, units), -1.0, 1.0)


@partial(jax.jit, static_argnames="rows")
def cut_picks(
    rows: Rows,
    source: Any,
    totals: Float32[Array, " n"],
    diagonal: Float32[Array, " n"],
    centre: Float32[Array, ""],
    allowed: Bool[Array, " n"],
    num_select: Int32[Array, ""],
    redundancy: Float32[Array, ""],
) -> Picks:
    """Run greedy graph cut as one program for every budget: a row of s a pick.

    What all candidates have in common is left out while they are compared, for next to
    sums over n its last digits would be the candidates' differences.

    Args:
        rows: Similarities of some examples to all.
        source: What `rows` reads.
        totals: Sum over all that count of s_ij - centre.
        diagonal: s_ii.
        centre: A number near the mean similarity.
        allowed: Which examples may be picked and count.
        num_select: At most as many as are allowed.
        redundancy: Weight of the similarity among picks.
    """
    count = jnp.sum(allowed).astype(jnp.float32)

    def turn(index, state):
        picks, shared, free = state
        gains = totals - redundancy * (2.0 * shared + (diagonal - centre))
        pick = best(gains, free)
        chosen = 2.0 * index.astype(jnp.float32) + 1.0
        gain = gains[pick] + centre * (count - redundancy * chosen)
        shared = shared + (rows(source, pick[None])[0] - centre)
        return added(picks, index, pick, gain), shared, free.at[pick].set(False)

    state = (no_picks(len(totals)), jnp.zeros_like(totals), allowed)
    return lax.fori_loop(0, num_select, turn, state)[0]


@jax.jit
def _totals_of_matrix(similarity, allowed):
    counted = allowed.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(counted), 1.0)
    products = partial(jnp.matmul, precision="highest")
    centre = jnp.sum(products(similarity, counted) * counted) / jnp.square(count)
    return jnp.sum((similarity - centre) * counted[None], axis=1), centre


@jax.jit
def _totals_of_units(units, allowed):
    whole = weighted_sum(units, allowed.astype(jnp.float32))
    return 0.5 * products_with(units, whole), 0.5 + 0.5 * squared_lengths(units)


def units_of(gradients: Gradients, allowed: Bool[Array, " n"]) -> Factors:
    """Scale gradients to length 1; those that do not count become 0."""
    own = rows_of_gradients_in_range(gradients, allowed)
    return unit_gradients(_without(own, allowed))


_without = jax.jit(without)


def _similarities(similarity, num_select, allowed):
    """Check similarities; return them divided by 2^power where they are unordinary."""
    n = similarity.shape[0]
    if similarity.shape != (n, n):
        raise ValueError(f"similarities are a square matrix, not {similarity.shape}")
    allowed = one_for_each(jnp.ones(n, jnp.bool_) if allowed is None else allowed, n)
    rows = jnp.asarray(np.linspace(0, max(n - 1, 0), min(n, _ROWS_COMPARED)), jnp.int32)
    census = _census(similarity, allowed, rows)
    count, finite, low, apart, power = jax.device_get(census)
    if not 0 <= num_select <= count:
        raise ValueError(f"cannot pick {num_select} of {count} candidates")
    if not finite:
        raise ValueError("a similarity is not finite in float32")
    if low < 0:
        raise ValueError(f"similarities must not be negative, and one is {low}")
    if apart > _SYMMETRIC:
        raise ValueError("similarities are not symmetric")
    if power:
        similarity = times_two_to_power(similarity, -power)
    return similarity, allowed, int(power)


@jax.jit
def _census(similarity, allowed, rows):
    some, across = similarity[rows], similarity[:, rows].T
    largest = jnp.maximum(jnp.max(some, initial=0.0), jnp.finfo(jnp.float32).tiny)
    apart = jnp.max(jnp.abs(some - across), initial=0.0) / largest
    # a minimum alone may pass over NaN
    finite = jnp.isfinite(similarity).all()
    low, count = jnp.min(similarity, initial=jnp.inf), jnp.sum(allowed, dtype=jnp.int32)
    return (
        count,
        finite,
        low,
        apart,
        unordinary(exponent(jnp.max(similarity, initial=0.0))),
    )


def _check_redundancy(redundancy):
    if not redundancy >= 0:
        raise ValueError(f"redundancy is {redundancy}, less than 0")
    if redundancy > np.finfo(np.float32).max:
        raise ValueError(f"redundancy is {redundancy}, more than float32 holds")
