"""The table of costs: what each method spent to reach each accuracy."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import Run
from dpet_jax.run.costs import By


class Cell(NamedTuple):
    """What some runs of one method spent to reach a target.

    Attributes:
        costs: Of each seed; None where it never did, or nothing was measured.
        reached: How many seeds did.
        median: Over all seeds, one that never reached the target being above all that
            did; None where the median seed never did, or nothing was measured.
        test_accuracy: Median over the seeds that reached it, of the same parameters.
        best: Whether the most expensive seed is below every seed of every other method;
            never with a single seed, since there is no spread then.
    """

    costs: tuple[float | None, ...]
    reached: int
    median: float | None
    test_accuracy: float | None
    best: bool = False

    @property
    def spread(self) -> tuple[float, float] | None:
        """Smallest and largest cost of the seeds that reached the target."""
        known = [cost for cost in self.costs if cost is not None]
        return (min(known), max(known)) if known else None


class Spread(NamedTuple):
    """A number over seeds."""

    median: float
    low: float
    high: float


class TableRow(NamedTuple):
    """The line of one method.

    Attributes:
        row: The method.
        cells: By target.
        savings: By role ("standard", "tuned"), then by target: the median cost of the
            baseline over this one; above 1 is a saving. None where either is missing.
        test_accuracy: At the end of `row.runs`.
        total: What these runs cost in all.
        coreset_size: Of the same runs, the median; None where none was chosen.
        pruning_ratio: 1 minus its share of the data; None where the runs trained on all
            of them.
        selection_share: Share of selection in the FLOPs of training and selection.
    """

    row: Row
    cells: dict[float, Cell]
    savings: dict[str, dict[float, float | None]]
    test_accuracy: Spread | None
    total: Spread | None
    coreset_size: float | None
    pruning_ratio: float | None
    selection_share: float | None


class CostTable(NamedTuple):
    """The lines of all methods.

    Attributes:
        by: What costs are compared in.
        targets: Accuracies, ascending.
        rows: In the order of the comparison.
    """

    by: By
    targets: tuple[float, ...]
    rows: tuple[TableRow, ...]


def cost_table(comparison: Comparison, by: By) -> CostTable:
    """Compute the table of a comparison.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.
    """
    cells = {
        row.key: {
            target: cell_of(row.by_target.get(target, ()), target, by)
            for target in comparison.targets
        }
        for row in comparison.rows
    }
    for target in comparison.targets:
        _mark_best([of_row[target] for of_row in cells.values()], cells, target)
    baselines = {
        role: row.key
        for role in ("standard", "tuned")
        if (row := comparison.row(role)) is not None
    }
    lines = []
    for row in comparison.rows:
        mine = cells[row.key]
        savings = {
            role: {t: _over(cells[key][t].median, mine[t].median) for t in mine}
            for role, key in baselines.items()
        }
        lines.append(
            TableRow(
                row=row,
                cells=mine,
                savings=savings,
                test_accuracy=spread(
                    [run.summary["test_accuracy"] for run in row.runs]
                ),
                total=spread([run.spent(by) for run in row.runs]),
                coreset_size=_median([r.summary["coreset_size"] for r in row.runs]),
                pruning_ratio=_median([r.summary["pruning_ratio"] for r in row.runs]),
                selection_share=_median([_selection_share(run) for run in row.runs]),
            )
        )
    return CostTable(by, comparison.targets, tuple(lines))


def cell_of(runs: Sequence[Run], target: float, by: By) -> Cell:
    """Compute one cell from the events of some runs."""
    found = [run.target_cost(target) for run in runs]
    costs = tuple(
        None if c is None else run.cost(c.spent, by)
        for run, c in zip(runs, found, strict=True)
    )
    reached = [c for c in found if c is not None]
    measured = sum(cost is not None for cost in costs)
    median = None
    if costs and measured == len(reached):
        ranked = statistics.median(math.inf if c is None else c for c in costs)
        median = ranked if math.isfinite(ranked) else None
    accuracy = _median([c.test_accuracy for c in reached])
    return Cell(costs, len(reached), median, accuracy)


def spread(values: Sequence[float | int | None]) -> Spread | None:
    """Return median, smallest and largest; None where a value is missing."""
    known = [float(value) for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(statistics.median(known), min(known), max(known))


def _mark_best(
    column: list[Cell], cells: dict[str, dict[float, Cell]], target: float
) -> None:
    """Mark the cell of a column whose seeds are all below those of all others."""
    for key, of_row in cells.items():
        cell = of_row[target]
        others = [c for c in column if c is not cell and c.costs]
        known = [cost for cost in cell.costs if cost is not None]
        if len(known) < max(2, len(cell.costs)) or not others:
            continue
        rivals = [c.spread[0] for c in others if c.spread is not None]
        if all(max(known) < rival for rival in rivals):
            cells[key][target] = cell._replace(best=True)


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _median(values: Sequence[float | int | None]) -> float | None:
    found = spread(values)
    return None if found is None else found.median


def _selection_share(run: Run) -> float | None:
    flops = run.summary["flops"]
    return run.summary["select_flops"] / flops if flops else None
