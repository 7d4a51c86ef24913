"""Folders of parquet files as the Hugging Face hub lays them out."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dpet_jax.data.decode import check_image_size, decode_images
from dpet_jax.data.source import (
    ImageSet,
    Source,
    check_labels,
    check_not_empty,
    make_source,
)
from dpet_jax.errors import UserError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label", "labels")


class _Rows(NamedTuple):
    file: Path
    blobs: list[bytes]
    labels: np.ndarray
    label_column: str
    class_names: list[str] | None


def read(
    path: str | Path,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
) -> Source:
    """Read `train-*.parquet` and `test-*.parquet` of one folder.

    The files of a split are joined in the order of their names.

    Args:
        path: The folder.
        image_column: Column of structs {bytes, path} with picture files; None takes
            `img`, `image` or the only such column.
        label_column: Column of integers; None takes `label`, `fine_label` or `labels`.
        image_size: Side in pixels to which each picture is resized while decoding, or
            None to take them as they are.

    Returns:
        The data set, named after the folder. Class names come from the hub's metadata
        where the files have it.

    Raises:
        UserError: If a folder, file, column or row is missing or not as above.
    """
    check_image_size(image_size)
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; set data.path to a folder that holds "
            "train-*.parquet and test-*.parquet."
        )
    found = {split: _files(folder, split) for split in ("train", "test")}
    splits: list[ImageSet] = []
    class_names: list[str] | None = None
    for split, files in found.items():
        parts = [_read_file(file, image_column, label_column) for file in files]
        class_names = class_names or parts[0].class_names
        check_not_empty(sum(len(part.blobs) for part in parts), f"{folder} {split}")
        splits.append(_join(parts, image_size, class_names))
    places = (f"{folder} train split", f"{folder} test split")
    return make_source(folder.resolve().name, splits[0], splits[1], class_names, places)


def _files(folder: Path, split: str) -> list[Path]:
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if files:
        return files
    present = ", ".join(sorted(file.name for file in folder.glob("*.parquet"))[:10])
    deeper = next(iter(sorted(folder.glob(f"*/**/{split}-*.parquet"))), None)
    remedy = (
        "a train and a test split are needed, named as on the Hugging Face hub"
        if deeper is None
        else f"set data.path to the folder of {deeper}"
    )
    raise UserError(
        f"{folder}: no file {split}-*.parquet (parquet files there: "
        f"{present or 'none'}); {remedy}."
    )


def _read_file(file: Path, image_column: str | None, label_column: str | None) -> _Rows:
    try:
        schema = pq.read_schema(file)
        image = image_column or _find_image(schema, file)
        label = label_column or _find_label(schema, file)
        _check_columns(schema, image, label, file)
        table = pq.read_table(file, columns=[image, label])
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{file}: cannot be read as parquet ({error}); copy or download it again."
        ) from error
    blobs = pc.struct_field(table.column(image), "bytes").to_pylist()
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
    return _Rows(file, blobs, labels.to_numpy(), label, _class_names(schema, label))


def _join(
    parts: Sequence[_Rows], image_size: int | None, class_names: list[str] | None
) -> ImageSet:
    num_classes = None if class_names is None else len(class_names)
    labels = [
        check_labels(
            part.labels, f"{part.file}, column {part.label_column!r}", num_classes
        )
        for part in parts
        if part.blobs
    ]
    blobs = [blob for part in parts for blob in part.blobs]
    return ImageSet(
        decode_images(blobs, _place(parts), image_size), np.concatenate(labels)
    )


def _place(parts: Sequence[_Rows]) -> Callable[[int], str]:
    ends = np.cumsum([len(part.blobs) for part in parts])

    def place(row: int) -> str:
        i = int(np.searchsorted(ends, row, side="right"))
        return f"{parts[i].file} row {row - (ends[i] - len(parts[i].blobs))}"

    return place


def _find_image(schema: pa.Schema, file: Path) -> str:
    columns = [field.name for field in schema if _holds_pictures(field.type)]
    for name in _IMAGE_COLUMNS:
        if name in columns:
            return name
    if len(columns) == 1:
        return columns[0]
    raise UserError(
        f"{file}: {'no' if not columns else 'more than one'} column of pictures, a "
        f"struct with `bytes`; columns: {', '.join(schema.names)}. Set "
        "data.image_column."
    )


def _find_label(schema: pa.Schema, file: Path) -> str:
    for name in _LABEL_COLUMNS:
        if name in schema.names:
            return name
    raise UserError(
        f"{file}: no column {', '.join(_LABEL_COLUMNS)}; columns: "
        f"{', '.join(schema.names)}. Set data.label_column."
    )


def _check_columns(schema: pa.Schema, image: str, label: str, file: Path) -> None:
    for name, key in ((image, "image_column"), (label, "label_column")):
        if name not in schema.names:
            raise UserError(
                f"{file}: no column {name!r}; columns: {', '.join(schema.names)}. "
                f"Correct data.{key}."
            )
    if not _holds_pictures(schema.field(image).type):
        raise UserError(
            f"{file}: column {image!r} is {schema.field(image).type}, not a struct "
            "with the picture file in `bytes`; set data.image_column to another one."
        )
    if not pa.types.is_integer(schema.field(label).type):
        raise UserError(
            f"{file}: column {label!r} is {schema.field(label).type}, not integers; "
            "number the classes from 0, or set data.label_column to another one."
        )


def _holds_pictures(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    inner = kind.field("bytes").type
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None  # written by another tool; labels are numbered then
    return [str(name) for name in names] if isinstance(names, list) else None
