"""Set validation rows apart, and spoil labels on purpose."""

import numpy as np
from jaxtyping import Int32, Int64

from dpet_jax.errors import UserError

# Streams of randomness, so that the split and the noise of one seed are independent.
_SPLIT_STREAM = 10
_NOISE_STREAM = 11
_SUBSET_STREAM = 12


def stratified_split(
    labels: Int32[np.ndarray, " n"], fraction: float, seed: int
) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """Draw validation rows from every class in proportion to its size.

    round(fraction n) rows are drawn. Each class gives the whole part of its share;
    the rows still missing come from the classes with the largest remainders.

    Args:
        labels: Class of each row, non-negative.
        fraction: Share of the rows to draw, in [0, 1); 0 draws none.
        seed: Non-negative; the same seed draws the same rows.

    Returns:
        The rows to train on and the rows to validate on, each ascending.

    Raises:
        UserError: If `fraction` or `seed` is out of range, or a class is too small to
            give at least one row to each side.
    """
    check_seed(seed, "data.split_seed")
    if not 0 <= fraction < 1:
        raise UserError(
            f"data.validation_fraction is {fraction}; give a share in [0, 1), such as "
            "0.1, or 0 for no validation set."
        )
    num_rows = len(labels)
    if fraction == 0:
        return np.arange(num_rows, dtype=np.int64), np.empty(0, np.int64)
    classes, counts = np.unique(labels, return_counts=True)
    shares = np.round(counts * fraction, 9)  # 0.1 * 30 is not 3 exactly
    drawn = np.floor(shares).astype(np.int64)
    _check_sizes(classes, counts, shares, fraction)
    missing = round(fraction * num_rows) - int(drawn.sum())
    drawn[np.argsort(drawn - shares, kind="stable")[: max(missing, 0)]] += 1

    rng = np.random.default_rng([seed, _SPLIT_STREAM])
    validation = np.zeros(num_rows, bool)
    for label, num_drawn in zip(classes, drawn, strict=True):
        rows = np.flatnonzero(labels == label)
        validation[rng.permutation(rows)[:num_drawn]] = True
    return np.flatnonzero(~validation), np.flatnonzero(validation)


def stratified_subset(
    labels: Int32[np.ndarray, " n"], size: int, seed: int
) -> Int64[np.ndarray, " m"]:
    """Draw some rows from every class in proportion to its size.

    Args:
        labels: Class of each row, non-negative.
        size: Rows to draw.
        seed: Non-negative; the same seed draws the same rows.

    Returns:
        The rows drawn, ascending.

    Raises:
        UserError: If there are not so many rows, or fewer than two for each class.
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
        raise UserError(
            f"data.train_examples is {size}, which leaves class "
            f"{classes[int(shares.argmin())]} without an example; choose at least "
            f"{int(np.ceil(labels.size / counts.min()))}."
        )
    drawn = np.floor(np.round(shares, 9)).astype(np.int64)
    missing = size - int(drawn.sum())
    drawn[np.argsort(drawn - shares, kind="stable")[:missing]] += 1
    rng = np.random.default_rng([seed, _SUBSET_STREAM])
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, drawn, strict=True)
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
        fraction: Share of the rows to spoil, in [0, 1].
        seed: Non-negative; the same seed spoils the same rows in the same way.
        num_classes: Number of classes, k.

    Returns:
        A copy of the labels with the wrong ones in it, and the spoilt rows, ascending.

    Raises:
        UserError: If `fraction` or `seed` is out of range, or there is no other class.
    """
    check_seed(seed, "data.noise_seed")
    if not 0 <= fraction <= 1:
        raise UserError(
            f"data.label_noise is {fraction}; give the share of wrong labels, in "
            "[0, 1], such as 0.2, or 0 for none."
        )
    noisy = labels.copy()
    num_flipped = round(fraction * len(labels))
    if num_flipped == 0:
        return noisy, np.empty(0, np.int64)
    if num_classes < 2:
        raise UserError(
            f"data.label_noise is {fraction}, but the data set has {num_classes} "
            "class, so no label can be wrong; set it to 0."
        )
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    rows = np.sort(rng.choice(len(labels), num_flipped, replace=False))
    offsets = rng.integers(1, num_classes, num_flipped)
    noisy[rows] = (labels[rows] + offsets) % num_classes
    return noisy, rows


def check_seed(seed: int, key: str) -> None:
    """Refuse a negative seed, which NumPy's generators do not take.

    Raises:
        UserError: If `seed` is negative; the message names `key`.
    """
    if seed < 0:
        raise UserError(f"{key} is {seed}; give a whole number from 0.")


def _check_sizes(
    classes: np.ndarray, counts: np.ndarray, shares: np.ndarray, fraction: float
) -> None:
    small = (shares < 1) | (np.ceil(shares) >= counts)
    if small.any():
        i = int(small.argmax())
        raise UserError(
            f"data.validation_fraction is {fraction}, but class {classes[i]} has only "
            f"{counts[i]} training examples, too few for one or more on either side "
            f"({int(small.sum())} such classes); change the fraction, or set it to 0 "
            "for no validation set."
        )
