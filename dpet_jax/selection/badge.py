"""BADGE: draws of examples with large and different gradients."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32, Key

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import (
    Factors,
    Gradients,
    inner_products,
    squared_lengths,
    without,
)
from dpet_jax.selection.picks import (
    Picks,
    added,
    best,
    candidates,
    in_range,
    no_picks,
    on_the_host,
    selection,
)


@on_the_host
def badge(
    gradients: Gradients,
    num_select: int,
    *,
    key: Key[Array, ""],
    allowed: Bool[Array, " n"] | None = None,
) -> Selection:
    """Draw examples as k-means++ draws its first centres, on last-layer gradients.

    The first uniformly, each other with probability proportional to the squared
    distance of its gradient from the nearest pick before, so that certain examples
    (short gradients) and repeated ones are rare. Where all that are left coincide with
    picks, uniformly. The authors' program begins with the longest gradient instead.

    The paper's gradients are by pseudo-labels, the class that the network predicts, for
    its pool has none: give `last_layer_gradients` the argmax of the logits for that, or
    true labels to favour examples that are wrong.

    Args:
        gradients: Gradients by the last layer of the candidates.
        num_select: How many to pick.
        key: Draws all picks; a smaller budget under the same key is a prefix.
        allowed: Which rows may be picked; None is all.

    Returns:
        Picks in the order drawn; a gain is the distance from the nearest pick before,
        infinite for the first.

    Raises:
        ValueError: If more are asked for than may be picked or if a gradient is not
            finite.

    Source:
        Ash et al. (2020), "Deep Batch Active Learning by Diverse, Uncertain Gradient
        Lower Bounds", algorithm 1; Arthur & Vassilvitskii (2007) for k-means++.
    """
    allowed = candidates(num_select, allowed, *gradients)
    own, power = in_range(gradients, allowed)
    picks = badge_picks(own, allowed, jnp.int32(num_select), key)
    return selection(picks, num_select, allowed.size, power=power)


@jax.jit
def badge_picks(
    gradients: Factors,
    allowed: Bool[Array, " n"],
    num_select: Int32[Array, ""],
    key: Key[Array, ""],
) -> Picks:
    """Run `badge` as one program for every budget: O(n (k + d)) a pick.

    Args:
        gradients: Rows not allowed may hold anything.
        allowed: Which rows may be picked.
        num_select: How many to pick, at most as many as are allowed.
        key: Draws all picks.
    """
    n = allowed.shape[0]
    own = without(gradients, allowed)
    lengths = squared_lengths(own)

    def draw(turn, state):
        picks, nearest, available = state
        # the largest of log p and such noise is a draw from p
        noise = jax.random.gumbel(jax.random.fold_in(key, turn), (n,), jnp.float32)
        apart = jnp.any(available & (nearest > 0.0)) & (turn > 0)
        index = best(noise + jnp.where(apart, jnp.log(nearest), 0.0), available)
        picks = added(picks, turn, index, jnp.sqrt(nearest[index]))
        one = jax.tree.map(lambda leaf: leaf[index][None], own)
        products = inner_products(own, one)[:, 0]
        squared = lengths + lengths[index] - 2.0 * products
        # a copy of a pick must not be drawn for what rounding leaves of its distance
        squared = jnp.where(squared > 1e-6 * (lengths + lengths[index]), squared, 0.0)
        nearest = jnp.minimum(nearest, squared)
        return picks, nearest, available.at[index].set(False)

    state = (no_picks(n), jnp.full(n, jnp.inf, jnp.float32), allowed)
    return lax.fori_loop(0, num_select, draw, state)[0]
