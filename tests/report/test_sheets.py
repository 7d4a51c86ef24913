"""The same numbers as text: tables, setting, departures, Markdown, LaTeX, CSV."""

import csv
import io
import json
from dataclasses import replace

import pytest
from fakes.runs import events_of, fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.facts import deviations, setting
from dpet_jax.report.formats import (
    escape_latex,
    escape_markdown,
    to_csv,
    to_latex,
    to_markdown,
)
from dpet_jax.report.paired import paired_differences
from dpet_jax.report.printed import (
    NONE,
    brief,
    dearer,
    dearer_than,
    percent,
    points,
    signed,
    significant,
    span,
    target_name,
)
from dpet_jax.report.sheets import (
    Entry,
    Sheet,
    accuracy_sheet,
    cost_entry,
    cost_sheet,
    paired_sheets,
    paper_sheet,
    relative,
    results_sheet,
    savings_sheet,
    sources_sheet,
    start_sheet,
    tuning_sheet,
)
from dpet_jax.report.table import Cell, cost_table


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    return read_comparison([small_suite(folder, wh_per_epoch=0.3)], "epochs")


@pytest.fixture(scope="module")
def table(comparison):
    return cost_table(comparison, "epochs")


def loose(tmp_path, **facts):
    fake_run(tmp_path / "m" / "seed0", **facts)
    return read_comparison([tmp_path])


def row_of(sheet, label):
    return next(row for row in sheet.rows if row[0].main == label)


# numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (0.0, "0"),
        (12.345, "12.3"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (1234567.0, "1,230,000"),
        (0.012345, "0.0123"),
        (0.00001234, "1.23e-05"),
        (-3.14159, "-3.14"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert significant(value) == text


def test_signs_are_always_there_and_are_no_hyphens():
    assert signed(2.0) == "+2.00"
    assert signed(-2.0) == "\N{MINUS SIGN}2.00"
    assert signed(0.0) == "0"
    assert points(0.0123) == "+1.2"
    assert points(-0.0123) == "\N{MINUS SIGN}1.2"
    assert points(-0.0001) == "0.0"
    assert signed(None) == points(None) == NONE


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        ((None,), NONE),
        ((1.114,), "11 % dearer"),
        ((0.897,), "10 % cheaper"),
        ((1.004,), "as dear"),
        ((0.996,), "as dear"),
        ((1.98,), "98 % dearer"),
        ((2.36,), "2.36 times as dear"),
        ((0.004,), "99.60 % cheaper"),
        ((0.76, 0.70, 0.83), "24 % cheaper (\N{MINUS SIGN}30 to \N{MINUS SIGN}17 %)"),
        ((1.17, 0.97, 2.34), "17 % dearer (\N{MINUS SIGN}3 to +134 %)"),
        ((2.4, 1.8, 3.0), "2.40 times as dear (1.80 to 3.00 times)"),
        ((1.23, 0.88, 37126.1), "23 % dearer (\N{MINUS SIGN}12 % to 37,100 times)"),
        ((0.9, None, 1.0), "10 % cheaper"),
    ],
)
def test_ratios_of_costs_are_told_as_what_is_dearer(ratio, text):
    assert dearer(*ratio) == text


def test_what_is_dearer_is_dearer_than_something():
    assert dearer_than(0.5, "it") == "50 % cheaper than it"
    assert dearer_than(1.0, "it") == "as dear as it"
    assert dearer_than(3.0, "it") == "3.00 times as dear as it"


def test_seconds_that_nobody_notices_have_no_digits():
    assert brief(0.00858) == "< 0.1"
    assert [brief(s) for s in (0.0, 0.1, 12.34, None)] == ["0", "0.100", "12.3", NONE]


def test_fractions_and_ranges_are_printed_with_their_units():
    assert percent(0.96666) == "96.7 %"
    assert target_name(0.9) == "90 %"
    assert target_name(0.925) == "92.5 %"
    assert span(1.0, 2.0) == "1.00 to 2.00"
    assert span(0.5, 0.6, percent) == "50.0 to 60.0 %"
    assert span(2.0, 2.0) == "no spread"
    assert percent(None) == span(None, 2.0) == NONE


# tables


def test_cell_of_which_nothing_is_special_is_one_line():
    cell = Cell((1.0, 3.0), 2, 2.0, 0.689)
    assert cost_entry(cell) == ("2.00", (), False, "1.00 to 3.00")
    assert cost_entry(cell._replace(best=True)).strong
    assert cost_entry(Cell((2.0, 2.0), 2, 2.0, 0.7)) == ("2.00", (), False, "")


