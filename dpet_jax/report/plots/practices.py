"""Plots of a study of practices: the parts of a step, and costs at equal accuracy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dpet_jax.report.equal_accuracy import EndTable
from dpet_jax.report.plots.style import (
    INK,
    MUTED,
    change_axis,
    finished,
    log_axis,
    new_figure,
    short,
    styled,
)
from dpet_jax.report.practices import rivals
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES


@styled
def parts_of_a_step(found: Mapping[str, Any]) -> Figure:
    """Draw what each kind of layer takes, alone and within the training step.

    Args:
        found: What `layers.json` holds.
    """
    kinds = sorted(found["kinds"], key=lambda one: one["within_s"])
    figure = new_figure(0.5 + 0.32 * len(kinds))
    axes = figure.add_subplot()
    places = np.arange(len(kinds))
    within = np.array([one["within_s"] for one in kinds])
    low = np.array([one["within_s_low"] for one in kinds])
    high = np.array([one["within_s_high"] for one in kinds])
    axes.barh(
        places + 0.19,
        1e3 * within,
        0.36,
        color=MUTED,
        xerr=1e3 * np.clip([within - low, high - within], 0, None),
        error_kw={"elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7, "ecolor": INK},
        label="within the step",
    )
    axes.barh(
        places - 0.19,
        [1e3 * one["alone_s"] for one in kinds],
        0.36,
        color="none",
        edgecolor=INK,
        hatch="////",
        linewidth=0.7,
        label="alone",
    )
    axes.set_yticks(places, [one["kind"] for one in kinds])
    axes.axvline(0, color=INK, linewidth=0.6)
    return finished(figure, axes, "ms of a training step", plain="x")


@styled
def costs_at_equal_accuracy(
    table: EndTable, comparison: Comparison, target: float
) -> Figure | None:
    """Draw cost against the baseline's at one accuracy, a row a practice, with ranges.

    Filled: the range lies on one side of the baseline.

    Returns:
        None if there is none to compare.
    """
    rows = rivals(table, comparison, target)[::-1]
    if not rows:
        return None
    figure = new_figure(0.6 + 0.17 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        ratio = row.overall[target]
        assert ratio is not None, "those alone are asked"
        low, high = ratio.low or ratio.value, ratio.high or ratio.value
        saves, costs = high < 1, low > 1
        axes.errorbar(
            ratio.value,
            place,
            xerr=[[max(0.0, ratio.value - low)], [max(0.0, high - ratio.value)]],
            color=INK,
            marker="o",
            markersize=3,
            markerfacecolor=None if saves or costs else "none",
            elinewidth=1.0,
            capsize=1.5,
        )
    axes.set_yticks(range(len(rows)), [short(row.row.label) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    log_axis(axes, "x")
    change_axis(axes, "x")
    unit = COST_NAMES[table.by].partition(" (")[0]
    return finished(
        figure,
        axes,
        f"{unit} against the baseline's at {100 * target:g} % test accuracy, %",
    )
