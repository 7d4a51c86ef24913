"""From a family and its multipliers to the explicit shape of a ResNet, and its FLOPs.

A model is always built from a `ResNetSpec`, never from multipliers: the spec is saved
with every checkpoint, so that a network of any shape can be restored.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ResNetSpec:
    """Shape of a residual network of basic blocks.

    Attributes:
        stem: Channels of the 3x3 stem convolution.
        channels: Channels of each stage; all stages but the first halve the image.
        blocks: Basic blocks of each stage.
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
    """

    stem: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    num_classes: int
    in_channels: int

    def __post_init__(self) -> None:
        """Refuse a shape that is no network."""
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(
                f"channels {self.channels} and blocks {self.blocks} need one entry "
                "a stage"
            )
        if min(self.stem, *self.channels, *self.blocks, self.in_channels) < 1:
            raise ValueError(f"every count must be at least 1: {self}")
        if self.num_classes < 2:
            raise ValueError(f"need at least 2 classes, got {self.num_classes}")

    @property
    def num_features(self) -> int:
        """Width d of the penultimate layer."""
        return self.channels[-1]

    @property
    def depth(self) -> int:
        """Weight layers as the literature counts them (ResNet-18 has 18)."""
        return 2 + 2 * sum(self.blocks)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` turns back into the same spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "ResNetSpec":
        """Rebuild a spec saved by `to_json`."""
        return cls(
            stem=plain["stem"],
            channels=tuple(plain["channels"]),
            blocks=tuple(plain["blocks"]),
            num_classes=plain["num_classes"],
            in_channels=plain["in_channels"],
        )


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


def resnet18(
    num_classes: int,
    in_channels: int = 3,
    *,
    width_multiplier: float = 1.0,
    depth_multiplier: float = 1.0,
    channel_multiple: int = 8,
) -> ResNetSpec:
    """Shape the CIFAR ResNet-18: 3x3 stem, no max-pool, 64-128-256-512, blocks of 2.

    11,173,962 parameters at 10 classes and multipliers 1. The width multiplier scales
    the stem too.

    Source:
        He et al. (2016), "Deep Residual Learning for Image Recognition"; the variant
        with a 3x3 stem that CIFAR experiments use.
    """
    channels = tuple(
        scaled_channels(base, width_multiplier, channel_multiple)
        for base in (64, 128, 256, 512)
    )
    blocks = (scaled_blocks(2, depth_multiplier),) * 4
    return ResNetSpec(channels[0], channels, blocks, num_classes, in_channels)


def resnet20(
    num_classes: int,
    in_channels: int = 3,
    *,
    width_multiplier: float = 1.0,
    depth_multiplier: float = 1.0,
    channel_multiple: int = 1,
) -> ResNetSpec:
    """Shape the ResNet-20 family: stem 16 (never scaled), 16-32-64, three blocks each.

    With both multipliers equal this is the tandem scaling of the tight-budget paper:
    floored counts make depth change only at 4/3, so that scales 1.0 to 1.3 differ in
    width alone.

    Source:
        He et al. (2016), section 4.2, with 1x1 projection shortcuts; scaling as in the
        code of "tight-budget pruning and scaling".
    """
    channels = tuple(
        scaled_channels(base, width_multiplier, channel_multiple)
        for base in (16, 32, 64)
    )
    blocks = (scaled_blocks(3, depth_multiplier),) * 3
    return ResNetSpec(16, channels, blocks, num_classes, in_channels)


def forward_flops(spec: ResNetSpec, height: int, width: int) -> int:
    """Count the floating-point operations of one example's forward pass.

    Two for each multiply-add of convolutions and the last layer, padding included;
    normalisation, activations and sums are left out (under 1 %), as is usual. ResNet-18
    at 32x32 needs 1.111e9.
    """
    multiply_adds = height * width * 9 * spec.in_channels * spec.stem
    for block in residual_blocks(spec):
        height, width = -(-height // block.stride), -(-width // block.stride)
        both = block.incoming + block.channels
        multiply_adds += height * width * 9 * block.channels * both
        if block.projection:
            multiply_adds += height * width * block.incoming * block.channels
    multiply_adds += spec.num_features * spec.num_classes
    return 2 * multiply_adds


class Block(NamedTuple):
    """One residual block of two 3x3 convolutions.

    Attributes:
        name: Of its parameters.
        incoming: Channels that it reads.
        channels: Channels that it gives.
        stride: 2 for the first block of every stage but the first, else 1.
        projection: Whether the shortcut needs a 1x1 convolution to match the output.
    """

    name: str
    incoming: int
    channels: int
    stride: int
    projection: bool


def residual_blocks(spec: ResNetSpec) -> Iterator[Block]:
    """Yield the blocks of a network from its first to its last."""
    incoming = spec.stem
    shape = zip(spec.channels, spec.blocks, strict=True)
    for stage, (channels, blocks) in enumerate(shape):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            yield Block(
                f"stage{stage + 1}_block{block + 1}",
                incoming,
                channels,
                stride,
                stride != 1 or incoming != channels,
            )
            incoming = channels


#: Backward costs twice the forward pass: a product for inputs, one for weights.
TRAIN_FLOPS_PER_FORWARD = 3
