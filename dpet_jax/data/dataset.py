"""The arrays that a run uses, made from a source."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from dpet_jax.data.decode import resize_images
from dpet_jax.data.rows import Rows, chunks, joined
from dpet_jax.data.source import DataSection, ImageSet, Source, checked
from dpet_jax.data.split import add_label_noise, stratified_split, stratified_subset
from dpet_jax.data.view import WHOLE, View
from dpet_jax.errors import UserError

_ONE_LEVEL = 1 / 255


@dataclass(frozen=True, eq=False)
class Data:
    """The examples of a run, in the order training | validation | test.

    Attributes:
        name: What results call the data set.
        images: Pixels, 0 to 255; in memory, or `Rows` of a place where they are read
            when they are asked for, begun with `np.asarray` or `take`.
        labels: Class of each image, in [0, k); in the training split with noise.
        num_train: Size of the training split, from which the pool is made.
        num_validation: Size of the validation split, which is the source's own or, if
            it has none, drawn from its training split; may be 0.
        num_test: Size of the test split.
        source_rows: Row number of each example in the split of the source that it
            comes from.
        class_names: One name per class, in label order; no two are equal.
        mean: Per channel, over the training split, of pixels in [0, 1].
        std: Per channel likewise, at least one grey level, 1/255, so that a constant
            channel can be divided by it.
        fingerprint: SHA-256 of the source's pixels and labels after resizing, before
            split and noise: with `source_rows` it says which examples these are.
        noisy_rows: Positions in the training split whose label was changed, ascending.
        clean_labels: The right labels of `noisy_rows`.
        view: What of each image a network sees where nothing is random.
        origin: The kind of source that a run has read it from; "given in Python" for
            all others, those made with `dataclasses.replace` among them.
        placed_by: Why `placement: auto` has not brought the pixels into memory.
    """

    name: str
    images: UInt8[np.ndarray, "n h w c"] | Rows
    labels: Int32[np.ndarray, " n"]
    num_train: int
    num_validation: int
    num_test: int
    source_rows: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]
    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]
    fingerprint: str
    noisy_rows: Int64[np.ndarray, " f"]
    clean_labels: Int32[np.ndarray, " f"]
    view: View = WHOLE
    origin: str = field(default="given in Python", init=False)
    placed_by: str = field(default="", init=False)

    def read_by(self, kind: str, placed_by: str = "") -> "Data":
        """Record the kind of source that a run has read this from, and return it.

        Args:
            kind: Of the source.
            placed_by: Why its pixels are not in memory, where sizes decided it.
        """
        object.__setattr__(self, "origin", kind)
        object.__setattr__(self, "placed_by", placed_by)
        return self

    def __post_init__(self) -> None:
        """Refuse names that results could not tell apart."""
        twice = [n for n, count in Counter(self.class_names).items() if count > 1]
        if twice:
            raise UserError(
                f"{self.name}: class_names holds {twice[0]!r} twice; results go by "
                "name, so number the names or choose others"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, k."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image, as it is stored."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what a network sees of it."""
        return self.view.shape(self.image_shape)

    @property
    def train_rows(self) -> Int32[np.ndarray, " t"]:
        """Positions of the training split; equal to positions within it."""
        return np.arange(self.num_train, dtype=np.int32)

    @property
    def validation_rows(self) -> Int32[np.ndarray, " v"]:
        """Positions of the validation split."""
        start = self.num_train
        return np.arange(start, start + self.num_validation, dtype=np.int32)

    @property
    def test_rows(self) -> Int32[np.ndarray, " u"]:
        """Positions of the test split."""
        start = self.num_train + self.num_validation
        return np.arange(start, start + self.num_test, dtype=np.int32)


