"""One component over its sources: the best that works counts, without a break."""

import itertools

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import Source
from dpet_jax.energy.sensing.channel import Channel, Facts, Sample, ask, edge_j2
from dpet_jax.energy.sensing.curve import Totals


class Watched:
    """A channel that is read every tenth of a second of virtual time."""

    def __init__(self, *sources):
        self.clock = FakeClock()
        self.probe = FakeProbe(self.clock, *sources)
        self.channel = Channel(self.probe)
        self.anomalies, self.energies_j = [], []

    def read(self, times=1, every_s=0.1):
        for _ in range(times):
            self.anomalies += self.channel.add(ask(self.probe, self.clock))
            self.energies_j.append(self.totals.energy_j)
            self.clock.wait(every_s)
        return self

    def record(self):
        return self.channel.record(self.clock(), Facts())

    def alive(self):
        return [source.alive for source in self.record().sources]

    @property
    def totals(self):
        return self.channel.totals(self.clock())

    @property
    def last_s(self):
        return self.clock() - 0.1 - 100

    def what(self):
        return [event["what"] for event in self.anomalies]

    def never_fell(self):
        pairs = itertools.pairwise(self.energies_j)
        return all(later >= earlier - 1e-9 for earlier, later in pairs)


def always(value):
    return lambda _: value


def between(start_s, end_s, value, otherwise=None):
    """A function that is `value` of the time inside and `otherwise` outside."""
    return lambda t: value(t) if start_s - 1e-6 < t < end_s - 1e-6 else otherwise


def until(end_s, value):
    return between(-1.0, end_s, value)


# asking


def test_answer_is_dated_halfway_between_question_and_answer():
    clock = FakeClock()
    probe = FakeProbe(clock, power(300.0))
    probe.took_s = 0.5
    assert ask(probe, clock) == Sample(100.25, 0.5, (300.0,))


def test_probe_that_raises_has_failed_in_all_its_sources():
    clock = FakeClock()
    probe = FakeProbe(clock, power(1.0), power(2.0))
    probe.error = OSError("gone")
    assert ask(probe, clock) == Sample(100.0, 0.0, (None, None), "OSError: gone")


def test_a_probe_that_would_exit_the_program_has_failed_to_read():
    clock = FakeClock()
    probe = FakeProbe(clock, power(300.0))
    probe.error = SystemExit(70)
    assert ask(probe, clock) == Sample(100.0, 0.0, (None,), "SystemExit: 70")


@pytest.mark.parametrize("answer", [(), (1.0,), (1.0, 2.0, 3.0), ("x", 1.0), None])
def test_answer_that_does_not_fit_the_sources_is_a_failed_reading(answer):
    clock = FakeClock()
    probe = FakeProbe(clock, power(1.0), power(2.0))
    probe.read = lambda: answer
    sample = ask(probe, clock)
    assert sample.values == (None, None)
    assert sample.error.startswith(("ValueError", "TypeError"))


def test_program_can_be_interrupted_while_a_probe_is_asked():
    clock = FakeClock()
    probe = FakeProbe(clock, power(1.0))
    probe.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        ask(probe, clock)


# which counts


def test_first_source_counts_and_the_others_check_it():
    watched = Watched(counter(lambda t: 5000 + 100 * t), power(110.0)).read(11)
    assert watched.channel.source.kind == "counter"
    assert watched.totals.energy_j == pytest.approx(100)
    assert watched.channel.cross_check_j() == pytest.approx(110)
    assert watched.anomalies == []


def test_source_alone_has_nothing_to_check_it():
    assert Watched(power(1.0)).read(3).channel.cross_check_j() is None


@pytest.mark.parametrize(
    "other", [counter(lambda t: t), power(1.0, quality="modelled")]
)
def test_only_measured_power_checks(other):
    assert Watched(power(1.0), other).read(3).channel.cross_check_j() is None


