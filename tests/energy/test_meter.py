"""The meter: every second and joule of a run in one window, whatever sensors do."""

import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import (
    PHASES,
    Accelerator,
    Accounts,
    Clock,
    EnergyMeter,
    Found,
    NoSourceError,
    Unavailable,
)
from dpet_jax.energy.accounts.journal import read
from dpet_jax.energy.accounts.logbook import Logbook

MODEL = {"quality": "modelled", "rel_uncertainty": 0.0}
NO_CPU = Unavailable("cpu", "powercap: permission denied", "as root, chgrp")
THREAD = "dpet-energy-sampler"
LONG_S = 60  # for what takes no time unless it hangs


@pytest.fixture
def clock():
    return FakeClock()


def gpu(clock, watts=100.0, **known):
    return FakeProbe(clock, power(watts), **known)


def model(clock):
    sources = [power(watts, **MODEL) for watts in (50.0, 20.0, 90.0)]
    return FakeProbe(clock, *sources, id="cpu:model", component="cpu", scope="package")


def meter_of(clock, *probes, unavailable=(), **options):
    return EnergyMeter(Found(probes, unavailable), clock=clock, **options)


def j(energy):
    return energy.wh * 3600


def spent(meter):
    """Seconds and joules of the phases in which any were spent."""
    joules = {phase: wh * 3600 for phase, wh in (meter.wh() or {}).items()}
    return {
        phase: (pytest.approx(s), pytest.approx(joules.get(phase)))
        for phase, s in meter.seconds().items()
        if s > 1e-6
    }


# windows; how nested ones share seconds and joules is the ledger's, and tested there


def test_window_holds_what_was_used_inside_it(clock):
    with meter_of(clock, gpu(clock, lambda t: 10 * t)) as meter:
        clock.wait(5.0)
        with meter.window("train") as window:
            clock.wait(10.0)
        clock.wait(5.0)
    assert (window.phase, window.label) == ("train", None)
    assert window.s == pytest.approx(10.0)
    assert j(window.energy) == pytest.approx(1000.0)
    assert window.energy.quality == "measured"
    assert window.energy.channels == ("gpu:A",)


def test_window_knows_its_energy_as_well_as_the_sensor_knows_its_edges(clock):
    late = counter(lambda t: 100 * t, rel_uncertainty=0.0, update_period_s=0.1)
    meter = meter_of(clock, FakeProbe(clock, late))
    with meter, meter.window("train") as window:
        clock.wait(10.0)
    low, high = window.energy.interval_wh
    edges_j = 2 * (2 * (0.1 * 100) ** 2 / 8) ** 0.5  # of two edges, at k=2
    assert ((high - low) / 2) * 3600 == pytest.approx(edges_j)


def test_inner_window_pauses_the_outer_one_which_still_includes_it(clock):
    with meter_of(clock, gpu(clock), period_s=0.5) as meter:
        with meter.window("train") as outer:
            clock.wait(1.0)
            with meter.window("eval") as inner:
                clock.wait(10.0)
                with meter.window("compile"):
                    clock.wait(30.0)
                clock.wait(20.0)
            clock.wait(2.0)
        clock.wait(4.0)
    assert spent(meter) == {
        "train": (3.0, 300.0),
        "eval": (30.0, 3000.0),
        "compile": (30.0, 3000.0),
        "other": (4.0, 400.0),
    }
    assert (inner.s, j(inner.energy)) == pytest.approx((60.0, 6000.0))
    assert (outer.s, j(outer.energy)) == pytest.approx((63.0, 6300.0))
    phases = meter.report().data["phases"]
    assert phases["eval"]["inclusive_s"] == pytest.approx(60.0)
    assert phases["eval"]["inclusive_wh"] * 3600 == pytest.approx(6000.0)


def test_phase_may_be_any_word(clock):
    with meter_of(clock, gpu(clock)) as meter, meter.window("distill"):
        clock.wait(1.0)
    assert spent(meter) == {"distill": (1.0, 100.0)}
    assert list(meter.seconds()) == [*PHASES, "distill"]


def test_label_is_that_of_the_window_around_unless_it_has_its_own(clock):
    with meter_of(clock, gpu(clock)) as meter:
        with meter.window("round", "round 1") as outer:
            with meter.window("train") as inner:
                clock.wait(2.0)
            with meter.window("eval", "final") as own:
                clock.wait(3.0)
        with meter.window("train") as bare:
            clock.wait(1.0)
        with meter.window("round", "ignored", index=12) as numbered:
            pass
    labels = [window.label for window in (outer, inner, own, bare, numbered)]
    assert labels == ["round 1", "round 1", "final", None, "round 12"]
    rows = meter.report().data["labels"]
    assert {name: row["s"] for name, row in rows.items()} == {
        "round 1": pytest.approx(2.0),
        "final": pytest.approx(3.0),
        "round 12": 0,
    }
    assert rows["round 1"]["inclusive_s"] == pytest.approx(5.0)


def overlapping(clock, meter, ends_first):
    """Two threads with a window each: both alone for a while, and 6 s together."""
    together, apart = threading.Barrier(2), threading.Barrier(2)
    windows = {}

    def load():
        together.wait(LONG_S)
        with meter.window("data", "loader") as windows["data"]:
            together.wait(LONG_S)
            apart.wait(LONG_S)  # until the other thread has let the time pass
            if ends_first == "train":
                apart.wait(LONG_S)
        apart.wait(LONG_S)

    thread = threading.Thread(target=load)
    thread.start()
    with meter.window("train") as windows["train"]:
        clock.wait(4.0)
        together.wait(LONG_S)
        together.wait(LONG_S)
        clock.wait(6.0)
        apart.wait(LONG_S)
        if ends_first == "data":
            apart.wait(LONG_S)
            clock.wait(2.0)
    if ends_first == "train":
        clock.wait(2.0)
        apart.wait(LONG_S)
        apart.wait(LONG_S)
    thread.join(LONG_S)
    return windows


@pytest.mark.parametrize(
    ("ends_first", "train_s", "data_s"), [("train", 10.0, 8.0), ("data", 12.0, 6.0)]
)
def test_windows_of_two_threads_do_not_swap_their_time(
    ends_first, train_s, data_s, clock
):
    with meter_of(clock, gpu(clock)) as meter:
        windows = overlapping(clock, meter, ends_first)
        clock.wait(1.0)
    got = {name: (window.s, j(window.energy)) for name, window in windows.items()}
    assert got == {
        "train": (pytest.approx(train_s), pytest.approx(100 * train_s)),
        "data": (pytest.approx(data_s), pytest.approx(100 * data_s)),
    }
    # the 6 s together are halved; the phases add up to all that passed
    parts = {"train": train_s - 3, "data": data_s - 3, "other": 1.0}
    assert spent(meter) == {
        name: (pytest.approx(s), pytest.approx(100 * s)) for name, s in parts.items()
    }
    data = meter.report().data
    assert data["phases"]["train"]["inclusive_s"] == pytest.approx(train_s)
    assert data["labels"]["loader"]["inclusive_s"] == pytest.approx(data_s)


def test_windows_left_out_of_order_keep_their_own_time(clock):
    with meter_of(clock, gpu(clock)) as meter:
        outer, inner = meter.window("train", "a"), meter.window("eval", "b")
        first = outer.__enter__()
        clock.wait(1.0)
        second = inner.__enter__()
        clock.wait(2.0)
        outer.__exit__(None, None, None)
        clock.wait(4.0)
        inner.__exit__(None, None, None)
        clock.wait(8.0)
    assert (first.s, j(first.energy)) == pytest.approx((3.0, 300.0))
    assert (second.s, j(second.energy)) == pytest.approx((6.0, 600.0))
    assert spent(meter) == {
        "train": (1.0, 100.0),
        "eval": (6.0, 600.0),
        "other": (8.0, 800.0),
    }


def test_window_may_be_left_by_another_thread_than_entered_it(clock):
    with meter_of(clock, gpu(clock)) as meter:
        window = meter.window("train")
        opened = window.__enter__()
        with meter.window("eval") as inner:
            clock.wait(2.0)
            leaving = threading.Thread(target=window.__exit__, args=(None, None, None))
            leaving.start()
            leaving.join(LONG_S)
            clock.wait(3.0)
    assert (opened.s, inner.s) == pytest.approx((2.0, 5.0))
    assert spent(meter) == {"eval": (5.0, 500.0)}


def test_window_shorter_than_a_second_is_marked(clock):
    with meter_of(clock, gpu(clock)) as meter:
        with meter.window("train") as short:
            clock.wait(0.9)
        with meter.window("train") as long:
            clock.wait(1.1)
    assert (short.resolution_limited, long.resolution_limited) == (True, False)


def test_window_without_a_source_still_has_its_seconds(clock):
    meter = meter_of(clock, unavailable=(NO_CPU,))
    with meter, meter.window("train") as window:
        clock.wait(3.0)
    assert window.s == pytest.approx(3.0)
    assert (window.energy.wh, window.energy.quality) == (None, "unavailable")
    assert window.energy.reasons == ("cpu: powercap: permission denied",)


def test_exception_inside_a_window_closes_it_and_goes_on_up(clock):
    closed = []

    def interrupted(meter):
        with meter.window("train") as outer:
            closed.append(outer)
            clock.wait(2.0)
            with meter.window("eval") as inner:
                closed.append(inner)
                clock.wait(3.0)
                raise KeyboardInterrupt

    with meter_of(clock, gpu(clock)) as meter:
        with pytest.raises(KeyboardInterrupt):
            interrupted(meter)
        clock.wait(1.0)
    assert spent(meter) == {
        "train": (2.0, 200.0),
        "eval": (3.0, 300.0),
        "other": (1.0, 100.0),
    }
    outer, inner = closed
    assert (inner.s, outer.s) == pytest.approx((3.0, 5.0))
    assert j(outer.energy) == pytest.approx(500.0)


# waiting for the device


class Order(FakeClock):
    """A clock that notes what happened in which order: waiting, reading, the time."""

    def __init__(self):
        super().__init__()
        self.happened = []
        self.probe = gpu(self)
        self.accelerator = Accelerator(
            lambda _: self.happened.append("block"),
            lambda: self.happened.append("barrier"),
            lambda: 0.0,
        )
        read = self.probe.read
        self.probe.read = lambda: self.happened.append("read") or read()

    def __call__(self):
        self.happened.append("time")
        return self.now

    def meter(self):
        return meter_of(self, self.probe, accelerator=self.accelerator)


def test_edges_wait_then_read_then_take_the_time():
    order = Order()
    with order.meter() as meter:
        order.happened.clear()
        with meter.window("train"):
            opened = [what for what in order.happened if what != "time"]
            assert order.happened[-1] == "time"
            order.happened.clear()
            order.happened.append("work")
        closed = order.happened
    assert opened == ["barrier", "read"]
    first = closed[: closed.index("read") + 1]
    assert [what for what in first if what != "time"] == ["work", "barrier", "read"]
    assert "time" in closed[closed.index("read") + 1 :]
    assert closed[closed.index("read") + 1] == "time"


def test_waiting_and_reading_at_the_end_are_part_of_the_window(clock):
    wait = Accelerator(clock.skip, lambda: clock.skip(2.0), lambda: 0.0)
    meter = meter_of(clock, gpu(clock), accelerator=wait)
    with meter, meter.window("train") as window:
        clock.wait(1.0)
    assert window.s == pytest.approx(3.0)
    assert spent(meter)["other"][0] == pytest.approx(2.0), "the first wait is not"


@pytest.mark.parametrize(
    ("options", "sync", "order", "mark"),
    [
        ({}, False, ["barrier", "barrier"], "barrier"),
        ({}, True, ["barrier", "block"], "explicit"),
        ({"sync": False}, False, [], "none"),
        ({"sync": False}, True, ["block"], "explicit"),
    ],
)
def test_window_is_marked_with_how_it_waited(options, sync, order, mark):
    seen = Order()
    with seen.meter() as meter, meter.window("train", **options) as window:
        if sync:
            assert window.sync("tree") == "tree"
    assert [what for what in seen.happened if what.startswith("b")] == order
    assert meter.report().data["phases"]["train"]["sync"] == mark


def test_all_ways_of_waiting_of_a_phase_are_reported(clock):
    with meter_of(clock) as meter:
        with meter.window("train", sync=False):
            pass
        with meter.window("train") as window:
            window.sync(1)
    assert meter.report().data["phases"]["train"]["sync"] == "explicit+none"


def test_window_that_an_exception_ended_has_not_waited():
    seen = Order()
    meter = seen.meter()
    with pytest.raises(ValueError, match="no"), meter, meter.window("train"):
        raise ValueError("no")
    assert seen.happened.count("barrier") == 1
    assert meter.report().data["phases"]["train"]["sync"] == "none"


def test_device_that_fails_while_it_is_waited_for_raises_and_closes_the_window(clock):
    def fail():
        if clock() > 102:
            raise MemoryError("out of device memory")

    failing = Accelerator(lambda _: None, fail, lambda: 0.0)
    with meter_of(clock, gpu(clock), accelerator=failing) as meter:
        with pytest.raises(MemoryError), meter.window("train"):
            clock.wait(5.0)
        clock.wait(1.0)
    assert spent(meter) == {"train": (5.0, 500.0), "other": (1.0, 100.0)}
    assert meter.report().data["phases"]["train"]["sync"] == "none"


def test_what_is_known_at_any_time_is_known_without_waiting_or_reading():
    seen = Order()
    with seen.meter() as meter:
        seen.wait(2.0)
        seen.happened.clear()
        meter.wh(), meter.seconds(), meter.total_s, meter.quality
        meter.accounts(), meter.report()
        assert set(seen.happened) <= {"time"}


# beginning and end


def test_window_of_a_meter_that_does_not_run_raises(clock):
    meter = meter_of(clock, gpu(clock))
    with pytest.raises(RuntimeError, match="does not run"), meter.window("train"):
        pass
    with meter:
        pass
    with pytest.raises(RuntimeError, match="does not run"), meter.window("train"):
        pass


def test_what_comes_after_the_stop_is_not_measured(clock):
    meter = meter_of(clock, gpu(clock)).start()
    with meter.window("train") as window:
        clock.wait(2.0)
        meter.stop()
        clock.wait(50.0)
    assert (window.s, j(window.energy)) == pytest.approx((2.0, 200.0))
    clock.wait(50.0)
    assert spent(meter) == {"train": (2.0, 200.0)}
    assert meter.report().data["time"]["wall_s"] == pytest.approx(2.0)


def test_starting_and_stopping_twice_is_once(clock):
    probe = gpu(clock)
    meter = meter_of(clock, probe)
    meter.stop()  # before it was started there is nothing to stop
    assert meter.start() is meter
    clock.wait(2.0)
    assert meter.start() is meter
    clock.wait(2.0)
    assert meter.report().data["complete"] is False
    meter.stop()
    reads = probe.reads
    meter.stop()
    clock.wait(2.0)
    assert (probe.reads, probe.closed) == (reads, 1)
    assert spent(meter) == {"other": (4.0, 400.0)}
    assert meter.report().data["complete"] is True


def test_sources_that_disagree_over_a_long_window_are_noted(clock):
    probe = FakeProbe(clock, counter(lambda t: 125 * t), power(100.0))
    with meter_of(clock, probe) as meter:
        with meter.window("train"):
            clock.wait(9.0)
        with meter.window("train"):
            clock.wait(11.0)
    (event,) = meter.report().data["events"]
    assert event["what"] == "sources_disagree"
    assert event["seconds"] == pytest.approx(11.0)
    assert event["counted_j"] == pytest.approx(1375.0)
    assert event["checked_j"] == pytest.approx(1100.0)


