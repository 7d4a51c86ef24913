"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dpet_jax.data.decode import check_image_size, decode_images
from dpet_jax.data.source import (
    ImageSet,
    Source,
    check_labels,
    check_not_empty,
    make_source,
)
from dpet_jax.errors import UserError

_IMPORTABLE = ("cifar10", "cifar100")


def read(
    name: str,
    path: str | Path,
    train_split: str = "train",
    test_split: str = "test",
    image_size: int | None = None,
) -> Source:
    """Read an image classification set that lies prepared in a TFDS data folder.

    Files must be in the array_record format, the one that TFDS reads without
    TensorFlow. Nothing is ever downloaded. The builder is made from the files rather
    than from the name, for a name that TFDS knows but does not find makes it try the
    network for minutes.

    Args:
        name: Name in TFDS, such as "cifar10", "cifar10:3.0.2" or "name/config".
        path: The folder with the prepared sets, TFDS's `data_dir`.
        train_split: Split to train on; slices such as "train[:80%]" work.
        test_split: Split to test on.
        image_size: Side in pixels to which each picture is resized while decoding, or
            None to take them as they are.

    Returns:
        The data set, named after its first part: "cifar10".

    Raises:
        UserError: If the set is missing or in another format, has no such split, or
            is not one picture and one class label per example.
    """
    check_image_size(image_size)
    folder = _find(name, Path(path))
    builder = tfds.builder_from_directory(str(folder))
    file_format = builder.info.file_format
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{folder}: files are in the format {getattr(file_format, 'value', None)}, "
            "which TFDS reads only with TensorFlow; prepare the set again with "
            f"file_format='array_record'. {_how_to_import(name)}"
        )
    image, label = _find_features(builder.info, folder)
    class_names = list(builder.info.features[label].names)
    train, test = (
        _read_split(builder, split, image, label, image_size)
        for split in (train_split, test_split)
    )
    places = (f"{folder} split {train_split!r}", f"{folder} split {test_split!r}")
    return make_source(_base_name(name), train, test, class_names, places)


def _base_name(name: str) -> str:
    return name.partition(":")[0].partition("/")[0]


def _find(name: str, path: Path) -> Path:
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; set data.path to the folder of prepared TFDS "
            f"sets. {_how_to_import(name)}"
        )
    place, _, version = name.partition(":")
    found = sorted((path / place).glob(f"**/{version or '*'}/dataset_info.json"))
    folders = [file.parent for file in found]
    if not folders:
        raise UserError(
            f"{path / place}: no prepared TFDS set {name!r}, no dataset_info.json "
            f"below that folder. {_how_to_import(name)}"
        )
    if len({folder.parent for folder in folders}) > 1:
        configs = sorted({folder.parent.name for folder in folders})
        raise UserError(
            f"{path / place}: several configs, {', '.join(configs)}; set data.name to "
            f"{place}/{configs[0]} or another one."
        )
    return max(folders, key=_version)


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(part) for part in parts) if all(map(str.isdigit, parts)) else ()


def _how_to_import(name: str) -> str:
    base = _base_name(name)
    if base in _IMPORTABLE:
        return f"Make it with: dpet data import {base} --from PATH --to DIR"
    return (
        f"Make it where TensorFlow is installed, with tfds.builder({name!r}, "
        "data_dir=DIR, file_format='array_record').download_and_prepare()"
    )


def _find_features(info: Any, folder: Path) -> tuple[str, str]:
    features = dict(info.features.items())
    pictures = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    labels = [k for k, v in features.items() if isinstance(v, tfds.features.ClassLabel)]
    keys = info.supervised_keys
    if keys and len(keys) == 2 and keys[0] in pictures and keys[1] in labels:
        return keys[0], keys[1]
    if len(labels) > 1 and "label" in labels:
        labels = ["label"]
    if len(pictures) == 1 and len(labels) == 1:
        return pictures[0], labels[0]
    kinds = ", ".join(
        f"{key}: {type(value).__name__}" for key, value in features.items()
    )
    raise UserError(
        f"{folder}: not one Image and one ClassLabel per example; features: {kinds}. "
        "Choose an image classification set."
    )


def _read_split(
    builder: Any, split: str, image: str, label: str, image_size: int | None
) -> ImageSet:
    place = f"{builder.data_dir} split {split!r}"
    try:
        num_rows = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        present = ", ".join(sorted(builder.info.splits))
        raise UserError(
            f"{place}: no such split; splits: {present}. Set data.train_split and "
            "data.test_split."
        ) from error
    check_not_empty(num_rows, place)
    try:
        rows = builder.as_data_source(
            split, decoders={image: tfds.decode.SkipDecoding()}
        ).__getitems__(range(num_rows))
    except Exception as error:  # each layer of a damaged file has its own exceptions
        raise UserError(
            f"{place}: the records cannot be read ({error}); copy or prepare the set "
            "again."
        ) from error
    labels = check_labels(np.array([row[label] for row in rows]), f"{place}, {label}")
    blobs = [row[image] for row in rows]
    images = decode_images(blobs, lambda row: f"{place} row {row}", image_size)
    return ImageSet(images, labels)
