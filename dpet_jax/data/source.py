"""What a data source is, and the checks that raw arrays must pass."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int32, UInt8
from pydantic import Field, model_validator

from dpet_jax.data.rows import Rows
from dpet_jax.data.view import View
from dpet_jax.errors import UserError
from dpet_jax.section import (
    Count,
    CountFromZero,
    Fraction,
    Kind,
    Positive,
    Seed,
    Share,
    Side,
)

#: Where the pixels of a data set are while it is trained on.
Placement: TypeAlias = Literal["auto", "device", "host", "stream"]

# Rows looked at together, so that a check never copies a whole data set.
_CHUNK_ROWS = 1024


class ImageSet(NamedTuple):
    """Images and labels of one split.

    Attributes:
        images: Pixels, 0 to 255, as decoded; one channel (grey) or three (RGB). In
            memory, or `Rows` of a place where they are read when they are asked for.
        labels: Class of each image, in [0, k).
    """

    images: UInt8[np.ndarray, "n h w c"] | Rows
    labels: Int32[np.ndarray, " n"]


class Source(NamedTuple):
    """A data set as it was read, before any resizing, split or noise.

    Attributes:
        name: What results call the data set.
        train: Examples to train on; every class occurs.
        test: Examples to test on, with images of the same shape.
        class_names: One name per class, in label order; no two are equal.
        validation: Examples to validate on, or None if they are to be drawn from the
            training examples.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    validation: ImageSet | None = None


class Extent(NamedTuple):
    """What a source would have to decode.

    Attributes:
        pictures: Number of them, of all splits.
        first: One of them, its bytes or where it lies.
    """

    pictures: int
    first: bytes | Path


class DataSection(Kind):
    """Where the images come from, and how they are split.

    A source of your own extends this class: its keys are fields, and `read` returns
    what they name. `kind: package.module:Name` in a config, or an object of it in
    Python, makes a run use it.

    Attributes:
        libraries: Modules that `read` imports when it needs them. A run imports them
            before it measures anything, so that no run pays for being the first.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    #: Keys of this class that `read` looks at.
    read_keys: ClassVar[tuple[str, ...]] = ("image_size",)

    image_size: Side | None = Field(
        None, description="resize all images to so many pixels a side, averaging areas"
    )
    resize: Literal["stretch", "crop"] = Field(
        "stretch",
        description="to image_size: stretch the whole image, or crop what is longer of "
        "it, the middle staying",
    )
    input_size: Side | None = Field(
        None,
        description="side of what the network sees, to which stored images are resized "
        "on the device; null: as stored",
    )
    evaluation_crop: Fraction = Field(
        1.0,
        description="share of each side that evaluation and scoring see, the middle; "
        "0.875 is usual with 224 of 256 pixels",
    )
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        None, description="names of those to keep, which are labelled in this order"
    )
    validation_fraction: Share = Field(
        0.1,
        description="share of the training examples to validate on, 0 for none; a "
        "source with a validation split of its own uses that instead",
    )
    train_examples: Count | None = Field(
        None, description="that the training split keeps, of all classes alike"
    )
    split_seed: Seed = Field(
        0, description="of the splits and the label noise; not the run's seed"
    )
    label_noise: Share = Field(
        0.0, description="share of training labels replaced, for studies"
    )
    placement: Placement = Field(
        "auto",
        description="of the pixels: on the device, on the host as rows of a file, or a "
        "stream of pictures that are decoded when their turn comes; auto chooses by "
        "sizes",
    )
    device_budget_mib: Positive | None = Field(
        None,
        description="device memory that pixels may take; null: what a step leaves",
    )
    workers: CountFromZero = Field(
        0,
        description="processes in which a stream of pictures is decoded; 0: threads",
    )

    @abstractmethod
    def read(self) -> Source:
        """Read the whole data set into memory.

        Pictures of several sizes are brought to `self.size` while they are decoded, as
        `self.resize` says; of the keys of this class these are the only ones that
        `read` needs to look at.

        Raises:
            UserError: If there is nothing to read, or it is no image classification
                set; the message names file, key, value and remedy.
        """

    def extent(self) -> Extent | None:
        """Return what `read` would decode, without reading it.

        None where there are no picture files, so that only `read` knows.

        Raises:
            UserError: As `read` does, of what shows at once.
        """
        return None

    @property
    def read_from(self) -> Path | None:
        """File or folder that `read` reads; None if there is none."""
        return getattr(self, "path", None)

    @property
    def keys_read(self) -> set[str]:
        """Names of the keys that decide what `read` returns."""
        own = type(self).model_fields.keys() - DataSection.model_fields.keys()
        return {*own, *self.read_keys}

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that `image_size` asks for; None if it asks for nothing."""
        return None if self.image_size is None else (self.image_size, self.image_size)

    @model_validator(mode="after")
    def _crop_has_its_size(self) -> "DataSection":
        if self.resize == "crop" and self.image_size is None:
            raise ValueError(
                "resize is crop, but image_size says of no size to bring images to; "
                "give image_size, or leave resize at stretch"
            )
        return self

    @property
    def view(self) -> View:
        """What of each stored image a network sees where nothing is random."""
        return View(
            input_size=self.input_size,
            evaluation_crop=self.evaluation_crop,
            resize=self.resize,
        )


