"""How much memory training takes at least, known before anything is computed."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from dpet_jax.arrays import memory
from dpet_jax.errors import UserError
from dpet_jax.models.network import Network

# Bytes that a step keeps of a pixel, as of ResNet-18. A network that is far below the
# limit by this measure is not traced, which takes half a second.
_BYTES_A_PIXEL = 10_000


def check_memory(
    network: Network,
    image_shape: tuple[int, int, int],
    batch_size: int,
    evaluation_batch_size: int,
    dtype: str,
    *,
    copies: int = 0,
) -> None:
    """Refuse a network of which one step cannot fit into memory.

    Args:
        network: The network.
        image_shape: Height, width and channels.
        batch_size: Examples of a training step.
        evaluation_batch_size: Examples of a step of evaluation.
        dtype: Name of the dtype to compute in.
        copies: Of the parameters, kept beside the training state.

    Raises:
        UserError: If it cannot.
    """
    limit, devices = _memory_of_devices()
    # the parameters, their gradient and the optimizer's mean of it
    kept = (3 + copies) * _bytes(_parts(network)[0])
    for key, batch in (
        ("train.batch_size", batch_size),
        ("evaluate.batch_size", evaluation_batch_size),
    ):
        rows, needed = -(-batch // devices), kept
        pixels = rows * math.prod(image_shape[:2])
        if kept < limit < 10 * (kept + pixels * _BYTES_A_PIXEL):
            images = jax.ShapeDtypeStruct((rows, *image_shape), jnp.float32)
            measure = _of_training if key == "train.batch_size" else _of_evaluation
            needed += measure(network, images, dtype)
        if needed > limit:
            raise UserError(
                f"model, {key}: a step of {network.label} on {batch} images of "
                f"{image_shape[0]} x {image_shape[1]} pixels takes "
                f"{needed / 1e9:,.0f} GB or more, but there are {limit / 1e9:,.0f} GB; "
                f"choose a smaller model, {key} or data.image_size"
            )


def _memory_of_devices() -> tuple[int, int]:
    """Return the bytes of memory that steps have, and among how many it is shared."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"], len(devices)
    return memory(), 1  # of the machine, which all devices share


@functools.lru_cache(maxsize=8)  # the runs of a comparison mostly have one network
def _parts(network: Network) -> tuple[Any, Any]:
    return jax.eval_shape(network.init, jax.random.key(0))


def _of_training(network: Network, images: Any, dtype: str) -> int:
    """Return half of the bytes that the forward pass leaves for the backward pass.

    XLA computes some of them again instead of keeping them.
    """

    def backward(params, running, images):
        def forward(params):
            key = jax.random.key(0)
            outputs, _ = network.apply_train(key, params, running, images, dtype=dtype)
            return outputs.logits

        return jax.vjp(forward, params)[1]

    return _bytes(jax.eval_shape(backward, *_parts(network), images)) // 2


def _of_evaluation(network: Network, images: Any, dtype: str) -> int:
    """Return the bytes of the largest value of the forward pass."""
    forward = functools.partial(network.apply, dtype=dtype)
    values = jax.make_jaxpr(forward)(*_parts(network), images).eqns
    return max(_bytes([v.aval for v in equation.outvars]) for equation in values)


def _bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
