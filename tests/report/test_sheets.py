import pytest
from fakes.runs import fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.printed import NONE
from dpet_jax.report.sheets import (
    cost_entry,
    cost_sheet,
    ends_sheet,
    paper_sheet,
    present,
    savings_sheet,
)
from dpet_jax.report.table import Cell, cost_table


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    comparison = read_comparison([small_suite(tmp_path_factory.mktemp("suite"))])
    return comparison, cost_table(comparison, "epochs")


def row_of(sheet, label):
    return next(row for row in sheet.rows if row[0].main == label)


def test_cell_tells_median_range_seeds_and_test_accuracy():
    entry = cost_entry(Cell((1.0, 3.0, None), 2, 3.0, 0.689))
    assert entry.main == "3.00"
    assert entry.small == ("1.00 to 3.00", "2 of 3", "test 68.9 %")
    assert not entry.strong


def test_bold_is_for_the_best_cell_only():
    cell = Cell((1.0, 2.0), 2, 1.5, 0.7)
    assert not cost_entry(cell).strong
    assert cost_entry(cell._replace(best=True)).strong


def test_cell_that_was_not_reached_is_a_dash_with_its_count():
    assert cost_entry(Cell((None, None), 0, None, None)) == (NONE, ("0 of 2",), False)
    assert cost_entry(Cell((), 0, None, None)).small == ("no run",)
    half = cost_entry(Cell((1.0, None), 1, None, 0.7))
    assert (half.main, half.small) == (NONE, ("1 of 2", "test 70.0 %"))


def test_cell_that_was_reached_unmeasured_says_so():
    assert "not measured" in cost_entry(Cell((None, None), 2, None, 0.7)).small


def test_table_has_a_column_for_each_target_and_a_line_for_each_method(suite):
    sheet = cost_sheet(suite[1])
    assert sheet.header == ("method", "60 %", "80 %")
    assert [row[0].main for row in sheet.rows] == [
        *("standard", "tuned", "random", "margin")
    ]
    assert [entry.strong for entry in row_of(sheet, "margin")[1:]] == [True, True]
    assert "epochs" in sheet.title


def test_savings_name_both_standards(suite):
    comparison, table = suite
    sheet = savings_sheet(table, comparison)
    entry = row_of(sheet, "margin")[2]
    # 6.3 and 3.15 over 1.575 epochs
    assert entry.main.startswith("4.00")
    assert entry.small[0].startswith("tuned 2.00")
    assert "standard" in sheet.notes[0]


def test_savings_without_a_standard_are_no_table(tmp_path):
    fake_run(tmp_path / "a")
    comparison = read_comparison([tmp_path])
    assert savings_sheet(cost_table(comparison, "epochs"), comparison) is None


def test_paper_stands_beside_ours_where_targets_coincide(suite):
    sheet = paper_sheet(suite[1])
    assert [row[0].main for row in sheet.rows] == ["standard", "margin"]
    entry = row_of(sheet, "margin")[2]
    assert (entry.main, entry.small) == ("0.250", ("paper 0.401",))


def test_paper_is_no_table_without_its_targets(tmp_path):
    suite = small_suite(tmp_path, targets=(0.61,))
    table = cost_table(read_comparison([suite]), "epochs")
    assert paper_sheet(table) is None
    assert present([None, cost_sheet(table)]) == [cost_sheet(table)]


def test_ends_tell_coreset_pruning_choosing_and_compiling(suite):
    sheet = ends_sheet(suite[1])
    told = dict(zip(sheet.header, row_of(sheet, "margin"), strict=True))
    assert told["coreset"].main == "12"
    assert told["pruned"].main == "98.8 %"
    assert told["choosing, of FLOPs"].main == "11.9 %"
    assert told["compiling, s"].main == "4.00"
    assert told["test accuracy"].small == ("91.0 % to 91.2 %",)
    assert told["ended by"].main == "finished"
    assert row_of(sheet, "standard")[4].main == NONE
