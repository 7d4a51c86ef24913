"""A report in other forms: every Wh of a row has its quality, a document is valid."""

import copy
import csv
import json
import math

import pytest
from fakes.energy_report import REPORT, a_source, energy_report, nothing_measured

from dpet_jax.energy.accounts.ledger import PHASES
from dpet_jax.energy.report.export import boamps, csv_row, write_csv

#: What each part must have, may have, and which words it may use, as of April 2026:
#: model/*.json of Boavizta/BoAmps.
REQUIRED = {
    "": {"task", "measures", "infrastructure"},
    "header": {"reportDatetime"},
    "task": {"taskStage", "taskFamily", "algorithms", "dataset"},
    "algorithm": set(),
    "dataset": {"dataUsage", "dataType"},
    "measure": {"measurementMethod", "powerConsumption"},
    "system": {"os"},
    "software": {"language"},
    "infrastructure": {"infraType", "components"},
    "component": {"componentType", "nbComponent"},
}
ALLOWED = {
    "": {"header", "system", "software", "environment", "quality"},
    "header": {"reportId", "reportStatus", "formatVersion", "licensing", "publisher"},
    "task": {"nbRequest", "measuredAccuracy", "estimatedAccuracy", "taskDescription"},
    "algorithm": {
        *("trainingType", "algorithmType", "algorithmName", "parametersNumber"),
        *("framework", "frameworkVersion", "epochsNumber", "optimizer"),
    },
    "dataset": {"dataFormat", "dataSize", "dataQuantity", "shape", "source"},
    "measure": {
        *("version", "cpuTrackingMode", "gpuTrackingMode", "averageUtilizationCpu"),
        *("averageUtilizationGpu", "powerCalibrationMeasurement", "manufacturer"),
        *("durationCalibrationMeasurement", "measurementDuration"),
        "measurementDateTime",
    },
    "system": {"distribution", "distributionVersion"},
    "software": {"version"},
    "infrastructure": {"cloudProvider", "cloudInstance", "cloudService"},
    "component": {"componentName", "memorySize", "manufacturer", "family", "share"},
}
WORDS = {
    "dataUsage": {"input", "output"},
    "dataType": {"tabular", "image", "text", "other"},
    "infraType": {"publicCloud", "privateCloud", "onPremise", "other"},
    "quality": {"high", "medium", "low"},
}
NUMBERS = {
    *("powerConsumption", "measurementDuration", "powerCalibrationMeasurement"),
    *("durationCalibrationMeasurement", "nbComponent"),
}


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


def test_modelled_energy_has_columns_of_its_own():
    row = csv_row(energy_report(modelled_wh=4.0, modelled_interval_wh=[1.0, 9.0]))
    assert energies(row)["measured_wh"] == (12.0, "measured")
    assert energies(row)["modelled_wh"] == (4.0, "modelled")
    assert energies(row)["modelled_low_wh"] == (1.0, "modelled")
    assert energies(row)["modelled_high_wh"] == (9.0, "modelled")


def test_phases_of_a_modelled_run_are_modelled():
    row = csv_row(energy_report(quality="modelled"))
    assert energies(row)["train_wh"] == (9.0, "modelled")


def test_phase_may_have_a_quality_of_its_own():
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


@pytest.mark.parametrize("bad", [None, [1.0], "ab", [math.nan, None]])
def test_interval_without_ends_has_none(bad):
    found = energies(csv_row(energy_report(measured_wh_k2=bad)))
    assert found["measured_low_wh"] == (None, "unavailable")
    assert found["measured_high_wh"] == (None, "unavailable")


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


# the BoAmps document


def parts_of(document):
    """Yield every object of a document with the name of its kind."""
    yield "", document
    for kind in ("header", "task", "system", "software", "infrastructure"):
        if kind in document:
            yield kind, document[kind]
    lists = {
        "algorithm": document["task"]["algorithms"],
        "dataset": document["task"]["dataset"],
        "measure": document["measures"],
        "component": document["infrastructure"].get("components", []),
    }
    for kind, ones in lists.items():
        for one in ones:
            yield kind, one


def check(document):
    """Hold a document against the tables above."""
    for kind, one in parts_of(json.loads(json.dumps(document))):
        assert set(one) >= REQUIRED[kind], kind
        assert set(one) <= REQUIRED[kind] | ALLOWED[kind], kind
        for key, value in one.items():
            if key in WORDS:
                assert value in WORDS[key]
            elif key in NUMBERS:
                assert isinstance(value, int | float)
                assert not isinstance(value, bool)
            else:
                assert isinstance(value, str | dict | list), key
                assert value


