"""The networks that a config can name, from their keys to their shape."""

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from dpet_jax.errors import UserError
from dpet_jax.models.network import ModelSection, Network
from dpet_jax.section import LARGEST_COUNT, Count, Depth, Multiplier, Number

#: Least side of pictures for which "auto" is the stem of ImageNet; the last maps are 3
#: pixels a side then.
_LARGE = 96


class _Residual(ModelSection):
    """What the residual families share; a channel count of theirs is a multiple."""

    stem_kind: Literal["cifar", "imagenet", "auto"] = Field(
        "cifar",
        description="imagenet begins with a 7x7 convolution of stride 2 and a maximum, "
        "as published weights do; auto: imagenet from 96 pixels a side on",
    )

    def _network(
        self,
        stem: int,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        num_classes: int,
        image_shape: tuple[int, int, int],
        block_kind: Literal["basic", "bottleneck"] = "basic",
    ) -> Network:
        # brings Flax, for which reading a config need not wait
        from dpet_jax.models.resnet import ResidualNetwork

        begin = self.stem_kind
        if begin == "auto":
            begin = "imagenet" if min(image_shape[:2]) >= _LARGE else "cifar"
        return ResidualNetwork(
            stem,
            channels,
            blocks,
            num_classes,
            image_shape[2],
            begin,
            block_kind=block_kind,
        )

    def narrower(self, network: Any, share: float) -> Network:
        """Return a residual network with a share of another's channels, as deep.

        Args:
            network: One that this section built.
            share: Of its channels, in (0, 1]; they are rounded as the family's, and
                never more than the network's own.

        Raises:
            ValueError: If so many channels cannot be made fewer.
        """
        multiple = getattr(self, "channel_multiple", 8)

        def scaled(base: int) -> int:
            return min(base, scaled_channels(base, share, multiple))

        narrow = replace(
            network,
            stem=scaled(network.stem),
            channels=tuple(map(scaled, network.channels)),
        )
        if share < 1 and narrow == network:
            raise ValueError(
                f"leaves the model's channels {list(network.channels)} as they are, "
                "which are at least 8 and rounded to multiples of "
                f"{multiple}; choose a smaller one or a wider model"
            )
        return narrow

    def describe(self, network: Network) -> str:
        """Return the name of the network, and its width where that is not 1."""
        width = getattr(self, "width_multiplier", 1.0)
        return network.label + (f" width {width:g}" if width != 1 else "")


class _FourStages(_Residual):
    """What the families of ImageNet share: 64-128-256-512, of any width and depth."""

    scales: ClassVar[tuple[float, ...]] = (0.125, 0.25, 0.5, 0.75, 1.0)
    #: Blocks of each stage at multiplier 1, and what they are made of.
    blocks_of_stages: ClassVar[tuple[int, ...]]
    block_kind: ClassVar[Literal["basic", "bottleneck"]]

    width_multiplier: Multiplier = Field(1.0, description="of the channels")
    depth_multiplier: Multiplier = Field(1.0, description="of the blocks in a stage")
    channel_multiple: Count = Field(
        8, description="channels are rounded to multiples of this"
    )

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        """Shape the network for a data set."""
        channels = tuple(
            scaled_channels(base, self.width_multiplier, self.channel_multiple)
            for base in (64, 128, 256, 512)
        )
        blocks = tuple(
            scaled_blocks(count, self.depth_multiplier)
            for count in self.blocks_of_stages
        )
        shape = (channels[0], channels, blocks)
        return self._network(*shape, num_classes, image_shape, self.block_kind)

    def scaled(self, scale: float) -> "_FourStages":
        """Return the section of another width, as deep."""
        return self.model_copy(update={"width_multiplier": scale})


