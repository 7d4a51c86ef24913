"""E(t) against integrals known on paper, and what holds for every power and counter."""

import itertools
import math
import random

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.energy import EnergyMeter, Found
from dpet_jax.energy.accounts.quantity import measured
from dpet_jax.energy.probes.source import Source
from dpet_jax.energy.sensing.curve import Curve

WATTS = Source("watts", "power")
JOULES = Source("joules", "counter", update_period_s=0.1)
RANGE_J = 262143.328850

# no speed of the machine is expected
steady = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
fast = settings(**steady, max_examples=30)


def sampled(power_w, seconds=10.0, period_s=0.1, jitter=0.0, seed=0, drop=0.0):
    random_ = random.Random(seed)
    curve, t = Curve(WATTS), 0.0
    while t < seconds:
        if t == 0 or random_.random() >= drop:
            curve.add(t, float(power_w(t)))
        t += period_s * (1 + random_.uniform(-jitter, jitter))
    curve.add(seconds, float(power_w(seconds)))
    return curve


def always(value):
    return lambda _: value


def window_j(curve, start, end):
    return curve.energy_j(end) - curve.energy_j(start)


# closed forms


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.9])
def test_constant_power_is_exact_in_any_window_under_any_jitter(jitter):
    curve = sampled(always(250.0), jitter=jitter)
    assert curve.totals.energy_j == pytest.approx(2500, abs=1e-9)
    assert window_j(curve, 1.2345, 7.7) == pytest.approx(250 * 6.4655, abs=1e-9)
    assert curve.totals.variance_j2 == 0


@fast
@given(
    st.floats(0, 2000),
    st.floats(0, 10),
    st.floats(0, 10),
    st.integers(0, 99),
)
def test_constant_power_is_exact_between_any_two_moments(watts, one, other, seed):
    curve = sampled(always(watts), jitter=0.5, seed=seed)
    start, end = sorted((one, other))
    assert window_j(curve, start, end) == pytest.approx(watts * (end - start), abs=1e-7)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_ramp_is_exact_in_any_window(jitter):
    curve = sampled(lambda t: 40 + 30 * t, jitter=jitter)
    assert curve.totals.energy_j == pytest.approx(1900, abs=1e-8)
    exact = 40 * (7.7 - 1.2345) + 15 * (7.7**2 - 1.2345**2)
    assert window_j(curve, 1.2345, 7.7) == pytest.approx(exact, abs=1e-8)


@fast
@given(st.floats(1, 9))
def test_step_is_off_by_at_most_half_a_sample_of_it(when):
    curve = sampled(lambda t: 100.0 if t < when else 300.0)
    error = abs(curve.totals.energy_j - (100 * when + 300 * (10 - when)))
    assert error <= 200 * 0.1 / 2 + 1e-9
    # and the reported standard error is that of a step anywhere between two samples
    assert curve.totals.variance_j2 == pytest.approx((200 * 0.1 / 2) ** 2 / 3)


def test_sine_is_off_by_less_than_the_bound_of_the_trapezoid_rule():
    mean, swing, pulse, period_s = 300.0, 100.0, 2 * math.pi / 0.7, 0.05
    curve = sampled(lambda t: mean + swing * math.sin(pulse * t), period_s=period_s)
    exact = mean * 10 + swing / pulse * (1 - math.cos(pulse * 10))
    bound = 10 * period_s**2 / 12 * swing * pulse**2
    assert abs(curve.totals.energy_j - exact) <= bound
    assert abs(curve.totals.energy_j - exact) < 0.3


@pytest.mark.parametrize("source", [WATTS, JOULES])
def test_windows_between_50_random_cuts_add_up(source):
    random_ = random.Random(3)
    curve, t, counted = Curve(source), 0.0, 0.0
    while t < 10:
        counted += random_.uniform(0, 50)
        power = source is WATTS
        curve.add(t, random_.uniform(0, 700) if power else counted)
        t += random_.uniform(0.02, 0.2)
    cuts = [0.0, *sorted(random_.uniform(0, 10) for _ in range(50)), 10.0]
    parts = [window_j(curve, a, b) for a, b in itertools.pairwise(cuts)]
    whole = window_j(curve, 0.0, 10.0)
    assert sum(parts) == pytest.approx(whole, rel=1e-9)
    assert sum(part > 0 for part in parts) > 40


