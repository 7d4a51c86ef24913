"""A chain of convolutions and dense layers, of any depth, with and without ReLU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dpet_jax.models.conv import convolution, native_convolution
from dpet_jax.models.modules import (
    Conv,
    Convolve,
    Norm,
    apply_folded_conv,
    draw_parameters,
    fold_conv,
    he_deviation,
)
from dpet_jax.models.network import ChannelGroup, Network, Outputs, Params


class _Names(NamedTuple):
    """What the layers of a stage of the chain are called."""

    conv: str
    norm: str


@dataclass(frozen=True)
class ChainNetwork(Network):
    """Convolutions, each normalised and pooled, then dense layers.

    Every convolution is 3x3, its batch normalisation and a ReLU follow, then the
    maximum of 2x2 pixels, which leaves out an odd last row or column. All pixels that
    remain go into the first dense layer.

    Attributes:
        convolutions: Channels of each convolution; none for a network of dense layers.
        dense: Widths of the dense layers before the last.
        num_classes: Outputs of the last layer.
        image_shape: Height, width and channels of the images.
        relu: Whether a ReLU follows each normalisation.
        dense_relu: Whether one follows each dense layer but the last.
    """

    convolutions: tuple[int, ...]
    dense: tuple[int, ...]
    num_classes: int
    image_shape: tuple[int, int, int]
    relu: bool = True
    dense_relu: bool = False

    def __post_init__(self) -> None:
        """Refuse a shape that is no network."""
        if min(*self.convolutions, *self.dense, *self.image_shape) < 1:
            raise ValueError(f"every count must be at least 1: {self}")
        if self.num_classes < 2:
            raise ValueError(f"need at least 2 classes, got {self.num_classes}")
        if min(self._pooled) < 1:
            raise ValueError(
                f"{len(self.convolutions)} poolings leave nothing of images of "
                f"{self.image_shape[0]} x {self.image_shape[1]}"
            )

    @property
    def label(self) -> str:
        """Its kind, with how many convolutions and dense layers it has."""
        dense = len(self.dense) + 1
        if not self.convolutions:
            return f"dense network of {dense}"
        return f"CNN {len(self.convolutions)}+{dense}"

    @property
    def in_channels(self) -> int:  # type: ignore[override]
        """Channels of the images."""
        return self.image_shape[2]

    @property
    def _pooled(self) -> tuple[int, int]:
        """Height and width of what the first dense layer reads."""
        height, width, _ = self.image_shape
        halvings = len(self.convolutions)
        return height >> halvings, width >> halvings

    @property
    def num_features(self) -> int:
        """Width d of what the last layer reads."""
        height, width = self._pooled
        flat = height * width * (*self.image_shape[2:], *self.convolutions)[-1]
        return (flat, *self.dense)[-1]

    @property
    def head(self) -> str:
        """Name of the last layer's parameters."""
        return "head"

    def with_classes(self, num_classes: int) -> "ChainNetwork":
        """Return the same network for another number of classes."""
        return replace(self, num_classes=num_classes)

    @property
    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """The channels of every convolution that another one reads.

        Those of the last one lie among the pixels that a dense layer reads.
        """
        names = [*self._stages]
        return tuple(
            ChannelGroup(
                here.conv,
                size,
                scale=(here.norm, "norm", "scale"),
                bias=(here.norm, "norm", "bias"),
                axes={(here.conv,): 3, (here.norm,): 0, (after.conv,): 2},
            )
            for here, after, size in zip(
                names, names[1:], self.convolutions, strict=False
            )
        )

    def with_channels(self, widths: tuple[int, ...]) -> "ChainNetwork":
        """Return the network with other counts of channels, but for the last one's."""
        if len(widths) != len(self.channel_groups):
            return cast(ChainNetwork, super().with_channels(widths))
        return replace(self, convolutions=(*widths, *self.convolutions[-1:]))

    def init(self, key: Key[Array, ""]) -> tuple[Params, Params]:
        """Draw parameters: normal kernels, unit normalisation, uniform last layer.

        Kernels of convolutions and those before a ReLU are He-normal, the others
        LeCun-normal, so that a deep network without activations keeps the size of what
        goes through it.

        Source:
            He et al. (2015), "Delving Deep into Rectifiers", equation 14 (fan-out
            form); LeCun et al. (1998), "Efficient BackProp", equation 16.
        """

        def deviation(shape: tuple[int, ...]) -> float:
            if len(shape) == 4:
                return he_deviation(shape)
            return ((2.0 if self.dense_relu else 1.0) / shape[0]) ** 0.5

        return draw_parameters(
            _Chain(self, False, jnp.float32, convolution),
            self.image_shape,
            key,
            self.num_features,
            self.num_classes,
            deviation,
        )

    def apply(
        self,
        params: Params,
        stats: Params,
        images: Float[Array, "b h w c"],
        *,
        dtype: str = "float32",
        convolve: Convolve = convolution,
    ) -> Outputs:
        """Run the network in evaluation mode; see `Network.apply`.

        Args:
            params: Parameters of `init`.
            stats: Running statistics of the normalisation.
            images: A batch, normalised.
            dtype: Name of the dtype of convolutions and dense layers but the last.
            convolve: `convolve(images, kernel, stride)`; the default is what is fast on
                the platform.
        """
        variables = {"params": params, "batch_stats": stats}
        module = _Chain(self, False, jnp.dtype(dtype), convolve)
        return cast(Outputs, module.apply(variables, images))

    def apply_train(
        self,
        key: Key[Array, ""],
        params: Params,
        stats: Params,
        images: Float[Array, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> tuple[Outputs, Params]:
        """Run the network with the batch's statistics; also return the running ones.

        The key is not used.
        """
        del key
        variables = {"params": params, "batch_stats": stats}
        module = _Chain(self, True, jnp.dtype(dtype), convolution)
        outputs, updates = module.apply(variables, images, mutable=["batch_stats"])
        return outputs, updates.get("batch_stats", {})

    def apply_in_primitives(
        self,
        params: Params,
        stats: Params,
        images: Float[Array, "b h w c"],
        *,
        dtype: str = "float32",
    ) -> Outputs:
        """Run `apply` with XLA's own convolutions."""
        return self.apply(
            params, stats, images, dtype=dtype, convolve=native_convolution
        )

    def fold(self, params: Params, stats: Params) -> Params:
        """Fold the running statistics into the convolutions' kernels and biases."""
        folded = {name: layer for name, layer in params.items() if "kernel" in layer}
        return folded | {
            conv: fold_conv(params, stats, conv, norm) for conv, norm in self._stages
        }

    def apply_folded(
        self, folded: Params, images: Float[Array, "b h w c"], *, dtype: str = "float32"
    ) -> Outputs:
        """Run the folded network; see `Network.apply_folded`."""

        def normalised(names, x, channels):
            del channels  # those of the kernel
            return apply_folded_conv(folded[names.conv], x, 1, dtype)

        def dense(name, x, width):
            del width
            layer = folded[name]
            return x @ layer["kernel"].astype(x.dtype) + layer["bias"][None].astype(
                x.dtype
            )

        return self._wired(normalised, dense, images, jnp.dtype(dtype))

    @property
    def _stages(self) -> Iterator[_Names]:
        for number, _ in enumerate(self.convolutions, 1):
            yield _Names(f"conv{number}", f"norm{number}")

    def _wired(
        self,
        normalised: Callable[[_Names, Any, int], Any],
        dense: Callable[[str, Any, int], Any],
        images: Any,
        dtype: Any,
    ) -> Outputs:
        """Wire the layers, however they are computed.

        Args:
            normalised: `normalised(names, x, channels)` convolves and normalises.
            dense: `dense(name, x, width)`, in the dtype of x.
            images: A batch.
            dtype: Of all layers but the last.
        """
        x = images.astype(dtype)
        for names, channels in zip(self._stages, self.convolutions, strict=True):
            x = normalised(names, x, channels)
            x = halved(nn.relu(x) if self.relu else x)
        x = x.reshape(x.shape[0], -1)
        for number, width in enumerate(self.dense, 1):
            x = dense(f"dense{number}", x, width)
            x = nn.relu(x) if self.dense_relu else x
        features = x.astype(jnp.float32)
        return Outputs(dense("head", features, self.num_classes), features)


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Return the maximum of every 2x2 pixels; an odd last row or column is left out.

    Equal maxima share the gradient. XLA's own pooling is ten times slower backward on a
    CPU.
    """
    batch, height, width, channels = x.shape
    with jax.named_scope("max_pool"):
        even = x[:, : height // 2 * 2, : width // 2 * 2]
        blocks = even.reshape(batch, height // 2, 2, width // 2, 2, channels)
        return jnp.max(blocks, axis=(2, 4))


class _Chain(nn.Module):
    network: ChainNetwork
    train: bool
    dtype: Any
    convolve: Convolve

    @nn.compact
    def __call__(self, images):
        def normalised(names, x, channels):
            x = Conv(channels, 3, 1, self.dtype, self.convolve, name=names.conv)(x)
            return Norm(self.train, self.dtype, name=names.norm)(x)

        def dense(name, x, width):
            return nn.Dense(width, dtype=x.dtype, name=name)(x)

        return self.network._wired(normalised, dense, images, self.dtype)
