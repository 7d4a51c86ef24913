"""The rows of a report: a method each, with the runs that are compared."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from dpet_jax.config.load import flat
from dpet_jax.errors import UserError
from dpet_jax.report.runs import COST_NAMES, Run
from dpet_jax.run.costs import By

#: What a row can be to the others.
ROLES = ("standard", "tuned", "random")

#: Something of a run that must be equal for some number to be compared.
Kind = Callable[[Run], tuple[str, ...]]


class Tuning(NamedTuple):
    """What it took to choose the hyper-parameters of a row.

    Attributes:
        trials: Settings that were tried.
        seeds: Seeds of the trials; none of them is reported.
        cost: What all trials cost together, by `By`; None where not measured.
        chosen: The setting for each target or horizon, as it is written in the suite;
            None for a target that no trial reached.
    """

    trials: int
    seeds: tuple[int, ...]
    cost: dict[By, float | None]
    chosen: dict[float, str | None]


class GridCell(NamedTuple):
    """Where a row lies in a grid.

    Attributes:
        of: Name of the grid's variant, for people.
        factors: By dotted key of the config, the value of this row.
    """

    of: str
    factors: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A method of a comparison.

    Attributes:
        key: Its name in the comparison, unique.
        label: Its name for people.
        by_target: The runs that are compared at a target, one a seed. Where a setting
            was chosen for each target they differ from target to target.
        runs: The runs whose curves and final results are shown: those of the highest
            target that has any.
        tuning: None where nothing was tuned.
        paper: Name of the row of `PAPER_WH` that it repeats, or None.
        by_horizon: The runs of each length that are read once, at their end, one a
            seed; then `by_target` is empty.
        arm: What rows of one grid have in common, or rows that differ in their network
            alone.
        cell: None for a row of no grid.
    """

    key: str
    label: str
    by_target: dict[float, tuple[Run, ...]]
    runs: tuple[Run, ...]
    tuning: Tuning | None = None
    paper: str | None = None
    by_horizon: dict[float, tuple[Run, ...]] = field(default_factory=dict)
    arm: str = ""
    cell: GridCell | None = None

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Every run of the row, once."""
        held = [*self.by_target.values(), *self.by_horizon.values(), self.runs]
        return tuple({run.folder: run for runs in held for run in runs}.values())

    def keeping(self, keep: Callable[[Run], bool]) -> "Row":
        """Return the row with some of its runs alone."""

        def kept(held: dict[float, tuple[Run, ...]]) -> dict[float, tuple[Run, ...]]:
            return {key: tuple(filter(keep, runs)) for key, runs in held.items()}

        return replace(
            self,
            by_target=kept(self.by_target),
            by_horizon=kept(self.by_horizon),
            runs=tuple(filter(keep, self.runs)),
        )


@dataclass(frozen=True)
class Comparison:
    """What a report is about.

    Attributes:
        name: Of the suite, or of the folder.
        rows: In the order of the suite.
        targets: Accuracies, ascending.
        roles: Key of the row that is "standard" (as papers train it), "tuned" (full
            data with a tuned schedule) and "random" (the control); those there are.
        statements: What readers have to know about the suite, a sentence each.
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
        return runs_of(self.rows)

    @property
    def crossing(self) -> "Comparison":
        """Its rows whose runs are read on the way, where they cross a target."""
        return replace(self, rows=tuple(r for r in self.rows if not r.by_horizon))

    @property
    def at_end(self) -> "Comparison":
        """Its rows whose runs are read once, at their end."""
        return replace(self, rows=tuple(r for r in self.rows if r.by_horizon))

    @property
    def gridless(self) -> "Comparison":
        """Its rows that are of no grid."""
        return replace(self, rows=tuple(r for r in self.rows if r.cell is None))

    @property
    def counted(self) -> str:
        """How many methods there are, and how many grids of how many settings."""
        cells = Counter(row.cell.of for row in self.rows if row.cell is not None)
        methods = len(self.gridless.rows)
        parts = [f"{methods} method{'s' * (methods != 1)}"] * (methods > 0 or not cells)
        parts += [f"{of}: a grid of {count} settings" for of, count in cells.items()]
        return ", ".join(parts)

    def natural_cost(self) -> By:
        """Return Wh if all runs measured the same parts of one kind of device.

        Epochs otherwise.
        """
        kinds = {energy_of(run) for run in self.runs}
        devices = {device_of(run) for run in self.runs}
        alike = len(kinds) == len(devices) == 1
        return "wh" if alike and next(iter(kinds))[0] == "measured" else "epochs"


