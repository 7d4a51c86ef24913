import statistics

import pytest
from fakes.runs import events_of, fake_run, fake_suite, small_suite, variant

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.runs import read_run
from dpet_jax.report.table import cell_of, cost_table


def line_of(table, key):
    return next(line for line in table.rows if line.row.key == key)


def one_row(tmp_path, *runs, **facts):
    """Return the line of a method whose seeds have these evaluations."""
    for seed, accuracies in enumerate(runs):
        fake_run(tmp_path / "m" / f"seed{seed}", accuracies, seed=seed, **facts)
    comparison = read_comparison([tmp_path])
    return cost_table(comparison, "epochs").rows[0]


@pytest.mark.parametrize("by", ["epochs", "visits", "seconds", "wh"])
def test_table_is_what_the_lines_of_two_runs_say(tmp_path, by):
    suite = small_suite(tmp_path, wh_per_epoch=0.3)
    line = line_of(cost_table(read_comparison([suite], by), by), "margin")
    for target in (0.6, 0.8):
        costs, accuracies = [], []
        for seed in (0, 1):
            event = next(
                e
                for e in events_of(tmp_path / "margin" / f"seed{seed}")
                if e["event"] == "target" and e["target"] == target
            )
            spent = event[by]
            if by in ("seconds", "wh"):
                spent = spent["data"] + spent["select"] + spent["train"]
            costs.append(spent)
            accuracies.append(event["test_accuracy"])
        cell = line.cells[target]
        assert cell.costs == pytest.approx(costs)
        assert cell.median == pytest.approx(sum(costs) / 2)
        assert cell.spread == pytest.approx((min(costs), max(costs)))
        assert cell.test_accuracy == pytest.approx(sum(accuracies) / 2)
        assert cell.reached == 2


SOON, LATE, NEVER = [(1.0, 0.7)], [(1.0, 0.5), (3.0, 0.7)], [(9.0, 0.5)]


def test_seed_that_never_got_there_is_above_all_others(tmp_path):
    cell = one_row(tmp_path, SOON, LATE, NEVER).cells[0.6]
    assert (cell.median, cell.reached, cell.costs) == (3.0, 2, (1.0, 3.0, None))


def test_median_is_none_where_the_median_seed_never_got_there(tmp_path):
    cell = one_row(tmp_path, SOON, NEVER).cells[0.6]
    assert cell.median is None
    assert cell.reached == 1
    assert cell.spread == (1.0, 1.0)
    assert cell.test_accuracy == pytest.approx(0.69)


def test_getting_there_without_a_measurement_is_not_failing_to(tmp_path):
    for seed in (0, 1):
        fake_run(tmp_path / "m" / f"seed{seed}", SOON, seed=seed)
    cell = cost_table(read_comparison([tmp_path]), "wh").rows[0].cells[0.6]
    assert (cell.reached, cell.median, cell.spread) == (2, None, None)


def test_median_of_seeds_of_which_one_was_not_measured_is_none(tmp_path):
    made = [fake_run(tmp_path / "0", SOON)]
    made += [fake_run(tmp_path / n, LATE, wh_per_epoch=1.0) for n in ("1", "2")]
    cell = cell_of([read_run(folder) for folder in made], 0.6, "wh")
    assert (cell.reached, cell.median) == (3, None)
    assert cell.spread == pytest.approx((3.05, 3.05))


def best(tmp_path, courses):
    """Return the keys of the cells marked best, of methods with these seeds."""
    for key, runs in courses.items():
        for seed, accuracies in enumerate(runs):
            fake_run(tmp_path / key / f"seed{seed}", accuracies, seed=seed)
    table = cost_table(read_comparison([tmp_path]), "epochs")
    return [line.row.key for line in table.rows if line.cells[0.6].best]


def test_best_is_below_every_seed_of_all_others(tmp_path):
    assert best(tmp_path, {"a": [SOON, SOON], "b": [LATE, LATE]}) == ["a"]


def test_overlapping_seeds_have_no_best(tmp_path):
    between = [(2.0, 0.7)]
    assert best(tmp_path, {"a": [SOON, LATE], "b": [between, between]}) == []
    assert best(tmp_path / "equal", {"a": [SOON, SOON], "b": [SOON, SOON]}) == []


def test_single_seed_or_a_seed_that_failed_is_never_best(tmp_path):
    assert best(tmp_path / "single", {"a": [SOON], "b": [LATE]}) == []
    assert best(tmp_path / "fails", {"a": [SOON, SOON, NEVER], "b": [LATE] * 3}) == []


def test_only_method_that_gets_there_is_best_but_not_without_a_rival(tmp_path):
    assert best(tmp_path / "two", {"a": [SOON, LATE], "b": [NEVER, NEVER]}) == ["a"]
    assert best(tmp_path / "one", {"a": [SOON, LATE]}) == []


def test_savings_are_the_standards_cost_over_the_methods(tmp_path):
    table = cost_table(read_comparison([small_suite(tmp_path)]), "epochs")
    standard, tuned, margin = (
        line_of(table, key).cells[0.8].median for key in ("standard", "tuned", "margin")
    )
    line = line_of(table, "margin")
    assert line.savings["standard"][0.8] == pytest.approx(standard / margin)
    assert line.savings["tuned"][0.8] == pytest.approx(tuned / margin)
    assert line.savings["standard"][0.8] > line.savings["tuned"][0.8] > 1
    assert line.ratios[0.8] == pytest.approx(margin / standard)
    assert line.paper[0.8] == pytest.approx(63 / 157)


def test_saving_is_none_where_either_is_missing(tmp_path):
    fake_run(tmp_path / "s", SOON)
    fake_run(tmp_path / "m", NEVER)
    variants = [variant(k, {"0.6": [k]}) for k in ("s", "m")]
    suite = fake_suite(tmp_path, variants, {"standard": "s"})
    line = line_of(cost_table(read_comparison([suite]), "epochs"), "m")
    assert line.savings == {"standard": {0.6: None, 0.8: None}}


def test_ends_are_medians_over_seeds(tmp_path):
    table = cost_table(read_comparison([small_suite(tmp_path)]), "epochs")
    line = line_of(table, "margin")
    assert line.test_accuracy.median == pytest.approx(0.911)
    assert (line.test_accuracy.low, line.test_accuracy.high) == pytest.approx(
        (0.91, 0.912)
    )
    assert line.total.median == pytest.approx(2.1)
    assert line.coreset_size == 12
    assert line.pruning_ratio == pytest.approx(0.988)
    assert line.selection_share == pytest.approx(
        statistics.mean([0.25 / 2, 0.25 / 2.2]), abs=1e-3
    )
    assert line_of(table, "standard").coreset_size is None
