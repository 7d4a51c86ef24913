"""A data set whose pixels stay on the host: some at a time go to the device.

Labels, tables and weights are on the device whole; 4 to 20 bytes an example. Only
pixels move: for training as the rows of a chunk, for scores in pieces. The keys of the
augmentation depend on state and step alone, so that the results are those of a data
set on the device, to the bit.

Of several devices each gets the pixels of its own part of each batch, and a process
reads those of its devices alone. A plan whose examples fit into one buffer shuffles
over all of them: these every device gets, each read by one process and handed round.
"""

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, UInt8

from dpet_jax.data import Data
from dpet_jax.data.rows import Rows
from dpet_jax.errors import UserError
from dpet_jax.training.chunks import Batches
from dpet_jax.training.memory import least_room
from dpet_jax.training.state import DeviceData
from dpet_jax.training.transfer import put, put_own

# What goes to the device in one transfer: less is slowed down by calls, more by waiting
# for the first.
_BLOCK_BYTES = 4 * 2**20
# Of the room, what the two pieces that are scored take; the rest is for training.
_SCORED = 0.25


class Rooms(NamedTuple):
    """How many images are on a device at once, of each purpose twice.

    One half is computed on while the other is filled.

    Attributes:
        trained: For training, a multiple of what it has of a batch.
        scored: For scoring, a multiple of what it has of a batch of scoring.
    """

    trained: int
    scored: int


def rooms(room: int, row_bytes: int, batch_size: int, score_batch_size: int) -> Rooms:
    """Divide the room for pixels on a device between training and scoring.

    Args:
        room: Bytes.
        row_bytes: Of one image.
        batch_size: Rows of a training step on that device.
        score_batch_size: Rows of a forward pass of scoring there.

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
    """This process's part of the batches of a plan, decoded ahead of the training."""

    def __init__(
        self, images: Rows, course: Course, first_step: int, part: np.ndarray
    ) -> None:
        self.course, self.step = course, first_step
        place: Any = images.place
        self._decoded = place.batches(course.batches, images.index, first_step, part)
        # workers would outlive a process that ends in the middle of a plan
        self.close = weakref.finalize(self, self._decoded.close)

    def batch(self) -> np.ndarray:
        """Return its part of the next batch."""
        self.step += 1
        images = next(self._decoded)
        if self.step == self.course.batches.num_steps:
            self.close()
        return images


