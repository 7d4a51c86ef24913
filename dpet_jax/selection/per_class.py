"""A budget divided among classes, and the picks of the classes brought together."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from dpet_jax.methods.base import Selection
from dpet_jax.quotas import largest_remainder
from dpet_jax.selection.picks import refuse_traced


def class_quotas(
    labels: Int[np.ndarray, " n"], num_classes: int, num_select: int
) -> Int[np.ndarray, " k"]:
    """Divide a budget among classes in proportion to their sizes.

    By largest remainder; the first class gets a place among equals.

    Args:
        labels: Class of each example, in [0, num_classes).
        num_classes: k.
        num_select: Places in all, at most n.

    Returns:
        Places of each class, at most its size; they add up to `num_select`.

    Raises:
        ValueError: If there are fewer examples than places or a label is no class.
    """
    refuse_traced("class_quotas", (labels,))
    labels = np.asarray(labels)
    if not 0 <= num_select <= labels.size:
        raise ValueError(f"cannot pick {num_select} of {labels.size} examples")
    sizes = _class_sizes(labels, num_classes)
    return largest_remainder(sizes * num_select / max(labels.size, 1), num_select)


def per_class(
    select: Callable[[np.ndarray, int], Selection],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    num_select: int,
) -> Selection:
    """Run a selector inside each class and bring the picks together.

    Args:
        select: Given the positions of a class and its places, returns picks in greedy
            order as places among these positions. It is not asked about a class that
            has no place in the budget.
        labels: Class of each example, in [0, num_classes).
        num_classes: k.
        num_select: Picks in all.

    Returns:
        Picks of all classes as `interleaved` orders them.

    Raises:
        ValueError: If there are fewer examples than places or a label is no class.
    """
    refuse_traced("per_class", (labels,))
    labels = np.asarray(labels)
    quotas = class_quotas(labels, num_classes, num_select)
    chosen, sizes = [], []
    for one, quota in enumerate(quotas):
        if quota:
            positions = np.flatnonzero(labels == one).astype(np.int32)
            picked = select(positions, int(quota))
            chosen.append(picked._replace(indices=positions[picked.indices]))
            sizes.append(positions.size)
    return interleaved(chosen, sizes)


def interleaved(selections: Sequence[Selection], sizes: Sequence[int]) -> Selection:
    """Merge selections so that every prefix is near the proportions of the whole.

    The i-th pick of a class of n examples has the place (i - 1/2) / n: a class twice
    as large has twice as many of the first picks, and the order within a class is kept.
    Places depend on no budget, so that a larger budget mostly appends.

    Args:
        selections: One a class, each in greedy order; all with weights or none.
        sizes: Examples of each class.
    """
    if not selections:
        return Selection(np.zeros(0, np.int32), np.zeros(0, np.float32))
    places = [
        (np.arange(one.indices.size) + 0.5) / size
        for one, size in zip(selections, sizes, strict=True)
    ]
    order = np.argsort(np.concatenate(places), kind="stable")
    weights = [one.weights for one in selections if one.weights is not None]
    return Selection(
        np.concatenate([one.indices for one in selections])[order].astype(np.int32),
        np.concatenate([one.gains for one in selections])[order].astype(np.float32),
        np.concatenate(weights)[order].astype(np.float32) if weights else None,
    )


def _class_sizes(labels, num_classes):
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"a label is none of the {num_classes} classes")
    return np.bincount(labels, minlength=num_classes)
