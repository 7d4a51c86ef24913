"""The residual network: linen inside, plain functions outside.

`init` and `apply` know only a `ResNetSpec` and trees of arrays; `bind` closes over the
running statistics and gives the `apply_fn(params, images)` that every kernel takes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key

from dpet_jax.models.conv import convolution
from dpet_jax.models.spec import ResNetSpec, block_stride, has_projection

Params = Any  # a nested dict of arrays


class Outputs(NamedTuple):
    """What one forward pass gives.

    Attributes:
        logits: Unnormalised log-probabilities, float32 whatever the compute dtype.
        features: Penultimate features, after global average pooling, float32.
    """

    logits: Float32[Array, "b k"]
    features: Float32[Array, "b d"]


class _Conv(nn.Module):
    channels: int
    side: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            (self.side, self.side, x.shape[-1], self.channels),
            jnp.float32,
        )
        return convolution(x, kernel.astype(self.dtype), self.stride)


class _Norm(nn.Module):
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        # flax keeps mean and variance in float32 whatever the compute dtype
        return nn.BatchNorm(
            use_running_average=not self.train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            name="norm",
        )(x)


class _Block(nn.Module):
    channels: int
    stride: int
    projection: bool
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        y = _Conv(self.channels, 3, self.stride, self.dtype, name="conv1")(x)
        y = nn.relu(_Norm(self.train, self.dtype, name="norm1")(y))
        y = _Conv(self.channels, 3, 1, self.dtype, name="conv2")(y)
        y = _Norm(self.train, self.dtype, name="norm2")(y)
        if self.projection:
            x = _Conv(self.channels, 1, self.stride, self.dtype, name="shortcut")(x)
            x = _Norm(self.train, self.dtype, name="shortcut_norm")(x)
        return nn.relu(x + y)


class _ResNet(nn.Module):
    spec: ResNetSpec
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = x.astype(self.dtype)
        x = _Conv(self.spec.stem, 3, 1, self.dtype, name="stem")(x)
        x = nn.relu(_Norm(self.train, self.dtype, name="stem_norm")(x))
        incoming = self.spec.stem
        shape = zip(self.spec.channels, self.spec.blocks, strict=True)
        for stage, (channels, blocks) in enumerate(shape):
            for block in range(blocks):
                x = _Block(
                    channels,
                    block_stride(stage, block),
                    has_projection(stage, block, incoming, channels),
                    self.train,
                    self.dtype,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x)
                incoming = channels
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        bound = self.spec.num_features**-0.5
        logits = nn.Dense(
            self.spec.num_classes,
            kernel_init=_uniform(bound),
            bias_init=_uniform(bound),
            name="head",
        )(features)
        return Outputs(logits, features)


def _uniform(bound: float) -> nn.initializers.Initializer:
    def draw(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def init(spec: ResNetSpec, key: Key[Array, ""]) -> tuple[Params, Params]:
    """Draw parameters: He-normal kernels, unit normalisation, uniform last layer.

    Args:
        spec: Shape of the network.
        key: Random key; equal keys give equal parameters.

    Returns:
        Parameters and running statistics, float32 trees.

    Source:
        He et al. (2015), "Delving Deep into Rectifiers", equation 14 (fan-out form).
    """
    # no parameter depends on the image size
    images = jnp.zeros((1, 8, 8, spec.in_channels))
    variables = _ResNet(spec, train=False, dtype=jnp.float32).init(key, images)
    return variables["params"], variables["batch_stats"]


def apply(
    spec: ResNetSpec,
    params: Params,
    batch_stats: Params,
    images: Float[Array, "b h w c"],
    *,
    dtype: jnp.dtype | type = jnp.float32,
) -> Outputs:
    """Run the network with its running statistics (evaluation mode)."""
    variables = {"params": params, "batch_stats": batch_stats}
    return _ResNet(spec, train=False, dtype=dtype).apply(variables, images)


def apply_train(
    spec: ResNetSpec,
    params: Params,
    batch_stats: Params,
    images: Float[Array, "b h w c"],
    *,
    dtype: jnp.dtype | type = jnp.float32,
) -> tuple[Outputs, Params]:
    """Run the network with the batch's statistics; also return the running ones."""
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, updates = _ResNet(spec, train=True, dtype=dtype).apply(
        variables, images, mutable=["batch_stats"]
    )
    return outputs, updates["batch_stats"]


def bind(
    spec: ResNetSpec, batch_stats: Params
) -> Callable[[Params, Float[Array, "b h w c"]], Float32[Array, "b k"]]:
    """Close over the running statistics and return `apply_fn(params, images)`."""

    def apply_fn(params, images):
        return apply(spec, params, batch_stats, images).logits

    return apply_fn