class HostData:
    """The data set with its pixels on the host.

    It has what `DeviceData` has, its images on the host, and makes such of some rows.
    Two buffers on each device take turns: while a chunk is trained on from one of them,
    the rows of the next are gathered by threads and sent to the other. A plan whose
    examples fit into one buffer is sent once, to every device.

    Args:
        data: The data set.
        room: Bytes of each device that pixels may take.
        batch_size: Rows of a training step, of all devices together.
        score_batch_size: Rows of a forward pass of scoring, likewise.
        mesh: Devices that share each batch.

    Attributes:
        images: On the host.
        labels: On the device, as are mean and std.
        chunk_rows: Most rows of a chunk of training, a multiple of its batch.
    """

    def __init__(
        self,
        data: Data,
        room: int,
        batch_size: int,
        score_batch_size: int,
        mesh: Mesh,
    ) -> None:
        self._mesh = mesh
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._by_device = NamedSharding(mesh, PartitionSpec("data"))
        of_process = [device.process_index for device in mesh.devices.flat]
        self._own = np.flatnonzero(np.array(of_process) == jax.process_index())
        self.images = data.images
        self._host_labels = data.labels
        self.labels, self._mean, self._std = self._put(
            (data.labels, data.mean, data.std)
        )
        row_bytes, devices = int(np.prod(self.images.shape[1:])), mesh.size
        self._share = batch_size // devices
        found = rooms(room, row_bytes, self._share, score_batch_size // devices)
        self._scored = found.scored * devices
        batches = max(1, _BLOCK_BYTES // (batch_size * row_bytes))
        whole = -(-data.num_train // batch_size)
        batches = min(batches, found.trained // self._share, whole)
        self._pictures: Rows | None = None
        if isinstance(self.images, Rows) and not isinstance(
            self.images.place, np.ndarray
        ):
            self._pictures, batches = self.images, 1  # batches are what is decoded
        # a block is what is sent at once, so many rows to each device
        self._block = batches * self._share
        blocks = min(found.trained // self._block, -(-data.num_train // self._block))
        whole = -(-data.num_train // (self._block * devices))
        self.chunk_rows = min(blocks, whole) * self._block * devices
        # handed round, a block of each device goes to every other
        self._held_rows = blocks // devices * self._block * devices
        shape = (blocks * self._block * self._own.size, *self.images.shape[1:])
        self._buffers = [self._put_own(np.zeros(shape, np.uint8)) for _ in range(2)]
        self._turn = 0
        self._held: tuple[Course, np.ndarray] | None = None
        self._stream: _Stream | None = None
        self._num_threads = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._num_threads)

    def compile(self) -> None:
        """Make the programs ready that write what is sent."""
        self._held = None  # a buffer of it is written to
        nothing = np.full(self._block * self._own.size, -1)
        self._fill([self._taken(nothing)])
        if self._held_rows:
            self._fill([self._taken(nothing)], everywhere=True)

    def chunk(
        self,
        rows: Int32[np.ndarray, " capacity"],
        count: int,
        course: Course | None,
        first_step: int,
    ) -> DeviceData:
        """Bring the images of a chunk of training to the devices.

        Args:
            rows: Positions, fill rows as their complement, and padding.
            count: How many of them are no padding.
            course: What the chunk is a part of; None outside a plan.
            first_step: Of the plan, with which the chunk begins.

        Raises:
            ValueError: If they are not those of the plan.
        """
        positions = np.where(rows >= 0, rows, ~rows)
        if course is not None and course.among.size <= self._held_rows:
            if self._held is None or self._held[0] is not course:
                place_of = np.full(self.labels.shape[0], -1, np.int32)
                place_of[course.among] = self._handed_places(course.among.size)
                self._held = course, place_of
                blocks = self._dealt(course.among, self._block, 1)
                self._fill(self._gathered(blocks), everywhere=True)
            places = self._held[1][positions]
            _check_of_plan(bool((places[:count] >= 0).all()))
            places = np.maximum(places, 0)  # padding may be of any example
        else:
            self._held = None
            if course is not None and self._pictures is not None:
                steps = count // course.batches.batch_size
                there = course.batches.rows(first_step, steps)
                _check_of_plan(np.array_equal(there, rows[:count]))
                self._fill(self._decoded(course, first_step, steps))
            else:
                batches = self._block // self._share
                blocks = self._dealt(positions[:count], batches, self._share)
                self._fill(self._gathered(blocks))
            places = self._places(rows.size, self._share)
        return self._device_data(
            self._buffers[self._turn], self.labels, self._put(places)
        )

    def piece_rows(self, batch_size: int) -> int:
        """Return how many rows are scored by one call: no more than there are.

        Args:
            batch_size: What it is a multiple of.
        """
        whole = -(-self.labels.shape[0] // batch_size)
        return min(self._scored // batch_size, whole) * batch_size

    def some(
        self, rows: Int32[np.ndarray, " m"], size: int, batch_size: int
    ) -> DeviceData:
        """Bring rows to the devices, to be scored as a data set of their own.

        Args:
            rows: Which.
            size: Rows of that data set, a multiple of the batch; the others are black.
            batch_size: Rows that are scored together.
        """
        share = batch_size // self._mesh.size
        padded = np.full(size, -1, np.int32)
        padded[: rows.size] = rows
        (part,) = self._dealt(padded, size // batch_size, share)
        each = self._block * self._own.size
        parts = [part[first : first + each] for first in range(0, part.size, each)]
        images = self._put_own(np.concatenate([*self._gathered(parts)]))
        labels = self._host_labels[np.maximum(padded, 0)]
        return self._device_data(
            images, *self._put((labels, self._places(size, share)))
        )

    def everywhere(self, rows: Int32[np.ndarray, " m"]) -> DeviceData:
        """Bring rows to every device, as a data set of their own."""
        some = self._read(rows), self._host_labels[rows]
        return self._device_data(*self._put(some))

    def _fill(self, blocks: Iterable[np.ndarray], *, everywhere: bool = False) -> None:
        """Send blocks of images to the buffer that is not computed on.

        Args:
            blocks: Of each, what this process's devices get.
            everywhere: Hand each device's part round, so that every device has all.
        """
        self._turn = 1 - self._turn
        everywhere &= self._mesh.size > 1
        step = self._block * (self._mesh.size if everywhere else 1)
        for index, block in enumerate(blocks):
            self._buffers[self._turn] = _written(
                self._buffers[self._turn],
                self._put_own(block),
                self._put(np.int32(index * step)),
                mesh=self._mesh,
                everywhere=everywhere,
            )

    def _dealt(
        self, rows: np.ndarray, batches: int, share: int
    ) -> list[Int32[np.ndarray, " r"]]:
        """Deal rows out to devices, and return those of this process's by blocks.

        Args:
            rows: To be dealt out in this order, -1 for none.
            batches: Of a block.
            share: Rows that a device gets of each batch.
        """
        devices = self._mesh.size
        padded = np.pad(
            rows.astype(np.int32),
            (0, -rows.size % (batches * devices * share)),
            constant_values=-1,
        )
        blocks = padded.reshape(-1, batches, devices, share)[:, :, self._own]
        each = self._own.size * batches * share
        return [*blocks.swapaxes(1, 2).reshape(len(blocks), each)]

    def _places(self, size: int, share: int) -> Int32[np.ndarray, " size"]:
        """Return where each of some rows is on its device, once they are dealt out."""
        batch, within = np.divmod(
            np.arange(size, dtype=np.int32), self._mesh.size * share
        )
        return batch * share + within % share

    def _handed_places(self, size: int) -> Int32[np.ndarray, " size"]:
        """Return where rows are on every device that are dealt out one by one there."""
        all_parts = self._mesh.size * self._block
        block, within = np.divmod(np.arange(size, dtype=np.int32), all_parts)
        part, place = within % self._mesh.size, within // self._mesh.size
        return block * all_parts + part * self._block + place

    def _gathered(self, parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Read rows by threads; -1 is black."""
        # no more blocks lie ready than are read at once
        for ahead in range(0, len(parts), self._num_threads):
            some = parts[ahead : ahead + self._num_threads]
            yield from self._threads.map(self._taken, some)

    def _decoded(
        self, course: Course, first_step: int, num_steps: int
    ) -> Iterator[np.ndarray]:
        """Take the steps of a chunk from the stream, which goes on decoding."""
        stream = self._stream
        if stream is None or (stream.course, stream.step) != (course, first_step):
            if stream is not None:
                stream.close()
            assert self._pictures is not None, "what is streamed is pictures"
            rows = np.arange(course.batches.batch_size, dtype=np.int32)
            part = self._dealt(rows, 1, self._share)[0]
            stream = _Stream(self._pictures, course, first_step, part)
            self._stream = stream
        for _ in range(num_steps):
            yield stream.batch()

    def _taken(self, rows: np.ndarray) -> np.ndarray:
        there = rows >= 0
        images = self._read(rows[there])
        if there.all():
            return images
        padded = np.zeros((rows.size, *images.shape[1:]), np.uint8)
        padded[there] = images
        return padded

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self.images.take(rows, axis=0)

    def _device_data(self, images: Any, labels: Any, places: Any = None) -> DeviceData:
        return DeviceData(images, labels, self._mean, self._std, places)

    def _put(self, tree: Any) -> Any:
        return put(tree, self._replicated)

    def _put_own(self, images: np.ndarray) -> jax.Array:
        return put_own(images, self._by_device)


def _check_of_plan(right: bool) -> None:
    if not right:
        raise ValueError("a chunk has other rows than the plan that was begun")


@partial(jax.jit, static_argnames=("mesh", "everywhere"), donate_argnames="buffer")
def _written(
    buffer: UInt8[Array, "r h w c"],
    block: UInt8[Array, "b h w c"],
    first: Int32[Array, ""],
    *,
    mesh: Mesh,
    everywhere: bool,
) -> UInt8[Array, "r h w c"]:
    """Write a block of images into the buffers of all devices, in place.

    Args:
        buffer: Of all devices, behind one another.
        block: What is sent to each.
        first: Where it begins there.
        mesh: The devices.
        everywhere: Whether each device gets what is sent to any.
    """

    def written(buffer, block, first):
        if everywhere:
            block = lax.all_gather(block, "data", tiled=True)
        return lax.dynamic_update_slice_in_dim(buffer, block, first, 0)

    parts = PartitionSpec("data")
    return jax.shard_map(
        written, mesh=mesh, in_specs=(parts, parts, PartitionSpec()), out_specs=parts
    )(buffer, block, first)
