"""Picture files that are decoded when their rows are asked for.

For single rows by threads of this process; for a plan of training by Grain, whose
workers run ahead in the order of the plan.
"""

import gc
import multiprocessing
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from dpet_jax.data.decode import Resize, decode_images, is_grey, picture_size
from dpet_jax.data.rows import Rows
from dpet_jax.errors import UserError

# Batches that wait to be asked for, in each process that decodes.
_AHEAD = 4
_THREADS = 4

_kept_in: ContextVar[Path | None] = ContextVar("kept_in", default=None)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Write pictures that come as bytes to a folder, rather than hold them."""
    token = _kept_in.set(folder)
    try:
        yield
    finally:
        _kept_in.reset(token)


def with_grain() -> Any:
    """Return Grain.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import grain
        from absl import flags
    except ImportError as error:
        raise UserError(
            f"data.placement: stream decodes with Grain, which cannot be imported "
            f"({error}); run pip install 'dpet-jax[stream]', or choose host"
        ) from error
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # which Grain's workers ask for
    return grain


class Blobs(Sequence[bytes]):
    """Picture files behind one another in one file, mapped into memory.

    Args:
        folder: Holds the file, and where each picture in it ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = np.load(folder / "ends.npy")
        self._bytes = np.memmap(folder / "pictures.bin", np.uint8, "r")
        if self._ends.size and self._ends[-1] != self._bytes.size:
            raise ValueError("pictures.bin is not as long as ends.npy says")

    def __len__(self) -> int:
        return self._ends.size

    def __getitem__(self, row: Any) -> Any:
        start = self._ends[row - 1] if row else 0
        return self._bytes[start : self._ends[row]].tobytes()

    def __reduce__(self) -> Any:
        return Blobs, (self._folder,)  # a process that decodes maps the file itself


class _Part(NamedTuple):
    files: Sequence[bytes | Path]
    place: Callable[[int], str]


@runtime_checkable
class Order(Protocol):
    """The steps of a plan."""

    num_steps: int

    def rows(self, first_step: int, num_steps: int) -> np.ndarray:
        """Return the rows of some steps, fill rows as their complement."""
        ...


def pictures_of(section: Any) -> "Pictures | None":
    """Return where a section's `read` puts pictures; None if it is to decode them."""
    if section.placement in ("auto", "device"):
        return None
    return Pictures(section.size, section.workers, resize=section.resize)


def images_of(
    pictures: "Pictures | None",
    files: Sequence[bytes | Path],
    place: Callable[[int], str],
    section: Any,
) -> UInt8[np.ndarray, "n h w c"] | Rows:
    """Return the images of picture files, decoded now or when they are asked for.

    Args:
        pictures: From `pictures_of`.
        files: As in `decode_images`.
        place: Names a row.
        section: Says of which size they are to be, and how they come to it.
    """
    if pictures is None:
        return decode_images(files, place, section.size, section.resize)
    return Rows(pictures, pictures.added(files, place))


