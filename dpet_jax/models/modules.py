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


def draw_parameters(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    key: Any,
    num_features: int,
    num_classes: int,
    deviation: Callable[[tuple[int, ...]], float],
) -> tuple[Params, Params]:
    """Draw parameters: normal kernels, unit normalisation, uniform layer `head`.

    All kernels are slices of one draw. A draw for each would make a program of
    thousands of operations, which takes longer to compile than a short run to train.

    Args:
        module: Of layers that end with a dense one called `head`.
        image_shape: Height, width and channels of an image.
        key: Random key; equal keys give equal parameters.
        num_features: That the last layer reads.
        num_classes: Of the last layer.
        deviation: Standard deviation of a kernel, by its shape.

    Returns:
        Parameters and running statistics, float32 trees; the second is an empty dict
        where the module has none.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(module.init, key, images)
    leaves = jax.tree.leaves(shapes["params"])
    normal_key, uniform_key = jax.random.split(key)
    normal = jax.random.normal(normal_key, (sum(leaf.size for leaf in leaves),))
    uniform = jax.random.uniform(
        uniform_key, (num_features + 1, num_classes), minval=-1.0
    )
    bound = num_features**-0.5
    start = 0

    def draw(path, leaf):
        nonlocal start
        layer, name = path[-2].key, path[-1].key
        if layer == "head":
            return bound * (uniform[:-1] if name == "kernel" else uniform[-1])
        if name != "kernel":
            return jnp.full(leaf.shape, float(name in ("scale", "var")), leaf.dtype)
        values = normal[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
        return values * deviation(leaf.shape)

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return drawn["params"], drawn.get("batch_stats", {})


def he_deviation(shape: tuple[int, ...]) -> float:
    """Return the standard deviation of a convolution's kernel by its fan-out.

    Args:
        shape: Two sides, channels read and channels given.

    Source:
        He et al. (2015), "Delving Deep into Rectifiers", equation 14.
    """
    side, _, _, channels = shape
    return (2.0 / (side * side * channels)) ** 0.5


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