def measure(report):
    (one,) = boamps(report)["measures"]
    return one


def test_document_has_what_the_schema_demands():
    check(boamps(energy_report()))


def without(path):
    report = copy.deepcopy(REPORT)
    *outer, last = path
    inner = report
    for key in outer:
        inner = inner[key]
    del inner[last]
    return report


@pytest.mark.parametrize(
    "path",
    [
        *((key,) for key in REPORT if key != "energy"),
        *(("energy", key) for key in REPORT["energy"] if key != "measured_wh"),
        *(("system", key) for key in REPORT["system"]),
        *(("time", key) for key in REPORT["time"]),
    ],
    ids=".".join,
)
def test_document_stays_valid_when_the_report_lacks_a_part(path):
    check(boamps(without(path)))


def test_measure_is_in_kilowatt_hours_and_seconds():
    assert measure(energy_report()) == {
        "measurementMethod": "dpet_jax",
        "version": "0.1.0",
        "gpuTrackingMode": "nvmlDeviceGetTotalEnergyConsumption",
        "powerCalibrationMeasurement": pytest.approx(0.0002),  # 72 W for 10 s
        "durationCalibrationMeasurement": 10.0,
        "powerConsumption": pytest.approx(0.012),
        "measurementDuration": 150.0,
        "measurementDateTime": "2026-03-01 10:00:00",
    }


def test_facts_of_the_report_are_in_their_places():
    document = boamps(energy_report())
    assert document["header"] == {
        "reportId": "run-7",
        "reportDatetime": "2026-03-01 10:02:30",
    }
    assert document["task"]["algorithms"][0]["frameworkVersion"] == "0.10.2"
    assert document["task"]["taskDescription"] == (
        "Energy of: gpu. Not in it: cpu; dram."
    )
    assert document["system"] == {"os": "Linux"}
    assert document["software"] == {"language": "python"}


def test_time_elsewhere_is_turned_into_utc():
    report = energy_report()
    report["time"]["start_utc"] = "2026-03-01T12:00:00+02:00"
    assert measure(report)["measurementDateTime"] == "2026-03-01 10:00:00"
    report["time"]["start_utc"] = "2026-03-01T10:00:00"
    assert measure(report)["measurementDateTime"] == "2026-03-01 10:00:00"


def test_without_an_end_there_is_no_header():
    assert "header" not in boamps(without(("time", "end_utc")))


@pytest.mark.parametrize("modelled_wh", [None, 4.0])
def test_run_without_measured_energy_is_refused_with_the_reason(modelled_wh):
    report = nothing_measured()
    report["energy"]["modelled_wh"] = modelled_wh
    with pytest.raises(ValueError, match="powercap: denied"):
        boamps(report)


def test_report_without_energy_is_refused():
    with pytest.raises(ValueError, match="no reason given"):
        boamps({})


# what was measured


def test_model_of_the_cpu_is_no_tracking_and_no_calibration():
    model = a_source("cpu", "modelled", id="cpu:model")
    report = energy_report(by_source=[a_source("gpu", id="gpu:GPU-4e1f"), model])
    report["energy"]["idle"]["watts"] = {"gpu:GPU-4e1f": 72.0, "cpu:model": 20.0}
    assert "cpuTrackingMode" not in measure(report)
    assert measure(report)["powerCalibrationMeasurement"] == pytest.approx(0.0002)
    assert measure(report)["powerConsumption"] == pytest.approx(0.012)


def test_component_inside_another_is_neither_calibrated_nor_listed_twice():
    package, within = a_source("cpu", id="cpu:a"), a_source("cpu", id="cpu:b")
    within["counted"] = False
    report = energy_report(by_source=[package, within])
    report["energy"]["idle"]["watts"] = {"cpu:a": 36.0, "cpu:b": 36.0}
    assert measure(report)["powerCalibrationMeasurement"] == pytest.approx(0.0001)
    _, cpu = boamps(report)["infrastructure"]["components"]
    assert cpu["nbComponent"] == 1


def test_several_methods_are_named_once_each():
    sources = [a_source("cpu", method=name) for name in ("rapl", "rapl", "hwmon")]
    assert measure(energy_report(by_source=sources))["cpuTrackingMode"] == "rapl; hwmon"


