"""Costs at equal accuracy, of runs of several lengths that are read once, at their end.

The error of a method over its cost is fitted by a power law, and costs are compared
where two such curves have the same error. That spares the choice of one length, which
decides a comparison by first crossings.
"""

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import Run
from dpet_jax.run.costs import By

#: Share of the resampled ratios between the ends of a range.
RANGE = 0.9
#: Seeds without which there is no range.
LEAST_SEEDS = 3
_RESAMPLES = 4000
#: Costs of runs that count as the same, relatively.
_SAME = 0.01

Split = Literal["test", "validation"]
_SPLITS: tuple[Split, ...] = ("test", "validation")


class PowerLaw(NamedTuple):
    """An error that falls as a power of the cost.

    Attributes:
        scale: Error at cost 1.
        exponent: Above 0.
        low: Smallest cost of a run that it was fitted to.
        high: Largest.
    """

    scale: float
    exponent: float
    low: float
    high: float

    def error(self, cost: float) -> float:
        """Return the error at a cost."""
        return self.scale * cost**-self.exponent

    def cost(self, error: float) -> float | None:
        """Return the cost at an error; None outside the costs that were run."""
        cost = float((self.scale / error) ** (1 / self.exponent))
        inside = self.low * (1 - _SAME) <= cost <= self.high * (1 + _SAME)
        return cost if inside else None


class Ratio(NamedTuple):
    """A cost over that of another method at the same accuracy.

    Attributes:
        value: Below 1 is a saving.
        low: Of the range that `RANGE` of the resamples lie in; None with fewer than
            `LEAST_SEEDS` seeds.
        high: Its other end.
    """

    value: float
    low: float | None
    high: float | None


class Gain(NamedTuple):
    """What runs of one length reached, beside the baseline.

    Attributes:
        horizon: The length, in the unit of the suite.
        cost: Mean over seeds.
        accuracy: By split, mean over seeds.
        deviation: Of the test accuracy over seeds; None for one seed.
        seeds: How many.
        points: Test accuracy minus that of the baseline's runs of the same cost; None
            if there are none.
        standard_error: Of `points`, with the seeds unpaired; None as well where either
            side has one seed.
        ratio: Cost over what the baseline's curve takes to the same test accuracy; None
            outside it.
    """

    horizon: float
    cost: float
    accuracy: dict[Split, float]
    deviation: float | None
    seeds: int
    points: float | None
    standard_error: float | None
    ratio: Ratio | None


class EndRow(NamedTuple):
    """A method, its curve and its costs.

    Attributes:
        row: The method.
        curve: Of the test error; None where the error does not fall with the cost.
        misfit: Largest distance between the mean accuracy at a horizon and the curve.
        costs: By target; None outside the curve.
        tuned: By target, against the baseline with the same network.
        tuned_validation: The same by validation accuracy.
        random: By target, against the random control with the same network.
        overall: By target, against the baseline, whatever network the method has.
        gains: One a horizon.
    """

    row: Row
    curve: PowerLaw | None
    misfit: float | None
    costs: dict[float, float | None]
    tuned: dict[float, Ratio | None]
    tuned_validation: dict[float, Ratio | None]
    random: dict[float, Ratio | None]
    overall: dict[float, Ratio | None]
    gains: tuple[Gain, ...]


class BestWidth(NamedTuple):
    """An arm with the network that reaches each target for least, beside the baseline.

    Attributes:
        label: Of the arm's first row.
        chosen: By target, the row that costs least; None where the curve of one of the
            arm's rows does not span it.
        costs: By target.
        ratios: By target, over the least cost of the baseline's arm.
    """

    label: str
    chosen: dict[float, Row | None]
    costs: dict[float, float | None]
    ratios: dict[float, Ratio | None]


class EndTable(NamedTuple):
    """Everything about the runs that are read at their end.

    Attributes:
        by: What costs are compared in.
        targets: Accuracies, ascending.
        rows: In the order of the comparison.
        best: One an arm; empty where every arm has one network.
        seeds: Those that ranges are drawn from: every row has them at every horizon.
    """

    by: By
    targets: tuple[float, ...]
    rows: tuple[EndRow, ...]
    best: tuple[BestWidth, ...]
    seeds: tuple[int, ...]


