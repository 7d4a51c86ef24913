"""A report gives numbers with source, quality and interval, or reasons instead."""

import json
from dataclasses import replace
from importlib.metadata import version

import pytest
from fakes.clock import FakeClock
from fakes.nvml import FakeGpu, FakeNVML
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import (
    Accounts,
    EnergyMeter,
    Found,
    Report,
    Source,
    Unavailable,
    discover,
    report_from_journal,
)
from dpet_jax.energy.accounts.journal import Journal
from dpet_jax.energy.accounts.ledger import PHASES, Row
from dpet_jax.energy.accounts.logbook import Trace
from dpet_jax.energy.accounts.state import Idle, Lost
from dpet_jax.energy.report.report import (
    build_report,
    doubts,
    exclusive,
    headline,
    warnings,
)
from dpet_jax.energy.sensing.channel import ChannelRecord, Facts, SourceRecord
from dpet_jax.energy.sensing.curve import Totals

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
    return EnergyMeter(Found(probes, unavailable), clock=clock, period_s=0.2)


def run(clock, *probes, unavailable=()):
    """Report ten seconds of training, five of selection and one of neither."""
    with meter_of(clock, *probes, unavailable=unavailable) as meter:
        with meter.window("train", "round 1"):
            clock.wait(8.0)
            with meter.window("select"):
                clock.wait(5.0)
            clock.wait(2.0)
        clock.wait(1.0)
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


def test_what_only_the_program_knows_is_left_open(clock):
    data = run(clock, gpu(clock)).data
    assert data["energy_to_accuracy"] == []
    for key in ("run_id", "budget", "proxies", "carbon"):
        assert data[key] is None
    assert data["system"].keys() == {"gpus"}


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


def test_phase_is_reported_with_and_without_what_it_contains(clock):
    train = run(clock, gpu(clock)).data["phases"]["train"]
    assert (train["s"], train["inclusive_s"]) == pytest.approx((10.0, 15.0))
    assert j(train["wh"]) == pytest.approx(3600.0)
    assert j(train["inclusive_wh"]) == pytest.approx(5400.0)
    assert (train["count"], train["sync"]) == (1, "barrier")


def test_label_is_reported_like_a_phase(clock):
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
                clock.wait(10.0)
            clock.wait(1.0)
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


def test_sources_that_disagree_are_reported_with_a_warning(clock):
    probe = FakeProbe(clock, counter(lambda t: 360 * t), power(300.0))
    data = run(clock, probe).data
    check = data["energy"]["by_source"][0]["cross_check"]
    assert check == {
        "method": "power",
        "quality": "measured",
        "coverage": None,
        "wh": pytest.approx(16 * 300 / 3600),
        "rel_diff": pytest.approx(0.2),
    }
    assert data["warnings"] == ["gpu:A: counter and power differ by +20%"]
    assert data["valid"], "a warning is no doubt"


def test_source_alone_has_no_cross_check(clock):
    sees_all = FakeProbe(clock, power(360.0, sensor_window_s=1.0))
    data = run(clock, sees_all, model(clock)).data
    assert [s["cross_check"] for s in data["energy"]["by_source"]] == [None, None]
    assert data["warnings"] == []
    twice = FakeProbe(clock, counter(lambda t: 3 * t), counter(lambda t: 9 * t))
    (source,) = run(clock, twice).data["energy"]["by_source"]
    assert source["cross_check"] is None, "two counters may be one and the same"


def test_what_is_inside_another_is_reported_but_not_added(clock):
    node = gpu(clock, 720.0, id="node:PDU", component="node", scope="node")
    data = run(clock, gpu(clock), node).data
    counted = {s["id"]: s["counted"] for s in data["energy"]["by_source"]}
    assert counted == {"gpu:A": False, "node:PDU": True}
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
        clock.wait(1.0)
        with meter.window("train"):
            clock.wait(10.0)
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


def test_without_a_baseline_the_least_that_was_seen_is_used_and_called_so(clock):
    probe = gpu(clock, lambda t: 60.0 if t < 10 else 360.0)
    with meter_of(clock, probe) as meter:
        clock.wait(40.0)
    idle = meter.report().data["energy"]["idle"]
    assert (idle["method"], idle["seconds"]) == ("min_observed", None)
    assert idle["watts"] == {"gpu:A": pytest.approx(60.0, abs=1)}


