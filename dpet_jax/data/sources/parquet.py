"""Folders of parquet files as the Hugging Face hub lays them out."""

import glob
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from dpet_jax.data.class_folders import names_of
from dpet_jax.data.decode import decode_images
from dpet_jax.data.pictures import Pictures, pictures_of
from dpet_jax.data.rows import Rows
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
from dpet_jax.section import UserPath

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
# train-00000-of-00002.parquet; older exports put a hash behind the numbers.
_SHARD = re.compile(r".+-(?P<index>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?\.parquet")


class Parquet(DataSection):
    """A folder in the Hugging Face hub's parquet layout.

    It holds train.parquet or train-*.parquet, and the same for test, each with a column
    of picture files and one of class numbers. Class names come from the hub's metadata,
    where the files have it.
    """

    kind: Literal["parquet"] = "parquet"
    libraries: ClassVar[tuple[str, ...]] = (
        *("pyarrow.compute", "pyarrow.parquet", "PIL.Image"),
    )
    path: UserPath = Field(description="folder with train-*.parquet and test-*.parquet")
    train_split: str = Field("train", description="what its files begin with")
    test_split: str = Field("test", description="likewise")
    validation_split: str | None = Field(
        None, description="null: drawn from the training examples"
    )
    image_column: str | None = Field(
        None,
        description="of picture files, or structs with them in `bytes`; null: img, "
        "image or the only such one",
    )
    label_column: str | None = Field(
        None, description="integers; null: label, fine_label or labels"
    )

    @property
    def label(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    def read(self) -> Source:
        """Read both splits, the files of each in the order of their names."""
        if not os.path.isdir(self.path):
            raise UserError(
                f"{self.path}: no such folder; set data.path to a folder that holds "
                "train-*.parquet and test-*.parquet."
            )
        names = split_names(self)
        files = {name: _files(self.path, name) for name in names}
        self._report_left_out([file for found in files.values() for file in found])
        later = pictures_of(self)
        parts = {
            name: [_read_file(file, self, later) for file in found]
            for name, found in files.items()
        }
        class_names = _agree([part for found in parts.values() for part in found])
        splits = []
        for name, found in parts.items():
            check_not_empty(
                sum(len(part.blobs) for part in found), f"{self.path} {name}"
            )
            splits.append(_join(found, self, class_names, later))
        train, test, *own = splits
        places = [f"{self.path} {name} split" for name in names]
        return make_source(self.label, train, test, class_names, places, *own)

    def extent(self) -> Extent | None:
        """Count the rows that the files name in their footers."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = [file for name in split_names(self) for file in _files(self.path, name)]
        try:
            count = sum(pq.read_metadata(file).num_rows for file in found)
        except (pa.ArrowException, OSError):
            return None  # `read` says what is wrong
        first = self.some(1)
        return Extent(count, first[0]) if first else None

    def some(self, count: int) -> list[bytes]:
        """Return the files of the first training pictures, without reading the rest.

        Args:
            count: At most so many.

        Raises:
            UserError: If there is no such file, or it cannot be read.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        file = _files(self.path, self.train_split)[0]
        try:
            with pq.ParquetFile(file) as opened:
                name = self.image_column or _find_image(opened.schema_arrow, file)
                batch = next(opened.iter_batches(count, columns=[name]), None)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{file}: cannot be read as parquet ({error}); copy or download it "
                "again."
            ) from error
        if batch is None:
            return []
        pictures = batch.column(0)
        if pa.types.is_struct(pictures.type):
            pictures = pc.struct_field(pictures, "bytes")
        return [blob for blob in pictures.to_pylist() if blob is not None]

    def _report_left_out(self, read: Sequence[Path]) -> None:
        others = sorted({*self.path.glob("*.parquet")} - {*read})
        if others:
            logging.getLogger(__name__).warning(
                "%s: left out, since they are of no split that data.train_split, "
                "data.test_split or data.validation_split names: %s",
                *(self.path, names_of(others, self.path)),
            )


