"""Learning-rate schedules and optimizers whose every number is a traced value.

Rates, decays, horizons and switches are arguments of the compiled program, so that
changing any of them never compiles again; only the family (its state has another
shape) is static.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float32, Int32

from dpet_jax.data.augment import Augmentation

Family = Literal["sgd", "adam"]
SCHEDULES = ("constant", "linear", "cosine", "triangular")


class Schedule(NamedTuple):
    """A learning rate over the visits of its horizon.

    Attributes:
        kind: Position in `SCHEDULES`.
        peak: Largest learning rate.
        final: Learning rate at the end of the horizon; not used by `constant`.
        start: Learning rate at visit 0 of `triangular`.
        peak_at: Share of the horizon after which `triangular` falls.
        horizon: Visits after which the schedule has ended and the rate stays.
        cyclic: Let the cosine climb again past its horizon, as PyTorch's does.
    """

    kind: Int32[Array, ""]
    peak: Float32[Array, ""]
    final: Float32[Array, ""]
    start: Float32[Array, ""]
    peak_at: Float32[Array, ""]
    horizon: Float32[Array, ""]
    cyclic: Bool[Array, ""]


class Hyper(NamedTuple):
    """Every traced number of the training step.

    Attributes:
        schedule: Learning rate.
        momentum: Of SGD.
        nesterov: Whether SGD looks ahead.
        b1: Decay of Adam's first moment.
        b2: Decay of Adam's second moment.
        eps: Added to Adam's denominator.
        gradient_decay: Weight decay added to the gradient before the optimizer (L2, as
            PyTorch's SGD and Adam do).
        decoupled_decay: Weight decay added to the update after it (AdamW).
        label_smoothing: Probability mass spread over all classes.
        augmentation: Strengths of the random changes to each image.
    """

    schedule: Schedule
    momentum: Float32[Array, ""]
    nesterov: Bool[Array, ""]
    b1: Float32[Array, ""]
    b2: Float32[Array, ""]
    eps: Float32[Array, ""]
    gradient_decay: Float32[Array, ""]
    decoupled_decay: Float32[Array, ""]
    label_smoothing: Float32[Array, ""]
    augmentation: Augmentation


def learning_rate(schedule: Schedule, visits: Int32[Array, ""]) -> Float32[Array, ""]:
    """Evaluate a schedule.

    Args:
        schedule: The schedule.
        visits: Examples trained on since the schedule began, before this step. A step
            over part of a batch thus moves the schedule by its real rows alone.

    Returns:
        The learning rate of the step.
    """
    progress = visits.astype(jnp.float32) / schedule.horizon
    climbs = schedule.cyclic & (schedule.kind == SCHEDULES.index("cosine"))
    progress = jnp.where(climbs, progress, jnp.minimum(progress, 1.0))
    span = schedule.peak - schedule.final
    rising = schedule.start + (schedule.peak - schedule.start) * (
        progress / schedule.peak_at
    )
    falling = schedule.peak - span * (progress - schedule.peak_at) / (
        1.0 - schedule.peak_at
    )
    values = (
        schedule.peak,
        schedule.peak - span * progress,
        schedule.final + span * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
        jnp.where(progress < schedule.peak_at, rising, falling),
    )
    return jnp.stack(values)[schedule.kind]


def init_optimizer(family: Family, params: Any) -> Any:
    """Return the optimizer's state before the first step."""
    return _transform(family, None).init(params)


def update(
    family: Family, hyper: Hyper, grads: Any, opt_state: Any, params: Any, rate: Any
) -> tuple[Any, Any]:
    """Take one optimizer step.

    Args:
        family: Which optimizer; decides the shape of its state.
        hyper: Traced numbers.
        grads: Gradient of the loss, without decay.
        opt_state: State of `init_optimizer`.
        params: Parameters.
        rate: Learning rate of this step.

    Returns:
        New parameters and new optimizer state.
    """
    grads = jax.tree.map(lambda g, p: g + hyper.gradient_decay * p, grads, params)
    # optax raises a float to its int32 count, which strict promotion would refuse
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = _transform(family, hyper).update(grads, opt_state, params)
    if family == "sgd":
        ahead = jax.tree.map(lambda g, v: g + hyper.momentum * v, grads, updates)
        updates = jax.tree.map(
            lambda a, v: jnp.where(hyper.nesterov, a, v), ahead, updates
        )
    params = jax.tree.map(
        lambda p, u: p - rate * (u + hyper.decoupled_decay * p), params, updates
    )
    return params, opt_state


def _transform(family: Family, hyper: Hyper | None) -> optax.GradientTransformation:
    """Build optax's accumulator; before the first step its numbers do not matter."""
    if family == "sgd":
        return optax.trace(decay=0.0 if hyper is None else hyper.momentum)
    if hyper is None:
        return optax.scale_by_adam()
    return optax.scale_by_adam(b1=hyper.b1, b2=hyper.b2, eps=hyper.eps)
