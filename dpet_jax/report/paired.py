"""Paired differences between methods, and their significance tests."""

import math
from typing import NamedTuple

from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.table import Spread, spread
from dpet_jax.run.costs import By

#: What a p-value is to be below; with fewer pairs no test of a single method can be.
SIGNIFICANT = 0.05
TESTABLE_PAIRS = 6


class Difference(NamedTuple):
    """A method minus a baseline, over the seeds that both have.

    Attributes:
        row: The method.
        role: That of the baseline: "tuned" or "random".
        target: Where costs are compared; None for the accuracy at the end.
        differences: One a seed, in the order of seeds.
        of: Median and range; None without a pair.
        censored: Seeds that both have and that are no pair since a cost is missing,
            which the difference therefore says nothing about: "baseline" where the
            baseline alone reached the target, "method" and "neither".
        p: Of the signed-rank test, corrected for all methods that are compared with the
            same baseline in the same column; None if not testable.
        least_p: The smallest p that so many pairs could have given.
    """

    row: Row
    role: str
    target: float | None
    differences: tuple[float, ...]
    of: Spread | None
    censored: dict[str, int]
    p: float | None = None
    least_p: float | None = None


def paired_differences(comparison: Comparison, by: By) -> list[Difference]:
    """Compare every method with the tuned baseline and with the random control.

    Test accuracy at the end, and the cost of each target where both runs of a seed
    reached it; seeds where one did not are counted apart. Tested (Wilcoxon's signed
    ranks, two-sided; Holm's correction) from `TESTABLE_PAIRS` pairs on.

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
    differences, censored = [], {"baseline": 0, "method": 0, "neither": 0}
    for seed in sorted(mine.keys() & theirs.keys()):
        here, there = mine[seed], theirs[seed]
        if here is not None and there is not None:
            differences.append(here - there)
        elif here is None and there is None:
            censored["neither"] += 1
        else:
            censored["baseline" if here is None else "method"] += 1
    return Difference(
        row, role, target, tuple(differences), spread(differences), censored
    )


def _values(row: Row, target: float | None, by: By) -> dict[int, float | None]:
    if target is None:
        return {run.seed: run.summary["test_accuracy"] for run in row.runs}
    found = [(run, run.target_cost(target)) for run in row.by_target.get(target, ())]
    return {run.seed: c and run.cost(c.spent, by) for run, c in found}


def _corrected(family: list[Difference]) -> list[Difference]:
    tested = [one for one in family if len(one.differences) >= TESTABLE_PAIRS]
    p_values = [_p_value(one.differences) for one in tested]
    by_row = dict(zip((one.row.key for one in tested), holm(p_values), strict=True))
    return [
        one._replace(
            p=by_row[one.row.key],
            # the test leaves pairs without a difference out
            least_p=least_p(sum(map(bool, one.differences)), len(tested)),
        )
        if one.row.key in by_row
        else one
        for one in family
    ]


def least_p(pairs: int, tests: int = 1) -> float:
    """Return the smallest corrected p-value that so many pairs can give.

    All signs agree in 2 of the 2 ^ pairs equally likely cases; Holm's correction
    multiplies the smallest p-value by the number of tests.
    """
    return min(1.0, tests * 2.0 ** (1 - pairs))


def pairs_needed(tests: int = 1) -> int:
    """Return from how many pairs on the smallest p-value can be significant."""
    pairs = math.ceil(1 + math.log2(max(tests, 1) / SIGNIFICANT))
    return pairs + (least_p(pairs, tests) >= SIGNIFICANT)


def _p_value(differences: tuple[float, ...]) -> float:
    # takes a second to import, and few reports have so many seeds
    from scipy.stats import wilcoxon

    # without any difference the statistic would be 0/0
    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0
