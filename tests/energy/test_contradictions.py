"""A counter that power contradicts, one that never moves, and one of coarse steps."""

import math

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import Accounts, EnergyMeter, Found

RUN_S = 30.0
WATTS = 200.0
NVML = {"update_period_s": 0.1, "max_w": 1400.0}
MEAN = {"sensor_window_s": 1.0, "max_w": 1400.0}
QUARTER = {"sensor_window_s": 0.025, "update_period_s": 0.1, "max_w": 1400.0}


def run(*sources, seconds=RUN_S, **known):
    """Measure a window "train" of so many seconds; return meter and window."""
    clock = FakeClock()
    meter = EnergyMeter(
        Found((FakeProbe(clock, *sources, **known),), ()), clock=clock, period_s=0.25
    )
    with meter, meter.window("train") as window:
        clock.wait(seconds)
    return meter, window


def source_of(meter):
    (source,) = meter.report().data["energy"]["by_source"]
    return source


def figures(meter):
    """Joules, and the interval of them."""
    energy = meter.report().data["energy"]
    return energy["measured_wh"] * 3600, [3600 * x for x in energy["measured_wh_k2"]]


def turning(at_s, before_w, after_w):
    """A counter whose rate changes at some moment of the run."""
    at_s += 0.7  # the look before the start
    return lambda t: 5e6 + before_w * min(t, at_s) + after_w * max(0.0, t - at_s)


@pytest.mark.parametrize(
    ("factor", "at_s", "known"),
    [
        (0.0, 12.3, MEAN),
        (0.0, 14.0, {}),
        (0.09, 14.0, MEAN),
        (0.5, 0.0, {}),
        (0.5, 12.3, MEAN),
        (0.7, 0.0, MEAN),
        (0.7, 12.3, MEAN),
    ],
)
def test_counter_that_goes_slow_gives_way_to_power_from_that_moment(
    factor, at_s, known
):
    slow = turning(at_s, WATTS, factor * WATTS)
    meter, window = run(counter(slow, **NVML), power(WATTS, **known))
    joules, (low, high) = figures(meter)
    assert joules == pytest.approx(WATTS * RUN_S, rel=0.03)
    assert low <= WATTS * RUN_S <= high
    assert window.energy.wh * 3600 == pytest.approx(joules)
    data = meter.report().data
    assert (data["valid"], data["reason_codes"]) == (True, [])
    first, second = source_of(meter)["given_by"]
    assert (first["method"], second["method"]) == ("counter", "power")
    assert second["from_s"] == pytest.approx(at_s, abs=5.2)
    stopped = "stood still" if factor == 0 else "was contradicted by power"
    assert second["why"] == f"counter {stopped}"
    (event,) = [e for e in data["events"] if e["what"] == "contradicted"]
    assert (event["source"], event["instead"]) == ("counter", "power")
    assert any(
        f"from {second['from_s']:.0f} s on the energy is that of power" in warning
        for warning in data["warnings"]
    )
    assert ("contradicted by" in str(data["warnings"])) == (factor > 0)


@pytest.mark.parametrize(("factor", "at_s"), [(1.4, 12.3), (2.0, 12.3), (5.0, 14.0)])
def test_counter_that_goes_fast_gives_way_and_the_interval_holds_what_it_added(
    factor, at_s
):
    fast = turning(at_s, WATTS, factor * WATTS)
    meter, _ = run(counter(fast, **NVML), power(WATTS, **MEAN))
    joules, (low, high) = figures(meter)
    true = WATTS * RUN_S
    # it had some ten seconds to count too much, and energy is never taken back
    assert true < joules < true + 16 * (factor - 1) * WATTS
    assert low <= true <= joules <= high
    assert source_of(meter)["given_by"][1]["from_s"] == pytest.approx(at_s, abs=5.2)


def test_energy_never_falls_when_power_takes_over():
    for factor in (0.0, 2.0):
        clock = FakeClock()
        sources = counter(turning(10.0, 200.0, factor * 200.0), **NVML), power(200.0)
        probe, last = FakeProbe(clock, *sources), 0.0
        meter = EnergyMeter(Found((probe,), ()), clock=clock, period_s=0.25)
        with meter:
            for _ in range(50):
                clock.wait(0.63)
                wh = sum(meter.wh().values())
                assert wh >= last
                last = wh


