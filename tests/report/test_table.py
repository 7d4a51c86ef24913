"""Numbers of a report: costs of targets, savings, paired differences, the paper."""

import itertools
import statistics

import pytest
from fakes.runs import events_of, fake_run, fake_suite, small_suite, variant

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.paired import holm, least_p, paired_differences, pairs_needed
from dpet_jax.report.paper import PAPER_TARGETS, PAPER_WH, paper_ratio
from dpet_jax.report.runs import read_run
from dpet_jax.report.table import cell_of, cost_table


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return small_suite(tmp_path_factory.mktemp("suite"), wh_per_epoch=0.3)


def line_of(table, key):
    return next(line for line in table.rows if line.row.key == key)


# costs


@pytest.mark.parametrize("by", ["epochs", "visits", "seconds", "wh"])
def test_table_is_what_the_lines_of_two_runs_say(suite, by):
    line = line_of(cost_table(read_comparison([suite], by), by), "margin")
    for target in (0.6, 0.8):
        costs, accuracies = [], []
        for seed in (0, 1):
            event = next(
                e
                for e in events_of(suite / "margin" / f"seed{seed}")
                if e["event"] == "target" and e["target"] == target
            )
            spent = event[by]
            if by in ("seconds", "wh"):
                spent = spent["select"] + spent["train"]
            costs.append(spent)
            accuracies.append(event["test_accuracy"])
        cell = line.cells[target]
        assert cell.costs == pytest.approx(costs)
        assert cell.median == pytest.approx(sum(costs) / 2)
        assert cell.spread == pytest.approx((min(costs), max(costs)))
        assert cell.test_accuracy == pytest.approx(sum(accuracies) / 2)
        assert cell.reached == 2


SOON, LATE, NEVER = [(1.0, 0.7)], [(1.0, 0.5), (3.0, 0.7)], [(9.0, 0.5)]


def cell(tmp_path, *courses, by="epochs", wh=(None, None, None)):
    """Return the cell of a method whose seeds have these evaluations."""
    runs = [
        read_run(fake_run(tmp_path / str(seed), course, seed=seed, wh_per_epoch=of))
        for seed, (course, of) in enumerate(zip(courses, wh, strict=False))
    ]
    return cell_of(runs, 0.6, by)


def test_seed_that_never_reached_the_target_is_above_all_others(tmp_path):
    found = cell(tmp_path, SOON, LATE, NEVER)
    assert (found.median, found.reached, found.costs) == (3.0, 2, (1.0, 3.0, None))


def test_median_is_none_where_the_median_seed_never_reached_the_target(tmp_path):
    found = cell(tmp_path, SOON, NEVER)
    assert (found.median, found.reached, found.spread) == (None, 1, (1.0, 1.0))
    assert found.test_accuracy == pytest.approx(0.69)


def test_reaching_a_target_without_a_measurement_is_not_failing_to(tmp_path):
    found = cell(tmp_path, SOON, SOON, by="wh")
    assert (found.reached, found.median, found.spread) == (2, None, None)


def test_median_of_seeds_of_which_one_was_not_measured_is_none(tmp_path):
    found = cell(tmp_path, SOON, LATE, LATE, by="wh", wh=(None, 1.0, 1.0))
    assert (found.reached, found.median) == (3, None)
    assert found.spread == pytest.approx((3.0, 3.0))


def best(tmp_path, courses):
    """Return the keys of the cells marked best, of methods with these seeds."""
    for key, runs in courses.items():
        for seed, accuracies in enumerate(runs):
            fake_run(tmp_path / key / f"seed{seed}", accuracies, seed=seed)
    table = cost_table(read_comparison([tmp_path]), "epochs")
    return [line.row.key for line in table.rows if line.cells[0.6].best]


BETWEEN = [(2.0, 0.7)]