def test_one_reading_of_power_checks_nothing():
    watched = Watched(counter(lambda t: t), power(10.0)).read(1)
    assert watched.channel.cross_check_j() is None
    assert watched.read(1).channel.cross_check_j() == pytest.approx(1)


def test_highest_power_is_that_of_any_source():
    watched = Watched(counter(lambda t: t), power(lambda t: 100 + t), power(50.0))
    assert watched.channel.max_w is None
    assert watched.read(2).channel.max_w == pytest.approx(100.1)
    assert Watched(counter(lambda t: t)).read(2).channel.max_w is None


# demotion


@pytest.mark.parametrize("raised", [True, False])
def test_five_failures_in_a_row_demote_a_source(raised):
    watched = Watched(counter(until(1.0, lambda t: 200 * t)), power(200.0)).read(10)
    if raised:
        watched.probe.read = lambda: (None, 200.0)
    watched.read(4)
    assert watched.channel.source.kind == "counter"
    assert watched.anomalies == []
    watched.read(1)
    assert watched.channel.source.kind == "power"
    assert watched.anomalies == [
        {"what": "demoted", "source": "counter", "error": None}
    ]
    assert watched.channel.events["demoted"] == 1
    assert watched.channel.events["read_failed"] == 5


def test_failures_that_are_not_in_a_row_demote_nothing():
    watched = Watched(counter(lambda t: None if round(10 * t) % 5 else t), power(1.0))
    watched.read(100)
    assert watched.channel.source.kind == "counter"
    assert "demoted" not in watched.channel.events
    assert watched.totals.energy_j == pytest.approx(9.5)


def test_source_that_never_worked_has_five_tries_too():
    watched = Watched(counter(always(None)), power(200.0)).read(4)
    assert watched.channel.source.kind == "counter"
    assert watched.read(1).channel.source.kind == "power"
    assert watched.totals.energy_j == pytest.approx(80)


def test_energy_has_no_break_where_sources_change():
    watched = Watched(counter(until(1.0, lambda t: 200 * t)), power(210.0)).read(50)
    # 0.9 s as the counter counted, 4 s as power gives
    assert watched.totals.energy_j == pytest.approx(180 + 210 * 4)
    assert watched.never_fell()
    assert watched.totals.unmeasured_s == 0


def test_energy_has_no_break_where_sources_change_twice():
    first, second = until(1.0, lambda t: 200 * t), until(3.0, always(300.0))
    watched = Watched(counter(first), power(second), power(100.0)).read(50)
    assert watched.what() == ["demoted", "demoted"]
    assert watched.totals.energy_j == pytest.approx(180 + 300 * 2 + 100 * 2)
    assert watched.never_fell()


def test_counter_that_takes_over_counts_on_from_there():
    watched = Watched(power(until(1.0, always(200.0))), counter(lambda t: 9e6 + t))
    watched.read(31)
    assert watched.channel.source.kind == "counter"
    assert watched.totals.energy_j == pytest.approx(180 + 2.1)
    assert watched.never_fell()


def test_samples_and_moments_have_no_break_either():
    watched = Watched(power(until(1.0, always(200.0))), power(100.0)).read(14)
    before = watched.totals
    watched.read(1)
    after = watched.totals
    assert after.samples == before.samples == 10
    assert after.sum_w == pytest.approx(before.sum_w) == pytest.approx(2000)
    watched.read(1)
    assert watched.totals.samples == 11


def test_demoted_source_stays_demoted():
    watched = Watched(counter(lambda t: None if 1 < t < 2 else 200 * t), power(200.0))
    watched.read(50)
    assert watched.channel.source.kind == "power"
    assert watched.what() == ["demoted"]
    assert watched.alive() == [False, True]