def test_trace_reaches_to_the_stop(clock):
    with meter_of(clock, gpu(clock)) as meter:
        clock.wait(3.5)
    trace = meter.report().data["power_trace"]
    assert trace[0]["start_s"] == 0
    assert trace[-1]["end_s"] == pytest.approx(3.5)
    assert [entry["w"]["gpu:A"] for entry in trace] == pytest.approx([100.0] * 4)


def test_looking_at_the_sensors_before_the_start_is_not_counted(clock):
    probe = FakeProbe(clock, counter(lambda t: 1e6 + 100 * t), power(100.0))
    with meter_of(clock, probe) as meter:
        assert 0.5 <= clock() - 100 < 1.0
        assert spent(meter) == {}
        clock.wait(2.0)
    assert spent(meter) == {"other": (2.0, 200.0)}
    (source,) = meter.report().data["energy"]["by_source"]
    assert source["wh"] * 3600 == pytest.approx(200.0)
    _, check = meter.accounts().channels["gpu:A"].sources
    assert check.energy_j == pytest.approx(200.0)


def test_every_joule_since_the_start_is_in_some_phase(clock):
    # a probe that takes its time: between two readings its counter moves on
    probe = FakeProbe(clock, counter(lambda t: 700.0 * t))
    probe.took_s = 0.1
    meter = meter_of(clock, probe)
    with meter, meter.window("train"):
        clock.skip(1.0)
    data = meter.report().data
    phases = sum(phase["wh"] for phase in data["phases"].values())
    (source,) = data["energy"]["by_source"]
    assert source["wh"] == pytest.approx(phases, rel=1e-12)


def test_time_that_the_machine_slept_is_reported(clock, monkeypatch):
    slept = iter([1000.0, 1000.0, 1120.004])
    monkeypatch.setattr("dpet_jax.energy.meter.suspended_s", lambda: next(slept))
    meter = meter_of(clock)
    assert meter.accounts().suspended_s == 0.0
    assert meter.report().data["time"]["suspended_s"] == 120.0


def test_sensor_with_one_source_needs_no_look_before_the_start(clock):
    with meter_of(clock, gpu(clock)):
        assert clock() == 100


def test_counter_that_contradicts_the_power_is_not_used_from_the_start(clock):
    probe = FakeProbe(clock, counter(lambda _: 5000.0), power(100.0))
    with meter_of(clock, probe) as meter:
        clock.wait(2.0)
    assert spent(meter) == {"other": (2.0, 200.0)}
    data = meter.report().data
    assert data["energy"]["by_source"][0]["kind"] == "power"
    assert [event["what"] for event in data["events"]] == ["counter_suspect"]


def test_sensor_that_never_answers_is_unavailable_with_a_reason(clock):
    silent = gpu(clock, lambda _: None)
    with meter_of(clock, silent) as meter:
        clock.wait(2.0)
    energy = meter.report().data["energy"]
    assert (energy["measured_wh"], energy["quality"]) == (None, "unavailable")
    assert energy["unavailable"][0]["reason"] == "power: no reading came"
    assert silent.closed == 1


def test_period_suits_the_sources_unless_it_is_given(clock):
    by_counter = FakeProbe(clock, counter(lambda t: t))
    for probes, period_s in (([by_counter], 0.1), ([gpu(clock)], 0.05), ([], 1.0)):
        assert meter_of(clock, *probes).period_s == period_s
    assert meter_of(clock, gpu(clock), period_s=5.0).period_s == 5.0
    with pytest.raises(ValueError, match=r"choose between 0\.02 and 5\.0 s"):
        meter_of(clock, gpu(clock), period_s=5.1)


def test_sensors_are_read_once_a_period(clock):
    probe = gpu(clock)
    with meter_of(clock, probe, period_s=0.5) as meter:
        before = probe.reads
        clock.wait(10.0)
        assert probe.reads - before == 20
    facts = meter.report().data["meter"]
    assert (facts["ticks"], facts["missed_ticks"], facts["period_s"]) == (20, 0, 0.5)
    assert facts["tick_ms_p50"] == 0.0


def test_facts_are_asked_at_both_ends_and_every_half_minute(clock):
    probe, asked = gpu(clock), []
    probe.facts = lambda: asked.append(clock()) or {}
    with meter_of(clock, probe, period_s=0.5):
        clock.wait(95.0)
    assert asked == pytest.approx([100.0, 130.0, 160.0, 190.0, 195.0], abs=0.2)


# strictly


def test_strict_meter_refuses_a_machine_that_measures_nothing(clock):
    with pytest.raises(NoSourceError, match="cpu: powercap: permission denied"):
        meter_of(clock, unavailable=(NO_CPU,), strict=True)
    with pytest.raises(NoSourceError, match="no source is known"):
        meter_of(clock, strict=True)


def test_strict_meter_takes_no_model_for_a_measurement(clock):
    with pytest.raises(NoSourceError):
        meter_of(clock, model(clock), strict=True)
    meter_of(clock, model(clock), gpu(clock), strict=True)


def test_strict_meter_refuses_sensors_that_do_not_answer(clock):
    meter = meter_of(clock, gpu(clock, lambda _: None), strict=True)
    with pytest.raises(NoSourceError, match="no reading came"):
        meter.start()


# what is known


def test_energy_before_the_start_is_none_spent(clock):
    meter = meter_of(clock, gpu(clock))
    assert meter.quality == "measured"
    assert set(meter.wh().values()) == {0.0}
    assert (meter.total_s, set(meter.seconds().values())) == (0.0, {0.0})
    assert meter.report().data["energy"]["measured_wh"] == 0.0