def end_table(comparison: Comparison, by: By) -> EndTable | None:
    """Compute costs at equal accuracy; None if no run is read at its end.

    Ranges are those of a paired bootstrap: seeds are drawn with replacement, the same
    ones for all methods, one fewer than there are (so that the variance of a mean is
    not underestimated), and all curves are fitted anew. A row without any run, such as
    one that was left out for want of time, is no part of it: it would leave no seed in
    common.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in. Epochs are full passes of the baseline's
            network, so that a narrower network's count for less.
    """
    begun = tuple(row for row in comparison.at_end.rows if row.all_runs)
    comparison = replace(comparison, rows=begun)
    if not comparison.rows:
        return None
    baseline, random = comparison.row("tuned"), comparison.row("random")
    cost = _cost_in(baseline, by)
    measured = {row.key: _Measured.of(row, cost) for row in comparison.rows}
    seeds = sorted(set.intersection(*(m.common for m in measured.values())))
    draws = _draws(len(seeds))
    curves = {
        (key, split): _Curves.of(held, split, seeds, draws)
        for key, held in measured.items()
        for split in _SPLITS
    }
    targets = comparison.targets

    def like(row: Row, other: Row | None) -> str | None:
        """Return the key of the row of another's arm with the network of this one."""
        return next(
            (
                each.key
                for each in comparison.rows
                if other is not None
                and each.arm == other.arm
                and _network(each) == _network(row)
            ),
            None,
        )

    def against(
        row: Row, other: str | None, split: Split = "test"
    ) -> dict[float, Ratio | None]:
        if other is None:
            return dict.fromkeys(targets)
        mine, theirs = [curves[row.key, split]], [curves[other, split]]
        return {t: _ratio(mine, theirs, 1 - t) for t in targets}

    rows = []
    for row in comparison.rows:
        curve = curves[row.key, "test"].law
        tuned = like(row, baseline)
        rows.append(
            EndRow(
                row=row,
                curve=curve,
                misfit=_misfit(curve, measured[row.key]),
                costs={t: curve.cost(1 - t) if curve else None for t in targets},
                tuned=against(row, tuned),
                tuned_validation=against(row, tuned, "validation"),
                random=against(row, like(row, random)),
                overall=against(row, None if baseline is None else baseline.key),
                gains=_gains(row.key, tuned, measured, curves),
            )
        )
    best = _best_widths(comparison, baseline, curves)
    return EndTable(by, targets, tuple(rows), best, tuple(seeds))


class _End(NamedTuple):
    cost: float
    errors: dict[Split, float]


class _Measured(NamedTuple):
    """Costs and errors of a row's runs, by horizon and seed."""

    by_horizon: dict[float, dict[int, _End]]

    @classmethod
    def of(cls, row: Row, cost: Callable[[Run], float | None]) -> "_Measured":
        found: dict[float, dict[int, _End]] = {}
        for horizon, runs in sorted(row.by_horizon.items()):
            for run in runs:
                spent, test = cost(run), run.summary["test_accuracy"]
                if spent is None or test is None:
                    continue
                known = run.summary.get("validation_accuracy")
                errors: dict[Split, float] = {"test": _error(run, "test", test)}
                if known is not None:
                    errors["validation"] = _error(run, "validation", known)
                found.setdefault(horizon, {})[run.seed] = _End(spent, errors)
        return cls(found)

    @property
    def common(self) -> set[int]:
        """Seeds that every horizon has."""
        held = [{*ends} for ends in self.by_horizon.values()]
        return set.intersection(*held) if held else set()

    def at_cost(self, cost: float) -> dict[int, _End]:
        """Return the runs of the horizon that cost as much; empty if there is none."""
        for ends in self.by_horizon.values():
            mean = statistics.fmean(end.cost for end in ends.values())
            if abs(mean - cost) <= _SAME * cost:
                return ends
        return {}


def _error(run: Run, split: Split, accuracy: float) -> float:
    """Return an error whose logarithm there is: half an example where none is wrong."""
    return max(1 - accuracy, 0.5 / run.started[split])