def test_source_that_only_checks_can_be_demoted_too():
    watched = Watched(counter(lambda t: 200 * t), power(until(1.0, always(200.0))))
    watched.read(50)
    assert watched.channel.source.kind == "counter"
    assert watched.anomalies == [{"what": "demoted", "source": "power", "error": None}]
    assert watched.channel.cross_check_j() is None
    assert watched.totals.energy_j == pytest.approx(200 * 4.9)


def test_source_that_only_gives_what_cannot_be_is_demoted():
    watched = Watched(power(2500.0, max_w=700.0), power(200.0)).read(11)
    assert watched.what().count("implausible_power") == 11
    assert watched.what().count("demoted") == 1
    assert watched.totals.energy_j == pytest.approx(200)


def test_last_source_is_never_given_up_and_bridges_a_long_outage():
    watched = Watched(
        counter(until(1.0, lambda t: 200 * t)),
        power(lambda t: None if 3 < t < 63 else 200.0),
    ).read(700)
    assert watched.what() == ["demoted", "gap"]
    assert watched.anomalies[1]["seconds"] == pytest.approx(60, abs=0.21)
    assert watched.totals.energy_j == pytest.approx(200 * 69.9)
    assert watched.totals.unmeasured_s == 0
    assert watched.totals.gap_s == pytest.approx(60, abs=0.21)


def test_sources_that_fail_together_are_all_kept():
    gone = lambda t: None if 1 < t < 3 else 200 * t  # noqa: E731
    watched = Watched(counter(gone), counter(gone)).read(50)
    assert watched.what() == ["gap"]
    assert watched.totals.energy_j == pytest.approx(200 * 4.9)
    assert watched.alive() == [True, True]


def test_error_of_the_probe_is_noted_when_a_source_is_given_up():
    watched = Watched(counter(lambda t: t), power(1.0)).read(1)
    failed = Sample(0.0, 0.0, (None, 1.0), "NVMLError: lost")
    for k in range(5):
        sample = failed._replace(t=101.0 + k)
        watched.anomalies += watched.channel.add(sample)
    (demoted,) = (e for e in watched.anomalies if e["what"] == "demoted")
    assert demoted["error"] == "NVMLError: lost"


@pytest.mark.parametrize("quality", ["measured", "modelled"])
def test_nothing_is_demoted_into_a_model(quality):
    guess = power(100.0, quality="modelled")
    watched = Watched(power(until(1.0, always(100.0)), quality=quality), guess, guess)
    watched.read(50)
    assert watched.record().active == 0
    assert "demoted" not in watched.channel.events


def test_what_was_read_before_the_beginning_is_not_counted_after_a_demotion():
    mute, failing = always(None), until(0.2, lambda t: 100 * t)
    for first in (mute, failing):
        watched = Watched(counter(first), power(100.0)).read(4)
        watched.channel.begin()
        watched.read(20)
        assert watched.what() == ["demoted"]
        assert watched.totals.energy_j == pytest.approx(200)


# readings of two threads


def test_answer_to_a_question_asked_before_the_last_answer_is_left_out():
    channel = Channel(FakeProbe(FakeClock(), counter(lambda t: t)))
    channel.add(Sample(100.0, 0.0, (1000.0,)))
    # asked at 100.1, answered at 100.12
    channel.add(Sample(100.11, 0.02, (1011.0,)))
    # asked at 100.119, taken at once, answered at 100.2: dated later, and less
    assert channel.add(Sample(100.1595, 0.081, (1010.0,))) == []
    channel.add(Sample(100.3, 0.0, (1030.0,)))
    assert channel.totals(100.3) == Totals(energy_j=30.0, samples=3)
    assert channel.events == {"overtaken": 1}


def test_question_asked_at_the_moment_of_the_last_answer_counts():
    watched = Watched(counter(lambda t: 100 * t))
    watched.probe.took_s = 0.1
    watched.read(100, every_s=0.0)
    assert watched.totals.samples == 100
    assert watched.channel.events == {}


# silence