@pytest.mark.parametrize(
    ("courses", "marked"),
    [
        ({"a": [SOON, SOON], "b": [LATE, LATE]}, ["a"]),
        # the only method that reaches the target, but not without a rival
        ({"a": [SOON, LATE], "b": [NEVER, NEVER]}, ["a"]),
        ({"a": [SOON, LATE]}, []),
        # seeds that overlap or are equal
        ({"a": [SOON, LATE], "b": [BETWEEN, BETWEEN]}, []),
        ({"a": [SOON, SOON], "b": [SOON, SOON]}, []),
        # a single seed, or one that failed
        ({"a": [SOON], "b": [LATE]}, []),
        ({"a": [SOON, SOON, NEVER], "b": [LATE] * 3}, []),
    ],
)
def test_best_is_below_every_seed_of_all_others(tmp_path, courses, marked):
    assert best(tmp_path, courses) == marked


def test_savings_are_the_cost_of_the_standard_over_that_of_the_method(suite):
    table = cost_table(read_comparison([suite]), "epochs")
    standard, tuned, margin = (
        line_of(table, key).cells[0.8].median for key in ("standard", "tuned", "margin")
    )
    line = line_of(table, "margin")
    assert line.savings["standard"][0.8] == pytest.approx(standard / margin)
    assert line.savings["tuned"][0.8] == pytest.approx(tuned / margin)
    assert line.savings["standard"][0.8] > line.savings["tuned"][0.8] > 1


def test_saving_is_none_where_either_is_missing(tmp_path):
    fake_run(tmp_path / "s", SOON)
    fake_run(tmp_path / "m", NEVER)
    variants = [variant(k, {"0.6": [k]}) for k in ("s", "m")]
    found = fake_suite(tmp_path, variants, {"standard": "s"})
    line = line_of(cost_table(read_comparison([found]), "epochs"), "m")
    assert line.savings == {"standard": {0.6: None, 0.8: None}}


def test_final_results_are_medians_over_seeds(suite):
    table = cost_table(read_comparison([suite]), "epochs")
    line = line_of(table, "margin")
    assert line.test_accuracy == pytest.approx((0.911, 0.91, 0.912))
    assert line.total.median == pytest.approx(2.1)
    assert line.coreset_size == 12
    assert line.pruning_ratio == pytest.approx(0.988)
    assert line.selection_share == pytest.approx(
        statistics.mean([0.25 / 2, 0.25 / 2.2]), abs=1e-3
    )
    assert line_of(table, "standard").coreset_size is None


def test_ratio_of_the_paper_is_to_standard_at_the_same_target():
    assert paper_ratio("dpet_margin", 0.9) == pytest.approx(196 / 1018)
    assert paper_ratio("standard", 0.6) == 1.0
    for row, target in ((None, 0.9), ("rs2_5", 0.9), ("rs2_5", 0.92), ("nobody", 0.9)):
        assert paper_ratio(row, target) is None
    assert {len(row) for row in PAPER_WH.values()} == {len(PAPER_TARGETS)}


# paired differences


def pick(found, key, role, target):
    return next(
        one
        for one in found
        if (one.row.key, one.role, one.target) == (key, role, target)
    )


def many_seeds(tmp_path, gains, seeds=6):
    """Write a baseline and methods that gain so much on it with each seed."""
    names = {}
    for key, gain in {"base": lambda _: 0.0, **gains}.items():
        for seed in range(seeds):
            accuracy = 0.8 + 0.001 * seed + gain(seed)
            fake_run(tmp_path / key / str(seed), seed=seed, test_accuracy=accuracy)
        names[key] = [f"{key}/{seed}" for seed in range(seeds)]
    variants = [variant(key, {"0.6": held}) for key, held in names.items()]
    return read_comparison([fake_suite(tmp_path, variants, {"random": "base"})])


