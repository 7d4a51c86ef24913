"""The tables and files about runs that are read at their end."""

import csv
import io

import pytest
from fakes.runs import end_suite, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.end_sheets import end_sheets, end_tuning_sheet
from dpet_jax.report.equal_accuracy import end_table
from dpet_jax.report.formats import to_csv, to_text
from dpet_jax.report.page import answer, write_report
from dpet_jax.report.plots.end import error_over_cost, gains_by_horizon
from dpet_jax.report.printed import NONE

CHEAPER = ("20 % cheaper", "\N{MINUS SIGN}20 to \N{MINUS SIGN}20 %")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return end_suite(tmp_path_factory.mktemp("end"))


@pytest.fixture(scope="module")
def comparison(folder):
    return read_comparison([folder])


@pytest.fixture(scope="module")
def sheets(comparison):
    return {s.name: s for s in end_sheets(end_table(comparison, "epochs"), comparison)}


def cells(sheet):
    return {row[0].main: row[1:] for row in sheet.rows}


def test_the_first_table_is_the_ratio_with_its_range(sheets):
    equal = sheets["equal"]
    assert [*sheets] == ["equal", "equal_validation", "best", "gains"]
    assert equal.header == ("method", "85 %", "88 %")
    saving = cells(equal)["saving"][1]
    assert (saving.main, saving.beside) == CHEAPER
    assert saving.strong
    assert saving.small == (
        "5.00 epochs",
        "random: 36 % cheaper (\N{MINUS SIGN}36 to \N{MINUS SIGN}36 %)",
    )
    standard, chance = cells(equal)["standard"][0], cells(equal)["chance"][0]
    assert standard[:2] == ("baseline", ("4.00 epochs",))
    assert not standard.strong
    assert (chance.main, chance.beside) == ("25 % dearer", "+25 to +25 %")
    assert not chance.strong
    assert cells(equal)["saving_half"][0].main == NONE
    notes = " ".join(equal.notes)
    assert "3 seeds" in notes
    assert "full pass of the baseline's network" in notes


def test_an_arm_is_judged_at_its_best_network(sheets):
    best = cells(sheets["best"])["saving"][0]
    assert best.main == "50 % cheaper"
    assert best.beside == "\N{MINUS SIGN}50 to \N{MINUS SIGN}50 %"
    assert best.small == ("2.00 epochs", "saving_half")


def test_gains_have_a_line_for_each_length(sheets):
    gains = sheets["gains"]
    assert [row[0].main for row in gains.rows].count("saving") == 3
    line = next(r for r in gains.rows if r[0].main == "saving" and r[1].main == "4.00")
    # errors of 0.3 over the roots of 5 and, of the baseline, of 4
    assert line[3].main == "86.6 % ± 0.0"
    assert line[4].main == "85.6 %"
    assert line[5].main == "+1.6 ± 0.0"
    assert (line[6].main, line[6].beside) == CHEAPER
    first = gains.rows[0]
    assert first[0].main == "standard"
    assert first[5].main == NONE


def test_how_often_runs_were_looked_at_matters_to_none_that_is_read_at_its_end(
    tmp_path,
):
    folder = end_suite(tmp_path)
    for config in folder.glob("saving/*/*/config.yaml"):
        config.write_text(config.read_text().replace("every: 1.0", "every: 0.5"))
    assert "every: 0.5" in config.read_text()
    comparison = read_comparison([folder])
    assert comparison.problems == ()
    assert len(comparison.runs) == 36


def test_too_few_seeds_are_said(tmp_path):
    comparison = read_comparison([end_suite(tmp_path, seeds=(0, 1))])
    sheet, *_ = end_sheets(end_table(comparison, "epochs"), comparison)
    assert "No range: 2 seeds are common to all runs, and it takes 3." in sheet.notes
    assert cells(sheet)["saving"][0].main == "20 % cheaper"


def test_tuning_says_what_was_chosen_once(comparison):
    sheet = end_tuning_sheet(comparison, "epochs")
    ((label, tried, seeds, cost, chosen),) = sheet.rows
    assert [e.main for e in (label, tried, seeds, cost, chosen)] == [
        *("standard", "4", "100", "32.0", "learning rate 0.2")
    ]


def test_the_table_of_numbers_has_a_line_a_run(comparison, folder):
    rows = [*csv.DictReader(io.StringIO(to_csv(comparison, folder)))]
    assert len(rows) == 3 * (4 + 3 + 2 + 3)
    line = next(r for r in rows if r["key"] == "saving" and r["horizon"] == "8.0")
    assert (line["target"], line["reached"]) == ("", "")
    assert float(line["epochs"]) == 8.0
    assert float(line["test_accuracy"]) == pytest.approx(1 - 0.3 / 10**0.5)


def test_the_report_leads_with_it_and_draws_the_curves(comparison, tmp_path):
    page, *files = write_report(comparison, "epochs", tmp_path)
    text = page.read_text()
    assert text.index("against standard") < text.index("of each length")
    assert all(part in text for part in CHEAPER)
    assert {"error.svg", "gains.svg"} <= {file.name for file in files}
    assert "accuracy.svg" not in {file.name for file in files}
    assert r"($-$20 to $-$20 \%; 5.00 epochs" in (tmp_path / "table.tex").read_text()


def test_the_answer_for_a_terminal_is_that_table(comparison, tmp_path):
    lines = answer(comparison, "epochs").splitlines()
    assert lines[0] == "Cost at equal accuracy, against standard"
    assert lines[1].split() == ["method", "85", "%", "88", "%"]
    saving = next(line for line in lines if line.split()[0] == "saving")
    assert saving.count("{} ({})".format(*CHEAPER)) == 2
    crossing = answer(read_comparison([small_suite(tmp_path)]), "epochs")
    assert crossing.startswith("Cost to reach an accuracy")
    # four methods below their header, then the verdict
    assert len({len(line) for line in crossing.splitlines()[1:6]}) == 1
    assert crossing.splitlines()[6].startswith("To 80 %: margin was")


def test_both_ways_of_reading_stand_in_one_report(folder, tmp_path):
    small_suite(tmp_path / "small")
    both = read_comparison([folder, tmp_path / "small"])
    page, *files = write_report(both, "epochs", tmp_path / "out")
    assert {"error.svg", "accuracy.svg"} <= {file.name for file in files}
    text = page.read_text()
    assert text.index('id="equal"') < text.index('id="cost"')


def test_the_plots_show_every_mean(comparison):
    table = end_table(comparison, "epochs")
    errors = error_over_cost(table).axes[0]
    assert errors.get_xscale() == errors.get_yscale() == "log"
    assert len(errors.containers) == 4
    # the half has no baseline of its own network, and the baseline none but itself
    assert len(gains_by_horizon(table).axes[0].containers) == 2
    assert error_over_cost(None) is None
    assert gains_by_horizon(None) is None


def test_text_has_columns(sheets):
    lines = to_text(sheets["gains"], 200).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1
