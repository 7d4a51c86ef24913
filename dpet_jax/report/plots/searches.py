"""The plot of what searches had found for what they had spent."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpet_jax.report.plots.style import (
    INK,
    cost_axis,
    look,
    new_figure,
    percent_axis,
    short,
    styled,
)
from dpet_jax.report.searches import Course, SearchRecord, SearchRow

#: Of the height of the plot: what a label needs.
_LINE = 0.075


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
    ends, firsts = [], []
    for number, (row, steps) in enumerate(rows):
        colour, _, dashes = look(number)
        cost, low, median, high = steps
        axes.step(cost, median, where="post", color=colour, linestyle=dashes)
        if len(row.courses) > 1:
            axes.fill_between(
                *(cost, low, high),
                step="post",
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        ends.append((float(median[-1]), float(cost[-1]), short(row.name, 24), colour))
        firsts.append(float(cost[0]))
    _scale(axes, firsts, rows)
    _label(axes, ends)
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


def _scale(
    axes: Axes,
    firsts: list[float],
    rows: list[tuple[SearchRow, tuple[np.ndarray, ...]]],
) -> None:
    """Show the end of the searches, where they differ least, large enough."""
    ends = [float(steps[0][-1]) for _, steps in rows]
    cost_axis(axes, "x", [*firsts, *ends])
    lows = np.concatenate([steps[1] for _, steps in rows])
    top = max(float(steps[3].max()) for _, steps in rows)
    bottom = float(np.quantile(lows, 0.15))
    room = max(top - bottom, 0.01)
    axes.set_ylim(max(0.0, bottom - 0.05 * room), top + 0.08 * room)


def _label(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write the names beside the ends of their lines, in their order, none on another.

    A thin line leads to each that had to move.
    """
    low, high = axes.get_ylim()
    inside = [max(0.0, (end[0] - low) / (high - low)) for end in ends]
    order = sorted(range(len(ends)), key=lambda k: inside[k])
    places = [inside[k] for k in order]
    for k in range(1, len(places)):  # each above the one before it
        places[k] = max(places[k], places[k - 1] + _LINE)
    over = max(0.0, places[-1] - 1.0)
    places = [place - over for place in places]
    for k in reversed(range(len(places) - 1)):
        places[k] = min(places[k], places[k + 1] - _LINE)
    for k, place in zip(order, places, strict=True):
        accuracy, cost, name, colour = ends[k]
        axes.annotate(
            name,
            (cost, max(accuracy, low)),
            (1.03, place),
            textcoords=axes.transAxes,
            va="center",
            color=INK,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )
