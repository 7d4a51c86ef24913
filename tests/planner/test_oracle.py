"""The planner against the best scale in hindsight, on a table of 130 finished runs."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dpet_jax.planner.law import SHIPPED, STEEPEST, fit_level, refit, shipped

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bench_planner as bench

OWN = bench.TABLE.with_name("planner_own.csv")
LEFT_OUT = "g, a scale left out"
ELSEWHERE = "g, other data"
RESNET18 = {
    name: bench.TABLE.with_name(f"planner_resnet18_{name}.csv")
    for name in ("cifar100", "cifar100_next", "cifar10", "fashion")
}


@pytest.fixture(scope="module")
def tables():
    return [bench.Table.read(bench.TABLE, name) for name in bench.SETS]


@pytest.fixture(scope="module")
def columns(tables):
    return bench.columns(tables)


def test_the_steepest_slope_is_that_of_the_data_it_was_fitted_to(tables):
    slopes = [fit_level(table.observations()).kappa for table in tables]
    assert min(slopes) == pytest.approx(STEEPEST, abs=1e-3)


@pytest.fixture(scope="module")
def choices(tables, columns):
    """Plan every budget with the law of the other data set."""
    laws = bench.cross_fitted(tables)
    return [
        (column, budget, column.plan(budget, laws[column.table.name]))
        for column in columns
        for budget in column.budgets
    ]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_coefficients_of_each_data_set_are_those_shipped(tables, strength):
    for table in tables:
        a, b, c, d = refit(table.observations(), strength=strength).coefficients
        assert abs(a - SHIPPED.a) <= 0.02
        assert abs(b - SHIPPED.b) <= 0.02
        assert abs(c - SHIPPED.c) <= 0.01
        assert abs(d - SHIPPED.d) <= 0.02


def test_the_shipped_law_is_the_fit_to_both(tables):
    both = [one for table in tables for one in table.observations()]
    law = refit(both, strength=0)
    assert len(both) == 53
    assert law.coefficients == pytest.approx(SHIPPED.coefficients, abs=5e-4)
    assert law.residual == pytest.approx(SHIPPED.residual, abs=1e-4)


def test_planning_loses_little_and_less_than_any_rule_without_measurements(
    columns, choices
):
    lost = [column.regret(budget, found.scale) for column, budget, found in choices]

    def mean(regret):
        return np.mean([regret(c, budget) for c in columns for budget in c.budgets])

    fixed = bench.best_fixed(columns)
    default = mean(lambda column, budget: column.regret(budget, 1.0))
    by_chance = mean(
        lambda column, budget: np.mean(
            [column.regret(budget, scale) for scale in column.seconds]
        )
    )
    assert np.mean(lost) <= 0.5
    assert np.mean(lost) < mean(lambda column, budget: column.regret(budget, fixed))
    assert np.mean(lost) <= default / 5
    assert np.mean(lost) <= by_chance / 5


def test_no_plan_loses_much_but_where_it_warns_of_few_steps(choices):
    """Of 64 plans 2 lose more, at 76 and 115 steps, where the table is extrapolated."""
    few = [
        (column, budget, found)
        for column, budget, found in choices
        if any("steps are few" in text for text in found.warnings)
    ]
    worst = max(
        column.regret(budget, found.scale)
        for column, budget, found in choices
        if (column, budget, found) not in few
    )
    assert worst <= 2.5
    assert len(few) <= 6
    for column, budget, found in few:
        measured = column.judged(budget, found.scale)
        assert column.regret(budget, found.scale) <= (2.5 if measured else 4)


def test_the_scale_never_falls_as_the_budget_grows(columns, choices):
    for column in columns:
        scales = [found.scale for c, _, found in choices if c is column]
        assert scales == sorted(scales)
    chosen = {found.scale for _, _, found in choices}
    assert chosen == {0.25, 0.5, 0.75, 1.0, 1.4}


def test_the_shipped_law_plans_well_on_data_that_it_never_saw():
    """Fifteen runs with each of two seeds, averaged; nothing was fitted to them."""
    rows = {row["planner"]: row for row in bench.evaluate_own(OWN)}
    mean = {planner: row["mean"] for planner, row in rows.items()}
    assert mean["g"] <= 0.5
    assert rows["g"]["worst"] <= 2.5
    assert rows["g"]["measured"] == 0
    assert mean["g"] < mean["fixed 0.5"]
    assert mean["g"] <= mean["default"] / 5
    assert mean["g"] <= mean["random"] / 5


def test_small_networks_learn_less_late_as_runs_of_a_hundred_classes_did():
    results = bench.TABLE.parents[2] / "benchmarks" / "results"
    names = ("bench_fit_cpu.json", "bench_fit_10min_cpu.json")
    runs = bench.fixed_runs(*(results / name for name in names))
    assert len(runs) == 17
    best = bench.late_residual(runs, bench.fitted_late(runs))
    assert bench.late_residual(runs, SHIPPED.late) <= 1.05 * best
    assert bench.late_residual(runs, 0) > 1.8 * best


def test_the_law_of_resnet18_is_that_of_resnet20_calibrated_on_its_tables():
    law = bench.calibrated([*RESNET18.values()], "resnet18")
    known = shipped("resnet18")
    assert known.families == ("resnet18",)
    assert law.origin == "refitted to 52 runs in 4 groups"
    assert "52 cells" in known.origin
    assert law.coefficients == pytest.approx(known.coefficients, abs=5e-4)
    assert law.residual == pytest.approx(known.residual, abs=5e-4)
    for name in ("visits", "parameters"):
        least, most = getattr(law, name)
        assert getattr(known, name)[0] == pytest.approx(least, rel=0.05)
        assert getattr(known, name)[1] == pytest.approx(most, rel=0.1)


@pytest.fixture(scope="module")
def of_resnet18():
    """Judge laws on every table of ResNet-18: the rows by planner, by data set."""
    judged = {}
    for name, path in RESNET18.items():
        others = [other for other in RESNET18.values() if other != path]
        rows = bench.evaluate_own(path, "resnet18", others)
        judged[name] = {row["planner"]: row for row in rows}
    return judged


@pytest.mark.parametrize("planner", ["g", LEFT_OUT, ELSEWHERE])
@pytest.mark.parametrize("name", RESNET18)
def test_laws_of_resnet18_plan_well(of_resnet18, name, planner):
    """That of all tables, those without one width, that of the other data sets.

    Where time follows the steps or FLOPs nothing is lost.
    """
    rows = of_resnet18[name]
    mean = {each: row["mean"] for each, row in rows.items()}
    assert mean[planner] <= 0.5
    assert rows[planner]["measured"] == 0
    assert mean[planner] < mean["fixed 0.125"] / 2
    assert mean[planner] <= mean["default"] / 5
    assert mean[planner] <= mean["random"] / 5


_FARTHEST = pytest.mark.xfail(
    reason="2.9 points at 159 steps, for the law without the runs of the largest width"
)


@pytest.mark.parametrize(
    ("name", "planner"),
    [
        *((name, "g") for name in RESNET18),
        *((name, LEFT_OUT) for name in RESNET18 if name != "cifar100_next"),
        pytest.param("cifar100_next", LEFT_OUT, marks=_FARTHEST),
    ],
)
def test_laws_of_resnet18_never_lose_more_than_wanted(of_resnet18, name, planner):
    assert of_resnet18[name][planner]["worst"] <= 2.5


@pytest.mark.parametrize("name", RESNET18)
def test_laws_of_other_data_lose_more_only_where_they_warn(of_resnet18, name):
    """At 141 steps one loses 2.8 points; no law is fitted to runs of under 150."""
    rows = of_resnet18[name]
    assert rows[f"{ELSEWHERE}, no warning"]["worst"] <= 2.5
    assert rows[ELSEWHERE]["worst"] <= 3


def test_a_table_of_several_data_sets_is_refused():
    with pytest.raises(ValueError, match="has 3 data sets"):
        bench.own_table(bench.TABLE)


def test_the_baselines_are_those_of_the_study(columns):
    laws = bench.cross_fitted([columns[0].table, columns[1].table])
    column = columns[0]
    lost = bench.regrets(column, laws[column.table.name], 0.5, draws=1)
    assert np.mean(lost["default"]) == pytest.approx(7.6, abs=0.5)
    assert np.mean(lost["random"]) == pytest.approx(7.7, abs=0.5)
    assert np.mean(lost["fixed 0.5"]) < 0.2
    assert np.mean(lost["ridge"]) > 5 * np.mean(lost["g"])
