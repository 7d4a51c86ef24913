"""All probes together: nothing that goes wrong in one stops or distorts the others."""

import copy
import threading

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power

from dpet_jax.energy import Unavailable
from dpet_jax.energy.sensing.channel import Facts
from dpet_jax.energy.sensing.sensors import Sensors


def always(value):
    return lambda _: value


class Bench:
    """Sensors in virtual time, read every tenth of a second."""

    def __init__(self):
        self.clock, self.probes = FakeClock(), []
        self.sensors = None

    def add(self, *sources, **names):
        self.probes.append(FakeProbe(self.clock, *sources, **names))
        return self.probes[-1]

    def begin(self, unavailable=(), period_s=0.1):
        self.sensors = Sensors(tuple(self.probes), unavailable, period_s, self.clock)
        return self.sensors

    def read(self, times=1):
        for _ in range(times):
            self.sensors.read()
            self.clock.wait(0.1)

    def events(self):
        return list(self.sensors.record().events)

    def channel(self, name="gpu:A"):
        return self.sensors.record().channels[name]

    def what(self):
        return [event["what"] for event in self.events()]

    def joules(self):
        totals = self.sensors.totals()
        return {name: pytest.approx(t.energy_j) for name, t in totals.items()}


@pytest.fixture
def bench():
    return Bench()


# reading


def test_every_probe_is_read_once_and_kept_apart(bench):
    one = bench.add(power(100.0), id="gpu:A")
    other = bench.add(counter(lambda t: 50 * t), id="cpu:0", scope="package")
    bench.begin()
    bench.read(11)
    assert bench.joules() == {"gpu:A": 100, "cpu:0": 50}
    assert one.reads == other.reads == 11
    assert bench.events() == []


def test_probe_that_raises_is_a_failed_read_and_harms_no_other(bench):
    broken = bench.add(power(100.0), id="gpu:A")
    bench.add(power(50.0), id="gpu:B")
    bench.begin()
    bench.read(5)
    broken.error = RuntimeError("GPU is lost")
    bench.read(3)
    broken.error = None
    bench.read(3)
    assert bench.joules() == {"gpu:A": 100, "gpu:B": 50}
    assert bench.channel().events == {"read_failed": 3}


def test_slow_reads_are_counted_and_timed(bench):
    probe = bench.add(power(100.0))
    bench.begin(period_s=0.5)
    bench.read(50)
    probe.took_s = 0.25
    bench.read(40)
    assert "slow_read" not in bench.sensors.event_counts
    probe.took_s = 0.3125
    bench.read(10)
    assert bench.sensors.record().event_counts == {"slow_read": 10}
    p50, p99 = bench.sensors.tick_ms()
    assert p50 in (0, 250)
    assert p99 == pytest.approx(312.5)


def test_time_of_the_slowest_read_is_not_exceeded_by_a_percentile(bench):
    probe = bench.add(power(100.0))
    bench.begin()
    assert bench.sensors.tick_ms() == (None, None)
    for took_s in (0.25, 0.5, 0.75):
        probe.took_s = took_s
        bench.sensors.read()
    assert bench.sensors.tick_ms() == (500, 750)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["read", "facts"])
def test_no_lock_is_held_while_a_probe_is_asked(bench, what):
    probe = bench.add(power(100.0))
    sensors = bench.begin()
    done = threading.Event()

    def in_another_thread():
        sensors.totals()
        sensors.record()
        sensors.checks_j()
        done.set()

    def ask():
        threading.Thread(target=in_another_thread, daemon=True).start()
        assert done.wait(10)
        return (100.0,) if what == "read" else {}

    setattr(probe, what, ask)
    sensors.read()
    sensors.ask_facts()
    assert done.is_set()
    assert sensors.event_counts == {}
    if what == "read":
        assert bench.channel().sources[0].samples == 1


@pytest.mark.parametrize(("period_s", "gap_s"), [(0.02, 1.0), (0.5, 1.5), (5.0, 15.0)])
def test_gap_is_three_periods_and_at_least_a_second(bench, period_s, gap_s):
    bench.add(power(100.0))
    sensors = bench.begin(period_s=period_s)
    sensors.read()
    for wait_s, gaps in ((gap_s, 0), (gap_s + 0.01, 1)):
        bench.clock.skip(wait_s)
        sensors.read()
        assert sensors.event_counts["gap"] == gaps


def test_event_says_when_and_where(bench):
    bench.add(counter(lambda t: 0.0 if t > 0.15 else 900.0), id="gpu:B")
    bench.begin()
    bench.read(3)
    assert bench.events() == [
        {
            "clock_s": pytest.approx(100.2),
            "channel": "gpu:B",
            "what": "counter_reset",
            "source": "counter",
        }
    ]
    assert bench.sensors.event_counts == {"counter_reset": 1}


