"""Checkpoints: everything a run needs to resume, whole or absent."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from dpet_jax.errors import UserError

#: Of what a checkpoint holds; counted up when runs saved before cannot be resumed.
#: 3: the state of the optimizer is that of its optax chain. 4: the passes of a plan are
#: one stream of batches.
FORMAT = 4
_FORMAT = "format"
_MODEL = "model_{}"


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        models: Tree of device arrays of each model that was asked for.
        host: Named numpy arrays.
        meta: Plain numbers and texts.
    """

    models: dict[str, Any]
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
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every step
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
        self, models: dict[str, Any], host: dict[str, np.ndarray], meta: dict[str, Any]
    ) -> None:
        """Write the next checkpoint.

        Args:
            models: Tree of device arrays of each model.
            host: Named numpy arrays.
            meta: Plain numbers and texts, as JSON takes them.
        """
        # orbax refuses arrays without elements, and trees without arrays
        empty = {
            name: str(array.dtype) for name, array in host.items() if not array.size
        }
        full = {name: array for name, array in host.items() if array.size}
        full[_FORMAT] = np.array([FORMAT])
        trees = {
            _MODEL.format(name): ocp.args.StandardSave(tree)
            for name, tree in models.items()
        }
        latest = self._manager.latest_step()
        self._manager.save(
            0 if latest is None else latest + 1,
            args=ocp.args.Composite(
                host=ocp.args.StandardSave(full),
                meta=ocp.args.JsonSave({"empty": empty, "meta": meta, _FORMAT: FORMAT}),
                **trees,
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, like: dict[str, Any]) -> Restored:
        """Read the latest checkpoint.

        Args:
            like: For each model that is wanted, a tree of arrays with the shapes and
                places of its own.
        """
        trees = {
            _MODEL.format(name): ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
            )
            for name, tree in like.items()
        }
        read = self._manager.restore(
            self._manager.latest_step(),
            args=ocp.args.Composite(
                host=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore(), **trees
            ),
        )
        empty = read.meta["empty"]
        host = dict(read.host)
        del host[_FORMAT]
        host |= {name: np.zeros(0, dtype) for name, dtype in empty.items()}
        models = {name: read[_MODEL.format(name)] for name in like}
        return Restored(models, host, read.meta["meta"])

    def read_part(self, model: str, like: Any) -> Any:
        """Read some of what the latest checkpoint holds of a model.

        Args:
            model: Its name.
            like: A tree of arrays or their shapes, with places; what the checkpoint
                holds beside it is not read.
        """
        latest = self._manager.directory / str(self._manager.latest_step())
        # the manager has one handler an item, and that reads whole items only
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(
                latest / _MODEL.format(model),
                args=ocp.args.PyTreeRestore(
                    like,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(like),
                    partial_restore=True,
                ),
            )

    def read_meta(self) -> dict[str, Any]:
        """Read only the numbers and texts of the latest checkpoint."""
        return self._read_json()["meta"]

    def check_format(self) -> None:
        """Refuse to resume from a checkpoint that another version wrote.

        Raises:
            UserError: If its states are of another form; its parameters can be loaded.
        """
        found = self._read_json().get(_FORMAT, 2)
        if found != FORMAT:
            raise UserError(
                f"{self._manager.directory}: saved by another version of this program "
                f"(format {found}, this one has {FORMAT}) and cannot be resumed; end "
                "the run with that version, or start it anew with --overwrite"
            )

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def _read_json(self) -> dict[str, Any]:
        read = self._manager.restore(
            self._manager.latest_step(),
            args=ocp.args.Composite(meta=ocp.args.JsonRestore()),
        )
        return read.meta