def test_silence_is_unmeasured_until_it_is_bridged():
    watched = Watched(power(lambda t: None if 1 < t < 4 else 100.0)).read(10)
    assert watched.totals.unmeasured_s == 0
    watched.clock.wait(0.8)  # 0.9 since the last reading
    assert watched.totals.unmeasured_s == 0
    watched.clock.wait(0.2)
    assert watched.totals.unmeasured_s == pytest.approx(1.1)
    watched.read(30)
    assert watched.totals.unmeasured_s == 0
    assert watched.what() == ["gap"]
    assert watched.channel.events["gap"] == 1


# resets


def test_reset_of_a_counter_is_filled_in_from_power():
    joules = lambda t: 100 * t + (900 if t < 1.05 else 0)  # noqa: E731
    watched = Watched(counter(joules, update_period_s=0.1), power(100.0)).read(31)
    assert watched.what() == ["counter_reset"]
    assert watched.anomalies[0]["source"] == "counter"
    assert watched.totals.energy_j == pytest.approx(300)
    assert watched.totals.unmeasured_s == 0


@pytest.mark.parametrize(
    "other",
    [
        power(lambda t: None if 1.05 < t < 1.15 else 100.0),
        power(100.0, quality="modelled"),
        counter(lambda t: 100 * t),
    ],
    ids=["failed too", "modelled", "counter"],
)
def test_reset_that_nothing_else_measured_is_unmeasured(other):
    joules = lambda t: 100 * t + (900 if t < 1.05 else 0)  # noqa: E731
    watched = Watched(counter(joules, update_period_s=0.1), other).read(31)
    assert watched.totals.energy_j == pytest.approx(290)
    assert watched.totals.unmeasured_s == pytest.approx(0.1)


def test_wrap_is_counted_and_not_worth_a_line():
    watched = Watched(counter(lambda t: (900 + 100 * t) % 1000, wrap_j=1000.0))
    watched.read(31)
    assert watched.anomalies == []
    assert watched.channel.events == {"wrap": 1}
    assert watched.totals.energy_j == pytest.approx(300)


# admission


@pytest.mark.parametrize(
    ("counted_w", "power_w", "admitted"),
    [
        (0.0, 100.0, False),
        (49.0, 100.0, False),
        (51.0, 100.0, True),
        (100.0, 100.0, True),
        (199.0, 100.0, True),
        (201.0, 100.0, False),
        (100.0, 0.0, True),  # a device draws something: the power is wrong
        (0.0, 0.0, True),
        (1.6, 0.1, True),  # less than a joule of each shows nothing
        (0.0, 1.6, True),
        (1.7, 0.1, False),
        (0.0, 1.7, False),
        (9e4, 100.0, False),  # more than can be drawn, hence filled in from power
    ],
)
def test_counter_is_admitted_if_power_agrees(counted_w, power_w, admitted):
    source = counter(lambda t: 7e6 + counted_w * t, max_w=1000.0, update_period_s=0.1)
    watched = Watched(source, power(power_w)).read(7)
    reason = watched.channel.admit()
    assert (reason is None) == admitted
    assert watched.channel.source.kind == ("counter" if admitted else "power")
    assert watched.alive() == [admitted, True]
    assert watched.channel.events["counter_suspect"] == (not admitted)


def test_reason_names_both_numbers():
    watched = Watched(counter(always(0.0)), power(100.0)).read(7)
    reason = watched.channel.admit()
    assert reason == "counter_suspect: it counted 0.0 J, power gives 60.0"


def test_reason_names_jumps_that_power_filled_in():
    watched = Watched(counter(lambda t: 9e6 * t), power(100.0)).read(7)
    assert watched.channel.admit() == (
        "counter_suspect: it jumped 6 times by more than the device can draw"
    )


def test_counter_that_was_not_admitted_does_not_count_again():
    watched = Watched(counter(lambda t: 250 * t), power(100.0), power(90.0)).read(7)
    watched.channel.admit()
    watched.channel.begin()
    watched.read(11)
    assert watched.totals.energy_j == pytest.approx(110)
    assert watched.channel.cross_check_j() == pytest.approx(90 * 1.7)
    assert watched.channel.admit() is None


