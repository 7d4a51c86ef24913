"""Curves of the error at the end, and costs where two of them have the same error."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.runs import end_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.equal_accuracy import PowerLaw, end_table
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import Run


def run(cost, error, seed, *, validation=None, network="net"):
    """A run with nothing but what is asked at its end."""
    summary = {"flops": 1000.0 * cost, "epochs": cost, "seed": seed}
    summary |= {"test_accuracy": 1 - error, "validation_accuracy": validation}
    start = {"event": "start", "test": 1000, "validation": 500}
    return Run(Path(f"{cost}/{error}/{seed}"), {"model": network}, summary, (start,))


def row(key, held, **facts):
    """A row of runs by horizon, from pairs of a cost and its errors by seed."""
    by_horizon = {
        float(cost): tuple(
            run(cost, error, seed, **facts) for seed, error in enumerate(errors)
        )
        for cost, errors in held
    }
    return Row(key, key, {}, (), by_horizon=by_horizon, arm=key)


def compare(*rows, targets=(0.85,), roles=None):
    roles = roles or {"tuned": rows[0].key}
    table = end_table(Comparison("c", rows, targets, roles), "epochs")
    assert table is not None
    return table


def power(ratio, costs, seeds=3, noise=0.0, rng=None):
    """Pairs of a cost and errors 0.3 over its root, at a ratio of the cost."""
    return [
        (
            cost,
            [
                0.3
                * (cost / ratio) ** -0.5
                * math.exp(noise * rng.standard_normal() if rng else 0.0)
                for _ in range(seeds)
            ],
        )
        for cost in costs
    ]


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    comparison = read_comparison([end_suite(tmp_path_factory.mktemp("end"))])
    table = end_table(comparison, "epochs")
    assert table is not None
    return {line.row.key: line for line in table.rows}, table


def test_an_exact_power_law_gives_its_costs_and_ratios(exact):
    lines, table = exact
    assert table.seeds == (0, 1, 2)
    assert lines["standard"].curve.exponent == pytest.approx(0.5)
    assert lines["standard"].curve.scale == pytest.approx(0.3)
    assert lines["standard"].misfit == pytest.approx(0, abs=1e-9)
    # an error of 0.15 takes 4 epochs, one of 0.12 6.25
    assert lines["standard"].costs == pytest.approx({0.85: 4.0, 0.88: 6.25})
    assert lines["saving"].costs == pytest.approx({0.85: 3.2, 0.88: 5.0})
    for target in (0.85, 0.88):
        for ratio in (
            lines["saving"].tuned[target],
            lines["saving"].tuned_validation[target],
        ):
            assert ratio.value == pytest.approx(0.8, rel=0.05)
        assert lines["saving"].tuned[target] == pytest.approx((0.8, 0.8, 0.8))
    assert lines["saving"].random[0.88].value == pytest.approx(0.64)


def test_nothing_is_extrapolated(exact):
    lines, _ = exact
    # the shortest run of chance already has an error of 0.3 / sqrt(4 / 1.25)
    assert lines["chance"].costs[0.85] == pytest.approx(5.0)
    short = compare(
        row("base", power(1.0, (4, 8))),
        row("other", power(0.8, (8, 16))),
        targets=(0.80, 0.87, 0.95),
    )
    base, other = short.rows
    assert base.costs[0.80] is None
    assert base.costs[0.95] is None
    assert base.costs[0.87] == pytest.approx((0.3 / 0.13) ** 2)
    assert other.costs[0.87] is None
    assert other.tuned[0.87] is None
    assert [gain.ratio for gain in other.gains] == [None, None]


def test_a_narrower_network_is_counted_in_passes_of_the_baseline(exact):
    lines, table = exact
    half = lines["saving_half"]
    assert [gain.cost for gain in half.gains] == pytest.approx([2, 4, 8])
    assert half.costs[0.85] == pytest.approx(2.0)
    # no row of the baseline has this network
    assert half.tuned == {0.85: None, 0.88: None}
    best = {arm.label: arm for arm in table.best}
    assert best["saving"].chosen[0.85].key == "saving_half"
    assert best["saving"].ratios[0.85].value == pytest.approx(0.5)
    assert best["standard"].ratios[0.85] == (1.0, None, None)
    assert best["chance"].ratios[0.88].value == pytest.approx(1.25)


def test_gains_are_differences_at_the_same_cost_with_unpaired_errors():
    base = row("base", [(2, [0.30, 0.32, 0.34]), (4, [0.20, 0.22, 0.24])])
    mine = row("mine", [(2, [0.29, 0.31]), (3, [0.2, 0.2])])
    at_two, at_three = compare(base, mine).rows[1].gains
    assert at_two.points == pytest.approx(0.02)
    # variances 4e-4 over 3 and 2e-4 over 2
    assert at_two.standard_error == pytest.approx(math.sqrt(4e-4 / 3 + 2e-4 / 2))
    assert at_two.seeds == 2
    assert at_two.deviation == pytest.approx(0.02 / 2**0.5)
    assert at_three.points is None
    assert at_three.standard_error is None
    # 0.32 to 0.22 over a doubling: the base takes this long to an error of 0.2 or less
    assert at_three.ratio is None
    law = compare(base, mine).rows[0].curve
    assert at_two.ratio.value == pytest.approx(2 / law.cost(0.3))


def test_an_error_that_does_not_fall_has_no_curve():
    rising = row("rising", [(2, [0.2] * 3), (4, [0.3] * 3)])
    table = compare(row("base", power(1.0, (2, 8))), rising)
    assert table.rows[1].curve is None
    assert table.rows[1].tuned[0.85] is None
    alone = compare(row("base", [(2, [0.2] * 3)]))
    assert alone.rows[0].curve is None


def test_a_range_wants_three_seeds():
    two = compare(
        row("base", power(1.0, (2, 8), seeds=2)), row("x", power(0.8, (2, 8), seeds=2))
    )
    assert two.rows[1].tuned[0.85] == pytest.approx((0.8, None, None), nan_ok=True)
    assert two.seeds == (0, 1)


def test_only_seeds_that_all_runs_have_are_drawn():
    base, other = row("base", power(1.0, (2, 8), seeds=5)), power(0.8, (2, 8), seeds=5)
    other[0] = (other[0][0], other[0][1][:3])
    assert compare(base, row("x", other)).seeds == (0, 1, 2)


def test_a_diverged_run_is_no_point():
    base = row("base", power(1.0, (2, 8)))
    broken = run(4.0, 0.5, 0)
    broken.summary["test_accuracy"] = None
    base.by_horizon[4.0] = (broken,)
    assert compare(base).rows[0].costs[0.85] == pytest.approx(4.0)


def test_the_range_holds_the_truth_about_as_often_as_it_says():
    """The noise of a run is 3 % of its error, as half a point at 85 % is."""
    rng = np.random.default_rng(7)
    inside = []
    for _ in range(150):
        table = compare(
            row("base", power(1.0, (3, 4, 6, 8), 5, 0.03, rng)),
            row("x", power(0.8, (3, 4, 6, 8), 5, 0.03, rng)),
        )
        ratio = table.rows[1].tuned[0.85]
        inside.append(ratio.low <= 0.8 <= ratio.high)
    # 90 % is meant; five seeds give a little less
    assert 0.78 <= np.mean(inside) <= 0.97


def test_a_power_law_says_its_cost_within_what_was_run():
    law = PowerLaw(0.3, 0.5, 2.0, 8.0)
    assert law.error(4.0) == pytest.approx(0.15)
    assert law.cost(0.15) == pytest.approx(4.0)
    assert law.cost(0.3 / 8**0.5) == pytest.approx(8.0)
    assert law.cost(0.05) is None
    assert law.cost(0.25) is None


def test_the_best_network_is_known_only_where_all_curves_span_the_target():
    rows = (
        row("base", power(1.0, (2, 8))),
        replace(row("base_half", power(0.5, (2, 4)), network="half"), arm="base"),
        row("x", power(0.8, (2, 8))),
        replace(row("x_half", power(0.4, (2, 8)), network="half"), arm="x"),
    )
    # at 90 % the half of the baseline would have to run for 4.5 epochs, and has not
    table = compare(*rows, targets=(0.85, 0.9), roles={"tuned": "base"})
    base, x = table.best
    assert base.costs == {0.85: pytest.approx(2.0), 0.9: None}
    assert x.costs[0.9] == pytest.approx(3.6)
    assert x.chosen[0.9].key == "x_half"
    assert x.ratios[0.9] is None
    assert x.ratios[0.85] is None  # x_half takes 1.6 epochs, fewer than any run of it
    wide = compare(*rows[:3], targets=(0.85,), roles={"tuned": "base"})
    assert wide.best[1].ratios[0.85] == pytest.approx((1.6, 1.6, 1.6))


def test_without_an_error_half_an_example_counts():
    table = compare(row("base", [(2, [0.02] * 3), (8, [0.0] * 3)]), targets=(0.999,))
    # from 0.02 to 0.5 of 1,000
    exponent = math.log(0.02 / 0.0005) / math.log(4)
    assert table.rows[0].curve.exponent == pytest.approx(exponent)
