"""The accounts of a run: segments add up, and come back from what is on disk."""

import copy
import json
import math
import re
import time
from dataclasses import replace

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import PHASES, Accounts, EnergyMeter, Found, Source, Unavailable
from dpet_jax.energy.accounts.ledger import Row
from dpet_jax.energy.accounts.state import (
    Idle,
    Lost,
    Sampling,
    suspended_s,
    utc_now,
)
from dpet_jax.energy.sensing.channel import ChannelRecord, Facts, SourceRecord, Span
from dpet_jax.energy.sensing.curve import Totals

MODEL = {"quality": "modelled", "rel_uncertainty": 0.0}


@pytest.fixture
def clock():
    return FakeClock()


def modelled(clock, watts=50.0):
    sources = [power(watts, **MODEL), power(watts / 2, **MODEL), power(90.0, **MODEL)]
    return FakeProbe(clock, *sources, id="cpu:model", component="cpu", scope="package")


def accounts_of(clock, *probes, seconds=10.0, unavailable=(), facts=None):
    """Run a meter for a window "train" of so many seconds and one second more."""
    for probe in probes:
        probe.known = facts or {}
    with EnergyMeter(Found(probes, unavailable), clock=clock, period_s=0.5) as meter:
        with meter.window("train", "round 1"):
            clock.wait(seconds)
        clock.wait(1.0)
    return meter.accounts()


def gpu(clock, watts=100.0, **known):
    return FakeProbe(clock, power(watts), **known)


def joules(accounts, phase, channel="gpu:A"):
    return accounts.phases[phase].totals[channel].energy_j


def test_run_that_has_not_begun_has_spent_nothing_and_measures_nothing():
    nothing = Accounts()
    assert nothing.seconds() == dict.fromkeys(PHASES, 0.0)
    assert (nothing.quality, nothing.wh()) == ("unavailable", None)
    assert nothing.lost == (0.0, None, "unavailable")


# adding up


def test_segments_of_a_run_add_up(clock):
    first = accounts_of(clock, gpu(clock), seconds=10.0)
    second = accounts_of(clock, gpu(clock, 300.0), seconds=4.0)
    both = first + second
    assert both.seconds()["train"] == pytest.approx(14.0)
    assert both.total_s == pytest.approx(16.0)
    assert joules(both, "train") == pytest.approx(1000 + 1200)
    assert joules(both, "other") == pytest.approx(100 + 300)
    assert both.labels["round 1"].s == pytest.approx(14.0)
    assert both.phases["train"].count == 2
    channel = both.channels["gpu:A"]
    assert channel.totals.energy_j == pytest.approx(2600.0)
    assert channel.sources[0].energy_j == pytest.approx(2600.0)
    assert channel.max_w == 300.0
    samples = [part.channels["gpu:A"].sources[0].samples for part in (first, second)]
    assert channel.sources[0].samples == sum(samples)
    assert both.segments == 2


def test_anomalies_and_the_highest_power_of_a_sensor_are_those_of_all_segments(clock):
    def failing(t):
        return None if 1 < t % 4 < 2 else 300.0

    first = accounts_of(clock, gpu(clock, failing))
    second = accounts_of(clock, gpu(clock))
    failed = first.channels["gpu:A"].events["read_failed"]
    for both in (first + second, second + first):
        channel = both.channels["gpu:A"]
        assert channel.max_w == 300.0
        assert channel.events["read_failed"] == failed > 0


def test_segments_are_left_alone_by_adding_them(clock):
    first, second = accounts_of(clock, gpu(clock)), accounts_of(clock, gpu(clock))
    keep = copy.deepcopy((first, second))
    assert first + second != first
    assert (first, second) == keep


def test_adding_nothing_changes_nothing(clock):
    accounts = accounts_of(clock, gpu(clock), facts={"driver": "580"})
    assert Accounts() + accounts == accounts