def test_differences_are_seed_by_seed_method_minus_baseline(suite):
    found = paired_differences(read_comparison([suite]), "epochs")
    accuracy = pick(found, "margin", "tuned", None)
    assert accuracy.differences == pytest.approx((0.01, 0.01))
    cost = pick(found, "margin", "random", 0.8)
    assert cost.differences == pytest.approx([1.5 - 2.25, 1.65 - 2.475])
    assert cost.of.low <= cost.of.median <= cost.of.high < 0
    assert not any(one.row.key == one.role for one in found)


def test_only_seeds_that_both_have_and_that_reached_the_target_are_paired(tmp_path):
    folder = small_suite(tmp_path)
    (tmp_path / "tuned/seed0/summary.json").unlink()
    fake_run(tmp_path / "margin/seed1", [(9.0, 0.7)], seed=1)
    found = paired_differences(read_comparison([folder]), "epochs")
    assert len(pick(found, "margin", "tuned", None).differences) == 1
    none = {"baseline": 0, "method": 0, "neither": 0}
    missed, both = (pick(found, "margin", "random", target) for target in (0.8, 0.6))
    assert (len(missed.differences), missed.censored) == (1, none | {"baseline": 1})
    assert (len(both.differences), both.censored) == (2, none)
    # the random control against the tuned baseline, whose first seed is gone
    fake_run(tmp_path / "tuned/seed1", [(9.0, 0.7)], seed=1)
    found = paired_differences(read_comparison([folder]), "epochs")
    assert pick(found, "margin", "tuned", 0.8).censored == none | {"neither": 1}
    assert pick(found, "random", "tuned", 0.8).censored == none | {"method": 1}


def test_five_pairs_are_not_testable_and_six_are(tmp_path):
    gains = {"m": lambda seed: 0.01 * (seed + 1)}
    for seeds, testable in ((5, False), (6, True)):
        comparison = many_seeds(tmp_path / str(seeds), gains, seeds)
        one = pick(paired_differences(comparison, "epochs"), "m", "random", None)
        assert (one.p is not None) is testable
    # all six of one sign: 2 of the 64 patterns are as extreme
    assert one.p == pytest.approx(2 / 64)


def test_correction_counts_every_method_of_a_column(tmp_path):
    gains = {
        "up": lambda seed: 0.01 * (seed + 1),
        "down": lambda seed: -0.01 * (seed + 1),
        "same": lambda _: 0.0,
    }
    found = paired_differences(many_seeds(tmp_path, gains), "epochs")
    p = {key: pick(found, key, "random", None).p for key in gains}
    assert p == pytest.approx({"up": 3 / 32, "down": 3 / 32, "same": 1.0})


@pytest.mark.parametrize("pairs", [1, 5, 6, 9])
def test_smallest_p_is_that_of_all_signs_alike(pairs):
    signs = itertools.product((-1, 1), repeat=pairs)
    sums = [sum(sign * (k + 1) for k, sign in enumerate(one)) for one in signs]
    extreme = sum(abs(one) >= pairs * (pairs + 1) / 2 for one in sums)
    assert least_p(pairs) == min(1.0, extreme / 2**pairs)
    assert least_p(pairs, 3) == min(1.0, 3 * extreme / 2**pairs)


@pytest.mark.parametrize(("tests", "pairs"), [(1, 6), (2, 7), (3, 7), (4, 8), (13, 10)])
def test_so_many_methods_need_so_many_pairs(tests, pairs):
    assert pairs_needed(tests) == pairs
    assert tests * 2 / 2**pairs < 0.05 <= tests * 2 / 2 ** (pairs - 1)


def test_a_column_of_many_methods_says_that_six_pairs_can_show_nothing(tmp_path):
    gains = {"up": lambda seed: 0.01 * seed, "down": lambda seed: -0.01 * (seed + 1)}
    found = paired_differences(many_seeds(tmp_path, gains), "epochs")
    # one of the six differences is none
    least = {key: pick(found, key, "random", None).least_p for key in gains}
    assert least == {"up": 2 * 2 / 2**5, "down": 2 * 2 / 2**6}


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
