"""The residual networks that a config can name, from their keys to their shape."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from dpet_jax.models.network import ModelSection, Network
from dpet_jax.section import Count, Depth, Multiplier


class _Residual(ModelSection):
    """What the residual families share; a channel count of theirs is a multiple."""

    stem_kind: Literal["cifar", "imagenet"] = Field(
        "cifar",
        description="imagenet begins with a 7x7 convolution of stride 2 and a maximum, "
        "as published weights do; for large images",
    )

    def _network(
        self,
        stem: int,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> Network:
        # brings Flax, for which reading a config need not wait
        from dpet_jax.models.resnet import ResidualNetwork

        return ResidualNetwork(
            stem, channels, blocks, num_classes, image_shape[2], self.stem_kind
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


class ResNet18(_Residual):
    """CIFAR ResNet-18: 3x3 stem, no max-pool, 64-128-256-512, two blocks a stage.

    11,173,962 parameters at 10 classes and multipliers 1. The width multiplier scales
    the stem too.

    Source:
        He et al. (2016), "Deep Residual Learning for Image Recognition"; the variant
        with a 3x3 stem that CIFAR experiments use.
    """

    scales: ClassVar[tuple[float, ...]] = (0.125, 0.25, 0.5, 0.75, 1.0)

    kind: Literal["resnet18"] = "resnet18"
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
        blocks = (scaled_blocks(2, self.depth_multiplier),) * 4
        return self._network(channels[0], channels, blocks, num_classes, image_shape)

    def scaled(self, scale: float) -> "ResNet18":
        """Return the section of another width, as deep."""
        return self.model_copy(update={"width_multiplier": scale})


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
    """A residual network of basic blocks with explicit channels and blocks a stage."""

    kind: Literal["resnet"] = "resnet"
    stem: Count = Field(description="channels of the first convolution")
    channels: tuple[Count, ...] = Field(
        min_length=1, max_length=16, description="of each stage"
    )
    blocks: tuple[Depth, ...] = Field(
        min_length=1, description="of each stage, two convolutions each"
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
        return self._network(*shape, num_classes, image_shape)


#: What `model.kind` may name without an import path; the first is the default.
MODELS = (ResNet18, ResNet20, ResNet)


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
