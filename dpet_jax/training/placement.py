"""A data set whose pixels stay on the host: some at a time go to the device.

Labels, tables and weights are on the device whole; 4 to 20 bytes an example. Only
pixels move: for training as the rows of a chunk, for scores in pieces. The keys of the
augmentation depend on state and step alone, so that the results are those of a data
set on the device, to the bit.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt8

from dpet_jax.data import Data
from dpet_jax.errors import UserError
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
        self._block = batches * batch_size
        blocks = min(found.trained // self._block, -(-data.num_train // self._block))
        self.rooms = found._replace(trained=blocks * self._block)
        shape = (self.rooms.trained, *self.images.shape[1:])
        self._buffers = [self._put(np.zeros(shape, np.uint8)) for _ in range(2)]
        self._turn = 0
        self._held: tuple[np.ndarray, np.ndarray] | None = None
        self._num_threads = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._num_threads)

    def chunk(
        self,
        rows: Int32[np.ndarray, " capacity"],
        count: int,
        among: np.ndarray | None,
    ) -> DeviceData:
        """Bring the images of a chunk of training to the device.

        Args:
            rows: Positions, fill rows as their complement, and padding.
            count: How many of them are no padding.
            among: The examples of the plan, each once, the same array for all its
                chunks; None outside a plan.
        """
        positions = np.where(rows >= 0, rows, ~rows)
        if among is None or among.size > self.rooms.trained:
            self._held = None
            self._fill(positions[:count])
            places = np.arange(rows.size, dtype=np.int32)
        else:
            if self._held is None or self._held[0] is not among:
                place_of = np.zeros(self.labels.shape[0], np.int32)
                place_of[among] = np.arange(among.size, dtype=np.int32)
                self._held = among, place_of
                self._fill(among)
            places = self._held[1][positions]
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

    def _fill(self, rows: np.ndarray) -> None:
        """Send the images of some rows to the buffer that is not computed on."""
        self._turn = 1 - self._turn
        padded = np.resize(rows, -(-rows.size // self._block) * self._block)
        for first, block in self._gathered(padded):
            self._buffers[self._turn] = _written(
                self._buffers[self._turn], *self._put((block, np.int32(first)))
            )

    def _gathered(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Read rows in blocks, by threads, and yield where each block begins."""
        firsts = range(0, rows.size, self._block)
        # no more blocks lie ready than are read at once
        for ahead in range(0, len(firsts), self._num_threads):
            some = firsts[ahead : ahead + self._num_threads]
            parts = [rows[first : first + self._block] for first in some]
            yield from zip(some, self._threads.map(self._read, parts), strict=True)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self.images.take(rows, axis=0)

    def _device_data(self, images: Any, labels: Any, places: Any = None) -> DeviceData:
        return DeviceData(images, labels, self._mean, self._std, places)

    def _put(self, tree: Any) -> Any:
        return put(tree, self._sharding)


@partial(jax.jit, donate_argnums=0)
def _written(
    images: UInt8[Array, "r h w c"],
    block: UInt8[Array, "b h w c"],
    first: Int32[Array, ""],
) -> UInt8[Array, "r h w c"]:
    """Write a block of images into a buffer, in place."""
    return lax.dynamic_update_slice_in_dim(images, block, first, 0)