def test_cell_says_how_many_seeds_reached_the_target_where_some_did_not():
    entry = cost_entry(Cell((1.0, 3.0, None), 2, 3.0, 0.689))
    assert entry == ("3.00", ("2 of 3 seeds",), False, "1.00 to 3.00")


@pytest.mark.parametrize(
    ("cell", "small"),
    [
        (Cell((None, None), 0, None, None), ("0 of 2 seeds",)),
        (Cell((None,), 0, None, None), ("not reached",)),
        (Cell((1.0, None), 1, None, 0.7), ("1 of 2 seeds",)),
        (Cell((None, None), 2, None, 0.7), ("not measured",)),
    ],
)
def test_cell_without_a_median_is_a_dash_with_the_reason(cell, small):
    assert cost_entry(cell) == (NONE, small, False, "")


def test_cell_without_a_run_says_so():
    assert cost_entry(Cell((), 0, None, None)) == ("", ("no run",), False, "")


def test_table_has_a_column_for_each_target_and_a_line_for_each_method(table):
    sheet = cost_sheet(table)
    assert sheet.header == ("method", "60 %", "80 %")
    assert [row[0].main for row in sheet.rows] == [
        *("standard", "tuned", "random", "margin")
    ]
    assert [entry.strong for entry in row_of(sheet, "margin")[1:]] == [True, True]
    assert "epochs" in sheet.title
    assert sheet.notes[0] == "Median and range over seeds."
    # every seed reached every target
    assert not any("never reached" in note for note in sheet.notes)
    cells = {**table.rows[0].cells, 0.8: Cell((1.0, None), 1, None, 0.7)}
    missed = table.rows[0]._replace(cells=cells)
    sheet = cost_sheet(table._replace(rows=(missed, *table.rows[1:])))
    assert "never reached the target" in sheet.notes[0]


def test_test_accuracies_have_a_table_of_their_own(table, tmp_path):
    sheet = accuracy_sheet(table)
    assert sheet.header == ("method", "60 %", "80 %")
    # validation says 0.92 times 0.5 and 0.75 to the power of 0.3
    assert [entry.main for entry in row_of(sheet, "margin")[1:]] == ["59.7 %", "83.4 %"]
    never = loose(tmp_path, accuracies=[(1.0, 0.5)])
    assert accuracy_sheet(cost_table(never, "epochs")) is None


def test_methods_without_a_run_are_named_below_and_have_no_row(table):
    gone = table.rows[0].row
    gone = replace(gone, by_target={}, runs=())
    held = table._replace(rows=(table.rows[0]._replace(row=gone), *table.rows[1:]))
    for sheet in (cost_sheet(held), results_sheet(held)):
        assert [row[0].main for row in sheet.rows] == ["tuned", "random", "margin"]
        assert sheet.notes[-1] == "No run yet: standard."


def test_savings_name_both_standards(table, comparison):
    sheet = savings_sheet(table, comparison)
    entry = row_of(sheet, "margin")[2]
    # 6.3 and 3.15 over 1.575 epochs
    assert entry == ("75 % cheaper", ("tuned: 50 % cheaper",), False, "")
    assert row_of(sheet, "standard")[2].main == "baseline"
    assert row_of(sheet, "tuned")[2].small == ("tuned: baseline",)
    assert "standard" in sheet.notes[0]


def test_ratios_of_the_paper_are_beside_ours_where_targets_coincide(table):
    sheet = paper_sheet(table)
    assert [row[0].main for row in sheet.rows] == ["standard", "margin"]
    entry = row_of(sheet, "margin")[2]
    assert (entry.main, entry.small) == ("75 % cheaper", ("paper: 60 % cheaper",))
    assert row_of(sheet, "standard")[2] == ("baseline", (), False, "")


def test_what_the_runs_do_not_have_is_no_table(tmp_path):
    without = loose(tmp_path / "loose")
    assert savings_sheet(cost_table(without, "epochs"), without) is None
    assert tuning_sheet(without, "epochs") is None
    never = read_comparison([small_suite(tmp_path / "never", targets=(0.95,))])
    assert savings_sheet(cost_table(never, "epochs"), never) is None
    suite = small_suite(tmp_path / "suite", targets=(0.61,))
    assert paper_sheet(cost_table(read_comparison([suite]), "epochs")) is None


