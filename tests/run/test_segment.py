"""What is lost between segments, from events and checkpoints written by hand."""

from contextlib import closing

import jax.numpy as jnp
import pytest

from dpet_jax.config.experiment import Config
from dpet_jax.energy import Accounts, EnergyMeter, Found
from dpet_jax.energy.accounts.journal import Journal
from dpet_jax.energy.accounts.ledger import Row
from dpet_jax.energy.accounts.state import Lost
from dpet_jax.run.build import build_data
from dpet_jax.run.folder import RunFolder, read_events
from dpet_jax.run.segment import Segment
from dpet_jax.training.learner import Compilation

DATA = build_data(Config())


@pytest.fixture
def folder(tmp_path):
    with closing(RunFolder(tmp_path)) as held:
        yield held


def begin(folder):
    return closing(Segment(Config(), DATA, folder))


def meter_at(train_s, checkpoint_s=0.0, lost_s=0.0, wh=None):
    """Return the accounts of a meter that has seen so much."""
    phases = {"train": Row(train_s), "checkpoint": Row(checkpoint_s)}
    return Accounts(phases=phases, lost=Lost(lost_s, wh))


class Written:
    """A segment with the journal that its meter would keep."""

    def __init__(self, segment):
        self.segment = segment
        accounts = segment.energy or meter_at(0.0)
        self.lost_s = accounts.lost.s
        path = segment.folder.path / "energy.jsonl"
        self.journal = Journal(path, accounts)
        self.close = self.journal.close

    def save(self, time_s, visits):
        meta = {
            "position": {"counters": {"visits": visits, "scored_examples": 0}},
            "energy": meter_at(time_s, lost_s=self.lost_s).to_json(),
            "journal_lines": self.journal.lines,
            "last_event_id": self.segment.recorder.next_id - 1,
        }
        self.segment.checkpoints.save({"main": {"w": jnp.zeros(1)}}, {}, meta)
        state = meter_at(time_s, 0.25, self.lost_s)
        self.journal.write("window", state, phase="checkpoint", label=None, s=0.25)
        self.segment.recorder.write("checkpoint", time_s=time_s + 0.25, visits=visits)

    def train(self, time_s, visits, checkpoint_s=0.0):
        state = meter_at(time_s - checkpoint_s, checkpoint_s, self.lost_s)
        self.journal.write("sample", state)
        self.segment.recorder.write(
            "train", time_s=time_s, visits=visits, scored_examples=0
        )


def test_a_first_segment_has_lost_nothing(folder):
    with begin(folder) as segment:
        nothing = {"seconds": 0, "visits": 0, "scored_examples": 0, "wh": 0}
        assert segment.past()["lost"] == nothing
        assert (segment.recorder.segment, segment.energy) == (0, None)


def test_work_after_the_checkpoint_is_lost_and_the_save_itself_is_not(folder):
    with begin(folder) as segment, closing(Written(segment)) as run:
        run.train(5.0, 100)
        run.save(5.0, 100)
        run.train(8.0, 160, checkpoint_s=0.25)
    with begin(folder) as segment:
        assert segment.recorder.segment == 1
        seconds = segment.energy.seconds()
        assert (seconds["train"], seconds["checkpoint"]) == (5.0, 0.25)
        lost = {"seconds": 2.75, "visits": 60, "scored_examples": 0, "wh": None}
        assert segment.past()["lost"] == lost
        assert segment.energy.lost.s == 2.75
        with closing(Written(segment)) as run:
            run.train(6.0, 130, checkpoint_s=0.25)
    with begin(folder) as segment:
        assert segment.past()["lost"]["seconds"] == 2.75 + 0.75
        assert segment.past()["lost"]["visits"] == 90
        assert segment.energy.lost.s == 3.5
    kept = read_events(folder.path / "events.jsonl")
    assert [e["event"] for e in kept] == ["train", "checkpoint", "lost"]


def test_a_save_that_was_not_seen_to_end_goes_on_from_its_beginning(folder):
    with begin(folder) as segment, closing(Written(segment)) as run:
        run.train(5.0, 100)
        run.save(5.0, 100)
    journal = folder.path / "energy.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:20])
    with begin(folder) as segment:
        assert segment.energy.seconds()["checkpoint"] == 0.0
        assert segment.past()["lost"]["seconds"] == 0.0


def test_without_a_checkpoint_everything_is_lost(folder):
    with begin(folder) as segment, closing(Written(segment)) as run:
        run.train(5.0, 100)
    with begin(folder) as segment:
        assert segment.past()["lost"]["visits"] == 100
        assert segment.past()["lost"]["seconds"] == 5.0
        assert segment.energy.seconds()["train"] == 0.0


def test_compilations_are_summed_by_program_and_all_others_apart(folder):
    with begin(folder) as segment:
        segment.compiled(
            Compilation("train_steps", 2.5, 1, 0), EnergyMeter(Found((), ()))
        )
        summary = segment.compile_summary()
    counted = {"seconds": 2.5, "programs": 1, "cache_hits": 0, "xla_flops": None}
    assert summary["train_steps"] == counted
    assert summary["others"]["seconds"] == pytest.approx(-2.5)
