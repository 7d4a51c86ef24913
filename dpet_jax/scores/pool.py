"""Scoring a pool: one forward pass for everything asked for, in bounded memory.

A name asks for a score or for "logits" or "features" themselves. A kernel of your own
gets a name by an entry in `SCORES`, if it reads logits and label, or in
`FEATURE_SCORES`, if it also reads the features; a name stands for the kernel that it
had when a program was compiled, so enter it before its first use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int, Int32, Num

from dpet_jax.data.augment import normalise
from dpet_jax.scores.arrays import FeatureScoreFn, ScoreFn
from dpet_jax.scores.artifact import ARTIFACT_SCORES
from dpet_jax.scores.error import cross_entropy, el2n, zero_one
from dpet_jax.scores.last_layer import grand_last_layer
from dpet_jax.scores.uncertainty import entropy, least_confidence, margin

SCORES: dict[str, ScoreFn] = {
    "margin": margin,
    "entropy": entropy,
    "least_confidence": least_confidence,
    "cross_entropy": cross_entropy,
    "el2n": el2n,
    "zero_one": zero_one,
}
FEATURE_SCORES: dict[str, FeatureScoreFn] = {"grand_last_layer": grand_last_layer}

#: Logits, labels and, of models that give them, features of a batch.
Batch: TypeAlias = tuple[
    Float[Array, "b k"], Int32[Array, " b"], Float[Array, "b d"] | None
]


def score_fn(name: str) -> ScoreFn:
    """Look a kernel of logits and label up by the name that configs use.

    Raises:
        ValueError: If there is none.
    """
    kernel = SCORES.get(name) or ARTIFACT_SCORES.get(name)
    if kernel is None:
        known = ", ".join((*SCORES, *FEATURE_SCORES))
        raise ValueError(f"no score called {name!r}; there are {known}")
    return kernel


def read_out(name: str, batch: Batch) -> Float32[Array, "b ..."]:
    """Compute what a name asks for from a batch that went through the network.

    Raises:
        ValueError: If the name is unknown, or needs features and there are none.
    """
    logits, labels, features = batch
    if name == "logits":
        return logits.astype(jnp.float32)
    if name != "features" and name not in FEATURE_SCORES:
        return jax.vmap(score_fn(name))(logits, labels)
    if features is None:
        raise ValueError(
            f"{name} needs the features that the last layer reads: let apply_fn return "
            "(logits, features)"
        )
    if name == "features":
        return features.astype(jnp.float32)
    return jax.vmap(FEATURE_SCORES[name])(logits, labels, features)


def score_pool(
    apply_fn: Callable[[Any, Num[Array, "b ..."]], Any],
    params: Any,
    images: Num[Array, "n ..."],
    labels: Int32[Array, " n"],
    names: tuple[str, ...],
    *,
    rows: Int[np.ndarray, " m"] | Int[Array, " m"] | None = None,
    batch_size: int = 500,
    dtype: str | None = None,
) -> dict[str, Float32[Array, "m ..."]]:
    """Score the examples of an array, or some of them, with any model.

    One program serves all parameters of a model and all subsets of a pool; a pool of
    another size is another shape and compiles again. An example's score does not depend
    on the examples that it is scored with.

    Args:
        apply_fn: `apply_fn(params, images)` in evaluation mode; returns logits, or
            logits and features. Pass the same function object again, not a new
            closure, or it compiles again.
        params: Whatever `apply_fn` takes.
        images: Inputs as `apply_fn` takes them, one array with n rows.
        labels: Class of each, in [0, k).
        names: Scores to compute, keys of `SCORES` and `FEATURE_SCORES`; "logits" and
            "features" for themselves.
        rows: Which examples to score, by position; all of them by default. Not inside
            `jax.jit`.
        batch_size: Examples of one forward pass; bounds the memory.
        dtype: Cast parameters and inputs of floating type to it; by default they go in
            as they are. Scores are computed in float32 either way.

    Returns:
        One array for each name, aligned with `rows`: a number for each row, larger
        where more informative; of "logits" and "features" a vector.

    Raises:
        ValueError: If a name is unknown or needs features that `apply_fn` does not
            return (raised while tracing), or if a row is not one of the pool's.
    """
    num_pool = labels.shape[0]
    chosen = np.arange(num_pool) if rows is None else np.asarray(jax.device_get(rows))
    if chosen.size > num_pool or np.any((chosen < 0) | (chosen >= num_pool)):
        raise ValueError(
            f"rows have to be at most {num_pool} positions in [0, {num_pool})"
        )
    padded = np.zeros(num_pool + -num_pool % batch_size, np.int32)
    padded[: chosen.size] = chosen
    subset = jax.device_put((padded, np.int32(chosen.size)))
    scores = _score_pool(
        apply_fn, params, images, labels, subset, names, batch_size, dtype
    )
    if rows is None:
        return scores
    # cut on the host: on the device each length would be another program
    cut = {name: each[: chosen.size] for name, each in jax.device_get(scores).items()}
    return jax.device_put(cut)


@partial(jax.jit, static_argnames=("apply_fn", "names", "batch_size", "dtype"))
def _score_pool(apply_fn, params, images, labels, subset, names, batch_size, dtype):
    rows, count = subset

    def cast(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if dtype is not None and floating else leaf

    narrow = jax.tree.map(cast, params)

    def forward(batch):
        outputs = apply_fn(narrow, cast(images[batch]))
        logits, features = outputs if isinstance(outputs, tuple) else (outputs, None)
        return logits, labels[batch], features

    scores = score_rows(forward, rows, count, names, batch_size)
    return {name: values[: labels.shape[0]] for name, values in scores.items()}


@dataclass(frozen=True)
class ScoreSpec:
    """What a compiled scoring program is specialised to, beside the data's shape.

    Attributes:
        model: The network.
        names: Scores to compute, or "logits" and "features".
        batch_size: Rows of one forward pass.
        dtype: Name of the dtype of convolutions.
        mesh: Devices that share a batch; its one axis is called "data".
    """

    model: Any
    names: tuple[str, ...]
    batch_size: int
    dtype: str
    mesh: Mesh


@partial(jax.jit, static_argnames="spec")
def score_data(
    spec: ScoreSpec,
    params: Any,
    batch_stats: Any,
    data: Any,
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
        As `score_rows`.
    """
    sharded = NamedSharding(spec.mesh, PartitionSpec("data"))
    folded = spec.model.fold(params, batch_stats)

    def forward(batch):
        batch = lax.with_sharding_constraint(batch, sharded)
        images = normalise(data.images[batch], data.mean, data.std)
        outputs = spec.model.apply_folded(folded, images, dtype=spec.dtype)
        return outputs.logits, data.labels[batch], outputs.features

    return score_rows(
        forward, rows, count, spec.names, spec.batch_size, shards=spec.mesh.size
    )


