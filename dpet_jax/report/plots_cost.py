"""Plots of what accuracy costs."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpet_jax.report.curves import APART, PARTS, accuracy_curve, front, mean_parts
from dpet_jax.report.plot_style import (
    INK,
    legend_below,
    log_axis,
    look,
    new_figure,
    percent_axis,
    plain_axis,
    short,
    styled,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES, By
from dpet_jax.report.table import CostTable

#: A linear axis would squeeze the shorter ones into a corner.
_LOG_FROM = 3.0

_PART_COLOURS = {
    "data": "#cc79a7",
    "choosing": "#d55e00",
    "warm-up": "#56b4e9",
    "rounds": "#0072b2",
    "training": "#009e73",
    "evaluating": "#e69f00",
    "compiling": "#9aa1a8",
    "rest": "#c9ced3",
}


@styled
def accuracy_over_cost(comparison: Comparison, by: By) -> Figure | None:
    """Draw the accuracy that targets are reached on over what had been spent.

    Args:
        comparison: Which runs stand for which method.
        by: What costs are told in.

    Returns:
        None if no method has a curve.
    """
    found = [
        (number, row, curve)
        for number, row in enumerate(comparison.rows)
        if (curve := accuracy_curve(row.runs, by)) is not None
    ]
    if not found:
        return None
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    for number, row, curve in found:
        colour, marker, dashes = look(number)
        axes.step(
            curve.cost,
            curve.median,
            where="post",
            color=colour,
            linestyle=dashes,
            marker=marker,
            markevery=max(1, len(curve.cost) // 6),
            markersize=2.8,
            label=short(row.label),
        )
        if len(row.runs) > 1:
            axes.fill_between(
                curve.cost,
                curve.low,
                curve.high,
                step="post",
                color=colour,
                alpha=0.18,
                linewidth=0,
            )
    _cost_axis(axes, "x", [float(curve.cost[-1]) for *_, curve in found], by)
    axes.set_ylabel("accuracy, %")
    percent_axis(axes, "y")
    bottom = _below_targets(comparison.targets)
    seen = [curve.cost[curve.median >= bottom] for *_, curve in found]
    firsts = [float(costs[0]) for costs in seen if costs.size]
    if firsts and bottom > axes.get_ylim()[0]:
        axes.set_ylim(bottom=bottom)
        if axes.get_xscale() == "log":
            axes.set_xlim(left=0.8 * min(firsts))
    legend_below(figure, axes)
    return figure


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
        # the median may lie above all that got there, never below
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
    percent_axis(axes, "x")
    axes.set_xlabel("accuracy to be reached, %")
    _cost_axis(axes, "y", drawn, table.by)
    legend_below(figure, axes)
    return figure


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
    axes.set_xlabel(COST_NAMES[by])
    plain_axis(axes, "x")
    legend_below(figure, axes)
    return figure


@styled
def pareto(table: CostTable) -> Figure | None:
    """Draw accuracy at the end over cost in all, and who is beaten by nobody.

    Returns:
        None if no method has both.
    """
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    points: list[tuple[float, float]] = []
    for number, line in enumerate(table.rows):
        cost, accuracy = line.total, line.test_accuracy
        if cost is None or accuracy is None:
            continue
        colour, marker, _ = look(number)
        axes.errorbar(
            cost.median,
            accuracy.median,
            xerr=[[cost.median - cost.low], [cost.high - cost.median]],
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
        points.append((cost.median, accuracy.median))
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
    _cost_axis(axes, "x", [cost for cost, _ in points], table.by)
    axes.set_xlabel(f"{COST_NAMES[table.by]}, whole run")
    axes.set_ylabel("test accuracy at the end, %")
    percent_axis(axes, "y")
    legend_below(figure, axes)
    return figure


def _below_targets(targets: Sequence[float]) -> float:
    """Return where an axis may start, for the targets to lie well apart."""
    if not targets:
        return 0.0
    return max(0.0, targets[0] - max(0.1, targets[-1] - targets[0]))


def _cost_axis(axes: Axes, which: str, costs: Sequence[float], by: By) -> None:
    known = [cost for cost in costs if cost > 0]
    if known and max(known) > _LOG_FROM * min(known):
        log_axis(axes, which)
    else:
        plain_axis(axes, which)
    getattr(axes, f"set_{which}label")(COST_NAMES[by])
