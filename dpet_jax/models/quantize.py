"""Weights of few bits: symmetric whole numbers, one scale for each output channel.

Kernels of convolutions and dense layers are quantized; biases and what normalisation
holds stay as they are, for they are a few numbers in a thousand.

Source:
    Krishnamoorthi (2018), "Quantizing deep convolutional networks for efficient
    inference: A whitepaper" (symmetric, per channel); Bengio, Leonard and Courville
    (2013), "Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation" (the straight-through gradient).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int8


class Quantized(NamedTuple):
    """A kernel in whole numbers: `values * scale` is what it stands for.

    Attributes:
        values: From -(2**(bits - 1) - 1) to as much.
        scale: One number for each output channel.
    """

    values: Int8[Any, "... o"]
    scale: Float32[Any, " o"]


def quantize(kernel: Float32[Array, "... o"], bits: int) -> Quantized:
    """Round a kernel to the nearest multiples of a scale for each output channel.

    The scale maps the largest magnitude of a channel to the largest whole number.

    Args:
        kernel: Output channels last.
        bits: Of a whole number, from 2 to 8.
    """
    most = 2 ** (bits - 1) - 1
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    # a channel of zeros has any scale
    scale = jnp.where(largest > 0, largest, 1.0) / most
    values = jnp.clip(jnp.round(kernel / _beside(scale, kernel)), -most, most)
    return Quantized(values.astype(jnp.int8), scale)


def dequantize(quantized: Quantized) -> Float32[Any, "... o"]:
    """Return the kernel that whole numbers and scales stand for."""
    values, scale = quantized
    return values.astype(jnp.float32) * _beside(scale, values)


def _beside(scale: Any, kernel: Any) -> Any:
    return scale.reshape(*[1] * (kernel.ndim - 1), -1)


def is_kernel(name: str | None, leaf: Any) -> bool:
    """Return whether an array is quantized.

    Args:
        name: Its own, without those of the layers that it is in; None if it has none.
        leaf: It, or anything with its shape.
    """
    return name == "kernel" and len(leaf.shape) >= 2


def quantized_params(params: Any, bits: int) -> Any:
    """Return parameters whose kernels hold only what whole numbers can.

    Args:
        params: Tree of float32 arrays.
        bits: Of a whole number.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            dequantize(quantize(leaf, bits)) if is_kernel(_name(path), leaf) else leaf
        ),
        params,
    )


def _name(path: tuple[Any, ...]) -> str | None:
    return getattr(path[-1], "key", None) if path else None


def straight_through(params: Any, bits: int, on: Bool[Array, ""]) -> Any:
    """Return parameters as `quantized_params` where `on`, whose gradient passes.

    Backward the rounding is the identity: the gradient of the quantized kernels is that
    of the kernels. A program computes both states, for at a branch an accelerator would
    wait.

    Args:
        params: Tree of float32 arrays.
        bits: Of a whole number.
        on: Whether to quantize.
    """
    rounded = jax.lax.stop_gradient(quantized_params(params, bits))

    def leaf(kept, nearest):
        fixed = jax.lax.stop_gradient(kept)
        # the difference is exactly zero, and the gradient goes through it
        return jnp.where(on, nearest, fixed) + (kept - fixed)

    return jax.tree.map(leaf, params, rounded)
