"""Scores of rows of the data set on the device by a network, and what they cost."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

from dpet_jax.data.augment import normalise
from dpet_jax.data.view import WHOLE, View
from dpet_jax.errors import UserError
from dpet_jax.models.network import Network
from dpet_jax.scores.error import cross_entropy
from dpet_jax.scores.gradient.norms import (
    GradientPath,
    LogitsOfOne,
    gradient_norm,
    logits_of_one,
)
from dpet_jax.scores.gradient.one_pass import NoRuleError
from dpet_jax.scores.pool import Column, columns, score_rows
from dpet_jax.training.state import DeviceData

#: The score that takes a backward pass, and so a program of its own.
GRAND = "grand"
#: What evaluating a network needs, whatever a method asks for.
EVALUATION = ("zero_one", "cross_entropy")


@dataclass(frozen=True)
class ScoreSpec:
    """What a compiled scoring program is specialised to, beside the data's shape.

    Attributes:
        model: The network.
        names: Scores to compute, or "logits" and "features".
        batch_size: Rows of one forward pass.
        dtype: Name of the dtype of convolutions.
        mesh: Devices that share a batch; its one axis is called "data".
        view: What of each image the network sees.
    """

    model: Network
    names: tuple[str, ...]
    batch_size: int
    dtype: str
    mesh: Mesh
    view: View = WHOLE


@partial(jax.jit, static_argnames="spec")
def score_data(
    spec: ScoreSpec,
    params: Any,
    batch_stats: Any,
    data: DeviceData,
    rows: Int32[Array, " capacity"],
    count: Int32[Array, ""],
) -> dict[str, Float32[Array, "capacity ..."]]:
    """Score rows of the data set on the device, without augmentation.

    Args:
        spec: What the program is specialised to.
        params: Parameters of the network.
        batch_stats: Running statistics of the network.
        data: The data set.
        rows: Positions to score, padded to a multiple of the batch size.
        count: How many of them to score.

    Returns:
        One array for each name, aligned with `rows`; minus infinity past `count`.

    Raises:
        UserError: If a score reads features, and the network gives none.
    """
    sharded = NamedSharding(spec.mesh, PartitionSpec("data"))
    wanted = columns(spec.names)
    folded = spec.model.fold(params, batch_stats)

    def forward(batch):
        batch = lax.with_sharding_constraint(batch, sharded)
        pixels = data.pixels(batch, spec.mesh)
        images = normalise(spec.view.of(pixels), data.mean, data.std)
        outputs = spec.model.apply_folded(folded, images, dtype=spec.dtype)
        if outputs.features is None:
            _refuse_features(spec.model, wanted)
        return outputs.logits, data.labels[batch], outputs.features

    return score_rows(
        forward,
        rows,
        count,
        wanted,
        spec.batch_size,
        shards=spec.mesh.size,
    )


def _refuse_features(model: Network, wanted: tuple[Column, ...]) -> None:
    name = next((each.name for each in wanted if each.reads == "features"), None)
    if name is not None:
        raise UserError(
            f"{name} needs the features that the last layer reads, which "
            f"{model.label} does not give; let it return (logits, features)"
        )


@partial(jax.jit, static_argnames="spec")
def gradient_norms_of_data(
    spec: ScoreSpec,
    params: Any,
    batch_stats: Any,
    data: DeviceData,
    rows: Int32[Array, " capacity"],
    count: Int32[Array, ""],
) -> Float32[Array, " capacity"]:
    """Score rows of the data set on the device by `gradient_norms`.

    Args:
        spec: What the program is specialised to; its names are not used.
        params: Parameters of the network.
        batch_stats: Running statistics of the network.
        data: The data set.
        rows: Positions to score, padded with any valid position.
        count: How many of them to score; may change from call to call.

    Returns:
        Norms aligned with `rows`; minus infinity past `count`.

    Raises:
        UserError: If the network has no gradient norms in one backward pass.
    """
    capacity = rows.shape[0]
    height, width, channels = data.images.shape[1:]
    shape = spec.view.shape((height, width, channels))
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    logits_of, _ = _one_pass(spec.model, spec.dtype, params, batch_stats, image)
    sharded = NamedSharding(spec.mesh, PartitionSpec("data"))

    def one(image, label):
        return gradient_norm(logits_of, params, image, label, cross_entropy)

    def body(index, norms):
        start = index * spec.batch_size
        batch = lax.dynamic_slice_in_dim(padded, start, spec.batch_size)
        batch = lax.with_sharding_constraint(batch, sharded)
        pixels = data.pixels(batch, spec.mesh)
        images = normalise(spec.view.of(pixels), data.mean, data.std)
        values = jax.vmap(one)(images, data.labels[batch])
        return lax.dynamic_update_slice_in_dim(norms, values, start, 0)

    padded = jnp.pad(rows, (0, -capacity % spec.batch_size))
    empty = jnp.full(padded.shape, -jnp.inf, jnp.float32)
    norms = lax.fori_loop(0, -(-count // spec.batch_size), body, empty)
    return jnp.where(jnp.arange(capacity) < count, norms[:capacity], -jnp.inf)


@cache
def gradient_norm_flops(model: Network, shape: tuple[int, int, int]) -> int:
    """Count the floating-point operations of one example's gradient norm.

    The forward pass, the backward pass to every layer's inputs but the images, and the
    lengths of the kernels' gradients in the forms chosen; counted as `forward_flops`.

    Args:
        model: The network.
        shape: Height, width and channels of an image.

    Raises:
        UserError: As `gradient_norms_of_data`.
    """
    params, stats = model.abstract()
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    layers: list[Any] = []

    def read(params, stats):
        layers.extend(_one_pass(model, "float32", params, stats, image)[1].layers)

    jax.eval_shape(read, params, stats)
    lengths = sum(layer.multiply_adds or 0 for layer in layers)
    passes = model.forward_flops(*shape[:2]) + model.backward_flops(*shape[:2])
    return passes + 2 * lengths


def _one_pass(
    model: Network, dtype: str, params: Any, batch_stats: Any, image: Any
) -> tuple[LogitsOfOne, GradientPath]:
    def logits(params, images):
        outputs = model.apply_in_primitives(params, batch_stats, images, dtype=dtype)
        return outputs.logits

    try:
        return logits_of_one(logits, params, image, "one_pass")
    except NoRuleError as error:
        raise UserError(
            f"score {GRAND} cannot be computed for {model.label}: {error}; "
            "grand_last_layer, the gradient by the last layer alone, can be"
        ) from error


def scoring_flops(
    model: Network,
    shape: tuple[int, int, int],
    batch_sizes: tuple[int, int],
    num_examples: int,
    names: tuple[str, ...],
) -> int:
    """Count the FLOPs of scoring some examples, fill rows included.

    Args:
        model: The network that scores.
        shape: Height, width and channels of an image.
        batch_sizes: Rows of a forward pass, and of a batch of gradient norms.
        num_examples: How many are scored.
        names: Of the scores; all but "grand" come from one forward pass.
    """
    rows = [-(-num_examples // batch) * batch for batch in batch_sizes]
    total = 0
    if {*names} != {GRAND}:
        total += rows[0] * model.forward_flops(*shape[:2])
    if GRAND in names:
        total += rows[1] * gradient_norm_flops(model, shape)
    return total