class _Curves(NamedTuple):
    """The curve of a row, and those of resampled seeds.

    Attributes:
        law: Fitted to all runs.
        scales: float[r], logarithms of the scale of each resample; empty without any.
        exponents: float[r].
    """

    law: PowerLaw | None
    scales: np.ndarray
    exponents: np.ndarray

    @classmethod
    def of(
        cls, held: _Measured, split: Split, seeds: Sequence[int], draws: np.ndarray
    ) -> "_Curves":
        points = [
            (seed, math.log(end.cost), math.log(end.errors[split]))
            for ends in held.by_horizon.values()
            for seed, end in ends.items()
            if split in end.errors and end.cost > 0
        ]
        nothing = np.zeros(0)
        if len({round(x, 6) for _, x, _ in points}) < 2:
            return cls(None, nothing, nothing)
        x, y = (np.array([point[k] for point in points]) for k in (1, 2))
        ones = np.ones_like(x)
        scale, exponent = _fit(np.stack([ones, x, y, x * x, x * y]).sum(axis=1))
        costs = np.exp(x)
        law = None
        if exponent > 0:
            law = PowerLaw(
                math.exp(scale), float(exponent), float(costs.min()), float(costs.max())
            )
        of_seed = np.array([point[0] for point in points])
        sums = np.stack(
            [
                np.stack([ones, x, y, x * x, x * y])[:, of_seed == seed].sum(axis=1)
                for seed in seeds
            ]
            or [np.zeros(5)]
        )
        if not draws.size:
            return cls(law, nothing, nothing)
        scales, exponents = _fit((draws @ sums).T)
        return cls(law, scales, exponents)

    def log_costs(self, log_error: float | np.ndarray) -> np.ndarray:
        """Return the logarithm of the cost at an error, by each resample."""
        # where all drawn errors are equal no cost gives another
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.scales - log_error) / self.exponents)


def _fit(sums: np.ndarray) -> tuple[Any, Any]:
    """Fit y = scale - exponent * x by least squares, from sums of 1, x, y, xx, xy."""
    count, x, y, xx, xy = sums
    spread = count * xx - x * x
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (count * xy - x * y) / spread
    return (y - slope * x) / count, -slope


@functools.cache
def _draws(seeds: int) -> np.ndarray:
    """Return how often each resample draws each seed: float[r, seeds]."""
    if seeds < LEAST_SEEDS:
        return np.zeros((0, seeds))
    rng = np.random.default_rng(0)
    drawn = rng.integers(seeds, size=(_RESAMPLES, seeds - 1))
    return np.stack([np.bincount(d, minlength=seeds) for d in drawn]).astype(float)


def _ratio(
    mine: Sequence[_Curves], theirs: Sequence[_Curves], error: float
) -> Ratio | None:
    """Compare the least cost of some curves with that of others, at an error."""
    costs = [_least(curves, error) for curves in (mine, theirs)]
    if costs[0] is None or costs[1] is None:
        return None
    logs = [
        np.min([c.log_costs(math.log(error)) for c in curves], axis=0)
        for curves in (mine, theirs)
    ]
    same = [*map(id, mine)] == [*map(id, theirs)]
    low, high = (None, None) if same else _range(logs[0] - logs[1])
    return Ratio(costs[0] / costs[1], low, high)


def _least(curves: Sequence[_Curves], error: float) -> float | None:
    """Return the least cost at an error; None where a curve does not span it.

    The least of the others would favour whoever has longer runs.
    """
    found = [None if c.law is None else c.law.cost(error) for c in curves]
    known = [cost for cost in found if cost is not None]
    return min(known) if known and len(known) == len(found) else None


def _range(log_ratios: np.ndarray) -> tuple[float | None, float | None]:
    known = log_ratios[np.isfinite(log_ratios)]
    if not known.size:
        return None, None
    ends = np.quantile(known, [(1 - RANGE) / 2, (1 + RANGE) / 2])
    return float(np.exp(ends[0])), float(np.exp(ends[1]))


def _misfit(curve: PowerLaw | None, held: _Measured) -> float | None:
    if curve is None:
        return None
    return max(
        abs(
            statistics.fmean(end.errors["test"] for end in ends.values())
            - curve.error(statistics.fmean(end.cost for end in ends.values()))
        )
        for ends in held.by_horizon.values()
    )


