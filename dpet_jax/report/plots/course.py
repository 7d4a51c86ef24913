"""The plot of accuracy over cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpet_jax.report.plots.curves import Curve, accuracy_curve
from dpet_jax.report.plots.style import (
    GRID,
    INK,
    cost_axis,
    finished,
    look,
    new_figure,
    percent_axis,
    short,
    styled,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.run.costs import By

#: More lines than this in one plot are a tangle.
_TOGETHER = 7
_COLUMNS = 3
_TITLE = 17


class Course(NamedTuple):
    """The curve of one method.

    Attributes:
        number: Row of the method in the comparison.
        label: Its name.
        curve: Median and range over seeds.
        banded: Whether there are several seeds.
    """

    number: int
    label: str
    curve: Curve
    banded: bool


@styled
def accuracy_over_cost(comparison: Comparison, by: By) -> Figure | None:
    """Draw the accuracy that decides about targets over what had been spent.

    A few methods share one plot; of many, each has a small one of its own, over the
    others in grey and the tuned baseline (or else standard training) in black.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.

    Returns:
        None if no method has a curve.
    """
    found = [
        Course(number, row.label, curve, len(row.runs) > 1)
        for number, row in enumerate(comparison.rows)
        if (curve := accuracy_curve(row.runs, by)) is not None
    ]
    if not found:
        return None
    if len(found) <= _TOGETHER:
        return _together(found, comparison.targets, by)
    baseline = comparison.row("tuned") or comparison.row("standard")
    number = None if baseline is None else comparison.rows.index(baseline)
    return _apart(found, number, by)


def _together(found: list[Course], targets: Sequence[float], by: By) -> Figure:
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    for course in found:
        _draw(axes, course, marked=True)
    cost_axis(axes, "x", [float(course.curve.cost[-1]) for course in found])
    bottom = _below_targets(targets)
    seen = [c.curve.cost[c.curve.median >= bottom] for c in found]
    firsts = [float(costs[0]) for costs in seen if costs.size]
    if firsts and bottom > axes.get_ylim()[0]:
        axes.set_ylim(bottom=bottom)
        if axes.get_xscale() == "log":
            axes.set_xlim(left=0.8 * min(firsts))
    return finished(figure, axes, COST_NAMES[by], "accuracy, %", percent="y")


def _apart(found: list[Course], baseline: int | None, by: By) -> Figure:
    lines = math.ceil(len(found) / _COLUMNS)
    figure = new_figure(0.3 + 0.85 * lines)
    grid = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(found):
            axes.set_visible(False)
            continue
        mine = found[place]
        for other in found:
            if other.number not in (mine.number, baseline):
                cost, median = other.curve.cost, other.curve.median
                axes.step(cost, median, where="post", color=GRID, linewidth=0.5)
        for other in found:
            if other.number == baseline != mine.number:
                cost, median = other.curve.cost, other.curve.median
                axes.step(cost, median, where="post", color=INK, linewidth=0.7)
        _draw(axes, mine, marked=False)
        cost_axis(axes, "x", [float(course.curve.cost[-1]) for course in found])
        percent_axis(axes, "y")
        axes.set_title(short(mine.label, _TITLE), loc="left")
        axes.tick_params(labelbottom=place + _COLUMNS >= len(found))
        axes.grid(visible=False)
    size = axes.xaxis.label.get_size()
    figure.supxlabel(COST_NAMES[by], fontsize=size)
    figure.supylabel("accuracy, %", fontsize=size)
    return figure


def _draw(axes: Axes, course: Course, *, marked: bool) -> None:
    colour, marker, dashes = look(course.number)
    curve = course.curve
    axes.step(
        curve.cost,
        curve.median,
        where="post",
        color=colour,
        linestyle=dashes if marked else "-",
        marker=marker if marked else "",
        markevery=max(1, len(curve.cost) // 6),
        markersize=2.8,
        label=short(course.label),
    )
    if course.banded:
        axes.fill_between(
            curve.cost,
            curve.low,
            curve.high,
            step="post",
            color=colour,
            alpha=0.18,
            linewidth=0,
        )


def _below_targets(targets: Sequence[float]) -> float:
    """Return where an axis starts so that its targets are easy to tell apart."""
    if not targets:
        return 0.0
    return max(0.0, targets[0] - max(0.1, targets[-1] - targets[0]))