def test_final_results_show_coreset_pruning_selection_and_compilation(table):
    sheet = results_sheet(table)
    shown = dict(zip(sheet.header, row_of(sheet, "margin"), strict=True))
    assert shown["coreset"].main == "12"
    assert shown["pruned"].main == "98.8 %"
    assert shown["selection, of FLOPs"].main == "11.9 %"
    assert shown["compilation, s"].main == "4.00"
    assert shown["test accuracy"].beside == "91.0 to 91.2 %"
    assert row_of(sheet, "standard")[4].main == NONE


def test_final_results_have_no_column_in_which_there_is_nothing(table, tmp_path):
    sheet = results_sheet(table)
    assert "stopped by" not in sheet.header
    assert "Every run went on to the end of its plan." in sheet.notes
    plain = loose(tmp_path, stopped_by="target")
    sheet = results_sheet(cost_table(plain, "epochs"))
    assert sheet.header == (
        *("method", "seeds", "test accuracy", "cost in all, epochs"),
        *("compilation, s", "stopped by"),
    )
    assert sheet.rows[0][-1].main == "target"


def test_runs_on_all_data_that_leave_a_coreset_have_pruned_nothing(table):
    left = [line._replace(pruning_ratio=None) for line in table.rows]
    sheet = results_sheet(table._replace(rows=tuple(left)))
    shown = dict(zip(sheet.header, row_of(sheet, "margin"), strict=True))
    assert (shown["coreset"].main, shown["pruned"].main) == ("12", NONE)
    assert sheet.notes[-2].startswith(f"A coreset with {NONE} pruned")


def test_tuning_shows_trials_seeds_cost_and_choices(comparison):
    sheet = tuning_sheet(comparison, "epochs")
    (row,) = sheet.rows
    assert [entry.main for entry in row] == [
        *("tuned", "6", "100, 101", "70.0", "peak 0.2, 4 epochs", NONE)
    ]
    assert sheet.header[-2:] == ("for 60 %", "for 80 %")


def test_paired_differences_show_pairs_and_that_they_cannot_be_tested(comparison):
    found = paired_differences(comparison, "epochs")
    tuned, random = paired_sheets(found, "epochs")
    assert [row[0].main for row in tuned.rows] == ["standard", "random", "margin"]
    assert "random control" in random.title
    row = tuned.rows[2]
    assert row[1].main == "+1.0"
    # as in every cell, which is said once
    assert row[1].small == ()
    assert "2 pairs where nothing else is said" in tuned.notes[0]
    assert tuned.notes[1].endswith("so that nothing is tested here.")
    assert row[3].main == "\N{MINUS SIGN}1.58"
    assert "Holm" in tuned.notes[1]
    tested = paired_sheets([one._replace(p=0.03456) for one in found], "epochs")
    assert "p = 0.0346" in tested[0].rows[0][1].small
    some = [one._replace(p=None if one.target else 0.03) for one in found]
    assert "not testable" in paired_sheets(some, "epochs")[0].rows[0][2].small
    some = [
        one._replace(differences=(0.1,) * (1 + (n == 0))) for n, one in enumerate(found)
    ]
    assert paired_sheets(some, "epochs")[0].rows[0][1].small == ("2 pairs",)
    assert "With 3 methods at least 7 pairs are needed" in tuned.notes[2]
    nothing = dict.fromkeys(found[0].censored, 0)
    nobody = [one._replace(of=None, differences=(), censored=nothing) for one in found]
    assert paired_sheets(nobody, "epochs") == []


def test_censored_seeds_and_tests_of_too_few_pairs_are_labelled(comparison):
    counts = {"baseline": 2, "method": 0, "neither": 1}
    found = [
        one._replace(censored=counts, p=0.25, least_p=0.0625)
        for one in paired_differences(comparison, "epochs")
    ]
    small = paired_sheets(found, "epochs")[0].rows[0][2].small
    assert small[-3:] == (
        "censored; reached by baseline alone 2, neither 1",
        "p = 0.250",
        "too few pairs: p cannot be below 0.0625",
    )
    nobody = [one._replace(of=None, differences=()) for one in found]
    small = paired_sheets(nobody, "epochs")[0].rows[0][2].small
    assert small == ("no pair", "censored; reached by baseline alone 2, neither 1")


