"""The run folder: events while running, and whole files at the end."""

import fcntl
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from dpet_jax.errors import DamagedFileError, FolderInUseError, UserError
from dpet_jax.files import JsonLines, read_lines, replacing, write_whole
from dpet_jax.trackers.base import TRACK

EVENTS = "events.jsonl"
SUMMARY = "summary.json"
ENERGY = "energy.jsonl"
ENERGY_REPORT = "energy_report.json"
#: What the other processes of a run have measured, each its own host.
HOSTS = "hosts.json"
CONFIG = "config.yaml"
CORESET = "coreset.npz"
GALLERY = "gallery.npz"
LABEL_NOISE = "label_noise.npz"
#: What training said about every example.
LOSSES = "losses.npz"
CHECKPOINTS = "checkpoints"
#: The choice of a pre-trained network, and what the run starts from.
POOL = "pool.json"
START = "start.safetensors"
#: The choice of a precision.
PRECISION = "precision.json"

_FILES = (
    *(EVENTS, SUMMARY, CONFIG, CORESET, GALLERY, LABEL_NOISE, LOSSES),
    *(ENERGY, ENERGY_REPORT, HOSTS, POOL, PRECISION, START),
)


class RunFolder:
    """A run's folder, held by one process at a time.

    Args:
        path: Where; made if missing.

    Raises:
        UserError: If the folder cannot be made or written.
        FolderInUseError: If another process runs in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"{path}: cannot write the run folder ({error.strerror}); choose "
                "another with --out=DIR"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise FolderInUseError(
                f"{path}: another process is running in this folder; wait for it or "
                "choose another with --out=DIR"
            ) from error

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / CONFIG).exists() or (self.path / EVENTS).exists()

    @property
    def finished(self) -> bool:
        """Whether the run here came to its end."""
        return (self.path / SUMMARY).exists()

    def clear(self) -> None:
        """Delete what an earlier run left, and nothing else."""
        for folder in (CHECKPOINTS, TRACK):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that it is whole or absent, whatever happens."""
        write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON so that the file is whole or absent."""
        self.write_text(name, json.dumps(_plain(value), indent=2) + "\n")

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write an .npz so that the file is whole or absent."""
        with replacing(self.path / name) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)


class FollowedFolder(RunFolder):
    """A run's folder that another process holds: this one reads it and writes nothing.

    Args:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def close(self) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""

    def write_text(self, name: str, text: str) -> None:
        """Do nothing."""

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Do nothing."""


@dataclass
class Recorder:
    """Append events, each on disk before it is shown.

    Attributes:
        path: The events file; None where another process writes it.
        segment: 0, and one more with every resume.
        next_id: Number of the next event.
        listener: Is given every event that is on disk.
    """

    path: Path | None
    segment: int = 0
    next_id: int = 0
    listener: Callable[[dict[str, Any]], None] | None = None
    _file: JsonLines | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Open the file."""
        self._file = None if self.path is None else JsonLines(self.path)

    def write(self, event: str, **values: Any) -> dict[str, Any]:
        """Append one event and return it as written."""
        line = {
            "event": event,
            "event_id": self.next_id,
            "segment": self.segment,
            **_plain(values),
        }
        if self._file is not None:
            self._file.append(line)
        self.next_id += 1
        if self.listener is not None:
            self.listener(line)
        return line

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_events(path: Path, *, superseded: bool = False) -> list[dict[str, Any]]:
    """Read a run's events; a torn last line is dropped.

    Args:
        path: The events file.
        superseded: Keep also what a resume repeated, which otherwise is left out.

    Returns:
        The events in order.

    Raises:
        OSError: If there is no such file.
        DamagedFileError: If a line other than a torn last one is no event.
    """
    events = read_lines(path)
    for number, event in enumerate(events, 1):
        wanted = {"event": str, "event_id": int, "segment": int}
        if event.get("event") == "lost":
            wanted["after_event_id"] = int
        for key, kind in wanted.items():
            if not isinstance(event.get(key), kind):
                raise DamagedFileError(path, f"it has no {key}", number)
    if superseded:
        return events
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "lost":
            kept = [old for old in kept if old["event_id"] <= event["after_event_id"]]
        kept.append(event)
    return kept


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn whatever files of another form raise into an error that names the folder.

    Raises:
        UserError: For anything that is missing, of another type or out of range.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as e:
        text = " ".join(f"{type(e).__name__} {e}".split())[:200]
        if isinstance(e, ValidationError):
            first = e.errors()[0]
            text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{folder}: its files are not as this version writes them ({text}); put "
            "them back as they were, or run anew"
        ) from e


def _plain(value: Any) -> Any:
    """Turn numpy values into plain ones and NaN, which JSON lacks, into null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