def test_energy_is_known_in_the_midst_of_a_window(clock):
    with meter_of(clock, gpu(clock)) as meter, meter.window("train"):
        clock.wait(3.0)
        assert spent(meter) == {"train": (3.0, 300.0)}
        clock.wait(1.0)
        assert meter.total_s == pytest.approx(4.0)
    assert spent(meter) == {"train": (4.0, 400.0)}


@pytest.mark.parametrize(
    ("kinds", "quality", "joules"),
    [
        ("", "unavailable", None),
        ("m", "modelled", 100.0),
        ("g", "measured", 200.0),
        ("gm", "measured", 200.0),
    ],
)
def test_energy_is_of_the_best_quality_alone(kinds, quality, joules, clock):
    probes = [{"g": gpu, "m": model}[kind](clock) for kind in kinds]
    with meter_of(clock, *probes) as meter:
        clock.wait(2.0)
    assert meter.quality == quality
    wh = meter.wh()
    assert wh is None if joules is None else wh["other"] * 3600 == pytest.approx(joules)


def test_reading_between_ticks_loses_no_energy(clock):
    with meter_of(clock, gpu(clock, lambda t: 10 * t)) as meter:
        for _ in range(37):
            with meter.window("train"):
                clock.skip(0.0137)
            meter.wh()
            meter.read()
            clock.skip(0.0071)
    total_s = 37 * (0.0137 + 0.0071)
    assert sum(meter.wh().values()) * 3600 == pytest.approx(5 * total_s**2)


# idling


def test_idling_is_a_window_of_its_own_and_its_beginning_is_left_out(clock):
    probe = gpu(clock, lambda t: 300.0 if t < 3 else 60.0)
    with meter_of(clock, probe) as meter:
        clock.wait(1.0)
        meter.measure_idle(10.0, settle_s=3.0)
    assert meter.seconds()["idle"] == pytest.approx(10.0)
    assert meter.accounts().idle == (
        "measured",
        {"gpu:A": pytest.approx(60.0)},
        pytest.approx(7.0),
    )


def test_short_idling_settles_for_half_of_it(clock):
    with meter_of(clock, gpu(clock)) as meter:
        meter.measure_idle(1.0)
    assert meter.accounts().idle.seconds == pytest.approx(0.5)
    assert meter.seconds()["idle"] == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [0.0, float("nan")])
def test_idling_for_no_time_is_refused(seconds, clock):
    meter = meter_of(clock, gpu(clock))
    with meter, pytest.raises(ValueError, match="give a number above 0"):
        meter.measure_idle(seconds)


def test_sensor_that_is_silent_while_idling_has_no_idle_power_of_0(clock):
    sound, broken = gpu(clock), gpu(clock, id="gpu:B")
    with meter_of(clock, sound, broken) as meter:
        clock.wait(1.0)
        broken.error = OSError("gone")
        meter.measure_idle(10.0)
        broken.error = None
        clock.wait(5.0)
    assert meter.accounts().idle.watts == {"gpu:A": pytest.approx(100.0)}
    assert meter.report().data["energy"]["net_of_idle_wh"] is None


# resuming


def test_resumed_meter_adds_to_what_the_earlier_one_measured(clock, tmp_path):
    path = tmp_path / "energy.jsonl"
    with meter_of(clock, gpu(clock)) as first:
        first.keep_journal(path)
        with first.window("train", "round 1"):
            clock.wait(3.0)
    clock.wait(1000.0)  # between the two nothing runs
    with meter_of(clock, gpu(clock)) as second:
        second.resume(first.accounts())
        second.keep_journal(path)
        assert spent(second) == {"train": (3.0, 300.0)}
        with second.window("train", "round 1"):
            clock.wait(2.0)
        clock.wait(1.0)
    assert spent(second) == {"train": (5.0, 500.0), "other": (1.0, 100.0)}
    assert second.total_s == pytest.approx(6.0)
    data = second.report().data
    assert data["labels"]["round 1"]["s"] == pytest.approx(5.0)
    assert data["time"]["segments"] == 2
    assert data["energy"]["measured_wh"] * 3600 == pytest.approx(600.0)
    assert data["power_trace"][0]["start_s"] == pytest.approx(3.0)
    assert data["power_trace"][0]["w"]["gpu:A"] == pytest.approx(100.0)
    assert second.journal_lines == len(path.read_text().splitlines())
    assert read(path).complete
    assert read(path).accounts.segments == 2


def test_meter_without_sensors_still_knows_what_an_earlier_one_measured(clock):
    with meter_of(clock, gpu(clock)) as first:
        clock.wait(3.0)
    with meter_of(clock) as second:
        second.resume(first.accounts())
        with second.window("train") as window:
            clock.wait(9.0)
    assert second.quality == "measured"
    assert window.energy.quality == "unavailable"
    assert sum(second.wh().values()) * 3600 == pytest.approx(300.0)
    assert second.report().data["reason_codes"] == ["unmeasured"]


def test_accounts_that_a_meter_resumes_are_not_changed(clock):
    earlier = Accounts()
    with meter_of(clock, gpu(clock)) as meter:
        meter.resume(earlier)
        with meter.window("train"):
            clock.wait(2.0)
    assert earlier == Accounts()


