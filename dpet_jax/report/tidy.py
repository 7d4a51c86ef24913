"""The numbers of a report as tidy tables: one observation a line, nothing rounded.

Every table begins with the same columns, so that they can be joined: `key` and `method`
of the row, `seed`, and `folder`, the run's as seen from the file. An empty cell is what
was not measured; Wh of a model stand only beside their interval. Costs go by the names
that summary.json has for them; those named warm leave out compiling and reading the
data.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpet_jax.files import csv_cell
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import Run
from dpet_jax.report.sheets import relative
from dpet_jax.run.costs import Spent, spent_at

#: Of every table.
IDENTITY = ("key", "method", "seed", "folder")

_SPENT = ("epochs", "visits", "seconds_warm", "seconds", "wh_warm", "wh")
_WH = ("wh_warm", "wh")
_RUNS = (
    *("stopped_by", "test_accuracy", "validation_accuracy", *_SPENT, "wall_s"),
    *("wh_total", "wh_total_low", "wh_total_high"),
    *("energy_quality", "coreset_size", "pruning_ratio", "flops", "select_flops"),
    *("dataset", "fingerprint", "train", "device", "cpu_cores"),
)
_PHASES = ("phase", "seconds", "wh", "wh_low", "wh_high", "quality")
_CURVES = (*_SPENT, "split", "accuracy", "loss")
_TARGETS = ("target", "reached", *_SPENT, "accuracy", "test_accuracy")

_Line = Mapping[str, Any]


def tidy_tables(comparison: Comparison, out: Path) -> dict[str, str]:
    """Return the tables by the name of their file.

    runs.csv has a line for each run, phases.csv for each phase of a run, curves.csv for
    each evaluation on the way, on the split that decides about targets, and targets.csv
    for each target of a run, reached or not. Runs of every setting that a report holds
    are in, also those that count for some targets alone (`table.csv` says which do).

    Args:
        comparison: Which runs belong to which method.
        out: The folder of the files, which the paths of run folders start from.
    """
    runs = [(row, run) for row in comparison.rows for run in row.all_runs]
    cells = [row.cell for row in comparison.rows if row.cell is not None]
    factors = tuple(dict.fromkeys(key for cell in cells for key in cell.factors))

    def table(columns: tuple[str, ...], lines: Iterable[_Line]) -> str:
        text = io.StringIO()
        names = (*IDENTITY, *columns, *factors)
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({name: csv_cell(value) for name, value in line.items()})
        return text.getvalue()

    def each(of: Any) -> Iterator[_Line]:
        for row, run in runs:
            mine = _identity(row, run, out)
            yield from ({**mine, **line} for line in of(run))

    return {
        "runs.csv": table(_RUNS, each(_of_run)),
        "phases.csv": table(_PHASES, each(_phases)),
        "curves.csv": table(_CURVES, each(_curve)),
        "targets.csv": table(
            _TARGETS, each(lambda run: _targets(run, comparison.targets))
        ),
    }


def _identity(row: Row, run: Run, out: Path) -> dict[str, Any]:
    named = {
        "key": row.key,
        "method": row.label,
        "seed": run.seed,
        "folder": relative(run.folder, out),
    }
    return named | ({} if row.cell is None else row.cell.factors)


def _spent(run: Run, spent: Spent | None) -> dict[str, Any]:
    """Return what was spent; no Wh of a model, for which no interval is kept here."""
    modelled = run.quality == "modelled"
    return {
        name: None if modelled and name in _WH else getattr(spent, name, None)
        for name in _SPENT
    }


def _ends(interval: Sequence[int | float] | None) -> Sequence[int | float | None]:
    return (None, None) if interval is None else interval


def _of_run(run: Run) -> Iterator[_Line]:
    summary, start = run.summary, run.started
    kept = ("test_accuracy", "coreset_size", "pruning_ratio", "flops", "select_flops")
    energy = summary["energy"]
    low, high = _ends(energy.get("wh_k2"))
    yield {
        **_spent(run, spent_at(run.end)),
        **{"wh_total": energy.get("wh"), "wh_total_low": low, "wh_total_high": high},
        **{name: summary[name] for name in kept},
        "stopped_by": run.stopped_by,
        "validation_accuracy": summary.get("validation_accuracy"),
        "wall_s": run.end["time_s"],
        "energy_quality": run.quality,
        "dataset": start["dataset"],
        "fingerprint": start["fingerprint"],
        "train": start["train"],
        "device": start["device"]["kind"],
        "cpu_cores": start["device"]["cpu_cores"],
    }


def _phases(run: Run) -> Iterator[_Line]:
    for name, phase in run.summary["phases"].items():
        low, high = _ends(phase.get("wh_k2"))
        modelled = phase.get("quality") == "modelled"
        yield {
            "phase": name,
            "seconds": phase["s"],
            "wh": None if modelled and low is None else phase.get("wh"),
            "wh_low": low,
            "wh_high": high,
            "quality": phase.get("quality"),
        }


def _curve(run: Run) -> Iterator[_Line]:
    for event in run.evaluations():
        yield {
            **_spent(run, spent_at(event)),
            "split": event.get("split"),
            "accuracy": event["accuracy"],
            "loss": event["loss"],
        }


def _targets(run: Run, targets: Iterable[float]) -> Iterator[_Line]:
    for target in targets:
        cost = run.target_cost(target)
        yield {
            "target": target,
            "reached": int(cost is not None),
            **_spent(run, None if cost is None else cost.spent),
            "accuracy": cost and cost.accuracy,
            "test_accuracy": cost and cost.test_accuracy,
        }