@pytest.mark.parametrize(
    "idle",
    [
        {"method": "min_observed", "watts": {"gpu:GPU-4e1f": 72.0}, "seconds": 10.0},
        {"method": "none", "watts": {}, "seconds": 0},
        {"method": "measured", "watts": {"gpu:GPU-4e1f": None}, "seconds": 10.0},
        {"method": "measured", "watts": {"gpu:GPU-4e1f": 72.0}, "seconds": None},
        {"method": "measured", "watts": {}, "seconds": 10.0},
    ],
)
def test_what_is_no_whole_baseline_is_no_calibration(idle):
    found = measure(energy_report(idle=idle))
    assert not {key for key in found if "Calibration" in key}


def test_baseline_of_some_sources_is_no_calibration_of_all():
    sources = [a_source("gpu", id="gpu:GPU-4e1f"), a_source("cpu")]
    found = measure(energy_report(by_source=sources))
    assert not {key for key in found if "Calibration" in key}


# the quality


@pytest.mark.parametrize(
    ("interval", "quality"),
    [
        ([10.8, 13.2], "high"),
        ([11.9, 13.3], "medium"),
        ([10.7, 12.1], "medium"),
        ([9.0, 15.0], "medium"),
        ([8.9, 12.1], "low"),
        ([6.0, 18.0], "low"),
        ([5.9, 12.1], None),
        ([12.0, 18.1], None),
        (None, None),
        ([None, 13.0], None),
    ],
)
def test_quality_follows_the_wider_side_of_the_interval(interval, quality):
    report = energy_report(measured_wh=12.0, measured_wh_k2=interval)
    assert boamps(report).get("quality") == quality


def test_run_that_is_not_valid_claims_no_quality_and_says_why():
    report = energy_report() | {"valid": False, "reason_codes": ["gap"]}
    assert "quality" not in boamps(report)
    assert "not valid: gap." in boamps(report)["task"]["taskDescription"]


def test_run_cut_short_says_so():
    report = energy_report() | {"complete": False}
    assert "did not come to its end" in boamps(report)["task"]["taskDescription"]


def test_no_energy_at_all_has_no_relative_interval():
    report = energy_report(measured_wh=0.0, measured_wh_k2=[0.0, 0.0])
    assert "quality" not in boamps(report)


# the machine


def test_equal_gpus_are_one_component_of_many():
    report = energy_report()
    report["system"]["gpus"] = [{"name": name} for name in ("A", "B", "A")]
    assert boamps(report)["infrastructure"]["components"] == [
        {"componentName": "A", "componentType": "gpu", "nbComponent": 2},
        {"componentName": "B", "componentType": "gpu", "nbComponent": 1},
        {"componentName": "Xeon", "componentType": "cpu", "nbComponent": 1},
    ]


def test_measured_sockets_are_counted_and_named():
    sources = [a_source("cpu"), a_source("cpu"), a_source("dram")]
    _, cpu, dram = boamps(energy_report(by_source=sources))["infrastructure"][
        "components"
    ]
    assert cpu == {"componentName": "Xeon", "componentType": "cpu", "nbComponent": 2}
    assert dram == {"componentType": "dram", "nbComponent": 1}


def test_gpu_that_only_the_meter_knows_is_listed_without_a_name():
    components = boamps(without(("system",)))["infrastructure"]["components"]
    assert components == [{"componentType": "gpu", "nbComponent": 1}]


def test_unknown_machine_has_no_components():
    report = without(("system",))
    report["energy"]["by_source"] = []
    assert "components" not in boamps(report)["infrastructure"]


def test_infrastructure_is_what_the_user_says_and_claims_nothing_otherwise():
    assert boamps(energy_report())["infrastructure"]["infraType"] == "other"
    document = boamps(energy_report(), infra_type="onPremise")
    assert document["infrastructure"]["infraType"] == "onPremise"
    check(document)


def test_text_of_a_user_is_no_formula_and_negative_numbers_stay(tmp_path):
    path = tmp_path / "runs.csv"
    report = energy_report(net_of_idle_wh=-0.5) | {"run_id": '=HYPERLINK("x")'}
    write_csv(report, path)
    (row,) = rows(path)
    assert row["run_id"] == '\'=HYPERLINK("x")'
    assert row["net_of_idle_wh"] == "-0.5"


def test_interval_of_a_phase_stands_beside_it_and_of_a_target_there_is_none():
    report = energy_report(quality="modelled")
    report["phases"]["train"]["wh_k2"] = [4.0, 19.0]
    row = csv_row(report)
    assert energies(row)["train_low_wh"] == (4.0, "modelled")
    assert energies(row)["train_high_wh"] == (19.0, "modelled")
    assert (row["target_wh"], row["facility_wh"]) == (None, None)
