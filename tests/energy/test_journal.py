"""What a meter writes down: a journal that any kill leaves readable, and a trace."""

import copy
import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.energy import Accounts, EnergyMeter, Found, report_from_journal
from dpet_jax.energy.accounts import state
from dpet_jax.energy.accounts.journal import (
    Journal,
    apply,
    changes,
    fold,
    read,
    read_until,
)
from dpet_jax.energy.accounts.ledger import Row
from dpet_jax.energy.accounts.logbook import Logbook, Trace
from dpet_jax.energy.sensing.channel import ChannelRecord
from dpet_jax.energy.sensing.curve import Totals

KEYS = st.sampled_from(["a", "b", "c", ""])
PLAIN = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-1, 1) | st.text()
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)
STATES = st.dictionaries(KEYS, VALUES, min_size=4, max_size=4)  # always the same keys


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "energy.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def plain(data):
    return json.loads(json.dumps(data))


def slept(seconds):
    """Accounts that differ in one number."""
    return Accounts(suspended_s=float(seconds))


def spent(seconds, **joules):
    """Accounts of some seconds and of channels with some joules."""
    channels = {
        name: ChannelRecord("gpu", "gpu", True, 0, (), Totals(energy_j))
        for name, energy_j in joules.items()
    }
    phases = {"train": Row(seconds - 1.0), "other": Row(1.0)}
    return Accounts(phases=phases, channels=channels)


@pytest.fixture
def started(clock):
    """Begin to measure; a meter that a test does not stop is that of a killed run."""
    begun = []

    def start(*probes, path=None, earlier=None):
        meter = EnergyMeter(Found(probes, ()), clock=clock).start()
        begun.append(meter)
        if earlier is not None:
            meter.resume(earlier)
        if path is not None:
            meter.keep_journal(path)
        return meter

    yield start
    for meter in begun:
        meter.stop()


# changes and apply


@settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
)
@given(STATES, STATES, STATES)
def test_changes_turn_the_old_data_into_the_new_and_leave_them_alone(one, two, three):
    keep = copy.deepcopy((one, two, three))
    state = plain(one)
    for old, new in ((one, two), (two, three)):
        patch = changes(old, new)
        assert plain(patch) == patch
        apply(state, plain(patch))
        assert state == new
        assert changes(new, new) == {}
    assert (one, two, three) == keep


def test_only_what_changed_is_written():
    old = {"phases": {"train": {"s": 1.0}, "eval": {"s": 2.0}}, "schema": "x"}
    new = {"phases": {"train": {"s": 1.5}, "eval": {"s": 2.0}}, "schema": "x"}
    assert changes(old, new) == {"phases": {"train": {"s": 1.5}}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {}),
        ({"a": 1}, None),
        (None, {"a": 1}),
        ([{"a": 1}], {"a": 1}),
        ({"a": 1}, [{"a": 1}]),
        ([1, 2], [1]),
        ({"a": [1]}, {"a": [[1]]}),
    ],
)
def test_what_vanishes_or_changes_its_kind_is_changed(old, new):
    state = {"x": copy.deepcopy(old)}
    apply(state, plain(changes({"x": old}, {"x": new})))
    assert state == {"x": new}


# writing and reading


def test_line_holds_what_changed_since_the_line_before_and_not_since_the_first(path):
    with closing(Journal(path, slept(1))) as journal:
        journal.write("sample", slept(2))
        journal.write("sample", replace(slept(2), segments=1))
    patches = [line["patch"] for line in lines(path)[1:]]
    assert patches == [{"suspended_s": 2.0}, {"segments": 1}]
    assert read(path).accounts == replace(slept(2), segments=1)


