"""What a meter writes down while it runs, and how it goes on when it cannot."""

import errno
import json
import os
import subprocess
import sys

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, power

from dpet_jax.energy import EnergyMeter, Found
from dpet_jax.energy.accounts.journal import Journal, read
from dpet_jax.energy.accounts.logbook import Logbook


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


def state(seconds, joules):
    return {
        "phases": {"train": {"s": seconds - 1.0}, "other": {"s": 1.0}},
        "channels": {
            name: {"totals": {"energy_j": energy_j}}
            for name, energy_j in joules.items()
        },
    }


def test_bin_of_the_trace_holds_what_was_used_since_the_last(logbook):
    logbook.sample(state(2.0, {"gpu": 20.0}))
    logbook.sample(state(6.0, {"gpu": 220.0, "cpu": 4.0}))
    assert logbook.trace.bins() == [
        {"start_s": 0.0, "end_s": 2.0, "w": {"gpu": 10.0}},
        {"start_s": 2.0, "end_s": 6.0, "w": {"gpu": 50.0, "cpu": 1.0}},
    ]


def test_what_earlier_segments_used_is_not_power_of_this_one(logbook):
    logbook.begin(state(100.0, {"gpu": 9000.0}))
    logbook.sample(state(101.0, {"gpu": 9100.0}))
    assert logbook.trace.bins() == [
        {"start_s": 100.0, "end_s": 101.0, "w": {"gpu": 100.0}}
    ]


def test_without_a_journal_there_are_no_lines_and_no_failures(logbook, failures):
    logbook.note("window", state(1.0, {}), phase="train")
    logbook.sample(state(2.0, {}))
    assert (logbook.lines, failures) == (0, [])


def test_lines_count_those_of_earlier_segments(logbook, tmp_path):
    path = tmp_path / "energy.jsonl"
    first = Journal(path, {"a": 1})
    first.write("sample", {"a": 2})
    first.close()
    logbook.keep(path, state(1.0, {}))
    assert logbook.lines == 3
    logbook.sample(state(2.0, {"gpu": 1.0}))
    logbook.note("end", state(2.0, {"gpu": 1.0}))
    assert logbook.lines == len(path.read_text().splitlines()) == 5


def test_failure_to_write_is_told_once_and_the_trace_goes_on(
    logbook, failures, tmp_path, monkeypatch
):
    logbook.keep(tmp_path / "energy.jsonl", state(1.0, {}))

    monkeypatch.setattr(Journal, "write", full)
    for seconds in (2.0, 3.0, 4.0):
        logbook.sample(state(seconds, {"gpu": 10 * seconds}))
    ((what, error),) = failures
    assert (what, error.errno) == ("journal_failed", errno.ENOSPC)
    assert len(logbook.trace.bins()) == 3


def test_lines_of_a_journal_that_failed_are_not_forgotten(
    logbook, tmp_path, monkeypatch
):
    # a checkpoint tells by their number where in the journal it belongs
    logbook.keep(tmp_path / "energy.jsonl", state(1.0, {}))
    logbook.sample(state(2.0, {}))

    monkeypatch.setattr(Journal, "_append", full)
    logbook.sample(state(3.0, {}))
    assert logbook.lines == 2
    logbook.close()
    assert logbook.lines == 2


def test_journal_that_cannot_be_opened_is_an_error_at_once(logbook, tmp_path):
    with pytest.raises(OSError, match="missing"):
        logbook.keep(tmp_path / "missing" / "energy.jsonl", state(1.0, {}))


def test_full_disk_is_recorded_and_the_meter_goes_on(tmp_path, monkeypatch):
    clock = FakeClock()
    probe = FakeProbe(clock, power(100.0))
    path = tmp_path / "energy.jsonl"
    with EnergyMeter(Found((probe,), ()), clock=clock, sleep=clock.wait) as meter:
        meter.keep_journal(path)
        with meter.window("train"):
            meter._pass(5.0)

        monkeypatch.setattr(Journal, "_append", full)
        with meter.window("train"):
            meter._pass(5.0)
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
def test_file_that_may_not_grow_is_readable_up_to_there(tmp_path):
    path = tmp_path / "energy.jsonl"
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
    assert 0 < folded.state["phases"]["train"]["count"] < 20
    assert not folded.complete