def test_phases_add_up_and_cover_the_truth_where_power_takes_over():
    clock = FakeClock()
    frozen = counter(turning(32.0, WATTS, 0.0), **NVML)
    probe = FakeProbe(clock, frozen, power(WATTS, **MEAN))
    meter = EnergyMeter(Found((probe,), ()), clock=clock, period_s=0.25)
    with meter:
        for _ in range(3):
            with meter.window("select"):
                clock.wait(12.0)
            with meter.window("train"):
                clock.wait(24.0)
    phases = meter.report().data["phases"]
    total = sum(phase["wh"] for phase in phases.values()) * 3600
    assert total == pytest.approx(figures(meter)[0])
    for name, seconds in (("select", 36.0), ("train", 72.0)):
        low, high = (3600 * x for x in phases[name]["wh_k2"])
        assert low <= WATTS * seconds <= high


def test_both_wrong_by_rate_are_both_in_the_interval():
    # nobody can say which one is right; here neither is
    meter, _ = run(
        counter(turning(5.0, WATTS, 0.5 * WATTS), **NVML),
        power(lambda t: WATTS if t < 5.7 else 2 * WATTS, **MEAN),
    )
    _, (low, high) = figures(meter)
    assert low <= WATTS * 5 + 0.5 * WATTS * (RUN_S - 5)
    assert high >= WATTS * 5 + 1.95 * WATTS * (RUN_S - 5)


def test_frozen_counter_beside_power_of_nothing_is_not_valid():
    meter, _ = run(
        counter(turning(12.0, WATTS, 0.0), **NVML),
        power(lambda t: WATTS if t < 12.7 else 0.0, **MEAN),
    )
    data = meter.report().data
    assert data["reason_codes"] == ["unmeasured"]
    _, (_, high) = figures(meter)
    assert high >= WATTS * RUN_S


def test_frozen_counter_beside_power_that_fails_is_not_valid():
    meter, _ = run(
        counter(turning(12.0, WATTS, 0.0), **NVML),
        power(lambda t: WATTS if t < 12.7 else None, **MEAN),
    )
    assert meter.report().data["reason_codes"] == ["unmeasured"]
    assert figures(meter)[1][1] >= WATTS * RUN_S


@pytest.mark.parametrize(
    ("stops_s", "known"),
    [(5.0, NVML), (16.0, {"update_period_s": 0.001}), (24.0, {}), (5.0, {})],
)
def test_frozen_counter_that_is_alone_is_not_valid_and_the_interval_holds_the_truth(
    stops_s, known
):
    meter, _ = run(counter(turning(stops_s, WATTS, 0.0), **known))
    data = meter.report().data
    assert (data["valid"], data["reason_codes"]) == (False, ["unmeasured"])
    assert source_of(meter)["unmeasured_s"] == pytest.approx(RUN_S - stops_s, abs=0.6)
    assert figures(meter)[1][1] >= WATTS * RUN_S


def test_counter_that_stood_still_and_goes_on_has_lost_what_was_used_meanwhile():
    lost = lambda t: 200.0 * min(t, 10.7) + 200.0 * max(0.0, t - 30.7)  # noqa: E731
    meter, _ = run(counter(lost, **NVML))
    assert meter.report().data["reason_codes"] == ["unmeasured"]
    assert source_of(meter)["unmeasured_s"] == pytest.approx(20.0, abs=0.6)
    assert source_of(meter)["events"] == {"stalled": 1}


def test_counter_that_held_back_and_shows_it_at_once_has_lost_nothing():
    held = lambda t: 200.0 * (t if not 10.7 < t < 12.7 else 10.7)  # noqa: E731
    meter, _ = run(counter(held, **NVML))
    assert meter.report().data["reason_codes"] == []
    assert figures(meter)[0] == pytest.approx(WATTS * RUN_S)


def test_short_stall_that_is_made_up_for_does_not_change_the_source():
    def held(t):
        return 200.0 * (t if not 31 < t < 35 else 31.0)

    meter, _ = run(counter(held, **NVML), power(WATTS, **MEAN))
    assert len(source_of(meter)["given_by"]) == 1
    assert figures(meter)[0] == pytest.approx(WATTS * RUN_S)