def check_images(images: np.ndarray, place: str) -> UInt8[np.ndarray, "n h w c"]:
    """Check raw pixels and bring them to uint8 with a channel axis.

    Floats in [0, 1] are scaled to 0..255 and rounded. Pixels divided by 255 twice,
    which rounding would make black, are refused.

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
            "float in [0, 1]; scale them to that range first (16-bit values: divide "
            "by 65535), for .astype alone would wrap or cut values."
        )
    scaled = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _CHUNK_ROWS):
        chunk = images[start : start + _CHUNK_ROWS]
        _check_unit_interval(chunk, start, place)
        scaled[start : start + _CHUNK_ROWS] = np.rint(chunk.astype(np.float64) * 255)
    if scaled.max() <= 1 and images.max() > 0:
        raise UserError(
            f"{place}: no float pixel is above {images.max():.3g}, but they must span "
            "[0, 1]; were they divided by 255 twice? Divide once."
        )
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
    places: Sequence[str],
    validation: ImageSet | None = None,
) -> Source:
    """Put the splits of a data set together, after checking them against each other.

    Args:
        name: What results call the data set.
        train: Examples to train on.
        test: Examples to test on.
        class_names: One name per class, or None if the source knows none; then there
            are as many classes as the largest training label says. Equal names are
            told apart by `distinct`.
        places: Files or folders of the training, the test and, where there is one, the
            validation split, for messages.
        validation: Examples to validate on, or None.

    Returns:
        The data set. Where some splits are grey and others in colour, all have three
        channels.

    Raises:
        UserError: If lengths, shapes or labels disagree, a class is never trained, or
            there is one class only.
    """
    splits = [train, test] if validation is None else [train, test, validation]
    channels = max(split.images.shape[3] for split in splits)
    splits = [_with_channels(split, channels) for split in splits]
    for split, place in zip(splits, places, strict=True):
        if len(split.images) != len(split.labels):
            raise UserError(
                f"{place}: {len(split.images)} images but {len(split.labels)} labels; "
                "each image needs one label."
            )
        if split.images.shape[1:] != splits[0].images.shape[1:]:
            raise UserError(
                f"{place}: images are {_shape(split)}, but those to train on are "
                f"{_shape(splits[0])} ({places[0]}); --data.image_size=N resizes all "
                "images to N x N."
            )
    num_classes = (
        int(train.labels.max()) + 1 if class_names is None else len(class_names)
    )
    for split, place in zip(splits, places, strict=True):
        check_labels(split.labels, place, num_classes)
    _check_every_class(train.labels, num_classes, class_names, places[0])
    if num_classes < 2:
        raise UserError(
            f"{places[0]}: all examples are of one class; a classifier needs two."
        )
    if class_names is None:
        class_names = [str(label) for label in range(num_classes)]
    return Source(name, splits[0], splits[1], distinct(class_names), *splits[2:])


def split_names(section: Any) -> list[str]:
    """Return the names of the splits to train, test and, if any, validate on.

    Args:
        section: One with the keys train_split, test_split and validation_split.

    Raises:
        UserError: If one serves twice.
    """
    keys = ("train_split", "test_split", "validation_split")
    names = {key: name for key in keys if (name := getattr(section, key)) is not None}
    for name, count in Counter(names.values()).items():
        if count > 1:
            both = " and ".join(f"data.{key}" for key in names if names[key] == name)
            raise UserError(f"{both} are both {name!r}; give each a split of its own.")
    return [*names.values()]


def distinct(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return names of which no two are equal: equal ones get their number behind them.

    ImageNet has two classes called crane; they become crane (134) and crane (517).
    """
    names = tuple(class_names)
    while twice := {name for name, count in Counter(names).items() if count > 1}:
        names = tuple(
            f"{name} ({label})" if name in twice else name
            for label, name in enumerate(names)
        )
    return names


def checked(source: Any) -> Source:
    """Check all that a source has returned, in case its `read` did not.

    Raises:
        UserError: If it is no `Source`, and as `check_images`, `check_labels` and
            `make_source` do.
    """
    if not isinstance(source, Source):
        raise UserError(
            f"data.kind: read() returned {type(source).__name__}; it must return a "
            "dpet_jax.data.Source."
        )
    given = {
        f"{source.name} {split}": images
        for split, images in (
            ("train", source.train),
            ("test", source.test),
            ("validation", source.validation),
        )
        if images is not None
    }
    train, test, *validation = [
        ImageSet(
            split.images
            if isinstance(split.images, Rows)
            else check_images(np.asarray(split.images), f"{place} images"),
            check_labels(np.asarray(split.labels), f"{place} labels"),
        )
        for place, split in given.items()
    ]
    return make_source(
        source.name, train, test, source.class_names, list(given), *validation
    )


def _with_channels(split: ImageSet, channels: int) -> ImageSet:
    if split.images.shape[3] == channels or isinstance(split.images, Rows):
        return split
    return split._replace(images=np.repeat(split.images, channels, axis=3))


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
    if not np.isfinite(value):
        remedy = "correct or remove the row"
    elif chunk.min() < 0:
        remedy = (
            "save the pixels as they were before mean and standard deviation were "
            "taken out; a run normalises them itself"
        )
    else:
        remedy = "divide by 255, or save the pixels as uint8"
    raise UserError(
        f"{place} row {start + row}: pixel {tuple(pixel)} is {value}, but float pixels "
        f"must lie in [0, 1]; {remedy}."
    )


def _shape(split: ImageSet) -> str:
    return " x ".join(map(str, split.images.shape[1:]))
