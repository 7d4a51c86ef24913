"""Scoring a pool: one forward pass for everything asked for, in bounded memory."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32, Num, PyTree

from dpet_jax.scores.arrays import num_examples, refuse_label_read
from dpet_jax.scores.registry import kernel_reads, lookup
from dpet_jax.scores.shards import alike, axes_of, varying

#: What to compute: names of `dpet_jax.scores.registry`, import paths
#: `package.module:function`, kernels themselves, "logits" or "features"; or such by the
#: names that the results are to have.
Asked: TypeAlias = (
    Iterable[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]]
)

#: What the network itself gives, which can be asked for beside scores.
OUTPUTS: tuple[Literal["logits", "features"], ...] = ("logits", "features")

#: Logits, labels if known and, of models that give them, features of a batch.
Batch: TypeAlias = tuple[
    Float[Array, "b k"], Int[Array, " b"] | None, Float[Array, "b d"] | None
]


class Column(NamedTuple):
    """One thing to compute for each example.

    Attributes:
        name: What the result is called.
        reads: Whether it needs logits alone or also features.
        kernel: Maps them, and the label, of one example to its score; None for the
            logits or the features themselves.
    """

    name: str
    reads: Literal["logits", "features"]
    kernel: Callable[..., Any] | None

    def of(self, batch: Batch) -> Float32[Array, "b ..."]:
        """Compute it for a batch that went through the network.

        Raises:
            ValueError: If it needs features or labels and there are none, or if a
                kernel does not give one number for an example.
        """
        logits, labels, features = batch
        if self.reads == "logits":
            if self.kernel is None:
                return logits.astype(jnp.float32)
            return self._scores(labels, logits)
        if features is None:
            raise ValueError(
                f"{self.name} needs the features that the last layer reads: let "
                "apply_fn return (logits, features)"
            )
        if self.kernel is None:
            return features.astype(jnp.float32)
        return self._scores(labels, logits, features)

    def _scores(self, labels: Any, logits: Any, *features: Any) -> Any:
        kernel = self.kernel
        assert kernel is not None, "there is one wherever there is a score"
        if labels is None:
            refuse_label_read(kernel, self.name, logits, *features)
            labels = jnp.zeros(len(logits), jnp.int32)
        scores = jax.vmap(kernel)(logits, labels, *features)
        if jnp.ndim(scores) != 1:
            raise ValueError(
                f"score {self.name} gives an array of shape {jnp.shape(scores)[1:]} "
                "for one example, not a number"
            )
        return scores.astype(jnp.float32)


def columns(asked: Asked) -> tuple[Column, ...]:
    """Find the kernels of everything asked for.

    Raises:
        ValueError: If a score is unknown or does not come from a forward pass, if a
            kernel takes other arguments, or if two of them have the same name.
    """
    if isinstance(asked, str):
        raise ValueError(f"names are a list or tuple of scores, such as [{asked!r}]")
    pairs = (
        [*asked.items()]
        if isinstance(asked, Mapping)
        else [*dict.fromkeys((_name_of(each), each) for each in asked)]
    )
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"two scores are called {twice!r}; give a dict of names and scores"
        )
    return tuple(_column(name, each) for name, each in pairs)


def _name_of(each: str | Callable[..., Any]) -> str:
    return each if isinstance(each, str) else getattr(each, "__name__", repr(each))


def _column(name: str, each: str | Callable[..., Any]) -> Column:
    if not isinstance(each, str):
        return Column(name, kernel_reads(each, name), each)
    for output in OUTPUTS:
        if each == output:
            return Column(name, output, None)
    score = lookup(each)
    if score.reads == "gradient":
        raise ValueError(
            f"score {each} reads gradients, not outputs: call gradient_norms"
        )
    if score.reads == "nothing":
        raise ValueError(f"score {each} reads nothing: there is nothing to compute")
    return Column(name, score.reads, score.kernel())


def score_pool(
    apply_fn: Callable[[Any, Any], Any],
    params: Any,
    images: PyTree[Num[Array, "n ..."]],
    labels: Int[Array, " n"] | None,
    names: Asked,
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
        images: Inputs as `apply_fn` takes them: an array with n rows, or a tree of
            arrays such as a dict.
        labels: Class of each, in [0, k); any other scores NaN. None where no score
            that is asked for reads them.
        names: What to compute: scores by name, such as "margin"; kernels, functions
            of one example's `(logits, label)` or `(logits, label, features)`, called
            by their `__name__`, or by their import path `package.module:function`;
            "logits" and "features" for themselves. A dict gives the results names of
            your choice. Pass the same kernel again, not a new closure, or it compiles
            again.
        rows: Which examples to score, by position; all of them by default. Not inside
            `jax.jit`.
        batch_size: Examples of one forward pass; bounds the memory.
        dtype: Cast parameters and inputs of floating type to it; by default they go in
            as they are. Scores are computed in float32 either way.

    Returns:
        One array for each name, aligned with `rows`: a number for each row, larger
        where more informative; of "logits" and "features" a vector.

    Raises:
        ValueError: If a score is unknown, does not come from a forward pass, needs
            features that `apply_fn` does not return or labels that are not given, if
            inputs and labels differ in length, or if a row is not one of the pool's.
    """
    num_pool = num_examples(images, labels)
    if batch_size < 1:
        raise ValueError(f"a batch cannot hold {batch_size} examples")
    if isinstance(rows, jax.core.Tracer):
        raise ValueError("rows are chosen outside jax.jit, and these are traced")
    chosen = np.arange(num_pool) if rows is None else np.asarray(jax.device_get(rows))
    integers = chosen.size == 0 or np.issubdtype(chosen.dtype, np.integer)
    if not integers or chosen.size > num_pool or not _inside(chosen, num_pool):
        raise ValueError(
            f"rows have to be at most {num_pool} positions in [0, {num_pool})"
        )
    padded = np.zeros(num_pool + -num_pool % batch_size, np.int32)
    padded[: chosen.size] = chosen
    subset = jax.device_put((padded, np.int32(chosen.size)))
    scores = _score_pool(
        apply_fn, params, images, labels, subset, columns(names), batch_size, dtype
    )
    if rows is None:
        return scores
    # cut on the host: on the device each length would be another program
    cut = {name: each[: chosen.size] for name, each in jax.device_get(scores).items()}
    return jax.device_put(cut)


