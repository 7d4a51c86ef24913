"""From a source to the arrays that a run uses."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from dpet_jax.data.decode import resize_images
from dpet_jax.data.source import ImageSet, Source
from dpet_jax.data.split import (
    add_label_noise,
    check_seed,
    stratified_split,
    stratified_subset,
)

_CHUNK_ROWS = 1024
_ONE_LEVEL = 1 / 255


@dataclass(frozen=True, eq=False)
class Data:
    """The examples of a run, in the order training | validation | test.

    Attributes:
        name: What results call the data set.
        images: Pixels, 0 to 255.
        labels: Class of each image, in [0, k); in the training split with noise.
        num_train: Size of the training split, from which the pool is made.
        num_validation: Size of the validation split, drawn from the source's training
            split; may be 0.
        num_test: Size of the test split.
        source_rows: Row number of each example in the source's own training split
            (training, validation) or test split (test).
        class_names: One name per class, in label order.
        mean: Per channel, over the training split, of pixels in [0, 1].
        std: Per channel likewise, at least one grey level, 1/255, so that a constant
            channel can be divided by it.
        fingerprint: SHA-256 of the source's pixels and labels after resizing, before
            split and noise: with `source_rows` it says which examples these are.
        noisy_rows: Positions in the training split whose label was changed, ascending.
        clean_labels: The right labels of `noisy_rows`.
    """

    name: str
    images: UInt8[np.ndarray, "n h w c"]
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

    @property
    def num_classes(self) -> int:
        """Number of classes, k."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

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


def prepare(
    source: Source,
    *,
    image_size: int | None = None,
    validation_fraction: float = 0.1,
    train_examples: int | None = None,
    split_seed: int = 0,
    label_noise: float = 0.0,
    noise_seed: int = 0,
) -> Data:
    """Resize, split and spoil a source, and measure its pixels.

    The validation split leaves the training data before anything else happens to it:
    mean, standard deviation and label noise concern the training split alone.

    Args:
        source: The data set as read.
        image_size: Side in pixels to which all images are resized by averaging areas,
            or None to keep them. Sources that take `image_size` have resized already.
        validation_fraction: Share of the source's training split, in [0, 1).
        train_examples: Examples that the training split keeps, drawn from every class
            in proportion; None keeps all.
        split_seed: Seed of both draws, from 0; independent of the run's, so that runs
            with other seeds are paired.
        label_noise: Share of training labels that are made wrong, in [0, 1].
        noise_seed: Seed of the noise, from 0.

    Returns:
        The arrays of a run.

    Raises:
        UserError: If a setting is out of range or a class is too small to be split.
    """
    check_seed(noise_seed, "data.noise_seed")
    train = ImageSet(
        resize_images(source.train.images, image_size), source.train.labels
    )
    test = ImageSet(resize_images(source.test.images, image_size), source.test.labels)
    train_rows, validation_rows = stratified_split(
        train.labels, validation_fraction, split_seed
    )
    if train_examples is not None:
        rows = stratified_subset(train.labels[train_rows], train_examples, split_seed)
        train_rows = train_rows[rows]
    clean = train.labels[train_rows]
    noisy, noisy_rows = add_label_noise(
        clean, label_noise, noise_seed, len(source.class_names)
    )
    drawn = np.concatenate([train_rows, validation_rows])
    images = np.empty(
        (len(drawn) + len(test.images), *train.images.shape[1:]), np.uint8
    )
    np.take(train.images, drawn, axis=0, out=images[: len(drawn)])
    images[len(drawn) :] = test.images
    mean, std = _mean_and_std(images[: len(train_rows)])
    return Data(
        name=source.name,
        images=images,
        labels=np.concatenate([noisy, train.labels[validation_rows], test.labels]),
        num_train=len(train_rows),
        num_validation=len(validation_rows),
        num_test=len(test.labels),
        source_rows=np.concatenate([drawn, np.arange(len(test.labels))]),
        class_names=source.class_names,
        mean=mean,
        std=std,
        fingerprint=_fingerprint(train, test),
        noisy_rows=noisy_rows,
        clean_labels=clean[noisy_rows],
    )


def _mean_and_std(
    images: UInt8[np.ndarray, "n h w c"],
) -> tuple[Float32[np.ndarray, " c"], Float32[np.ndarray, " c"]]:
    # Counting how often each level occurs is exact and needs no float copy of the set.
    channels = images.shape[3]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _CHUNK_ROWS):
        chunk = images[start : start + _CHUNK_ROWS]
        for c in range(channels):
            counts[c] += np.bincount(chunk[..., c].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(axis=1)
    std = np.maximum(np.sqrt(variance), _ONE_LEVEL)
    return mean.astype(np.float32), std.astype(np.float32)


def _fingerprint(train: ImageSet, test: ImageSet) -> str:
    digest = hashlib.sha256()
    for images, labels in (train, test):
        digest.update(str(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(labels, dtype="<i4").data)
    return digest.hexdigest()
