"""The contract of a tracker: it opens a writer, which is given the events of a run.

A tracker of your own extends `Tracker` and goes by its import path,
`track: [package.module:Name]`. Its writer needs two methods, `write` and `close`.
"""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pydantic import Field

from dpet_jax.errors import UserError
from dpet_jax.files import write_whole
from dpet_jax.section import Kind, UserPath

#: In the run's folder, what trackers keep there.
TRACK = "track"
# What costs are counted in, under the same name whatever event tells them.
_COSTS = {
    "epochs": "cost/epochs",
    "time_s": "cost/seconds",
    "flops": "cost/flops",
    "scored_examples": "cost/scored_examples",
}
# Of an event, what is no measurement of it.
_BOOKKEEPING = {"event", "event_id", "segment", "visits", "executed_visits", *_COSTS}


class TrackedRun(NamedTuple):
    """The run that a tracker follows.

    Attributes:
        name: Of its config.
        seed: Its seed.
        folder: The run folder.
        config: Its resolved config as plain data.
        step: Examples trained on so far; above 0 where a run goes on that was left.
        resumed: Whether it goes on.
        past: Events of before, also those that it does again; none in a new run.
        kept: Those of them that stand.
    """

    name: str
    seed: int
    folder: Path
    config: dict[str, Any]
    step: int = 0
    resumed: bool = False
    past: tuple[Mapping[str, Any], ...] = ()
    kept: tuple[Mapping[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """What trackers call it."""
        return f"{self.name}/seed{self.seed}"


@runtime_checkable
class Writer(Protocol):
    """What a tracker opens for one run."""

    def write(self, event: Mapping[str, Any]) -> None:
        """Take an event that is on disk already; `measurements` reads its numbers."""

    def close(self, *, finished: bool) -> None:
        """End; `finished` is whether the run came to its end."""


class Tracker(Kind, ABC):
    """Where else a run's events go; a section of the key `track`."""

    folder: UserPath | None = Field(
        None, description="shared by all runs; null: `track` in the run's folder"
    )

    #: Package that it needs, and the extra of ours that installs it.
    needs: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def open(self, run: TrackedRun) -> Writer:
        """Return what takes the run's events.

        Args:
            run: What is followed.
        """

    def check(self) -> None:
        """Import the package that it needs, before a run is metered.

        Raises:
            UserError: If it is not installed, with what to install.
        """
        if self.needs is None:
            return
        package, extra = self.needs
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"track: {self.kind} needs the package {package}, which cannot be "
                f"imported ({error}); run pip install 'dpet-jax[{extra}]', or leave "
                f"{self.kind} out of track"
            ) from error

    def place(self, run: TrackedRun) -> Path:
        """Return the folder to write to."""
        own = run.folder / TRACK / self.label.replace(" ", "_")
        return own if self.folder is None else self.folder


def measurements(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an event by name, as curves are called.

    Those of an evaluation go by its split, as "validation/accuracy"; others by the
    event, as "train/loss". Costs are cumulative and have one name: "cost/epochs",
    "cost/wh" where energy is known, "cost/seconds" of the wall clock.

    Args:
        event: As the run's events.jsonl has it.
    """
    name = event.get("split") or event["event"]
    found = {f"{name}/{k}": v for k, v in event.items() if k not in _BOOKKEEPING}
    found |= {own: event[key] for key, own in _COSTS.items() if key in event}
    wh = event.get("wh")
    if isinstance(wh, Mapping):
        found["cost/wh"] = sum(value for value in wh.values() if value is not None)
    return {
        key: float(value)
        for key, value in found.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf of a config."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def kept_id(run: TrackedRun, tracker: str, begin: Callable[[], str]) -> str:
    """Return the id by which a tracker knows a run, begun anew if it is none of it.

    It is kept in the run's folder, so that a run that goes on is one run there too.

    Args:
        run: What is followed.
        tracker: Name of the file.
        begin: Begins a run and returns its id.
    """
    path = run.folder / TRACK / f"{tracker}.id"
    if run.resumed and path.exists():
        return path.read_text(encoding="utf-8").strip()
    found = begin()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{found}\n")
    return found


class Once:
    """Knows which events a tracker has had, where a crash makes a run do some again.

    An event that is done again has a number of its own, so that it is known by how far
    its curve had come.

    Args:
        run: What is followed.
        last: Number of the last event that the tracker holds; -1 if it holds none.
    """

    def __init__(self, run: TrackedRun, last: int) -> None:
        self._come: dict[tuple[Any, ...], int] = {}
        for event in run.past:
            if event["event_id"] <= last and "visits" in event:
                curve = _curve(event)
                self._come[curve] = max(event["visits"], self._come.get(curve, -1))

    def had(self, event: Mapping[str, Any]) -> bool:
        """Whether the tracker has had it, in an earlier part of the run."""
        visits = event.get("visits")
        return visits is not None and visits <= self._come.get(_curve(event), -1)


def _curve(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what the points of a curve have in common."""
    return tuple(event.get(key) for key in ("event", "split", "target"))