def test_net_is_unknown_where_the_idle_power_of_one_source_is(clock):
    with meter_of(clock, gpu(clock), gpu(clock, id="gpu:B")) as meter:
        clock.wait(4.0)
    idle = Idle("measured", {"gpu:A": 60.0}, 1.0)
    accounts = replace(meter.accounts(), idle=idle)
    energy = build_report(accounts, Trace(), complete=True).data["energy"]
    assert energy["measured_wh"] > 0
    assert energy["net_of_idle_wh"] is None


def test_idle_power_is_not_taken_off_seconds_that_nobody_measured(clock):
    def joules(t):
        return 360.0 * t if t < 11 else 360.0 * (t - 11)  # starts anew

    with meter_of(clock, FakeProbe(clock, counter(joules))) as meter:
        clock.wait(9.9)
        clock.skip(2.1)
        clock.wait(8.0)
    idle = Idle("measured", {"gpu:A": 60.0}, 1.0)
    accounts = replace(meter.accounts(), idle=idle)
    data = build_report(accounts, Trace(), complete=True).data
    (source,) = data["energy"]["by_source"]
    seen_s = data["time"]["wall_s"] - source["unmeasured_s"]
    assert source["unmeasured_s"] > 2
    assert j(data["energy"]["net_of_idle_wh"]) == pytest.approx(seen_s * 300)


def test_short_windows_are_marked_as_too_short_for_sensors(clock):
    with meter_of(clock, gpu(clock)) as meter:
        for _ in range(4):
            with meter.window("eval"):
                clock.wait(0.5)
            with meter.window("train"):
                clock.wait(2.0)
        with meter.window("compile"):
            clock.wait(0.25)
        clock.wait(0.5)
    phases = meter.report().data["phases"]
    limited = {name: p["resolution_limited"] for name, p in phases.items() if p["s"]}
    assert limited == {"eval": True, "train": False, "compile": True, "other": True}


