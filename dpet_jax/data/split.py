"""Validation and test splits, subsets, and wrong labels on purpose."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int32, Int64

from dpet_jax.errors import UserError
from dpet_jax.quotas import largest_remainder

# Streams of randomness, so that the draws of one seed are independent of each other.
_SPLIT_STREAMS = {"validation_fraction": 10, "test_fraction": 13}
_NOISE_STREAM = 11
_SUBSET_STREAM = 12


def stratified_split(
    labels: Int32[np.ndarray, " n"],
    fraction: float,
    seed: int,
    key: Literal["validation_fraction", "test_fraction"] = "validation_fraction",
    class_names: Sequence[str] | None = None,
) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " d"]]:
    """Draw rows from every class in proportion to its size.

    round(fraction n) rows are drawn, shared out among the classes by largest
    remainder. A class that is too small for its share still gives one row to each
    side, and one with a single example keeps it on the left; then a warning says so.

    Args:
        labels: Class of each row, non-negative.
        fraction: Share of the rows to draw, in [0, 1); 0 draws none.
        seed: Non-negative; the same seed draws the same rows.
        key: Key of the data section that gives the fraction: draws for one and for the
            other are independent, and messages name it.
        class_names: By which messages name classes; by default their numbers.

    Returns:
        The rows left and the rows drawn, each ascending.

    Raises:
        UserError: If no class has two examples.
    """
    num_rows = len(labels)
    if fraction == 0:
        return np.arange(num_rows, dtype=np.int64), np.empty(0, np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    shares = np.round(counts * fraction, 9)  # 0.1 * 30 is not 3 exactly
    quotas = largest_remainder(shares, round(fraction * num_rows))
    fair, quotas = quotas, np.clip(quotas, np.minimum(counts - 1, 1), counts - 1)
    names = _names(classes, class_names)
    _check_sizes(names, counts, fair, quotas, fraction, key)
    drawn = np.zeros(num_rows, bool)
    rng = np.random.default_rng([seed, _SPLIT_STREAMS[key]])
    for label, quota in zip(classes, quotas, strict=True):
        drawn[rng.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)


def stratified_subset(
    labels: Int32[np.ndarray, " n"],
    size: int,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> Int64[np.ndarray, " m"]:
    """Draw some rows from every class in proportion to its size.

    Args:
        labels: Class of each row, non-negative.
        size: Rows to draw.
        seed: Non-negative; the same seed draws the same rows.
        class_names: By which messages name classes; by default their numbers.

    Returns:
        The rows drawn, ascending.

    Raises:
        UserError: If there are fewer rows, or a class would be left without one.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if size > labels.size:
        raise UserError(
            f"data.train_examples is {size}, but {labels.size} are left to train on; "
            "choose fewer, or null for all of them."
        )
    if size == labels.size:
        return np.arange(size, dtype=np.int64)
    shares = counts * size / labels.size
    if shares.min() < 1:
        smallest = _names(classes, class_names)[int(shares.argmin())]
        raise UserError(
            f"data.train_examples is {size}, which leaves class {smallest} without an "
            f"example; choose at least {int(np.ceil(labels.size / counts.min()))}."
        )
    rng = np.random.default_rng([seed, _SUBSET_STREAM])
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, largest_remainder(shares, size), strict=True)
    ]
    return np.sort(np.concatenate(rows))


def add_label_noise(
    labels: Int32[np.ndarray, " n"], fraction: float, seed: int, num_classes: int
) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " f"]]:
    """Give some rows a wrong label, symmetrically.

    Exactly round(fraction n) rows, drawn without replacement, get another class drawn
    uniformly from the num_classes - 1 that are not theirs.

    Args:
        labels: Class of each row, in [0, num_classes).
        fraction: Share of the rows to change, in [0, 1].
        seed: Non-negative; the same seed changes the same rows in the same way.
        num_classes: Number of classes, k, at least 2.

    Returns:
        A copy of the labels with the wrong ones in it, and the rows changed, ascending.
    """
    noisy = labels.copy()
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    num_flipped = round(fraction * len(labels))
    rows = np.sort(rng.choice(len(labels), num_flipped, replace=False))
    offsets = rng.integers(1, num_classes, num_flipped)
    noisy[rows] = (labels[rows] + offsets) % num_classes
    return noisy, rows


def _names(classes: np.ndarray, class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return [str(label) for label in classes]
    return [class_names[label] for label in classes]


def _check_sizes(
    names: Sequence[str],
    counts: np.ndarray,
    fair: np.ndarray,
    quotas: np.ndarray,
    fraction: float,
    key: str,
) -> None:
    """Say which classes are drawn out of proportion; refuse to draw nothing."""
    least = int(counts.min())
    remedy = "add examples"
    if least > 1:
        low, high = np.ceil(1000 / least) / 1000, np.floor(1000 - 1000 / least) / 1000
        remedy = f"choose a share from {low:g} to {high:g}, or add examples"
    if not quotas.any():
        other = "make a test split of your own"
        if key == "validation_fraction":
            other = "set it to 0 for no validation set"
        raise UserError(
            f"data.{key} is {fraction}, but no class has two examples, one for either "
            f"side; add examples, or {other}."
        )
    small = np.flatnonzero((quotas != fair) | (counts == 1))
    if len(small):
        alone = int((counts == 1).sum())
        logging.getLogger(__name__).warning(
            "data.%s is %g, too little or too much for small classes, %d of them, such "
            "as class %s with %d examples: each gives one or more to either side%s; %d "
            "instead of %d are drawn in all. For every class in proportion, %s.",
            *(key, fraction, len(small), names[small[0]], counts[small[0]]),
            f", but {alone} with a single example keep it" if alone else "",
            *(quotas.sum(), fair.sum(), remedy),
        )