def test_pretraining_is_in_the_cost_of_runs_that_started_from_a_pool(tmp_path):
    assert start_sheet(loose(tmp_path)) is None
    path = tmp_path / "m" / "seed0" / "summary.json"
    summary = json.loads(path.read_text())
    shares = {"without": 2e12, "1": 5.2e13, "10": 7e12, "100": 2.5e12}
    pool = {
        "chosen": "digits",
        "start": "finetune",
        "ranked": [{"name": "digits", "score": 0.6, "gain": 0.25}],
        "cost": {"seconds": 1.5, "flops": 10},
        "with_pretraining": {"wh": None, "flops": shares},
    }
    path.write_text(json.dumps(summary | {"pool": pool}))
    sheet = start_sheet(read_comparison([tmp_path]))
    assert sheet.header[-4:] == (
        *("TFLOPs of the run", "TFLOPs, 1 use", "TFLOPs, 10 uses", "TFLOPs, 100 uses"),
    )
    row = [(entry.main, entry.small) for entry in sheet.rows[0][2:]]
    assert row[:3] == [
        ("digits", ("finetune",)),
        ("0.600", ("+0.250",)),
        ("1.50", ()),
    ]
    assert [main for main, _ in row[3:]] == ["2.00", "52.0", "7.00", "2.50"]
    assert "Where runs started" in to_markdown(sheet)
    pool["with_pretraining"]["wh"] = {"without": 3, "1": 4, "10": 3.1, "100": 3.01}
    path.write_text(json.dumps(summary | {"pool": pool}))
    assert start_sheet(read_comparison([tmp_path])).header[-1] == "Wh, 100 uses"
    energy = summary["energy"] | {"quality": "modelled"}
    path.write_text(json.dumps(summary | {"pool": pool, "energy": energy}))
    assert start_sheet(read_comparison([tmp_path])).header[-1] == "TFLOPs, 100 uses"
    # nothing was taken over
    alone = {key: pool[key] for key in ("ranked", "cost", "start")}
    path.write_text(json.dumps(summary | {"pool": alone | {"chosen": "scratch"}}))
    assert [e.main for e in start_sheet(read_comparison([tmp_path])).rows[0][-3:]] == [
        NONE,
        NONE,
        NONE,
    ]


def test_every_run_is_traced_to_its_folder_from_the_report(tmp_path):
    suite = read_comparison([small_suite(tmp_path / "suite")])
    sheet = sources_sheet(suite, tmp_path / "suite" / "report")
    assert [row[4].main for row in sheet.rows] == [
        f"../{key}/seed{seed}"
        for key in ("standard", "tuned", "random", "margin")
        for seed in (0, 1)
    ]
    assert sheet.rows[0][2].main == "60 %, 80 %, the end"
    assert relative(tmp_path / "a", tmp_path) == "a"


# setting and departures


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data set", "digits (fingerprint f00df00df00d…), split seed 0"),
        ("examples", "1,000 train, 100 validation, 200 test"),
        ("evaluation grid", "every 1 full-pass equivalents on 100 validation examples"),
        ("device", "1 x cpu (cpu), 2 CPU cores"),
        ("versions", "python 3.11.7, dpet-jax 0.1.0"),
        ("energy", "measured, gpu included; without cpu: no sensor"),
        ("compilation", "32.0 s over all 8 runs"),
        ("cost", "auxiliary networks"),
        ("tuned here", "tuned"),
    ],
)
def test_setting_holds_what_the_runs_recorded(comparison, name, text):
    assert text in dict(setting(comparison, "epochs"))[name]


def test_setting_says_how_much_of_the_cost_only_filled_batches_up(tmp_path):
    for seed, filled in ((0, 3000), (1, 3096)):
        folder = fake_run(tmp_path / "m" / str(seed), seed=seed, method_label="RS2")
        *events, stop = events_of(folder)
        events.append(stop | {"executed_visits": filled})
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (folder / "events.jsonl").write_text(lines)
    text = dict(setting(read_comparison([tmp_path]), "epochs"))["fill rows"]
    assert text.startswith("at most 3.2 % of the examples that a run has seen (RS2)")
    assert "fill rows" not in dict(setting(loose(tmp_path / "none"), "epochs"))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "not measured; without cpu: no sensor"),
        ({"wh_per_epoch": 1.0, "quality": "modelled"}, "modelled, gpu included"),
    ],
)
def test_setting_shows_the_quality_of_the_energy(tmp_path, facts, text):
    assert text in dict(setting(loose(tmp_path, **facts), "wh"))["energy"]


def test_every_variety_is_shown(tmp_path):
    fake_run(tmp_path / "a" / "seed0")
    fake_run(tmp_path / "b" / "seed0", device="TPU v9")
    device = dict(setting(read_comparison([tmp_path]), "epochs"))["device"]
    assert "1 x cpu" in device
    assert "; or 1 x TPU v9" in device


