"""Images that lie in a file, or are decoded, and are read when they are asked for."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from dpet_jax.data.decode import empty_images
from dpet_jax.errors import DamagedFileError
from dpet_jax.files import read_json, write_whole

# Rows looked at together, so that no pass over a data set copies it.
_CHUNK_ROWS = 1024


@runtime_checkable
class Readable(Protocol):
    """Where images are read from: a memory-mapped array, or pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, height, width and channels."""
        ...

    def take(self, rows: Any, axis: int) -> np.ndarray:
        """Return the images of some rows."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a place where images are read from, in any order.

    To a reader it is an array: `images[rows]` are rows again, and reading them begins
    with `np.asarray`, or with `take`.

    Attributes:
        place: What holds the images.
        index: Which of them these are.
        facts: A JSON file for what passes over the images find; None for none.
        identity: Which images the place holds, as a text that changes with them.
    """

    place: Readable
    index: Int64[np.ndarray, " n"]
    facts: Path | None = None
    identity: str = ""

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, height, width and channels."""
        return (self.index.size, *self.place.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of their pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.index.size

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int | np.integer):
            return self.take(np.array([rows]))[0]
        return Rows(self.place, self.index[rows], self.facts, self.identity)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w c"]]:
        for chunk in chunks(self):
            yield from chunk

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images that are read are a copy")
        return self.take(np.arange(self.index.size)).astype(dtype or self.dtype)

    def take(self, rows: Any, axis: int = 0) -> UInt8[np.ndarray, "m h w c"]:
        """Read some of the rows."""
        return self.place.take(self.index[rows], axis=axis)

    def kept(self, what: str, find: Callable[[], Any]) -> Any:
        """Return what a pass over these rows finds, which is made once.

        Args:
            what: Names it, with all else that it depends on.
            find: Makes the pass; returns what JSON holds.
        """
        if self.facts is None:
            return find()
        index = hashlib.sha256(self.index.astype("<i8").data)
        key = f"{what} of {self.identity} {index.hexdigest()}"
        try:
            known = read_json(self.facts) if self.facts.exists() else {}
        except DamagedFileError:
            known = {}
        if key not in known:
            known[key] = find()
            self.facts.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.facts, f"{json.dumps(known, indent=1)}\n")
        return known[key]


def chunks(images: Any) -> Iterator[UInt8[np.ndarray, "m h w c"]]:
    """Read images, an array or rows of a place, a stretch at a time."""
    for start in range(0, len(images), _CHUNK_ROWS):
        yield np.asarray(images[start : start + _CHUNK_ROWS])


def joined(parts: Any) -> UInt8[np.ndarray, "n h w c"] | Rows:
    """Put rows of several arrays behind one another.

    Args:
        parts: Arrays with the rows of each; either all or none are `Rows`, and those of
            one place.
    """
    first = parts[0][0]
    if isinstance(first, Rows):
        index = np.concatenate([images.index[rows] for images, rows in parts])
        return Rows(first.place, index, first.facts, first.identity)
    images = empty_images(sum(len(rows) for _, rows in parts), *first.shape[1:])
    start = 0
    for source, rows in parts:
        out = images[start : start + len(rows)]
        np.take(source, rows, axis=0, out=out)
        start += len(rows)
    return images
