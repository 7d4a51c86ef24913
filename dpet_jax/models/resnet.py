"""The residual network of basic or bottleneck blocks, of any width and depth."""

from dataclasses import dataclass, replace
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dpet_jax.models.blocks import (
    EXPANSION,
    NORMS,
    Block,
    BlockKind,
    StemKind,
    residual,
    residual_blocks,
)
from dpet_jax.models.blocks import stem as wired_stem
from dpet_jax.models.conv import convolution, native_convolution
from dpet_jax.models.folded import apply_folded, fold
from dpet_jax.models.modules import (
    Conv,
    Convolve,
    Norm,
    draw_parameters,
    he_deviation,
)
from dpet_jax.models.network import ChannelGroup, Network, Outputs, Params


@dataclass(frozen=True)
class ResidualNetwork(Network):
    """A residual network with explicit channels and blocks a stage.

    Attributes:
        stem: Channels of the stem convolution.
        channels: Channels of each stage; all stages but the first halve the image. The
            output of a bottleneck has four times as many.
        blocks: Blocks of each stage.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        stem_kind: "cifar" begins with a 3x3 convolution; "imagenet" with a 7x7 one of
            stride 2 and a 3x3 maximum of stride 2.
        inner: Channels between the convolutions of each block, from the first block to
            the last; empty where none was pruned, when they are the stage's.
        block_kind: "basic" blocks are two 3x3 convolutions; "bottleneck" ones a 3x3
            between two 1x1.
    """

    stem: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    num_classes: int
    in_channels: int
    stem_kind: StemKind = "cifar"
    inner: tuple[int, ...] = ()
    block_kind: BlockKind = "basic"

    def __post_init__(self) -> None:
        """Refuse a shape that is no network."""
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(
                f"channels {self.channels} and blocks {self.blocks} need one entry "
                "a stage"
            )
        if min(self.stem, *self.channels, *self.blocks, self.in_channels) < 1:
            raise ValueError(f"every count must be at least 1: {self}")
        wanted = sum(len(block.inner) for block in self.shape_of_blocks)
        if self.inner and (len(self.inner) != wanted or min(self.inner) < 1):
            raise ValueError(
                f"inner {self.inner} needs {wanted} counts, at least 1 each, for "
                f"{sum(self.blocks)} {self.block_kind} blocks"
            )
        if self.num_classes < 2:
            raise ValueError(f"need at least 2 classes, got {self.num_classes}")

    @property
    def label(self) -> str:
        """Its name in the literature, such as "ResNet-18"."""
        return f"ResNet-{self.depth}"

    @property
    def depth(self) -> int:
        """Weight layers as the literature counts them (ResNet-18 has 18)."""
        blocks = self.shape_of_blocks
        return 2 + sum(len(block.inner) + 1 for block in blocks)

    @property
    def num_features(self) -> int:
        """Width d of the penultimate layer."""
        return EXPANSION[self.block_kind] * self.channels[-1]

    @property
    def head(self) -> str:
        """Name of the last layer's parameters."""
        return "head"

    def with_classes(self, num_classes: int) -> "ResidualNetwork":
        """Return the same network for another number of classes."""
        return replace(self, num_classes=num_classes)

    @property
    def shape_of_blocks(self) -> tuple[Block, ...]:
        """Its blocks from the first to the last."""
        shape = (self.stem, self.channels, self.blocks, self.inner, self.block_kind)
        return tuple(residual_blocks(*shape))

    @property
    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """The channels inside its blocks; the sums around them keep their shape."""
        return tuple(
            _group(block, number)
            for block in self.shape_of_blocks
            for number in range(1, len(block.inner) + 1)
        )

    def with_channels(self, widths: tuple[int, ...]) -> "ResidualNetwork":
        """Return the network with other counts of channels inside its blocks."""
        unpruned = replace(self, inner=())
        full = tuple(w for block in unpruned.shape_of_blocks for w in block.inner)
        return unpruned if widths == full else replace(self, inner=widths)

    def init(self, key: Key[Array, ""]) -> tuple[Params, Params]:
        """Draw parameters: He-normal kernels, unit normalisation, uniform last layer.

        Args:
            key: Random key; equal keys give equal parameters.

        Returns:
            Parameters and running statistics, float32 trees.

        Source:
            He et al. (2015), "Delving Deep into Rectifiers", equation 14 (fan-out
            form).
        """
        # no parameter depends on the image size
        return draw_parameters(
            _ResNet(self, False, jnp.float32, convolution),
            (8, 8, self.in_channels),
            key,
            self.num_features,
            self.num_classes,
            he_deviation,
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
            dtype: Name of the dtype of convolutions.
            convolve: `convolve(images, kernel, stride)`; the default is what is fast on
                the platform.
        """
        variables = {"params": params, "batch_stats": stats}
        module = _ResNet(self, False, jnp.dtype(dtype), convolve)
        return cast(Outputs, module.apply(variables, images))

    def apply_train(
        self,
        key: Key[Array, ""],
        params: Params,
        stats: Params,
        images: Float[Array, "b h w c"],
        *,
        dtype: str = "float32",
        convolve: Convolve = convolution,
    ) -> tuple[Outputs, Params]:
        """Run the network with the batch's statistics; also return the running ones.

        The arguments are those of `apply`, and a key that is not used.
        """
        del key
        variables = {"params": params, "batch_stats": stats}
        module = _ResNet(self, True, jnp.dtype(dtype), convolve)
        outputs, updates = module.apply(variables, images, mutable=["batch_stats"])
        return outputs, updates["batch_stats"]

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
        """Fold the running statistics into kernels and biases."""
        return fold(params, stats)

    def apply_folded(
        self, folded: Params, images: Float[Array, "b h w c"], *, dtype: str = "float32"
    ) -> Outputs:
        """Run the folded network; see `Network.apply_folded`."""
        return apply_folded(
            self.shape_of_blocks,
            folded,
            images,
            dtype=dtype,
            stem_kind=self.stem_kind,
        )


def _group(block: Block, number: int) -> ChannelGroup:
    """Return the channels that a convolution inside a block gives to the next one."""
    conv, after = f"conv{number}", f"conv{number + 1}"
    norm = (block.name, NORMS[conv])
    return ChannelGroup(
        # a basic block has one group, which is called like it
        block.name if len(block.inner) == 1 else f"{block.name}/{conv}",
        block.inner[number - 1],
        scale=(*norm, "norm", "scale"),
        bias=(*norm, "norm", "bias"),
        axes={(block.name, conv): 3, norm: 0, (block.name, after): 2},
    )


class _Block(nn.Module):
    block: Block
    train: bool
    dtype: Any
    convolve: Convolve

    @nn.compact
    def __call__(self, x):
        def layer(name, x, side, stride):
            channels = self.block.widths[name]
            x = Conv(channels, side, stride, self.dtype, self.convolve, name=name)(x)
            return Norm(self.train, self.dtype, name=NORMS[name])(x)

        return residual(layer, x, self.block)


class _ResNet(nn.Module):
    network: ResidualNetwork
    train: bool
    dtype: Any
    convolve: Convolve

    @nn.compact
    def __call__(self, x):
        network = self.network

        def layer(name, x, side, stride):
            channels = network.stem
            x = Conv(channels, side, stride, self.dtype, self.convolve, name=name)(x)
            return Norm(self.train, self.dtype, name=NORMS[name])(x)

        x = wired_stem(layer, x.astype(self.dtype), network.stem_kind)
        for block in network.shape_of_blocks:
            x = _Block(block, self.train, self.dtype, self.convolve, name=block.name)(x)
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = nn.Dense(network.num_classes, name="head")(features)
        return Outputs(logits, features)
