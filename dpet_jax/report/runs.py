"""Runs as a report sees them: what their folders hold, and nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from dpet_jax.errors import UserError
from dpet_jax.run.folder import (
    CONFIG,
    EVENTS,
    SUMMARY,
    read_events,
    read_json,
    read_yaml,
)

By = Literal["wh", "epochs", "visits", "seconds"]

#: What a cost is called, with its unit.
COST_NAMES: dict[By, str] = {
    "wh": "energy (Wh)",
    "epochs": "epochs (full-pass equivalents)",
    "visits": "training visits",
    "seconds": "seconds",
}

#: Phases that a cost in Wh or seconds is made of. Programs are compiled once for all
#: runs of a process, evaluation is the same for all: both are told apart.
COST_PHASES = ("data", "select", "train")


def cost_of(event: dict[str, Any], by: By) -> float | None:
    """Return what a run had spent at an event.

    Args:
        event: With counters, and Wh and seconds by phase.
        by: Wh and seconds leave out compiling and evaluating; epochs count scoring and
            pre-training; visits are rows that the main model was trained on, alone.

    Returns:
        None where it was not measured.
    """
    if by in ("epochs", "visits"):
        return float(event[by])
    phases = event.get(by)
    return None if phases is None else float(sum(phases[p] for p in COST_PHASES))


_SUMMARY = (
    *("name", "test_accuracy", "coreset_size", "pruning_ratio", "flops", "epochs"),
    *("select_flops", "targets_on", "stopped_by", "lost", "compilations"),
)
_STARTED = (
    *("dataset", "fingerprint", "train", "validation", "test"),
    *("device", "versions"),
)


class Point(NamedTuple):
    """An evaluation on the split that targets are reached on.

    Attributes:
        event: As recorded, with everything that had been spent.
        accuracy: A fraction.
    """

    event: dict[str, Any]
    accuracy: float


class Crossing(NamedTuple):
    """The first evaluation at or above a target.

    Attributes:
        event: As recorded.
        test_accuracy: Of the same parameters.
    """

    event: dict[str, Any]
    test_accuracy: float


@dataclass(frozen=True)
class Run:
    """A run that came to its end.

    Attributes:
        folder: Where it is.
        config: Resolved.
        summary: Of summary.json.
        events: In order, without superseded ones.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    events: tuple[dict[str, Any], ...]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.summary["seed"])

    @property
    def diverged(self) -> bool:
        """Whether its loss was not finite any more."""
        return bool(self.summary["stopped_by"] == "diverged")

    @property
    def started(self) -> dict[str, Any]:
        """The last start event: versions, device, split sizes."""
        return self._last("start")

    @property
    def end(self) -> dict[str, Any]:
        """The stop event, with everything that was spent."""
        return self._last("stop")

    @property
    def quality(self) -> str:
        """Of its energy: measured, modelled or unavailable."""
        return str(self.summary["energy"]["quality"])

    @property
    def targets(self) -> tuple[float, ...]:
        """What it was to reach, ascending."""
        return tuple(sorted(entry["target"] for entry in self.summary["targets"]))

    def points(self) -> list[Point]:
        """Return the evaluations that decide about targets, in order."""
        return [
            Point(e, e["accuracy"])
            for e in self.events
            if e["event"] == "evaluate" and e["accuracy"] is not None
        ]

    def crossing(self, target: float) -> Crossing | None:
        """Return where it reached a target, or None; nothing is interpolated."""
        for event in self.events:
            if event["event"] == "target" and event["target"] == target:
                return Crossing(event, event["test_accuracy"])
        return None

    def _last(self, event: str) -> dict[str, Any]:
        for one in reversed(self.events):
            if one["event"] == event:
                return one
        raise ValueError(f"{EVENTS} holds no {event} event")


def read_run(folder: Path) -> Run:
    """Read the folder of a finished run.

    Raises:
        UserError: If it holds no finished run, or something that cannot be read.
    """
    if not (folder / SUMMARY).exists():
        begun = (folder / EVENTS).exists()
        what = "this run has not come to its end" if begun else "holds no run"
        raise UserError(f"{folder}: {what}; it is left out")
    try:
        events = read_events(folder / EVENTS)
        run = Run(
            folder, read_yaml(folder / CONFIG), read_json(folder / SUMMARY), (*events,)
        )
        _check(run)
        return run
    except OSError as error:
        text = f"{error.strerror}: {error.filename}"
    except (json.JSONDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
    except (KeyError, IndexError, TypeError) as error:
        text = f"{type(error).__name__} {error}: written by another version?"
    except ValueError as error:
        text = str(error)
    raise UserError(f"{folder}: cannot be read ({text}); it is left out")


def _check(run: Run) -> None:
    """Ask for everything that a report reads without asking."""
    _ = (run.seed, run.diverged, run.quality, run.targets, run.end["epochs"])
    for name in _SUMMARY:
        _ = run.summary[name]
    for name in _STARTED:
        _ = run.started[name]
    _ = run.config["data"]["split_seed"], run.config["evaluate"]["every"]
    _ = run.summary["phases"]["compile"]["s"], run.summary["energy"]["included"]
    for event in run.events:
        if event["event"] in ("plan", "evaluate", "target", "stop"):
            _ = (event["epochs"], event["visits"], event["executed_visits"])
            for by in ("wh", "seconds"):
                cost_of(event, by)


def find_runs(path: Path) -> list[Path]:
    """Return the folders of all runs at or below a path, sorted."""
    marks = [*path.rglob(EVENTS), *path.rglob(SUMMARY)]
    return sorted({mark.parent for mark in marks})
