"""Selectors by the position of examples in feature space: k-center and herding."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key

from dpet_jax.methods.base import Selection
from dpet_jax.selection.picks import (
    Picks,
    added,
    best,
    candidates,
    no_picks,
    on_the_host,
    one_for_each,
    rows_in_range,
    selection,
)


@on_the_host
def k_center(
    features: Float[Array, "n d"],
    num_select: int,
    *,
    start: Int[Array, " s"] | Int[np.ndarray, " s"] | None = None,
    key: Key[Array, ""] | None = None,
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick the example farthest from all picked before, again and again.

    argmax_x min_{c in S} ||x - c||: the largest distance of any example from its
    nearest pick is at most twice the smallest that as many centres can reach. Without
    `start` the first pick is the example nearest the mean, or one that the key draws;
    it belongs to the result, as any other.

    Args:
        features: Where each example lies.
        num_select: How many to pick, beside those of `start`.
        start: Examples chosen before, from which the new ones are to be far; allowed
            or not, they are not picked again.
        key: Draws the first pick where there is no `start`.
        allowed: Which rows may be picked; None is all. The others are not covered
            either.

    Returns:
        Picks in greedy order; a gain is the distance from the nearest pick before,
        infinite for the first.

    Raises:
        ValueError: If more are asked for than may be picked, if a feature is not finite
            or if `start` is no position.

    Source:
        Sener & Savarese (2018), "Active Learning for Convolutional Neural Networks: A
        Core-Set Approach", algorithm 1; Gonzalez (1985) for the bound.
    """
    n = features.shape[0]
    chosen = jnp.zeros(n, jnp.bool_)
    if start is not None:
        start = np.asarray(start)
        if start.size and not np.issubdtype(start.dtype, np.integer):
            raise ValueError(f"start holds {start.dtype}, and positions are integers")
        if not np.all((start >= 0) & (start < n)):
            raise ValueError(f"start holds what is no position among {n}")
        chosen = chosen.at[start.astype(np.int32)].set(True)
        candidates(0, chosen, features)
    allowed = one_for_each(jnp.ones(n, jnp.bool_) if allowed is None else allowed, n)
    allowed = candidates(num_select, allowed & ~chosen, features)
    features, power = rows_in_range(features, allowed | chosen)
    picks = k_center_picks(features, allowed, chosen, jnp.int32(num_select), key)
    return selection(picks, num_select, allowed.size, power=power)


@jax.jit
def k_center_picks(
    features: Float32[Array, "n d"],
    allowed: Bool[Array, " n"],
    chosen: Bool[Array, " n"],
    num_select: Int32[Array, ""],
    key: Key[Array, ""] | None = None,
) -> Picks:
    """Run `k_center` as one program for every budget: a matrix-vector product a pick.

    Args:
        features: Rows that are neither allowed nor chosen may hold anything.
        allowed: Which rows may be picked, none of them chosen.
        chosen: Rows chosen before.
        num_select: How many to pick, at most as many as are allowed.
        key: Draws the first pick where none is chosen.
    """
    n = features.shape[0]
    points = _centred(features, allowed | chosen)
    lengths = jnp.sum(jnp.square(points), axis=1)

    def nearer(nearest, centre):
        products = jnp.matmul(points, points[centre], precision="highest")
        squared = lengths + lengths[centre] - 2.0 * products
        return jnp.minimum(nearest, jnp.maximum(squared, 0.0))

    before = jnp.nonzero(chosen, size=n)[0].astype(jnp.int32)
    count = jnp.sum(chosen, dtype=jnp.int32)
    nearest = lax.fori_loop(
        0,
        count,
        lambda turn, nearest: nearer(nearest, before[turn]),
        jnp.full(n, jnp.inf, jnp.float32),
    )
    liking = -lengths if key is None else jax.random.uniform(key, (n,), jnp.float32)
    first = best(liking, allowed)

    def pick(turn, state):
        picks, nearest, available = state
        index = best(nearest, available)
        index = jnp.where((turn == 0) & (count == 0), first, index)
        picks = added(picks, turn, index, jnp.sqrt(nearest[index]))
        return picks, nearer(nearest, index), available.at[index].set(False)

    state = (no_picks(n), nearest, allowed)
    return lax.fori_loop(0, num_select, pick, state)[0]


@on_the_host
def herding(
    features: Float[Array, "n d"],
    num_select: int,
    *,
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick examples whose mean stays as near as can be to the mean of all.

    Pick t + 1 is argmin_x ||(t + 1) mu - sum(S) - x|| over what is not yet picked, with
    mu the mean of the allowed examples.

    Args:
        features: Where each example lies.
        num_select: How many to pick.
        allowed: Which rows may be picked, and count in the mean; None is all.

    Returns:
        Picks in greedy order; a gain is minus the distance between mu and the mean of
        the picks up to this one.

    Raises:
        ValueError: If more are asked for than may be picked or if a feature is not
            finite.

    Source:
        Welling (2009), "Herding Dynamical Weights to Learn"; Chen, Welling & Smola
        (2010), "Super-Samples from Kernel Herding", for the form with a mean; each
        example is picked at most once here.
    """
    allowed = candidates(num_select, allowed, features)
    features, power = rows_in_range(features, allowed)
    picks = herding_picks(features, allowed, jnp.int32(num_select))
    return selection(picks, num_select, allowed.size, power=power)


@jax.jit
def herding_picks(
    features: Float32[Array, "n d"],
    allowed: Bool[Array, " n"],
    num_select: Int32[Array, ""],
) -> Picks:
    """Run `herding` as one program for every budget: a matrix-vector product a pick.

    Args:
        features: Rows not allowed may hold anything.
        allowed: Which rows may be picked, and count in the mean.
        num_select: How many to pick, at most as many as are allowed.
    """
    n, d = features.shape
    points = _centred(features, allowed)
    lengths = jnp.sum(jnp.square(points), axis=1)

    def pick(turn, state):
        picks, total, available = state
        # ||total + x||^2 less what is the same for all; the mean of points is 0
        products = jnp.matmul(points, total, precision="highest")
        index = best(-lengths - 2.0 * products, available)
        total = total + points[index]
        error = jnp.linalg.norm(total) / (turn + 1).astype(jnp.float32)
        picks = added(picks, turn, index, -error)
        return picks, total, available.at[index].set(False)

    state = (no_picks(n), jnp.zeros(d, jnp.float32), allowed)
    return lax.fori_loop(0, num_select, pick, state)[0]


def _centred(features, known):
    """Move the mean of the known rows to 0, and the other rows there."""
    total = jnp.sum(jnp.where(known[:, None], features, 0.0), axis=0)
    mean = total / jnp.maximum(jnp.sum(known), 1).astype(jnp.float32)
    # far from the origin, squared distances would lose their digits
    return jnp.where(known[:, None], features - mean[None], 0.0)