def test_gpus_are_described_with_their_temperature_at_both_ends(clock):
    probe = gpu(clock)
    probe.known = {"name": "H200", "temperature_c": 41}
    with meter_of(clock, probe) as meter:
        clock.wait(1.0)
        probe.known = {"name": "H200", "temperature_c": 66}
    (facts,) = meter.report().data["system"]["gpus"]
    assert facts == {
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
def test_every_energy_has_its_quality_beside_it(which, clock):
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


def test_measured_and_modelled_energy_are_both_reported_and_never_summed(clock):
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


# doubts


def test_measured_run_is_valid(clock):
    data = run(clock, gpu(clock)).data
    assert (data["valid"], data["reason_codes"], data["complete"]) == (True, [], True)


def test_board_shared_by_instances_is_an_upper_bound_and_not_valid(monkeypatch, clock):
    migs = ["MIG-6a000000-1111-4222-8333-444455556666"]
    nvml = FakeNVML([FakeGpu(mig=migs)], clock=clock)
    clock.skip(2.0)
    nvml.install(monkeypatch, migs)
    found = discover(host=False)
    with EnergyMeter(found, clock=clock) as meter:
        clock.wait(5.0)
    data = meter.report().data
    assert (data["valid"], data["reason_codes"]) == (False, ["mig_parent"])
    assert data["energy"]["by_source"][0]["scope"] == "gpu_parent"
    assert data["system"]["gpus"][0]["attribution"] == "shared_upper_bound"


@pytest.mark.parametrize(
    ("foreign", "alone", "codes"),
    [(True, "no", ["foreign_process"]), (False, "yes", []), (None, "unknown", [])],
)
def test_gpu_that_others_use_is_not_exclusive_and_not_valid(
    foreign, alone, codes, clock
):
    probe = gpu(clock)
    probe.known = {"foreign_processes": foreign}
    data = run(clock, probe).data
    assert data["boundary"]["exclusive"] == alone
    assert (data["valid"], data["reason_codes"]) == (not codes, codes)
    assert data["event_counts"].get("foreign_process", 0) == len(codes)


@pytest.mark.parametrize(("silent_s", "codes"), [(1.9, []), (2.5, ["gap"])])
def test_gap_of_a_tenth_in_the_power_is_the_most(silent_s, codes, clock):
    with meter_of(clock, gpu(clock)) as meter:
        clock.wait(10.0)
        clock.skip(silent_s)
        clock.wait(20.0 - 10.0 - silent_s)
    data = meter.report().data
    assert data["energy"]["by_source"][0]["gap_s"] == pytest.approx(silent_s, abs=0.2)
    assert (data["valid"], data["reason_codes"]) == (not codes, codes)
    assert j(data["energy"]["measured_wh"]) == pytest.approx(7200.0)


def test_gap_of_a_counter_loses_nothing(clock):
    with meter_of(clock, FakeProbe(clock, counter(lambda t: 360 * t))) as meter:
        clock.skip(15.0)
        clock.wait(5.0)
    data = meter.report().data
    assert data["valid"]
    assert j(data["energy"]["measured_wh"]) == pytest.approx(7200.0)


@pytest.mark.parametrize(("silent_s", "codes"), [(1.9, []), (4.0, ["unmeasured"])])
def test_tenth_of_the_time_without_a_reading_is_the_most(silent_s, codes, clock):
    probe = gpu(clock)
    with meter_of(clock, probe) as meter:
        clock.wait(20.0)
        probe.error = OSError("gone")
        clock.wait(silent_s)
    data = meter.report().data
    (source,) = data["energy"]["by_source"]
    assert source["unmeasured_s"] == pytest.approx(silent_s, abs=0.1)
    assert (data["valid"], data["reason_codes"]) == (not codes, codes)


def test_what_a_crash_lost_is_reported_beside_the_total(clock):
    with meter_of(clock, gpu(clock)) as meter:
        meter.resume(Accounts(segments=1, lost=Lost(5.0, 0.5, "measured")))
        clock.wait(10.0)
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
        meter.resume(Accounts(lost=Lost(5.0, 0.5, "measured")))
    (found,) = numbers(meter.report().data)
    assert found == (".energy.lost.wh", 0.5, "measured")


def channel(kind="power", scope="gpu", quality="measured", component="gpu", **known):
    source = Source("m", kind, quality=quality, max_w=700.0)
    totals = Totals(unmeasured_s=known.pop("unmeasured_s", 0.0))
    counted = known.pop("counted", True)
    return ChannelRecord(
        component,
        scope,
        counted,
        0,
        (SourceRecord(source),),
        totals,
        facts=Facts(**known),
    )


def accounts_of(*channels):
    return Accounts(channels={f"gpu:{n}": one for n, one in enumerate(channels)})


def doubts_of(*channels, gap_s=0.0, quality="measured"):
    whole = Row(100.0, {f"gpu:{n}": Totals(gap_s=gap_s) for n in range(len(channels))})
    return doubts(accounts_of(*channels), quality, whole)


def test_energy_of_a_sensor_that_saw_all_is_beyond_doubt():
    assert doubts_of(channel()) == []


def test_what_is_not_measured_is_doubted_for_that():
    for quality in ("modelled", "unavailable"):
        assert doubts_of(channel(), quality=quality) == [quality]


def test_a_tenth_of_the_time_may_be_unmeasured_or_a_gap_in_power():
    assert doubts_of(channel(unmeasured_s=9.9)) == []
    assert doubts_of(channel(unmeasured_s=10.1)) == ["unmeasured"]
    assert doubts_of(channel(), gap_s=9.9) == []
    assert doubts_of(channel(), gap_s=10.1) == ["gap"]
    assert doubts_of(channel("counter"), gap_s=99.0) == [], "a counter loses nothing"


def test_doubts_are_named_once_and_in_order():
    shared = channel(scope="gpu_parent", shared=True, unmeasured_s=50.0)
    codes = ["foreign_process", "gap", "mig_parent", "unmeasured"]
    assert doubts_of(shared, shared, gap_s=50.0) == codes


def test_sensor_that_is_not_part_of_the_total_casts_no_doubt():
    assert doubts_of(channel(counted=False, unmeasured_s=99.0, shared=True)) == []
    assert doubts_of(channel(quality="modelled", unmeasured_s=99.0)) == []


def a_source(rel_diff=None, check_coverage=1.0, **known):
    check = {
        "method": "POWER_AVERAGE",
        "rel_diff": rel_diff,
        "coverage": check_coverage,
    }
    return {
        "id": "gpu:A",
        "method": "COUNTER",
        "quality": "measured",
        "coverage": 1.0,
        "given_by": [{"method": "COUNTER", "from_s": 0.0, "why": ""}],
        "cross_check": None if rel_diff is None else check,
        **known,
    }


def test_sources_that_differ_by_more_than_a_tenth_are_warned_of():
    assert warnings([a_source(0.09), a_source(-0.09)]) == []
    assert warnings([a_source()]) == []
    assert warnings([a_source(-0.25), a_source(0.11)]) == [
        "gpu:A: COUNTER and POWER_AVERAGE differ by -25%",
        "gpu:A: COUNTER and POWER_AVERAGE differ by +11%",
    ]


def test_source_that_took_the_place_of_another_is_warned_of():
    spans = [
        {"method": "COUNTER", "from_s": 0.0, "why": ""},
        {"method": "POWER", "from_s": 31.4, "why": "COUNTER stood still"},
    ]
    assert warnings([a_source(given_by=spans)]) == [
        "gpu:A: from 31 s on the energy is that of POWER, since COUNTER stood still"
    ]


@pytest.mark.parametrize(
    ("known", "what"),
    [
        ({"coverage": 0.25}, "sees 25% of the time"),
        ({"coverage": None}, "sees moments of unknown length"),
        ({"coverage": 0.25, "rel_diff": 0.05, "check_coverage": 0.25}, "sees 25%"),
        ({"coverage": 0.25, "rel_diff": 0.05, "check_coverage": 1.0}, None),
        ({"coverage": None, "quality": "modelled"}, None),
        ({"coverage": 1.0}, None),
    ],
)
def test_sensor_that_a_fast_load_can_mislead_is_warned_of(known, what):
    found = warnings([a_source(**known)])
    assert len(found) == (what is not None)
    assert all(what in warning for warning in found)


@pytest.mark.parametrize(
    ("answers", "alone"),
    [
        ([], "unknown"),
        ([False], "yes"),
        ([False, False], "yes"),
        ([False, None], "unknown"),
        ([True, False], "unknown"),  # the latest answer only
    ],
)
def test_gpus_are_exclusive_only_if_all_say_so(answers, alone):
    gpus = [channel(last={"foreign_processes": answer}) for answer in answers]
    cpu = channel(component="cpu", last={"foreign_processes": None})
    assert exclusive(accounts_of(*gpus, cpu)) == alone


def test_gpu_that_was_ever_shared_is_not_exclusive():
    shared = channel(shared=True, last={"foreign_processes": False})
    alone = channel(last={"foreign_processes": False})
    assert exclusive(accounts_of(shared, alone)) == "no"
    assert exclusive(accounts_of(channel())) == "unknown"


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
    probe.known = {"foreign_processes": True}
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

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="No space"):
        Report({"new": 1}).write(path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_report_of_a_journal_is_that_of_the_meter(tmp_path, clock):
    path = tmp_path / "energy.jsonl"
    with meter_of(clock, gpu(clock), unavailable=(NO_CPU,)) as meter:
        meter.keep_journal(path)
        with meter.window("train"):
            clock.wait(10.3)
    ours, read = meter.report().data, report_from_journal(path).data
    for data in (ours, read):
        data["time"]["end_utc"] = None
    assert read == ours


def test_report_of_a_run_that_has_only_begun_is_empty_but_whole(tmp_path):
    path = tmp_path / "energy.jsonl"
    Journal(path, Accounts()).close()
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


def test_phases_of_a_model_are_printed_with_their_interval(clock):
    lines = [x for x in str(run(clock, model(clock))).splitlines() if "Wh" in x]
    assert len(lines) > 2
    assert all("≈" in line and "[" in line for line in lines)
    measured = str(run(clock, gpu(clock)))
    assert "≈" not in measured
