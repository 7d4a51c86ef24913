"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from dpet_jax.data.pictures import Pictures, images_of, pictures_of
from dpet_jax.data.source import (
    DataSection,
    Extent,
    ImageSet,
    Source,
    check_labels,
    check_not_empty,
    make_source,
    split_names,
)
from dpet_jax.errors import UserError
from dpet_jax.section import UserPath, check_file_name


def _check_name(name: str) -> str:
    """Refuse a name that leads out of the folder of prepared sets, or to many."""
    for part in re.split("[/:]", name):
        check_file_name(part)
    if re.search(r"[*?\[]", name):
        raise ValueError(f"{name!r} is no name of a set; write cifar10 or name/config")
    return name


class Tfds(DataSection):
    """Any image-classification set prepared in TFDS' array_record layout.

    That is the file format which TFDS reads without TensorFlow. Nothing is ever
    downloaded.
    """

    kind: Literal["tfds"] = "tfds"
    libraries: ClassVar[tuple[str, ...]] = ("tensorflow_datasets", "PIL.Image")
    name: Annotated[str, AfterValidator(_check_name)] = Field(
        "cifar10", description="such as cifar10, cifar10:3.0.2 or name/config"
    )
    path: UserPath = Field(description="folder of the prepared sets, the TFDS data_dir")
    train_split: str = Field("train", description="slices such as train[:80%] work")
    test_split: str = Field("test", description="slices work here too")
    validation_split: str | None = Field(
        None, description="null: drawn from the training examples"
    )

    @property
    def label(self) -> str:
        """First part of the name, such as "cifar10"."""
        return self.name.partition(":")[0].partition("/")[0]

    @property
    def read_from(self) -> Path:
        """Folder of the set's versions; others may lie beside it."""
        return self.path / self.name.partition(":")[0]

    def read(self) -> Source:
        """Read the splits, in the order of the records."""
        builder, folder = self._opened()
        image, label = _find_features(builder.info, folder)
        class_names = list(builder.info.features[label].names)
        splits = split_names(self)
        later = pictures_of(self)
        train, test, *own = (
            _read_split(builder, split, (image, label), self, later) for split in splits
        )
        places = [f"{folder} split {split!r}" for split in splits]
        return make_source(self.label, train, test, class_names, places, *own)

    def extent(self) -> Extent | None:
        """Add up the records of the splits."""
        builder, folder = self._opened()
        image, _ = _find_features(builder.info, folder)
        counts = {split: _num_rows(builder, split) for split in split_names(self)}
        (first,) = _records(builder, self.train_split, image, 1)
        return Extent(sum(counts.values()), first[image])

    def _opened(self) -> tuple[Any, Path]:
        """Return TFDS' builder of the set, and the folder of its files."""
        import tensorflow_datasets as tfds

        # Made from the files rather than from the name, for a name that TFDS knows but
        # does not find makes it try the network for minutes.
        folder = self._folder()
        try:
            builder = tfds.builder_from_directory(str(folder))
        except Exception as error:  # it parses several files, each in its own way
            raise UserError(
                f"{folder}: cannot be read as a prepared TFDS set ({error}); copy or "
                "prepare the set again."
            ) from error
        file_format = builder.info.file_format
        if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"{folder}: files are in the format "
                f"{getattr(file_format, 'value', None)}, which TFDS reads only with "
                "TensorFlow; prepare the set again with file_format='array_record'. "
                f"{self._remedy()}"
            )
        return builder, folder

    def _folder(self) -> Path:
        """Return the folder of the set, the newest version if none is asked for."""
        if not os.path.isdir(self.path):
            raise UserError(
                f"{self.path}: no such folder; set data.path to the folder of prepared "
                f"TFDS sets. {self._remedy()}"
            )
        place, _, version = self.name.partition(":")
        inside = self.path / place
        found = sorted(inside.glob(f"**/{version or '*'}/dataset_info.json"))
        folders = [file.parent for file in found]
        if not folders:
            raise UserError(
                f"{inside}: no prepared TFDS set {self.name!r}, no dataset_info.json "
                f"below that folder. {self._remedy()}"
            )
        if len({folder.parent for folder in folders}) > 1:
            configs = sorted({folder.parent.name for folder in folders})
            raise UserError(
                f"{inside}: several configs, {', '.join(configs)}; set data.name to "
                f"{place}/{configs[0]} or another one."
            )
        folder = max(folders, key=_version)
        for entry in folder.iterdir():
            if not (os.path.isfile(entry) or os.path.isdir(entry)):
                # a pipe would be waited for
                raise UserError(f"{entry}: is no regular file; move it away.")
        return folder

    def _remedy(self) -> str:
        if self.label in ("cifar10", "cifar100"):
            return "Or read the official archive: --data.kind=cifar --data.path=FILE"
        return (
            "Make it where TensorFlow is installed, with "
            f"tfds.builder({self.name!r}, data_dir=DIR, file_format='array_record')"
            ".download_and_prepare()"
        )


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(part) for part in parts) if all(map(str.isdigit, parts)) else ()


def _find_features(info: Any, folder: Path) -> tuple[str, str]:
    from tensorflow_datasets import features as kinds

    features = dict(info.features.items())
    pictures = [k for k, v in features.items() if isinstance(v, kinds.Image)]
    labels = [k for k, v in features.items() if isinstance(v, kinds.ClassLabel)]
    keys = info.supervised_keys
    if keys and len(keys) == 2 and keys[0] in pictures and keys[1] in labels:
        return keys[0], keys[1]
    if len(labels) > 1 and "label" in labels:
        labels = ["label"]
    if len(pictures) == 1 and len(labels) == 1:
        return pictures[0], labels[0]
    given = ", ".join(f"{key}: {type(one).__name__}" for key, one in features.items())
    raise UserError(
        f"{folder}: not one Image and one ClassLabel per example; features: {given}. "
        "Choose an image classification set."
    )


def _read_split(
    builder: Any,
    split: str,
    features: tuple[str, str],
    section: Tfds,
    later: Pictures | None,
) -> ImageSet:
    image, label = features
    place = _place(builder, split)
    rows = _records(builder, split, image, _num_rows(builder, split))
    labels = check_labels(np.array([row[label] for row in rows]), f"{place}, {label}")
    blobs = [row[image] for row in rows]
    images = images_of(later, blobs, lambda row: f"{place} row {row}", section)
    return ImageSet(images, labels)


def _place(builder: Any, split: str) -> str:
    return f"{builder.data_dir} split {split!r}"


def _num_rows(builder: Any, split: str) -> int:
    place = _place(builder, split)
    try:
        num_rows = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        present = ", ".join(sorted(builder.info.splits))
        raise UserError(
            f"{place}: no such split; splits: {present}. Set data.train_split, "
            "data.test_split or data.validation_split."
        ) from error
    check_not_empty(num_rows, place)
    return num_rows


def _records(builder: Any, split: str, image: str, count: int) -> list[dict[str, Any]]:
    """Return the first records of a split, their pictures as they lie in the file."""
    from tensorflow_datasets.core.decode import SkipDecoding

    try:
        return builder.as_data_source(
            split, decoders={image: SkipDecoding()}
        ).__getitems__(range(count))
    except Exception as error:  # each layer of a damaged file has its own exceptions
        raise UserError(
            f"{_place(builder, split)}: the records cannot be read ({error}); copy or "
            "prepare the set again."
        ) from error
