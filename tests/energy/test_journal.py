"""A journal folds to the state of the meter at every line, wherever a kill falls."""

import copy
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power
from hypothesis import given
from hypothesis import strategies as st

from dpet_jax.energy import EnergyMeter, Found, report_from_journal
from dpet_jax.energy.accounts import journal
from dpet_jax.energy.accounts.journal import Journal, apply, changes, read, read_until
from dpet_jax.energy.accounts.state import empty_state, losing

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


def plain(state):
    return json.loads(json.dumps(state))


@pytest.fixture
def started(clock):
    """Begin to measure; what a test leaves running stands for a process killed."""
    begun = []

    def start(*probes, path=None, earlier=None):
        meter = EnergyMeter(Found(probes, ()), clock=clock, sleep=clock.wait).start()
        begun.append(meter)
        if earlier is not None:
            meter.take_up(earlier)
        if path is not None:
            meter.keep_journal(path)
        return meter

    yield start
    for meter in begun:
        meter._logbook.close()


# changes and apply


@given(STATES, STATES)
def test_changes_turn_the_old_state_into_the_new_one(old, new):
    patch = changes(old, new)
    assert plain(patch) == patch
    apply(old, patch)
    assert old == new
    assert changes(new, new) == {}


@given(STATES, STATES, STATES)
def test_patches_leave_the_states_they_came_from_alone(first, second, third):
    keep = copy.deepcopy((first, second, third))
    state = plain(first)
    for old, new in ((first, second), (second, third)):
        apply(state, plain(changes(old, new)))
        assert state == new
    assert (first, second, third) == keep


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
    state = {"s": 0.0, "phases": {"train": 0.0, "eval": 0.0}}
    with closing(Journal(path, state)) as open_journal:
        state["phases"]["train"] = 1.0  # the caller goes on with its own
        open_journal.write("sample", state)
        state["phases"]["eval"] = 2.0
        open_journal.write("sample", state)
    patches = [line["patch"] for line in lines(path)[1:]]
    assert patches == [{"phases": {"train": 1.0}}, {"phases": {"eval": 2.0}}]
    assert read(path).state == state


def test_fold_is_the_meters_state_at_every_line(path, clock, monkeypatch, started):
    states = []
    for name in ("__init__", "write"):
        real = getattr(Journal, name)

        def spy(self, first, second, *, real=real, **values):
            states.append(plain(first if isinstance(first, dict) else second))
            real(self, first, second, **values)

        monkeypatch.setattr(Journal, name, spy)
    probe = FakeProbe(clock, counter(lambda t: 200.0 * t), power(200.0))
    meter = started(probe, path=path)
    with meter.window("train", index=0), meter.window("eval"):
        meter._pass(2.3)
        probe.error = OSError("lost")
        meter._pass(1.0)
    probe.error = None
    probe.told = {"temperature_c": 50}
    meter.measure_idle(3.0)
    meter._pass(35.0)
    probe.told = {}  # a fact that is no longer told
    meter.stop()
    folds = [copy.deepcopy(state) for _, state in journal._fold(path)]
    assert len(folds) == len(states) == len(lines(path)) > 40
    for fold, state in zip(folds, states, strict=True):
        assert fold == state
    assert read(path).state == plain(meter.state()) | {"now_utc": folds[-1]["now_utc"]}


