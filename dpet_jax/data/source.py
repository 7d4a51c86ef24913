"""What every data source returns, and the checks that raw arrays must pass."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from dpet_jax.errors import UserError

# Rows looked at together, so that a check never copies a whole data set.
_CHUNK_ROWS = 1024


class ImageSet(NamedTuple):
    """Images and labels of one split.

    Attributes:
        images: Pixels, 0 to 255, as decoded; one channel (grey) or three (RGB).
        labels: Class of each image, in [0, k).
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]


class Source(NamedTuple):
    """A data set as it was read, before any split or noise.

    Attributes:
        name: What results call the data set.
        train: Examples to train on; every class occurs.
        test: Examples to test on, with images of the same shape.
        class_names: One name per class, in label order.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]


def check_images(images: np.ndarray, place: str) -> UInt8[np.ndarray, "n h w c"]:
    """Check raw pixels and bring them to uint8 with a channel axis.

    Floats in [0, 1] are scaled to 0..255 and rounded.

    Args:
        images: uint8 or float pixels, [n h w], [n h w 1] or [n h w 3].
        place: File and key that the pixels came from, for messages.

    Returns:
        Pixels, 0 to 255.

    Raises:
        UserError: If shape, type or a value is not as above, or there are no rows.
    """
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            f"{place}: shape {shape}, but images must be [n h w], [n h w 1] or "
            "[n h w 3]; move the channel axis to the end."
        )
    check_not_empty(len(images), place)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f":
        raise UserError(
            f"{place}: type {images.dtype}, but pixels must be uint8 in 0..255 or "
            "float in [0, 1]; convert them, for instance with .astype(numpy.uint8)."
        )
    scaled = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK_ROWS):
        chunk = images[start : start + _CHUNK_ROWS]
        _check_unit_interval(chunk, start, place)
        scaled[start : start + _CHUNK_ROWS] = np.rint(chunk.astype(np.float64) * 255)
    return scaled


def check_labels(
    labels: np.ndarray, place: str, num_classes: int | None = None
) -> Int32[np.ndarray, " n"]:
    """Check raw labels and bring them to int32 of shape [n].

    Args:
        labels: Whole numbers, [n] or [n 1].
        place: File and key that the labels came from, for messages.
        num_classes: Labels must lie below it; None asks only that they fit an int32.

    Returns:
        Labels in [0, num_classes).

    Raises:
        UserError: If shape, type or a value is not as above, or there are no rows.
    """
    if labels.shape[1:] not in ((), (1,)) or labels.ndim == 0:
        raise UserError(
            f"{place}: shape {labels.shape}, but labels must be [n] or [n 1]: one "
            "class number per image (not one-hot)."
        )
    labels = labels.reshape(-1)
    check_not_empty(len(labels), place)
    if labels.dtype.kind not in "iuf":
        raise UserError(
            f"{place}: type {labels.dtype}, but labels must be integers; number the "
            "classes from 0."
        )
    end = 2**31 - 1 if num_classes is None else num_classes
    wrong = ~((labels >= 0) & (labels < end) & (labels == np.floor(labels)))
    if wrong.any():
        row = int(wrong.argmax())
        bound = "" if num_classes is None else f" below {num_classes}"
        raise UserError(
            f"{place} row {row}: label {labels[row]}, but labels must be integers "
            f"from 0{bound}; correct or remove the row."
        )
    return labels.astype(np.int32)


def check_not_empty(num_rows: int, place: str) -> None:
    """Refuse a split without rows.

    Raises:
        UserError: If `num_rows` is zero.
    """
    if num_rows == 0:
        raise UserError(f"{place}: no rows; a data set needs at least one example.")


def make_source(
    name: str,
    train: ImageSet,
    test: ImageSet,
    class_names: Sequence[str] | None,
    places: tuple[str, str],
) -> Source:
    """Put two checked splits together, after checking them against each other.

    Args:
        name: What results call the data set.
        train: Examples to train on.
        test: Examples to test on.
        class_names: One name per class, or None if the source knows none; then there
            are as many classes as the largest training label says.
        places: Files or folders of the training and the test split, for messages.

    Returns:
        The data set.

    Raises:
        UserError: If lengths, shapes or labels disagree, or a class is never trained.
    """
    for split, place in zip((train, test), places, strict=True):
        if len(split.images) != len(split.labels):
            raise UserError(
                f"{place}: {len(split.images)} images but {len(split.labels)} labels; "
                "each image needs one label."
            )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{places[1]}: test images are {_shape(test)}, but training images are "
            f"{_shape(train)} ({places[0]}); --data.image_size=N resizes all images "
            "to N x N; channels must agree."
        )
    num_classes = (
        int(train.labels.max()) + 1 if class_names is None else len(class_names)
    )
    check_labels(train.labels, places[0], num_classes)
    _check_every_class(train.labels, num_classes, class_names, places[0])
    check_labels(test.labels, places[1], num_classes)
    if class_names is None:
        class_names = [str(label) for label in range(num_classes)]
    return Source(name, train, test, tuple(class_names))


def _check_every_class(
    labels: np.ndarray, num_classes: int, class_names: Sequence[str] | None, place: str
) -> None:
    present = set(np.unique(labels).tolist())
    num_absent = num_classes - len(present)
    if num_absent == 0:
        return
    # Lazily: one stray label of a thousand million must not fill the memory.
    absent = (label for label in range(num_classes) if label not in present)
    some = ", ".join(
        f"{label}" if class_names is None else f"{label} ({class_names[label]})"
        for label in islice(absent, 10)
    )
    more = f" and {num_absent - 10} more" if num_absent > 10 else ""
    raise UserError(
        f"{place}: no training example of class {some}{more}; add examples, or number "
        "the classes from 0 without gaps."
    )


def _check_unit_interval(chunk: np.ndarray, start: int, place: str) -> None:
    inside = (chunk >= 0) & (chunk <= 1)  # false for NaN as well
    if inside.all():
        return
    row, *pixel = (int(i) for i in np.unravel_index(inside.argmin(), chunk.shape))
    value = chunk[(row, *pixel)]
    remedy = (
        "divide by 255, or save the pixels as uint8"
        if np.isfinite(value)
        else "correct or remove the row"
    )
    raise UserError(
        f"{place} row {start + row}: pixel {tuple(pixel)} is {value}, but float pixels "
        f"must lie in [0, 1]; {remedy}."
    )


def _shape(split: ImageSet) -> str:
    return " x ".join(map(str, split.images.shape[1:]))
