"""A report gives numbers with source, quality and interval, or reasons instead."""

import json
from importlib.metadata import version

import pytest
from fakes.clock import FakeClock
from fakes.nvml import FakeGpu, FakeNVML
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import (
    EnergyMeter,
    Found,
    Report,
    Unavailable,
    discover,
    report_from_journal,
)
from dpet_jax.energy.accounts.journal import Journal
from dpet_jax.energy.accounts.ledger import PHASES
from dpet_jax.energy.accounts.logbook import Trace
from dpet_jax.energy.accounts.state import empty_state
from dpet_jax.energy.report.report import build_report, headline, row_energy

NO_CPU = Unavailable("cpu", "powercap: permission denied", "as root, chgrp")
NO_GPU = Unavailable("gpu", "there is no NVIDIA driver here", "install it")
MODEL = {"quality": "modelled", "rel_uncertainty": 0.0}


@pytest.fixture
def clock():
    return FakeClock()


def gpu(clock, watts=360.0, **known):
    return FakeProbe(clock, power(watts), **known)


def model(clock, low=18.0, mid=36.0, high=72.0):
    sources = [power(watts, **MODEL) for watts in (mid, low, high)]
    return FakeProbe(clock, *sources, id="cpu:model", component="cpu", scope="package")


def meter_of(clock, *probes, unavailable=()):
    return EnergyMeter(Found(probes, unavailable), clock=clock, sleep=clock.wait)


def run(clock, *probes, unavailable=()):
    """Report ten seconds of training, five of selection and one of neither."""
    with meter_of(clock, *probes, unavailable=unavailable) as meter:
        with meter.window("train", "round 1"):
            meter._pass(8.0)
            with meter.window("select"):
                meter._pass(5.0)
            meter._pass(2.0)
        meter._pass(1.0)
    return meter.report()


def j(wh):
    return wh * 3600


def numbers(node, path=""):
    """Give every number that claims to be Wh, and the quality beside it."""
    if isinstance(node, list):
        for index, inner in enumerate(node):
            yield from numbers(inner, f"{path}[{index}]")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        where = f"{path}.{key}"
        if "wh" in key.split("_") and value is not None:
            yield where, value, node.get("quality")
        else:
            yield from numbers(value, where)


# the form


def test_report_has_the_keys_of_the_specification(clock):
    data = run(clock, gpu(clock), unavailable=(NO_CPU,)).data
    assert data["schema"] == "dpet-jax/energy-report/1"
    assert data.keys() >= {
        *("schema", "run_id", "complete", "valid", "reason_codes", "time", "boundary"),
        *("energy", "phases", "energy_to_accuracy", "budget", "proxies", "carbon"),
        *("system", "meter"),
    }
    assert data["time"].keys() >= {
        *("start_utc", "end_utc", "wall_s", "suspended_s", "segments"),
    }
    assert data["boundary"].keys() >= {"included", "excluded", "exclusive"}
    assert data["energy"].keys() >= {
        *("measured_wh", "measured_wh_k2", "quality", "modelled_wh"),
        *("modelled_interval_wh", "net_of_idle_wh", "idle", "by_source"),
        "unavailable",
    }
    assert data["energy"]["idle"].keys() >= {"method", "watts", "seconds"}
    (source,) = data["energy"]["by_source"]
    assert source.keys() >= {
        *("id", "component", "scope", "kind", "method", "quality", "wh", "mean_w"),
        *("max_w", "samples", "gap_s", "unmeasured_s", "update_period_s"),
        *("sensor_window_s", "cross_check", "events", "u_gain_rel", "u_edge_wh"),
    }
    assert data["energy"]["unavailable"] == [NO_CPU._asdict()]
    for phase in data["phases"].values():
        assert phase.keys() >= {"wh", "s", "count", "sync", "quality"}
    assert data["meter"].keys() >= {
        *("version", "period_s", "tick_ms_p50", "tick_ms_p99", "cpu_s", "clock"),
    }
    assert data["meter"]["version"] == version("dpet-jax")
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_every_phase_is_in_it_even_without_a_second(clock):
    assert list(run(clock).data["phases"]) == list(PHASES)