def test_fold_is_the_meters_accounts_at_every_line(path, clock, monkeypatch, started):
    written = [plain(Accounts().to_json())]
    real = Journal.write

    def spy(self, event, accounts, **values):
        known = replace(accounts, labels=meter.accounts().labels)  # all of them
        written.append(plain(known.to_json()))
        real(self, event, accounts, **values)

    monkeypatch.setattr(Journal, "write", spy)
    probe = FakeProbe(clock, counter(lambda t: 200.0 * t), power(200.0))
    meter = started(probe)
    meter.keep_journal(path)
    for index in range(3):
        with meter.window("train", index=index):
            clock.wait(0.4)
    with meter.window("train", index=0), meter.window("eval"):
        clock.wait(2.3)
        probe.error = OSError("lost")
        clock.wait(1.0)
    probe.error = None
    probe.known = {"temperature_c": 50}
    meter.measure_idle(3.0)
    clock.wait(35.0)
    probe.known = {}  # a fact that is no longer given
    meter.stop()
    folds = [copy.deepcopy(state) for _, state in fold(path)]
    assert len(folds) == len(written) == len(lines(path)) > 40
    assert folds == written
    last = replace(meter.accounts(), now_utc=folds[-1]["now_utc"])
    assert read(path).accounts == last
    assert list(last.labels) == ["train 0", "train 1", "train 2"]


def bytes_of_a_window(path, clock, start, labels):
    """Bytes written and rows turned into JSON by one window after so many labels."""
    meter = start(FakeProbe(clock, power(100.0)), path=path)
    for index in range(labels):
        with meter.window("train", index=1000 + index):
            clock.wait(0.01)
    before, rows = path.stat().st_size, []
    with pytest.MonkeyPatch.context() as patch:
        real = state._row_to_json
        patch.setattr(state, "_row_to_json", lambda row: rows.append(row) or real(row))
        with meter.window("train", index=9999):
            clock.wait(0.01)
    meter.stop()
    return path.stat().st_size - before, len(rows)


def test_window_costs_the_journal_the_same_however_many_labels_there_are(
    tmp_path, clock, started
):
    few = bytes_of_a_window(tmp_path / "few", clock, started, 5)
    many = bytes_of_a_window(tmp_path / "many", clock, started, 60)
    assert many[1] == few[1]
    assert many[0] == pytest.approx(few[0], rel=0.1)
    assert len(read(tmp_path / "many").accounts.labels) == 61


def test_journal_that_is_kept_before_a_resume_adds_up_too(path, clock, started):
    earlier = spent(7.0)
    earlier = replace(earlier, labels={"round 1": Row(7.0, count=2)})
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    with meter.window("train", "round 1"):
        clock.wait(1.0)
    meter.resume(earlier)
    with meter.window("train", "round 2"):
        clock.wait(1.0)
    meter.stop()
    folded = read(path).accounts
    assert folded.labels["round 1"].s == pytest.approx(8.0)
    assert folded.total_s == pytest.approx(9.0)


