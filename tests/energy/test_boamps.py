"""A BoAmps document has what its schema demands, and only what the report knows."""

import copy
import json

import pytest
from fakes.energy_report import REPORT, a_source, energy_report, nothing_measured

from dpet_jax.energy.report.boamps import boamps

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
    report["energy"]["idle"]["watts"] = {"GPU-4e1f": 72.0, "cpu:model": 20.0}
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
        {"method": "min_observed", "watts": {"GPU-4e1f": 72.0}, "seconds": 10.0},
        {"method": "none", "watts": {}, "seconds": 0},
        {"method": "measured", "watts": {"GPU-4e1f": None}, "seconds": 10.0},
        {"method": "measured", "watts": {"a": 72.0, "b": None}, "seconds": 10.0},
        {"method": "measured", "watts": {"GPU-4e1f": 72.0}, "seconds": None},
        {"method": "measured", "watts": {}, "seconds": 10.0},
    ],
)
def test_what_is_no_whole_baseline_is_no_calibration(idle):
    found = measure(energy_report(idle=idle))
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