def test_counter_that_another_power_confirms_stays():
    # of three, the one that two agree against is wrong
    meter, _ = run(
        counter(lambda t: WATTS * t, **NVML),
        power(lambda t: WATTS if t < 10 else 0.3 * WATTS, **MEAN),
        power(WATTS, **MEAN),
    )
    assert len(source_of(meter)["given_by"]) == 1
    joules, (low, _) = figures(meter)
    assert joules == pytest.approx(WATTS * RUN_S)
    assert low <= WATTS * (10 + 0.3 * 20), "what the other one gives is in it"


def test_power_that_samples_a_quarter_of_the_time_cannot_outvote_a_counter():
    # a load in step with the sensor: it sees 90 W or 700 W where 250 W are drawn
    for seen_w in (90.0, 700.0):
        meter, _ = run(counter(lambda t: 250.0 * t, **NVML), power(seen_w, **QUARTER))
        assert len(source_of(meter)["given_by"]) == 1
        joules, (low, high) = figures(meter)
        assert joules == pytest.approx(250 * RUN_S)
        assert low <= min(250, seen_w) * RUN_S
        assert high >= max(250, seen_w) * RUN_S


def test_power_that_samples_a_quarter_of_the_time_shows_that_a_counter_is_frozen():
    meter, _ = run(counter(turning(12.0, WATTS, 0.0), **NVML), power(WATTS, **QUARTER))
    assert figures(meter)[0] == pytest.approx(WATTS * RUN_S, rel=0.01)
    assert source_of(meter)["given_by"][1]["method"] == "power"


def test_counter_that_one_of_two_powers_confirms_is_admitted():
    # the first one, in step with the load, sees a third of it
    meter, _ = run(
        counter(lambda t: 300.0 * t, **NVML), power(90.0), power(300.0), seconds=8.0
    )
    assert source_of(meter)["kind"] == "counter"
    assert figures(meter)[0] == pytest.approx(300 * 8.0)


@pytest.mark.parametrize("rel", [-0.12, -0.06, 0.06, 0.12])
def test_small_difference_stays_and_is_in_the_interval(rel):
    meter, _ = run(
        counter(lambda t: WATTS * (1 + rel) * t, **NVML), power(WATTS, **MEAN)
    )
    assert len(source_of(meter)["given_by"]) == 1
    joules, (low, high) = figures(meter)
    assert joules == pytest.approx(WATTS * (1 + rel) * RUN_S)
    assert low <= WATTS * RUN_S <= high