class Pictures:
    """Pictures of one size, once they are decoded.

    Args:
        size: Height and width to which all are resized; None for that of the first.
        workers: Processes that decode for training; 0 for threads of this one.
        shape: Height, width and channels of all; None to look at the pictures.
        resize: How pictures of another shape come to that size.
    """

    def __init__(
        self,
        size: tuple[int, int] | None,
        workers: int,
        shape: tuple[int, int, int] | None = None,
        resize: Resize = "stretch",
    ) -> None:
        self._resize = resize
        self._resized, self._workers, self._known = size, workers, shape is not None
        self._size, self._channels = (shape[:2], shape[2]) if shape else (size, 1)
        self._parts: list[_Part] = []
        self._ends: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, height, width and channels."""
        count = self._ends[-1] if self._ends else 0
        return (count, *(self._size or (0, 0)), self._channels)

    def added(
        self, files: Sequence[bytes | Path], place: Callable[[int], str]
    ) -> Int64[np.ndarray, " n"]:
        """Put more pictures behind those that are there.

        Args:
            files: The bytes of each, or where it lies.
            place: Names one of them for messages.

        Returns:
            Their rows.
        """
        files = self.written(files)
        start = self.shape[0]
        self._parts.append(_Part(files, place))
        self._ends.append(start + len(files))
        return np.arange(start, start + len(files))

    def written(self, files: Sequence[bytes | Path]) -> Sequence[bytes | Path]:
        """Look at some pictures, and write those that are bytes where they are kept.

        Returns:
            What stands for them; within `kept_in` they need not be held any longer.
        """
        if isinstance(files, _Written):
            return files
        if self._size is None:
            self._size = picture_size(files[0])
        grey = self._channels == 1 and not self._known
        if grey and not all(map(is_grey, files)):
            self._channels = 3
        folder = _kept_in.get()
        if folder is None or not isinstance(files[0], bytes):
            return files
        _append(folder, files)
        return _Written(len(files))

    def take(self, rows: Any, axis: int = 0) -> UInt8[np.ndarray, "m h w c"]:
        """Decode some rows, by threads.

        Raises:
            UserError: If one cannot be decoded, or is of another size.
        """
        assert axis == 0, "rows are the first axis"
        rows = np.asarray(rows)
        if not rows.size:
            return np.zeros((0, *self.shape[1:]), np.uint8)
        found = [self._part(int(row)) for row in rows]
        files = [part.files[row] for part, row in found]

        def place(row: int) -> str:
            part, within = found[row]
            return part.place(within)

        images = decode_images(files, place, self._resized, self._resize)
        if images.shape[1:3] != self._size:
            raise UserError(
                f"{place(0)}: {images.shape[1]} x {images.shape[2]} pixels, but the "
                f"first picture is {self.shape[1]} x {self.shape[2]}; "
                "--data.image_size=N resizes all images to N x N."
            )
        missing = self._channels // images.shape[3]
        return np.repeat(images, missing, axis=3) if missing > 1 else images

    def batches(
        self, order: Order, index: np.ndarray, first_step: int, part: np.ndarray
    ) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        """Decode the steps of a plan ahead of time, in order.

        Args:
            order: The plan's steps; all that decides where decoding goes on is the
                first.
            index: Row here of each row that the order names.
            first_step: Where to begin.
            part: Which rows of each step to decode.

        Returns:
            An iterator over these parts of batches, to be closed.

        Raises:
            UserError: If Grain is not installed.
        """
        grain = with_grain()
        steps = grain.MapDataset.source(_Steps(self, order, index, first_step, part))
        ahead = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
        decoded = steps.to_iter_dataset(ahead)
        if self._workers:
            options = grain.MultiprocessingOptions(
                num_workers=self._workers, per_worker_buffer_size=_AHEAD
            )
            decoded = decoded.mp_prefetch(options, _end_with_parent)
        return _closed_at_its_end(iter(decoded))

    def _part(self, row: int) -> tuple[_Part, int]:
        place = bisect_right(self._ends, row)
        return self._parts[place], row - (self._ends[place - 1] if place else 0)


def _end_with_parent(index: int, count: int) -> None:
    """Let a worker end when the process does that it decodes for, however it ends."""
    del index, count
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been started by another process"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _closed_at_its_end(decoded: Any) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Yield batches of Grain, and let go of its memory."""
    try:
        yield from decoded
    finally:
        decoded.close()
        del decoded
        # in a circle of references it still has a batch of each worker, in memory that
        # these share with it, of which Python would complain when it ends
        gc.collect()


@dataclass
class _Steps:
    """The batches of a plan, as Grain reads them: by number."""

    pictures: Pictures
    order: Order
    index: np.ndarray
    first_step: int
    part: np.ndarray

    def __len__(self) -> int:
        return self.order.num_steps - self.first_step

    def __getitem__(self, step: Any) -> UInt8[np.ndarray, "b h w c"]:
        rows = self.order.rows(self.first_step + int(step), 1)[self.part]
        return self.pictures.take(self.index[np.where(rows >= 0, rows, ~rows)])


class _Written(Sequence[bytes]):
    """Empty stand-ins for pictures that were written to a folder."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        del row
        return b""


def _append(folder: Path, files: Sequence[bytes | Path]) -> None:
    ends = folder / "ends.npy"
    known = np.load(ends) if ends.exists() else np.zeros(0, np.int64)
    start = known[-1] if known.size else 0
    sizes = []
    with (folder / "pictures.bin").open("ab") as out:
        for file in files:
            assert isinstance(file, bytes), "pictures that lie in files stay there"
            sizes.append(out.write(file))
    written = np.cumsum(sizes, dtype=np.int64)
    np.save(ends, np.concatenate([known, start + written]))
