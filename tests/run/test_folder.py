"""What a run leaves on disk: whole or absent, whatever happens in between."""

import gc
import json
import math

import numpy as np
import pytest

from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.files import read_json
from dpet_jax.run.counters import Counters
from dpet_jax.run.folder import Recorder, RunFolder, read_events


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    yield folder
    folder.close()


@pytest.fixture
def recorder(tmp_path):
    recorders = []

    def begin(**options):
        recorders.append(Recorder(tmp_path / "events.jsonl", **options))
        return recorders[-1]

    yield begin
    for one in recorders:
        one.close()


# counters


def test_epochs_are_flops_over_those_of_a_full_pass():
    counters = Counters(200, visits=7, executed_visits=8, scored_examples=9, flops=50)
    assert counters.epochs == 0.25
    assert counters.shown() == {
        "visits": 7,
        "executed_visits": 8,
        "scored_examples": 9,
        "flops": 50,
        "epochs": 0.25,
    }


# events


def test_event_is_on_disk_when_write_returns(recorder):
    open_recorder = recorder()
    open_recorder.write("plan", label="warm-up")
    (event,) = read_events(open_recorder.path)
    assert event == {
        "event": "plan",
        "event_id": 0,
        "segment": 0,
        "label": "warm-up",
    }


def test_events_are_numbered_on_from_where_they_begin(recorder):
    later = recorder(segment=2, next_id=7)
    written = [later.write("a"), later.write("b")]
    assert [event["event_id"] for event in written] == [7, 8]
    assert [event["segment"] for event in written] == [2, 2]
    assert later.next_id == 9
    assert read_events(later.path) == written


def test_write_returns_what_a_reader_will_find(recorder):
    open_recorder = recorder()
    values = {
        "single": np.float32(0.5),
        "whole": np.int64(3),
        "truth": np.bool_(True),
        "array": np.arange(3),
        "nested": {"pair": (1, np.float64(2))},
        1: "key",
    }
    written = open_recorder.write("x", **{"values": values})
    assert read_events(open_recorder.path) == [written]
    assert written["values"] == {
        "single": 0.5,
        "whole": 3,
        "truth": True,
        "array": [0, 1, 2],
        "nested": {"pair": [1, 2.0]},
        "1": "key",
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_number_that_json_lacks_becomes_null(bad, recorder, folder):
    assert recorder().write("train", loss=bad)["loss"] is None
    folder.write_json("x.json", {"per_class": np.array([0.5, bad])})
    assert read_json(folder.path / "x.json") == {"per_class": [0.5, None]}


@pytest.mark.parametrize(
    "torn", ['{"event": "tra', '{"event": "train", "event_id": 1, "segment": 0}', "{"]
)
def test_torn_last_line_is_dropped_and_cut_off_before_writing_on(torn, recorder):
    first = recorder()
    whole = first.write("plan")
    first.close()
    with first.path.open("a") as file:
        file.write(torn)
    second = recorder(next_id=1)
    assert first.path.read_text().endswith("}\n")
    assert read_events(first.path) == [whole]
    added = second.write("train")
    assert read_events(first.path) == [whole, added]


def test_torn_last_line_is_dropped_by_a_mere_reader(recorder):
    writer = recorder()
    whole = writer.write("plan")
    with writer.path.open("a") as file:
        file.write('{"event": "tra')
    assert read_events(writer.path) == [whole]


def test_file_that_is_only_a_torn_line_begins_anew(tmp_path, recorder):
    (tmp_path / "events.jsonl").write_text('{"event"')
    writer = recorder()
    assert writer.path.read_text() == ""
    assert read_events(writer.path) == []


def test_reading_leaves_a_torn_file_as_it_is(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a", "event_id": 0, "segment": 0}\n{"ev')
    read_events(path)
    assert path.read_text().endswith('{"ev')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"event": "a", "eve', "line 2: Unterminated string"),
        ("[]", "line 2: is no JSON object"),
        ("[" * 100_000, "line 2: is nested too deeply"),
        ('{"event": "a", "event_id": 1}', "line 2: it has no segment"),
        ('{"event": "a", "event_id": "1", "segment": 0}', "line 2: it has no event_id"),
        ('{"event": "lost", "event_id": 1, "segment": 0}', "it has no after_event_id"),
    ],
)
def test_a_damaged_line_before_the_last_is_named(tmp_path, line, reason):
    path = tmp_path / "events.jsonl"
    whole = '{"event": "a", "event_id": 0, "segment": 0}\n'
    path.write_text(f"{whole}{line}\n{whole}")
    with pytest.raises(DamagedFileError, match=f"^{path}: damaged: .*{reason}"):
        read_events(path)


def ids(events):
    return [event["event_id"] for event in events]