def score_rows(
    forward: Callable[[Int32[Array, " b"]], Batch],
    rows: Int32[Array, " capacity"],
    count: Int32[Array, ""] | int,
    names: tuple[str, ...],
    batch_size: int,
    *,
    shards: int = 1,
) -> dict[str, Float32[Array, "capacity ..."]]:
    """Score the first `count` rows, batch by batch, within a compiled program.

    `count` may be traced: one executable then serves every set size.

    Args:
        forward: Maps rows of a batch, of which there are `shards` more than
            `batch_size`, to their logits, labels and, if known, features.
        rows: Positions to score, padded with any valid position to a multiple of the
            batch size.
        count: How many of them to score.
        names: Scores to compute, or "logits" and "features".
        batch_size: Rows of one forward pass, a multiple of `shards`.
        shards: Devices that share a batch.

    Returns:
        One array for each name, aligned with `rows`; minus infinity past `count`.
    """

    def score_batch(batch):
        # XLA:CPU sums the last pixels of a batch in another order than all others, so
        # the last row, on each device, is one whose result nobody reads
        spare = jnp.pad(batch.reshape(shards, -1), ((0, 0), (0, 1))).reshape(-1)
        outputs = forward(spare)
        values = {name: read_out(name, outputs) for name in names}
        return {name: _without_spare(value, shards) for name, value in values.items()}

    shapes = jax.eval_shape(score_batch, rows[:batch_size])
    empty = {
        name: jnp.full((rows.shape[0], *shape.shape[1:]), -jnp.inf, jnp.float32)
        for name, shape in shapes.items()
    }

    def body(index, scores):
        start = index * batch_size
        values = score_batch(lax.dynamic_slice_in_dim(rows, start, batch_size))
        return {
            name: lax.dynamic_update_slice_in_dim(scores[name], values[name], start, 0)
            for name in names
        }

    scores = lax.fori_loop(0, -(-count // batch_size), body, empty)
    scored = jnp.arange(rows.shape[0]) < count
    return {
        name: jnp.where(scored.reshape(-1, *[1] * (values.ndim - 1)), values, -jnp.inf)
        for name, values in scores.items()
    }


def _without_spare(values, shards):
    apart = values.reshape(shards, -1, *values.shape[1:])[:, :-1]
    return apart.reshape(-1, *values.shape[1:])
