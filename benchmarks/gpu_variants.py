"""Changes to the training program that only a GPU can judge, for A/B pieces.

A piece puts one in the place of a part of the package for the rest of its process, so
that the package has one program and no switch. Tests hold that both train alike.
"""

from functools import partial
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dpet_jax.models import resnet
from dpet_jax.training import network, steps
from dpet_jax.training.state import DeviceData, StepSpec, TrainState

#: Steps of the inner loop, whose count the compiler knows.
CHUNK = 8
_MOMENTUM, _EPSILON = 0.9, 1e-5


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


@jax.custom_vjp
def batch_norm(x: Any, scale: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Normalise by the batch in one multiplication and addition a value.

    Autodiff of the usual form leaves three sums over the activations in the backward
    pass, and XLA a copy of the cotangent in memory; two sums in one reading are enough.

    Returns:
        What `flax.linen.BatchNorm` gives; mean and variance, float32, which are not
        differentiated.
    """
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = jnp.mean(wide, axes)
    variance = jnp.mean(lax.square(wide), axes) - lax.square(mean)
    variance = jnp.maximum(variance, 0.0)
    slope = scale * lax.rsqrt(variance + _EPSILON)
    shape = (1,) * len(axes) + slope.shape
    y = wide * slope.reshape(shape) + (bias - mean * slope).reshape(shape)
    return y.astype(x.dtype), mean, variance


def _forward(x, scale, bias):
    y, mean, variance = batch_norm(x, scale, bias)
    return (y, mean, variance), (x, scale, mean, variance)


def _backward(residuals, cotangents):
    x, scale, mean, variance = residuals
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    wide, back = x.astype(jnp.float32), cotangents[0].astype(jnp.float32)
    inverse = lax.rsqrt(variance + _EPSILON)
    shape = (1,) * len(axes) + mean.shape
    of_bias = jnp.sum(back, axes)
    of_scale = jnp.sum(back * (wide - mean.reshape(shape)), axes) * inverse
    # d x = slope (d y - mean of d y - x^ mean of d y x^), sorted by what is an array
    slope = scale * inverse
    by_x = slope * of_scale * inverse / count
    constant = by_x * mean - slope * of_bias / count
    of_x = slope.reshape(shape) * back - by_x.reshape(shape) * wide
    return (of_x + constant.reshape(shape)).astype(x.dtype), of_scale, of_bias


batch_norm.defvjp(_forward, _backward)


class _BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` in training, with its parameters and statistics."""

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        y, *found = batch_norm(x, scale, bias)
        for name, value in zip(("mean", "var"), found, strict=True):
            running = self.variable("batch_stats", name, jnp.zeros, shape)
            value = lax.stop_gradient(value)
            running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * value
        return y


class _Norm(resnet._Norm):
    @nn.compact
    def __call__(self, x):
        return _BatchNorm(name="norm")(x) if self.train else super().__call__(x)


#: What each puts in the place of which part of the package.
VARIANTS: dict[str, tuple[ModuleType, str, Any]] = {
    "norm": (resnet, "_Norm", _Norm),
    "steps": (network, "train_steps", chunked_train_steps),
}


def use(name: str) -> None:
    """Put a variant in its place for the rest of the process."""
    setattr(*VARIANTS[name])