def test_load_that_comes_and_goes_is_no_contradiction_of_a_lagging_mean():
    def joules(t):
        return (
            (t // 20) * (2100 + 17 * 60)
            + 700 * min(t % 20, 3)
            + (60 * max(0.0, t % 20 - 3))
        )

    meter, _ = run(
        counter(joules, **NVML),
        power(lambda t: joules(t) - joules(max(0.0, t - 1.0)), **MEAN),
    )
    assert len(source_of(meter)["given_by"]) == 1


@pytest.mark.parametrize("filled", [True, False])
def test_counter_that_starts_anew_is_filled_from_power_or_unmeasured(filled):
    def joules(t):
        return WATTS * t + 1e6 if t < 12 else WATTS * (t - 12)

    sources = [counter(joules, **NVML)] + [power(WATTS, **MEAN)] * filled
    meter, _ = run(*sources)
    assert figures(meter)[0] == pytest.approx(WATTS * RUN_S, abs=0.3 * WATTS)
    assert source_of(meter)["events"] == {"counter_reset": 1}
    assert source_of(meter)["unmeasured_s"] == pytest.approx(0.0 if filled else 0.25)
    assert len(source_of(meter)["given_by"]) == 1


# what never moves


@pytest.mark.parametrize(
    "still",
    [
        counter(lambda _: 5000.0),
        counter(lambda _: 0.0, **NVML),
        power(0.0),
        power(0.0, **MEAN),
    ],
)
def test_sensor_that_never_moves_is_unavailable_and_not_0_wh(still):
    meter, window = run(still)
    data = meter.report().data
    energy = data["energy"]
    assert (energy["measured_wh"], energy["measured_wh_k2"]) == (None, None)
    assert (energy["quality"], meter.wh()) == ("unavailable", None)
    assert (window.energy.wh, window.energy.quality) == (None, "unavailable")
    assert (data["valid"], data["reason_codes"]) == (False, ["unavailable"])
    (source,) = energy["by_source"]
    assert (source["wh"], source["quality"]) == (None, "unavailable")
    (missing,) = energy["unavailable"]
    assert "has not moved" in missing["reason"]
    assert "not measurable here" in str(meter.report())


def test_sensor_that_never_moves_beside_one_that_does_adds_nothing_and_is_named():
    clock = FakeClock()
    sound = FakeProbe(clock, power(WATTS))
    dead = FakeProbe(clock, counter(lambda _: 7.0), id="dram:0", component="dram")
    with EnergyMeter(Found((sound, dead), ()), clock=clock) as meter:
        clock.wait(20.0)
    energy = meter.report().data["energy"]
    assert energy["measured_wh"] * 3600 == pytest.approx(20 * WATTS)
    assert [entry["component"] for entry in energy["unavailable"]] == ["dram"]
    assert meter.report().data["boundary"]["included"] == ["gpu"]


@pytest.mark.parametrize(
    ("sources", "used"),
    [
        ([counter(lambda t: WATTS * t, **NVML), power(0.0)], "counter"),
        ([power(0.0), counter(lambda t: WATTS * t)], "power"),
        ([power(0.0), power(0.0), power(WATTS)], "power"),
        ([counter(lambda _: 9.0), power(0.0), power(WATTS)], "power"),
    ],
    ids=["zero check", "zero first", "two zeros", "still and zero"],
)
def test_power_of_zero_neither_counts_nor_outvotes_what_moves(sources, used):
    meter, _ = run(*sources, seconds=8.0)
    energy = meter.report().data["energy"]
    if sources[1][0].kind == "counter":  # nothing takes over into a second counter
        assert energy["quality"] == "unavailable"
    else:
        assert energy["measured_wh"] * 3600 == pytest.approx(8 * WATTS)
        assert source_of(meter)["kind"] == used


def test_counter_that_never_moves_gives_way_to_power_at_once():
    meter, _ = run(counter(lambda _: 7.0, **NVML), power(WATTS))
    assert figures(meter)[0] == pytest.approx(RUN_S * WATTS)
    assert [span["from_s"] for span in source_of(meter)["given_by"]] == [0.0]


def test_counter_that_is_still_in_a_second_segment_leaves_it_unmeasured():
    first, _ = run(counter(lambda t: WATTS * t, **NVML))
    clock = FakeClock()
    probe = FakeProbe(clock, counter(lambda _: 9e5, **NVML))
    with EnergyMeter(Found((probe,), ()), clock=clock, period_s=0.25) as second:
        second.resume(Accounts.from_json(first.accounts().to_json()))
        clock.wait(20.0)
    data = second.report().data
    assert data["reason_codes"] == ["unmeasured"]
    assert data["energy"]["measured_wh"] * 3600 == pytest.approx(RUN_S * WATTS)
    assert source_of(second)["unmeasured_s"] == pytest.approx(20.0)


def test_spans_of_a_second_segment_begin_where_the_first_one_ended():
    slow = counter(turning(12.0, WATTS, 0.0), **NVML)
    first, _ = run(slow, power(WATTS, **MEAN))
    clock = FakeClock()
    probe = FakeProbe(clock, counter(lambda t: WATTS * t, **NVML), power(WATTS, **MEAN))
    with EnergyMeter(Found((probe,), ()), clock=clock, period_s=0.25) as second:
        second.resume(first.accounts())
        clock.wait(5.0)
    spans = [(s["method"], s["from_s"]) for s in source_of(second)["given_by"]]
    assert spans == [
        ("counter", 0.0),
        ("power", pytest.approx(12.0, abs=5.2)),
        ("counter", pytest.approx(RUN_S)),
    ]


# coarse steps

STEP_J = 36_000.0  # 0.01 kWh


def coarse(watts, step_j=STEP_J, ahead_j=0.0):
    return lambda t: step_j * math.floor((watts * t + ahead_j) / step_j)


@pytest.mark.parametrize(
    ("seconds", "ahead_j"),
    [(20.0, 9_000.0), (100.0, 0.0), (100.0, 35_000.0), (200.0, 9_000.0)],
)
def test_step_of_a_coarse_counter_is_in_the_interval(seconds, ahead_j):
    plug = counter(coarse(5000.0, ahead_j=ahead_j), rel_uncertainty=0.0, max_w=2e4)
    meter, window, _ = run_plug(plug, seconds)
    true = 5000.0 * seconds
    for low, high in (
        meter.report().data["energy"]["measured_wh_k2"],
        meter.report().data["phases"]["train"]["wh_k2"],
        window.energy.interval_wh,
    ):
        assert 3600 * low <= true <= 3600 * high
        assert 3600 * (high - low) <= 2.2 * STEP_J
    assert source_of(meter)["step_wh"] == pytest.approx(10.0)
    assert meter.report().data["reason_codes"] == []


def run_plug(plug, seconds):
    """Measure a window "train" of a plug that is read every two seconds."""
    clock = FakeClock()
    probe = FakeProbe(clock, plug, scope="node", component="node")
    meter = EnergyMeter(Found((probe,), ()), clock=clock, period_s=2.0)
    with meter, meter.window("train") as window:
        clock.wait(seconds)
    return meter, window, clock


def test_many_short_windows_of_a_coarse_counter_each_hold_their_edges():
    clock = FakeClock()
    plug = counter(coarse(5000.0), rel_uncertainty=0.0, max_w=2e4)
    probe = FakeProbe(clock, plug, scope="node", component="node")
    with EnergyMeter(Found((probe,), ()), clock=clock, period_s=1.0) as meter:
        for k in range(12):
            with meter.window("train", index=k):
                clock.wait(3.0)
            clock.wait(1.5)
    data = meter.report().data
    for name, true in (("train", 12 * 3 * 5000.0), ("other", 12 * 1.5 * 5000.0)):
        low, high = (3600 * x for x in data["phases"][name]["wh_k2"])
        assert low <= true <= high
    for row in data["labels"].values():
        low, high = (3600 * x for x in row["wh_k2"])
        assert low <= 3 * 5000.0 <= high


def test_coarse_counter_that_has_not_moved_yet_is_unavailable_until_it_does():
    clock = FakeClock()
    probe = FakeProbe(clock, counter(coarse(5000.0), max_w=2e4))
    with EnergyMeter(Found((probe,), ()), clock=clock, period_s=1.0) as meter:
        clock.wait(5.0)
        assert meter.quality == "unavailable"
        clock.wait(5.0)
        assert meter.quality == "measured"


def test_fine_counter_has_no_step():
    meter, _ = run(counter(lambda t: WATTS * t, **NVML), seconds=10.0)
    assert source_of(meter)["step_wh"] == 0


def test_slow_load_of_a_coarse_counter_is_not_taken_for_a_stop():
    def used(t):
        return 5000.0 * min(t, 60.0) + 1000.0 * max(0.0, t - 60.0)

    plug = counter(lambda t: STEP_J * math.floor(used(t) / STEP_J), max_w=2e4)
    meter, _, _ = run_plug(plug, 200.0)
    assert meter.report().data["reason_codes"] == []


# the look before the start


def after_a_load(t):
    """Power averaged over the last second, where 690 W ended as the meter began."""
    return 120.0 + 570.0 * max(0.0, 1.0 - t)


def test_averaged_power_that_still_holds_a_load_does_not_contradict_the_counter():
    # seen on an H100: the counter was given up for a power that looks back a second
    counted = counter(lambda t: 5e6 + 120.0 * t, **NVML)
    meter, window = run(counted, power(after_a_load, **MEAN))
    assert source_of(meter)["method"] == "counter"
    assert meter.report().data["energy"]["by_source"][0]["events"] == {}
    assert window.energy.wh * 3600 == pytest.approx(120.0 * RUN_S)


def test_counter_that_is_wrong_after_a_load_is_given_up_all_the_same():
    counted = counter(lambda t: 5e6 + 12.0 * t, **NVML)
    meter, window = run(counted, power(after_a_load, **MEAN))
    source = source_of(meter)
    assert (source["method"], source["events"]) == ("power", {"counter_suspect": 1})
    assert window.energy.wh * 3600 == pytest.approx(120.0 * RUN_S, rel=1e-3)