def runs_of(rows: Iterable[Row]) -> tuple[Run, ...]:
    """Return every run of some rows, once."""
    return tuple({run.folder: run for row in rows for run in row.all_runs}.values())


def data_of(run: Run, *, at_end: bool = False) -> tuple[str, ...]:
    """Return what must be equal for accuracies to be compared.

    Args:
        run: The run.
        at_end: Whether it is read once, at its end, so that it does not matter how
            often it was looked at on the way.
    """
    data, start = run.config["data"], run.started
    looks = f"evaluated every {run.config['evaluate']['every']:g} epochs"
    return (
        f"{start['dataset']} {start['fingerprint'][:12]}",
        f"split {data['split_seed']}",
        f"{start['train']} + {start['validation']} + {start['test']} examples",
        *(() if at_end else (looks,)),
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
    """Return the settings, by dotted key, that runs of one method have in common."""
    apart = ("name", "seed", "checkpoint", "energy", "targets")
    return dict(flat({k: v for k, v in run.config.items() if k not in apart}))


def mixed_settings(row: Row) -> list[str]:
    """Return the settings in which runs that are compared at one target differ."""
    names: dict[str, None] = {}
    for runs in [*row.by_target.values(), *row.by_horizon.values(), row.runs]:
        settings = [setting_of(run) for run in runs]
        for name in dict.fromkeys(key for one in settings for key in one):
            if len({repr(one.get(name)) for one in settings}) > 1:
                names[name] = None
    return list(names)


def comparable(rows: list[Row], by: By | None, problems: list[str]) -> list[Row]:
    """Leave out the runs that must not be mixed with most others.

    Those of another data set or split, or of another evaluation grid unless all are
    read at their end; for a cost in seconds or Wh those of another device; for Wh those
    of another energy quality or boundary.

    Args:
        rows: As they were found.
        by: What costs will be compared in; None if that is still to be chosen.
        problems: Gets a sentence for each run left out.

    Raises:
        UserError: If no run has measured the cost.
    """
    at_end = all(row.by_horizon for row in rows if row.all_runs)
    what = "data set or split" if at_end else "data set, split or evaluation grid"
    rows = _alike(rows, problems, partial(data_of, at_end=at_end), what)
    if by not in ("wh", "seconds"):
        kinds = sorted({", ".join(device_of(run)) for run in runs_of(rows)})
        if len(kinds) > 1:
            problems.append(
                f"runs come from several devices ({'; '.join(kinds)}): costs in epochs "
                "and examples seen can be compared, seconds and Wh cannot"
            )
        return rows
    rows = _measured(rows, by, problems)
    rows = _alike(rows, problems, device_of, "device")
    if by == "wh":
        rows = _alike(rows, problems, energy_of, "energy quality or boundary")
    return rows


def _measured(rows: list[Row], by: By, problems: list[str]) -> list[Row]:
    without = [run for run in runs_of(rows) if run.spent(by) is None]
    if len(without) == len(runs_of(rows)):
        raise UserError(
            f"no run has measured {COST_NAMES[by]}; choose another cost, such as "
            "--by=epochs"
        )
    problems += [
        f"{run.folder}: left out, it has not measured {COST_NAMES[by]}"
        for run in without
    ]
    return [row.keeping(lambda run: run not in without) for row in rows]


def _alike(rows: list[Row], problems: list[str], kind: Kind, what: str) -> list[Row]:
    counts = Counter(kind(run) for run in runs_of(rows))
    if len(counts) < 2:
        return rows
    (usual, _), *_ = counts.most_common()
    problems += [
        f"{run.folder}: left out, it has another {what} than most runs "
        f"({', '.join(kind(run))} instead of {', '.join(usual)})"
        for run in runs_of(rows)
        if kind(run) != usual
    ]
    return [row.keeping(lambda run: kind(run) == usual) for row in rows]
