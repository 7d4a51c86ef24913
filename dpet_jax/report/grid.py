"""The rows of a grid: what each took and reached, and which no other beats in both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dpet_jax.report.plots.curves import front
from dpet_jax.report.printed import percent, significant, span
from dpet_jax.report.rows import Comparison, GridCell, Row, device_of
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.report.table import Spread, spread


class Point(NamedTuple):
    """What the runs of one row came to.

    Attributes:
        row: The row.
        factors: By dotted key, its value.
        seconds: Of selection and training, over seeds; without evaluation, compilation
            and reading the data.
        accuracy: On the test split at the end, over seeds.
    """

    row: Row
    factors: dict[str, Any]
    seconds: Spread
    accuracy: Spread


class Grid(NamedTuple):
    """The rows of one grid that have run.

    Attributes:
        label: For people.
        axes: By dotted key, the values that have run, in the order of the suite.
        points: One a row.
    """

    label: str
    axes: dict[str, list[Any]]
    points: tuple[Point, ...]

    @property
    def front(self) -> list[tuple[float, float]]:
        """Seconds and accuracy of the points that no other beats in both."""
        return front_of(self.points)


def grids(comparison: Comparison) -> list[Grid]:
    """Return the grids of a comparison; none if its runs come from several devices."""
    if len({device_of(run) for run in comparison.runs}) > 1:
        return []
    arms: dict[str, list[tuple[GridCell, Row]]] = {}
    for row in comparison.rows:
        if row.cell is not None:
            arms.setdefault(row.arm, []).append((row.cell, row))
    found = []
    for held in arms.values():
        points = [
            Point(row, cell.factors, seconds, accuracy)
            for cell, row in held
            if (seconds := spread([run.spent("seconds") for run in row.runs]))
            and (accuracy := spread([r.summary["test_accuracy"] for r in row.runs]))
        ]
        axes: dict[str, list[Any]] = {}
        for point in points:
            for key, value in point.factors.items():
                values = axes.setdefault(key, [])
                values += [] if value in values else [value]
        if points:
            found.append(Grid(held[0][0].of, axes, tuple(points)))
    return found


def front_of(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return median seconds and accuracy of the points that no other beats in both."""
    return front([(point.seconds.median, point.accuracy.median) for point in points])


def name_of(dotted: str) -> str:
    """Return the key of an axis for people."""
    return dotted.rpartition(".")[2].replace("_", " ")


def front_sheet(found: Sequence[Grid]) -> Sheet | None:
    """Return the rows that no other of their grid beats; None without a grid."""
    if not found:
        return None
    best = front_of([point for grid in found for point in grid.points])
    rows = []
    for grid in found:
        mine = grid.front
        for point in sorted(grid.points, key=lambda point: point.seconds.median):
            place = (point.seconds.median, point.accuracy.median)
            if place in mine:
                seconds, accuracy = point.seconds, point.accuracy
                rows.append(
                    (
                        Entry(point.row.label, strong=place in best),
                        Entry(str(len(point.row.runs))),
                        Entry(
                            significant(seconds.median),
                            beside=span(seconds.low, seconds.high),
                        ),
                        Entry(
                            percent(accuracy.median),
                            beside=span(accuracy.low, accuracy.high, percent),
                            strong=place in best,
                        ),
                    )
                )
    several = len(found) > 1
    return Sheet(
        name="front",
        title="Pareto front: no other row of the grid is faster and better",
        header=("row", "seeds", "seconds of training", "test accuracy"),
        rows=tuple(rows),
        notes=(
            "Medians over seeds, with the range. Seconds of selection and training; "
            "evaluation, compilation and reading the data are in none of them. "
            "Accuracy at the end of the runs, so that the front was chosen by the "
            "numbers it is drawn with: neighbours within the ranges are equals."
            + (" Bold: on the front of all grids together." if several else ""),
        ),
    )