def test_honest_run_departs_from_nothing(tmp_path):
    assert deviations(loose(tmp_path)) == []
    # as after a signal, which is no crash
    stopped = {"seconds": 0.001, "visits": 0, "wh": None}
    assert deviations(loose(tmp_path / "stopped", lost=stopped)) == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"targets_on": "test"}, "the test split decided about targets"),
        ({"compat": "artifact"}, "compat: artifact"),
        (
            {"wh_per_epoch": 1.0, "doubts": ["shared_device"]},
            "the energy is not valid: shared_device (1 of 1 runs)",
        ),
        ({"label_noise": 0.2}, "20 % of the training labels are noise (1 of 1 runs)"),
        (
            {"lost": {"seconds": 12, "visits": 3456, "wh": None}},
            "fake, seed 0: a crash lost 12.0 s, 3,456 examples seen",
        ),
        (
            {
                "wh_per_epoch": 1.0,
                "quality": "modelled",
                "lost": {"seconds": 12, "visits": 3456, "wh": 0.5},
            },
            "fake, seed 0: a crash lost 12.0 s, 3,456 examples seen",
        ),
    ],
)
def test_departure_is_shown(tmp_path, facts, text):
    (sentence,) = deviations(loose(tmp_path, **facts))
    assert text in sentence


# formats

SHEET = Sheet(
    "name",
    "A | title",
    ("method", "90 %"),
    (
        (Entry("<b>a_b</b>"), Entry("1.00", ("1 of 2", "x | y"), strong=True)),
        (Entry("c"), Entry("2.00")),
    ),
    ("A note: 5 % & more.",),
)


def test_markdown_table_has_as_many_columns_in_every_line():
    lines = [line for line in to_markdown(SHEET).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    bars = [line.replace(r"\|", "").count("|") for line in lines]
    assert bars == [3] * 4
    assert "**1.00** (1 of 2; x \\| y)" in lines[2]
    assert "&lt;b&gt;a\\_b&lt;/b&gt;" in lines[2]
    assert escape_markdown("a\nb  `c`") == "a b \\`c\\`"


def test_latex_table_is_one_of_booktabs_and_escapes_what_latex_would_read():
    lines = to_latex(SHEET).splitlines()
    assert lines[1] == r"\begin{tabular}{lr}"
    assert lines[3] == r"method & 90 \% \\"
    assert lines[5].startswith(r"<b>a\_b</b> & \textbf{1.00} {\scriptsize (1 of 2; x")
    assert [line for line in lines if "rule" in line] == [
        *("\\toprule", "\\midrule", "\\bottomrule")
    ]
    assert lines[0].startswith("% A note")
    text = escape_latex("50 % & a_b #1 $x$ {y} ~ ^ \\")
    assert text.startswith(r"50 \% \& a\_b \#1 \$x\$ \{y\} \textasciitilde{}")
    assert text.endswith(r"\textasciicircum{} \textbackslash{}")


def test_csv_gives_the_numbers_back_unrounded(comparison, tmp_path):
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison, tmp_path))))
    assert len(rows) == 4 * 2 * 2
    for row in rows:
        found = next(one for one in comparison.rows if one.key == row["key"])
        run = next(
            run
            for run in found.by_target[float(row["target"])]
            if run.seed == int(row["seed"])
        )
        event = next(
            event
            for event in events_of(run.folder)
            if event["event"] == "target" and event["target"] == float(row["target"])
        )
        assert float(row["epochs"]) == event["epochs"]
        assert int(float(row["visits"])) == event["visits"]
        assert float(row["test_accuracy"]) == event["test_accuracy"]
        for name in ("wh", "seconds"):
            spent = event[name]
            warm = spent["select"] + spent["train"]
            assert float(row[f"{name}_warm"]) == warm
        assert (tmp_path / row["folder"]).resolve() == run.folder.resolve()


def test_csv_leaves_empty_what_was_not_reached_or_measured(tmp_path):
    found = loose(tmp_path, accuracies=[(1.0, 0.7)])
    rows = list(csv.DictReader(io.StringIO(to_csv(found, tmp_path))))
    assert [row["reached"] for row in rows] == ["1", "0"]
    assert [row["wh_warm"] for row in rows] == ["", ""]
    assert [row["epochs"] for row in rows] == ["1.0", ""]
