"""Plots of a grid: accuracy and seconds of training, by the values of its keys."""

import math
import statistics
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpet_jax.report.grid import Grid, Point, name_of
from dpet_jax.report.plots.style import (
    INK,
    cost_axis,
    finished,
    legend_below,
    look,
    new_figure,
    percent_axis,
    plain_axis,
    short,
    styled,
)
from dpet_jax.report.printed import significant

_SECONDS, _ACCURACY = "seconds of training", "test accuracy, %"
#: Points across of the smallest and the largest marker.
_SIZES = (3.0, 6.5)
#: Opacity of the first fill and of the last.
_FILLS = (0.08, 1.0)
#: Written on light and on dark cells, whatever the ground of the page.
_ON_LIGHT, _ON_DARK = "#101214", "#ffffff"


class _Look(NamedTuple):
    """How a point is drawn: marker by the first key, fill by the second, size.

    Fills are the ink in more or less of its strength, for values of a key are no
    methods, which colours belong to.
    """

    marker: str
    color: str | tuple[str, float]
    markersize: float


@styled
def accuracy_over_seconds(grid: Grid) -> Figure:
    """Draw every row of a grid, and the front that no other row beats in both."""
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    for point in grid.points:
        axes.plot(
            point.seconds.median,
            point.accuracy.median,
            linestyle="none",
            markeredgewidth=0.4,
            markeredgecolor=INK,
            **_look(grid, point)._asdict(),
        )
    _draw_front(axes, grid)
    _explain(axes, grid, range(3))
    cost_axis(axes, "x", [point.seconds.median for point in grid.points])
    return finished(figure, axes, _SECONDS, _ACCURACY, percent="y")


@styled
def panels(grid: Grid) -> Figure | None:
    """Draw a plot for each value of a grid's first key, all to one scale.

    Returns:
        None if there is one value.
    """
    key, values = next(iter(grid.axes.items()))
    if len(values) < 2:
        return None
    columns = 2
    lines = -(-len(values) // columns)
    figure = new_figure(0.3 + 1.35 * lines)
    drawn = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    plots = list(drawn.flat)
    for axes, value in zip(plots, values, strict=False):
        axes.set_title(short(f"{name_of(key)} {value}"))
        for point in grid.points:
            if point.factors[key] == value:
                _draw_ranges(axes, point, _look(grid, point))
        _draw_front(axes, grid)
    for number, axes in enumerate(plots):
        axes.set_visible(number < len(values))
        if number + columns >= len(values):
            # the last of its column, though an empty place may be below
            axes.set_xlabel(_SECONDS)
            axes.tick_params(labelbottom=True)
        if number % columns == 0:
            axes.set_ylabel(_ACCURACY)
    first = plots[0]
    _explain(first, grid, range(1, 3))
    cost_axis(first, "x", [point.seconds.median for point in grid.points])
    percent_axis(first, "y")
    legend_below(figure, first)
    return figure


@styled
def heat_map(grid: Grid, of: Literal["seconds", "accuracy"]) -> Figure | None:
    """Draw seconds or accuracy over a grid's first two keys, with the numbers.

    Over the other keys the mean is taken.

    Returns:
        None if fewer than two keys have several values.
    """
    keys = [key for key, values in grid.axes.items() if len(values) > 1]
    if len(keys) < 2:
        return None
    across, down = keys[:2]
    table = np.array(
        [
            [_mean(grid, of, {across: x, down: y}) for x in grid.axes[across]]
            for y in grid.axes[down]
        ]
    )
    figure = new_figure(0.75 + 0.32 * len(table))
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(table, cmap="cividis", edgecolors="face", linewidth=0.2)
    printed = _PRINTED[of]
    for (row, column), value in np.ndenumerate(table):
        if not math.isnan(value):
            red, green, blue, _ = mesh.cmap(mesh.norm(value))
            light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
            axes.text(
                column + 0.5,
                row + 0.5,
                printed(value),
                ha="center",
                va="center",
                color=_ON_LIGHT if light else _ON_DARK,
            )
    for which, key in (("x", across), ("y", down)):
        values = grid.axes[key]
        places = 0.5 + np.arange(len(values))
        getattr(axes, f"set_{which}ticks")(places, [short(f"{v}", 12) for v in values])
        getattr(axes, f"set_{which}label")(name_of(key))
    axes.grid(visible=False)
    bar = figure.colorbar(mesh, label={"seconds": _SECONDS, "accuracy": _ACCURACY}[of])
    bar.outline.set_visible(False)
    (percent_axis if of == "accuracy" else plain_axis)(bar.ax, "y")
    return figure


_PRINTED: dict[str, Callable[[float], str]] = {
    "seconds": significant,
    "accuracy": lambda value: f"{100 * value:.1f}",
}


def _mean(grid: Grid, of: str, at: dict[str, object]) -> float:
    """Return the mean of the points with some values; NaN where there is none."""
    held = [
        getattr(point, of).median
        for point in grid.points
        if all(point.factors[key] == value for key, value in at.items())
    ]
    return statistics.fmean(held) if held else math.nan


def _look(grid: Grid, point: Point) -> _Look:
    places = [values.index(point.factors[key]) for key, values in grid.axes.items()]
    first, second, third = (*places, 0, 0)[:3]
    return _Look(look(first).marker, _fills(grid)[second], _sizes(grid)[third])


def _fills(grid: Grid) -> list[tuple[str, float]]:
    """Return the fill of the markers of each value of the second key."""
    axes = [*grid.axes.values()]
    count = len(axes[1]) if len(axes) > 1 else 1
    return [(INK, float(share)) for share in np.linspace(*_FILLS, count)]


def _sizes(grid: Grid) -> list[float]:
    """Return the marker size of each value of the third key."""
    axes = [*grid.axes.values()]
    count = len(axes[2]) if len(axes) > 2 else 1
    if count == 1:
        return [sum(_SIZES) / 2]
    return [float(size) for size in np.linspace(*_SIZES, count)]


def _draw_ranges(axes: Axes, point: Point, drawn: _Look) -> None:
    seconds, accuracy = point.seconds, point.accuracy
    axes.errorbar(
        seconds.median,
        accuracy.median,
        xerr=[[seconds.median - seconds.low], [seconds.high - seconds.median]],
        yerr=[[accuracy.median - accuracy.low], [accuracy.high - accuracy.median]],
        linestyle="none",
        ecolor=INK,
        elinewidth=0.6,
        markeredgewidth=0.4,
        markeredgecolor=INK,
        **drawn._asdict(),
    )


def _draw_front(axes: Axes, grid: Grid) -> None:
    axes.step(
        *zip(*grid.front, strict=True),
        where="post",
        color=INK,
        linewidth=0.8,
        linestyle=(0, (2, 2)),
        zorder=1,
    )


def _explain(axes: Axes, grid: Grid, numbers: range) -> None:
    """Give the legend a line for every value of the keys with these numbers."""
    sizes, fills = _sizes(grid), _fills(grid)
    plain = _Look("o", "none", sizes[len(sizes) // 2])
    for number, (key, values) in enumerate(grid.axes.items()):
        if number not in numbers or len(values) < 2:
            continue
        for place, value in enumerate(values):
            by_key = (
                plain._replace(marker=look(place).marker),
                plain._replace(color=fills[min(place, len(fills) - 1)]),
                plain._replace(markersize=sizes[min(place, len(sizes) - 1)]),
            )
            axes.plot(
                [],
                [],
                linestyle="none",
                markeredgewidth=0.6,
                markeredgecolor=INK,
                label=short(f"{name_of(key)} {value}"),
                **by_key[number]._asdict(),
            )
