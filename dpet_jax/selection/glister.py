"""GLISTER: examples whose training steps lower the loss on a validation set."""

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
    ScaledGradients,
    last_layer_gradients,
    products_with,
    weighted_sum,
    with_bias,
    without,
)
from dpet_jax.scores.scale import ORDINARY
from dpet_jax.selection.picks import (
    Picks,
    added,
    best,
    candidates,
    in_range,
    no_picks,
    on_the_host,
    rows_in_range,
    selection,
)

_BORDER = 2.0**126


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


@on_the_host
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
            if no validation example counts or one has no class, if the learning rate
            is negative or if there is less than one pick to an update.

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
    labels, k = np.asarray(validation.labels), gradients.errors.shape[1]
    if not np.all(((labels >= 0) & (labels < k))[np.asarray(counted)]):
        raise ValueError(f"a validation label is none of the {k} classes")
    own, power = in_range(gradients, allowed)
    features, of_features = rows_in_range(validation.features, counted)
    if of_features < 0:  # small beside the 1 for the bias, as they should be
        features, of_features = validation.features, 0
    beside, power = None, power + of_features
    if own is not gradients or of_features or learning_rate > 2.0**ORDINARY:
        beside = jnp.float32(2.0**-of_features)
        own = own if own is not gradients else with_bias(gradients)
    # longer steps than float32 holds end at its border: there a softmax is 0 or 1
    rate = min(learning_rate * 2.0**power, _BORDER)
    picks = glister_picks(
        own,
        validation._replace(features=features),
        allowed,
        counted,
        jnp.int32(num_select),
        jnp.float32(rate),
        jnp.int32(picks_per_update),
        beside,
    )
    return selection(picks, num_select, allowed.size, power=power)


@jax.jit
def glister_picks(
    gradients: Factors,
    validation: Validation,
    allowed: Bool[Array, " n"],
    counted: Bool[Array, " v"],
    num_select: Int32[Array, ""],
    learning_rate: Float32[Array, ""],
    picks_per_update: Int32[Array, ""],
    beside: Float32[Array, ""] | None = None,
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
        beside: What stands beside the validation features in place of the 1 for the
            bias, where gradients are `ScaledGradients`; the learning rate is that of
            the scaled ones.
    """
    n = gradients.errors.shape[0]
    gradients = without(gradients, allowed)
    start, labels, features = validation
    labels = jnp.where(counted, labels, 0)
    start = jnp.where(counted[:, None], start.astype(jnp.float32), 0.0)
    features = jnp.where(counted[:, None], features.astype(jnp.float32), 0.0)
    share = counted.astype(jnp.float32) / jnp.sum(counted).astype(jnp.float32)

    def gains_at(logits):
        seen: Factors = last_layer_gradients(logits, labels, features)
        if beside is not None:
            every = jnp.broadcast_to(beside, labels.shape)
            seen = ScaledGradients(seen.errors, seen.features, every)
        slope = weighted_sum(seen, share)
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
        similar = jnp.matmul(features, gradients.features[index], precision="highest")
        errors, available = (
            gradients.errors[index][None],
            available.at[index].set(False),
        )
        if beside is None or not isinstance(gradients, ScaledGradients):
            step = learning_rate * (1.0 + similar)[:, None] * errors
            return picks, available, logits - step, gains
        pull = learning_rate * (beside * gradients.bias[index] + similar)
        step = jnp.clip(pull, -_BORDER, _BORDER)[:, None] * errors
        logits = jnp.clip(logits - step, -_BORDER, _BORDER)
        return picks, available, logits, gains

    state = (no_picks(n), allowed, start, jnp.zeros(n, jnp.float32))
    return lax.fori_loop(0, num_select, pick, state)[0]