def test_line_is_on_disk_when_the_window_is_closed(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    with meter.window("train", "round 1"):
        meter._pass(0.5)
    last = lines(path)[-1]
    assert (last["event"], last["phase"]) == ("window", "train")
    assert (last["label"], last["s"]) == ("round 1", pytest.approx(0.5))


def test_line_that_was_not_written_whole_is_an_error(path):
    with closing(Journal(path, {"a": 1})) as open_journal:
        file = open_journal._file
        with file, path.open("ab", buffering=0) as short:
            open_journal._file = SimpleNamespace(
                name=str(path),
                write=lambda line: short.write(line[:7]),
                close=lambda: None,
            )
            with pytest.raises(OSError, match="No space left"):
                open_journal.write("sample", {"a": 2})
    assert open_journal.lines == 1
    assert read(path).state == {"a": 1}


def test_samples_are_a_trace_of_the_power_once_a_second(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    meter._pass(10.0)
    meter.stop()
    samples = read(path).samples
    assert len(samples) in (10, 11)
    total_s = sum(sample["end_s"] - sample["start_s"] for sample in samples)
    joules = [sample["joules"]["gpu:A"] for sample in samples]
    assert total_s == pytest.approx(10.0)
    assert sum(joules) == pytest.approx(1000.0)


def test_only_a_meter_that_was_stopped_is_complete(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    meter._pass(2.0)
    assert not read(path).complete
    meter.stop()
    assert read(path).complete
    started(path=path)
    assert not read(path).complete, "a further segment has begun"


def test_nothing_is_read_from_nothing(path):
    assert read(path) == (None, False, [], [])
    path.write_text("")
    assert read(path).state is None
    with pytest.raises(ValueError, match=r"energy\.jsonl: holds no energy record"):
        report_from_journal(path)


@pytest.mark.parametrize("left", [1, 20, -2, -1, None])
def test_torn_last_line_is_dropped_and_cut_off_before_writing_on(left, path):
    first = Journal(path, {"a": 1})
    first.write("sample", {"a": 2})
    whole = path.read_bytes()
    first.write("sample", {"a": 3})
    first.close()
    torn = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + (b"" if left is None else torn[:left]))
    assert read(path).state == {"a": 2}
    second = Journal(path, {"a": 7})
    second.close()
    assert second.lines == 3
    assert path.read_bytes().startswith(whole + b'{"event": "start"')
    assert read(path).state == {"a": 7}


def test_rubbish_after_a_power_cut_ends_the_reading_there(path):
    first = Journal(path, {"a": 1})
    first.write("sample", {"a": 2})
    first.close()
    with path.open("ab") as file:
        file.write(b"\0\0\xff\xfe\n")
    assert read(path).state == {"a": 2}


def test_facts_that_json_does_not_know_are_written_as_text(
    path, tmp_path, clock, started
):
    probe = FakeProbe(clock, power(100.0))
    probe.told = {"where": tmp_path}
    meter = started(probe, path=path)
    with meter.window("train"):
        meter._pass(2.0)
    meter.stop()
    assert "journal_failed" not in meter.report().data["event_counts"]
    assert read(path).state["channels"]["gpu:A"]["facts"]["last"] == {
        "where": str(tmp_path)
    }
    meter.report().write(tmp_path / "energy.json")


def test_state_at_the_end_of_a_window_is_found_again(path, clock, started):
    meter = started(FakeProbe(clock, power(100.0)), path=path)
    told = []
    for _ in range(2):
        with meter.window("checkpoint"):
            meter._pass(1.5)
            told.append(meter.journal_lines)
        with meter.window("train"):
            meter._pass(1.5)
    meter.stop()
    seconds = [
        read_until(path, "checkpoint", after)["phases"]["checkpoint"]["s"]
        for after in (0, *told)
    ]
    assert seconds == pytest.approx([1.5, 1.5, 3.0])
    assert read_until(path, "checkpoint", len(lines(path))) is None
    assert read_until(path, "select", 0) is None


# segments


def test_segments_are_told_apart(path, clock, started):
    earlier = None
    for seconds in (2.0, 3.0):
        meter = started(FakeProbe(clock, power(100.0)), path=path, earlier=earlier)
        meter._pass(seconds)
        meter.stop()
        earlier = meter.state()
    folded = read(path)
    spans = [
        last["phases"]["other"]["s"] - first["phases"]["other"]["s"]
        for first, last in folded.segments
    ]
    assert spans == pytest.approx([2.0, 3.0])
    assert folded.state["segments"] == 2


def test_what_all_segments_measured_is_in_the_total_or_lost(path, clock, started):
    kept = empty_state()
    for segment in range(4):
        probe = FakeProbe(clock, counter(lambda t: 130.0 * t), power(130.0))
        folded = read(path).state
        earlier = kept if folded is None else losing(kept, folded)
        meter = started(probe, path=path, earlier=earlier)
        meter._pass(2.7)
        with meter.window("train", index=segment):
            meter._pass(3.1)
        kept = plain(meter.state())  # as a checkpoint has it
        meter._pass(1.9 + segment)
        # the process is killed here; the last segment ends in order
    meter.stop()
    folded = read(path)
    last = folded.state

    def joules(state):
        rows = (row["totals"].get("gpu:A", [0]) for row in state["phases"].values())
        return sum(totals[0] for totals in rows)

    measured_j = sum(joules(end) - joules(begin) for begin, end in folded.segments)
    total_j = joules(last) + last["lost"]["wh"] * 3600
    assert total_j == pytest.approx(measured_j, rel=1e-12)
    assert last["lost"]["wh"] > 0

    def seconds(state):
        return sum(row["s"] for row in state["phases"].values())

    measured_s = sum(seconds(end) - seconds(begin) for begin, end in folded.segments)
    assert seconds(last) + last["lost"]["s"] == pytest.approx(measured_s, rel=1e-12)
    report = report_from_journal(path).data
    assert (report["complete"], report["time"]["segments"]) == (True, 4)
    assert report["energy"]["lost"]["wh"] == last["lost"]["wh"]


# a real kill

_KILLED = """
import os, signal, sys, time
from pathlib import Path
from dpet_jax.energy import CallableProbe, EnergyMeter, Found

pdu = CallableProbe(lambda: 3600.0, name="PDU", kind="power", unit="W",
                    rel_uncertainty=0.01)
with EnergyMeter(Found((pdu,), ())) as meter:
    meter.keep_journal(Path(sys.argv[1]))
    began = time.monotonic()
    with meter.window("train"):
        time.sleep(1.6)
        print(time.monotonic() - began, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_process_leaves_a_report_that_lacks_at_most_the_last_second(path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    lived_s = float(done.stdout)
    report = report_from_journal(path)
    assert report.data["complete"] is False
    # 3600 W are one Wh a second
    measured_wh = report.data["energy"]["measured_wh"]
    assert lived_s - 1.15 < measured_wh < lived_s + 0.1
    assert report.data["phases"]["train"]["wh"] == pytest.approx(measured_wh, abs=0.1)
    assert report.data["phases"]["train"]["inclusive_wh"] > 0.8 * measured_wh


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_forked_child_has_no_half_line_to_write_again(path):
    first = Journal(path, {"a": 1})
    assert not hasattr(first._file, "raw"), "a buffer would be written twice"
    first.close()
