"""Gradient matching: few weighted examples whose gradients add up to those of all.

Orthogonal matching pursuit under weights that are not negative: the pick that pulls
hardest, then the best weights of all picks (least squares by an active set). The
inverse of the active picks' Gram matrix is kept and a pick enters or leaves it by a
product of vectors, so that a pick costs O(n k d + m^2) and gradients stay factors.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import (
    Factors,
    Gradients,
    products_with,
    weighted_sum,
)
from dpet_jax.selection.picks import (
    Picks,
    added,
    best,
    candidates,
    in_range,
    no_picks,
    on_the_host,
    rounded_up,
    rows_in_range,
    selection,
    times_two_to_on_host,
)


class Formed(NamedTuple):
    """Gradients that are no outer products, such as means over mini-batches.

    Attributes:
        matrices: As `weighted_sum` gives them, the bias in the first column.
    """

    matrices: Float32[Array, "n k e"]


@on_the_host
def grad_match(
    gradients: Gradients,
    num_select: int,
    *,
    ridge: float = 0.5,
    target: Float32[Array, "k e"] | None = None,
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Pick and weigh examples whose gradients add up to the gradient of all.

    Greedily min ||sum_{i in S} w_i g_i - target||^2 + ridge ||w||^2 with w >= 0: the
    next pick is argmax_x g_x'(target - sum_i w_i g_i), the one whose weight wants most
    to grow, then all weights are fitted anew. The target is a sum, so weights add up to
    about n; matched to the mean, they would be n times smaller under the same ridge.

    Weights belong to the whole selection; a prefix has the right examples, and weights
    of its own. A pick that does not help is in it with weight 0.

    Args:
        gradients: Gradients by the last layer of the candidates.
        num_select: How many to pick.
        ridge: Weight of ||w||^2, positive, in squared units of the gradients.
        target: What to match, as `weighted_sum` gives it, such as a validation
            gradient; None is the sum over the allowed examples.
        allowed: Which rows may be picked; None is all.

    Returns:
        Picks in greedy order with weights; a gain is g_x'(residual) at entry.

    Raises:
        ValueError: If more are asked for than may be picked, if an input is not finite,
            if the ridge is not positive or if weights leave float32.

    Source:
        Killamsetty et al. (2021), "GRAD-MATCH: Gradient Matching based Data Subset
        Selection for Efficient Deep Model Training", algorithm 2.
    """
    allowed = candidates(num_select, allowed, *gradients)
    own, power = in_range(gradients, allowed)
    return _matched(own, power, allowed, num_select, ridge, target)


@on_the_host
def grad_match_batches(
    gradients: Gradients,
    batches: Int32[Array, "m b"],
    num_select: int,
    *,
    ridge: float = 0.5,
    target: Float32[Array, "k e"] | None = None,
) -> Selection:
    """Pick and weigh whole mini-batches: `grad_match` on their mean gradients.

    Args:
        gradients: Gradients by the last layer of all examples.
        batches: Positions of the examples of each batch.
        num_select: How many batches to pick.
        ridge: Weight of the squared weights of batches, positive.
        target: What to match; None is the sum over all examples of the batches.

    Returns:
        The examples of the picked batches, batch after batch; an example's weight is
        its batch's over b, its gain that of the batch.

    Raises:
        ValueError: If more batches are asked for than there are, if a batch holds what
            is no position, if a gradient is not finite or if the ridge is not positive.

    Source:
        Killamsetty et al. (2021), section 3.1, the variant per batch (PB).
    """
    rows, n = np.asarray(batches), gradients.errors.shape[0]
    m, b = rows.shape
    if rows.size and not (rows.min() >= 0 and rows.max() < n):
        raise ValueError(f"a batch holds what is no position among {n}")
    seen = np.zeros(n, np.bool_)
    seen[rows.reshape(-1)] = True
    own, power = in_range(gradients, jnp.asarray(seen))
    means = _means(own, jnp.asarray(rows, jnp.int32))
    allowed = candidates(num_select, None, means.matrices.reshape(m, -1))
    whole = float(b) * jnp.sum(means.matrices, axis=0)
    chosen = _matched(means, power, allowed, num_select, ridge, target, whole)
    assert chosen.weights is not None
    return Selection(
        rows[chosen.indices].reshape(-1).astype(np.int32),
        np.repeat(chosen.gains, b),
        np.repeat(chosen.weights / np.float32(b), b),
    )