def test_without_a_journal_there_are_no_lines(clock):
    with meter_of(clock, gpu(clock)) as meter:
        clock.wait(2.0)
        assert meter.journal_lines == 0


def test_journal_that_cannot_be_begun_raises_at_once(clock, tmp_path):
    with meter_of(clock) as meter, pytest.raises(OSError, match="missing"):
        meter.keep_journal(tmp_path / "missing" / "energy.jsonl")


# Ctrl-C at any moment


class Interrupted(FakeProbe):
    """A sensor during whose n-th reading from now on Ctrl-C comes."""

    after = None

    def read(self):
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                self.after = None
                raise KeyboardInterrupt
        return super().read()


@pytest.mark.parametrize("after", [0, 1, 6])
def test_interrupt_in_a_first_reading_leaves_no_meter_behind(after, clock):
    sources = counter(lambda t: 100 * t), power(100.0)
    first = Interrupted(clock, *sources)
    other = FakeProbe(clock, power(50.0), id="node:B", component="node")
    first.after = after
    meter = meter_of(clock, first, other)
    with pytest.raises(KeyboardInterrupt):
        meter.start()
    assert (first.closed, other.closed) == (1, 1)
    reads = first.reads
    clock.wait(5.0)
    assert first.reads == reads, "nobody reads any more"
    assert samplers() == []
    with pytest.raises(RuntimeError, match="does not run"), meter.window("train"):
        pass
    with pytest.raises(RuntimeError, match="released its sensors; make a new one"):
        meter.start()
    meter.stop()
    assert (first.closed, other.closed) == (1, 1)


def test_interrupt_in_a_first_reading_leaves_no_thread():
    probe = Interrupted(Clock(), power(100.0))
    probe.after = 0
    with pytest.raises(KeyboardInterrupt), EnergyMeter(Found((probe,), ())):
        pass
    assert samplers() == []
    assert probe.closed == 1


def test_interrupt_while_a_clock_begins_to_call_leaves_nothing(clock):
    probe = gpu(clock)

    def every(*_):
        raise KeyboardInterrupt

    clock.every = every
    meter = meter_of(clock, probe)
    with pytest.raises(KeyboardInterrupt):
        meter.start()
    assert probe.closed == 1


def test_interrupt_at_the_end_of_a_window_closes_it(clock):
    probe = Interrupted(clock, power(100.0))

    def window():
        with meter.window("train"):
            clock.wait(2.0)
            probe.after = 0

    with meter_of(clock, probe) as meter:
        with pytest.raises(KeyboardInterrupt):
            window()
        with meter.window("eval"):
            clock.wait(3.0)
    assert spent(meter) == {"train": (2.0, 200.0), "eval": (3.0, 300.0)}


def test_interrupt_at_the_beginning_of_a_window_opens_none(clock):
    probe = Interrupted(clock, power(100.0))
    with meter_of(clock, probe) as meter:
        clock.wait(1.0)
        probe.after = 0
        with pytest.raises(KeyboardInterrupt), meter.window("train"):
            pass
        clock.wait(2.0)
    assert spent(meter) == {"other": (3.0, 300.0)}


@pytest.mark.parametrize("what", ["read", "facts"])
def test_interrupt_while_the_meter_stops_releases_everything(what, clock, tmp_path):
    probe = Interrupted(clock, power(100.0))
    other = FakeProbe(clock, power(50.0), id="node:B", component="node")
    meter = meter_of(clock, probe, other).start()
    meter.keep_journal(tmp_path / "energy.jsonl")
    clock.wait(2.0)
    if what == "read":
        probe.after = 0
    else:
        probe.facts = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        meter.stop()
    assert (probe.closed, other.closed) == (1, 1)
    meter.stop()
    assert (probe.closed, other.closed) == (1, 1)
    assert meter.seconds()["other"] == pytest.approx(2.0)
    assert read(tmp_path / "energy.jsonl").accounts.total_s == pytest.approx(2.0, abs=1)


def test_interrupt_while_one_sensor_is_closed_closes_the_others(clock):
    probes = [gpu(clock, id=f"gpu:{n}") for n in "ABC"]
    closed = []
    for probe in probes:
        probe.close = lambda probe=probe: closed.append(probe.id)

    def interrupt():
        raise KeyboardInterrupt

    probes[1].close = interrupt
    meter = meter_of(clock, *probes).start()
    with pytest.raises(KeyboardInterrupt):
        meter.stop()
    assert sorted(closed) == ["gpu:A", "gpu:C"]


def test_strict_meter_that_refuses_releases_its_sensors(clock):
    probe = model(clock)
    with pytest.raises(NoSourceError):
        meter_of(clock, probe, strict=True)
    assert probe.closed == 1
    mute = gpu(clock, lambda _: None)
    with pytest.raises(NoSourceError):
        meter_of(clock, mute, strict=True).start()
    assert mute.closed == 1


# two sensors of one name, and numbers that are none


def test_two_sensors_of_one_id_are_refused(clock):
    twins = gpu(clock), gpu(clock)
    with pytest.raises(ValueError, match="two meters are called 'gpu:A'; name them"):
        meter_of(clock, *twins)


@pytest.mark.parametrize("answer", [True, False, np.True_, jnp.array(True)])
def test_truth_value_is_no_power(answer, clock):
    probe = gpu(clock)
    probe.read = lambda: (answer,)
    with meter_of(clock, probe) as meter:
        clock.wait(2.0)
    energy = meter.report().data["energy"]
    assert energy["quality"] == "unavailable"
    assert "is a truth value, not a number" in energy["unavailable"][0]["reason"]


