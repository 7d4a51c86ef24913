"""MNIST's format: four files of bytes, as Fashion-MNIST is published, read as it is."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int32, UInt8
from pydantic import Field

from dpet_jax.arrays import memory
from dpet_jax.data.source import (
    DataSection,
    ImageSet,
    Source,
    check_images,
    check_labels,
    make_source,
)
from dpet_jax.errors import UserError
from dpet_jax.section import UserPath

_Split = Literal["train", "test"]
#: What the files of a split begin with.
_PREFIX: dict[_Split, str] = {"train": "train", "test": "t10k"}
#: Axes of what a file holds, as its name says and its third and fourth byte.
_AXES = {"images": 3, "labels": 1}
_UNSIGNED_BYTE = 8
_REMEDY = "download the four official files again"


class Idx(DataSection):
    """MNIST and Fashion-MNIST as they are published: four idx files, packed or not.

    train-images-idx3-ubyte, train-labels-idx1-ubyte and the same two of t10k, each
    with .gz or without; the split is the official one.

    Source:
        LeCun, Cortes & Burges (1998), "The MNIST database of handwritten digits";
        Xiao, Rasul & Vollgraf (2017), "Fashion-MNIST".
    """

    kind: Literal["idx"] = "idx"
    path: UserPath = Field(description="the folder with the four files")
    class_names: tuple[str, ...] | None = Field(
        None, description="in the order of the labels; by default their numbers"
    )

    @property
    def label(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    def read(self) -> Source:
        """Read both splits, rows in the order of the files."""
        train, test = (read_split(self.path, split) for split in ("train", "test"))
        names, found = self.class_names, int(train.labels.max()) + 1
        if names is not None and len(names) != found:
            raise UserError(
                f"data.class_names: {len(names)} names, but the labels of {self.path} "
                f"are 0 to {found - 1}; give {found} names, or leave the key away."
            )
        places = [f"{self.path} {split}" for split in ("train", "test")]
        return make_source(self.label, train, test, names, places)


def holds_idx(folder: Path) -> bool:
    """Return whether a folder has one of the four files at least."""
    return any(
        _file(folder, split, what) is not None for split in _PREFIX for what in _AXES
    )


def read_split(folder: Path, split: _Split) -> ImageSet:
    """Read the images and labels of one split.

    Args:
        folder: Holds the files.
        split: Which of the two.

    Raises:
        UserError: If a file is missing, is not what its name says, is cut short or too
            long, or there are not as many labels as images.
    """
    files = {what: _file(folder, split, what) for what in _AXES}
    missing = [_names(split, what)[0] for what, file in files.items() if file is None]
    if missing:
        raise UserError(
            f"{folder}: lacks {' and '.join(missing)} (or the same with .gz); {_REMEDY}"
            " and set data.path to their folder."
        )
    arrays = {what: _read(cast(Path, file), what) for what, file in files.items()}
    images, labels = arrays["images"], arrays["labels"]
    if len(images) != len(labels):
        raise UserError(
            f"{files['labels']}: {len(labels):,} labels, but {files['images']} has "
            f"{len(images):,} images; are they of two sets? Put those of one together."
        )
    return ImageSet(
        check_images(images, str(files["images"])),
        check_labels(labels, str(files["labels"])),
    )


def _names(split: _Split, what: str) -> list[str]:
    """Return what a file may be called: some mirrors have a dot before idx."""
    axes = _AXES[what]
    stems = [f"{_PREFIX[split]}-{what}{dot}idx{axes}-ubyte" for dot in "-."]
    return [stem + end for stem in stems for end in ("", ".gz")]


def _file(folder: Path, split: _Split, what: str) -> Path | None:
    candidates = (folder / name for name in _names(split, what))
    return next((file for file in candidates if os.path.isfile(file)), None)


def _read(
    file: Path, what: str
) -> UInt8[np.ndarray, "n h w"] | Int32[np.ndarray, " n"]:
    """Read a file whose header says what its name does, and how large it is."""
    opening: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opening(file, "rb") as opened:
            return _parse(file, what, opened)
    except UserError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{file}: cannot be read ({error}); it may be cut short: {_REMEDY}."
        ) from error


def _parse(file: Path, what: str, opened: Any) -> Any:
    axes = _AXES[what]
    header = opened.read(4 * (1 + axes))
    magic = bytes((0, 0, _UNSIGNED_BYTE, axes))
    if header[:4] != magic or len(header) < 4 * (1 + axes):
        raise UserError(
            f"{file}: begins with {header[:4].hex() or 'nothing'}, but {what} in bytes "
            f"begin with {magic.hex()}; {_other(header) or _REMEDY}."
        )
    shape = struct.unpack(f">{axes}I", header[4:])
    size = math.prod(shape)
    if size > memory():
        raise UserError(
            f"{file}: its header says {' x '.join(map(str, shape))} bytes, more than "
            f"this machine's memory; {_REMEDY}."
        )
    content = opened.read(size + 1)
    if len(content) != size:
        have = f"{len(content):,} bytes" if len(content) < size else "more bytes"
        raise UserError(
            f"{file}: {have} after a header that says {' x '.join(map(str, shape))} = "
            f"{size:,}; {_REMEDY}."
        )
    values = np.frombuffer(content, np.uint8).reshape(shape)
    return values.astype(np.int32) if what == "labels" else values


def _other(header: bytes) -> str | None:
    """Return what to do about a file that is another one of the four."""
    for what, axes in _AXES.items():
        if header[:4] == bytes((0, 0, _UNSIGNED_BYTE, axes)):
            return f"it holds {what}: give each file the name that it came with"
    if header[:2] == b"\x1f\x8b":
        return "it is packed: end its name with .gz"
    return None