def test_what_only_the_program_knows_is_put_in(clock):
    with meter_of(clock, gpu(clock)) as meter:
        meter._pass(1.0)
    facts = {
        "run_id": "r",
        "energy_to_accuracy": [{"target": 0.9}],
        "budget": {"stopped_by": "wh"},
        "proxies": {"flops": 1},
        "carbon": {"g_co2e": None},
        "system": {"cpu": "Xeon"},
    }
    data = build_report(meter.state(), Trace(), complete=True, run=facts).data
    for key in facts.keys() - {"system"}:
        assert data[key] == facts[key]
    assert data["system"]["cpu"] == "Xeon"
    assert [entry["id"] for entry in data["system"]["gpus"]] == ["gpu:A"]


# the numbers


def test_total_is_between_start_and_stop_and_phases_add_up_to_it(clock):
    data = run(clock, gpu(clock), gpu(clock, 36.0, id="gpu:B")).data
    energy, phases = data["energy"], data["phases"]
    assert energy["measured_wh"] == pytest.approx(16 * 396 / 3600)
    assert sum(phase["wh"] for phase in phases.values()) == (
        pytest.approx(energy["measured_wh"], rel=1e-9)
    )
    assert sum(phase["s"] for phase in phases.values()) == (
        pytest.approx(data["time"]["wall_s"], rel=1e-9)
    )
    assert data["time"]["wall_s"] == pytest.approx(16.0)
    assert sum(source["wh"] for source in energy["by_source"]) == (
        pytest.approx(energy["measured_wh"], rel=1e-9)
    )


def test_phase_is_told_with_and_without_what_it_contains(clock):
    train = run(clock, gpu(clock)).data["phases"]["train"]
    assert (train["s"], train["inclusive_s"]) == pytest.approx((10.0, 15.0))
    assert j(train["wh"]) == pytest.approx(3600.0)
    assert j(train["inclusive_wh"]) == pytest.approx(5400.0)
    assert (train["count"], train["sync"]) == (1, "barrier")


def test_label_is_told_like_a_phase(clock):
    label = run(clock, gpu(clock)).data["labels"]["round 1"]
    assert (label["s"], j(label["wh"])) == pytest.approx((15.0, 5400.0))


def test_interval_holds_the_gain_and_the_edges_of_the_sensor(clock):
    probe = FakeProbe(
        clock, counter(lambda t: 360 * t, rel_uncertainty=0.05, update_period_s=0.1)
    )
    energy = run(clock, probe).data["energy"]
    low, high = energy["measured_wh_k2"]
    # an edge may be late by 36 J; there are two, of which each is half a k=2 bound
    edges_wh = 2 * (2 * 36**2 / 8) ** 0.5 / 3600
    half = (0.08**2 + edges_wh**2) ** 0.5
    assert (low, high) == pytest.approx((1.6 - half, 1.6 + half))
    assert energy["by_source"][0]["u_edge_wh"] == pytest.approx(edges_wh)
    assert energy["by_source"][0]["u_gain_rel"] == 0.05


def test_phase_has_the_uncertainty_of_its_own_edges_once(clock):
    late = counter(lambda t: 360 * t, rel_uncertainty=0.0, update_period_s=0.1)
    with meter_of(clock, FakeProbe(clock, late)) as meter:
        for phase in ("train", "eval", "train"):
            with meter.window(phase):
                meter._pass(10.0)
            meter._pass(1.0)
    phases = meter.report().data["phases"]
    for phase, edges in (("eval", 2), ("train", 4)):
        low, high = phases[phase]["wh_k2"]
        half = 2 * (edges * 36**2 / 8) ** 0.5
        assert j(high - low) / 2 == pytest.approx(half)