def counted(raw_j, source, reads=101):
    curve = Curve(source)
    events = [curve.add(k * 0.1, raw_j(k)) for k in range(reads)]
    return curve, events


def test_counter_that_wraps_loses_nothing():
    source = Source("rapl", "counter", wrap_j=RANGE_J)
    curve, events = counted(lambda k: (262000 + 5.5 * k) % RANGE_J, source)
    assert curve.totals.energy_j == pytest.approx(550, abs=1e-6)
    assert events.count("wrap") == 1
    assert window_j(curve, 2.0, 3.0) == pytest.approx(55, abs=1e-6)
    assert curve.totals.unmeasured_s == 0


def test_two_domains_wrap_at_their_own_time_and_range():
    package = Source("package", "counter", wrap_j=RANGE_J)
    dram = Source("dram", "counter", wrap_j=65532.610987)
    for source, start in ((package, RANGE_J - 100), (dram, 65532.610987 - 300)):
        curve, events = counted(
            lambda k, source=source, start=start: (start + 5 * k) % source.wrap_j,
            source,
        )
        assert events.count("wrap") == 1
        assert curve.totals.energy_j == pytest.approx(500, abs=1e-6)


def test_failed_reads_lose_nothing_of_a_counter():
    source = Source("rapl", "counter", wrap_j=RANGE_J)
    curve, events = counted(
        lambda k: None if 30 <= k < 35 else 100_000 + 5.0 * k, source
    )
    assert curve.totals.energy_j == pytest.approx(500, abs=1e-6)
    assert events.count("read_failed") == 5
    assert "wrap" not in events
    assert curve.totals.samples == 96


def test_reset_loses_one_interval_and_invents_nothing():
    curve, events = counted(lambda k: (900.0 if k < 50 else 0.0) + 5 * k, JOULES)
    assert curve.totals.energy_j == pytest.approx(495)
    assert events.count("counter_reset") == 1
    assert curve.totals.unmeasured_s == pytest.approx(0.1)


def test_reset_is_filled_from_power():
    curve = Curve(JOULES)
    for k in range(101):
        curve.add(k * 0.1, (900.0 if k < 50 else 0.0) + 5 * k, 5.25)
    assert curve.totals.energy_j == pytest.approx(495 + 5.25)
    assert curve.totals.unmeasured_s == 0


def test_short_peak_between_equal_samples_counts_as_it_was_seen():
    # a meter that kept only changes of the value would get 1000 J of these 1090
    curve = sampled(lambda t: 1000.0 if abs(t - 5) < 0.05 else 100.0)
    assert curve.totals.energy_j == pytest.approx(1090)


# the same traces through the whole meter

