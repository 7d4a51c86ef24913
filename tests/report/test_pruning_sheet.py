"""The table of pruned networks, from made-up runs."""

import json

from fakes.runs import fake_run

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.page import write_report
from dpet_jax.report.printed import NONE
from dpet_jax.report.pruning_sheet import pruning_sheet

PRUNED = {
    "outcome": "kept",
    "at_epochs": 1.25,
    "widths_before": [16, 32],
    "widths_after": [8, 16],
    "forward_flops_before": 4_000_000,
    "forward_flops_after": 2_000_000,
    "timed_step_s": [0.01, 0.006],
    "step_s": [0.012, 0.007],
    "step_wh": [None, None],
    "accuracy_before": 0.7,
    "accuracy_after": 0.71,
}
UNDECIDED = dict.fromkeys(PRUNED) | {"outcome": "not decided"}


def with_pruning(folder, found, **facts):
    path = fake_run(folder, **facts) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pruning": found}))


def test_widths_flops_and_times_stand_before_and_after(tmp_path):
    with_pruning(tmp_path / "a" / "seed0", PRUNED, method="standard")
    with_pruning(tmp_path / "b" / "seed0", UNDECIDED, method="rs2")
    comparison = read_comparison([tmp_path])
    sheet = pruning_sheet(comparison)
    rows = {row[2].main: [entry.main for entry in row[3:]] for row in sheet.rows}
    assert rows["kept"] == [
        *(
            "1.25",
            "48 to 24",
            "4,000,000 to 2,000,000",
            "12.0 to 7.00",
            NONE,
            "70.0 % to 71.0 %",
        )
    ]
    assert rows["not decided"] == [*[NONE] * 5, f"{NONE} to {NONE}"]
    (kept,) = (row for row in sheet.rows if row[2].main == "kept")
    assert kept[4].small == ("16, 32", "8, 16")
    assert kept[6].small == ("timed 10.0 to 6.00",)
    written = write_report(comparison, "epochs", tmp_path / "report")
    text = next(path for path in written if path.name == "report.md").read_text()
    assert "Networks before and after pruning" in text


def test_runs_that_nobody_pruned_have_no_such_table(tmp_path):
    fake_run(tmp_path / "a" / "seed0")
    assert pruning_sheet(read_comparison([tmp_path])) is None


def test_energy_of_a_step_is_not_told_by_a_model(tmp_path):
    found = PRUNED | {"step_wh": [0.005, 0.003]}
    for quality in ("measured", "modelled"):
        facts = {"wh_per_epoch": 1.0, "quality": quality, "method": quality}
        with_pruning(tmp_path / quality / "seed0", found, **facts)
    sheet = pruning_sheet(read_comparison([tmp_path]))
    assert {row[7].main for row in sheet.rows} == {"0.00500 to 0.00300", NONE}
