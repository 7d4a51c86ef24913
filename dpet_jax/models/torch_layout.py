"""Weights of residual networks as PyTorch's libraries name and lay them out.

torchvision and timm agree on the names of a ResNet, of basic blocks or of bottlenecks.
Kernels are [out in h w] there and [h w in out] here.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dpet_jax.models.blocks import EXPANSION, BlockKind
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.models.weights import Arrays, WeightsError, check_names

#: Our names of a block's layers, by theirs.
_LAYERS = {
    "conv1": "conv1",
    "bn1": "norm1",
    "conv2": "conv2",
    "bn2": "norm2",
    "conv3": "conv3",
    "bn3": "norm3",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut_norm",
}
_OUTER = {"conv1": "stem", "bn1": "stem_norm", "fc": "head"}
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(.+)")
#: What a batch normalisation counts, and nobody needs.
_COUNTER = "num_batches_tracked"
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def is_torch_layout(arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether arrays have the names of torchvision's and timm's ResNets."""
    return {"conv1.weight", "bn1.running_mean"} <= arrays.keys()


def from_torch(
    path: Path, arrays: Mapping[str, np.ndarray]
) -> tuple[ResidualNetwork, Arrays]:
    """Convert the weights of a ResNet, of any widths and depths.

    Args:
        path: The file that they come from, for messages.
        arrays: Its tensors, by the names of torchvision or timm.

    Returns:
        The network, and its float32 arrays by flat names, "params/…" and
        "batch_stats/…".

    Raises:
        WeightsError: If they are not those of such a network, all of them, and no more.
    """
    tensors = {n: a for n, a in arrays.items() if not n.endswith(f".{_COUNTER}")}
    converted: Arrays = {}
    for name, array in tensors.items():
        converted[_our_name(path, name)] = _our_layout(path, name, array)
    network = _network(path, tensors)
    check_names(path, converted, network.shapes(), f"{network.label} in their layout")
    return network, converted


def _our_name(path: Path, name: str) -> str:
    layer, _, kind = name.rpartition(".")
    block = _BLOCK.fullmatch(layer)
    inner = block and _LAYERS.get(block[3])
    ours = inner if block else _OUTER.get(layer)
    place = f"stage{block[1]}_block{int(block[2]) + 1}/" if block else ""
    if ours is None:
        raise WeightsError(
            f"{path}: has {name}, which no ResNet has; ResNet-18, -34, -50, -101 and "
            "-152 of torchvision and timm can be read (not those with a deep stem)"
        )
    if "norm" in ours:
        if kind in _NORM:
            tree, leaf = _NORM[kind]
            return f"{tree}/{place}{ours}/norm/{leaf}"
    elif kind == "weight":
        return f"params/{place}{ours}/kernel"
    elif kind == "bias" and ours == "head":
        return f"params/{place}{ours}/bias"
    raise WeightsError(
        f"{path}: has {name}, which no ResNet of torchvision or timm has; choose the "
        "file of a ResNet-18, -34 or -50"
    )


def _our_layout(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    wide = np.asarray(array, np.float32)
    if not np.isfinite(wide).all():
        raise WeightsError(
            f"{path}: {name} holds values that are not finite; download the file again"
        )
    if wide.ndim == 4:
        return np.ascontiguousarray(wide.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(wide.T) if wide.ndim == 2 else wide


def _network(path: Path, tensors: Mapping[str, np.ndarray]) -> ResidualNetwork:
    """Return the network that has tensors of these shapes."""
    found = [match for name in tensors if (match := _BLOCK.match(name))]
    blocks = {(int(m[1]), int(m[2])) for m in found}
    counts = Counter(stage for stage, _ in blocks)
    stages = range(1, len(counts) + 1)
    try:
        stem = tensors["conv1.weight"]
        out, incoming, side, _ = stem.shape
        kind: BlockKind = "basic"
        if "layer1.0.conv3.weight" in tensors:
            kind = "bottleneck"
        last = {"basic": "conv2", "bottleneck": "conv3"}[kind]
        given = [tensors[f"layer{each}.0.{last}.weight"].shape[0] for each in stages]
        return ResidualNetwork(
            stem=out,
            channels=tuple(width // EXPANSION[kind] for width in given),
            blocks=tuple(counts[stage] for stage in stages),
            num_classes=tensors["fc.weight"].shape[0],
            in_channels=incoming,
            stem_kind="imagenet" if side == 7 else "cifar",
            block_kind=kind,
        )
    except (KeyError, ValueError) as error:
        lacks = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"{path}: holds no whole ResNet in the layout of torchvision or timm "
            f"({lacks}); choose the file of a ResNet-18, -34 or -50 with its last layer"
        ) from error
