"""What a larger network buys: slope and knee of a grid's front, and half the cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpet_jax.report.grid import Grid, Point
from dpet_jax.report.printed import (
    NONE,
    dearer,
    dearer_than,
    percent,
    points,
    span,
)
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.report.table import Spread, spread
from dpet_jax.run.costs import By


class Halved(NamedTuple):
    """The best row that costs half of another, or less.

    Attributes:
        whole: The row of the highest accuracy.
        half: The most accurate one of those that cost no more than half of it.
        cost: Of the half over that of the whole, over seeds.
        accuracy: Of the half less that of the whole, over seeds.
    """

    whole: Point
    half: Point
    cost: Spread
    accuracy: Spread


class Complexity(NamedTuple):
    """What accuracy costs along the front of a grid.

    Attributes:
        label: Of the grid.
        unit: Of the cost.
        front: Rows that no other beats in cost and accuracy, by cost.
        knee: The row after which accuracy rises more slowly; None where the front has
            fewer than three rows or never bends that way.
        slope: Accuracy gained when the cost grows tenfold, over seeds.
        before: The same up to the knee, over seeds; None without one.
        after: The same from the knee on, likewise.
        halved: Half the cost of the most accurate row; None where nothing costs so
            little.
    """

    label: str
    unit: By
    front: tuple[Point, ...]
    knee: Point | None
    slope: Spread
    before: Spread | None
    after: Spread | None
    halved: Halved | None


def slope_per_decade(
    costs: Sequence[int | float], accuracies: Sequence[int | float]
) -> float:
    """Return the least-squares slope of accuracy over log10 of cost.

    Args:
        costs: More than 0, of two values at least.
        accuracies: One a cost.
    """
    x, y = np.log10(costs), np.asarray(accuracies, float)
    x = x - x.mean()
    return float(x @ y / (x @ x))


def knee_of(
    costs: Sequence[int | float], accuracies: Sequence[int | float]
) -> int | None:
    """Return which point of a front lies highest above the chord of its ends.

    Costs are taken by their logarithms, and both axes scaled to the front.

    Args:
        costs: Ascending, more than 0.
        accuracies: Ascending likewise.

    Returns:
        Its number; None for fewer than three points, or where none lies above.

    Source:
        Satopaa et al. (2011), "Finding a 'Kneedle' in a Haystack", without smoothing.
    """
    if len(costs) < 3:
        return None
    x, y = np.log(costs), np.asarray(accuracies, float)
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    knee = int(np.argmax(above))
    return knee if above[knee] > 1e-9 else None


def complexity_of(grid: Grid, by: By) -> Complexity | None:
    """Measure what accuracy costs along the front of a grid.

    Args:
        grid: Of networks; every row has the same seeds.
        by: What costs are compared in; for what does not tell networks apart, such as
            epochs, seconds stand in its place.

    Returns:
        None where the front is a single row, rows have other seeds, or a cost is not
        known.
    """
    unit: By = by if by in ("seconds", "wh") else "seconds"
    costs = {point.row.key: _by_seed(point, unit) for point in grid.points}
    seeds = [*costs[grid.points[0].row.key]]
    if any({*of} != {*seeds} or None in of.values() for of in costs.values()):
        return None
    known = {key: {s: c for s, c in of.items() if c} for key, of in costs.items()}
    medians = {key: float(np.median([*of.values()])) for key, of in known.items()}
    if not all(map(len, known.values())):
        return None
    ranked = sorted(grid.points, key=lambda point: medians[point.row.key])
    best, front = -math.inf, []
    for point in ranked:
        if point.accuracy.median > best:
            front.append(point)
            best = point.accuracy.median
    if len(front) < 2:
        return None
    accuracies = {point.row.key: _accuracies(point) for point in grid.points}

    def slope(part: Sequence[Point]) -> Spread:
        keys = [point.row.key for point in part]
        found = spread(
            [
                slope_per_decade(
                    [known[key][seed] for key in keys],
                    [accuracies[key][seed] for key in keys],
                )
                for seed in seeds
            ]
        )
        assert found is not None, "every seed has a slope"
        return found

    number = knee_of(
        [medians[point.row.key] for point in front],
        [point.accuracy.median for point in front],
    )
    return Complexity(
        grid.label,
        unit,
        (*front,),
        None if number is None else front[number],
        slope(front),
        None if number is None else slope(front[: number + 1]),
        None if number is None else slope(front[number:]),
        _halved(ranked, medians, known, accuracies),
    )


def complexities(grids: Sequence[Grid], by: By) -> list[Complexity]:
    """Measure each grid of networks: one all of whose keys shape the network.

    Args:
        grids: Those of a comparison.
        by: What costs are compared in.
    """
    of_networks = [
        grid for grid in grids if all(key.startswith("model.") for key in grid.axes)
    ]
    measured = (complexity_of(grid, by) for grid in of_networks)
    return [one for one in measured if one is not None]


def complexity_sheets(grids: Sequence[Grid], by: By) -> list[Sheet]:
    """Return what accuracy costs along the front of each grid of networks.

    Args:
        grids: Those of a comparison; one of keys that shape no network has none.
        by: What costs are compared in.
    """
    found = complexities(grids, by)
    if not found:
        return []
    return [
        Sheet(
            name="complexity",
            title="What a larger network buys",
            header=(
                *("grid", "accuracy per tenfold cost", "up to the knee"),
                *("from the knee on", "knee", "at half the cost of the best"),
            ),
            rows=tuple(map(_row, found)),
            notes=(
                f"Cost is {COST_NAMES[found[0].unit]} of selection and training. "
                "Slopes are least squares of test accuracy over the logarithm of cost, "
                "along the front, in percentage points; medians over seeds with the "
                "range. The knee is the row of the front that lies highest above the "
                "line between its ends. Half the cost: the most accurate row that "
                "costs no more than half of the most accurate of all, and what it "
                "loses.",
            ),
        )
    ]


def complexity_words(found: Complexity) -> str:
    """Return what half of the cost loses, and whether returns diminish, in words."""
    best = found.front[-1]
    if found.halved is None:
        told = f"No network of {found.label} costs half of {best.row.label} or less"
    else:
        half = found.halved
        told = (
            f"{half.half.row.label} is "
            f"{dearer_than(half.cost.median, half.whole.row.label)} at "
            f"{points(half.accuracy.median)} points "
            f"({span(half.accuracy.low, half.accuracy.high, points)})"
        )
    if found.before is None or found.after is None or found.knee is None:
        return f"{told}; the front has no knee."
    apart = found.before.low > found.after.high
    return (
        f"{told}; a tenfold cost buys {points(found.before.median)} points up to "
        f"{found.knee.row.label} and {points(found.after.median)} beyond"
        + ("." if apart else ", which seeds do not tell apart.")
    )


def _row(found: Complexity) -> tuple[Entry, ...]:
    half = found.halved
    lost = Entry(NONE)
    if half is not None:
        lost = Entry(
            f"{points(half.accuracy.median)} points",
            (
                f"{span(half.accuracy.low, half.accuracy.high, points)}, "
                f"{dearer(half.cost.median)}: {half.half.row.label}",
            ),
        )
    knee = Entry(NONE)
    if found.knee is not None:
        knee = Entry(found.knee.row.label, (percent(found.knee.accuracy.median),))
    return (
        Entry(found.label),
        *(_slope(of) for of in (found.slope, found.before, found.after)),
        knee,
        lost,
    )


def _slope(of: Spread | None) -> Entry:
    if of is None:
        return Entry(NONE)
    return Entry(points(of.median), (span(of.low, of.high, points),))


def _halved(
    ranked: Sequence[Point],
    medians: dict[str, float],
    costs: dict[str, dict[int, float]],
    accuracies: dict[str, dict[int, float]],
) -> Halved | None:
    whole = max(ranked, key=lambda point: point.accuracy.median)
    most = medians[whole.row.key] / 2
    cheap = [point for point in ranked if medians[point.row.key] <= most]
    if not cheap:
        return None
    half = max(cheap, key=lambda point: point.accuracy.median)
    key, of = half.row.key, whole.row.key
    cost = spread([costs[key][seed] / costs[of][seed] for seed in costs[of]])
    accuracy = spread([accuracies[key][s] - accuracies[of][s] for s in accuracies[of]])
    assert cost is not None, "both have the same seeds"
    assert accuracy is not None, "likewise"
    return Halved(whole, half, cost, accuracy)


def _by_seed(point: Point, unit: By) -> dict[int, float | None]:
    return {run.seed: run.spent(unit) for run in point.row.runs}


def _accuracies(point: Point) -> dict[int, float]:
    return {run.seed: run.summary["test_accuracy"] for run in point.row.runs}
