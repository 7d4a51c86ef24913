"""The plot of accuracy over cost."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpet_jax.report.plots.curves import Curve, accuracy_curve
from dpet_jax.report.plots.style import (
    COLOURS,
    GRID,
    INK,
    Look,
    Looks,
    cost_axis,
    crowded,
    finished,
    look,
    looks_of,
    new_figure,
    percent_axis,
    short,
    styled,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.run.costs import By

_COLUMNS = 3
#: Characters of a line of a title, and its lines.
_TITLE, _TITLE_LINES = 17, 2


class Course(NamedTuple):
    """The curve of one method.

    Attributes:
        key: Of the method.
        label: Its name.
        curve: Median and range over seeds.
        banded: Whether there are several seeds.
    """

    key: str
    label: str
    curve: Curve
    banded: bool


@styled
def accuracy_over_cost(
    comparison: Comparison, by: By, looks: Looks | None = None
) -> Figure | None:
    """Draw the accuracy that decides about targets over what had been spent.

    A few methods share one plot; of many, each has a small one of its own, over the
    others in grey and the tuned baseline (or else standard training) in black.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.
        looks: Of the methods of the page; by default of those of the comparison.

    Returns:
        None if no method has a curve.
    """
    looks = looks or looks_of(comparison.rows)
    found = [
        Course(row.key, row.label, curve, len(row.runs) > 1)
        for row in comparison.rows
        if (curve := accuracy_curve(row.runs, by)) is not None
    ]
    if not found:
        return None
    if not crowded(looks):
        return _together(found, comparison.targets, by, looks)
    baseline = comparison.row("tuned") or comparison.row("standard")
    return _apart(found, None if baseline is None else baseline.key, by, looks)


def _together(
    found: list[Course], targets: Sequence[float], by: By, looks: Looks
) -> Figure:
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    for course in found:
        _draw(axes, course, looks[course.key], marked=True)
    cost_axis(axes, "x", [float(course.curve.cost[-1]) for course in found])
    bottom = _below_targets(targets)
    seen = [c.curve.cost[c.curve.median >= bottom] for c in found]
    firsts = [float(costs[0]) for costs in seen if costs.size]
    if firsts and bottom > axes.get_ylim()[0]:
        axes.set_ylim(bottom=bottom)
        if axes.get_xscale() == "log":
            axes.set_xlim(left=0.8 * min(firsts))
    return finished(figure, axes, COST_NAMES[by], "accuracy, %", percent="y")


def _apart(found: list[Course], baseline: str | None, by: By, looks: Looks) -> Figure:
    lines = math.ceil(len(found) / _COLUMNS)
    figure = new_figure(0.3 + 0.9 * lines)
    grid = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(found):
            axes.set_visible(False)
            continue
        mine = found[place]
        for other in found:
            if other.key not in (mine.key, baseline):
                cost, median = other.curve.cost, other.curve.median
                axes.step(cost, median, where="post", color=GRID, linewidth=0.5)
        for other in found:
            if other.key == baseline != mine.key:
                cost, median = other.curve.cost, other.curve.median
                axes.step(cost, median, where="post", color=INK, linewidth=0.7)
        # where methods have no colours, each has the first in its own plot
        drawn = looks[mine.key] if len(looks) <= len(COLOURS) else look(0)
        _draw(axes, mine, drawn, marked=False)
        cost_axis(axes, "x", [float(course.curve.cost[-1]) for course in found])
        percent_axis(axes, "y")
        axes.set_title(_title(mine.label), loc="left")
        axes.tick_params(labelbottom=place + _COLUMNS >= len(found))
        axes.grid(visible=False)
    size = axes.xaxis.label.get_size()
    figure.supxlabel(COST_NAMES[by], fontsize=size)
    figure.supylabel("accuracy, %", fontsize=size)
    return figure


def _title(label: str) -> str:
    """Return a label in as many lines as a small plot has room for."""
    return textwrap.fill(
        label, _TITLE, max_lines=_TITLE_LINES, placeholder="…", break_long_words=True
    )


def _draw(axes: Axes, course: Course, drawn: Look, *, marked: bool) -> None:
    colour, marker, dashes = drawn
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