@jax.jit
def _means(gradients, rows):
    def mean(batch):
        one = jnp.full(batch.shape, 1.0 / batch.shape[0], jnp.float32)
        return weighted_sum(jax.tree.map(lambda leaf: leaf[batch], gradients), one)

    return Formed(lax.map(mean, rows))


def _matched(gradients, power, allowed, num_select, ridge, target, whole=None):
    """Run the program; gradients and the whole, their sum, come divided by 2^power."""
    if not np.finfo(np.float32).tiny <= ridge <= np.finfo(np.float32).max:
        raise ValueError(f"the ridge must be positive in float32, not {ridge}")
    of_target = power
    if target is not None:
        if not bool(jnp.all(jnp.isfinite(target))):
            raise ValueError("the target is not finite in float32")
        target, of_target = rows_in_range(target, jnp.ones(len(target), jnp.bool_))
    if power:  # below it would be nothing beside the gradients, above it everything
        ridge = min(max(math.ldexp(ridge, -2 * power), 2.0**-50), 2.0**120)
    n = allowed.shape[0]
    picks, weights = matching_picks(
        gradients,
        allowed,
        jnp.int32(num_select),
        jnp.float32(ridge),
        whole if target is None else target,
        capacity=rounded_up(num_select, n),
    )
    chosen = selection(picks, num_select, n, weights, power=power + of_target)
    assert chosen.weights is not None
    return chosen._replace(
        weights=times_two_to_on_host(chosen.weights, of_target - power)
    )


class Fit(NamedTuple):
    """The picks so far as a least-squares problem, and its solution.

    Attributes:
        gram: Inner products of the picks, the ridge on the diagonal.
        inverse: Inverse of `gram` over the active picks, 0 elsewhere.
        active: Which weights are free to be positive.
        weights: The best weights, none negative.
    """

    gram: Float32[Array, "c c"]
    inverse: Float32[Array, "c c"]
    active: Bool[Array, " c"]
    weights: Float32[Array, " c"]


@partial(jax.jit, static_argnames="capacity")
def matching_picks(
    gradients: Factors | Formed,
    allowed: Bool[Array, " n"],
    num_select: Int32[Array, ""],
    ridge: Float32[Array, ""],
    target: Float32[Array, "k e"] | None = None,
    *,
    capacity: int,
) -> tuple[Picks, Float32[Array, " c"]]:
    """Run `grad_match` as one program for every budget up to a capacity.

    Args:
        gradients: Rows not allowed may hold anything.
        allowed: Which rows may be picked.
        num_select: How many to pick, at most as many as are allowed.
        ridge: Weight of ||w||^2, positive.
        target: What to match; None is the sum over the allowed.
        capacity: Length of the buffers, at least `num_select`; memory grows with its
            square.

    Returns:
        The picks and their weights.
    """
    gradients = jax.tree.map(
        lambda leaf: jnp.where(_beside(allowed, leaf), leaf, 0.0), gradients
    )
    if target is None:
        target = _sum(gradients, allowed.astype(jnp.float32))
    # what rounding alone can leave of a product with the target, per unit of length
    noise = 1e-7 * jnp.linalg.norm(target)

    def pick(turn, state):
        picks, available, chosen, fit = state
        residual = target - _sum(chosen, fit.weights)
        correlations = _products(gradients, residual)
        index = best(correlations, available)
        picks = added(picks, turn, index, correlations[index])
        chosen = jax.tree.map(
            lambda kept, leaf: kept.at[turn].set(leaf[index]), chosen, gradients
        )
        column = _products(chosen, _sum(_row(chosen, turn), jnp.ones(1, jnp.float32)))
        column = column.at[turn].add(ridge)
        fit = fit._replace(gram=fit.gram.at[turn].set(column).at[:, turn].set(column))
        fit = _refit(fit, turn, correlations[picks.indices], ridge, noise)
        return picks, available.at[index].set(False), chosen, fit

    chosen = jax.tree.map(
        lambda leaf: jnp.zeros((capacity, *leaf.shape[1:]), jnp.float32), gradients
    )
    line = jnp.zeros(capacity, jnp.float32)
    square = jnp.zeros((capacity, capacity), jnp.float32)
    fit = Fit(square, square, jnp.zeros(capacity, jnp.bool_), line)
    state = (no_picks(capacity), allowed, chosen, fit)
    picks, _, _, fit = lax.fori_loop(0, num_select, pick, state)
    return picks, fit.weights