def _inside(rows, num_pool):
    return rows.ndim == 1 and bool(np.all((rows >= 0) & (rows < num_pool)))


@partial(jax.jit, static_argnames=("apply_fn", "wanted", "batch_size", "dtype"))
def _score_pool(apply_fn, params, images, labels, subset, wanted, batch_size, dtype):
    rows, count = subset
    num_pool = num_examples(images, labels)
    params, images, labels = alike(params, images, labels)

    def cast(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if dtype is not None and floating else leaf

    narrow = jax.tree.map(cast, params)

    def forward(batch):
        inputs = jax.tree.map(lambda leaf: cast(leaf[batch]), images)
        outputs = apply_fn(narrow, inputs)
        logits, features = outputs if isinstance(outputs, tuple) else (outputs, None)
        return logits, None if labels is None else labels[batch], features

    scores = score_rows(forward, rows, count, wanted, batch_size)
    return {name: values[:num_pool] for name, values in scores.items()}


def score_rows(
    forward: Callable[[Int32[Array, " b"]], Batch],
    rows: Int32[Array, " capacity"],
    count: Int32[Array, ""] | int,
    wanted: tuple[Column, ...],
    batch_size: int,
    *,
    shards: int = 1,
) -> dict[str, Float32[Array, "capacity ..."]]:
    """Score the first `count` rows, batch by batch, within a compiled program.

    `count` may be traced: one executable then serves every set size.

    Args:
        forward: Maps rows of a batch to their logits, labels and, if known, features.
            Besides `batch_size` rows it is traced with `shards` more, for CPUs.
        rows: Positions to score, padded with any valid position to a multiple of the
            batch size.
        count: How many of them to score.
        wanted: What to compute, from `columns`.
        batch_size: Rows of one forward pass, a multiple of `shards`.
        shards: Devices that share a batch.

    Returns:
        One array for each name, aligned with `rows`; minus infinity past `count`.
    """

    def score(batch):
        outputs = forward(batch)
        return {each.name: each.of(outputs) for each in wanted}

    def score_with_spare(batch):
        # XLA:CPU sums the last pixels of a batch in another order than all others, so
        # the last row, on each device, is one whose result is not used
        spare = jnp.pad(batch.reshape(shards, -1), ((0, 0), (0, 1))).reshape(-1)
        return {
            name: _without_spare(values, shards)
            for name, values in score(spare).items()
        }

    def score_batch(batch):
        return lax.platform_dependent(batch, cpu=score_with_spare, default=score)

    shapes = jax.eval_shape(score_batch, rows[:batch_size])
    empty = {
        name: varying(
            jnp.full((rows.shape[0], *shape.shape[1:]), -jnp.inf, jnp.float32),
            axes_of(shape),
        )
        for name, shape in shapes.items()
    }

    def body(index, scores):
        start = index * batch_size
        values = score_batch(lax.dynamic_slice_in_dim(rows, start, batch_size))
        return {
            name: lax.dynamic_update_slice_in_dim(scores[name], value, start, 0)
            for name, value in values.items()
        }

    scores = lax.fori_loop(0, -(-count // batch_size), body, empty)
    scored = jnp.arange(rows.shape[0], dtype=jnp.int32) < count
    return {
        name: jnp.where(scored.reshape(-1, *[1] * (values.ndim - 1)), values, -jnp.inf)
        for name, values in scores.items()
    }


def _without_spare(values, shards):
    apart = values.reshape(shards, -1, *values.shape[1:])[:, :-1]
    return apart.reshape(-1, *values.shape[1:])
