"""Exact norms of each example's loss gradient by all parameters."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

from dpet_jax.scores.arrays import ScoreFn
from dpet_jax.scores.error import cross_entropy
from dpet_jax.scores.gradient.one_pass import Layer, NoRuleError, Reader
from dpet_jax.scores.gradient.rows_apart import refuse_mixed_rows

ApplyFn = Callable[[Any, Float[Array, "b ..."]], Any]
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
    images: Float[Array, "n ..."],
    *,
    method: Method = "auto",
) -> GradientPath:
    """Return how `gradient_norms` would treat a function; nothing is computed.

    Args:
        apply_fn: As for `gradient_norms`.
        params: Parameters, or their shapes.
        images: Examples, or their shape.
        method: As for `gradient_norms`.

    Raises:
        ValueError: As `gradient_norms`.
    """
    return logits_of_one(apply_fn, params, _one_of(images), method)[1]


@partial(jax.jit, static_argnames=("apply_fn", "method", "batch_size", "loss_fn"))
def gradient_norms(
    apply_fn: ApplyFn,
    params: Any,
    images: Float[Array, "n ..."],
    labels: Int32[Array, " n"],
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
        images: Inputs as `apply_fn` takes them.
        labels: Class of each, in [0, k).
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
    logits_of, path = logits_of_one(apply_fn, params, _one_of(images), method)
    if path.reason and method == "auto":
        warnings.warn(
            f"gradient_norms forms the gradient of each example: {path.reason}",
            stacklevel=2,
        )
    num_examples = labels.shape[0]
    if num_examples == 0:
        return jnp.zeros(0, jnp.float32)
    batch_size = min(batch_size, num_examples)
    padding = -num_examples % batch_size
    rows = jnp.pad(jnp.arange(num_examples, dtype=jnp.int32), (0, padding))

    def one(row):
        return squared_norm(logits_of, params, images[row], labels[row], loss_fn)

    squared = lax.map(jax.vmap(one), rows.reshape(-1, batch_size))
    return jnp.sqrt(squared.ravel()[:num_examples])


class LogitsOfOne(NamedTuple):
    """One example's logits, with or without a probe.

    Attributes:
        probed: Whether `run` takes a probe whose cotangent is the squared length.
        run: `run(params, image, probe)` or `run(params, image)`.
    """

    probed: bool
    run: Callable[..., Any]


def logits_of_one(
    apply_fn: ApplyFn, params: Any, image: jax.ShapeDtypeStruct, method: Method
) -> tuple[LogitsOfOne, GradientPath]:
    """Choose how the gradient of one example is measured; nothing is computed.

    Args:
        apply_fn: As for `gradient_norms`.
        params: Parameters, or their shapes.
        image: Shape and dtype of one example.
        method: As for `gradient_norms`.

    Returns:
        What `squared_norm` runs, and a description of it.

    Raises:
        ValueError: As `gradient_norms`.
    """
    refuse_mixed_rows(partial(_logits, apply_fn), params, image)

    def plain(params, image):
        return _logits(apply_fn, params, image[None])[0]

    if method == "vmap":
        return LogitsOfOne(False, plain), GradientPath("vmap", "as asked for", ())
    try:
        reader = Reader(plain, params, image)
        jax.eval_shape(reader, params, image, jnp.float32(0.0))
    except NoRuleError as error:
        if method == "one_pass":
            raise
        return LogitsOfOne(False, plain), GradientPath("vmap", str(error), ())
    path = GradientPath("one_pass", "", tuple(reader.layers))
    return LogitsOfOne(True, reader), path


def _one_of(images):
    return jax.ShapeDtypeStruct(images.shape[1:], images.dtype)


def _logits(apply_fn, params, images):
    outputs = apply_fn(params, images)
    return outputs[0] if isinstance(outputs, tuple) else outputs


def squared_norm(
    logits_of: LogitsOfOne, params: Any, image: Any, label: Any, loss_fn: ScoreFn
) -> Float32[Array, ""]:
    """Return the squared length of one example's gradient."""
    if logits_of.probed:
        return jax.grad(
            lambda probe: loss_fn(logits_of.run(params, image, probe), label)
        )(jnp.float32(0.0))
    gradient = jax.grad(lambda moving: loss_fn(logits_of.run(moving, image), label))(
        params
    )
    squares = [
        jnp.sum(jnp.square(leaf.astype(jnp.float32)))
        for leaf in jax.tree.leaves(gradient)
    ]
    return jnp.sum(jnp.stack(squares))