TRACES = {
    "constant": (lambda _: 250.0, lambda t: 250.0 * t),
    "ramp": (lambda t: 40 + 30 * t, lambda t: 40 * t + 15 * t**2),
    "step": (
        lambda t: 100.0 if t < 7.33 else 300.0,
        lambda t: 100 * t + 200 * max(0.0, t - 7.33),
    ),
    "sine": (
        lambda t: 300 + 100 * math.sin(2 * math.pi * t / 0.7),
        lambda t: 300 * t + 70 / (2 * math.pi) * (1 - math.cos(2 * math.pi * t / 0.7)),
    ),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("kinds", ["power", "counter", "both"])
def test_meter_gives_the_integral_of_a_trace_in_every_window(name, kinds):
    power_w, energy_j = TRACES[name]
    sources = [counter(energy_j)] * (kinds != "power") + [
        power(power_w, sensor_window_s=0.05)
    ] * (kinds != "counter")
    clock = FakeClock()
    probe = FakeProbe(clock, *sources)
    with EnergyMeter(Found((probe,), ()), clock=clock, period_s=0.05) as meter:
        begun_s, windows = clock() - 100, []
        for k in range(12):
            started = clock() - 100
            with meter.window("train" if k % 3 else "eval") as window:
                clock.wait(0.3 + 0.17 * k)
            windows.append((window, started, clock() - 100))
    data = meter.report().data
    ended_s = clock() - 100
    bound_j = {"constant": 1e-6, "ramp": 1e-6, "step": 200 * 0.05 / 2}.get(
        # h²/12 of the largest second derivative, over the whole run
        name,
        (ended_s - begun_s) * 0.05**2 / 12 * 100 * (2 * math.pi / 0.7) ** 2,
    )
    bound_j = 1e-6 if kinds != "power" else bound_j
    for window, start, end in windows:
        assert abs(window.energy.wh * 3600 - energy_j(end) + energy_j(start)) <= bound_j
    true_j = energy_j(ended_s) - energy_j(begun_s)
    assert abs(data["energy"]["measured_wh"] * 3600 - true_j) <= bound_j
    low, high = data["energy"]["measured_wh_k2"]
    assert low * 3600 <= true_j <= high * 3600
    parts = sum(phase["wh"] for phase in data["phases"].values())
    assert parts == pytest.approx(data["energy"]["measured_wh"], rel=1e-12)
    assert (data["valid"], data["warnings"]) == (True, [])
    assert len(data["energy"]["by_source"][0]["given_by"]) == 1


# loads that are faster than the readings


def square(t, hertz=20.0, duty=0.5):
    return 400.0 if (t * hertz) % 1.0 < duty else 100.0


def aliased(power_w, period_s, **known):
    """Measure a fast load for 20 s; return joules, interval and warnings."""
    clock = FakeClock()
    probe = FakeProbe(clock, power(power_w, rel_uncertainty=0.0, **known))
    meter = EnergyMeter(Found((probe,), ()), clock=clock, period_s=period_s)
    with meter:
        clock.wait(20.0)
    data = meter.report().data
    joules = data["energy"]["measured_wh"] * 3600
    return (
        joules,
        [3600 * x for x in data["energy"]["measured_wh_k2"]],
        data["warnings"],
    )


@pytest.mark.parametrize("period_s", [0.0537, 0.0731, 0.1173])
def test_fast_load_out_of_step_with_the_readings_is_in_the_interval(period_s):
    _, (low, high), warnings = aliased(square, period_s)
    assert low <= 250 * 20 <= high
    assert "sees moments" in warnings[0]


@pytest.mark.parametrize(
    ("load", "true_w"),
    [
        (square, 250.0),  # always the same half is met
        (lambda t: 1000.0 if 0.02 < t % 0.05 < 0.03 else 100.0, 280.0),  # 10 ms spikes
    ],
)
def test_fast_load_in_step_with_the_readings_is_warned_of(load, true_w):
    joules, _, warnings = aliased(load, 0.05)
    assert abs(joules / 20 - true_w) > 100, "nobody can see it in the numbers"
    assert any("in step with the readings" in warning for warning in warnings)


def test_fast_load_of_a_sensor_that_averages_is_exact_and_not_warned_of():
    joules, _, warnings = aliased(lambda _: 250.0, 0.05, sensor_window_s=0.1)
    assert joules == pytest.approx(250 * 20)
    assert warnings == []


# properties

readings = st.one_of(
    st.none(),
    st.floats(-1e6, 1e7),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0]),
)
steps = st.lists(st.tuples(st.floats(0, 3), readings), min_size=2, max_size=40)