@pytest.mark.parametrize("answer", [5, 5.0, np.float32(5), np.int16(5), jnp.array(5)])
def test_number_of_any_library_is_a_power(answer, clock):
    probe = gpu(clock)
    probe.read = lambda: (answer,)
    with meter_of(clock, probe) as meter:
        clock.wait(2.0)
    assert spent(meter) == {"other": (2.0, 10.0)}


@pytest.mark.parametrize("period_s", [math.nan, 0.0, -1.0, math.inf])
def test_period_that_is_none_is_refused(period_s, clock):
    with pytest.raises(ValueError, match=r"choose between 0\.02 and 5\.0 s"):
        meter_of(clock, gpu(clock), period_s=period_s)


# sensors that fail


class Broken(FakeProbe):
    """Every method raises, at first or from some moment on."""

    broken = True

    def read(self):
        if self.broken:
            raise RuntimeError("cannot read")
        return super().read()

    def facts(self):
        raise RuntimeError("knows nothing")

    def close(self):
        raise RuntimeError("cannot close")


def test_sensor_all_of_whose_methods_raise_stops_nothing(clock, tmp_path):
    probes = Broken(clock, power(100.0), id="gpu:broken"), gpu(clock)
    with meter_of(clock, *probes, period_s=0.5) as meter:
        meter.keep_journal(tmp_path / "energy.jsonl")
        with meter.window("train") as window:
            clock.wait(40.0)
    assert j(window.energy) == pytest.approx(4000.0)
    data = meter.report().data
    assert [entry["component"] for entry in data["energy"]["unavailable"]] == ["gpu"]
    assert data["event_counts"]["facts_failed"] >= 1


def test_sensor_that_breaks_in_mid_run_stops_nothing_and_is_recorded(clock):
    broken = Broken(clock, power(100.0))
    broken.broken = False
    with meter_of(clock, broken, period_s=0.5) as meter:
        clock.wait(2.0)
        broken.broken = True
        with meter.window("train"):
            clock.wait(38.0)
    data = meter.report().data
    assert data["event_counts"]["facts_failed"] >= 3
    assert data["event_counts"]["close_failed"] == 1
    errors = {event["error"] for event in data["events"] if "error" in event}
    assert errors >= {"RuntimeError: knows nothing", "RuntimeError: cannot close"}
    assert data["reason_codes"] == ["unmeasured"]


def test_whatever_goes_wrong_in_a_tick_is_recorded(clock, monkeypatch):
    with meter_of(clock, gpu(clock)) as meter:
        clock.wait(1.0)
        monkeypatch.setattr(Logbook, "sample", lambda *_: 1 / 0)
        clock.wait(3.0)
        monkeypatch.undo()
    data = meter.report().data
    assert data["event_counts"]["sampler_failed"] >= 2
    assert data["events"][0]["error"] == "ZeroDivisionError: division by zero"


# threads and processes, in real time, of which no number is expected


def samplers():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def test_thread_reads_while_the_program_works():
    probe, enough = gpu(Clock()), threading.Event()
    with EnergyMeter(Found((probe,), ())) as meter:
        before, read_once = probe.reads, probe.read
        probe.read = lambda: (probe.reads >= before + 5 and enough.set()) or read_once()
        with meter.window("train") as window:
            assert enough.wait(LONG_S)
    assert window.s > 0
    assert window.energy.quality == "measured"
    facts = meter.report().data["meter"]
    assert facts["ticks"] >= 4
    assert facts["cpu_s"] > 0
    assert samplers() == []


def test_windows_and_questions_from_two_threads_do_not_break_the_sums():
    probe = gpu(Clock())
    with EnergyMeter(Found((probe,), ()), period_s=0.02) as meter:
        over = threading.Event()

        def ask():
            while not over.is_set():
                meter.seconds(), meter.wh()
                meter.report()

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(10):
            with meter.window("train"), meter.window("eval"):
                pass
        over.set()
        thread.join()
    data = meter.report().data
    assert data["phases"]["train"]["count"] == 10
    assert data["event_counts"].get("sampler_failed", 0) == 0
    assert sum(p["s"] for p in data["phases"].values()) == (
        pytest.approx(data["time"]["wall_s"])
    )


def test_meter_that_nobody_stopped_can_be_forgotten():
    meter = EnergyMeter(Found((), ()), period_s=0.02).start()
    (thread,) = samplers()
    del meter
    gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()


class ParentOnly(FakeProbe):
    """A sensor, and a device, that note it when a child of this process asks them."""

    def __init__(self, folder):
        super().__init__(Clock(), power(100.0))
        self.parent, self.folder = os.getpid(), folder

    def note(self, what):
        if os.getpid() != self.parent:
            (self.folder / f"child_{what}").touch()

    def read(self):
        self.note("read")
        return super().read()

    def close(self):
        self.note("closed")
        super().close()

    def accelerator(self):
        return Accelerator(
            lambda _: self.note("blocked"),
            lambda: self.note("waited"),
            lambda: self.note("asked") or 0.0,
        )