def content_hash(data: Data) -> str:
    """Return a SHA-256 of all that a run trains, validates and tests on.

    It covers every field that `data` is made from, with type and shape: pixels and
    labels of all splits, their sizes, class names, normalisation. Unlike
    `data.fingerprint`, which identifies the source that examples come from, it changes
    with the split, the noise and anything that was edited in Python. Nothing is
    sampled: one changed pixel changes it. CIFAR-10's 184 MB take 0.1 s.

    Rows of a file are read through once, and pictures decoded; the hash is kept as long
    as the files are not written to.
    """
    images = data.images
    if not isinstance(images, Rows):
        return _content(data, lambda: [images])
    others = _content(data, list)
    pixels = partial(chunks, images)
    return images.kept(f"content {others}", partial(_content, data, pixels))


def _content(data: Data, pixels: Callable[[], Iterable[np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for one in fields(data):
        if not one.init:
            continue
        value = getattr(data, one.name)
        if one.name == "view" and value == WHOLE:
            continue  # sets that are seen as they are keep the hash that they had
        if one.name == "images":
            digest.update(f"images {value.dtype.str} {value.shape}\n".encode())
            for chunk in pixels():
                digest.update(np.ascontiguousarray(chunk).data)
        elif isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            digest.update(f"{one.name} {value.dtype.str} {value.shape}\n".encode())
            digest.update(value.data)
        else:
            digest.update(f"{one.name} {value!r}\n".encode())
    return digest.hexdigest()


def prepare(source: Any, section: DataSection) -> Data:
    """Resize and split a source, add label noise, and measure its pixels.

    The validation split leaves the training data before anything else happens to it:
    mean, standard deviation and label noise concern the training split alone.

    Args:
        source: The data set as `section.read()` returns it.
        section: How to resize and split it.

    Returns:
        The arrays of a run.

    Raises:
        UserError: If the source breaks a rule of `Source` or lacks a class that is
            named, a class is too small to be split, or a fraction is given for a
            validation split that is there already.
    """
    source = checked(source)
    if section.classes is not None:
        source = _of_classes(source, section.classes)
    train, test = (_resized(split, section) for split in (source.train, source.test))
    validation, train_rows, validation_rows = _validation(source, train, section)
    if section.train_examples is not None:
        rows = stratified_subset(
            train.labels[train_rows],
            section.train_examples,
            section.split_seed,
            source.class_names,
        )
        train_rows = train_rows[rows]
    clean = train.labels[train_rows]
    noisy, noisy_rows = add_label_noise(
        clean, section.label_noise, section.split_seed, len(source.class_names)
    )
    sizes = [len(train_rows), len(validation_rows), len(test.labels)]
    images = joined(
        [
            (train.images, train_rows),
            (validation.images, validation_rows),
            (test.images, np.arange(sizes[2])),
        ]
    )
    own = () if source.validation is None else (validation,)
    fingerprint, counts = _passed((train, test, *own), train_rows)
    mean, std = _mean_and_std(counts)
    return Data(
        name=source.name,
        images=images,
        labels=np.concatenate([noisy, validation.labels[validation_rows], test.labels]),
        num_train=sizes[0],
        num_validation=sizes[1],
        num_test=sizes[2],
        source_rows=np.concatenate([train_rows, validation_rows, np.arange(sizes[2])]),
        class_names=source.class_names,
        mean=mean,
        std=std,
        fingerprint=fingerprint,
        noisy_rows=noisy_rows,
        clean_labels=clean[noisy_rows],
        view=section.view,
    )


def _of_classes(source: Source, names: tuple[str, ...]) -> Source:
    """Return the examples of some classes, labelled in the order of their names."""
    for name in names:
        if name not in source.class_names:
            raise UserError(
                f"data.classes: {source.name} has no class {name!r}; its classes are "
                f"{', '.join(source.class_names[:20])}"
                + (", …" if len(source.class_names) > 20 else "")
            )
        if names.count(name) > 1:
            raise UserError(f"data.classes: {name!r} is there twice; name it once")
    label_of = np.full(len(source.class_names), -1, np.int32)
    label_of[[source.class_names.index(name) for name in names]] = range(len(names))

    def kept(split: ImageSet) -> ImageSet:
        labels = label_of[split.labels]
        return ImageSet(split.images[labels >= 0], labels[labels >= 0])

    train, test, own = source.train, source.test, source.validation
    own = None if own is None else kept(own)
    return checked(Source(source.name, kept(train), kept(test), names, own))


def _resized(split: ImageSet, section: DataSection) -> ImageSet:
    if isinstance(split.images, Rows):  # made in that size
        return split
    return ImageSet(
        resize_images(split.images, section.size, section.resize), split.labels
    )


def _validation(
    source: Source, train: ImageSet, section: DataSection
) -> tuple[ImageSet, np.ndarray, np.ndarray]:
    """Return what to validate from, the rows to train on and to validate on."""
    fraction = section.validation_fraction
    if source.validation is None:
        seed, names = section.split_seed, source.class_names
        split = stratified_split(train.labels, fraction, seed, class_names=names)
        return train, *split
    default = DataSection.model_fields["validation_fraction"].default
    if fraction not in (0, default):
        raise UserError(
            f"data.validation_fraction is {fraction}, but {source.name} has a "
            "validation split of its own, which is used whole; leave the key away, or "
            "set it to 0 for no validation set."
        )
    own = _resized(source.validation, section)
    rows = np.arange(len(own.labels) if fraction else 0)
    return own, np.arange(len(train.labels)), rows


def _passed(
    splits: tuple[ImageSet, ...], train_rows: np.ndarray
) -> tuple[str, Int64[np.ndarray, "c 256"]]:
    """Pass over a source once, for its fingerprint and the levels of training rows.

    Args:
        splits: The training split first.
        train_rows: Those of it that are trained on.

    Returns:
        The fingerprint, and how often each level occurs in each channel.
    """
    first = splits[0].images
    if not isinstance(first, Rows):
        return _one_pass(splits, train_rows)
    which = hashlib.sha256(np.ascontiguousarray(train_rows, dtype="<i8").data)
    for images, labels in splits:
        assert isinstance(images, Rows), "all splits are of one place"
        which.update(np.ascontiguousarray(images.index, dtype="<i8").data)
        which.update(np.ascontiguousarray(labels, dtype="<i4").data)

    def passed() -> dict[str, Any]:
        fingerprint, counts = _one_pass(splits, train_rows)
        return {"fingerprint": fingerprint, "levels": counts.tolist()}

    kept = first.kept(f"pass {which.hexdigest()}", passed)
    return kept["fingerprint"], np.array(kept["levels"], np.int64)


def _one_pass(
    splits: tuple[ImageSet, ...], train_rows: np.ndarray
) -> tuple[str, Int64[np.ndarray, "c 256"]]:
    digest = hashlib.sha256()
    # Counting how often each level occurs needs no float copy of the set, and whole
    # numbers give the same bits on every machine.
    counts = np.zeros((splits[0].images.shape[3], 256), np.int64)
    trained = np.zeros(len(splits[0].labels), bool)
    trained[train_rows] = True
    for split, (images, labels) in enumerate(splits):
        digest.update(str(images.shape).encode())
        start = 0
        for chunk in chunks(images):
            digest.update(np.ascontiguousarray(chunk).data)
            if split == 0:
                counted = chunk[trained[start : start + len(chunk)]]
                for c, levels in enumerate(counts):
                    levels += np.bincount(counted[..., c].ravel(), minlength=256)
            start += len(chunk)
        digest.update(np.ascontiguousarray(labels, dtype="<i4").data)
    return digest.hexdigest(), counts


def _mean_and_std(
    counts: Int64[np.ndarray, "c 256"],
) -> tuple[Float32[np.ndarray, " c"], Float32[np.ndarray, " c"]]:
    mean, std = [], []
    for of_channel in counts:
        pixels, total, of_squares = (
            int(of_channel @ np.arange(256) ** power) for power in range(3)
        )
        mean.append(total / pixels / 255)
        deviation = math.sqrt(pixels * of_squares - total**2) / pixels / 255
        std.append(max(deviation, _ONE_LEVEL))
    return np.array(mean, np.float32), np.array(std, np.float32)