def test_events_are_counted_on_when_no_more_are_kept(bench):
    sensors = bench.begin()
    for k in range(300):
        sensors.failed("journal_failed", OSError(k))
    assert len(bench.events()) == 200
    assert sensors.event_counts == {"journal_failed": 300}
    assert bench.events()[7]["error"] == "OSError: 7"


# the beginning


def test_counter_that_contradicts_power_is_not_used_and_noted(bench):
    bench.add(counter(always(0.0)), power(100.0), id="gpu:A")
    bench.add(counter(lambda t: 100 * t), power(100.0), id="gpu:B")
    bench.begin()
    bench.read(7)
    bench.sensors.admit()
    (event,) = bench.events()
    assert event["what"] == "counter_suspect"
    assert event["channel"] == "gpu:A"
    assert event["reason"].startswith("counter_suspect: it counted 0.0 J")
    bench.sensors.begin()
    bench.read(10)
    assert bench.joules() == {"gpu:A": 100, "gpu:B": 100}


def test_nothing_counts_before_the_beginning(bench):
    bench.add(power(100.0))
    bench.begin()
    bench.read(10)
    bench.sensors.begin()
    assert bench.joules() == {"gpu:A": 0}
    bench.read(10)
    assert bench.joules() == {"gpu:A": 100}


def test_probe_that_never_answers_is_unavailable_with_the_reason(bench):
    bench.add(power(100.0), id="gpu:A")
    mute = bench.add(counter(always(None)), id="cpu:0", component="cpu")
    broken = bench.add(power(1.0), id="node:x", component="node", scope="node")
    broken.error = OSError("no route")
    known = Unavailable("psu", "unknown", "none")
    bench.begin((known,))
    bench.read(3)
    bench.sensors.begin()
    assert bench.sensors.channels.keys() == {"gpu:A"}
    assert (mute.closed, broken.closed) == (1, 1)
    remedy = "look at the sensor with another tool"
    assert bench.sensors.unavailable == [
        known,
        Unavailable("cpu", "counter: no reading came", remedy),
        Unavailable("node", "power: no reading came (OSError: no route)", remedy),
    ]
    bench.read(3)
    bench.sensors.close()
    assert (mute.reads, mute.closed) == (3, 1)


def test_probe_of_which_any_source_answered_stays(bench):
    bench.add(counter(always(None)), power(100.0))
    bench.begin()
    bench.read(2)
    bench.sensors.begin()
    assert bench.sensors.channels.keys() == {"gpu:A"}


def test_mute_probe_that_cannot_even_be_closed_harms_nothing(bench):
    probe = bench.add(power(always(None)))
    probe.close = lambda: 1 / 0
    bench.begin()
    bench.read(2)
    bench.sensors.begin()
    assert bench.sensors.channels == {}
    assert bench.sensors.event_counts["close_failed"] == 1


# what counts once


@pytest.mark.parametrize(
    ("scopes", "counted"),
    [
        ("gpu gpu", "gpu gpu"),
        ("gpu package dram", "gpu package dram"),
        ("node gpu package dram psys module", "node"),
        ("node node", "node node"),
        ("module gpu package dram psys", "module"),
        ("module gpu_parent", "module"),
        ("gpu_parent gpu", "gpu_parent gpu"),
        ("psys package dram gpu", "psys gpu"),
        ("psys package package dram dram", "psys"),
        ("package dram rack", "package dram rack"),
    ],
)
def test_component_inside_another_is_not_counted_again(bench, scopes, counted):
    for number, scope in enumerate(scopes.split()):
        bench.add(power(1.0), id=str(number), scope=scope)
    sensors = bench.begin()
    counting = [c.probe.scope for c in sensors.channels.values() if c.counted]
    assert counting == counted.split()


def test_model_neither_hides_what_is_measured_nor_is_hidden(bench):
    modelled = power(1.0, quality="modelled")
    bench.add(modelled, modelled, modelled, id="node", scope="node")
    bench.add(power(1.0), id="gpu")
    bench.add(power(1.0), id="psys", scope="psys")
    bench.add(modelled, modelled, modelled, id="model", scope="package")
    sensors = bench.begin()
    counted = [name for name, c in sensors.channels.items() if c.counted]
    assert counted == ["node", "gpu", "psys", "model"]


def test_what_is_inside_a_mute_meter_counts(bench):
    bench.add(power(always(None)), id="wall", scope="node")
    bench.add(power(100.0), id="gpu")
    bench.begin()
    assert not bench.sensors.channels["gpu"].counted
    bench.read(2)
    bench.sensors.begin()
    assert bench.sensors.channels["gpu"].counted


# two sources


def test_joules_of_both_sources_are_known(bench):
    bench.add(counter(lambda t: 100 * t), power(110.0), id="gpu:A")
    bench.add(power(1.0), id="gpu:B")
    bench.begin()
    bench.read(11)
    assert bench.sensors.checks_j() == {
        "gpu:A": (pytest.approx(100), pytest.approx(110))
    }


