"""Paired differences between methods, and their significance tests."""

from typing import NamedTuple

from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import compared
from dpet_jax.report.table import Spread, spread
from dpet_jax.run.costs import By

#: With fewer pairs the smallest p-value that the test can give is above 0.03.
TESTABLE_PAIRS = 6


class Difference(NamedTuple):
    """A method minus a baseline, over the seeds that both have.

    Attributes:
        row: The method.
        role: That of the baseline: "tuned" or "random".
        target: Where costs are compared; None for the accuracy at the end.
        differences: One a seed, in the order of seeds.
        of: Median and range; None without a pair.
        p: Of the signed-rank test, corrected for all methods that are compared with the
            same baseline in the same column; None if not testable.
    """

    row: Row
    role: str
    target: float | None
    differences: tuple[float, ...]
    of: Spread | None
    p: float | None = None


def paired_differences(comparison: Comparison, by: By) -> list[Difference]:
    """Compare every method with the tuned baseline and with the random control.

    Test accuracy at the end, and the cost of each target where both runs of a seed
    reached it. Tested (Wilcoxon's signed ranks, two-sided; Holm's correction)
    from `TESTABLE_PAIRS` pairs on.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.
    """
    found: list[Difference] = []
    for role in ("tuned", "random"):
        baseline = comparison.row(role)
        if baseline is None:
            continue
        for target in (None, *comparison.targets):
            found += _corrected(
                [
                    _difference(row, baseline, role, target, by)
                    for row in comparison.rows
                    if row.key != baseline.key
                ]
            )
    return found


def holm(p_values: list[float]) -> list[float]:
    """Correct p-values for multiple tests, by Holm's step-down procedure.

    Source:
        Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(
        sorted(range(len(p_values)), key=p_values.__getitem__)
    ):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def _difference(
    row: Row, baseline: Row, role: str, target: float | None, by: By
) -> Difference:
    mine, theirs = _values(row, target, by), _values(baseline, target, by)
    both = sorted(mine.keys() & theirs.keys())
    differences = tuple(mine[seed] - theirs[seed] for seed in both)
    return Difference(row, role, target, differences, spread(differences))


def _values(row: Row, target: float | None, by: By) -> dict[int, float]:
    if target is None:
        found = {run.seed: run.summary["test_accuracy"] for run in row.runs}
    else:
        costs = {
            run.seed: run.target_cost(target) for run in row.by_target.get(target, ())
        }
        found = {seed: c and compared(c.spent, by) for seed, c in costs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _corrected(family: list[Difference]) -> list[Difference]:
    tested = [one for one in family if len(one.differences) >= TESTABLE_PAIRS]
    p_values = [_p_value(one.differences) for one in tested]
    by_row = dict(zip((one.row.key for one in tested), holm(p_values), strict=True))
    return [one._replace(p=by_row.get(one.row.key)) for one in family]


def _p_value(differences: tuple[float, ...]) -> float:
    # takes a second to import, and few reports have so many seeds
    from scipy.stats import wilcoxon

    # without any difference the statistic would be 0/0
    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0
