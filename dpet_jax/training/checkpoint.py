"""Checkpoints: everything a run needs to resume, whole or absent."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.files import read_json, write_whole

#: Of what a checkpoint holds; counted up when runs saved before cannot be resumed.
#: 3: the state of the optimizer is that of its optax chain. 4: the passes of a plan are
#: one stream of batches.
FORMAT = 4
_FORMAT = "format"
_MODEL = "model_{}"
#: Beside what it lists: size and hash of every file of a checkpoint.
_FILES = "files.json"
#: Name that a checkpoint gets when it turns out to be damaged.
_DAMAGED = "damaged-{}"
#: Space on disk over the size of the arrays, and beside it.
_OVERHEAD, _METADATA_BYTES = 1.25, 2**19


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
    leaves the one before. Saving is synchronous: its cost stays inside its window. The
    hash of every file is kept with it: orbax itself notices few of the bytes that a
    bad disk or a cut copy has changed. Of several processes that share a run one
    writes, whole arrays, and each reads by itself what its devices hold.

    Args:
        folder: Where; made if missing.
        read_only: Neither make nor change anything.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every step
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
        here = jax.process_index()
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else 2,
                read_only=read_only,
                create=False,
                enable_async_checkpointing=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=here,
                    # without it, all processes must come to each of its barriers
                    active_processes={here} if jax.process_count() > 1 else None,
                    barrier_sync_key_prefix=f"process-{here}",
                ),
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

        Raises:
            OSError: If the system refuses, as on a full disk; the checkpoints before
                are as they were.
        """
        # orbax refuses arrays without elements, and trees without arrays
        empty = {
            name: str(array.dtype) for name, array in host.items() if not array.size
        }
        full = {name: array for name, array in host.items() if array.size}
        full[_FORMAT] = np.array([FORMAT])
        # orbax takes twice as long over arrays of a device, which it copies one by one
        trees = {
            _MODEL.format(name): ocp.args.StandardSave(jax.device_get(tree))
            for name, tree in models.items()
        }
        _check_space(Path(self._manager.directory), (models, full))
        step = 0 if self.latest is None else self.latest + 1
        folder = self._folder_of(step)
        with _system_errors(folder):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    host=ocp.args.StandardSave(full),
                    meta=ocp.args.JsonSave(
                        {"empty": empty, "meta": meta, _FORMAT: FORMAT}
                    ),
                    **trees,
                ),
            )
            self._manager.wait_until_finished()
        write_whole(folder / _FILES, json.dumps(dict(_digests(folder))))

    def set_damaged_aside(self) -> list[str]:
        """Rename the checkpoints after the latest whole one, so that it is the latest.

        Returns:
            A sentence for each that was damaged, the latest first.
        """
        found = []
        while self.latest is not None:
            problem = self._problem(self.latest)
            if problem is None:
                break
            folder = self._folder_of(self.latest)
            aside = folder.with_name(_DAMAGED.format(self.latest))
            if aside.exists():
                shutil.rmtree(aside)
            folder.rename(aside)
            self._manager.reload()
            path, reason = problem
            found.append(
                f"{path}: damaged: {reason}; the checkpoint is left out and kept as "
                f"{aside.name}"
            )
        return found

    def check_whole(self) -> None:
        """Refuse the latest checkpoint if it is damaged.

        Raises:
            DamagedFileError: If it is, naming the file.
        """
        assert self.latest is not None
        problem = self._problem(self.latest)
        if problem is not None:
            raise DamagedFileError(*problem)

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
        read = self._read(host=ocp.args.StandardRestore(), **trees)
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
        # the manager has one handler an item, and that reads whole items only
        with (
            _readable(folder := self._folder_of(self.latest)),
            ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader,
        ):
            return reader.restore(
                folder / _MODEL.format(model),
                args=ocp.args.PyTreeRestore(
                    like,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(like),
                    partial_restore=True,
                ),
            )

    def read_meta(self) -> dict[str, Any]:
        """Read only the numbers and texts of the latest checkpoint."""
        return self._read().meta["meta"]

    def check_format(self) -> None:
        """Refuse to resume from a checkpoint that another version wrote.

        Raises:
            UserError: If its states are of another form; its parameters can be loaded.
        """
        found = self._read().meta.get(_FORMAT, 2)
        if found != FORMAT:
            raise UserError(
                f"{self._manager.directory}: saved by another version of this program "
                f"(format {found}, this one has {FORMAT}) and cannot be resumed; end "
                "the run with that version, or start it anew with --overwrite"
            )

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def _folder_of(self, step: int | None) -> Path:
        return Path(self._manager.directory) / str(step)

    def _read(self, **items: Any) -> Any:
        """Read the metadata of the latest checkpoint, and more of its items."""
        with _readable(self._folder_of(self.latest)):
            return self._manager.restore(
                self.latest,
                args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **items),
            )

    def _problem(self, step: int) -> tuple[Path, str] | None:
        """Return the first file of a checkpoint that is damaged, and how."""
        folder = self._folder_of(step)
        try:
            listed = read_json(folder / _FILES)
            found = dict(_digests(folder))
        except FileNotFoundError:
            # of an earlier version, or its writer was killed when all but this was done
            return None
        except DamagedFileError as error:
            return error.path, error.reason
        except OSError as error:
            return Path(error.filename or folder), str(error.strerror)
        for name, digest in listed.items():
            if name not in found:
                return folder / name, "missing"
            if found[name] != digest:
                return folder / name, "other bytes than were written"
        return None


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the files below a folder by their place in it, and a hash of each."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _FILES:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            yield str(path.relative_to(folder)), digest


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn whatever orbax raises into an error that names the checkpoint."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise DamagedFileError(folder, f"{type(error).__name__}: {text}") from error


def _check_space(folder: Path, tree: Any) -> None:
    """Raise what a full disk would, before a write fails.

    Of the many writes of a checkpoint, each that is under way when one fails prints a
    traceback of its own from a thread that nobody can reach.
    """
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    if shutil.disk_usage(folder).free < num_bytes * _OVERHEAD + _METADATA_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the system, which orbax knows only as texts, into `OSError`."""
    try:
        yield
    except Exception as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if isinstance(error, OSError) or code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number), str(folder)) from error