class ResNet18(_FourStages):
    """ResNet-18: 64-128-256-512, two basic blocks a stage.

    By default with the 3x3 stem of CIFAR and no max-pool: 11,173,962 parameters at 10
    classes and multipliers 1. With `stem_kind: imagenet` and 1,000 classes it is that
    of torchvision: 11,689,512 parameters. The width multiplier scales the stem too.

    Source:
        He et al. (2016), "Deep Residual Learning for Image Recognition"; the variant
        with a 3x3 stem that CIFAR experiments use.
    """

    blocks_of_stages: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
    block_kind: ClassVar[Literal["basic", "bottleneck"]] = "basic"

    kind: Literal["resnet18"] = "resnet18"


class ResNet50(_FourStages):
    """ResNet-50: bottleneck blocks, 3-4-6-3 a stage, that widen channels four times.

    With the stem of ImageNet and 1,000 classes it is that of torchvision, version 1.5:
    25,557,032 parameters, 4.09e9 multiply-adds at 224 pixels. The width multiplier
    scales stem and blocks alike.

    Source:
        He et al. (2016), "Deep Residual Learning for Image Recognition", table 1; the
        stride in the 3x3 convolution as in torchvision.
    """

    blocks_of_stages: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
    block_kind: ClassVar[Literal["basic", "bottleneck"]] = "bottleneck"

    kind: Literal["resnet50"] = "resnet50"
    stem_kind: Literal["cifar", "imagenet", "auto"] = Field(
        "auto",
        description="imagenet begins with a 7x7 convolution of stride 2 and a maximum, "
        "as published weights do; auto: imagenet from 96 pixels a side on",
    )


class ResNet20(_Residual):
    """ResNet-20 family of the tight-budget paper: stem 16, 16-32-64, three blocks.

    With both multipliers equal this is the tandem scaling of that paper: floored counts
    make depth change only at 4/3, so that scales 1.0 to 1.3 differ in width alone. The
    stem is never scaled.

    Source:
        He et al. (2016), section 4.2, with 1x1 projection shortcuts; scaling as in the
        code of "tight-budget pruning and scaling".
    """

    scales: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 1.0, 1.4)

    kind: Literal["resnet20"] = "resnet20"
    width_multiplier: Multiplier = Field(1.0, description="of the channels")
    depth_multiplier: Multiplier = Field(1.0, description="of the blocks in a stage")
    scale: Multiplier | None = Field(None, description="width and depth in tandem")
    channel_multiple: Count = Field(
        1, description="channels are rounded to multiples of this"
    )

    @model_validator(mode="after")
    def _scale_alone(self) -> "ResNet20":
        multipliers = (self.width_multiplier, self.depth_multiplier)
        if self.scale is not None and multipliers != (1.0, 1.0):
            raise ValueError(
                "scale sets width and depth in tandem; leave width_multiplier and "
                "depth_multiplier at 1.0 with it"
            )
        return self

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        """Shape the network for a data set."""
        width = self.scale or self.width_multiplier
        channels = tuple(
            scaled_channels(base, width, self.channel_multiple) for base in (16, 32, 64)
        )
        blocks = (scaled_blocks(3, self.scale or self.depth_multiplier),) * 3
        return self._network(16, channels, blocks, num_classes, image_shape)

    def scaled(self, scale: float) -> "ResNet20":
        """Return the section of another scale, width and depth in tandem."""
        return self.model_copy(
            update={"scale": scale, "width_multiplier": 1.0, "depth_multiplier": 1.0}
        )


class ResNet(_Residual):
    """A residual network with explicit channels and blocks a stage.

    ResNet-34 is `stem: 64, channels: [64, 128, 256, 512], blocks: [3, 4, 6, 3]`; with
    bottlenecks and `blocks: [3, 4, 23, 3]` it is ResNet-101.
    """

    kind: Literal["resnet"] = "resnet"
    stem: Count = Field(description="channels of the first convolution")
    channels: tuple[Count, ...] = Field(
        min_length=1, max_length=16, description="of each stage"
    )
    blocks: tuple[Depth, ...] = Field(
        min_length=1, description="of each stage, two or three convolutions each"
    )
    block_kind: Literal["basic", "bottleneck"] = Field(
        "basic",
        description="basic: two 3x3 convolutions; bottleneck: 1x1, 3x3, 1x1, of which "
        "the last gives four times the stage's channels",
    )

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> "ResNet":
        if len(self.channels) != len(self.blocks):
            raise ValueError(
                f"channels has {len(self.channels)} stages but blocks has "
                f"{len(self.blocks)}; give one entry a stage in both"
            )
        return self

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        """Shape the network for a data set."""
        shape = (self.stem, self.channels, self.blocks)
        return self._network(*shape, num_classes, image_shape, self.block_kind)