@fast
@given(steps, st.sampled_from(["power", "counter"]), st.sampled_from([None, 5000.0]))
def test_energy_never_decreases_whatever_is_read(steps, kind, wrap_j):
    curve = Curve(Source("wild", kind, wrap_j=wrap_j if kind == "counter" else None))
    t, last_j = 0.0, 0.0
    for dt, value in steps:
        t += dt
        curve.add(t, value)
        assert curve.totals.energy_j >= last_j
        last_j = curve.totals.energy_j
    grid = [curve.energy_j(t * k / 50) for k in range(51)]
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(grid))
    assert grid[0] >= 0
    assert curve.energy_j(t) == last_j


@fast
@given(
    st.lists(st.tuples(st.floats(0.01, 3), readings), min_size=2, max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_window_of_power_holds_more_than_the_device_can_draw(steps, one, other):
    curve, t = Curve(Source("wild", "power", max_w=700.0)), 0.0
    for dt, value in steps:
        t += dt
        curve.add(t, value)
    start, end = sorted((one * t, other * t))
    assert -1e-6 <= window_j(curve, start, end) <= 700 * (end - start) + 1e-6


@fast
@given(st.lists(st.tuples(st.floats(0.01, 3), readings), min_size=2, max_size=40))
def test_counter_never_holds_more_than_could_be_drawn_since_it_moved(steps):
    source = Source("wild", "counter", max_w=700.0, update_period_s=0.1)
    curve, t = Curve(source), 0.0
    for dt, value in steps:
        t += dt
        curve.add(t, value)
    # each knot may bring one joule and one late step of the counter
    slack_j = curve.totals.samples * (1 + 700 * 0.1)
    assert 0 <= curve.totals.energy_j <= 700 * t + slack_j + 1e-6


@fast
@given(
    st.lists(st.floats(0, 60), min_size=2, max_size=60),
    st.floats(1000, 1e6),
    st.floats(0, 1),
)
def test_energy_is_the_same_wherever_a_counter_wraps(moves, wrap_j, begin):
    free = Curve(Source("free", "counter", update_period_s=0.1))
    round_ = Curve(Source("round", "counter", wrap_j=wrap_j, update_period_s=0.1))
    total = begin * wrap_j
    for k, move in enumerate(moves):
        total += move
        free.add(k * 0.1, total)
        round_.add(k * 0.1, total % wrap_j)
    assert round_.totals.energy_j == pytest.approx(free.totals.energy_j, abs=1e-6)
    assert round_.totals.unmeasured_s == 0


@fast
@given(
    st.lists(st.floats(0, 60), min_size=10, max_size=100),
    st.sets(st.integers(1, 98), max_size=10),
)
def test_dropped_readings_leave_a_counters_energy_as_it_is(moves, dropped):
    whole, holey, total = Curve(JOULES), Curve(JOULES), 5000.0
    for k, move in enumerate(moves):
        total += move
        whole.add(k * 0.1, total)
        last = k == len(moves) - 1
        holey.add(k * 0.1, None if k in dropped and not last else total)
    assert holey.totals.energy_j == pytest.approx(whole.totals.energy_j, rel=1e-9)


def interval_wh(curve):
    parts = [("gpu", curve.source, curve.totals, 30.0, 0.0)]
    return measured(parts).interval_wh


@settings(**steady, max_examples=10)
@given(
    st.floats(0.15, 5),
    st.floats(0.1, 0.9),
    st.floats(50, 300),
    st.floats(0, 700),
    st.integers(0, 10_000),
)
def test_dropping_a_tenth_of_the_samples_stays_within_the_interval(
    cycle_s, duty, low_w, swing_w, seed
):
    def power_w(t):
        return low_w + swing_w * (t % cycle_s < duty * cycle_s)

    whole = sampled(power_w, 30.0, 0.05)
    holey = sampled(power_w, 30.0, 0.05, seed=seed, drop=0.1)
    assert holey.totals.samples < whole.totals.samples
    low, high = interval_wh(whole)
    assert low <= holey.totals.energy_j / 3600 <= high
    low, high = interval_wh(holey)
    assert low <= whole.totals.energy_j / 3600 <= high