def test_beginning_is_the_first_segments_and_the_end_the_last_ones():
    first = Accounts(
        start_utc="a",
        now_utc="b",
        suspended_s=1.0,
        idle=Idle("measured", {}, 1.0),
        lost=Lost(3.0, 1.0, "measured"),
    )
    no_cpu = Unavailable("cpu", "why", "what")
    second = Accounts(
        start_utc="c", now_utc="d", suspended_s=2.0, unavailable=(no_cpu,)
    )
    both = first + second
    assert (both.start_utc, both.now_utc, both.suspended_s) == ("a", "d", 3.0)
    assert (both.idle, both.lost) == (first.idle, first.lost)
    assert both.unavailable == (no_cpu,)
    later = Idle("measured", {"x": 1.0}, 1.0)
    assert (first + replace(second, idle=later)).idle == later


def test_anomalies_of_all_segments_are_kept_in_order_and_counted():
    first = Accounts(
        events=({"what": "a"}, {"what": "b"}),
        event_counts={"a": 1},
        meter=Sampling(9.0, 10, 1, cpu_s=0.5),
    )
    second = Accounts(
        events=({"what": "c"},),
        event_counts={"a": 2, "c": 1},
        meter=Sampling(0.1, 5, 2, cpu_s=0.25),
    )
    both = first + second
    assert [event["what"] for event in both.events] == ["a", "b", "c"]
    assert list(both.to_json()["events"]) == ["0", "1", "2"]
    assert both.event_counts == {"a": 3, "c": 1}
    assert both.meter == Sampling(0.1, 15, 3, cpu_s=0.75)


def test_segment_without_a_sensor_is_unmeasured_time_of_it(clock):
    blind = accounts_of(clock, seconds=5.0)  # six seconds in all
    seeing = accounts_of(clock, gpu(clock), seconds=10.0)
    for both in (blind + seeing, seeing + blind):
        totals = both.channels["gpu:A"].totals
        assert totals.unmeasured_s == pytest.approx(6.0)
        assert totals.energy_j == pytest.approx(1100.0)
        assert both.quality == "measured"


def test_facts_are_the_first_and_the_last_ones_and_sharing_is_not_forgotten(clock):
    shared = {"temperature_c": 40, "foreign_processes": True}
    alone = {"temperature_c": 70, "foreign_processes": False}
    first = accounts_of(clock, gpu(clock), facts=shared)
    second = accounts_of(clock, gpu(clock), facts=alone)

    def facts(accounts):
        return accounts.channels["gpu:A"].facts

    assert facts(first + second) == Facts(shared, True, alone)
    assert facts(second + first) == Facts(alone, True, shared)
    assert facts(second + second).shared is False


def test_other_sources_after_a_change_of_driver_are_not_added_up(clock):
    first = accounts_of(clock, gpu(clock))
    second = accounts_of(clock, FakeProbe(clock, counter(lambda t: 100.0 * t)))
    channel = (first + second).channels["gpu:A"]
    (source,) = channel.sources
    assert source.source.kind == "counter"
    assert source.energy_j == pytest.approx(1100.0)
    assert channel.totals.energy_j == pytest.approx(2200.0)


# quality


def test_best_quality_at_hand_counts_and_others_are_not_mixed_in(clock):
    both = accounts_of(clock, gpu(clock), modelled(clock))
    assert both.quality == "measured"
    assert both.counted("measured") == ["gpu:A"]
    assert both.counted("modelled") == ["cpu:model"]
    assert both.wh()["train"] * 3600 == pytest.approx(1000.0)
    row = both.phases["train"]
    assert both.energy(row, edges=True).wh * 3600 == pytest.approx(1000.0)
    guess = both.energy(row, "modelled", edges=True)
    assert guess.wh * 3600 == pytest.approx(500.0)
    only = accounts_of(clock, modelled(clock))
    assert only.quality == "modelled"
    assert only.wh()["train"] * 3600 == pytest.approx(500.0)
    nothing = replace(both, channels={}).energy(row, edges=True)
    assert (nothing.wh, nothing.quality) == (None, "unavailable")