class _Rows(NamedTuple):
    file: Path
    blobs: Sequence[bytes]
    labels: np.ndarray
    label_column: str
    class_names: list[str] | None


def _files(folder: Path, split: str) -> list[Path]:
    files = sorted(
        file
        for file in folder.glob("*.parquet")
        if file.stem == split or file.name.startswith(f"{split}-")
    )
    if files:
        _check_shards(files, split)
        return files
    present = ", ".join(sorted(file.name for file in folder.glob("*.parquet"))[:10])
    deeper = sorted(folder.glob(f"*/**/{glob.escape(split)}[-.]*parquet"))
    remedy = "two splits are needed, to train and to test on"
    if deeper:
        remedy = f"set data.path to the folder of {deeper[0]}"
    elif present:
        remedy = (
            "set data.train_split, data.test_split or data.validation_split to what "
            "the names of its files begin with"
        )
    raise UserError(
        f"{folder}: no file {split}.parquet or {split}-*.parquet (parquet files there: "
        f"{present or 'none'}); {remedy}."
    )


def _check_shards(files: list[Path], split: str) -> None:
    """Refuse a split of which the file names say that it is not whole."""
    numbered = {file: _SHARD.fullmatch(file.name) for file in files}
    special = [file for file in files if not os.path.isfile(file)]
    if special:  # a pipe would be waited for
        raise UserError(f"{special[0]}: is no regular file; move it away.")
    if len(files) > 1 and any(file.stem == split for file in files):
        raise UserError(
            f"{files[0].parent}: {files[0].name} beside {files[-1].name}; leave one "
            "export of the split in the folder."
        )
    if not any(numbered.values()):
        return
    counts: dict[int, list[Path]] = defaultdict(list)
    shards: dict[int, list[Path]] = defaultdict(list)
    for file, match in numbered.items():
        counts[int(match["count"]) if match else 0].append(file)
        shards[int(match["index"]) if match else -1].append(file)
    if len(counts) > 1:
        one_each = ", ".join(found[0].name for found in counts.values())
        raise UserError(
            f"{files[0].parent}: files of several exports ({one_each}); leave those of "
            "one export in the folder."
        )
    (count,) = counts
    for found in shards.values():
        if len(found) > 1:
            raise UserError(
                f"{found[0]} and {found[1].name} are the same shard; remove one."
            )
    missing = [index for index in range(min(count, 100_000)) if index not in shards]
    if missing or len(shards) > count:
        lacks = ", ".join(f"{split}-{i:05}-of-{count:05}" for i in missing[:5])
        raise UserError(
            f"{files[0].parent}: {len(shards)} of {count} files of the {split} split; "
            f"{f'lacking are {lacks}' if missing else 'some have impossible numbers'}"
            f"{' and more' if len(missing) > 5 else ''}. Download them again."
        )


def _read_file(file: Path, section: Parquet, later: Pictures | None) -> _Rows:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        image = section.image_column or _find_image(schema, file)
        label = section.label_column or _find_label(schema, file)
        _check_columns(schema, image, label, file)
        table = pq.read_table(file, columns=[image, label])
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{file}: cannot be read as parquet ({error}); copy or download it again."
        ) from error
    pictures = table.column(image)
    if pa.types.is_struct(pictures.type):
        pictures = pc.struct_field(pictures, "bytes")
    blobs = pictures.to_pylist()
    labels = table.column(label)
    for column, nulls in (
        (image, [b is None for b in blobs]),
        (label, labels.is_null()),
    ):
        missing = np.flatnonzero(np.asarray(nulls))
        if len(missing):
            raise UserError(
                f"{file} row {missing[0]}: column {column!r} is empty; the picture "
                "file itself and its label must both be there. Correct or remove the "
                "row."
            )
    if later is not None and blobs:
        blobs = later.written(blobs)
    return _Rows(file, blobs, labels.to_numpy(), label, _class_names(schema, label))


