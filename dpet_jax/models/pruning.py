"""Pruning a network early and physically: its keys, what stays, trees without the rest.

Importances and masks are tuples of NumPy arrays, one for each of the network's
`channel_groups`; larger is more important, true stays. Nothing here imports JAX before
it is needed, so that reading a config does not wait for it.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field

from dpet_jax.models.network import ChannelGroup, Params
from dpet_jax.section import (
    Count,
    NonNegative,
    Number,
    Positive,
    PositiveShare,
    Section,
    Share,
    UpToOne,
)

#: bool[size] of each group.
Masks: TypeAlias = tuple[np.ndarray, ...]


class PruneConfig(Section):
    """Cut channels out inside the blocks of the network, early in training.

    Whatever the method, the scales of the batch normalisation are looked at in equal
    steps, under an L1 penalty. Once the channels with the largest ones hardly change
    any more, the others are cut out: the network becomes a smaller one, which is
    compiled. Nothing is cut where the time that it would save is less than compiling
    takes, or where its step turns out to be hardly faster; and it is all put back where
    validation accuracy falls.

    `taylor` is for networks that were trained before: it prunes them at once, by the
    first-order change of the loss on four batches. `random` and `uniform` are controls,
    at the moment of `batch_norm`: chance decides in the place of the scales; or every
    block loses the same share of its channels, those of the smallest scales.

    Source:
        You et al. (2020), "Drawing Early-Bird Tickets: Towards More Efficient Training
        of Deep Networks"; Molchanov et al. (2019), "Importance Estimation for Neural
        Network Pruning". There all normalisation is penalised and ranked; here only the
        channels that can be cut.
    """

    by: Literal["batch_norm", "taylor", "random", "uniform"] = Field(
        "batch_norm",
        description="what channels are ranked by; random and uniform are controls",
    )
    fraction: PositiveShare = Field(
        0.3, description="of the channels inside blocks, before rounding"
    )
    multiple: Literal["auto"] | Count = Field(
        "auto", description="of the channels of a block; auto: 16 on GPUs, else 8"
    )
    l1: NonNegative = Field(1e-4, description="penalty of each scale until then")
    every: Positive = Field(1.0, description="full passes from one look to the next")
    looks: Annotated[int, Field(ge=2, le=1000), Number] = Field(
        5, description="last masks that must agree"
    )
    distance: UpToOne = Field(0.1, description="within which masks agree")
    after: NonNegative | None = Field(
        None, description="full passes after which to prune instead, agreed or not"
    )
    trial: Positive = Field(1.0, description="full passes before accuracy is judged")
    tolerance: Share | None = Field(
        0.02, description="of validation accuracy that may be lost; null never judges"
    )
    min_speedup: Share = Field(
        0.05, description="share of a step's time that must be saved; 0 asks for none"
    )
    min_saving: NonNegative = Field(
        1.0, description="times the seconds of compiling; 0 asks for none"
    )

    @property
    def watches(self) -> bool:
        """Whether masks decide about the moment, and scales are penalised until it."""
        return self.by != "taylor"

    @property
    def starts_after(self) -> float | None:
        """Full passes after which to prune whatever masks say; None waits for them."""
        return 0.0 if self.after is None and not self.watches else self.after

    def settled(self, seen: Sequence[np.ndarray]) -> bool:
        """Return whether the last masks, each bool[channels], agree with the newest."""
        if len(seen) < self.looks:
            return False
        *others, newest = seen[-self.looks :]
        return max(mask_distance([m], [newest]) for m in others) < self.distance

    def masks(self, importances: Sequence[np.ndarray], multiple: int) -> Masks:
        """Return what stays; `multiple` is what "auto" stands for."""
        multiple = multiple if self.multiple == "auto" else self.multiple
        alike = self.by == "uniform"
        return final_masks(importances, self.fraction, multiple, alike=alike)


#: No group keeps less than this share of its channels.
LEAST_SHARE = 0.25


def top_masks(importances: Sequence[np.ndarray], fraction: float) -> Masks:
    """Keep the channels that are among the most important of all groups together.

    Args:
        importances: Of every channel.
        fraction: Share that goes, in (0, 1); equal ones go in the order of the network.

    Returns:
        As many channels as round((1 - fraction) n) of all n, however many groups that
        empties: the mask whose changes Early-Bird watches.
    """
    flat = np.concatenate(importances).astype(np.float64)
    _check(flat)
    keep = np.zeros(flat.size, bool)
    keep[np.argsort(-flat, kind="stable")[: round((1 - fraction) * flat.size)]] = True
    return _split(keep, importances)


def final_masks(
    importances: Sequence[np.ndarray],
    fraction: float,
    multiple: int,
    *,
    alike: bool = False,
) -> Masks:
    """Keep the most important channels, in numbers that hardware computes fast.

    How many of a group stay is decided over all groups together, as by `top_masks`, or
    by the fraction alone. That number is rounded to the nearest multiple, and is at
    least a quarter of the group's and one multiple; a group that is smaller than that
    stays whole.

    Args:
        importances: Of every channel.
        fraction: Share that goes, in (0, 1).
        multiple: Of channels in a group.
        alike: Whether every group loses the same share.
    """
    wanted = [mask.sum() for mask in top_masks(importances, fraction)]
    masks = []
    for group, count in zip(importances, wanted, strict=True):
        size = group.size
        ideal = (1 - fraction) * size if alike else float(count)
        least = max(multiple, -(-LEAST_SHARE * size // multiple) * multiple)
        kept = min(size, max(int(least), int(ideal / multiple + 0.5) * multiple))
        mask = np.zeros(size, bool)
        mask[np.argsort(-group.astype(np.float64), kind="stable")[:kept]] = True
        masks.append(mask)
    return tuple(masks)


def widths_of(masks: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Count the channels of each group that stay."""
    return tuple(int(mask.sum()) for mask in masks)