def test_what_lies_inside_another_does_not_count(clock):
    node = gpu(clock, 500.0, id="node:PDU", component="node", scope="node")
    accounts = accounts_of(clock, gpu(clock), node, modelled(clock))
    assert accounts.counted("measured") == ["node:PDU"]
    assert accounts.wh()["train"] * 3600 == pytest.approx(5000.0)
    inside = replace(accounts.channels["node:PDU"], counted=False)
    without = replace(accounts, channels=accounts.channels | {"node:PDU": inside})
    assert without.quality == "modelled"


def test_energy_of_several_channels_is_their_sum(clock):
    accounts = accounts_of(clock, gpu(clock), gpu(clock, 300.0, id="gpu:B"))
    assert accounts.wh()["train"] * 3600 == pytest.approx(4000.0)
    assert accounts.wh()["select"] == 0.0


# crashes


def test_what_came_after_the_checkpoint_is_lost_and_no_more(clock):
    with EnergyMeter(Found((gpu(clock),), ()), clock=clock) as meter:
        clock.wait(10.0)
        kept = meter.accounts()
        with meter.window("train"):
            clock.wait(5.0)
        crashed = meter.accounts()
    resumed = kept.with_lost(replace(crashed, segments=3, start_utc="then"))
    assert resumed.lost.s == pytest.approx(5.0)
    assert resumed.lost.wh * 3600 == pytest.approx(500.0)
    assert resumed.lost.quality == "measured"
    assert resumed.phases == kept.phases
    assert (resumed.segments, resumed.start_utc) == (3, "then")


def test_losses_of_several_crashes_add_up(clock):
    kept = Accounts()
    for _ in range(3):
        with EnergyMeter(Found((gpu(clock),), ()), clock=clock) as meter:
            meter.resume(kept)
            clock.wait(5.0)
            kept = kept.with_lost(meter.accounts())
    assert kept.lost.s == pytest.approx(15.0)
    assert kept.lost.wh * 3600 == pytest.approx(1500.0)
    assert kept.seconds()["other"] == 0.0


def test_what_nobody_measured_is_lost_by_an_unknown_amount(clock):
    lost = Accounts().with_lost(accounts_of(clock, seconds=10.0)).lost
    assert lost == (pytest.approx(11.0), None, "unavailable")


def test_loss_is_of_the_crashed_segments_quality_alone(clock):
    kept = accounts_of(clock, modelled(clock))
    crashed = kept + accounts_of(clock, gpu(clock), seconds=10.0)
    lost = kept.with_lost(crashed).lost
    assert lost.quality == "measured"
    assert lost.wh * 3600 == pytest.approx(1100.0)


# on disk

