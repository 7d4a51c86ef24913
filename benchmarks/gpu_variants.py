"""Changes to the training program that only a GPU can judge, for A/B pieces.

A piece puts one in the place of a part of the package for the rest of its process, so
that the package has one program and no switch. Tests hold that both train alike.
"""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dpet_jax.training import network, steps
from dpet_jax.training.state import DeviceData, StepSpec, TrainState

#: Steps of the inner loop, whose count the compiler knows.
CHUNK = 8


@partial(jax.jit, static_argnames="spec", donate_argnames="state")
def chunked_train_steps(
    spec: StepSpec,
    state: TrainState,
    data: DeviceData,
    rows: Any,
    num_steps: Any,
    first_visit: Any,
    weights: Any,
    hyper: steps.Hyper,
) -> tuple[TrainState, steps.ChunkStats]:
    """Do what `train_steps` does in chunks of steps, then step by step.

    XLA:GPU asks the device before each turn of a loop whose count it does not know, and
    waits for the answer; inside a chunk it knows. The step is compiled twice. With one
    copy, surplus steps of a last chunk would have to be run and thrown away, and one of
    them costs more than fifty answers.
    """

    def step(index, carry):
        coded = lax.dynamic_slice_in_dim(rows, index * spec.batch_size, spec.batch_size)
        return steps.train_step(spec, carry, data, coded, first_visit, weights, hyper)

    def chunk(index, carry):
        def within(offset, carry):
            return step(index * CHUNK + offset, carry)

        return lax.fori_loop(0, CHUNK, within, carry)

    zero = steps.ChunkStats(jnp.float32(0), jnp.int32(0), jnp.int32(0))
    chunks = num_steps // CHUNK
    carry = lax.fori_loop(0, chunks, chunk, (state, zero))
    return lax.fori_loop(chunks * CHUNK, num_steps, step, carry)


#: What each puts in the place of which part of the package.
VARIANTS: dict[str, tuple[ModuleType, str, Any]] = {
    "steps": (network, "train_steps", chunked_train_steps),
}


def use(name: str) -> None:
    """Put a variant in its place for the rest of the process."""
    setattr(*VARIANTS[name])
