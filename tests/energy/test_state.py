"""A meter's state: plain values of which parts of a run add up."""

import copy
import json

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import PHASES, EnergyMeter, Found, Source, Unavailable
from dpet_jax.energy.accounts.state import (
    active_source,
    combine,
    counted,
    empty_state,
    losing,
    quality_of,
    seconds_by_phase,
    wh_by_phase,
    wh_of,
)

MODEL = {"quality": "modelled", "rel_uncertainty": 0.0}


@pytest.fixture
def clock():
    return FakeClock()


def modelled(clock, watts=50.0, **known):
    sources = [power(watts, **MODEL), power(watts / 2, **MODEL), power(90.0, **MODEL)]
    known = {"id": "cpu:model", "component": "cpu", "scope": "package"} | known
    return FakeProbe(clock, *sources, **known)


def state_of(clock, *probes, seconds=10.0, unavailable=(), told=None):
    """Run a meter for a window "train" of so many seconds and one second more."""
    for probe in probes:
        probe.told = told or {}
    meter = EnergyMeter(Found(probes, unavailable), clock=clock, sleep=clock.wait)
    with meter:
        with meter.window("train", "round 1"):
            meter._pass(seconds)
        meter._pass(1.0)
    return meter.state()


def gpu(clock, watts=100.0, **known):
    return FakeProbe(clock, power(watts), **known)


def joules(state, phase, channel="gpu:A"):
    return state["phases"][phase]["totals"][channel][0]


def test_run_that_has_not_begun_has_spent_nothing_and_measures_nothing():
    state = empty_state()
    assert seconds_by_phase(state) == dict.fromkeys(PHASES, 0.0)
    assert (quality_of(state), wh_by_phase(state)) == ("unavailable", None)
    assert state["lost"] == {"s": 0.0, "wh": None, "quality": "unavailable"}


def test_state_is_plain(clock):
    state = state_of(clock, gpu(clock), unavailable=(Unavailable("cpu", "a", "b"),))
    assert json.loads(json.dumps(state)) == state


def test_parts_of_a_run_add_up(clock):
    first = state_of(clock, gpu(clock), seconds=10.0)
    second = state_of(clock, gpu(clock, 300.0), seconds=4.0)
    both = combine(first, second)
    assert seconds_by_phase(both)["train"] == pytest.approx(14.0)
    assert joules(both, "train") == pytest.approx(1000 + 1200)
    assert joules(both, "other") == pytest.approx(100 + 300)
    assert both["labels"]["round 1"]["s"] == pytest.approx(14.0)
    assert both["phases"]["train"]["count"] == 2
    channel = both["channels"]["gpu:A"]
    assert channel["totals"]["energy_j"] == pytest.approx(2600.0)
    assert channel["sources"][0]["energy_j"] == pytest.approx(2600.0)
    assert channel["max_w"] == 300.0
    parts = [
        part["channels"]["gpu:A"]["sources"][0]["samples"] for part in (first, second)
    ]
    assert channel["sources"][0]["samples"] == sum(parts)
    assert both["segments"] == 2


def test_events_and_the_highest_power_of_a_sensor_are_those_of_all_parts(clock):
    def failing(t):
        return None if 1 < t % 4 < 2 else 300.0

    first = state_of(clock, gpu(clock, failing))
    second = state_of(clock, gpu(clock))
    failed = first["channels"]["gpu:A"]["events"]["read_failed"]
    for both in (combine(first, second), combine(second, first)):
        channel = both["channels"]["gpu:A"]
        assert channel["max_w"] == 300.0
        assert channel["events"]["read_failed"] == failed > 0


def test_parts_are_left_alone_by_adding_them(clock):
    first, second = state_of(clock, gpu(clock)), state_of(clock, gpu(clock))
    keep = copy.deepcopy((first, second))
    combine(first, second)
    assert (first, second) == keep


def test_adding_nothing_changes_nothing(clock):
    state = state_of(clock, gpu(clock), told={"driver": "580"})
    both = combine(empty_state(), state)
    assert both == state