def test_source_says_what_it_is_and_what_it_saw(clock):
    probe = FakeProbe(
        clock,
        counter(lambda t: 360 * t, update_period_s=0.1, sensor_window_s=0.5),
        power(lambda t: 330.0 if t < 9 else 300.0),
    )
    (source,) = run(clock, probe).data["energy"]["by_source"]
    assert source["id"] == "gpu:A"
    assert (source["component"], source["scope"]) == ("gpu", "gpu")
    assert (source["kind"], source["method"]) == ("counter", "counter")
    assert source["others"] == ["power"]
    assert (source["update_period_s"], source["sensor_window_s"]) == (0.1, 0.5)
    assert source["mean_w"] == pytest.approx(360.0)
    assert source["max_w"] == 330.0
    assert (source["counted"], source["idle_w"]) == (True, pytest.approx(360.0))


def test_sources_that_disagree_are_told_and_warned_of(clock):
    probe = FakeProbe(clock, counter(lambda t: 360 * t), power(300.0))
    data = run(clock, probe).data
    check = data["energy"]["by_source"][0]["cross_check"]
    assert check == {
        "method": "power",
        "quality": "measured",
        "wh": pytest.approx(16 * 300 / 3600),
        "rel_diff": pytest.approx(0.2),
    }
    assert data["warnings"] == ["gpu:A: counter and power differ by +20%"]
    assert data["valid"], "a warning is no doubt"


def test_source_alone_has_no_cross_check(clock):
    data = run(clock, gpu(clock), model(clock)).data
    assert [s["cross_check"] for s in data["energy"]["by_source"]] == [None, None]
    assert data["warnings"] == []
    twice = FakeProbe(clock, counter(lambda t: 3 * t), counter(lambda t: 9 * t))
    (source,) = run(clock, twice).data["energy"]["by_source"]
    assert source["cross_check"] is None, "two counters may be one and the same"


def test_what_is_inside_another_is_told_but_not_added(clock):
    node = gpu(clock, 720.0, id="node:PDU", component="node", scope="node")
    data = run(clock, gpu(clock), node).data
    told = {source["id"]: source["counted"] for source in data["energy"]["by_source"]}
    assert told == {"gpu:A": False, "node:PDU": True}
    assert j(data["energy"]["measured_wh"]) == pytest.approx(16 * 720)
    assert data["boundary"]["included"] == ["node"]


def test_boundary_names_what_counts_and_what_does_not(clock):
    two = [gpu(clock, id=f"gpu:{name}") for name in "AB"]
    boundary = run(clock, *two, unavailable=(NO_CPU,)).data["boundary"]
    assert boundary["included"] == ["gpu"]
    assert boundary["excluded"] == ["cpu", "dram", "psu", "network"]


def test_net_of_idle_is_gross_less_what_idling_costs(clock):
    probe = gpu(clock, lambda t: 60.0 if t < 10 else 360.0)
    with meter_of(clock, probe) as meter:
        meter.measure_idle(9.0)
        meter._pass(1.0)
        with meter.window("train"):
            meter._pass(10.0)
    data = meter.report().data
    assert data["energy"]["idle"] == {
        "method": "measured",
        "watts": {"gpu:A": pytest.approx(60.0)},
        "seconds": pytest.approx(7.0),
    }
    gross = data["energy"]["measured_wh"]
    assert data["energy"]["net_of_idle_wh"] == pytest.approx(gross - 20 * 60 / 3600)
    train = data["phases"]["train"]
    assert j(train["net_of_idle_wh"]) == pytest.approx(3000.0, abs=10)
    assert data["energy"]["by_source"][0]["idle_w"] == pytest.approx(60.0)


