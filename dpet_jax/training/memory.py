"""How much memory training takes at least, known before anything is computed."""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpet_jax.arrays import memory, size_text
from dpet_jax.data.rows import Rows
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
    limit, _ = _memory_of_devices()
    batches = batch_size, evaluation_batch_size
    found = _needed(network, image_shape, batches, dtype, copies, limit)
    for (key, needed), batch in zip(found.items(), batches, strict=True):
        if needed > limit:
            raise UserError(
                f"model, {key}: a step of {network.label} on {batch} images of "
                f"{image_shape[0]} x {image_shape[1]} pixels takes "
                f"{needed / 1e9:,.0f} GB or more, but there are {limit / 1e9:,.0f} GB; "
                f"choose a smaller model, {key} or data.image_size"
            )


def _needed(
    network: Network,
    image_shape: tuple[int, int, int],
    batches: tuple[int, int],
    dtype: str,
    copies: int,
    limit: int,
) -> dict[str, int]:
    """Return the least bytes of a step of training and of evaluation, by their keys.

    Of a network that is far below the limit, only what its parameters take.
    """
    _, devices = _memory_of_devices()
    # the parameters, their gradient and the optimizer's mean of it
    kept = (3 + copies) * _bytes(network.abstract()[0])
    measures = {
        "train.batch_size": _of_training,
        "evaluate.batch_size": _of_evaluation,
    }
    found = {}
    for (key, measure), batch in zip(measures.items(), batches, strict=True):
        rows, found[key] = -(-batch // devices), kept
        pixels = rows * math.prod(image_shape[:2])
        if kept < limit < 10 * (kept + pixels * _BYTES_A_PIXEL):
            images = jax.ShapeDtypeStruct((rows, *image_shape), jnp.float32)
            found[key] += measure(network, images, dtype)
    return found


def least_room(row_bytes: int, batch_size: int, score_batch_size: int) -> int:
    """Return the bytes of a batch of training and one of scoring, each of them twice.

    Args:
        row_bytes: Of one image.
        batch_size: Rows that a device has of a batch of training.
        score_batch_size: Rows that it has of one of scoring.

    Gradient norms are scored in batches of training, so that these fit the other's.
    """
    scored = -(-max(batch_size, score_batch_size) // score_batch_size)
    return 2 * (scored * score_batch_size + batch_size) * row_bytes


class Placed(NamedTuple):
    """Where the pixels of a run are, and why.

    Attributes:
        where: "device", "host" or "stream".
        room: Bytes of each device that pixels may take; None where all are on it.
        reason: What was compared, in a few words.
    """

    where: Literal["device", "host", "stream"]
    room: int | None
    reason: str


def placed(
    network: Network,
    images: Any,
    batches: tuple[int, int],
    dtype: str,
    *,
    copies: int,
    asked: Literal["auto", "device", "host", "stream"],
    budget: int | None,
    because: str = "",
) -> Placed:
    """Choose where the pixels of a data set are while a network trains on it.

    Args:
        network: The network.
        images: Of the data set, in memory or `Rows`, which never are on the device.
        batches: Examples of a step of training and of one of evaluation.
        dtype: Name of the dtype to compute in.
        copies: Of the parameters, kept beside the training state.
        asked: What the config says.
        budget: Bytes of the device that pixels may take; None for what a step leaves.
        because: Why the images are not in memory, where sizes have decided it.

    Raises:
        UserError: If all pixels are asked onto a device that has no room for them, or
            a stream is asked for of what is no pictures.
    """
    pixels, told = images.nbytes, "by data.device_budget_mib"
    left = budget
    if left is None:
        limit, told = _memory_of_devices()[0], "that a step leaves of the device"
        shape = tuple(images.shape[1:])
        found = _needed(network, shape, batches, dtype, copies, limit - pixels)
        # a step takes up to twice its least; a twentieth is what decides nothing
        left = max(limit - 2 * max(found.values()), limit // 20)
    reason = f"{size_text(pixels)} of pixels, room for {size_text(left)} {told}"
    reason = f"{because}; {reason}" if because else reason
    lazy = isinstance(images, Rows)
    decoded = lazy and not isinstance(images.place, np.ndarray)
    if asked == "device" and pixels > left:
        raise UserError(
            f"data.placement: device, but there are {reason}; choose host, or leave it "
            "at auto"
        )
    if asked == "stream" and not decoded:
        raise UserError(
            "data.placement: stream decodes pictures, but this data set holds pixels; "
            "choose host"
        )
    if not lazy and asked in ("auto", "device") and pixels <= left:
        return Placed("device", None, reason)
    room = left
    if budget is None:  # no more than all of them would take
        row_bytes = math.prod(images.shape[1:])
        parts = (-(-batch // jax.device_count()) for batch in batches)
        room = max(min(left // 2, pixels), least_room(row_bytes, *parts))
    return Placed("stream" if decoded else "host", room, reason)


def _memory_of_devices() -> tuple[int, int]:
    """Return a device's bytes of memory, and how many devices share a batch.

    Where they have no memory of their own, that of the machine, and 1.
    """
    devices = jax.local_devices()
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"], jax.device_count()
    return memory(), 1  # of the machine, which all devices share


@functools.lru_cache(maxsize=8)  # the runs of a comparison mostly have one network
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

    return _bytes(jax.eval_shape(backward, *network.abstract(), images)) // 2


@functools.lru_cache(maxsize=8)
def _of_evaluation(network: Network, images: Any, dtype: str) -> int:
    """Return the bytes of the largest value of the forward pass."""
    forward = functools.partial(network.apply, dtype=dtype)
    values = jax.make_jaxpr(forward)(*network.abstract(), images).eqns
    return max(_bytes([v.aval for v in equation.outvars]) for equation in values)


def _bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