def test_events_after_the_checkpoint_are_superseded(recorder):
    writer = recorder()
    for name in ("start", "train", "checkpoint", "train", "train"):
        writer.write(name)
    writer.write("lost", after_event_id=2)
    writer.write("train")
    assert ids(read_events(writer.path)) == [0, 1, 2, 5, 6]
    assert ids(read_events(writer.path, superseded=True)) == list(range(7))


def test_second_crash_supersedes_also_what_the_first_resume_wrote(recorder):
    writer = recorder()
    for name in ("start", "checkpoint", "train"):
        writer.write(name)  # 0 to 2
    writer.write("lost", after_event_id=1)  # 3
    writer.write("train")
    writer.write("lost", after_event_id=1)  # 5: no checkpoint in between
    writer.write("checkpoint")
    writer.write("train")  # 7
    writer.write("lost", after_event_id=6)  # 8: after the later checkpoint
    writer.write("train")
    assert ids(read_events(writer.path)) == [0, 1, 5, 6, 8, 9]


def test_crash_before_any_checkpoint_supersedes_everything(recorder):
    writer = recorder()
    writer.write("start")
    writer.write("lost", after_event_id=-1)
    assert ids(read_events(writer.path)) == [1]


# the folder


def test_second_holder_of_a_folder_is_refused_until_the_first_lets_go(folder):
    with pytest.raises(UserError, match="another process is running") as caught:
        RunFolder(folder.path)
    assert str(folder.path) in str(caught.value)
    assert "--out=DIR" in str(caught.value)
    folder.close()
    RunFolder(folder.path).close()


def test_refused_holder_leaves_no_file_open(folder):
    with pytest.raises(UserError):
        RunFolder(folder.path)
    gc.collect()  # a file left open would warn here, and warnings are errors


def test_folder_below_a_file_is_refused_with_the_reason_and_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run"
    with pytest.raises(UserError) as caught:
        RunFolder(path)
    assert str(caught.value) == (
        f"{path}: cannot write the run folder (Not a directory); choose another with "
        "--out=DIR"
    )


def test_folder_is_begun_by_config_or_events_and_finished_by_a_summary(folder):
    assert not folder.holds_run
    folder.write_text("config.yaml", "seed: 0\n")
    assert folder.holds_run
    assert not folder.finished
    folder.write_json("summary.json", {})
    assert folder.finished
    (folder.path / "config.yaml").unlink()
    assert not folder.holds_run
    (folder.path / "events.jsonl").touch()
    assert folder.holds_run


def test_clear_deletes_what_a_run_leaves_and_nothing_else(folder):
    ours = ["events.jsonl", "summary.json", "config.yaml", "coreset.npz"]
    ours += ["gallery.npz", "label_noise.npz", "checkpoints/0/data"]
    for name in [*ours, "notes.txt", "plots/loss.png"]:
        (folder.path / name).parent.mkdir(exist_ok=True, parents=True)
        (folder.path / name).write_text("x")
    folder.clear()
    left = {path.name for path in folder.path.iterdir()}
    assert left == {".lock", "notes.txt", "plots"}
    folder.clear()
    assert not folder.holds_run


def test_arrays_come_back_as_they_were(folder):
    arrays = {"rows": np.arange(4, dtype=np.int64), "name": np.array("digits")}
    folder.write_arrays("coreset.npz", arrays)
    with np.load(folder.path / "coreset.npz", allow_pickle=False) as saved:
        assert set(saved.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(saved[name], array)
            assert saved[name].dtype == array.dtype


class Unwritable:
    """Fails half-way, as a full disk does."""

    def __array__(self, dtype=None, copy=None):
        raise OSError("no space left")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "coreset.npz",
            lambda folder: folder.write_arrays("coreset.npz", {"a": np.ones(2)}),
            lambda folder: folder.write_arrays(
                "coreset.npz", {"a": np.zeros(2), "b": Unwritable()}
            ),
        ),
        (
            "summary.json",
            lambda folder: folder.write_json("summary.json", {"a": 1}),
            lambda folder: folder.write_json("summary.json", {"a": object()}),
        ),
        (
            "config.yaml",
            lambda folder: folder.write_text("config.yaml", "seed: 0"),
            lambda folder: folder.write_text("config.yaml", "seed: \ud800"),
        ),
    ],
)
def test_failed_write_keeps_the_old_file_and_leaves_no_part(name, good, bad, folder):
    good(folder)
    before = (folder.path / name).read_bytes()
    with pytest.raises((OSError, TypeError, UnicodeEncodeError)):
        bad(folder)
    assert (folder.path / name).read_bytes() == before
    assert {path.name for path in folder.path.iterdir()} == {".lock", name}
    good(folder)
    assert {path.name for path in folder.path.iterdir()} == {".lock", name}


def test_json_files_are_for_people_too(folder):
    folder.write_json("summary.json", {"a": 1})
    text = (folder.path / "summary.json").read_text()
    assert json.loads(text) == {"a": 1}
    assert text == '{\n  "a": 1\n}\n'