def test_without_a_baseline_the_least_that_was_seen_stands_in_and_is_called_so(clock):
    probe = gpu(clock, lambda t: 60.0 if t < 10 else 360.0)
    with meter_of(clock, probe) as meter:
        meter._pass(40.0)
    idle = meter.report().data["energy"]["idle"]
    assert (idle["method"], idle["seconds"]) == ("min_observed", None)
    assert idle["watts"] == {"gpu:A": pytest.approx(60.0, abs=1)}


def test_net_is_unknown_where_the_idle_power_of_one_source_is(clock):
    with meter_of(clock, gpu(clock), gpu(clock, id="gpu:B")) as meter:
        meter._pass(4.0)
    state = meter.state()
    state["idle"] = {"method": "measured", "watts": {"gpu:A": 60.0}, "seconds": 1.0}
    energy = build_report(state, Trace(), complete=True).data["energy"]
    assert energy["measured_wh"] > 0
    assert energy["net_of_idle_wh"] is None


def test_idle_power_is_not_taken_off_seconds_that_nobody_measured(clock):
    def joules(t):
        return 360.0 * t if t < 10 else 360.0 * (t - 10)  # starts anew

    with meter_of(clock, FakeProbe(clock, counter(joules))) as meter:
        meter._pass(9.9)
        clock.wait(2.1)
        meter._pass(8.0)
    state = meter.state()
    state["idle"] = {"method": "measured", "watts": {"gpu:A": 60.0}, "seconds": 1.0}
    data = build_report(state, Trace(), complete=True).data
    (source,) = data["energy"]["by_source"]
    seen_s = data["time"]["wall_s"] - source["unmeasured_s"]
    assert source["unmeasured_s"] > 2
    assert j(data["energy"]["net_of_idle_wh"]) == pytest.approx(seen_s * 300)


def test_short_windows_are_marked_as_too_short_for_sensors(clock):
    with meter_of(clock, gpu(clock)) as meter:
        for _ in range(20):
            with meter.window("eval"):
                meter._pass(0.5)
            with meter.window("train"):
                meter._pass(2.0)
        with meter.window("compile"):
            meter._pass(0.25)
        meter._pass(0.5)
    phases = meter.report().data["phases"]
    limited = {name: p["resolution_limited"] for name, p in phases.items() if p["s"]}
    assert limited == {"eval": True, "train": False, "compile": True, "other": True}


def test_gpus_are_described_with_their_temperature_at_both_ends(clock):
    probe = gpu(clock)
    probe.told = {"name": "H200", "temperature_c": 41}
    with meter_of(clock, probe) as meter:
        meter._pass(1.0)
        probe.told = {"name": "H200", "temperature_c": 66}
    (told,) = meter.report().data["system"]["gpus"]
    assert told == {
        "id": "gpu:A",
        "name": "H200",
        "temperature_start_c": 41,
        "temperature_c": 66,
    }


def test_power_trace_adds_up_to_the_energy(clock):
    report = run(clock, gpu(clock, lambda t: 10 * t)).data
    trace_j = sum(
        (entry["end_s"] - entry["start_s"]) * entry["w"]["gpu:A"]
        for entry in report["power_trace"]
    )
    assert trace_j == pytest.approx(j(report["energy"]["measured_wh"]))
    assert len(report["power_trace"]) >= 15


# honesty


def test_without_sources_no_number_claims_to_be_energy(clock):
    report = run(clock, unavailable=(NO_GPU, NO_CPU))
    data = report.data
    assert [found for found in numbers(data) if found[1] is not None] == []
    assert data["energy"]["quality"] == "unavailable"
    assert (data["valid"], data["reason_codes"]) == (False, ["unavailable"])
    assert data["energy"]["unavailable"] == [NO_GPU._asdict(), NO_CPU._asdict()]
    assert data["energy"]["lost"] == {"s": 0.0, "wh": None, "quality": "unavailable"}
    assert data["phases"]["train"]["s"] == pytest.approx(10.0)
    assert data["phases"]["train"]["quality"] == "unavailable"
    assert data["boundary"]["included"] == []
    assert data["energy"]["idle"]["method"] == "none"


