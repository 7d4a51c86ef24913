"""Analysis of variance of a grid: which of its factors cost and accuracy hang on."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dpet_jax.report.grid import Grid, name_of
from dpet_jax.report.printed import NONE, percent, significant
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.run.costs import By

#: An F below it says no more than this.
_SMALL_F = 0.01


class Effect(NamedTuple):
    """What one factor, or factors together beyond each alone, explain.

    Attributes:
        axes: Positions of the factors; empty for what none explains, the replicates.
        squares: Sum of squares.
        degrees: Of freedom.
        share: Of the whole sum of squares, eta squared; in [0, 1].
        f: Mean square over that of the replicates; None for those, or without any.
        p: Probability of so large an F by chance; None likewise.
    """

    axes: tuple[int, ...]
    squares: float
    degrees: int
    share: float
    f: float | None
    p: float | None


def analyse(values: np.ndarray) -> list[Effect]:
    """Split the variance of a balanced, crossed design among its factors.

    SS_S = n mean(e_S^2), where e_S is the mean over all axes but S, less the effects of
    every smaller set of them: factors alone first, then in pairs, and so on. In a
    balanced design these and what remains within the cells add up to the whole.

    Args:
        values: float[levels of each factor ..., replicates], each factor with two
            levels or more.

    Returns:
        An effect for every set of factors, the replicates last. Where all values are
        equal there is nothing to share, and every share is 0.

    Raises:
        ValueError: If there is no factor, one has a single level, or a value is not
            finite.

    Source:
        Fisher (1925), "Statistical Methods for Research Workers", chapter 7; eta
        squared is his correlation ratio.
    """
    *levels, replicates = values.shape
    if not levels or min(levels) < 2 or replicates < 1:
        raise ValueError(f"shape {values.shape}: each factor needs two levels or more")
    x = values.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("a value is no finite number")
    factors = range(len(levels))
    subsets = [s for size in factors for s in itertools.combinations(factors, size + 1)]
    effects: dict[tuple[int, ...], np.ndarray] = {(): x.mean(keepdims=True)}
    for subset in subsets:
        others = tuple(axis for axis in range(x.ndim) if axis not in subset)
        smaller = [e for axes, e in effects.items() if {*axes} < {*subset}]
        effects[subset] = x.mean(axis=others, keepdims=True) - sum(smaller)
    squares = {axes: x.size * float(np.mean(effects[axes] ** 2)) for axes in subsets}
    within = float(np.sum((x - x.mean(axis=-1, keepdims=True)) ** 2))
    whole = within + sum(squares.values())
    spare = x.size - x.size // replicates

    def effect(axes: tuple[int, ...]) -> Effect:
        degrees = int(np.prod([levels[axis] - 1 for axis in axes]))
        own = squares[axes]
        f = p = None
        if spare and within > 0:
            from scipy.stats import f as distribution

            f = (own / degrees) / (within / spare)
            p = float(distribution.sf(f, degrees, spare))
        return Effect(axes, own, degrees, own / whole if whole else 0.0, f, p)

    rest = Effect((), within, spare, within / whole if whole else 0.0, None, None)
    return [*map(effect, subsets), rest]


class Main(NamedTuple):
    """What one factor of a grid explains, beside all others.

    Attributes:
        key: Dotted key of the factor.
        cost: Its effect on cost.
        accuracy: Its effect on test accuracy.
    """

    key: str
    cost: Effect
    accuracy: Effect


def main_effects(grid: Grid, by: By) -> tuple[By, list[Main]]:
    """Return the unit of cost, and what each factor alone explains.

    Args:
        grid: Of a comparison.
        by: As `anova_sheets` has it.

    Returns:
        No effects where the factors are not all crossed.
    """
    unit, costs, accuracies = _measured(grid, by)
    if costs is None or accuracies is None:
        return unit, []
    pairs = zip(analyse(costs), analyse(accuracies), strict=True)
    return unit, [
        Main(_factors(grid)[cost.axes[0]], cost, accuracy)
        for cost, accuracy in pairs
        if len(cost.axes) == 1
    ]


def anova_sheets(grids: Sequence[Grid], by: By) -> list[Sheet]:
    """Return what the factors of each grid explain, where they are all crossed.

    Args:
        grids: Those of a comparison.
        by: What costs are compared in; for what does not tell networks apart, such as
            epochs, seconds stand in its place.
    """
    sheets = []
    for number, grid in enumerate(grids, 1):
        unit, costs, accuracies = _measured(grid, by)
        if costs is None or accuracies is None:
            continue
        sheets.append(_sheet(grid, f"anova{number}", unit, costs, accuracies))
    return sheets


def _measured(grid: Grid, by: By) -> tuple[By, np.ndarray | None, np.ndarray | None]:
    """Return the unit of cost, and cost and test accuracy of every run."""
    unit: By = by if by in ("seconds", "wh") else "seconds"
    return (
        unit,
        _crossed(grid, lambda run: run.spent(unit)),
        _crossed(grid, lambda run: run.summary["test_accuracy"]),
    )


def _crossed(grid: Grid, value_of: Any) -> np.ndarray | None:
    """Return a value of every run [levels ..., seeds]; None if the grid is not whole.

    Factors of one value are no axes of it.
    """
    axes = _factors(grid)
    cells: dict[tuple[int, ...], dict[int, float | None]] = {}
    for point in grid.points:
        place = tuple(grid.axes[key].index(point.factors[key]) for key in axes)
        cells[place] = {run.seed: value_of(run) for run in point.row.runs}
    shape = [len(grid.axes[key]) for key in axes]
    seeds = [*next(iter(cells.values()))]
    if not axes or len(cells) < np.prod(shape) or not seeds:
        return None
    if any({*cell} != {*seeds} or None in cell.values() for cell in cells.values()):
        return None
    values = np.empty((*shape, len(seeds)))
    for place, cell in cells.items():
        values[place] = [cell[seed] for seed in seeds]
    return values


def _factors(grid: Grid) -> list[str]:
    return [key for key, values in grid.axes.items() if len(values) > 1]


def _sheet(
    grid: Grid, name: str, unit: By, costs: np.ndarray, accuracies: np.ndarray
) -> Sheet:
    keys = _factors(grid)
    pairs = [*zip(analyse(costs), analyse(accuracies), strict=True)]
    mains = [cost for cost, _ in pairs if len(cost.axes) == 1]
    most = max(mains, key=lambda effect: effect.share)
    rows = []
    for cost, accuracy in pairs:
        names = [name_of(keys[axis]) for axis in cost.axes]
        main = len(cost.axes) == 1
        label = (
            f"{names[0]} ({', '.join(map(str, grid.axes[keys[cost.axes[0]]]))})"
            if main
            else " with ".join(names) or "between seeds"
        )
        rows.append(
            (
                Entry(label, strong=cost is most),
                Entry(str(cost.degrees)),
                *_entries(cost, strong=cost is most),
                *_entries(accuracy, strong=False),
            )
        )
    cost_name = COST_NAMES[unit]
    ways = {2: "two", 3: "three", 4: "four"}.get(len(keys), str(len(keys)))
    seeds = costs.shape[-1]
    return Sheet(
        name=name,
        title=f"What the {cost_name} of {grid.label} hang on: {ways}-way analysis of "
        "variance",
        header=(
            *("factor", "degrees of freedom", f"share of {cost_name}", "F"),
            *("share of accuracy", "F"),
        ),
        rows=tuple(rows),
        notes=(
            "Shares are eta squared: of the sum of squares over all runs, that between "
            "the values of a factor, or of factors together beyond each alone. Test "
            f"accuracy at the end; {seeds} seed{'s' if seeds > 1 else ''} a combination"
            + (
                ", whose scatter is what F compares with; beside it the p-value, "
                "uncorrected."
                if seeds > 1
                else ", so that nothing tells a small effect from chance."
            ),
        ),
    )


def _entries(effect: Effect, *, strong: bool) -> tuple[Entry, Entry]:
    f = Entry(NONE)
    if effect.f is not None and effect.p is not None:
        shown = "p < 0.001" if effect.p < 0.001 else f"p = {effect.p:.3f}"
        small = effect.f < _SMALL_F
        text = f"< {_SMALL_F:g}" if small else significant(effect.f)
        f = Entry(text, beside=shown)
    return Entry(percent(effect.share), strong=strong), f