#: Accounts as they are written; what the first runs wrote must stay readable too.
ON_DISK = {
    "schema": "dpet-jax/meter-state/2",
    "segments": 2,
    "start_utc": "2026-03-01T10:00:00Z",
    "now_utc": "2026-03-01T10:02:30Z",
    "suspended_s": 0.25,
    "phases": {
        "train": {
            "s": 1.5,
            "totals": {
                "gpu:A": [1.0, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
            },
            "inclusive_s": 2.5,
            "inclusive_j": {"gpu:A": 3.5},
            "count": 4,
            "short_s": 0.5,
            "compile_s": 0.25,
            "edge_j2": {"gpu:A": 6.5},
            "sync": ["explicit", "none"],
            "edges": 5,
        }
    },
    "labels": {},
    "channels": {
        "gpu:A": {
            "component": "gpu",
            "scope": "gpu",
            "counted": True,
            "active": 0,
            "sources": [
                {
                    "method": "m",
                    "kind": "counter",
                    "rel_uncertainty": 0.1,
                    "update_period_s": 0.2,
                    "sensor_window_s": 0.3,
                    "wrap_j": 400.0,
                    "max_w": 500.0,
                    "quality": "measured",
                    "energy_j": 12.0,
                    "samples": 30,
                    "alive": False,
                    "moved": False,
                    "step_j": 2.25,
                }
            ],
            "totals": {
                "energy_j": 1.0,
                "samples": 2,
                "gap_s": 3.0,
                "unmeasured_s": 4.0,
                "variance_j2": 5.0,
                "sum_w": 6.0,
                "sum_w2": 7.0,
                "low_j": 8.0,
                "high_j": 9.0,
                "over_power_j": 10.0,
                "over_counter_j": 11.0,
            },
            "max_w": 300.0,
            "events": {"gap": 1},
            "facts": {"first": {"t": 40}, "shared": None, "last": {"t": 50}},
            "spans": [["c", 0.0, ""], ["m", 6.5, "c failed"]],
        }
    },
    "unavailable": [["cpu", "denied", "as root"]],
    "events": {"0": {"what": "gap"}, "1": {"what": "wrap"}},
    "event_counts": {"gap": 1, "wrap": 1},
    "idle": {"method": "measured", "watts": {"gpu:A": 60.0}, "seconds": 8.0},
    "meter": {
        "period_s": 0.1,
        "ticks": 7,
        "missed_ticks": 1,
        "tick_ms_p50": 0.5,
        "tick_ms_p99": None,
        "cpu_s": 0.125,
        "clock": "monotonic",
    },
    "lost": {"s": 5.0, "wh": 0.5, "quality": "measured"},
}
TOTALS = Totals(1.0, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0)


def on_disk_of_the_first_runs():
    """The same as version 1 wrote it: without the keys that came later."""
    plain = copy.deepcopy(ON_DISK)
    plain["schema"] = "dpet-jax/meter-state/1"
    row, channel = plain["phases"]["train"], plain["channels"]["gpu:A"]
    del row["edges"], row["totals"]["gpu:A"][9:], channel["spans"]
    del channel["totals"]["over_power_j"], channel["totals"]["over_counter_j"]
    del channel["sources"][0]["moved"], channel["sources"][0]["step_j"]
    return plain


def test_accounts_on_disk_are_read_and_written_under_the_same_names():
    accounts = Accounts.from_json(copy.deepcopy(ON_DISK))
    source = Source("m", "counter", 0.1, 0.2, 0.3, 400.0, 500.0)
    assert accounts.phases["train"] == Row(
        s=1.5,
        totals={"gpu:A": TOTALS},
        inclusive_s=2.5,
        inclusive_j={"gpu:A": 3.5},
        count=4,
        short_s=0.5,
        compile_s=0.25,
        edge_j2={"gpu:A": 6.5},
        sync=frozenset({"none", "explicit"}),
        edges=5,
    )
    assert accounts.channels["gpu:A"] == ChannelRecord(
        "gpu",
        "gpu",
        True,
        0,
        (SourceRecord(source, 12.0, 30, False, False, 2.25),),
        TOTALS,
        300.0,
        {"gap": 1},
        Facts({"t": 40}, None, {"t": 50}),
        (Span("c", 0.0), Span("m", 6.5, "c failed")),
    )
    assert accounts.idle == Idle("measured", {"gpu:A": 60.0}, 8.0)
    assert accounts.meter == Sampling(0.1, 7, 1, 0.5, None, 0.125)
    assert accounts.lost == Lost(5.0, 0.5, "measured")
    assert [event["what"] for event in accounts.events] == ["gap", "wrap"]
    assert accounts.to_json() == ON_DISK


def test_accounts_of_the_first_version_are_read_with_what_they_lack_at_its_default():
    old = Accounts.from_json(on_disk_of_the_first_runs())
    new = Accounts.from_json(copy.deepcopy(ON_DISK))
    totals = replace(TOTALS, over_power_j=0.0, over_counter_j=0.0)
    (source,) = new.channels["gpu:A"].sources
    assert old == replace(
        new,
        phases={
            "train": replace(new.phases["train"], totals={"gpu:A": totals}, edges=0)
        },
        channels={
            "gpu:A": replace(
                new.channels["gpu:A"],
                sources=(source._replace(moved=True, step_j=0.0),),
                totals=totals,
                spans=(),
            )
        },
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "dpet-jax/meter-state/9", "schema: is 'dpet-jax/meter-state/9'"),
        ("schema", None, "schema: is None"),
        ("segments", "2", "segments: is '2', not a finite number"),
        ("segments", True, "segments: is True, not a finite number"),
        ("suspended_s", math.nan, "suspended_s: is nan, not a finite number"),
        ("phases", [], r"phases: is \[\], not an object"),
        ("phases.train", None, "phases.train: is None, not an object"),
        ("phases.train.s", math.inf, "phases.train.s: is inf, not a finite"),
        ("phases.train.s", 10**400, "phases.train.s: is 1000"),
        ("phases.train.totals.gpu:A", [0.0] * 12, "gpu:A: is .*, not an object"),
        ("phases.train.totals.gpu:A", ["x"], "energy_j: is 'x', not a finite"),
        ("phases.train.hue", 1, "phases.train.hue: no such key is known"),
        ("labels.x", 1, "labels.x: is 1, not an object"),
        ("channels", None, "no energy accounts"),
        ("channels.gpu:A.active", 1, "channels.gpu:A.active: there is no such source"),
        ("channels.gpu:A.active", -1, "channels.gpu:A.active: there is no such"),
        ("channels.gpu:A.sources", 3, "no energy accounts"),
        ("channels.gpu:A.sources", [{}], "source.method: is missing"),
        ("channels.gpu:A.counted", 1, "counted: is 1, not bool"),
        ("channels.gpu:A.facts", [1, None, None], r"facts.first: is 1, not an obj"),
        ("channels.gpu:A.spans", [["c", "x"]], r"spans\[0\].from_s: is 'x'"),
        ("unavailable", [["cpu", "denied"]], r"unavailable\[0\].remedy: is missing"),
        ("unavailable", [["a", "b", "c", "d"]], r"unavailable\[0\]: is"),
        ("events", ["gap"], "no energy accounts"),
        ("event_counts", {"gap": 1.5}, "event_counts.gap: is 1.5, not a finite"),
        ("idle", {"watts": {}}, "idle.method: is missing"),
        ("meter", {"period_s": None}, "meter.period_s: is None"),
        ("lost.quality", "guessed", "lost.quality: is 'guessed'"),
    ],
)
def test_accounts_that_are_damaged_are_refused_with_the_key(path, value, message):
    plain = copy.deepcopy(ON_DISK)
    *outer, last = path.split(".")
    inner = plain
    for name in outer:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(ValueError, match=message):
        Accounts.from_json(plain)


def test_accounts_of_nothing_come_back_too():
    plain = json.loads(json.dumps(Accounts().to_json()))
    assert Accounts.from_json(plain) == Accounts()


# the time of day


def test_time_of_day_is_utc_to_the_second(monkeypatch):
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert utc_now() >= before
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", utc_now())
    real = time.gmtime
    monkeypatch.setattr(time, "gmtime", lambda: real(1_772_359_201.9))
    monkeypatch.setattr(time, "localtime", None)
    assert utc_now() == "2026-03-01T10:00:01Z"


def test_sleep_is_what_the_monotonic_clock_leaves_out(monkeypatch):
    clocks = {"boot": 500.0, "monotonic": 380.0}
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", "boot", raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", "monotonic")
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    assert suspended_s() == 120.0


def test_machine_that_does_not_count_its_sleep_has_not_slept(monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "clock_gettime", None)
    assert suspended_s() == 0.0