@pytest.mark.parametrize("which", ["measured", "modelled", "both", "checked"])
def test_every_energy_stands_beside_its_quality(which, clock):
    probes = {
        "measured": [gpu(clock)],
        "modelled": [model(clock)],
        "both": [gpu(clock), model(clock)],
        "checked": [FakeProbe(clock, counter(lambda t: 360 * t), power(360.0))],
    }[which]
    found = list(numbers(run(clock, *probes).data))
    assert len(found) > 20
    for where, _, quality in found:
        assert quality in ("measured", "modelled"), where


def test_model_alone_is_called_one_everywhere(clock):
    report = run(clock, model(clock), unavailable=(NO_CPU,))
    data, energy = report.data, report.data["energy"]
    assert (energy["measured_wh"], energy["measured_wh_k2"]) == (None, None)
    assert j(energy["modelled_wh"]) == pytest.approx(16 * 36)
    low, high = energy["modelled_interval_wh"]
    assert (j(low), j(high)) == pytest.approx((16 * 18, 16 * 72))
    assert energy["quality"] == "modelled"
    assert (data["valid"], data["reason_codes"]) == (False, ["modelled"])
    assert {quality for _, _, quality in numbers(data)} == {"modelled"}
    assert j(data["phases"]["train"]["wh"]) == pytest.approx(360.0)
    low, high = data["phases"]["train"]["wh_k2"]
    assert (j(low), j(high)) == pytest.approx((180.0, 720.0))


def test_measured_and_modelled_energy_stand_side_by_side_and_are_never_summed(clock):
    report = run(clock, gpu(clock), model(clock))
    data = report.data
    energy = data["energy"]
    assert j(energy["measured_wh"]) == pytest.approx(16 * 360)
    assert j(energy["modelled_wh"]) == pytest.approx(16 * 36)
    assert energy["quality"] == "measured"
    assert str(report).splitlines()[-1] == (
        "  and apart from it ≈ 0.16 Wh [0.08, 0.32] MODELLED"
    )
    assert data["boundary"]["included"] == ["gpu"]
    assert "cpu" in data["boundary"]["excluded"]
    assert j(data["phases"]["train"]["wh"]) == pytest.approx(3600.0)
    assert j(data["phases"]["train"]["inclusive_wh"]) == pytest.approx(5400.0)
    both_wh = energy["measured_wh"] + energy["modelled_wh"]
    for where, value, _ in numbers(data):
        for number in value if isinstance(value, list) else [value]:
            assert number != pytest.approx(both_wh), where


def test_energy_of_a_row_is_that_of_one_quality(clock):
    with meter_of(clock, gpu(clock), model(clock)) as meter, meter.window("train"):
        meter._pass(10.0)
    state, row = meter.state(), meter._ledger.phases["train"]
    assert j(row_energy(row, state, edges=True).wh) == pytest.approx(3600.0)
    assert j(row_energy(row, state, "modelled", edges=True).wh) == pytest.approx(360.0)
    nothing = row_energy(row, state | {"channels": {}}, edges=True)
    assert (nothing.wh, nothing.quality) == (None, "unavailable")


# doubts


def test_measured_run_is_valid(clock):
    data = run(clock, gpu(clock)).data
    assert (data["valid"], data["reason_codes"], data["complete"]) == (True, [], True)


def test_board_shared_by_instances_is_an_upper_bound_and_not_valid(monkeypatch, clock):
    migs = ["MIG-6a000000-1111-4222-8333-444455556666"]
    nvml = FakeNVML([FakeGpu(mig=migs)], clock=clock)
    clock.wait(2.0)
    nvml.install(monkeypatch, migs)
    found = discover(host=False)
    with EnergyMeter(found, clock=clock, sleep=clock.wait) as meter:
        meter._pass(5.0)
    data = meter.report().data
    assert (data["valid"], data["reason_codes"]) == (False, ["mig_parent"])
    assert data["energy"]["by_source"][0]["scope"] == "gpu_parent"
    assert data["system"]["gpus"][0]["attribution"] == "shared_upper_bound"


