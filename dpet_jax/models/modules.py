"""Convolution and normalisation as modules of every network here, and folded in one."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpet_jax.models.conv import convolution
from dpet_jax.models.network import Params

#: `convolve(images, kernel, stride)`.
Convolve = Callable[[Any, Any, int], Any]

#: Added to a variance before its root is taken.
_EPSILON = 1e-5


class Conv(nn.Module):
    """A convolution without a bias, for a normalisation that follows takes it out.

    Attributes:
        channels: Of its output.
        side: Of its kernel.
        stride: Step in both directions.
        dtype: Of the computation.
        convolve: What convolves.
    """

    channels: int
    side: int
    stride: int
    dtype: Any
    convolve: Convolve

    @nn.compact
    def __call__(self, x):
        """Convolve feature maps."""
        kernel = self.param(
            "kernel",
            nn.initializers.zeros,  # networks draw
            (self.side, self.side, x.shape[-1], self.channels),
            jnp.float32,
        )
        return self.convolve(x, kernel.astype(self.dtype), self.stride)


class Norm(nn.Module):
    """Batch normalisation.

    Attributes:
        train: Whether by the batch's statistics.
        dtype: Of the result.
    """

    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Normalise feature maps."""
        # flax keeps mean and variance in float32 whatever the compute dtype
        norm = nn.BatchNorm(
            use_running_average=not self.train,
            momentum=0.9,
            epsilon=_EPSILON,
            dtype=self.dtype,
            name="norm",
        )
        # and subtracts them from bfloat16 by implicit promotion
        with jax.numpy_dtype_promotion("standard"):
            return norm(x)


def fold_conv(params: Params, stats: Params, conv: str, norm: str) -> Params:
    """Fold a normalisation into the convolution before it, as a kernel and a bias.

    Args:
        params: Parameters that hold both.
        stats: Running statistics that hold the second's.
        conv: Name of the convolution.
        norm: Name of the normalisation.
    """
    affine, running = (tree[norm]["norm"] for tree in (params, stats))
    scale = affine["scale"] / jnp.sqrt(running["var"] + _EPSILON)
    return {
        "kernel": params[conv]["kernel"] * scale[None, None, None],
        "bias": affine["bias"] - running["mean"] * scale,
    }


def apply_folded_conv(weights: Params, x: Any, stride: int, dtype: str) -> Any:
    """Convolve with what `fold_conv` gave.

    Args:
        weights: Kernel and bias.
        x: Feature maps.
        stride: Step in both directions.
        dtype: Name of the dtype of the convolution and of the result.
    """
    y = convolution(x, weights["kernel"].astype(dtype), stride)
    # a bias rounded to bfloat16 would double the error of the logits
    return (y.astype(jnp.float32) + weights["bias"][None, None, None]).astype(dtype)
