"""Scoring a pool: one forward pass for every score asked for, in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int32

from dpet_jax.arrays import ScoreFn
from dpet_jax.data.augment import normalise
from dpet_jax.data.device import DeviceData
from dpet_jax.models import ResNetSpec, apply
from dpet_jax.scores.artifact import ARTIFACT_SCORES
from dpet_jax.scores.error import cross_entropy, el2n, zero_one
from dpet_jax.scores.uncertainty import entropy, least_confidence, margin

SCORES: dict[str, ScoreFn] = {
    "margin": margin,
    "entropy": entropy,
    "least_confidence": least_confidence,
    "cross_entropy": cross_entropy,
    "el2n": el2n,
    "zero_one": zero_one,
}


def score_fn(name: str) -> ScoreFn:
    """Look a kernel up by the name that configs use.

    Raises:
        ValueError: If there is none.
    """
    kernel = SCORES.get(name) or ARTIFACT_SCORES.get(name)
    if kernel is None:
        raise ValueError(f"no score called {name!r}; there are {', '.join(SCORES)}")
    return kernel


@partial(jax.jit, static_argnames=("apply_fn", "names", "batch_size"))
def score_pool(
    apply_fn: Callable[[Any, Float[Array, "b ..."]], Float[Array, "b k"]],
    params: Any,
    images: Float[Array, "n ..."],
    labels: Int32[Array, " n"],
    names: tuple[str, ...],
    *,
    batch_size: int = 500,
) -> dict[str, Float32[Array, " n"]]:
    """Score every example of an array with any model.

    Args:
        apply_fn: `apply_fn(params, images) -> logits`, in evaluation mode. Pass the
            same function object again, not a new closure, or it compiles again.
        params: Whatever `apply_fn` takes.
        images: Inputs as `apply_fn` takes them.
        labels: Class of each, in [0, k).
        names: Scores to compute, keys of `SCORES`.
        batch_size: Examples of one forward pass; bounds the memory.

    Returns:
        One array for each name, aligned with `images`; larger is more informative.

    Raises:
        ValueError: If a name is unknown; raised while tracing.
    """
    num_examples = labels.shape[0]
    padding = -num_examples % batch_size
    rows = jnp.pad(jnp.arange(num_examples, dtype=jnp.int32), (0, padding))

    def forward(batch):
        return apply_fn(params, images[batch]), labels[batch]

    scores = score_rows(forward, rows, num_examples, names, batch_size)
    return {name: values[:num_examples] for name, values in scores.items()}


@dataclass(frozen=True)
class ScoreSpec:
    """What a compiled scoring program is specialised to, beside the data's shape.

    Attributes:
        model: Shape of the network.
        names: Scores to compute.
        batch_size: Rows of one forward pass.
        dtype: Name of the dtype of convolutions.
        mesh: Devices that share a batch; its one axis is called "data".
    """

    model: ResNetSpec
    names: tuple[str, ...]
    batch_size: int
    dtype: str
    mesh: Mesh


@partial(jax.jit, static_argnames="spec")
def score_data(
    spec: ScoreSpec,
    params: Any,
    batch_stats: Any,
    data: DeviceData,
    rows: Int32[Array, " capacity"],
    count: Int32[Array, ""],
) -> dict[str, Float32[Array, " capacity"]]:
    """Score rows of the data set on the device, without augmentation.

    Args:
        spec: What the program is specialised to.
        params: Parameters of the network.
        batch_stats: Running statistics of the network.
        data: The data set.
        rows: Positions to score, padded to a multiple of the batch size.
        count: How many of them to score.

    Returns:
        As `score_rows`.
    """
    sharded = NamedSharding(spec.mesh, PartitionSpec("data"))

    def forward(batch):
        batch = lax.with_sharding_constraint(batch, sharded)
        images = normalise(data.images[batch], data.mean, data.std)
        outputs = apply(spec.model, params, batch_stats, images, dtype=spec.dtype)
        return outputs.logits, data.labels[batch]

    return score_rows(forward, rows, count, spec.names, spec.batch_size)


def score_rows(
    forward: Callable[
        [Int32[Array, " b"]], tuple[Float[Array, "b k"], Int32[Array, " b"]]
    ],
    rows: Int32[Array, " capacity"],
    count: Int32[Array, ""] | int,
    names: tuple[str, ...],
    batch_size: int,
) -> dict[str, Float32[Array, " capacity"]]:
    """Score the first `count` rows, batch by batch, within a compiled program.

    `count` may be traced: one executable then serves every set size.

    Args:
        forward: Maps rows of a batch to their logits and labels.
        rows: Positions to score, padded with any valid position to a multiple of the
            batch size.
        count: How many of them to score.
        names: Scores to compute.
        batch_size: Rows of one forward pass.

    Returns:
        One array for each name, aligned with `rows`; minus infinity past `count`.
    """
    kernels = {name: jax.vmap(score_fn(name)) for name in names}
    empty = {name: jnp.full(rows.shape, -jnp.inf, jnp.float32) for name in names}

    def body(index, scores):
        start = index * batch_size
        batch = lax.dynamic_slice_in_dim(rows, start, batch_size)
        logits, labels = forward(batch)
        return {
            name: lax.dynamic_update_slice_in_dim(
                scores[name], kernel(logits, labels), start, axis=0
            )
            for name, kernel in kernels.items()
        }

    scores = lax.fori_loop(0, -(-count // batch_size), body, empty)
    scored = jnp.arange(rows.shape[0]) < count
    return {name: jnp.where(scored, scores[name], -jnp.inf) for name in names}
