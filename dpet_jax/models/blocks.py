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
    "conv3": "norm3",
    "shortcut": "shortcut_norm",
}

#: How a network begins: one 3x3 convolution, as for small images, or a 7x7 one of
#: stride 2 and a 3x3 maximum of stride 2, as for ImageNet.
StemKind = Literal["cifar", "imagenet"]
#: Side and stride of the convolution of each.
_STEMS: dict[StemKind, tuple[int, int]] = {"cifar": (3, 1), "imagenet": (7, 2)}


#: What a block is made of: two 3x3 convolutions, or a 3x3 one between two 1x1 ones, of
#: which the last gives `EXPANSION` times as many channels.
BlockKind = Literal["basic", "bottleneck"]
EXPANSION: dict[BlockKind, int] = {"basic": 1, "bottleneck": 4}
#: Sides of the convolutions of each, and which of them has the stride.
_SIDES: dict[BlockKind, tuple[int, ...]] = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
_STRIDED: dict[BlockKind, int] = {"basic": 0, "bottleneck": 1}


class Block(NamedTuple):
    """One residual block.

    Attributes:
        name: Of its parameters.
        channels: Channels of its output.
        stride: 2 for the first block of every stage but the first, else 1.
        projection: Whether the shortcut needs a 1x1 convolution to match the output.
        inner: Channels between its convolutions, one count fewer than those are.
        kind: What it is made of.
    """

    name: str
    channels: int
    stride: int
    projection: bool
    inner: tuple[int, ...]
    kind: BlockKind = "basic"

    @property
    def widths(self) -> dict[str, int]:
        """Channels that each of its convolutions gives, by name, in their order."""
        widths = (*self.inner, self.channels)
        main = {f"conv{number}": width for number, width in enumerate(widths, 1)}
        return main | ({"shortcut": self.channels} if self.projection else {})


def residual_blocks(
    stem: int,
    channels: tuple[int, ...],
    blocks: tuple[int, ...],
    inner: tuple[int, ...] = (),
    kind: BlockKind = "basic",
) -> Iterator[Block]:
    """Yield the blocks of a network from its first to its last.

    Args:
        stem: Channels of the stem convolution.
        channels: Channels of each stage, before a bottleneck's last convolution makes
            them more; all stages but the first halve the image.
        blocks: Blocks of each stage.
        inner: Channels inside each block, one after the other; empty where they are
            those of its stage.
        kind: What each is made of.
    """
    incoming, widths = stem, iter(inner)
    for stage, (width, count) in enumerate(zip(channels, blocks, strict=True)):
        outgoing = EXPANSION[kind] * width
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            yield Block(
                f"stage{stage + 1}_block{block + 1}",
                outgoing,
                stride,
                stride != 1 or incoming != outgoing,
                tuple(next(widths, width) for _ in _SIDES[kind][1:]),
                kind,
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

    A bottleneck has its stride in the 3x3 convolution, as torchvision does since its
    version 1.5, and not in the first, as the paper does.

    Args:
        layer: Called for "conv1", "conv2", with a bottleneck "conv3" and, where the
            block projects, "shortcut".
        x: Feature maps.
        block: Shape of the block.

    Source:
        He et al. (2016), "Deep Residual Learning for Image Recognition", figure 5.
    """
    y, sides = x, _SIDES[block.kind]
    for number, side in enumerate(sides):
        y = nn.relu(y) if number else y
        stride = block.stride if number == _STRIDED[block.kind] else 1
        y = layer(f"conv{number + 1}", y, side, stride)
    if block.projection:
        x = layer("shortcut", x, 1, block.stride)
    return nn.relu(x + y)
