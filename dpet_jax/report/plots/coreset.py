"""Plots of which examples were selected."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpet_jax.errors import DamagedFileError
from dpet_jax.files import read_npz
from dpet_jax.report.plots.style import (
    BESIDE,
    INK,
    LONGEST,
    WIDTH,
    End,
    Looks,
    crowded,
    finished,
    label_ends,
    legend_below,
    looks_of,
    new_figure,
    percent_axis,
    short,
    styled,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import Run
from dpet_jax.run.folder import CORESET, GALLERY

_COLUMNS = 8
#: Height of a line of examples over the width of one.
_PITCH = 1.6
_SHOWN = 2 * _COLUMNS
_MOST_PANELS = 14
_MOST_NAMES = 12


def arrays_of(path: Path) -> dict[str, np.ndarray] | None:
    """Read an .npz of a run; None if there is none or it cannot be read."""
    try:
        return read_npz(path)
    except (OSError, DamagedFileError):
        return None


@styled
def coreset_growth(comparison: Comparison, looks: Looks | None = None) -> Figure | None:
    """Draw the size of the coreset after each round, of the first seed of each method.

    Args:
        comparison: Which runs belong to which method.
        looks: Of the methods of the page; by default of those of the comparison.

    Returns:
        None if no method selected a coreset.
    """
    figure = new_figure(2.0)
    axes = figure.add_subplot()
    looks = looks or looks_of(comparison.rows)
    many = crowded(looks)
    found = _coresets(comparison)
    ends = []
    for place, (key, label, arrays) in enumerate(found):
        rounds, entered = np.unique(arrays["round"], return_counts=True)
        colour, marker, dashes = looks[key]
        size = float(arrays["round"].size)
        ends.append(End(float(rounds[-1]), size, short(label, BESIDE), colour))
        axes.plot(
            rounds,
            np.cumsum(entered),
            color=colour,
            marker=marker,
            linestyle=dashes,
            # thinner and thinner, or equal ones would hide each other
            linewidth=2.6 - 1.8 * place / len(found),
            label=None if many else short(label),
        )
    if not found:
        return None
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    if many:
        label_ends(figure, axes, ends)
    return finished(figure, axes, "round", "examples in the coreset", plain="y")


@styled
def class_balance(comparison: Comparison, looks: Looks | None = None) -> Figure | None:
    """Draw the share of each class in the coreset of each method and in the pool.

    Args:
        comparison: Which runs belong to which method.
        looks: Of the methods of the page; by default of those of the comparison.

    Returns:
        None if no method selected a coreset.
    """
    looks = looks or looks_of(comparison.rows)
    found = _coresets(comparison)[:_MOST_PANELS]
    if not found:
        return None
    classes = max(int(arrays["labels"].max(initial=0)) for *_, arrays in found) + 1
    columns = 2 if len(found) > 1 else 1
    lines = math.ceil(len(found) / columns)
    figure = new_figure(0.35 + 0.95 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(found):
            axes.set_visible(False)
            continue
        key, label, arrays = found[place]
        counts = np.bincount(arrays["labels"], minlength=classes)
        axes.bar(range(classes), counts / max(1, counts.sum()), color=looks[key].colour)
        pool = arrays.get("pool_class_counts")
        shares = np.full(classes, 1 / classes) if pool is None else pool / pool.sum()
        axes.step(
            np.arange(-1, classes + 1),
            np.r_[shares[:1], shares, shares[-1:]],
            where="mid",
            color=INK,
            linewidth=0.8,
            label="equal shares" if pool is None else "share of the pool",
        )
        axes.set_title(short(label, BESIDE if columns > 1 else LONGEST), loc="left")
        axes.set_xlim(-0.7, classes - 0.3)
        axes.grid(visible=False, axis="x")
        if classes <= _MOST_NAMES:
            axes.set_xticks(range(classes))
        if place + columns >= len(found):
            axes.set_xlabel("class")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("share, %")
        percent_axis(axes, "y")
    legend_below(figure, grid.flat[0])
    return figure


@styled
def gallery(run: Run) -> Figure | None:
    """Draw the first and the last examples that a run selected, with their scores.

    Returns:
        None if the run has no gallery.
    """
    arrays = arrays_of(run.folder / GALLERY)
    if arrays is None or arrays["entered"].size == 0:
        return None
    count = arrays["entered"].size
    # the file holds both ends; where they are apart there is a gap between them
    last = max(_SHOWN, count - _SHOWN)
    parts = {
        "first to enter": range(min(_SHOWN, count)),
        "last to enter": range(last, count),
    }
    parts = {name: places for name, places in parts.items() if places}
    height = sum(0.6 + _PITCH * math.ceil(len(p) / _COLUMNS) for p in parts.values())
    figure = new_figure(height * WIDTH / _COLUMNS)
    # one pair of axes for all: many would take seconds to arrange
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    top = 0.0
    for name, places in parts.items():
        axes.text(0.06, top + 0.3, name, va="center", weight="bold")
        top += 0.55
        for number, place in enumerate(places):
            line, column = divmod(number, _COLUMNS)
            _thumbnail(axes, arrays, place, column, top + _PITCH * line)
        top += _PITCH * math.ceil(len(places) / _COLUMNS) + 0.05
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(height, 0)
    return figure


def _thumbnail(
    axes: Axes, arrays: dict[str, np.ndarray], place: int, left: int, top: float
) -> None:
    image = arrays["images"][place]
    grey = image.shape[-1] == 1
    axes.imshow(
        image[..., 0] if grey else image,
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        interpolation="nearest",
        extent=(left + 0.06, left + 0.94, top + 1.48, top + 0.6),
    )
    score = float(arrays["score"][place])
    name = str(arrays["class_names"][arrays["labels"][place]])
    name = name if len(name) <= 8 else f"{name[:7]}…"
    text = f"{name}\n{'random' if math.isnan(score) else f'{score:.2g}'}"
    axes.text(left + 0.5, top + 0.53, text, ha="center", linespacing=1.0)


def _coresets(
    comparison: Comparison,
) -> Sequence[tuple[str, str, dict[str, np.ndarray]]]:
    found = []
    for row in comparison.rows:
        for run in row.runs[:1]:
            arrays = arrays_of(run.folder / CORESET)
            if arrays is not None and arrays["labels"].size:
                found.append((row.key, row.label, arrays))
    return found
