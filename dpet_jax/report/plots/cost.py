"""Plots of what an accuracy costs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from dpet_jax.report.plots.curves import APART, PARTS, front, mean_parts
from dpet_jax.report.plots.style import (
    BESIDE,
    GRID,
    INK,
    End,
    Looks,
    cost_axis,
    crowded,
    finished,
    label_ends,
    looks_of,
    new_figure,
    short,
    styled,
)
from dpet_jax.report.printed import target_name
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.table import CostTable, TableRow
from dpet_jax.run.costs import By

#: Greys from what is chosen to what is bought by it; what is apart is hatched on none.
_PART_LOOKS: dict[str, tuple[str, str | None]] = {
    "data": ("none", None),
    "selection": (INK, None),
    "warm-up": ("#b2bac1", None),
    "rounds": ("#666e76", None),
    "training": ("#8b949c", None),
    "evaluation": ("none", "/////"),
    "compilation": ("none", "....."),
    "rest": ("none", "xxxxx"),
}
#: Opacity of the marker of the lowest target and of the highest.
_FILLS = (0.1, 1.0)


@styled
def cost_to_accuracy(table: CostTable, looks: Looks | None = None) -> Figure | None:
    """Draw the table: median and range of the cost of each target.

    A few methods are drawn over the targets; of many, each has a line with its name and
    a marker for every target.

    Args:
        table: Of costs.
        looks: Of the methods of the page; by default of those of the table.

    Returns:
        None if no method reached a target.
    """
    looks = looks or looks_of([line.row for line in table.rows])
    lines = [
        line
        for line in table.rows
        if any(cell.median is not None for cell in line.cells.values())
    ]
    if not lines:
        return None
    return (_by_method if crowded(looks) else _by_target)(table, lines, looks)


def _by_target(table: CostTable, lines: Sequence[TableRow], looks: Looks) -> Figure:
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    drawn: list[float] = []
    for number, line in enumerate(lines):
        places, medians, ranges = _known(line, table.targets)
        colour, marker, dashes = looks[line.row.key]
        # side by side, or ranges at one target would cover each other
        shift = 0.6 * ((number + 0.5) / len(lines) - 0.5)
        axes.errorbar(
            [place + shift for place in places],
            medians,
            yerr=_arms(medians, ranges),
            color=colour,
            marker=marker,
            linestyle=dashes,
            elinewidth=0.7,
            capsize=1.5,
            capthick=0.7,
            label=short(line.row.label),
        )
        drawn += medians
    # targets are a list and no scale: the last ones are as wide as the first
    axes.set_xticks(
        range(len(table.targets)), [f"{100 * t:.6g}" for t in table.targets]
    )
    axes.set_xlim(-0.5, len(table.targets) - 0.5)
    cost_axis(axes, "y", drawn)
    return finished(figure, axes, "target accuracy, %", COST_NAMES[table.by])


def _by_method(table: CostTable, lines: Sequence[TableRow], looks: Looks) -> Figure:
    figure = new_figure(0.6 + 0.17 * len(lines))
    axes = figure.add_subplot()
    drawn: list[float] = []
    fills = np.linspace(*_FILLS, len(table.targets))
    for number, line in enumerate(lines):
        places, medians, ranges = _known(line, table.targets)
        colour = looks[line.row.key].colour
        axes.plot(medians, [number] * len(medians), color=GRID, zorder=1)
        # the dearest first, so that of equal ones the lowest target is seen beneath
        for place, median, held in zip(places, medians, ranges, strict=True):
            axes.errorbar(
                median,
                number,
                xerr=_arms([median], [held]),
                color=colour,
                ecolor=colour,
                marker="o",
                markerfacecolor=(colour, float(fills[place])),
                markeredgecolor=colour,
                markeredgewidth=0.5,
                markersize=4,
                elinewidth=0.6,
            )
        drawn += medians
    for target, fill in zip(table.targets, fills, strict=True):
        axes.plot(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=4,
            markerfacecolor=(INK, float(fill)),
            markeredgecolor=INK,
            markeredgewidth=0.5,
            label=f"to {target_name(target)}",
        )
    axes.set_yticks(range(len(lines)), [short(line.row.label) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    cost_axis(axes, "x", drawn)
    return finished(figure, axes, COST_NAMES[table.by])


def _known(
    line: TableRow, targets: Sequence[float]
) -> tuple[list[int], list[float], list[tuple[float, float]]]:
    """Return the places of the targets that a method reached, medians and ranges."""
    places, medians, ranges = [], [], []
    for place, target in enumerate(targets):
        cell = line.cells[target]
        if cell.median is not None:
            places.append(place)
            medians.append(cell.median)
            ranges.append(cell.spread or (cell.median, cell.median))
    return places, medians, ranges


def _arms(
    medians: Sequence[float], ranges: Sequence[tuple[float, float]]
) -> list[list[float]]:
    pairs = [*zip(medians, ranges, strict=True)]
    # seeds that never reached the target may put the median above the range
    return [
        [m - low for m, (low, _) in pairs],
        [max(0.0, high - m) for m, (_, high) in pairs],
    ]


@styled
def cost_by_part(comparison: Comparison, by: By) -> Figure | None:
    """Draw what the runs spent on each kind of work, as stacked bars.

    Returns:
        None if no method's cost is known.
    """
    found = [
        (row, parts)
        for row in comparison.rows
        if (parts := mean_parts(row.runs, by)) is not None
    ]
    if not found:
        return None
    figure = new_figure(0.6 + 0.19 * len(found))
    axes = figure.add_subplot()
    ends = [0.0] * len(found)
    for part in PARTS:
        widths = [parts.get(part, 0.0) for _, parts in found]
        if not any(widths):
            continue
        axes.barh(
            range(len(found)),
            widths,
            left=list(ends),
            height=0.7,
            color=_PART_LOOKS[part][0],
            edgecolor=INK,
            linewidth=0.3,
            hatch=_PART_LOOKS[part][1],
            label=f"{part} (apart)" if part in APART else part,
        )
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(found)), [short(row.label) for row, _ in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return finished(figure, axes, COST_NAMES[by], plain="x")


@styled
def pareto(table: CostTable, looks: Looks | None = None) -> Figure | None:
    """Draw the final accuracy over the cost of the whole run, with the Pareto front.

    Args:
        table: Of costs.
        looks: Of the methods of the page; by default of those of the table.

    Returns:
        None if no method has both.
    """
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    looks = looks or looks_of([line.row for line in table.rows])
    many = crowded(looks)
    points: list[tuple[float, float]] = []
    ends: list[End] = []
    for line in table.rows:
        total, accuracy = line.total, line.test_accuracy
        if total is None or accuracy is None:
            continue
        colour, marker, _ = looks[line.row.key]
        name = short(line.row.label, BESIDE)
        ends.append(End(total.median, accuracy.median, name, colour))
        axes.errorbar(
            total.median,
            accuracy.median,
            xerr=[[total.median - total.low], [total.high - total.median]],
            yerr=[
                [accuracy.median - accuracy.low],
                [accuracy.high - accuracy.median],
            ],
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=5,
            elinewidth=0.7,
            capsize=1.5,
            label=None if many else short(line.row.label),
        )
        points.append((total.median, accuracy.median))
    if not points:
        return None
    best = front(points)
    axes.step(
        *zip(*best, strict=True),
        where="post",
        color=INK,
        linewidth=0.8,
        linestyle=(0, (2, 2)),
        label="front of the medians",
        zorder=1,
    )
    cost_axis(axes, "x", [cost for cost, _ in points])
    if many:
        label_ends(figure, axes, ends)
    cost = f"{COST_NAMES[table.by]}, whole run"
    return finished(figure, axes, cost, "final test accuracy, %", percent="y")
