"""A data set whose pixels stay on the host: some at a time go to the device.

Labels, tables and weights are on the device whole; 4 to 20 bytes an example. Only
pixels move: for training as the rows of a chunk, for scores in pieces. The keys of the
augmentation depend on state and step alone, so that the results are those of a data
set on the device, to the bit.
"""

import os
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt8

from dpet_jax.data import Data
from dpet_jax.data.rows import Rows
from dpet_jax.errors import UserError
from dpet_jax.training.chunks import Batches
from dpet_jax.training.memory import least_room
from dpet_jax.training.state import DeviceData
from dpet_jax.training.transfer import put

# What goes to the device in one transfer: less is slowed down by calls, more by waiting
# for the first.
_BLOCK_BYTES = 4 * 2**20
# Of the room, what the two pieces that are scored take; the rest is for training.
_SCORED = 0.25


class Rooms(NamedTuple):
    """How many images are on the device at once, of each purpose twice.

    One half is computed on while the other is filled.

    Attributes:
        trained: Images of a chunk of training, a multiple of its batch.
        scored: Images scored by one call, a multiple of the batch of scoring.
    """

    trained: int
    scored: int


def rooms(room: int, row_bytes: int, batch_size: int, score_batch_size: int) -> Rooms:
    """Divide the room for pixels on the device between training and scoring.

    Args:
        room: Bytes.
        row_bytes: Of one image.
        batch_size: Rows of a training step.
        score_batch_size: Rows of a forward pass of scoring.

    Raises:
        UserError: If a batch of each does not fit in twice.
    """
    least = least_room(row_bytes, batch_size, score_batch_size)
    if room < least:
        raise UserError(
            f"data.device_budget_mib: {room / 2**20:,.2f} MiB do not hold a batch of "
            "training and one of evaluation, each of them twice; give "
            f"{least / 2**20:,.2f}, or choose a smaller train.batch_size or "
            "evaluate.batch_size"
        )
    scored = int(_SCORED / 2 * room / row_bytes) // score_batch_size * score_batch_size
    scored = max(scored, (least // 2 // row_bytes) - batch_size)
    trained = (room // row_bytes - 2 * scored) // 2 // batch_size * batch_size
    return Rooms(trained, scored)


@dataclass(frozen=True, eq=False)
class Course:
    """What a plan trains on.

    Attributes:
        among: Its examples, each once.
        batches: Its steps.
    """

    among: np.ndarray
    batches: Batches


class _Stream:
    """Batches of a plan that are decoded ahead of the training."""

    def __init__(self, images: Rows, course: Course, first_step: int) -> None:
        self.course, self.step = course, first_step
        place: Any = images.place
        self._decoded = place.batches(course.batches, images.index, first_step)
        # workers would outlive a process that ends in the middle of a plan
        self.close = weakref.finalize(self, self._decoded.close)

    def batch(self) -> np.ndarray:
        """Return the next batch."""
        self.step += 1
        images = next(self._decoded)
        if self.step == self.course.batches.num_steps:
            self.close()
        return images


class HostData:
    """The data set with its pixels on the host.

    It has what `DeviceData` has, its images on the host, and makes such of some rows.
    Two buffers on the device take turns: while a chunk is trained on from one of them,
    the rows of the next are gathered by threads and sent to the other. A plan whose
    examples fit into one buffer is sent once.

    Args:
        data: The data set.
        room: Bytes of the device that pixels may take.
        batch_size: Rows of a training step.
        score_batch_size: Rows of a forward pass of scoring.
        sharding: Where on the devices arrays go.

    Attributes:
        images: On the host.
        labels: On the device, as are mean and std.
        rooms: How many images are on the device at once.
    """

    def __init__(
        self,
        data: Data,
        room: int,
        batch_size: int,
        score_batch_size: int,
        sharding: jax.sharding.Sharding,
    ) -> None:
        self._sharding = sharding
        self.images = data.images
        self._host_labels = data.labels
        self.labels, self._mean, self._std = self._put(
            (data.labels, data.mean, data.std)
        )
        row_bytes = int(np.prod(self.images.shape[1:]))
        found = rooms(room, row_bytes, batch_size, score_batch_size)
        batches = max(1, _BLOCK_BYTES // (batch_size * row_bytes))
        whole = -(-data.num_train // batch_size)
        batches = min(batches, found.trained // batch_size, whole)
        self._pictures: Rows | None = None
        if isinstance(self.images, Rows) and not isinstance(
            self.images.place, np.ndarray
        ):
            self._pictures, batches = self.images, 1  # batches are what is decoded
        self._block = batches * batch_size
        blocks = min(found.trained // self._block, -(-data.num_train // self._block))
        self.rooms = found._replace(trained=blocks * self._block)
        shape = (self.rooms.trained, *self.images.shape[1:])
        self._buffers = [self._put(np.zeros(shape, np.uint8)) for _ in range(2)]
        self._turn = 0
        self._held: tuple[Course, np.ndarray] | None = None
        self._stream: _Stream | None = None
        self._num_threads = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._num_threads)

    def chunk(
        self,
        rows: Int32[np.ndarray, " capacity"],
        count: int,
        course: Course | None,
        first_step: int,
    ) -> DeviceData:
        """Bring the images of a chunk of training to the device.

        Args:
            rows: Positions, fill rows as their complement, and padding.
            count: How many of them are no padding.
            course: What the chunk is a part of; None outside a plan.
            first_step: Of the plan, with which the chunk begins.

        Raises:
            ValueError: If they are not those of the plan.
        """
        positions = np.where(rows >= 0, rows, ~rows)
        if course is not None and course.among.size <= self.rooms.trained:
            if self._held is None or self._held[0] is not course:
                place_of = np.full(self.labels.shape[0], -1, np.int32)
                place_of[course.among] = np.arange(course.among.size, dtype=np.int32)
                self._held = course, place_of
                self._fill(self._gathered(course.among))
            places = self._held[1][positions]
            _check_of_plan(bool((places[:count] >= 0).all()))
            places = np.maximum(places, 0)  # padding may be of any example
        else:
            self._held = None
            if course is not None and self._pictures is not None:
                steps = count // course.batches.batch_size
                there = course.batches.rows(first_step, steps)
                _check_of_plan(np.array_equal(there, rows[:count]))
                self._fill(self._decoded(course, first_step, count))
            else:
                self._fill(self._gathered(positions[:count]))
            places = np.arange(rows.size, dtype=np.int32)
        return self._device_data(
            self._buffers[self._turn], self.labels, self._put(places)
        )

    def piece_rows(self, batch_size: int) -> int:
        """Return how many rows are scored by one call: no more than there are.

        Args:
            batch_size: What it is a multiple of.
        """
        whole = -(-self.labels.shape[0] // batch_size)
        return min(self.rooms.scored // batch_size, whole) * batch_size

    def some(self, rows: Int32[np.ndarray, " m"]) -> DeviceData:
        """Bring rows to the device, to be scored as a data set of their own."""
        images = np.concatenate([block for _, block in self._gathered(rows)])
        return self._device_data(*self._put((images, self._host_labels[rows])))

    def _fill(self, blocks: Iterable[tuple[int, np.ndarray]]) -> None:
        """Send blocks of images to the buffer that is not computed on."""
        self._turn = 1 - self._turn
        for first, block in blocks:
            padded = block
            if len(block) < self._block:
                padded = np.zeros((self._block, *block.shape[1:]), np.uint8)
                padded[: len(block)] = block
            self._buffers[self._turn] = _written(
                self._buffers[self._turn], *self._put((padded, np.int32(first)))
            )

    def _gathered(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Read rows in blocks, by threads, and yield where each block begins."""
        firsts = range(0, rows.size, self._block)
        # no more blocks lie ready than are read at once
        for ahead in range(0, len(firsts), self._num_threads):
            some = firsts[ahead : ahead + self._num_threads]
            parts = [rows[first : first + self._block] for first in some]
            yield from zip(some, self._threads.map(self._read, parts), strict=True)

    def _decoded(
        self, course: Course, first_step: int, count: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Take the steps of a chunk from the stream, which goes on decoding."""
        stream = self._stream
        if stream is None or (stream.course, stream.step) != (course, first_step):
            if stream is not None:
                stream.close()
            assert self._pictures is not None, "what is streamed is pictures"
            stream = _Stream(self._pictures, course, first_step)
            self._stream = stream
        size = course.batches.batch_size
        for first in range(0, count, size):
            yield first, stream.batch()

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self.images.take(rows, axis=0)

    def _device_data(self, images: Any, labels: Any, places: Any = None) -> DeviceData:
        return DeviceData(images, labels, self._mean, self._std, places)

    def _put(self, tree: Any) -> Any:
        return put(tree, self._sharding)


def _check_of_plan(right: bool) -> None:
    if not right:
        raise ValueError("a chunk has other rows than the plan that was begun")


@partial(jax.jit, donate_argnums=0)
def _written(
    images: UInt8[Array, "r h w c"],
    block: UInt8[Array, "b h w c"],
    first: Int32[Array, ""],
) -> UInt8[Array, "r h w c"]:
    """Write a block of images into a buffer, in place."""
    return lax.dynamic_update_slice_in_dim(images, block, first, 0)
