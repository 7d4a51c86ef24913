"""Exact norms of each example's loss gradient by all parameters."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float32, Int, Num, PyTree

from dpet_jax.scores.arrays import (
    ScoreFn,
    known_class,
    num_examples,
    refuse_label_read,
)
from dpet_jax.scores.error import cross_entropy
from dpet_jax.scores.gradient.one_pass import Layer, NoRuleError, Reader
from dpet_jax.scores.gradient.rows_apart import refuse_mixed_rows
from dpet_jax.scores.scale import exponent, times_two_to, unordinary
from dpet_jax.scores.shards import alike, axes_of, varying

ApplyFn = Callable[[Any, Any], Any]
Method = Literal["auto", "one_pass", "vmap"]


class GradientPath(NamedTuple):
    """How gradient norms of a function are computed.

    Attributes:
        method: "one_pass": one backward pass in which every layer adds the length of
            its gradient; "vmap": the gradient of each example is formed.
        reason: Why it is not one pass; empty if it is.
        layers: Where parameters meet the example, in order; empty for "vmap".
    """

    method: Literal["one_pass", "vmap"]
    reason: str
    layers: tuple[Layer, ...]


def gradient_path(
    apply_fn: ApplyFn,
    params: Any,
    images: Any,
    *,
    method: Method = "auto",
) -> GradientPath:
    """Return how `gradient_norms` would treat a function; nothing is computed.

    Args:
        apply_fn: As for `gradient_norms`.
        params: Parameters, or their shapes.
        images: Examples, or their shapes.
        method: As for `gradient_norms`.

    Raises:
        ValueError: As `gradient_norms`.
    """
    image = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), images
    )
    return logits_of_one(apply_fn, params, image, method)[1]


@partial(jax.jit, static_argnames=("apply_fn", "method", "batch_size", "loss_fn"))
def gradient_norms(
    apply_fn: ApplyFn,
    params: Any,
    images: PyTree[Num[Array, "n ..."]],
    labels: Int[Array, " n"] | None,
    *,
    method: Method = "auto",
    batch_size: int = 64,
    loss_fn: ScoreFn = cross_entropy,
) -> Float32[Array, " n"]:
    """Score examples by the exact length of their full-parameter loss gradient.

    ||grad_theta l(f(x), y)||_2 over all parameters, in evaluation mode: GraNd of one
    network. One backward pass serves all examples of a batch (module `one_pass`);
    where a function has no such form, the gradient of each example is formed, and a
    warning says so and why.

    Args:
        apply_fn: `apply_fn(params, images) -> logits`, or `(logits, features)`, in
            evaluation mode. Pass the same function object again, not a new closure, or
            it compiles again.
        params: Tree of floating arrays; the norm is over all of them.
        images: Inputs as `apply_fn` takes them: an array with n rows, or a tree of
            arrays such as a dict.
        labels: Class of each, in [0, k); any other gives NaN. None where the loss
            reads none.
        method: "auto", or "one_pass" or "vmap" to insist.
        batch_size: Examples of one pass; bounds the memory.
        loss_fn: Maps the logits and label of one example to its loss.

    Returns:
        Norms, at least 0; larger is more informative.

    Raises:
        ValueError: While tracing, if examples of a batch influence each other, as
            batch normalisation in training mode makes them; `NoRuleError`, one of its
            kind, if `method` is "one_pass" and a parameter is used twice or in an
            operation without a rule.

    Source:
        Paul, Ganguli & Dziugaite (2021), "Deep Learning on a Data Diet", equation 2;
        their GraNd is the mean over networks.
    """
    size = num_examples(images, labels)
    if batch_size < 1:
        raise ValueError(f"a batch cannot hold {batch_size} examples")
    if size == 0:
        return jnp.zeros(0, jnp.float32)
    params, images, labels = alike(params, images, labels)
    first = jax.tree.map(lambda leaf: leaf[0], images)
    logits_of, path = logits_of_one(apply_fn, params, first, method)
    if labels is None:
        logits = jax.eval_shape(logits_of.plain, params, first)
        refuse_label_read(
            loss_fn, "grand", jax.ShapeDtypeStruct((1, *logits.shape), logits.dtype)
        )
        labels = jnp.zeros(size, jnp.int32)
    if path.reason and method == "auto":
        warnings.warn(
            f"gradient_norms forms the gradient of each example: {path.reason}",
            stacklevel=2,
        )
    batch_size = min(batch_size, size)
    rows = jnp.pad(jnp.arange(size, dtype=jnp.int32), (0, -size % batch_size))

    def one(row):
        image = jax.tree.map(lambda leaf: leaf[row], images)
        return gradient_norm(logits_of, params, image, labels[row], loss_fn)

    norms = lax.map(jax.vmap(one), rows.reshape(-1, batch_size))
    return norms.ravel()[:size]


class LogitsOfOne(NamedTuple):
    """One example's logits, with or without a probe.

    Attributes:
        probed: Whether `run` takes a probe whose cotangent is the squared length.
        run: `run(params, image, probe)` or `run(params, image)`.
        plain: `plain(params, image)`, without a probe in either case.
    """

    probed: bool
    run: Callable[..., Any]
    plain: Callable[..., Any]


def logits_of_one(
    apply_fn: ApplyFn, params: Any, image: Any, method: Method
) -> tuple[LogitsOfOne, GradientPath]:
    """Choose how the gradient of one example is measured; nothing is computed.

    Args:
        apply_fn: As for `gradient_norms`.
        params: Parameters, or their shapes.
        image: One example, or its shape; an array or a tree of them.
        method: As for `gradient_norms`.

    Returns:
        What `gradient_norm` runs, and a description of it.

    Raises:
        ValueError: As `gradient_norms`.
    """
    refuse_mixed_rows(partial(_logits, apply_fn), params, image)

    def plain(params, image):
        return _logits(apply_fn, params, jax.tree.map(_as_batch, image))[0]

    if method == "vmap":
        return LogitsOfOne(False, plain, plain), GradientPath(
            "vmap", "as asked for", ()
        )
    try:
        reader = Reader(plain, params, image)
        jax.eval_shape(reader, params, image, jnp.float32(0.0))
    except NoRuleError as error:
        if method == "one_pass":
            raise
        return LogitsOfOne(False, plain, plain), GradientPath("vmap", str(error), ())
    path = GradientPath("one_pass", "", tuple(reader.layers))
    return LogitsOfOne(True, reader, plain), path


def _as_batch(leaf):
    return leaf[None]


def _logits(apply_fn, params, images):
    outputs = apply_fn(params, images)
    return outputs[0] if isinstance(outputs, tuple) else outputs


def gradient_norm(
    logits_of: LogitsOfOne, params: Any, image: Any, label: Any, loss_fn: ScoreFn
) -> Float32[Array, ""]:
    """Return the length of one example's gradient."""
    if logits_of.probed:
        probe = varying(jnp.float32(0.0), axes_of((params, image)))
        logits, pull = jax.vjp(lambda at: logits_of.run(params, image, at), probe)
    else:
        logits, pull = jax.vjp(lambda moving: logits_of.run(moving, image), params)
    slope = jax.grad(loss_fn)(logits, label).astype(jnp.float32)
    # lengths are linear in the slope, and grow with the image: their squares are kept
    # inside float32, for nearly certain predictions as for large inputs
    power = unordinary(_exponent_of(slope))
    power += sum(
        jnp.maximum(unordinary(_exponent_of(leaf.astype(jnp.float32))), 0)
        for leaf in jax.tree.leaves(image)
    )
    (back,) = pull(times_two_to(slope, -power).astype(logits.dtype))
    squares = [back] if logits_of.probed else [*map(_squared, jax.tree.leaves(back))]
    norm = times_two_to(jnp.sqrt(jnp.sum(jnp.stack(squares))), power)
    return norm * known_class(label, logits.shape[0])[1]


def _squared(leaf):
    return jnp.sum(jnp.square(leaf.astype(jnp.float32)))


def _exponent_of(values):
    return exponent(jnp.max(jnp.abs(values), initial=0.0))
