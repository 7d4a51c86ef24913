"""The plot of power over time."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict

from dpet_jax.files import read_json
from dpet_jax.report.plots.style import (
    FEW,
    INK,
    MUTED,
    finished,
    look,
    new_figure,
    short,
    styled,
)
from dpet_jax.report.runs import Run
from dpet_jax.run.folder import ENERGY_REPORT

#: Grey, its opacity and hatches: colours belong to methods.
_SHADES: dict[str, tuple[float, str | None]] = {
    "compile": (0.0, "...."),
    "data": (0.0, "\\\\\\\\"),
    "select": (0.6, None),
    "train": (0.25, None),
    "eval": (0.0, "////"),
    "checkpoint": (0.0, "xxxx"),
}


class Stretch(NamedTuple):
    """A time between two events, and the phase that took most of it."""

    start_s: float
    end_s: float
    phase: str


class _Bin(BaseModel):
    """Mean watts of each channel in a part of a power trace."""

    model_config = ConfigDict(strict=True)
    start_s: float
    end_s: float
    w: dict[str, float]


@styled
def power_trace(run: Run) -> Figure | None:
    """Draw the power of every channel of a run over time, with phases shaded.

    Returns:
        None if no power was recorded.
    """
    bins = _bins(run)
    names = sorted({name for one in bins for name in one["w"]})
    if not names:
        return None
    figure = new_figure(1.9)
    axes = figure.add_subplot()
    shaded: set[str] = set()
    for start_s, end_s, phase in stretches(run):
        if phase in _SHADES:
            opacity, hatch = _SHADES[phase]
            axes.axvspan(
                start_s,
                end_s,
                facecolor=(MUTED, opacity),
                edgecolor=MUTED,
                hatch=hatch,
                linewidth=0,
                label=None if phase in shaded else phase,
            )
            shaded.add(phase)
    edges = np.array([one["start_s"] for one in bins] + [bins[-1]["end_s"]])
    for number, name in enumerate(names):
        watts = np.array([one["w"].get(name, np.nan) for one in bins])
        axes.stairs(
            watts,
            edges,
            baseline=None,
            color=INK,
            linestyle=look(number * FEW).dashes,
            label=short(name),
            linewidth=0.9,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(edges[0], edges[-1])
    return finished(figure, axes, "seconds", "power, W")


def stretches(run: Run) -> list[Stretch]:
    """Return the phase that took most of the time between events, equal ones joined."""
    marks = [e for e in run.events if isinstance(e.get("seconds"), dict)]
    found: list[Stretch] = []
    nothing: dict[str, Any] = {"time_s": 0.0, "seconds": {}}
    for before, after in zip([nothing, *marks], marks, strict=False):
        spent = {
            phase: s - before["seconds"].get(phase, 0.0)
            for phase, s in after["seconds"].items()
        }
        if not any(spent.values()):
            continue
        phase = max(spent, key=spent.__getitem__)
        if found and found[-1].phase == phase:
            found[-1] = found[-1]._replace(end_s=after["time_s"])
        else:
            found.append(Stretch(before["time_s"], after["time_s"], phase))
    return found


def _bins(run: Run) -> list[dict[str, Any]]:
    try:
        bins = read_json(run.folder / ENERGY_REPORT)["power_trace"] or []
        return [_Bin.model_validate(one).model_dump() for one in bins]
    except (OSError, ValueError, KeyError, TypeError):
        return []
