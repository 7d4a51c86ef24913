"""Gradient norms of rows of the data set on the device, and what they cost."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

from dpet_jax.data.augment import normalise
from dpet_jax.models.network import Network
from dpet_jax.scores.error import cross_entropy
from dpet_jax.scores.gradient.norms import LogitsOfOne, squared_norm
from dpet_jax.scores.gradient.one_pass import Layer, Reader
from dpet_jax.scores.pool import ScoreSpec
from dpet_jax.training.state import DeviceData

#: The name by which a config asks for gradient norms.
GRAND = "grand"


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
    """
    capacity = rows.shape[0]
    image = jax.ShapeDtypeStruct(data.images.shape[1:], jnp.float32)
    reader = _reader(spec.model, spec.dtype, params, batch_stats, image)
    logits_of = LogitsOfOne(True, reader)
    sharded = NamedSharding(spec.mesh, PartitionSpec("data"))

    def one(image, label):
        return squared_norm(logits_of, params, image, label, cross_entropy)

    def body(index, norms):
        start = index * spec.batch_size
        batch = lax.dynamic_slice_in_dim(padded, start, spec.batch_size)
        batch = lax.with_sharding_constraint(batch, sharded)
        images = normalise(data.images[batch], data.mean, data.std)
        squared = jax.vmap(one)(images, data.labels[batch])
        return lax.dynamic_update_slice_in_dim(norms, jnp.sqrt(squared), start, 0)

    padded = jnp.pad(rows, (0, -capacity % spec.batch_size))
    empty = jnp.full(padded.shape, -jnp.inf, jnp.float32)
    norms = lax.fori_loop(0, -(-count // spec.batch_size), body, empty)
    return jnp.where(jnp.arange(capacity) < count, norms[:capacity], -jnp.inf)


@cache
def gradient_norm_flops(model: Network, height: int, width: int) -> int:
    """Count the floating-point operations of one example's gradient norm.

    The forward pass, the backward pass to every layer's inputs but the images, and the
    lengths of the kernels' gradients in the forms chosen; counted as `forward_flops`.
    """
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((height, width, model.in_channels), jnp.float32)

    def run(params, stats, image):
        reader = _reader(model, "float32", params, stats, image)
        reader(params, image, jnp.float32(0.0))
        layers.extend(reader.layers)

    layers: list[Layer] = []
    jax.eval_shape(run, params, stats, image)
    lengths = sum(layer.multiply_adds or 0 for layer in layers)
    passes = model.forward_flops(height, width) + model.backward_flops(height, width)
    return passes + 2 * lengths


def _reader(
    model: Network, dtype: str, params: Any, batch_stats: Any, image: Any
) -> Reader:
    def logits(params, image):
        outputs = model.apply_in_primitives(
            params, batch_stats, image[None], dtype=dtype
        )
        return outputs.logits[0]

    return Reader(logits, params, image)


def scoring_flops(
    model: Network,
    shape: tuple[int, int],
    batch_sizes: tuple[int, int],
    num_examples: int,
    names: tuple[str, ...],
) -> int:
    """Count the FLOPs of scoring some examples, fill rows included.

    Args:
        model: The network that scores.
        shape: Height and width of the images.
        batch_sizes: Rows of a forward pass, and of a batch of gradient norms.
        num_examples: How many are scored.
        names: Of the scores; all but "grand" come from one forward pass.
    """
    height, width = shape
    rows = [-(-num_examples // batch) * batch for batch in batch_sizes]
    total = 0
    if {*names} != {GRAND}:
        total += rows[0] * model.forward_flops(height, width)
    if GRAND in names:
        total += rows[1] * gradient_norm_flops(model, height, width)
    return total
