"""The blocks of a residual network: their shapes, and how they are wired."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from flax.linen import max_pool
from jax import nn

#: `layer(name, x, side, stride)` convolves and normalises.
Layer = Callable[[str, Any, int, int], Any]

#: The normalisation that follows each convolution.
NORMS = {
    "stem": "stem_norm",
    "conv1": "norm1",
    "conv2": "norm2",
    "shortcut": "shortcut_norm",
}

#: How a network begins: one 3x3 convolution, as for small images, or a 7x7 one of
#: stride 2 and a 3x3 maximum of stride 2, as for ImageNet.
StemKind = Literal["cifar", "imagenet"]
#: Side and stride of the convolution of each.
_STEMS: dict[StemKind, tuple[int, int]] = {"cifar": (3, 1), "imagenet": (7, 2)}


class Block(NamedTuple):
    """One residual block of two 3x3 convolutions.

    Attributes:
        name: Of its parameters.
        channels: Channels of its output.
        stride: 2 for the first block of every stage but the first, else 1.
        projection: Whether the shortcut needs a 1x1 convolution to match the output.
        inner: Channels between its two convolutions.
    """

    name: str
    channels: int
    stride: int
    projection: bool
    inner: int


def residual_blocks(
    stem: int,
    channels: tuple[int, ...],
    blocks: tuple[int, ...],
    inner: tuple[int, ...] = (),
) -> Iterator[Block]:
    """Yield the blocks of a network from its first to its last.

    Args:
        stem: Channels of the stem convolution.
        channels: Channels of each stage; all stages but the first halve the image.
        blocks: Blocks of each stage.
        inner: Channels inside each block; empty where they are those of its output.
    """
    incoming, widths = stem, iter(inner)
    for stage, (outgoing, count) in enumerate(zip(channels, blocks, strict=True)):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            yield Block(
                f"stage{stage + 1}_block{block + 1}",
                outgoing,
                stride,
                stride != 1 or incoming != outgoing,
                next(widths, outgoing),
            )
            incoming = outgoing


def stem(layer: Layer, x: Any, kind: StemKind) -> Any:
    """Wire what comes before the first block; `layer` is called for "stem"."""
    x = nn.relu(layer("stem", x, *_STEMS[kind]))
    if kind == "imagenet":
        # padded as PyTorch pads, with what no maximum is
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return x


def residual(layer: Layer, x: Any, block: Block) -> Any:
    """Wire one residual block.

    Args:
        layer: Called for "conv1", "conv2" and, where the block projects, "shortcut".
        x: Feature maps.
        block: Shape of the block.
    """
    y = nn.relu(layer("conv1", x, 3, block.stride))
    y = layer("conv2", y, 3, 1)
    if block.projection:
        x = layer("shortcut", x, 1, block.stride)
    return nn.relu(x + y)