def _gains(
    key: str,
    baseline: str | None,
    measured: Mapping[str, _Measured],
    curves: Mapping[tuple[str, Split], _Curves],
) -> tuple[Gain, ...]:
    return tuple(
        _gain(
            horizon,
            ends,
            None if baseline in (None, key) else measured[str(baseline)],
            None if baseline in (None, key) else curves[str(baseline), "test"],
        )
        for horizon, ends in measured[key].by_horizon.items()
    )


def _gain(
    horizon: float,
    ends: Mapping[int, _End],
    baseline: _Measured | None,
    curve: _Curves | None,
) -> Gain:
    cost = statistics.fmean(end.cost for end in ends.values())
    tests = [1 - end.errors["test"] for end in ends.values()]
    validations = [
        1 - end.errors["validation"]
        for end in ends.values()
        if "validation" in end.errors
    ]
    accuracy: dict[Split, float] = {"test": statistics.fmean(tests)}
    if validations:
        accuracy["validation"] = statistics.fmean(validations)
    others = [
        1 - end.errors["test"]
        for end in (baseline.at_cost(cost) if baseline else {}).values()
    ]
    variances = [
        statistics.variance(values) / len(values)
        for values in (tests, others)
        if len(values) > 1
    ]
    return Gain(
        horizon=horizon,
        cost=cost,
        accuracy=accuracy,
        deviation=statistics.stdev(tests) if len(tests) > 1 else None,
        seeds=len(tests),
        points=accuracy["test"] - statistics.fmean(others) if others else None,
        standard_error=math.sqrt(sum(variances)) if len(variances) == 2 else None,
        ratio=None if curve is None else _ratio_at(cost, ends, curve),
    )


def _ratio_at(cost: float, ends: Mapping[int, _End], curve: _Curves) -> Ratio | None:
    """Return a cost over what a curve takes to the same mean error.

    The runs of one length vary independently of the curve, whose runs are others.
    """
    errors = np.array([end.errors["test"] for end in ends.values()])
    if curve.law is None:
        return None
    needed = curve.law.cost(float(errors.mean()))
    if needed is None:
        return None
    low, high = None, None
    if len(errors) >= LEAST_SEEDS and curve.scales.size:
        rng = np.random.default_rng(1)
        drawn = rng.integers(len(errors), size=(curve.scales.size, len(errors) - 1))
        log_errors = np.log(errors[drawn].mean(axis=1))
        low, high = _range(math.log(cost) - curve.log_costs(log_errors))
    return Ratio(cost / needed, low, high)


def _best_widths(
    comparison: Comparison,
    baseline: Row | None,
    curves: Mapping[tuple[str, Split], _Curves],
) -> tuple[BestWidth, ...]:
    arms: dict[str, list[Row]] = {}
    for row in comparison.rows:
        arms.setdefault(row.arm, []).append(row)
    if baseline is None or all(len(rows) == 1 for rows in arms.values()):
        return ()
    theirs = [curves[row.key, "test"] for row in arms[baseline.arm]]
    found = []
    for rows in arms.values():
        mine = [curves[row.key, "test"] for row in rows]
        costs = {t: _least(mine, 1 - t) for t in comparison.targets}
        chosen = {
            target: None
            if cost is None
            else next(
                row
                for row, of_row in zip(rows, mine, strict=True)
                if of_row.law is not None and of_row.law.cost(1 - target) == cost
            )
            for target, cost in costs.items()
        }
        ratios = {t: _ratio(mine, theirs, 1 - t) for t in comparison.targets}
        found.append(BestWidth(rows[0].label, chosen, costs, ratios))
    return tuple(found)


def _cost_in(baseline: Row | None, by: By) -> Callable[[Run], float | None]:
    """Return what a run cost, in full passes of the baseline's network if in epochs."""
    if by != "epochs" or baseline is None or not baseline.all_runs:
        return lambda run: run.spent(by)
    of_baseline = baseline.all_runs[0].summary
    full_pass = of_baseline["flops"] / of_baseline["epochs"]
    return lambda run: float(run.summary["flops"] / full_pass)


def _network(row: Row) -> str:
    """Return what tells the networks of rows apart."""
    return repr(row.all_runs[0].config.get("model")) if row.all_runs else ""