class _Chain(ModelSection):
    """What the networks of the energy-practices study share."""

    scales: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0, 2.0)

    n_linear: Depth = Field(3, description="dense layers, the last one included")
    width_multiplier: Multiplier = Field(
        1.0, description="of all channels and widths, rounded, at least 1"
    )

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        """Shape the network for a data set."""
        # brings Flax, for which reading a config need not wait
        from dpet_jax.models.cnn import ChainNetwork

        return ChainNetwork(
            tuple(map(self._scaled, self._channels(image_shape))),
            tuple(map(self._scaled, self._widths(image_shape))),
            num_classes,
            image_shape,
            **self._activations(),
        )

    def _channels(self, image_shape: tuple[int, int, int]) -> list[int]:
        """Return the channels of each convolution at multiplier 1."""
        del image_shape
        return []

    def _widths(self, image_shape: tuple[int, int, int]) -> list[int]:
        """Return the widths of the dense layers but the last at multiplier 1."""
        return halving_widths(image_shape, self.n_linear)

    @abstractmethod
    def _activations(self) -> dict[str, bool]:
        """Return after which layers of a `ChainNetwork` a ReLU follows."""

    def _scaled(self, width: int) -> int:
        return max(1, round(width * self.width_multiplier))

    def scaled(self, scale: float) -> "_Chain":
        """Return the section of another width, as deep."""
        return self.model_copy(update={"width_multiplier": scale})

    def narrower(self, network: Any, share: float) -> Network:
        """Return a network with a share of another's channels and widths, as deep.

        Args:
            network: One that this section built.
            share: Of its width, in (0, 1].

        Raises:
            ValueError: If so few cannot be made fewer.
        """
        shapes = network.convolutions, network.dense
        slim = [tuple(max(1, round(share * one)) for one in each) for each in shapes]
        narrow = replace(network, convolutions=slim[0], dense=slim[1])
        if share < 1 and narrow == network:
            raise ValueError(
                f"leaves the model's widths {[*shapes[0], *shapes[1]]} as they are; "
                "choose a smaller one or a wider model"
            )
        return cast(Network, narrow)

    def describe(self, network: Network) -> str:
        """Return its kind and size, and its width where that is not 1."""
        width = self.width_multiplier
        return self._named(network) + (f" width {width:g}" if width != 1 else "")

    def _named(self, network: Any) -> str:
        relu = ", ReLU" if network.dense_relu else ""
        return f"{self.kind} of {self.n_linear} dense layers{relu}"


