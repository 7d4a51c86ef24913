"""The residual network: linen inside, plain functions outside.

`init` and `apply` know only a `ResNetSpec` and trees of arrays; `bind` closes over the
running statistics and gives the `apply_fn(params, images)` that every kernel takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key

from dpet_jax.models.conv import convolution, native_convolution
from dpet_jax.models.spec import Block, ResNetSpec, residual_blocks

Params = Any  # a nested dict of arrays
Convolve = Callable[[Any, Any, int], Any]
Layer = Callable[[str, Any, int, int], Any]

#: The normalisation that follows each convolution.
NORMS = {
    "stem": "stem_norm",
    "conv1": "norm1",
    "conv2": "norm2",
    "shortcut": "shortcut_norm",
}


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
    convolve: Convolve

    @nn.compact
    def __call__(self, x):
        kernel = self.param(
            "kernel",
            nn.initializers.zeros,  # `init` draws
            (self.side, self.side, x.shape[-1], self.channels),
            jnp.float32,
        )
        return self.convolve(x, kernel.astype(self.dtype), self.stride)


class _Norm(nn.Module):
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        # flax keeps mean and variance in float32 whatever the compute dtype
        norm = nn.BatchNorm(
            use_running_average=not self.train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            name="norm",
        )
        # and subtracts them from bfloat16 by implicit promotion
        with jax.numpy_dtype_promotion("standard"):
            return norm(x)


def residual(layer: Layer, x: Any, block: Block) -> Any:
    """Wire one residual block.

    Args:
        layer: `layer(name, x, side, stride)` convolves and normalises; it is called for
            "conv1", "conv2" and, where the block projects, "shortcut".
        x: Feature maps.
        block: Shape of the block.
    """
    y = nn.relu(layer("conv1", x, 3, block.stride))
    y = layer("conv2", y, 3, 1)
    if block.projection:
        x = layer("shortcut", x, 1, block.stride)
    return nn.relu(x + y)


class _Block(nn.Module):
    block: Block
    train: bool
    dtype: Any
    convolve: Convolve

    @nn.compact
    def __call__(self, x):
        def layer(name, x, side, stride):
            channels = self.block.channels
            x = _Conv(channels, side, stride, self.dtype, self.convolve, name=name)(x)
            return _Norm(self.train, self.dtype, name=NORMS[name])(x)

        return residual(layer, x, self.block)


class _ResNet(nn.Module):
    spec: ResNetSpec
    train: bool
    dtype: Any
    convolve: Convolve

    @nn.compact
    def __call__(self, x):
        x = x.astype(self.dtype)
        x = _Conv(self.spec.stem, 3, 1, self.dtype, self.convolve, name="stem")(x)
        x = nn.relu(_Norm(self.train, self.dtype, name=NORMS["stem"])(x))
        for block in residual_blocks(self.spec):
            x = _Block(block, self.train, self.dtype, self.convolve, name=block.name)(x)
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = nn.Dense(self.spec.num_classes, name="head")(features)
        return Outputs(logits, features)


def init(spec: ResNetSpec, key: Key[Array, ""]) -> tuple[Params, Params]:
    """Draw parameters: He-normal kernels, unit normalisation, uniform last layer.

    All kernels are slices of one draw. A draw for each would make a program of
    thousands of operations, which takes longer to compile than a short run to train.

    Args:
        spec: Shape of the network.
        key: Random key; equal keys give equal parameters.

    Returns:
        Parameters and running statistics, float32 trees.

    Source:
        He et al. (2015), "Delving Deep into Rectifiers", equation 14 (fan-out form).
    """
    # no parameter depends on the image size
    images = jax.ShapeDtypeStruct((1, 8, 8, spec.in_channels), jnp.float32)
    network = _ResNet(spec, False, jnp.float32, convolution)
    shapes = jax.eval_shape(network.init, key, images)
    leaves = jax.tree.leaves(shapes["params"])
    normal_key, uniform_key = jax.random.split(key)
    normal = jax.random.normal(normal_key, (sum(leaf.size for leaf in leaves),))
    uniform = jax.random.uniform(
        uniform_key, (spec.num_features + 1, spec.num_classes), minval=-1.0
    )
    bound = spec.num_features**-0.5
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
        side, _, _, channels = leaf.shape
        return values * (2.0 / (side * side * channels)) ** 0.5

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return drawn["params"], drawn["batch_stats"]


def apply(
    spec: ResNetSpec,
    params: Params,
    batch_stats: Params,
    images: Float[Array, "b h w c"],
    *,
    dtype: str = "float32",
    convolve: Convolve = convolution,
) -> Outputs:
    """Run the network with its running statistics (evaluation mode).

    Args:
        spec: Shape of the network.
        params: Parameters of `init`.
        batch_stats: Running statistics of the normalisation.
        images: A batch, normalised.
        dtype: Name of the dtype of convolutions.
        convolve: `convolve(images, kernel, stride)`; the default is what is fast on the
            platform.

    Returns:
        Logits and features.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    network = _ResNet(spec, False, jnp.dtype(dtype), convolve)
    return cast(Outputs, network.apply(variables, images))


def apply_train(
    spec: ResNetSpec,
    params: Params,
    batch_stats: Params,
    images: Float[Array, "b h w c"],
    *,
    dtype: str = "float32",
    convolve: Convolve = convolution,
) -> tuple[Outputs, Params]:
    """Run the network with the batch's statistics; also return the running ones.

    The arguments are those of `apply`.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    network = _ResNet(spec, True, jnp.dtype(dtype), convolve)
    outputs, updates = network.apply(variables, images, mutable=["batch_stats"])
    return outputs, updates["batch_stats"]


@dataclass(frozen=True, eq=False)
class Bound:
    """A network in evaluation mode as the `apply_fn(params, images)` of every kernel.

    Attributes:
        spec: Shape of the network.
        batch_stats: Running statistics, closed over.
        convolve: The form of its convolutions.
    """

    spec: ResNetSpec
    batch_stats: Params
    convolve: Convolve = convolution

    def __call__(
        self, params: Params, images: Float[Array, "b h w c"]
    ) -> Float32[Array, "b k"]:
        """Return the logits."""
        return apply(
            self.spec, params, self.batch_stats, images, convolve=self.convolve
        ).logits

    @property
    def in_primitives(self) -> "Bound":
        """The same function in JAX's own primitives, for those who read its jaxpr."""
        return replace(self, convolve=native_convolution)


def bind(spec: ResNetSpec, batch_stats: Params) -> Bound:
    """Close over the running statistics and return `apply_fn(params, images)`."""
    return Bound(spec, batch_stats)