class HeldClock(Clock):
    """A clock that holds up one thread in the midst of what it asks."""

    def __init__(self):
        self.thread, self.asked, self.release = None, threading.Event(), None

    def __call__(self):
        here = threading.current_thread()
        if here is self.thread and self.calls.pop(0):
            self.asked.set()
            self.release.wait(LONG_S)
        return super().__call__()

    @contextmanager
    def holding_up(self, question):
        """Ask in a thread of its own, which keeps all locks that the question takes.

        The third time it takes is that of the sensors, within their lock.
        """
        self.calls, self.release = (
            [False, False, True] + [False] * 100,
            threading.Event(),
        )
        self.thread = threading.Thread(target=question)
        self.thread.start()
        assert self.asked.wait(LONG_S)
        try:
            yield
        finally:
            self.release.set()
            self.thread.join()


def status_of_child(work):
    """Fork, work in the child, and return its exit status; None if it hangs."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_neither_hangs_nor_writes_nor_asks_sensors_or_device(tmp_path):
    path, probe, clock = tmp_path / "energy.jsonl", ParentOnly(tmp_path), HeldClock()
    meter = meter_of(clock, probe, period_s=0.02, accelerator=probe.accelerator())
    with meter:
        meter.keep_journal(path)

        def work():
            with meter.window("train") as window:
                window.sync(1)
            with meter.window("train"):
                meter.wh(), meter.accounts()
            meter.read()
            meter.report()
            meter.stop()

        # the worst moment: a thread that the child does not have holds every lock
        with clock.holding_up(meter.accounts):
            before = path.read_bytes()
            status = status_of_child(work)
            assert path.read_bytes() == before
        with meter.window("train"):
            pass
    assert status == 0
    assert not list(tmp_path.glob("child_*"))
    assert read(path).accounts.phases["train"].count == 1
    assert probe.closed == 1


# compiling


def test_seconds_of_compiling_outside_the_window_for_it_are_reported(clock):
    compiled = {"s": 50.0}
    device = Accelerator(lambda _: None, lambda: None, lambda: compiled["s"])

    def compile_for(seconds):
        compiled["s"] += seconds

    with meter_of(clock, accelerator=device) as meter:
        compile_for(0.5)
        with meter.window("compile"):
            compile_for(8.0)
        with meter.window("train"):
            compile_for(2.0)
    data = meter.report().data
    assert data["compile_s_outside_window"] == pytest.approx(2.5)
    seconds = {name: p["compile_s"] for name, p in data["phases"].items()}
    assert seconds["compile"] == pytest.approx(8.0)
    assert seconds["train"] == pytest.approx(2.0)
    assert seconds["other"] == pytest.approx(0.5)


def test_hidden_compilation_of_jax_shows(clock):
    x = jnp.arange(555.0)
    with meter_of(clock) as meter:
        with meter.window("compile") as window:
            window.sync(jax.jit(lambda x: jnp.sort(x) * 1.125)(x))
        clean = meter.report().data["compile_s_outside_window"]
        with meter.window("train") as window:
            window.sync(jax.jit(lambda x: jnp.sort(x) * 2.125)(x))
    data = meter.report().data
    assert clean == 0.0
    assert data["phases"]["compile"]["compile_s"] > 0
    assert data["compile_s_outside_window"] == data["phases"]["train"]["compile_s"] > 0


# alone


_ALONE = """
import sys
from dpet_jax.energy import CallableProbe, CpuPowerModel, EnergyMeter

with EnergyMeter() as meter:
    with meter.window("train"):
        sum(range(10**5))
print(meter.report())
assert "jax" not in sys.modules

def refused(what, **options):
    try:
        what(**options)
    except ValueError:
        return True

plug = {"ask": int, "name": "p", "kind": "power", "unit": "W", "rel_uncertainty": 0.1}
assert CallableProbe(**plug)
assert refused(CpuPowerModel, idle_w=False, max_w=True, source="a guess")
assert refused(EnergyMeter, period_s=True)
for key in ("rel_uncertainty", "update_period_s", "sensor_window_s", "max_w"):
    for truth in (True, False):
        assert refused(CallableProbe, **plug | {key: truth}), key
ground = {"dpet_jax", "dpet_jax.section", "dpet_jax.errors", "dpet_jax.files"}
ground |= {"dpet_jax.run"}  # empty, but the package makes it callable
ours = {name for name in sys.modules if name.split(".")[0] == "dpet_jax"} - ground
assert {name.split(".")[1] for name in ours} == {"energy"}, ours
"""


def test_meter_works_alone_and_without_jax():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ALONE],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("energy: ")
    assert "  train" in done.stdout
    assert done.stderr == ""


def test_accounts_of_a_running_meter_are_json_and_come_back(clock):
    with meter_of(clock, gpu(clock), model(clock), unavailable=(NO_CPU,)) as meter:
        clock.wait(2.0)
        accounts = meter.accounts()
    plain = json.loads(json.dumps(accounts.to_json()))
    assert plain == accounts.to_json()
    assert Accounts.from_json(plain) == accounts


def test_energy_so_far_is_told_with_its_interval(clock):
    sources = [power(w, **MODEL) for w in (36.0, 18.0, 72.0)]
    with meter_of(clock, FakeProbe(clock, *sources)) as meter:
        with meter.window("train"):
            clock.wait(10.0)
        with meter.window("eval"):
            clock.wait(10.0)
        told = meter.energy(without=("eval", "other"))
    assert told.quality == "modelled"
    assert str(told) == "≈ 0.1 Wh [0.05, 0.2] MODELLED"
