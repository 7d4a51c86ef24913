"""What training carries from step to step, and what its program is made for."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from dpet_jax.models import ResNetSpec, init
from dpet_jax.scores.forgetting import NEVER_LEARNED
from dpet_jax.training.optimizer import Family, init_optimizer


class TrainState(NamedTuple):
    """Everything a training step changes, and the key it draws from.

    Attributes:
        params: Parameters, float32.
        batch_stats: Running statistics of the normalisation.
        opt_state: Optimizer state.
        step: Updates so far.
        key: Root of the augmentation's randomness; folded with `step`.
        losses: Last training loss of each example: unsmoothed, unweighted
            cross-entropy under its augmentation; infinite where never trained on.
        correct: Whether the last training prediction of each example was right.
        forgetting: How often each example was forgotten; -1 until it is predicted right
            for the first time.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: Int32[Array, ""]
    key: Key[Array, ""]
    losses: Float32[Array, " n"]
    correct: Bool[Array, " n"]
    forgetting: Int32[Array, " n"]


@dataclass(frozen=True)
class StepSpec:
    """What a compiled training program is specialised to, beside the data's shape.

    Attributes:
        model: Shape of the network.
        family: Optimizer family.
        batch_size: Rows of a step, fill rows included.
        dtype: Name of the dtype of convolutions.
        mesh: Devices that share a batch; its one axis is called "data".
    """

    model: ResNetSpec
    family: Family
    batch_size: int
    dtype: str
    mesh: jax.sharding.Mesh


def init_state(
    model: ResNetSpec, family: Family, num_examples: int, key: Key[Array, ""]
) -> TrainState:
    """Draw a fresh network with a zeroed optimizer and empty tables."""
    init_key, step_key = jax.random.split(key)
    params, batch_stats = init(model, init_key)
    return TrainState(
        params=params,
        batch_stats=batch_stats,
        opt_state=init_optimizer(family, params),
        step=jnp.zeros((), jnp.int32),
        key=step_key,
        losses=jnp.full(num_examples, jnp.inf, jnp.float32),
        correct=jnp.zeros(num_examples, bool),
        forgetting=jnp.full(num_examples, NEVER_LEARNED, jnp.int32),
    )
