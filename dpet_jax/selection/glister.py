"""GLISTER: examples whose training steps lower the loss on a validation set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import (
    Gradients,
    last_layer_gradients,
    products_with,
    weighted_sum,
)
from dpet_jax.selection.picks import (
    Picks,
    added,
    best,
    candidates,
    no_picks,
    selection,
)


class Validation(NamedTuple):
    """Logits, labels and features of the validation examples.

    Attributes:
        logits: Unnormalised log-probabilities before the first pick.
        labels: Class of each, in [0, k).
        features: Penultimate features.
    """

    logits: Float32[Array, "v k"]
    labels: Int32[Array, " v"]
    features: Float32[Array, "v d"]


def glister(
    gradients: Gradients,
    validation: Validation,
    num_select: int,
    *,
    learning_rate: float,
    picks_per_update: int = 1,
    allowed: Bool[Array, " n"] | None = None,
    validation_allowed: Bool[Array, " v"] | None = None,
) -> Selection:
    """Pick the example whose gradient step lowers the validation loss most, again.

    A pick is argmax_x g_x'v, with v the gradient of the mean validation loss by the
    last layer. Then that layer takes the pick's step, W - learning_rate g_x, and v is
    computed anew from the validation examples: their logits move by -learning_rate
    (1 + h_v'h_x)(p_x - y_x). Without that update the picks would be the `num_select`
    largest products with one fixed gradient.

    Args:
        gradients: Gradients by the last layer of the candidates, at the layer before
            any step.
        validation: What to lower the loss of; the candidates themselves will do.
        num_select: How many to pick.
        learning_rate: Length of a pick's step.
        picks_per_update: How many are picked by one validation gradient.
        allowed: Which rows may be picked; None is all.
        validation_allowed: Which validation examples count; None is all.

    Returns:
        Picks in greedy order; a gain is g_x'v at entry: by how much, to first order,
        the validation loss falls for each unit of learning rate.

    Raises:
        ValueError: If more are asked for than may be picked, if an input is not finite,
            if no validation example counts, if the learning rate is negative or if
            there is less than one pick to an update.

    Source:
        Killamsetty et al. (2021), "GLISTER: Generalization based Data Subset Selection
        for Efficient and Robust Learning", section 3 and algorithm 2.
    """
    if picks_per_update < 1:
        raise ValueError(f"cannot update after {picks_per_update} picks")
    if not 0.0 <= learning_rate < float("inf"):
        raise ValueError(f"the learning rate cannot be {learning_rate}")
    allowed = candidates(num_select, allowed, *gradients)
    counted = candidates(0, validation_allowed, validation.logits, validation.features)
    if not bool(counted.any()):
        raise ValueError("no validation example counts")
    picks = glister_picks(
        gradients,
        validation,
        allowed,
        counted,
        jnp.int32(num_select),
        jnp.float32(learning_rate),
        jnp.int32(picks_per_update),
    )
    return selection(picks, num_select)


@jax.jit
def glister_picks(
    gradients: Gradients,
    validation: Validation,
    allowed: Bool[Array, " n"],
    counted: Bool[Array, " v"],
    num_select: Int32[Array, ""],
    learning_rate: Float32[Array, ""],
    picks_per_update: Int32[Array, ""],
) -> Picks:
    """Run `glister` as one program for every budget.

    Args:
        gradients: Rows not allowed may hold anything.
        validation: Rows not counted may hold anything finite or not.
        allowed: Which rows may be picked.
        counted: Which validation examples count.
        num_select: How many to pick, at most as many as are allowed.
        learning_rate: Length of a pick's step.
        picks_per_update: How many are picked by one validation gradient.
    """
    n = gradients.errors.shape[0]
    gradients = Gradients(
        *(jnp.where(allowed[:, None], leaf, 0.0) for leaf in gradients)
    )
    start, labels, features = validation
    start = jnp.where(counted[:, None], start.astype(jnp.float32), 0.0)
    features = jnp.where(counted[:, None], features.astype(jnp.float32), 0.0)
    share = counted.astype(jnp.float32) / jnp.sum(counted).astype(jnp.float32)

    def gains_at(logits):
        slope = weighted_sum(last_layer_gradients(logits, labels, features), share)
        return products_with(gradients, slope)

    def pick(turn, state):
        picks, available, logits, gains = state
        gains = lax.cond(
            turn % picks_per_update == 0,
            lambda: gains_at(logits),
            lambda: gains,
        )
        index = best(gains, available)
        picks = added(picks, turn, index, gains[index])
        similar = 1.0 + jnp.matmul(
            features, gradients.features[index], precision="highest"
        )
        step = learning_rate * similar[:, None] * gradients.errors[index][None]
        return picks, available.at[index].set(False), logits - step, gains

    state = (no_picks(n), allowed, start, jnp.zeros(n, jnp.float32))
    return lax.fori_loop(0, num_select, pick, state)[0]