def _agree(parts: Sequence[_Rows]) -> list[str] | None:
    """Return the class names, which all files that have any must have in common."""
    named = [(part.file, part.class_names) for part in parts if part.class_names]
    if not named:
        return None
    first_file, first = named[0]
    for file, names in named[1:]:
        in_common = len(set(names)) == len(names) and sorted(names) == sorted(first)
        if names != first and not in_common:
            only = sorted(set(first) ^ set(names)) or ["a name that occurs twice"]
            raise UserError(
                f"{first_file} and {file} do not name the same classes; different is "
                f"{', '.join(only[:5])}. Export all files with one list of names."
            )
    return first


def _join(
    parts: Sequence[_Rows],
    section: Parquet,
    class_names: list[str] | None,
    later: Pictures | None,
) -> ImageSet:
    parts = [part for part in parts if len(part.blobs)]
    labels = np.concatenate([_labels(part, class_names) for part in parts])
    if later is not None:
        added = [later.added(part.blobs, _place([part])) for part in parts]
        return ImageSet(Rows(later, np.concatenate(added)), labels)
    blobs = [blob for part in parts for blob in part.blobs]
    images = decode_images(blobs, _place(parts), section.size, section.resize)
    return ImageSet(images, labels)


def _labels(part: _Rows, class_names: list[str] | None) -> np.ndarray:
    num_classes = None if class_names is None else len(class_names)
    place = f"{part.file}, column {part.label_column!r}"
    labels = check_labels(part.labels, place, num_classes)
    if class_names is None or part.class_names in (None, class_names):
        return labels
    # This file has the names in an order of its own.
    order = [class_names.index(name) for name in part.class_names or ()]
    return np.array(order, np.int32)[labels]


def _place(parts: Sequence[_Rows]) -> Callable[[int], str]:
    ends = np.cumsum([len(part.blobs) for part in parts])

    def place(row: int) -> str:
        i = int(np.searchsorted(ends, row, side="right"))
        return f"{parts[i].file} row {row - (ends[i] - len(parts[i].blobs))}"

    return place


def _find_image(schema: Any, file: Path) -> str:
    columns = [field.name for field in schema if _holds_pictures(field.type)]
    for name in _IMAGE_COLUMNS:
        if name in columns:
            return name
    if len(columns) == 1:
        return columns[0]
    raise UserError(
        f"{file}: {'no' if not columns else 'more than one'} column of pictures, "
        f"bytes or a struct with `bytes`; columns: {', '.join(schema.names)}. Set "
        "data.image_column."
    )


def _find_label(schema: Any, file: Path) -> str:
    for name in _LABEL_COLUMNS:
        if name in schema.names:
            return name
    raise UserError(
        f"{file}: no column {', '.join(_LABEL_COLUMNS)}; columns: "
        f"{', '.join(schema.names)}. Set data.label_column."
    )


def _check_columns(schema: Any, image: str, label: str, file: Path) -> None:
    import pyarrow as pa

    for name, key in ((image, "image_column"), (label, "label_column")):
        if name not in schema.names:
            raise UserError(
                f"{file}: no column {name!r}; columns: {', '.join(schema.names)}. "
                f"Correct data.{key}."
            )
    if not _holds_pictures(schema.field(image).type):
        raise UserError(
            f"{file}: column {image!r} is {schema.field(image).type}, neither the "
            "picture file nor a struct with it in `bytes`; set data.image_column to "
            "another one."
        )
    if not pa.types.is_integer(schema.field(label).type):
        raise UserError(
            f"{file}: column {label!r} is {schema.field(label).type}, not integers; "
            "number the classes from 0, or set data.label_column to another one."
        )


def _holds_pictures(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    of = pa.types
    return of.is_binary(kind) or of.is_large_binary(kind) or of.is_binary_view(kind)


def _class_names(schema: Any, label: str) -> list[str] | None:
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None  # written by another tool; labels are numbered then
    return [str(name) for name in names] if isinstance(names, list) else None
