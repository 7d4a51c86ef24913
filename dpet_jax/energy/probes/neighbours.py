"""Other runs on this machine that read the same sensors at the same time.

A sensor gives the joules of a whole card or package, whoever used them. NVML may name
the processes on a card; RAPL names nobody, and containers hide processes. So a run
leaves a note of what it reads while it measures, in a folder that all runs of a user on
a machine have in common, and whoever comes later marks both.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from dpet_jax.energy.probes.source import Found, Probe, Source

#: Names another folder for the notes, on which all runs of a machine must agree.
RUNTIME_DIR = "DPET_RUNTIME_DIR"


def notes_folder() -> Path:
    """Return where the runs of this user on this machine leave their notes."""
    common = Path(tempfile.gettempdir()) / f"dpet_jax-{os.getuid()}"
    return Path(os.environ.get(RUNTIME_DIR, common)) / "measuring"


class Neighbours:
    """A note of what this run reads, and of the runs that read some of it too.

    Runs of other users, in other containers or on the other side of a virtual machine
    are not seen.

    Args:
        ids: Of the probes that are read.
        folder: Of the notes; made if missing.

    Raises:
        OSError: If no note can be left there.
    """

    def __init__(self, ids: Iterable[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = {*ids}
        name = uuid.uuid4().hex
        self._path = folder / f"{name}.note"
        draft = folder / f"{name}.draft"
        self._file: IO[str] | None = draft.open("a+", encoding="utf-8")
        self._add(self._file, sorted(own))
        # locked before anybody can see it: a note without a lock is that of a dead run
        fcntl.flock(self._file, fcntl.LOCK_EX)
        draft.rename(self._path)
        met: set[str] = set()
        for other in folder.glob("*.note"):
            if other != self._path:
                met |= self._meet(other, own)
        if met:
            self._add(self._file, sorted(met))

    def _meet(self, other: Path, own: set[str]) -> set[str]:
        """Return what another run reads too, and tell it so."""
        # a run may end at any moment, and its note with it
        with contextlib.suppress(FileNotFoundError), other.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                first = file.readline()
                shared = own & {*json.loads(first)}
                if shared:
                    self._add(file, sorted(shared))
                return shared
            other.unlink(missing_ok=True)
        return set()

    @staticmethod
    def _add(file: IO[str], ids: list[str]) -> None:
        file.write(json.dumps(ids) + "\n")
        file.flush()

    def met(self, identity: str) -> bool:
        """Return whether another run has read a probe since this one began to."""
        if self._file is None:
            return False
        self._file.seek(0)
        _, *shared = self._file.read().splitlines()
        return any(identity in json.loads(line) for line in shared)

    def close(self) -> None:
        """Take the note away; again does nothing."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


class WatchedProbe:
    """A probe whose facts tell of other runs on its component, too.

    Args:
        probe: What is asked.
        neighbours: Who else asks it; left when the probe is closed.
    """

    def __init__(self, probe: Probe, neighbours: Neighbours) -> None:
        self._probe, self._neighbours = probe, neighbours
        self.id = probe.id
        self.component = probe.component
        self.scope = probe.scope
        self.sources: tuple[Source, ...] = probe.sources

    def read(self) -> tuple[float | None, ...]:
        """Ask every source of the probe once."""
        return self._probe.read()

    def facts(self) -> dict[str, Any]:
        """Return the facts of the probe.

        `foreign_processes` is True, whatever the probe knows, once another run was met.
        """
        facts = self._probe.facts()
        if self._neighbours.met(self.id):
            return facts | {"foreign_processes": True}
        return facts

    def close(self) -> None:
        """Release the probe, and take this run's note away."""
        self._neighbours.close()
        self._probe.close()


def watched(found: Found, folder: Path | None = None) -> Found:
    """Return what was found, with an eye on other runs that read the same.

    Args:
        found: Probes; without any there is nothing to watch.
        folder: Of the notes; by default `notes_folder()`. Where it cannot be written,
            the probes are returned as they are: they say themselves what they know.
    """
    if not found.probes:
        return found
    try:
        neighbours = Neighbours(
            (probe.id for probe in found.probes), folder or notes_folder()
        )
    except OSError:
        return found
    return found._replace(
        probes=tuple(WatchedProbe(probe, neighbours) for probe in found.probes)
    )
