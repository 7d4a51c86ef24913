"""The plot of what searches had found for what they had spent."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpet_jax.report.plots.style import (
    BESIDE,
    End,
    label_ends,
    look,
    new_figure,
    percent_axis,
    plain_axis,
    short,
    styled,
)
from dpet_jax.report.searches import Course, SearchRecord, SearchRow


@styled
def best_over_cost(record: SearchRecord) -> Figure | None:
    """Draw the best accuracy so far over the cost: median of repeats, and their range.

    A line begins where all repeats of a search have an accuracy, and ends with the
    repeat that spent least.

    Returns:
        None if no search has an accuracy.
    """
    rows = [(row, found) for row in record.rows if (found := _steps(row)) is not None]
    if not rows:
        return None
    figure = new_figure(2.5)
    axes = figure.add_subplot()
    ends = []
    for number, (row, steps) in enumerate(rows):
        colour, _, dashes = look(number)
        cost, low, median, high = steps
        axes.step(cost, median, where="post", color=colour, linestyle=dashes)
        if len(row.courses) > 1:
            axes.fill_between(
                *(cost, low, high),
                step="post",
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        ends.append(
            End(
                float(cost[-1]),
                float(median[-1]),
                short(row.name, BESIDE),
                colour,
                dashes,
            )
        )
    _scale(axes, [steps for _, steps in rows])
    label_ends(figure, axes, ends)
    axes.set_xlabel(f"spent, {record.unit_name}")
    axes.set_ylabel("best validation accuracy so far, %")
    percent_axis(axes, "y")
    return figure


def _steps(row: SearchRow) -> tuple[np.ndarray, ...] | None:
    """Return costs, and least, median and largest best accuracy of the repeats there.

    None where there is no cost at which all repeats have one.
    """
    ends = [course.costs[-1] for course in row.courses]
    begins = [_begin(course) for course in row.courses]
    known = [begin for begin in begins if begin is not None]
    if len(known) < len(begins) or max(known) > min(ends):
        return None
    costs = {c for course in row.courses for c in course.costs}
    cost = np.array(sorted(c for c in costs if max(known) <= c <= min(ends)))
    found = np.array([_at(course, cost) for course in row.courses])
    return cost, found.min(0), np.median(found, 0), found.max(0)


def _begin(course: Course) -> float | None:
    pairs = zip(course.costs, course.best, strict=True)
    return next((cost for cost, best in pairs if best is not None), None)


def _at(course: Course, cost: np.ndarray) -> np.ndarray:
    best = np.array([np.nan if b is None else b for b in course.best])
    return best[np.searchsorted(course.costs, cost, side="right") - 1]


def _scale(axes: Axes, drawn: list[tuple[np.ndarray, ...]]) -> None:
    """Show the end of the searches, where they differ least, large enough.

    Costs are not logarithmic: what a search loses before it finds anything is as wide
    as it is dear, as in the area.
    """
    plain_axis(axes, "x")
    axes.set_xlim(0, 1.02 * max(float(steps[0][-1]) for steps in drawn))
    lows = np.concatenate([steps[1] for steps in drawn])
    top = max(float(steps[3].max()) for steps in drawn)
    bottom = float(np.quantile(lows, 0.15))
    room = max(top - bottom, 0.01)
    axes.set_ylim(max(0.0, bottom - 0.05 * room), top + 0.08 * room)
