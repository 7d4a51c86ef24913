"""Plots of runs that are read at their end."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from dpet_jax.report.equal_accuracy import EndTable
from dpet_jax.report.plots.style import (
    BESIDE,
    INK,
    End,
    Looks,
    change_axis,
    cost_axis,
    crowded,
    finished,
    label_ends,
    looks_of,
    new_figure,
    short,
    styled,
)
from dpet_jax.report.runs import COST_NAMES


@styled
def error_over_cost(
    table: EndTable | None, looks: Looks | None = None
) -> Figure | None:
    """Draw the test error at the end over the cost, and the fitted curves.

    Args:
        table: Of runs that are read at their end.
        looks: Of the methods of the page; by default of those of the table.

    Returns:
        None if no run is read at its end.
    """
    if table is None or not any(row.gains for row in table.rows):
        return None
    figure = new_figure(2.6)
    axes = figure.add_subplot()
    looks = looks or looks_of([row.row for row in table.rows])
    many = crowded(looks)
    ends = []
    for row in table.rows:
        colour, marker, dashes = looks[row.row.key]
        if row.gains:
            last = max(row.gains, key=lambda gain: gain.cost)
            name = short(row.row.label, BESIDE)
            ends.append(End(last.cost, 1 - last.accuracy["test"], name, colour))
        axes.errorbar(
            [gain.cost for gain in row.gains],
            [1 - gain.accuracy["test"] for gain in row.gains],
            yerr=[gain.deviation or 0.0 for gain in row.gains],
            color=colour,
            marker=marker,
            linestyle="none",
            elinewidth=0.7,
            capsize=1.5,
            capthick=0.7,
            label=None if many else short(row.row.label),
        )
        if row.curve is not None:
            costs = np.geomspace(row.curve.low, row.curve.high, 50)
            axes.plot(
                costs,
                [row.curve.error(cost) for cost in costs],
                color=colour,
                linestyle=dashes,
            )
    _log_axes(axes, table)
    if many:
        label_ends(figure, axes, ends)
    return finished(
        figure, axes, COST_NAMES[table.by], "test error, %", plain="x", percent="y"
    )


def _log_axes(axes: Axes, table: EndTable) -> None:
    """Make both axes logarithmic; costs are marked where the first row has runs."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    costs = [gain.cost for row in table.rows[:1] for gain in row.gains]
    axes.set_xticks([float(f"{cost:.3g}") for cost in costs])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


@styled
def gains_by_horizon(
    table: EndTable | None, looks: Looks | None = None
) -> Figure | None:
    """Draw cost against the baseline's at equal accuracy, for the runs of each length.

    Args:
        table: Of runs that are read at their end.
        looks: Of the methods of the page; by default of those of the table.

    Returns:
        None if no such ratio is known.
    """
    if table is None:
        return None
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    looks = looks or looks_of([row.row for row in table.rows])
    many = crowded(looks)
    ends = []
    drawn: list[float] = []
    for number, row in enumerate(table.rows):
        known = [(g.cost, g.ratio) for g in row.gains if g.ratio is not None]
        if not known:
            continue
        colour, marker, dashes = looks[row.row.key]
        cost, last = max(known, key=lambda one: one[0])
        ends.append(End(cost, last.value, short(row.row.label, BESIDE), colour))
        values = [ratio.value for _, ratio in known]
        lows = [ratio.low or ratio.value for _, ratio in known]
        highs = [ratio.high or ratio.value for _, ratio in known]
        axes.errorbar(
            # side by side, or ranges of one length would cover each other
            [cost * 1.015 ** (number - len(table.rows) / 2) for cost, _ in known],
            values,
            yerr=[
                [max(0.0, v - low) for v, low in zip(values, lows, strict=True)],
                [max(0.0, high - v) for v, high in zip(values, highs, strict=True)],
            ],
            color=colour,
            marker=marker,
            linestyle=dashes,
            elinewidth=0.7,
            capsize=1.5,
            capthick=0.7,
            label=None if many else short(row.row.label),
        )
        drawn += [cost for cost, _ in known]
    if not drawn:
        return None
    axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    cost_axis(axes, "x", drawn)
    change_axis(axes, "y")
    if many:
        label_ends(figure, axes, ends)
    return finished(
        figure, axes, COST_NAMES[table.by], "cost against the baseline's, %"
    )
