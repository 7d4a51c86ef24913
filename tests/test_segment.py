"""What is lost between segments, from events and checkpoints written by hand."""

from contextlib import closing

import jax.numpy as jnp
import pytest

from dpet_jax.energy import PhaseClock
from dpet_jax.learner import Compilation
from dpet_jax.record import RunFolder, read_events
from dpet_jax.schema import Config
from dpet_jax.segment import Segment


@pytest.fixture
def folder(tmp_path):
    with closing(RunFolder(tmp_path)) as held:
        yield held


def begin(folder):
    return closing(Segment(Config(), folder))


def save(segment, time_s, visits):
    meta = {
        "position": {"counters": {"visits": visits, "scored_examples": 0}},
        "seconds": {"train": time_s, "checkpoint": 0.0},
        "last_event_id": segment.recorder.next_id - 1,
    }
    segment.checkpoints.save({"w": jnp.zeros(1)}, {}, meta)
    segment.recorder.write("checkpoint", time_s=time_s + 0.25, visits=visits)


def train(segment, time_s, visits):
    segment.recorder.write("train", time_s=time_s, visits=visits, scored_examples=0)


def test_a_first_segment_has_lost_nothing(folder):
    with begin(folder) as segment:
        assert segment.lost() == {"seconds": 0, "visits": 0, "scored_examples": 0}
        assert (segment.recorder.segment, segment.seconds) == (0, {})


def test_work_after_the_checkpoint_is_lost_and_the_save_itself_is_not(folder):
    with begin(folder) as segment:
        train(segment, 5.0, 100)
        save(segment, 5.0, 100)
        train(segment, 8.0, 160)
    with begin(folder) as segment:
        assert segment.recorder.segment == 1
        assert segment.seconds == {"train": 5.0, "checkpoint": 0.25}
        lost = {"seconds": 2.75, "visits": 60, "scored_examples": 0}
        assert segment.lost() == lost
        train(segment, 6.0, 130)
    with begin(folder) as segment:
        assert segment.lost() == {"seconds": 3.5, "visits": 90, "scored_examples": 0}
    kept = read_events(folder.path / "events.jsonl")
    assert [e["event"] for e in kept] == ["train", "checkpoint", "lost"]


def test_without_a_checkpoint_everything_is_lost(folder):
    with begin(folder) as segment:
        train(segment, 5.0, 100)
    with begin(folder) as segment:
        assert segment.lost()["visits"] == 100
        assert segment.lost()["seconds"] == 5.0
        assert segment.seconds == {}


def test_compilations_are_summed_by_program_and_all_others_apart(folder):
    with begin(folder) as segment:
        segment.compiled(Compilation("train_steps", 2.5, 1, 0), PhaseClock())
        summary = segment.compile_summary()
    assert summary["train_steps"] == {"seconds": 2.5, "programs": 1, "cache_hits": 0}
    assert summary["others"]["seconds"] == pytest.approx(-2.5)