@pytest.mark.parametrize(
    ("told", "exclusive", "codes"),
    [
        (True, "no", ["foreign_process"]),
        (False, "yes", []),
        (None, "unknown", []),
    ],
)
def test_gpu_that_others_use_is_not_exclusive_and_not_valid(
    told, exclusive, codes, clock
):
    probe = gpu(clock)
    probe.told = {"foreign_processes": told}
    data = run(clock, probe).data
    assert data["boundary"]["exclusive"] == exclusive
    assert (data["valid"], data["reason_codes"]) == (not codes, codes)
    assert data["event_counts"].get("foreign_process", 0) == len(codes)


@pytest.mark.parametrize(("silent_s", "codes"), [(1.9, []), (2.5, ["gap"])])
def test_gap_of_a_tenth_in_the_power_is_the_most(silent_s, codes, clock):
    with meter_of(clock, gpu(clock)) as meter:
        meter._pass(10.0)
        clock.wait(silent_s)
        meter._pass(20.0 - 10.0 - silent_s)
    data = meter.report().data
    assert data["energy"]["by_source"][0]["gap_s"] == pytest.approx(silent_s, abs=0.2)
    assert (data["valid"], data["reason_codes"]) == (not codes, codes)
    assert j(data["energy"]["measured_wh"]) == pytest.approx(7200.0)


def test_gap_of_a_counter_loses_nothing(clock):
    with meter_of(clock, FakeProbe(clock, counter(lambda t: 360 * t))) as meter:
        clock.wait(15.0)
        meter._pass(5.0)
    data = meter.report().data
    assert (data["valid"], j(data["energy"]["measured_wh"])) == (True, 7200.0)


@pytest.mark.parametrize(("silent_s", "codes"), [(1.9, []), (4.0, ["unmeasured"])])
def test_tenth_of_the_time_without_a_reading_is_the_most(silent_s, codes, clock):
    probe = gpu(clock)
    with meter_of(clock, probe) as meter:
        meter._pass(20.0)
        probe.error = OSError("gone")
        meter._pass(silent_s)
    data = meter.report().data
    (source,) = data["energy"]["by_source"]
    assert source["unmeasured_s"] == pytest.approx(silent_s, abs=0.1)
    assert (data["valid"], data["reason_codes"]) == (not codes, codes)


def test_what_a_crash_lost_is_told_beside_the_total(clock):
    with meter_of(clock, gpu(clock)) as meter:
        earlier = empty_state()
        earlier["lost"] = {"s": 5.0, "wh": 0.5, "quality": "measured"}
        earlier["segments"] = 1
        meter.take_up(earlier)
        meter._pass(10.0)
    data = meter.report().data
    assert data["energy"]["lost"] == {"s": 5.0, "wh": 0.5, "quality": "measured"}
    assert j(data["energy"]["measured_wh"]) == pytest.approx(3600.0)
    assert data["time"]["segments"] == 2
    assert run(clock, gpu(clock)).data["energy"]["lost"] == {
        "s": 0.0,
        "wh": 0.0,
        "quality": "measured",
    }


def test_loss_keeps_its_quality_on_a_machine_that_measures_nothing(clock):
    with meter_of(clock) as meter:
        earlier = empty_state()
        earlier["lost"] = {"s": 5.0, "wh": 0.5, "quality": "measured"}
        meter.take_up(earlier)
    (found,) = numbers(meter.report().data)
    assert found == (".energy.lost.wh", 0.5, "measured")


# text