@pytest.mark.parametrize(
    ("counted_w", "seconds", "noted"),
    [
        (88.0, 10.0, True),
        (112.0, 10.0, True),
        (92.0, 10.0, False),
        (108.0, 10.0, False),
        (50.0, 9.9, False),
    ],
)
def test_sources_disagree_by_more_than_a_tenth_from_ten_seconds_on(
    bench, counted_w, seconds, noted
):
    # what came before the window disagreed wildly, and is no part of it
    bench.add(counter(lambda t: counted_w * t if t > 1 else 500 * t), power(100.0))
    bench.begin()
    bench.read(15)
    before = bench.sensors.checks_j()
    bench.read(round(10 * seconds))
    bench.sensors.compare(before, seconds)
    assert bench.what().count("sources_disagree") == noted
    if noted:
        event = bench.events()[-1]
        assert event["seconds"] == seconds
        assert event["counted_j"] == pytest.approx(counted_w * seconds)
        assert event["checked_j"] == pytest.approx(100 * seconds)


def test_edge_is_as_uncertain_as_the_source_that_counts(bench):
    bench.add(counter(lambda t: t, update_period_s=0.1), power(1.0))
    sensors = bench.begin()
    assert sensors.edge_j2("gpu:A", 700.0, 700.0) == pytest.approx(70**2 / 8)
    assert sensors.edge_j2("gpu:gone", 700.0, 700.0) == 0


# facts


def test_first_and_latest_facts_are_kept(bench):
    probe = bench.add(power(1.0))
    sensors = bench.begin()
    probe.known = {"name": "H200", "temp_c": 41}
    sensors.ask_facts()
    probe.known = {"name": "H200", "temp_c": 50}
    sensors.ask_facts()
    probe.known = {"name": "H200", "temp_c": 66}
    sensors.ask_facts()
    facts = bench.channel().facts
    assert (facts.first["temp_c"], facts.last["temp_c"]) == (41, 66)


def test_facts_may_be_a_dictionary_that_the_probe_goes_on_to_change(bench):
    probe, facts = bench.add(power(1.0)), {"temp_c": 41}
    probe.facts = lambda: facts
    sensors = bench.begin()
    sensors.ask_facts()
    facts["temp_c"] = 66
    sensors.ask_facts()
    assert bench.channel().facts.first == {"temp_c": 41}


def test_foreign_process_is_noted_once_and_remembered(bench):
    probe = bench.add(power(1.0))
    sensors = bench.begin()
    for foreign in (False, True, True, False, None, True):
        probe.known = {"foreign_processes": foreign}
        sensors.ask_facts()
    assert bench.what() == ["foreign_process"]
    assert bench.events()[0]["channel"] == "gpu:A"
    assert bench.channel().facts.shared is True


@pytest.mark.parametrize("foreign", [False, None])
def test_probe_without_company_is_not_shared(bench, foreign):
    probe = bench.add(power(1.0))
    probe.known = {"foreign_processes": foreign}
    sensors = bench.begin()
    sensors.ask_facts()
    assert bench.channel().facts.shared is foreign
    assert bench.what() == []


@pytest.mark.parametrize("facts", [lambda: 1 / 0, lambda: None, lambda: 5])
def test_facts_that_fail_are_noted_and_harm_nothing(bench, facts):
    bench.add(power(1.0), id="gpu:A").facts = facts
    bench.add(power(1.0), id="gpu:B").known = {"name": "H200"}
    sensors = bench.begin()
    sensors.ask_facts()
    assert bench.what() == ["facts_failed"]
    assert bench.channel("gpu:A").facts == Facts()
    assert bench.channel("gpu:B").facts.last == {"name": "H200"}


# the end


def test_every_probe_is_closed_even_if_one_cannot_be(bench):
    bench.add(power(1.0), id="gpu:A").close = lambda: 1 / 0
    other = bench.add(power(1.0), id="gpu:B")
    sensors = bench.begin()
    sensors.close()
    assert other.closed == 1
    assert bench.what() == ["close_failed"]
    assert bench.events()[0]["error"].startswith("ZeroDivisionError")


def test_record_is_left_alone_by_later_readings(bench):
    probe = bench.add(counter(lambda t: 100 * t), power(90.0))
    probe.known = {"name": "H200"}
    sensors = bench.begin((Unavailable("cpu", "denied", "ask root"),))
    sensors.ask_facts()
    bench.read(5)
    record = sensors.record()
    assert record.unavailable == (("cpu", "denied", "ask root"),)
    kept = copy.deepcopy(record)
    bench.read(5)
    sensors.failed("x", OSError())
    sensors.ask_facts()
    assert record == kept
    assert sensors.record() != kept


def test_forked_child_asks_nothing(bench):
    # that it waits for no lock of its parent is tested with a whole meter
    probe = bench.add(power(1.0))
    sensors = bench.begin()
    bench.read(2)
    sensors.after_fork()
    bench.read(2)
    sensors.close()
    assert sensors.totals() == {}
    assert (probe.reads, probe.closed) == (2, 0)