def test_line_is_on_disk_when_the_window_is_closed(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    with meter.window("train", "round 1"):
        clock.wait(0.5)
    last = lines(path)[-1]
    assert (last["event"], last["phase"]) == ("window", "train")
    assert (last["label"], last["s"]) == ("round 1", pytest.approx(0.5))


def test_line_that_was_not_written_whole_is_an_error(path, monkeypatch):
    class Full(io.FileIO):
        full = False

        def write(self, line):
            return super().write(line[:7] if self.full else line)

    monkeypatch.setattr(type(path), "open", lambda path, *_, **__: Full(path, "ab"))
    with closing(Journal(path, slept(1))) as journal:
        Full.full = True
        with pytest.raises(OSError, match="No space left"):
            journal.write("sample", slept(2))
    assert journal.lines == 1
    monkeypatch.undo()
    assert read(path).accounts == slept(1)


def test_a_kill_at_any_moment_loses_at_most_a_second(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    with meter.window("train"):
        for _ in range(23):
            clock.wait(0.31)
            known, folded = meter.total_s, read(path)
            assert known - 1.1 < folded.accounts.total_s <= known
            assert not folded.complete
            wh = folded.accounts.wh()["train"]
            assert wh * 3600 == pytest.approx(100 * folded.accounts.total_s)
    meter.stop()
    folded = read(path)
    assert folded.complete
    joules = [sample["joules"]["gpu:A"] for sample in folded.samples]
    assert sum(joules) == pytest.approx(713.0)
    spans = [(sample["start_s"], sample["end_s"]) for sample in folded.samples]
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
    assert len(spans) in (7, 8)
    started(path=path)
    assert not read(path).complete, "a further segment has begun"


def test_nothing_is_read_from_nothing(path):
    assert read(path) == (None, False, [], [])
    path.write_text("")
    assert read(path).accounts is None
    with pytest.raises(ValueError, match=r"energy\.jsonl: holds no energy record"):
        report_from_journal(path)


@pytest.mark.parametrize("left", [1, 20, -2, -1, None])
def test_torn_last_line_is_dropped_and_cut_off_before_writing_on(left, path):
    first = Journal(path, slept(1))
    first.write("sample", slept(2))
    whole = path.read_bytes()
    first.write("sample", slept(3))
    first.close()
    torn = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + (b"" if left is None else torn[:left]))
    assert read(path).accounts == slept(2)
    second = Journal(path, slept(7))
    second.close()
    assert second.lines == 3
    assert path.read_bytes().startswith(whole + b'{"event": "start"')
    assert read(path).accounts == slept(7)


def test_rubbish_after_a_power_cut_ends_the_reading_there(path):
    with closing(Journal(path, slept(1))) as journal:
        journal.write("sample", slept(2))
    with path.open("ab") as file:
        file.write(b"\0\0\xff\xfe\n")
    assert read(path).accounts == slept(2)


def test_facts_that_json_does_not_know_are_written_as_text(
    path, tmp_path, clock, started
):
    probe = FakeProbe(clock, power(100.0))
    probe.known = {"where": tmp_path}
    meter = started(probe, path=path)
    with meter.window("train"):
        clock.wait(2.0)
    meter.stop()
    assert "journal_failed" not in meter.report().data["event_counts"]
    facts = read(path).accounts.channels["gpu:A"].facts
    assert facts.last == {"where": str(tmp_path)}
    meter.report().write(tmp_path / "energy.json")


def test_accounts_at_the_end_of_a_window_are_found_again(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    known = []
    for _ in range(2):
        with meter.window("checkpoint"):
            clock.wait(1.5)
            known.append(meter.journal_lines)
        with meter.window("train"):
            clock.wait(1.5)
    meter.stop()
    seconds = [
        read_until(path, "checkpoint", after).phases["checkpoint"].s
        for after in (0, *known)
    ]
    assert seconds == pytest.approx([1.5, 1.5, 3.0])
    assert read_until(path, "checkpoint", len(lines(path))) is None
    assert read_until(path, "select", 0) is None


def test_what_all_segments_measured_is_in_the_total_or_lost(path, clock, started):
    kept = Accounts()
    for segment in range(4):
        probe = FakeProbe(clock, counter(lambda t: 130.0 * t), power(130.0))
        crashed = read(path).accounts
        earlier = kept if crashed is None else kept.with_lost(crashed)
        meter = started(probe, path=path, earlier=earlier)
        clock.wait(2.7)
        with meter.window("train", index=segment):
            clock.wait(3.1)
        # as a checkpoint has it
        kept = Accounts.from_json(plain(meter.accounts().to_json()))
        clock.wait(1.9 + segment)
        if segment < 3:  # the process is killed here
            clock.forget()
    meter.stop()
    folded = read(path)
    last = folded.accounts
    assert len(folded.segments) == 4

    def wh(accounts):
        return sum((accounts.wh() or {}).values())

    measured_wh = sum(wh(end) - wh(begin) for begin, end in folded.segments)
    assert wh(last) + last.lost.wh == pytest.approx(measured_wh, rel=1e-12)
    assert last.lost.wh > 0
    measured_s = sum(end.total_s - begin.total_s for begin, end in folded.segments)
    assert last.total_s + last.lost.s == pytest.approx(measured_s, rel=1e-12)
    report = report_from_journal(path).data
    assert (report["complete"], report["time"]["segments"]) == (True, 4)
    assert report["energy"]["lost"]["wh"] == last.lost.wh


def test_what_was_measured_before_the_journal_began_is_in_its_segment(
    path, clock, started
):
    meter = started(FakeProbe(clock, power(100.0)))
    meter.resume(spent(7.0))
    clock.wait(2.5)
    meter.keep_journal(path)
    clock.wait(1.5)
    meter.stop()
    ((begin, end),) = read(path).segments
    assert begin.total_s == 7.0
    assert end.total_s - begin.total_s == pytest.approx(4.0)


# the trace


def joules(trace, channel="gpu"):
    return sum(
        row["w"][channel] * (row["end_s"] - row["start_s"])
        for row in trace.bins()
        if channel in row["w"]
    )


def test_bin_shows_mean_power_between_two_moments():
    trace = Trace()
    trace.add(10.0, 12.0, {"gpu": 600.0, "cpu": 100.0})
    trace.add(12.0, 13.0, {"gpu": 100.0})
    trace.add(13.0, 13.0, {"gpu": 0.0})
    assert trace.bins() == [
        {"start_s": 10, "end_s": 12, "w": {"gpu": 300, "cpu": 50}},
        {"start_s": 12, "end_s": 13, "w": {"gpu": 100}},
    ]


@pytest.mark.parametrize(
    ("most", "adds"),
    [(1, 1), (1, 9), (2, 8), (7, 9), (7, 1000), (512, 9), (512, 1030)],
)
def test_trace_stays_small_and_loses_no_joule(most, adds):
    trace = Trace(most)
    for k in range(adds):
        trace.add(float(k), k + 1.0, {"gpu": float(k)})
        assert k % 50 or len(trace.bins()) <= most + 1
    bins = trace.bins()
    assert len(bins) <= most + 1
    assert joules(trace) == pytest.approx(adds * (adds - 1) / 2)
    assert bins[0]["start_s"] == 0
    assert bins[-1]["end_s"] == adds
    for one, other in itertools.pairwise(bins):
        assert one["end_s"] == other["start_s"]


def test_bins_are_joined_only_when_there_are_more_than_asked_for():
    for trace, most in ((Trace(8), 8), (Trace(), 512)):
        for k in range(most):
            trace.add(float(k), k + 1.0, {"gpu": 1.0})
        assert len(trace.bins()) == most
        trace.add(most + 0.0, most + 1.0, {"gpu": 1.0})
        assert len(trace.bins()) == most // 2 + 1
    for k in range(9, 1000):
        trace = trace if k > 9 else Trace(8)
        trace.add(float(k), k + 1.0, {"gpu": 1.0})
    lengths = [row["end_s"] - row["start_s"] for row in trace.bins()]
    assert len(lengths) >= 4, "detail is kept as far as there is room"
    assert max(lengths) == 128


def test_channel_that_comes_later_or_leaves_keeps_its_joules():
    trace = Trace(2)
    for k, used in enumerate(({"a": 1.0}, {"b": 2.0}, {"a": 3.0, "b": 4.0}, {})):
        trace.add(float(k), k + 1.0, used)
    assert joules(trace, "a") == 4
    assert joules(trace, "b") == 6


def test_low_power_is_the_fifth_percentile():
    trace = Trace()
    for k in reversed(range(101)):
        trace.add(100.0 - k, 101.0 - k, {"gpu": float(k)})
    trace.add(101.0, 102.0, {"cpu": 1.0})
    assert trace.low_w("gpu") == 5
    assert trace.low_w("cpu") == 1
    assert trace.low_w("dram") is None


# both together, and what happens when the file cannot be written


@pytest.fixture
def failures():
    return []


@pytest.fixture
def logbook(failures):
    logbook = Logbook(lambda what, error: failures.append((what, error)))
    yield logbook
    logbook.close()


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_bin_of_the_trace_holds_what_was_used_since_the_last(logbook):
    logbook.sample(spent(2.0, gpu=20.0))
    logbook.sample(spent(6.0, gpu=220.0, cpu=4.0))
    assert logbook.trace.bins() == [
        {"start_s": 0.0, "end_s": 2.0, "w": {"gpu": 10.0}},
        {"start_s": 2.0, "end_s": 6.0, "w": {"gpu": 50.0, "cpu": 1.0}},
    ]


def test_what_earlier_segments_used_is_not_power_of_this_one(logbook):
    logbook.begin(spent(100.0, gpu=9000.0))
    logbook.sample(spent(101.0, gpu=9100.0))
    assert logbook.trace.bins() == [
        {"start_s": 100.0, "end_s": 101.0, "w": {"gpu": 100.0}}
    ]


def test_without_a_journal_there_are_no_lines_and_no_failures(logbook, failures):
    logbook.note("window", spent(1.0), phase="train")
    logbook.sample(spent(2.0))
    assert (logbook.lines, failures) == (0, [])


def test_lines_count_those_of_earlier_segments(logbook, path):
    first = Journal(path, slept(1))
    first.write("sample", slept(2))
    first.close()
    logbook.keep(path, spent(1.0))
    assert logbook.lines == 3
    logbook.sample(spent(2.0))
    logbook.note("end", spent(2.0))
    assert logbook.lines == len(lines(path)) == 5


def test_failure_to_write_is_reported_once_and_the_trace_goes_on(
    logbook, failures, path, monkeypatch
):
    logbook.keep(path, spent(1.0))
    logbook.sample(spent(2.0, gpu=20.0))
    monkeypatch.setattr(Journal, "write", full)
    for seconds in (3.0, 4.0, 5.0):
        logbook.sample(spent(seconds, gpu=10 * seconds))
    ((what, error),) = failures
    assert (what, error.errno) == ("journal_failed", errno.ENOSPC)
    assert len(logbook.trace.bins()) == 4
    # the number of lines says where in the journal a checkpoint belongs
    assert logbook.lines == 2
    logbook.close()
    assert logbook.lines == 2


def test_full_disk_is_recorded_and_the_meter_goes_on(path, clock, monkeypatch, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    with meter.window("train"):
        clock.wait(5.0)
    monkeypatch.setattr(Journal, "write", full)
    with meter.window("train"):
        clock.wait(5.0)
    meter.stop()
    data = meter.report().data
    assert data["energy"]["measured_wh"] * 3600 == pytest.approx(1000.0)
    assert data["event_counts"]["journal_failed"] == 1
    (event,) = data["events"]
    assert "No space left on device" in event["error"]
    assert read(path).complete is False


_FULL = """
import json, resource, sys
from pathlib import Path
from dpet_jax.energy import CallableProbe, EnergyMeter, Found

pdu = CallableProbe(lambda: 100.0, name="PDU", kind="power", unit="W",
                    rel_uncertainty=0.01)
path = Path(sys.argv[1])
with EnergyMeter(Found((pdu,), ())) as meter:
    meter.keep_journal(path)
    most = path.stat().st_size + 6000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for _ in range(20):
        with meter.window("train"):
            pass
print(json.dumps(meter.report().data))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of file sizes")
def test_file_that_may_not_grow_is_readable_up_to_there(path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FULL, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert data["event_counts"]["journal_failed"] == 1
    assert data["phases"]["train"]["count"] == 20
    folded = read(path)
    assert 0 < folded.accounts.phases["train"].count < 20
    assert not folded.complete


_KILLED = """
import os, signal, sys, time
from pathlib import Path
from dpet_jax.energy import CallableProbe, EnergyMeter, Found

pdu = CallableProbe(lambda: 3600.0, name="PDU", kind="power", unit="W",
                    rel_uncertainty=0.01)
with EnergyMeter(Found((pdu,), ())) as meter:
    meter.keep_journal(Path(sys.argv[1]))
    with meter.window("train"):
        begun = meter.journal_lines
        while meter.journal_lines == begun:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_process_leaves_a_report_of_the_window_it_was_in(path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    data = report_from_journal(path).data
    assert data["complete"] is False
    train = data["phases"]["train"]
    assert 0 < train["wh"] <= data["energy"]["measured_wh"]
    assert train["inclusive_wh"] == pytest.approx(train["wh"])