def test_text_gives_energy_interval_quality_and_phases(clock):
    text = str(run(clock, gpu(clock)))
    first, *rows = text.splitlines()
    assert first == "energy: 1.6 Wh [1.52, 1.68] measured (gpu)"
    assert [row.split() for row in rows] == [
        ["select", "5.00", "s", "0.5", "Wh"],
        ["train", "10.00", "s", "1", "Wh"],
        ["other", "1.00", "s", "0.1", "Wh"],
    ]


def test_text_without_energy_gives_the_reasons(clock):
    text = str(run(clock, unavailable=(NO_GPU, NO_CPU)))
    first, *rows = text.splitlines()
    assert first == (
        "energy: not measurable here (gpu: there is no NVIDIA driver here; cpu: "
        "powercap: permission denied)"
    )
    assert "Wh" not in text
    assert ["train", "10.00", "s"] in [row.split() for row in rows]
    assert "powercap" not in "".join(rows)
    probe = FakeProbe(clock, power(100.0))
    partly = str(run(clock, probe, unavailable=(NO_CPU,))).splitlines()
    assert partly[-1] == "  without cpu: powercap: permission denied"
    bare = str(run(clock)).splitlines()[0]
    assert bare == "energy: not measurable here (no source is known)"


def test_text_of_a_model_calls_it_one(clock):
    line = headline(run(clock, model(clock)).data)
    assert line == "≈ 0.16 Wh [0.08, 0.32] MODELLED (cpu); not valid: modelled"


def test_text_names_what_makes_the_energy_not_valid(clock):
    probe = gpu(clock, scope="gpu_parent")
    probe.told = {"foreign_processes": True}
    line = headline(run(clock, probe).data)
    assert line.endswith("measured (gpu); not valid: foreign_process, mig_parent")


def test_text_adds_the_components_that_count(clock):
    cpu = FakeProbe(clock, power(36.0), id="cpu:0", component="cpu", scope="package")
    data = run(clock, gpu(clock), cpu).data
    assert "measured (cpu + gpu)" in headline(data)
    assert [entry["id"] for entry in data["system"]["gpus"]] == ["gpu:A"]


# on disk


def test_report_is_written_whole_and_nothing_else(tmp_path, clock):
    report = run(clock, gpu(clock))
    path = tmp_path / "energy.json"
    report.write(path)
    assert json.loads(path.read_text()) == report.data
    assert list(tmp_path.iterdir()) == [path]


def test_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "energy.json"
    Report({"old": 1}).write(path)
    loop = {}
    loop["itself"] = loop
    with pytest.raises(ValueError, match="Circular"):
        Report(loop).write(path)

    def full(self, text, encoding):
        with self.open("w", encoding=encoding) as file:
            file.write(text[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="No space"):
        Report({"new": 1}).write(path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_report_of_a_journal_is_that_of_the_meter(tmp_path, clock):
    path = tmp_path / "energy.jsonl"
    with meter_of(clock, gpu(clock), unavailable=(NO_CPU,)) as meter:
        meter.keep_journal(path)
        with meter.window("train"):
            meter._pass(10.3)
    ours, read = meter.report().data, report_from_journal(path).data
    for data in (ours, read):
        data["time"]["end_utc"] = None
    assert read == ours
    assert report_from_journal(path, {"run_id": "r"}).data["run_id"] == "r"


def test_report_of_a_run_that_has_only_begun_is_empty_but_whole(tmp_path):
    path = tmp_path / "energy.jsonl"
    Journal(path, empty_state()).close()
    data = report_from_journal(path).data
    assert (data["complete"], data["time"]["wall_s"]) == (False, 0)
    assert data["energy"]["quality"] == "unavailable"


def test_a_source_that_was_given_up_checks_nothing(clock):
    probe = FakeProbe(
        clock,
        counter(lambda t: 360.0 * t, update_period_s=0.1),
        power(lambda t: 360.0 if t < 4 else None),
    )
    source = run(clock, probe).data["energy"]["by_source"][0]
    assert source["events"]["demoted"] == 1
    assert source["cross_check"] is None
