"""Callbacks are told of a run while it goes on, and may end it; nothing is lost."""

import json
import traceback
from types import SimpleNamespace

import pytest

import dpet_jax
from dpet_jax.run.callbacks import Callbacks, StopRun
from dpet_jax.run.folder import read_events
from dpet_jax.trackers.base import TrackedRun, Tracker

TINY = {
    "name": "told",
    "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
    "train": {"batch_size": 32},
    "method": {"kind": "standard", "passes": 2},
    "evaluate": {"every": 0.5},
    "targets": [0.05],
}
SUMMARY = {"visits": 9, "test_accuracy": 0.5}


class Kept:
    """What a tracker opens, as an object of the user's own."""

    def __init__(self):
        self.seen = []

    def write(self, event):
        self.seen.append(event)

    def close(self, *, finished):
        self.seen.append(finished)


class Opened(Tracker):
    """A tracker given as a callback."""

    def open(self, run):
        kept = Kept()
        OPENED.append((run, kept))
        return kept


OPENED: list = []


def names(events):
    return [event["event"] for event in events]


def start(out, *callbacks, **options):
    return dpet_jax.run(TINY, out=out, callbacks=callbacks, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was listened to from its start to its end, and what was heard."""
    out, heard, kept = tmp_path_factory.mktemp("whole"), [], Kept()
    path = out / "told" / "seed0" / "events.jsonl"

    def hear(event):
        last = path.read_text().splitlines()[-1]
        heard.append((json.loads(json.dumps(event)), json.loads(last)))
        event.clear()  # it is the caller's own

    return start(out, hear, kept, Opened()), heard, kept


def test_each_is_told_of_what_is_on_disk_and_of_the_end(whole):
    run, heard, kept = whole
    written = read_events(run.folder / "events.jsonl")
    *events, end = [event for event, _ in heard]
    assert events == written == [last for _, last in heard[:-1]]
    assert (end["event"], end["test_accuracy"]) == ("end", run.summary["test_accuracy"])
    assert kept.seen == [*events, end, True]
    ((followed, opened),) = OPENED
    assert (followed.title, opened.seen) == ("told/seed0", kept.seen)
    assert {"start", "compile", "plan", "train", "evaluate", "target", "stop"} <= {
        *names(events)
    }


def test_a_mistake_in_a_callback_ends_the_run_which_loses_nothing(
    whole, tmp_path, assert_same_run
):
    first, second, kept = [], [], Kept()

    def clumsy(event):
        first.append(event)
        if event["event"] == "evaluate":
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        start(tmp_path, clumsy, kept)
    frames = traceback.extract_tb(caught.tb)
    assert (frames[-1].name, frames[-1].filename) == ("clumsy", __file__)
    assert names(first)[-1] == "evaluate"
    assert kept.seen == [*first[:-1], False]  # it comes after the one that failed
    folder = tmp_path / "told" / "seed0"
    left = read_events(folder / "events.jsonl")
    assert (left[-1]["event"], left[-1]["reason"]) == ("stop", "interrupted")
    assert not (folder / "summary.json").exists()

    run = start(tmp_path, second.append, resume=True)
    assert names(second)[0] == "lost"
    assert second[0]["visits"] == 0  # it had saved
    told = [event["event_id"] for event in (*first, *second[:-1])]
    assert len({*told}) == len(told)
    assert_same_run(run.folder, whole[0].folder)
    again = []
    start(tmp_path, again.append, resume=True)  # of a run that has ended
    assert again == []


def test_a_callback_may_end_the_run_well(tmp_path):
    heard = []

    def enough(event):
        heard.append(event)
        if event["event"] == "evaluate":
            raise dpet_jax.StopRun

    run = start(tmp_path, enough)
    assert run.stopped_by == run.summary["stopped_by"] == "callback"
    assert run.summary["visits"] < 2 * run.summary["num_train"]
    assert 0 <= run.summary["test_accuracy"] <= 1
    assert names(heard)[-2:] == ["stop", "end"]
    assert heard[-2]["reason"] == "callback"


def test_who_stops_is_told_of_the_rest_and_who_fails_is_not():
    kept = Kept()

    def stops(event):
        del event
        raise StopRun

    def fails(event):
        if event["event"] == "stop":
            raise KeyError("later")

    callbacks = Callbacks([stops, fails, kept])
    for name in ("train", "train", "stop", "end"):
        callbacks.write({"event": name})
        assert callbacks.asked == ("callback" if name == "train" else "interrupted")
    with pytest.raises(KeyError, match="later"):
        callbacks.close()
    assert [*names(kept.seen[:-1]), kept.seen[-1]] == ["train", "train", False]


def test_those_that_were_opened_are_closed_if_another_cannot_be(tmp_path):
    class Broken(Opened):
        def open(self, run):
            del run
            raise OSError("no room")

    OPENED.clear()
    run = TrackedRun("told", 0, tmp_path, {})
    with pytest.raises(OSError, match="no room"):
        Callbacks([Opened(), Broken()], run)
    assert OPENED[0][1].seen == [False]


def test_a_failed_end_is_told_after_the_run_has_finished():
    failing = SimpleNamespace(
        write=[].append, close=lambda finished: 1 // (1 - finished)
    )
    callbacks = Callbacks([failing, kept := Kept()])
    callbacks.end(SUMMARY)
    with pytest.raises(ZeroDivisionError):
        callbacks.close()
    assert kept.seen[-1] is True