def _refit(fit, newest, correlations, ridge, noise):
    """Find the best weights, none negative, after a pick: active sets, warm-started.

    Everything is counted from the weights before, at which the picks' correlations with
    the residual are known: products with the target are so much larger than what is
    left of them that float32 has no digits for it.

    Every pick enters at most once, so that rounding cannot make it go in circles; one
    that should enter again does so after the next pick.
    """
    capacity = fit.weights.shape[0]
    used = jnp.arange(capacity) <= newest
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(fit.gram) - ridge, 0.0))
    before = fit.weights
    slopes_before = jnp.where(used, correlations - ridge * before, 0.0)

    def slopes(weights):
        return slopes_before - _matvec(fit.gram, weights - before)

    def step(state):
        fit, untried, slot, enters, _ = state
        fit = _pivoted(fit, slot, enters, ridge)
        move = _solved(fit, slopes(fit.weights))
        blocks = fit.active & (fit.weights + move <= 0.0)
        reach = fit.weights / jnp.where(move < 0.0, -move, 1.0)
        reach = jnp.where(blocks, reach, jnp.inf)
        leaving = jnp.argmin(reach)
        weights = fit.weights + jnp.minimum(reach[leaving], 1.0) * move
        weights = jnp.where(fit.active, jnp.maximum(weights, 0.0), 0.0)
        weights = jnp.where(blocks.any(), weights.at[leaving].set(0.0), weights)

        untried = untried & ~((jnp.arange(capacity) == slot) & enters)
        pulls = slopes(weights) - noise * lengths
        pulls = jnp.where(untried & ~fit.active, pulls, -jnp.inf)
        entering = jnp.argmax(pulls)
        going_on = blocks.any() | (pulls[entering] > 0.0)
        slot = jnp.where(blocks.any(), leaving, entering)
        return fit._replace(weights=weights), untried, slot, ~blocks.any(), going_on

    helps = correlations[newest] > noise * lengths[newest]
    state = (fit, used, newest, jnp.bool_(True), helps)
    return lax.while_loop(lambda state: state[-1], step, state)[0]


def _pivoted(fit, slot, enters, ridge):
    """Let one pick enter the inverse, or leave it."""
    unit = jnp.zeros_like(fit.weights).at[slot].set(1.0)
    column = fit.gram[slot]
    through = _solved(fit, column)
    # in exact arithmetic both are at least these, whatever the gradients
    height = jnp.maximum(column[slot] - jnp.sum(column * through), ridge)
    depth = jnp.maximum(fit.inverse[slot, slot], 1.0 / column[slot])
    line = jnp.where(enters, through - unit, fit.inverse[slot])
    scale = jnp.where(enters, 1.0 / height, -1.0 / depth)
    inverse = fit.inverse + (scale * line)[:, None] * line[None]
    active = fit.active.at[slot].set(enters)
    inverse = jnp.where(active[:, None] & active[None], inverse, 0.0)
    return fit._replace(inverse=inverse, active=active)


def _solved(fit, slopes):
    """Solve for the move of the active weights, and once more for what is left."""
    move = _matvec(fit.inverse, slopes)
    return move + _matvec(fit.inverse, slopes - _matvec(fit.gram, move))


def _sum(gradients, weights):
    if isinstance(gradients, Formed):
        matrices = gradients.matrices
        return jnp.einsum("n,nke->ke", weights, matrices, precision="highest")
    return weighted_sum(gradients, weights)


def _products(gradients, matrix):
    if isinstance(gradients, Formed):
        matrices = gradients.matrices
        return jnp.einsum("nke,ke->n", matrices, matrix, precision="highest")
    return products_with(gradients, matrix)


def _row(gradients, index):
    return jax.tree.map(lambda leaf: leaf[index][None], gradients)


def _matvec(matrix, vector):
    return jnp.matmul(matrix, vector, precision="highest")


def _beside(mask, leaf):
    return mask.reshape(-1, *[1] * (leaf.ndim - 1))
