"""Finished runs, read from their folders alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from dpet_jax.errors import UserError
from dpet_jax.files import read_json, read_npz, read_yaml
from dpet_jax.run.costs import By, Event, Spent, TargetCost, spent_at, target_cost
from dpet_jax.run.folder import (
    CONFIG,
    CORESET,
    EVENTS,
    SUMMARY,
    read_events,
    reading,
)
from dpet_jax.run.limits import StopReason

COST_NAMES: dict[By, str] = {
    "wh": "energy (Wh)",
    "epochs": "epochs (full-pass equivalents)",
    "visits": "examples seen",
    "seconds": "seconds",
}

#: The number of `run.costs.Spent` that is compared. Those in Wh and seconds are warm:
#: whichever run of a process comes first compiles and reads for all.
COMPARED: dict[By, str] = {
    "wh": "wh_warm",
    "epochs": "epochs",
    "visits": "visits",
    "seconds": "seconds_warm",
}


class _Part(BaseModel):
    """What a report reads of a file: other keys may stand beside these."""

    model_config = ConfigDict(strict=True)


class _Phase(_Part):
    s: float


class _Energy(_Part):
    quality: str
    included: list[str]
    reason_codes: list[str]
    valid: bool
    unavailable: list[dict[str, str]]


class _Target(_Part):
    target: float


class _Lost(_Part):
    seconds: float
    visits: int
    wh: float | None


class _Compiled(_Part):
    cache_hits: int


class _Pruning(_Part):
    outcome: str
    at_epochs: float | None
    widths_before: list[int] | None
    widths_after: list[int] | None
    forward_flops_before: int | None
    forward_flops_after: int | None
    timed_step_s: list[float | None] | None
    step_s: list[float | None] | None
    step_wh: list[float | None] | None
    accuracy_before: float | None
    accuracy_after: float | None


class _Summary(_Part):
    name: str
    seed: int
    test_accuracy: float | None
    coreset_size: int | None
    pruning_ratio: float | None
    flops: float
    epochs: float
    select_flops: float
    targets_on: Literal["validation", "test"] | None
    targets: list[_Target]
    stopped_by: str
    phases: dict[str, _Phase]
    energy: _Energy
    lost: _Lost
    compilations: dict[str, _Compiled]
    label_noise: float = 0.0
    pruning: _Pruning | None = None


class _Device(_Part):
    kind: str
    platform: str
    count: int
    cpu_cores: int
    machine: str
    os: str


class _Started(_Part):
    dataset: str
    fingerprint: str
    train: int
    validation: int
    test: int
    device: _Device
    versions: dict[str, str]


class _Timed(_Part):
    time_s: float
    seconds: dict[str, float]


class _Costs(_Timed):
    """What events hold that say what was spent until then."""

    wh: dict[str, float] | None
    visits: int
    executed_visits: int
    epochs: float


class _Evaluated(_Costs):
    accuracy: float | None
    loss: float | None


class _Section(_Part):
    split_seed: int = 0
    every: float = 1.0


class _Config(_Part):
    data: _Section
    evaluate: _Section


_EVENTS: dict[str, type[_Part]] = {
    "start": _Started,
    "plan": _Costs,
    "evaluate": _Evaluated,
    "stop": _Costs,
}


def compared(spent: Spent, by: By) -> float | None:
    """Return the number that runs are compared by; None where it was not measured."""
    value = getattr(spent, COMPARED[by])
    return None if value is None else float(value)


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: Where it is.
        config: Resolved.
        summary: Of summary.json.
        events: In order, without superseded ones.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    events: tuple[Event, ...]

    def __repr__(self) -> str:
        """Return which run it is and how it ended, in a line."""
        test = self.summary["test_accuracy"]
        told = "diverged" if test is None else f"test accuracy {test:.4f}"
        return (
            f"Run({self.folder}: {self.method}, seed {self.seed}, {told}, "
            f"{self.summary['epochs']:.2f} epochs)"
        )

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """Its evaluations on the way, an array a column, in order.

        `accuracy`, in [0, 1], and `loss` on the split that targets are reached on, and
        what had been spent: `epochs`, `visits`, `seconds_warm` and `wh_warm`, the last
        two without compiling and reading the data. NaN is what was not measured.
        """
        looks = self.evaluations()
        columns: dict[str, list[Any]] = {
            name: [event[name] for event in looks] for name in ("accuracy", "loss")
        }
        for name in ("epochs", "visits", "seconds_warm", "wh_warm"):
            columns[name] = [getattr(spent_at(event), name) for event in looks]
        return {name: np.array(held, float) for name, held in columns.items()}

    @property
    def coreset(self) -> dict[str, np.ndarray] | None:
        """What coreset.npz holds; None for a method that chooses no coreset."""
        path = self.folder / CORESET
        return read_npz(path) if path.exists() else None

    @property
    def model(self) -> Any:
        """The trained model, with `apply_fn` and `params`; see `dpet_jax.load_run`."""
        # reports are read without JAX
        from dpet_jax.run.load import load_run

        return load_run(self.folder)

    def report(self, out: Path | None = None, *, paper: bool = False) -> Path:
        """Write page, tables and plots about it; return the page.

        Args:
            out: The folder, by default the run's own.
            paper: Whether to write what is for a column of a paper too.
        """
        # which are made of runs
        from dpet_jax.report.comparison import read_comparison
        from dpet_jax.report.page import write_report

        comparison = read_comparison([self.folder])
        by = comparison.natural_cost()
        return write_report(comparison, by, out or self.folder, paper=paper)[0]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.summary["seed"])

    @property
    def method(self) -> str:
        """Name of its method for people."""
        # runs of an earlier version recorded the kind alone
        kind = str(self.summary.get("method") or "a method")
        label = self.summary.get("method_label")
        return str(label or kind.rpartition(":")[2].replace("_", " "))

    @property
    def stopped_by(self) -> StopReason:
        """What ended it."""
        reason: StopReason = self.summary["stopped_by"]
        return reason

    @property
    def started(self) -> Event:
        """The last start event: versions, device, split sizes."""
        return self._last("start")

    @property
    def end(self) -> Event:
        """The stop event, with everything that was spent."""
        return self._last("stop")

    @property
    def quality(self) -> str:
        """Of its energy: measured, modelled or unavailable."""
        return str(self.summary["energy"]["quality"])

    @property
    def targets(self) -> tuple[float, ...]:
        """The accuracies it was to reach, ascending."""
        return tuple(sorted(entry["target"] for entry in self.summary["targets"]))

    def evaluations(self) -> list[Event]:
        """Return the evaluations on the split that targets are reached on, in order."""
        return [
            event
            for event in self.events
            if event["event"] == "evaluate" and event["accuracy"] is not None
        ]

    def target_cost(self, target: float) -> TargetCost | None:
        """Return what it cost to reach a target; None if the run never did."""
        return target_cost(self.events, target)

    def spent(self, by: By) -> float | None:
        """Return what the whole run cost; None where that was not measured."""
        return self.cost(spent_at(self.end), by)

    def cost(self, spent: Spent, by: By) -> float | None:
        """Return what is compared of what was spent; None where it was not measured.

        A model's Wh are no cost: what two of them differ by lies within its interval.
        """
        if by == "wh" and self.quality == "modelled":
            return None
        return compared(spent, by)

    def _last(self, event: str) -> Event:
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
        what = "this run has not finished" if begun else "holds no run"
        raise UserError(f"{folder}: {what}; it is left out")
    try:
        with reading(folder):
            events = read_events(folder / EVENTS)
            config, summary = read_yaml(folder / CONFIG), read_json(folder / SUMMARY)
            run = Run(folder, config, summary, (*events,))
            _check(run)
            return run
    except OSError as error:
        text = f"{folder}: cannot be read ({error.strerror}: {error.filename})"
    except UserError as error:
        text = str(error)
    raise UserError(f"{text}; it is left out")


def _check(run: Run) -> None:
    """Check the type of everything that a report reads without asking."""
    _Summary.model_validate(run.summary)
    _Config.model_validate(run.config)
    for event in run.events:
        timed = _Timed if isinstance(event.get("seconds"), dict) else _Part
        _EVENTS.get(event["event"], timed).model_validate(event)
    _ = run.started, spent_at(run.end), [run.target_cost(t) for t in run.targets]


def find_runs(path: Path) -> list[Path]:
    """Return the folders of all runs at or below a path, sorted."""
    marks = [*path.rglob(EVENTS), *path.rglob(SUMMARY)]
    return sorted({mark.parent for mark in marks})
