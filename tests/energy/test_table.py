"""A row of a table tells of every Wh how it was come by, and invents none."""

import csv
import math

import pytest
from fakes.energy_report import a_source, energy_report, nothing_measured

from dpet_jax.energy.accounts.ledger import PHASES
from dpet_jax.energy.report.table import boamps, csv_row, write_csv


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def energies(row):
    """The row's columns of energy, each with its quality."""
    return {
        name: (row[name], row[f"{name}_quality"])
        for name in row
        if name.endswith("_wh")
    }


# one row


@pytest.mark.parametrize("report", [{}, energy_report(), nothing_measured()])
def test_every_energy_is_followed_by_its_quality(report):
    row = csv_row(report)
    names = list(row)
    found = [i for i, name in enumerate(names) if name.endswith("_wh")]
    assert len(found) > 10
    assert not [name for name in names if "wh" in name.split("_")[:-2]]
    for i in found:
        assert names[i + 1] == f"{names[i]}_quality"
        assert row[names[i + 1]]


@pytest.mark.parametrize(
    "report", [{}, nothing_measured(), {"energy": None, "phases": None, "time": {}}]
)
def test_columns_do_not_depend_on_the_report(report):
    assert list(csv_row(report)) == list(csv_row(energy_report()))


def test_row_holds_what_the_report_says():
    row = csv_row(energy_report())
    expected = {
        "run_id": "run-7",
        "complete": "true",
        "valid": "true",
        "reason_codes": None,
        "start_utc": "2026-03-01T10:00:00Z",
        "wall_s": 150.0,
        "segments": 1,
        "included": "gpu",
        "excluded": "cpu; dram",
        "exclusive": "yes",
        "measured_wh": 12.0,
        "measured_low_wh": 11.4,
        "measured_high_wh": 12.6,
        "net_of_idle_wh": 7.5,
        "net_of_idle_wh_quality": "derived",
        "idle_method": "measured",
        "gpu_wh": 12.0,
        "train_s": 110.0,
        "train_wh": 9.0,
        "select_wh": 2.0,
        "stopped_by": "target",
        "pue": 1.25,
        "facility_wh": 15.0,
        "facility_wh_quality": "derived",
        "g_co2e": None,
        "visits": 620000,
        "flops": 10**15,
        "gpus": "NVIDIA H200",
        "driver": "570.1",
        "cpu": "Xeon",
        "jax": "0.10.2",
        "meter_version": "0.1.0",
    }
    assert {key: row[key] for key in expected} == expected
    assert row["train_wh_quality"] == row["gpu_wh_quality"] == "measured"


def test_run_without_a_source_has_no_figure_and_says_so():
    row = csv_row(nothing_measured() | {"phases": {}, "energy_to_accuracy": []})
    del row["facility_wh"]
    del row["facility_wh_quality"]
    assert set(energies(row).values()) == {(None, "unavailable")}


def test_empty_report_invents_nothing():
    row = csv_row({})
    assert {
        value for name, value in row.items() if not name.endswith("_wh_quality")
    } == {None}


def test_modelled_energy_stands_apart_and_under_its_name():
    row = csv_row(energy_report(modelled_wh=4.0, modelled_interval_wh=[1.0, 9.0]))
    assert energies(row)["measured_wh"] == (12.0, "measured")
    assert energies(row)["modelled_wh"] == (4.0, "modelled")
    assert energies(row)["modelled_low_wh"] == (1.0, "modelled")
    assert energies(row)["modelled_high_wh"] == (9.0, "modelled")


def test_phases_of_a_modelled_run_are_modelled():
    row = csv_row(energy_report(quality="modelled"))
    assert energies(row)["train_wh"] == (9.0, "modelled")
    assert energies(row)["target_wh"] == (8.0, "modelled")


def test_phase_that_tells_its_own_quality_is_believed():
    report = energy_report()
    report["phases"]["train"]["quality"] = "modelled"
    assert energies(csv_row(report))["train_wh"] == (9.0, "modelled")


def test_number_without_a_quality_is_called_unlabelled():
    row = csv_row(energy_report(quality=None))
    assert energies(row)["measured_wh"] == (12.0, "unlabelled")


def test_every_phase_has_its_columns():
    row = csv_row({})
    for phase in PHASES:
        assert {f"{phase}_s", f"{phase}_wh", f"{phase}_wh_quality"} <= set(row)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "12", True])
def test_what_is_no_number_is_unavailable(bad):
    row = csv_row(energy_report(measured_wh=bad))
    assert energies(row)["measured_wh"] == (None, "unavailable")