@pytest.mark.parametrize(
    "sources", [(counter(always(0.0)),), (power(1.0), power(100.0))]
)
def test_what_has_no_counter_or_no_check_is_admitted(sources):
    watched = Watched(*sources).read(7)
    assert watched.channel.admit() is None
    assert watched.record().active == 0


# begin


def test_everything_counts_from_the_beginning_only():
    watched = Watched(power(lambda t: 100 + 100 * t), power(50.0)).read(11)
    watched.channel.begin()
    assert watched.channel.totals(watched.clock()) == Totals()
    watched.read(10)
    assert watched.totals.energy_j == pytest.approx(250)
    assert watched.totals.samples == 10
    joules = [source.energy_j for source in watched.record().sources]
    assert joules == [pytest.approx(250), pytest.approx(50)]


# models


def test_model_counts_its_first_source_between_its_second_and_third():
    mid, low, high = (power(w, quality="modelled") for w in (100.0, 10.0, 300.0))
    watched = Watched(mid, low, high).read(11)
    watched.channel.begin()
    watched.read(10)
    totals = watched.totals
    joules = (totals.low_j, totals.energy_j, totals.high_j)
    assert joules == (pytest.approx(10), pytest.approx(100), pytest.approx(300))
    assert watched.channel.cross_check_j() is None


def test_model_of_one_number_is_as_uncertain_as_it_says():
    source = power(100.0, quality="modelled", rel_uncertainty=0.25)
    totals = Watched(source).read(11).totals
    assert (totals.low_j, totals.high_j) == (pytest.approx(75), pytest.approx(125))


def test_what_is_measured_has_no_assumptions():
    totals = Watched(power(1.0), power(2.0), power(3.0)).read(11).totals
    assert (totals.low_j, totals.high_j) == (0, 0)


# the record


def test_record_describes_component_sources_and_sums():
    watched = Watched(counter(lambda t: 100 * t, wrap_j=1e9), power(110.0)).read(11)
    record = watched.record()
    described = (record.component, record.scope, record.counted, record.active)
    assert described == ("gpu", "gpu", True, 0)
    first, second = record.sources
    assert first.source == record.source == watched.channel.source
    assert (first.energy_j, second.energy_j) == pytest.approx((100, 110))
    assert first.samples == second.samples == 11
    assert record.totals == watched.totals
    assert (record.max_w, record.events) == (110, {})


# edges


def test_counter_is_up_to_one_period_behind_at_an_edge():
    source = Source("c", "counter", update_period_s=0.1)
    # two edges at a steady 700 W: twice the standard error is 70 J
    variance = 2 * edge_j2(source, 700.0, 700.0)
    assert 2 * variance**0.5 == pytest.approx(70)
    assert edge_j2(source, 600.0, 800.0) == edge_j2(source, 700.0, 700.0)
    assert edge_j2(Source("c", "counter"), 700.0, 700.0) == 0


@pytest.mark.parametrize(
    "known",
    [
        {"sensor_window_s": 1.0},
        {"sensor_window_s": 1.0, "update_period_s": 0.1},
        {"sensor_window_s": 0.025, "update_period_s": 1.0},
    ],
)
def test_average_looks_one_window_back_at_an_edge(known):
    source = Source("p", "power", **known)
    assert 2 * edge_j2(source, 100.0, 700.0) ** 0.5 == pytest.approx(600)
    assert 2 * edge_j2(source, 700.0, 100.0) ** 0.5 == pytest.approx(600)
    assert edge_j2(source, 700.0, 700.0) == 0


def test_edge_of_a_sensor_of_which_nothing_is_known_adds_nothing():
    assert edge_j2(Source("p", "power"), 100.0, 700.0) == 0
