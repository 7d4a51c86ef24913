"""What a report compares: methods, each with the runs that stand for it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from dpet_jax.report.runs import By, Run

#: What a row can be to the others.
ROLES = ("standard", "tuned", "random")


class Tuning(NamedTuple):
    """What it took to choose a row's hyper-parameters.

    Attributes:
        trials: Settings that were tried.
        seeds: Seeds of the trials; none of them is reported.
        cost: What all trials cost together, by `By`; None where not measured.
        chosen: The setting for each target, as it is written in the suite; None for a
            target that no trial reached.
    """

    trials: int
    seeds: tuple[int, ...]
    cost: dict[By, float | None]
    chosen: dict[float, str | None]


@dataclass(frozen=True)
class Row:
    """A method of a comparison.

    Attributes:
        key: Its name in the comparison, unique.
        label: Its name for people.
        by_target: The runs that answer for a target, one a seed. Where a setting was
            chosen for each target they differ from target to target.
        runs: The runs whose course and end stand for the row: those of the highest
            target that has any.
        tuning: None where nothing was tuned.
        paper: Name of the row of `PAPER_WH` that it repeats, or None.
    """

    key: str
    label: str
    by_target: dict[float, tuple[Run, ...]]
    runs: tuple[Run, ...]
    tuning: Tuning | None = None
    paper: str | None = None

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Every run of the row, once."""
        found = {run.folder: run for runs in self.by_target.values() for run in runs}
        return tuple((found | {run.folder: run for run in self.runs}).values())


@dataclass(frozen=True)
class Comparison:
    """What a report is about.

    Attributes:
        name: Of the suite, or of the folder.
        rows: In the order of the suite.
        targets: Accuracies, ascending.
        roles: Key of the row that is "standard" (as papers train it), "tuned" (full
            data with a tuned schedule) and "random" (the control); those there are.
        statements: What the suite says of itself: how it was made small, and so on.
        problems: What is wrong or left out, a sentence each.
    """

    name: str
    rows: tuple[Row, ...]
    targets: tuple[float, ...]
    roles: dict[str, str]
    statements: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def row(self, role: str) -> Row | None:
        """Return the row that has a role, or None."""
        key = self.roles.get(role)
        return next((row for row in self.rows if row.key == key), None)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run of every row, once."""
        found = {run.folder: run for row in self.rows for run in row.all_runs}
        return tuple(found.values())

    def natural_cost(self) -> By:
        """Return Wh if all runs measured the same parts of one kind of device.

        Epochs otherwise.
        """
        kinds = {energy_of(run) for run in self.runs}
        devices = {device_of(run) for run in self.runs}
        alike = len(kinds) == len(devices) == 1
        return "wh" if alike and next(iter(kinds))[0] == "measured" else "epochs"


def data_of(run: Run) -> tuple[str, ...]:
    """Return what must be equal for accuracies to be compared."""
    data, start = run.config["data"], run.started
    return (
        f"{start['dataset']} {start['fingerprint'][:12]}",
        f"split {data['split_seed']}",
        f"{start['train']} + {start['validation']} + {start['test']} examples",
        f"evaluated every {run.config['evaluate']['every']:g} epochs",
        f"targets on {run.summary['targets_on']}",
    )


def device_of(run: Run) -> tuple[str, ...]:
    """Return what must be equal for seconds and Wh to be compared."""
    device = run.started["device"]
    return (f"{device['count']} x {device['kind']}", f"{device['cpu_cores']} cores")


def energy_of(run: Run) -> tuple[str, ...]:
    """Return the quality of the energy, and what it includes."""
    energy = run.summary["energy"]
    return (str(energy["quality"]), *map(str, energy["included"]))


def setting_of(run: Run) -> dict[str, Any]:
    """Return the flat settings that runs of one method have in common."""
    apart = ("name", "seed", "checkpoint", "energy", "targets")
    return _flat({k: v for k, v in run.config.items() if k not in apart})


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