def mask_distance(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """Return the share of all channels in which two masks differ, in [0, 1].

    Source:
        You et al. (2020), "Drawing Early-Bird Tickets", where it is the normalised
        Hamming distance of two masks.
    """
    return float(np.mean(np.concatenate(left) != np.concatenate(right)))


def scales(params: Params, groups: Sequence[ChannelGroup]) -> tuple[Any, ...]:
    """Return the scales of the batch normalisation of every group, float32[size]."""
    return tuple(_at(params, group.scale) for group in groups)


def with_scales(
    params: Params, groups: Sequence[ChannelGroup], values: Sequence[Any]
) -> Params:
    """Return the parameters with other scales."""
    for group, value in zip(groups, values, strict=True):
        params = _set(params, group.scale, value)
    return params


def masked(
    params: Params, groups: Sequence[ChannelGroup], masks: Sequence[np.ndarray]
) -> Params:
    """Return the parameters as if the other channels were cut out, none being so.

    Their scales and biases are 0. The network computes what the one does that `cut`
    leaves, at the cost that it had.
    """
    for group, mask in zip(groups, masks, strict=True):
        for path in (group.scale, group.bias):
            params = _set(params, path, _at(params, path) * mask.astype(np.float32))
    return params


def cut(tree: Any, groups: Sequence[ChannelGroup], masks: Sequence[np.ndarray]) -> Any:
    """Cut channels out of any tree that is built as a network's arrays are.

    Parameters, running statistics, an optimizer's moments, an average of these: every
    array is found by the path of its layer, whatever the tree wraps round it, and what
    belongs to no group stays as it is. No value changes.

    Args:
        tree: Of NumPy arrays.
        groups: Of the network.
        masks: What stays.
    """
    import jax

    kept = [np.flatnonzero(mask) for mask in masks]

    def slimmed(path: Any, leaf: Any) -> Any:
        names = tuple(key.key for key in path if hasattr(key, "key"))
        for group, stays in zip(groups, kept, strict=True):
            for layer, axis in group.axes.items():
                # a convolution may write one group's channels and read another's
                if _lies_below(names, layer):
                    leaf = np.take(leaf, stays, axis)
        return leaf

    return jax.tree_util.tree_map_with_path(slimmed, tree)


def _lies_below(names: tuple[Any, ...], layer: tuple[str, ...]) -> bool:
    length = len(layer)
    starts = range(len(names) - length)
    return any(names[start : start + length] == layer for start in starts)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _set(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    first, *rest = path
    return {**tree, first: _set(tree[first], tuple(rest), value)}


def _check(flat: np.ndarray) -> None:
    if not np.isfinite(flat).all():
        raise ValueError("the importance of a channel is no finite number")


def _split(flat: np.ndarray, like: Sequence[np.ndarray]) -> Masks:
    ends = np.cumsum([group.size for group in like])[:-1]
    return tuple(np.split(flat, ends))