class Cnn(_Chain):
    """CNN of the energy-practices study: convolutions, then dense layers that halve.

    SimpleCNN of that study; without ReLU its SimpleCNN2. Each 3x3 convolution has three
    times the channels of what it reads, and is followed by batch normalisation, ReLU
    and a maximum over 2x2 pixels. Widths of the dense layers follow the image: half of
    its values, a quarter, and so on; there is no activation between them. Convolutions
    have no biases, for the normalisation takes them out.

    Source:
        Yarally et al. (2023), "Uncovering Energy-Efficient Practices in Deep Learning
        Training: Preliminary Steps Towards Green AI", and its replication package.
    """

    kind: Literal["cnn"] = "cnn"
    n_conv: Annotated[int, Field(ge=1, le=16), Number] = Field(
        2, description="convolutions, each of which halves the image"
    )
    relu: bool = Field(True, description="after each normalisation")
    dense_relu: bool = Field(False, description="after each dense layer but the last")
    base: Count | None = Field(
        None,
        description="channels of the first convolution; null: three times the image's",
    )

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        """Shape the network for a data set.

        Raises:
            UserError: If the images are too small to be halved so often, or the widest
                convolution has more channels than an array can.
        """
        side = min(image_shape[:2])
        most = side.bit_length() - 1
        if self.n_conv > most:
            raise UserError(
                f"model.n_conv: {self.n_conv} halvings leave nothing of images of "
                f"{image_shape[0]} x {image_shape[1]}; choose at most {most}, or a "
                "larger data.image_size"
            )
        widest = self._scaled(max(self._channels(image_shape)))
        if widest > LARGEST_COUNT:
            raise UserError(
                f"model.n_conv: {self.n_conv} convolutions end with {widest:,} "
                "channels, each having three times those before; choose fewer, or a "
                "smaller model.base"
            )
        return super().build(num_classes, image_shape)

    def _channels(self, image_shape: tuple[int, int, int]) -> list[int]:
        base = 3 * image_shape[2] if self.base is None else self.base
        return [base * 3**depth for depth in range(self.n_conv)]

    def _activations(self) -> dict[str, bool]:
        return {"relu": self.relu, "dense_relu": self.dense_relu}

    def _named(self, network: Any) -> str:
        return network.label + ("" if self.relu else " without ReLU")


class Poly(_Chain):
    """Dense layers that halve: DensePolyNN of the energy-practices study.

    Widths are half of the image's values, a quarter, and so on. The study has no
    activation, so that the whole network is a linear map.

    Source:
        As `Cnn`.
    """

    kind: Literal["poly"] = "poly"
    relu: bool = Field(False, description="after each layer but the last")

    def _activations(self) -> dict[str, bool]:
        return {"relu": False, "dense_relu": self.relu}


class Linear(_Chain):
    """Dense layers that shrink evenly: DenseLinearNN of the energy-practices study.

    Widths fall in equal steps from the image's values. The study has no activation, so
    that the whole network is a linear map.

    Source:
        As `Cnn`.
    """

    kind: Literal["linear"] = "linear"
    relu: bool = Field(False, description="after each layer but the last")

    def _widths(self, image_shape: tuple[int, int, int]) -> list[int]:
        return even_widths(image_shape, self.n_linear)

    def _activations(self) -> dict[str, bool]:
        return {"relu": False, "dense_relu": self.relu}


#: What `model.kind` may name without an import path; the first is the default.
MODELS = (ResNet18, ResNet20, ResNet50, ResNet, Cnn, Poly, Linear)


def scaled_channels(base: int, multiplier: float, multiple: int) -> int:
    """Scale a channel count: floored at multiple 1, else rounded to the multiple.

    Tensor cores want multiples of 8; the tight-budget paper's code floors, and never
    goes below 8 channels.
    """
    if multiple == 1:
        return max(8, int(base * multiplier))
    return max(multiple, multiple * round(base * multiplier / multiple))


def scaled_blocks(base: int, multiplier: float) -> int:
    """Scale a block count, floored, at least 1."""
    return max(1, int(base * multiplier))


def halving_widths(image_shape: tuple[int, int, int], layers: int) -> list[int]:
    """Return the study's widths of all dense layers but the last: ever half as many.

    Args:
        image_shape: Height, width and channels of the images.
        layers: Dense layers, the last one included.

    Returns:
        floor(c h w / 2^(i+1)) for i = 0 to layers - 2, at least c.
    """
    values, least = math.prod(image_shape), image_shape[2]
    return [max(values >> depth, least) for depth in range(1, layers)]


def even_widths(image_shape: tuple[int, int, int], layers: int) -> list[int]:
    """Return the study's other widths, which fall in equal steps.

    Args:
        image_shape: Height, width and channels of the images.
        layers: Dense layers, the last one included.

    Returns:
        floor(c h w (1 - (i+1) / layers)) for i = 0 to layers - 2, at least c.
    """
    values, least = math.prod(image_shape), image_shape[2]
    return [max(values * (layers - i) // layers, least) for i in range(1, layers)]
