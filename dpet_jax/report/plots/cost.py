"""Plots of what an accuracy costs."""

from matplotlib.figure import Figure

from dpet_jax.report.plots.curves import APART, PARTS, front, mean_parts
from dpet_jax.report.plots.style import (
    INK,
    cost_axis,
    finished,
    look,
    new_figure,
    short,
    styled,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.table import CostTable
from dpet_jax.run.costs import By

_PART_COLOURS = {
    "data": "#cc79a7",
    "selection": "#d55e00",
    "warm-up": "#56b4e9",
    "rounds": "#0072b2",
    "training": "#009e73",
    "evaluation": "#e69f00",
    "compilation": "#9aa1a8",
    "rest": "#c9ced3",
}


@styled
def cost_to_accuracy(table: CostTable) -> Figure | None:
    """Draw the table: median and range of the cost of each target.

    Returns:
        None if no method reached a target.
    """
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    drawn: list[float] = []
    step = min(
        (b - a for a, b in zip(table.targets, table.targets[1:], strict=False)),
        default=0.05,
    )
    for number, line in enumerate(table.rows):
        held = [(t, c) for t, c in line.cells.items() if c.median is not None]
        if not held:
            continue
        colour, marker, dashes = look(number)
        # side by side, or ranges at one target would cover each other
        shift = step * 0.5 * ((number + 0.5) / len(table.rows) - 0.5)
        medians = [c.median for _, c in held if c.median is not None]
        ranges = [c.spread or (m, m) for (_, c), m in zip(held, medians, strict=True)]
        # seeds that never reached the target may put the median above the range
        below = [m - low for m, (low, _) in zip(medians, ranges, strict=True)]
        above = [max(0.0, r[1] - m) for m, r in zip(medians, ranges, strict=True)]
        axes.errorbar(
            [target + shift for target, _ in held],
            medians,
            yerr=[below, above],
            color=colour,
            marker=marker,
            linestyle=dashes,
            elinewidth=0.7,
            capsize=1.5,
            capthick=0.7,
            label=short(line.row.label),
        )
        drawn += medians
    if not drawn:
        return None
    axes.set_xticks(table.targets)
    cost_axis(axes, "y", drawn)
    return finished(
        figure, axes, "target accuracy, %", COST_NAMES[table.by], percent="x"
    )


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
            color=_PART_COLOURS[part],
            edgecolor=INK,
            linewidth=0.3,
            hatch="////" if part in APART else None,
            label=f"{part} (apart)" if part in APART else part,
        )
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(found)), [short(row.label) for row, _ in found])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return finished(figure, axes, COST_NAMES[by], plain="x")


@styled
def pareto(table: CostTable) -> Figure | None:
    """Draw the final accuracy over the cost of the whole run, with the Pareto front.

    Returns:
        None if no method has both.
    """
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    points: list[tuple[float, float]] = []
    for number, line in enumerate(table.rows):
        total, accuracy = line.total, line.test_accuracy
        if total is None or accuracy is None:
            continue
        colour, marker, _ = look(number)
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
            label=short(line.row.label),
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
    cost = f"{COST_NAMES[table.by]}, whole run"
    return finished(figure, axes, cost, "final test accuracy, %", percent="y")