def test_sources_of_one_component_add_up():
    sources = [a_source("gpu", wh=1.5), a_source("gpu", wh=2.0), a_source("cpu", wh=4)]
    found = energies(csv_row(energy_report(by_source=sources)))
    assert found["gpu_wh"] == (3.5, "measured")
    assert found["cpu_wh"] == (4, "measured")
    assert found["dram_wh"] == (None, "unavailable")


def test_sources_of_several_qualities_are_never_added():
    sources = [a_source("cpu", wh=1.5), a_source("cpu", "modelled", wh=2.0)]
    found = energies(csv_row(energy_report(by_source=sources)))
    assert found["cpu_wh"] == (None, "mixed")


def test_some_sources_do_not_pass_for_all():
    sources = [a_source("gpu", wh=1.5), a_source("gpu", wh=None)]
    found = energies(csv_row(energy_report(by_source=sources)))
    assert found["gpu_wh"] == (None, "unavailable")


def test_source_inside_another_is_not_added():
    sources = [a_source("cpu", wh=1.5), a_source("cpu", wh=1.0, counted=False)]
    found = energies(csv_row(energy_report(by_source=sources)))
    assert found["cpu_wh"] == (1.5, "measured")


def test_target_is_the_highest_asked_for_reached_or_not():
    row = csv_row(energy_report())
    assert (row["target"], row["target_reached"], row["target_epochs"]) == (
        0.9,
        "true",
        31,
    )
    assert (row["target_wh"], row["target_incl_eval_wh"]) == (8.0, 8.5)
    report = energy_report()
    report["energy_to_accuracy"].insert(
        0, {"target": 0.95, "reached": False, "wh": None, "best_accuracy": 0.93}
    )
    report["energy_to_accuracy"].append({"target": None, "wh": 1.0})
    row = csv_row(report)
    assert (row["target"], row["target_reached"]) == (0.95, "false")
    assert energies(row)["target_wh"] == (None, "unavailable")
    assert row["best_accuracy"] == 0.93


# the table


def test_table_has_one_header_and_a_line_for_each_report(tmp_path):
    path = tmp_path / "runs.csv"
    for run_id in ("a", "b", "c"):
        write_csv(energy_report() | {"run_id": run_id}, path)
    assert [row["run_id"] for row in rows(path)] == ["a", "b", "c"]
    assert path.read_text().count("measured_wh_quality") == 1
    assert "\r" not in path.read_text()


def test_numbers_come_back_as_they_were_and_none_is_empty(tmp_path):
    path = tmp_path / "runs.csv"
    third = 1 / 3
    write_csv(energy_report(measured_wh=third, measured_wh_k2=None), path)
    (row,) = rows(path)
    assert float(row["measured_wh"]) == third
    assert row["measured_low_wh"] == row["g_co2e"] == ""


def test_commas_and_quotes_stay_in_their_cell(tmp_path):
    path = tmp_path / "runs.csv"
    write_csv(energy_report() | {"run_id": 'a,"b"\nc'}, path)
    assert rows(path)[0]["run_id"] == 'a,"b"\nc'


def test_table_with_other_columns_is_left_as_it_is(tmp_path):
    path = tmp_path / "runs.csv"
    write_csv(energy_report(), path)
    old = path.read_text().replace("measured_wh,", "watt_hours,", 1)
    path.write_text(old)
    with pytest.raises(ValueError, match="measured_wh, watt_hours") as caught:
        write_csv(energy_report(), path)
    assert str(path) in str(caught.value)
    assert "another file" in str(caught.value)
    assert path.read_text() == old


def test_columns_in_another_order_are_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(",".join(reversed(csv_row({}))) + "\n")
    with pytest.raises(ValueError, match="their order"):
        write_csv(energy_report(), path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_table_that_an_editor_touched_is_written_on(mark, tmp_path):
    path = tmp_path / "runs.csv"
    write_csv(energy_report(), path)
    path.write_text(mark + path.read_text().rstrip("\n"), encoding="utf-8")
    write_csv(energy_report() | {"run_id": "later"}, path)
    assert [row["run_id"] for row in rows(path)] == ["run-7", "later"]


@pytest.mark.parametrize("content", ["", "\n"])
def test_empty_table_gets_its_header(content, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(content)
    write_csv(energy_report(), path)
    assert [row["run_id"] for row in rows(path)] == ["run-7"]


def test_both_forms_are_handed_on_here():
    assert boamps(energy_report())["measures"]