def test_beginning_is_the_first_parts_and_the_end_the_last_ones(clock):
    first, second = state_of(clock, gpu(clock)), state_of(clock, gpu(clock))
    first |= {"start_utc": "a", "now_utc": "b", "suspended_s": 1.0}
    second |= {"start_utc": "c", "now_utc": "d", "suspended_s": 2.0}
    first["idle"] = {"method": "measured", "watts": {}, "seconds": 1.0}
    first["lost"] = {"s": 3.0, "wh": 1.0, "quality": "measured"}
    second["unavailable"] = [["cpu", "why", "what"]]
    both = combine(first, second)
    assert (both["start_utc"], both["now_utc"]) == ("a", "d")
    assert both["suspended_s"] == 3.0
    assert both["idle"] == first["idle"]
    assert both["lost"] == first["lost"]
    assert both["unavailable"] == second["unavailable"]
    later = {"method": "measured", "watts": {"x": 1.0}, "seconds": 1.0}
    assert combine(first, second | {"idle": later})["idle"] == later


def test_events_of_all_parts_are_kept_in_order_and_counted(clock):
    first, second = state_of(clock, gpu(clock)), state_of(clock, gpu(clock))
    first |= {"events": {"0": {"what": "a"}, "1": {"what": "b"}}}
    second |= {"events": {"0": {"what": "c"}}, "event_counts": {"a": 2, "c": 1}}
    first["event_counts"] = {"a": 1}
    first["meter"] |= {"ticks": 10, "missed_ticks": 1, "cpu_s": 0.5, "period_s": 9.0}
    second["meter"] |= {"ticks": 5, "missed_ticks": 2, "cpu_s": 0.25, "period_s": 0.1}
    both = combine(first, second)
    assert [event["what"] for event in both["events"].values()] == ["a", "b", "c"]
    assert list(both["events"]) == ["0", "1", "2"]
    assert both["event_counts"] == {"a": 3, "c": 1}
    told = both["meter"]
    assert (told["ticks"], told["missed_ticks"], told["cpu_s"]) == (15, 3, 0.75)
    assert told["period_s"] == 0.1


def test_part_without_a_sensor_is_unmeasured_time_of_it(clock):
    blind = state_of(clock, seconds=5.0)  # six seconds in all
    seeing = state_of(clock, gpu(clock), seconds=10.0)
    for both in (combine(blind, seeing), combine(seeing, blind)):
        totals = both["channels"]["gpu:A"]["totals"]
        assert totals["unmeasured_s"] == pytest.approx(6.0)
        assert totals["energy_j"] == pytest.approx(1100.0)
        assert quality_of(both) == "measured"


def test_facts_are_the_first_and_the_last_ones_and_company_is_not_forgotten(clock):
    shared = {"temperature_c": 40, "foreign_processes": True}
    alone = {"temperature_c": 70, "foreign_processes": False}
    first = state_of(clock, gpu(clock), told=shared)
    second = state_of(clock, gpu(clock), told=alone)
    facts = combine(first, second)["channels"]["gpu:A"]["facts"]
    assert facts == {"first": shared, "last": alone, "shared": True}
    facts = combine(second, first)["channels"]["gpu:A"]["facts"]
    assert facts == {"first": alone, "last": shared, "shared": True}
    facts = combine(second, second)["channels"]["gpu:A"]["facts"]
    assert facts["shared"] is False


def test_other_sources_after_a_change_of_driver_are_not_added_up(clock):
    first = state_of(clock, gpu(clock))
    second = state_of(clock, FakeProbe(clock, counter(lambda t: 100.0 * t)))
    channel = combine(first, second)["channels"]["gpu:A"]
    (source,) = channel["sources"]
    assert (source["kind"], source["energy_j"]) == ("counter", pytest.approx(1100.0))
    assert channel["totals"]["energy_j"] == pytest.approx(2200.0)


# quality


