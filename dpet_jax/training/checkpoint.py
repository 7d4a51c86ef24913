"""Checkpoints: everything a run needs to go on, whole or absent."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

_FORMAT = "format"  # of what a checkpoint holds; a number to count up


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        device: Tree of device arrays.
        host: Named numpy arrays.
        meta: Plain numbers and texts.
    """

    device: Any
    host: dict[str, np.ndarray]
    meta: dict[str, Any]


class Checkpoints:
    """Synchronous checkpoints in a folder, the latest two kept.

    A checkpoint counts only once its commit file exists, so that a kill at any moment
    leaves the one before. Saving is synchronous: its cost stays inside its window.

    Args:
        folder: Where; made if missing.
        read_only: Neither make nor change anything.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every step
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else 2,
                read_only=read_only,
                create=not read_only,
                enable_async_checkpointing=False,
                atomicity_options=ocp.options.AtomicityOptions(
                    mode=ocp.options.AtomicityMode.COMMIT_FILE
                ),
            ),
        )

    @property
    def latest(self) -> int | None:
        """Number of the latest whole checkpoint."""
        return self._manager.latest_step()

    def save(
        self, device: Any, host: dict[str, np.ndarray], meta: dict[str, Any]
    ) -> None:
        """Write the next checkpoint.

        Args:
            device: Tree of device arrays.
            host: Named numpy arrays.
            meta: Plain numbers and texts, as JSON takes them.
        """
        # orbax refuses arrays without elements, and trees without arrays
        empty = {
            name: str(array.dtype) for name, array in host.items() if not array.size
        }
        full = {name: array for name, array in host.items() if array.size}
        full[_FORMAT] = np.array([1])
        latest = self._manager.latest_step()
        self._manager.save(
            0 if latest is None else latest + 1,
            args=ocp.args.Composite(
                device=ocp.args.StandardSave(device),
                host=ocp.args.StandardSave(full),
                meta=ocp.args.JsonSave({"empty": empty, "meta": meta}),
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, like: Any = None) -> Restored:
        """Read the latest checkpoint.

        Args:
            like: Tree of arrays that tells the shapes and places of the device arrays;
                None reads them as they were.
        """
        abstract = None
        if like is not None:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        read = self._manager.restore(
            self._manager.latest_step(),
            args=ocp.args.Composite(
                device=ocp.args.StandardRestore(abstract),
                host=ocp.args.StandardRestore(),
                meta=ocp.args.JsonRestore(),
            ),
        )
        empty = read.meta["empty"]
        host = dict(read.host)
        del host[_FORMAT]
        host |= {name: np.zeros(0, dtype) for name, dtype in empty.items()}
        return Restored(read.device, host, read.meta["meta"])

    def read_meta(self) -> dict[str, Any]:
        """Read only the numbers and texts of the latest checkpoint."""
        read = self._manager.restore(
            self._manager.latest_step(),
            args=ocp.args.Composite(meta=ocp.args.JsonRestore()),
        )
        return read.meta["meta"]

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()