def test_best_quality_at_hand_counts_and_others_are_not_mixed_in(clock):
    state = state_of(clock, gpu(clock), modelled(clock))
    assert quality_of(state) == "measured"
    assert counted(state, "measured") == ["gpu:A"]
    assert counted(state, "modelled") == ["cpu:model"]
    assert wh_by_phase(state)["train"] * 3600 == pytest.approx(1000.0)
    modelled_only = state_of(clock, modelled(clock))
    assert quality_of(modelled_only) == "modelled"
    assert wh_by_phase(modelled_only)["train"] * 3600 == pytest.approx(500.0)


def test_what_lies_inside_another_does_not_count(clock):
    node = gpu(clock, 500.0, id="node:PDU", component="node", scope="node")
    state = state_of(clock, gpu(clock), node)
    assert counted(state, "measured") == ["node:PDU"]
    assert wh_by_phase(state)["train"] * 3600 == pytest.approx(5000.0)


def test_quality_of_what_does_not_count_does_not_count(clock):
    state = state_of(clock, gpu(clock), modelled(clock))
    state["channels"]["gpu:A"]["counted"] = False
    assert quality_of(state) == "modelled"


def test_energy_of_some_channels_is_their_sum_and_a_missing_one_is_nothing(clock):
    state = state_of(clock, gpu(clock), gpu(clock, 300.0, id="gpu:B"))
    wh = wh_of(state["phases"], ["gpu:A", "gpu:B", "gpu:C"])
    assert wh["train"] * 3600 == pytest.approx(4000.0)
    assert wh["select"] == 0.0


def test_source_that_counts_is_rebuilt_whole(clock):
    source = Source("m", "counter", 0.1, 0.2, 0.3, 400.0, 500.0)
    probe = FakeProbe(clock, (source, lambda t: 100.0 * t % 400.0))
    assert active_source(state_of(clock, probe)["channels"]["gpu:A"]) == source


# crashes


def test_what_came_after_the_checkpoint_is_lost_and_no_more(clock):
    meter = EnergyMeter(Found((gpu(clock),), ()), clock=clock, sleep=clock.wait)
    with meter:
        meter._pass(10.0)
        kept = meter.state()
        with meter.window("train"):
            meter._pass(5.0)
        crashed = meter.state()
    state = losing(kept, crashed | {"segments": 3, "start_utc": "then"})
    assert state["lost"]["s"] == pytest.approx(5.0)
    assert state["lost"]["wh"] * 3600 == pytest.approx(500.0)
    assert state["lost"]["quality"] == "measured"
    assert state["phases"] == kept["phases"]
    assert (state["segments"], state["start_utc"]) == (3, "then")


def test_losses_of_several_crashes_add_up(clock):
    lost = empty_state()
    for _ in range(3):
        meter = EnergyMeter(Found((gpu(clock),), ()), clock=clock, sleep=clock.wait)
        with meter:
            meter.take_up(lost)
            meter._pass(5.0)
            lost = losing(lost, meter.state())
    assert lost["lost"]["s"] == pytest.approx(15.0)
    assert lost["lost"]["wh"] * 3600 == pytest.approx(1500.0)
    assert seconds_by_phase(lost)["other"] == 0.0


def test_run_that_crashed_before_its_first_checkpoint_has_lost_all(clock):
    crashed = state_of(clock, gpu(clock), seconds=10.0)
    lost = losing(empty_state(), crashed)["lost"]
    assert lost["s"] == pytest.approx(11.0)
    assert lost["wh"] * 3600 == pytest.approx(1100.0)


def test_what_nobody_measured_is_lost_by_an_unknown_amount(clock):
    state = losing(empty_state(), state_of(clock, seconds=10.0))
    assert state["lost"] == {
        "s": pytest.approx(11.0),
        "wh": None,
        "quality": "unavailable",
    }


def test_loss_is_of_the_crashed_parts_quality_alone(clock):
    kept = state_of(clock, modelled(clock))
    crashed = combine(kept, state_of(clock, gpu(clock), seconds=10.0))
    lost = losing(kept, crashed)["lost"]
    assert lost["quality"] == "measured"
    assert lost["wh"] * 3600 == pytest.approx(1100.0)
