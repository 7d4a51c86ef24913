"""Trackers follow a run, and never lead it; the three real ones where installed."""

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.run import experiment
from dpet_jax.run.folder import Recorder, RunFolder, read_events
from dpet_jax.run.tracking import Tracking, tracked_run
from dpet_jax.trackers import TRACKERS, Mlflow, Tensorboard, Wandb
from dpet_jax.trackers.base import Once, TrackedRun, Tracker, kept_id, measurements

WH = {"train": 0.25, "select": 0.5, "eval": None}
EVENTS = (
    {"event": "compile", "time_s": 1.0, "seconds": 0.5},
    {"event": "train", "visits": 64, "epochs": 0.5, "loss": 2.0, "wh": None},
    {"event": "evaluate", "split": "validation", "visits": 64, "accuracy": 0.5},
    {"event": "train", "visits": 128, "epochs": 1.0, "loss": 1.0, "wh": WH},
    {"event": "evaluate", "split": "validation", "visits": 128, "accuracy": 0.75},
)
SUMMARY = {"visits": 128, "test_accuracy": 0.7, "validation_accuracy": None}
TINY = {
    "name": "followed",
    "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
    "train": {"batch_size": 32},
    "method": {"kind": "standard", "passes": 1},
}


class Kept(Tracker):
    """Keeps what it is given, and fails where it is told to."""

    fails_at: str = ""

    def open(self, run):
        if self.fails_at == "open":
            raise OSError("no room")
        self.seen.append(run)
        return SimpleNamespace(write=self.write, close=self.close)

    def write(self, event):
        if event["event"] == self.fails_at:
            raise RuntimeError("the server hung up")
        if self.fails_at == "never":
            GO_ON.wait()
        self.seen.append(event)

    def close(self, *, finished):
        self.seen.append(finished)

    @property
    def seen(self):
        return SEEN.setdefault(self.fails_at, [])


SEEN: dict[str, list] = {}
GO_ON = threading.Event()
KEPT = "test_tracking_kinds:Kept"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The class above as a package of the user's own; nothing seen yet."""
    monkeypatch.setitem(
        sys.modules, "test_tracking_kinds", SimpleNamespace(Kept=Kept, __file__="own")
    )
    monkeypatch.setattr(Kept, "__module__", "test_tracking_kinds")
    SEEN.clear()


def run_at(folder, *, step=0, resumed=False, past=(), kept=()):
    plain = {"seed": 3, "train": {"batch_size": 32}}
    return TrackedRun("tiny", 3, folder, plain, step, resumed, past, kept)


def numbered(events, first=0):
    return tuple({**one, "event_id": n} for n, one in enumerate(events, first))


def follow(tracker, run, events=EVENTS, *, finished=True):
    warned = []
    trackers = Tracking((tracker,), run, warned.append)
    for event in events:
        trackers.write(event)
    if finished:
        trackers.end(SUMMARY)
    trackers.close()
    assert warned == []


def test_measurements_have_one_name_for_each_curve():
    train, evaluate = EVENTS[3], EVENTS[4]
    costs = {"cost/epochs": 1.0, "cost/wh": 0.75}
    assert measurements(train) == {"train/loss": 1.0} | costs
    assert measurements(evaluate) == {"validation/accuracy": 0.75}
    odd = {"event": "train", "loss": float("inf"), "reached": True, "label": "round 1"}
    assert measurements({**odd, "size": 5, "event_id": 7}) == {"train/size": 5.0}


def test_config_takes_names_keys_and_import_paths():
    plain = ["tensorboard", {"kind": "wandb", "project": "x"}, KEPT]
    config = validate({"track": plain}, "test")
    assert [type(one) for one in config.track] == [Tensorboard, Wandb, Kept]
    assert config.track[1].project == "x"
    again = validate(config.model_dump(mode="json"), "test")
    assert again == config
    assert validate({"track": "mlflow"}, "test").track == (Mlflow(),)
    assert validate({}, "test").track == ()


@pytest.mark.parametrize(
    ("track", "told"),
    [
        (["tensorbord"], r"track\.0\.kind: unknown 'tensorbord'; one of tensorboard"),
        (7, r"track: must be a list such as \[tensorboard\] \(got 7\)"),
        ([{"kind": "wandb", "mode": "x"}], r"'offline' or 'online'"),
        (["pathlib:Path"], r"is no class that extends dpet_jax\.trackers\.base"),
    ],
)
def test_wrong_trackers_are_told_with_the_remedy(track, told):
    with pytest.raises(UserError, match=told):
        validate({"track": track}, "test")


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_missing_extra_is_told_before_anything_is_written(
    kind, monkeypatch, tmp_path
):
    name, (package, _) = kind().kind, kind.needs
    monkeypatch.setitem(sys.modules, package, None)  # as if there were none
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with pytest.raises(UserError, match=rf"pip install 'dpet-jax\[{name}\]'"):
        experiment.run(validate(TINY | {"track": [name]}, "test"), tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_events_are_on_disk_before_the_listener_has_them(tmp_path):
    path, seen = tmp_path / "events.jsonl", []
    recorder = Recorder(path, listener=lambda line: seen.append((line, lines())))

    def lines():
        return [json.loads(text) for text in path.read_text().splitlines()]

    recorder.write("start", visits=0)
    recorder.write("stop", visits=9)
    recorder.close()
    assert [line["event"] for line, _ in seen] == ["start", "stop"]
    for line, there in seen:
        assert there[-1] == line


def test_a_tracker_that_fails_is_left_out_and_told_once(tmp_path):
    warned = []
    both = (Kept(fails_at="evaluate"), Kept())
    trackers = Tracking(both, run_at(tmp_path), warned.append)
    for event in EVENTS:
        trackers.write(event)
    trackers.end(SUMMARY)
    trackers.close()
    (told,) = warned
    assert "failed (RuntimeError: the server hung up); the run goes on" in told
    assert [e["event"] for e in SEEN["evaluate"][1:-1]] == ["compile", "train"]
    assert SEEN["evaluate"][-1] is False
    assert [e["event"] for e in SEEN[""][1:-1]] == [
        *(event["event"] for event in EVENTS),
        "end",
    ]
    assert SEEN[""][-1] is True


def test_a_tracker_that_cannot_begin_ends_those_that_have(tmp_path):
    both = (Kept(), Kept(fails_at="open"))
    with pytest.raises(UserError, match="cannot begin: OSError: no room; mend it"):
        Tracking(both, run_at(tmp_path), [].append)
    assert SEEN[""][-1] is False


def test_a_tracker_that_hangs_delays_no_event_and_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("dpet_jax.run.tracking._PATIENCE_S", 0.01)
    warned = []
    GO_ON.clear()
    try:
        trackers = Tracking((Kept(fails_at="never"),), run_at(tmp_path), warned.append)
        for event in EVENTS:
            trackers.write(event)
        trackers.close()
    finally:
        GO_ON.set()
    (told,) = warned
    assert "Kept did not end within 0.01 s and may lack the last events" in told


def test_an_id_lasts_as_long_as_the_run(tmp_path):
    ids = iter("abc")
    begin = lambda: next(ids)  # noqa: E731
    assert kept_id(run_at(tmp_path), "x", begin) == "a"
    assert kept_id(run_at(tmp_path, resumed=True), "x", begin) == "a"
    assert kept_id(run_at(tmp_path), "x", begin) == "b"
    held = RunFolder(tmp_path)
    held.clear()
    held.close()
    assert kept_id(run_at(tmp_path, resumed=True), "x", begin) == "c"


def test_a_resumed_run_begins_where_its_checkpoint_was(tmp_path):
    recorder = Recorder(tmp_path / "events.jsonl")
    recorder.write("train", visits=64)
    recorder.write("checkpoint", visits=64)
    recorder.write("train", visits=128)
    recorder.write("lost", after_event_id=1, visits=64)
    recorder.close()
    config = validate(TINY | {"track": [KEPT]}, "test")
    resumed = tracked_run(config, tmp_path, resumed=True)
    anew = tracked_run(config, tmp_path, resumed=False)
    assert (resumed.step, resumed.resumed) == (64, True)
    assert [event["event_id"] for event in resumed.past] == [0, 1, 2]
    assert [event["event_id"] for event in resumed.kept] == [0, 1]
    assert (anew.step, anew.resumed, anew.past, anew.kept) == (0, False, (), ())


def test_what_a_tracker_holds_of_a_model_has_no_wh(tmp_path):
    recorder = Recorder(tmp_path / "events.jsonl")
    recorder.write("train", visits=64, wh=WH)
    recorder.close()
    config = validate(TINY, "test")
    for modelled, wh in ((False, WH), (True, None)):
        run = tracked_run(config, tmp_path, resumed=True, modelled=modelled)
        assert [event["wh"] for event in (*run.past, *run.kept)] == [wh, wh]


def test_what_is_done_again_is_known_by_how_far_its_curve_had_come(tmp_path):
    past = numbered(EVENTS)
    once = Once(run_at(tmp_path, resumed=True, past=past), last=3)
    again = numbered(EVENTS, first=9)
    # the second look had not been handed over, and what has no place is always new
    assert [once.had(event) for event in again] == [False, True, True, True, False]
    assert once.had({"event": "train", "visits": 100})  # in chunks of another length
    assert not once.had({"event": "train", "visits": 129})
    assert not once.had({"event": "evaluate", "split": "test", "visits": 64})
    assert not any(map(Once(run_at(tmp_path, past=past), last=-1).had, again))


def test_a_run_is_followed_to_its_end_by_a_tracker_of_ones_own(tmp_path):
    tree = TINY | {"track": [KEPT, {"kind": KEPT, "fails_at": "train"}]}
    result = experiment.run(validate(tree, "test"), tmp_path)
    assert result.stopped_by == "finished"
    run, *events, end, finished = SEEN[""]
    assert run.title == "followed/seed0"
    assert run.config["train"]["batch_size"] == 32
    assert events == read_events(result.folder / "events.jsonl")
    assert end["test_accuracy"] == result.summary["test_accuracy"]
    assert finished
    assert "train" not in {event["event"] for event in SEEN["train"][1:-1]}
    untracked = validate(TINY, "test")
    experiment.check_same_config(untracked, result.folder / "config.yaml")


def test_tensorboard_has_every_curve(tmp_path):
    pytest.importorskip("tensorboardX", reason="an extra: dpet-jax[tensorboard]")
    from tensorboardX.proto.event_pb2 import Event

    follow(Tensorboard(), run_at(tmp_path))
    later = [{**EVENTS[3], "visits": 192}]
    follow(Tensorboard(), run_at(tmp_path, step=128, resumed=True), later)
    files = [*(tmp_path / "track" / "tensorboard").iterdir()]
    first, second = sorted(files, key=lambda path: -path.stat().st_size)
    found = [*_records(first, Event)]
    assert ("validation/accuracy", 128, 0.75) in found
    assert ("train/loss", 64, 2.0) in found
    assert ("cost/wh", 128, 0.75) in found
    assert [name for name, _, _ in found].count("end/test_accuracy") == 1
    assert ("train/loss", 192, 1.0) in [*_records(second, Event)]


def _records(path: Path, event_of):
    """Yield name, step and value of the scalars of an event file."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 8], "little")
        event = event_of()
        event.ParseFromString(content[place + 12 : place + 12 + size])
        place += 16 + size
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield value.tag, event.step, pytest.approx(value.simple_value)


@pytest.mark.filterwarnings("ignore")  # of the package, none of ours
def test_wandb_writes_offline_what_it_can_send_later(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="an extra: dpet-jax[wandb]")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / "track" / "wandb" / "wandb"
    held = numbered(EVENTS)
    follow(Wandb(), run_at(tmp_path), held[:4], finished=False)
    # a crash: the last chunk is done again, and what was written is not to be relied on
    (first,) = place.glob("offline-run-*")
    wandb.teardown()  # its process writes on for a moment
    (written,) = first.glob("*.wandb")
    written.write_bytes(b"")
    run = run_at(tmp_path, step=64, resumed=True, past=held[:4], kept=held[:3])
    follow(Wandb(), run, numbered(EVENTS[3:], first=6))
    wandb.teardown()
    (offline,) = place.glob("offline-run-*")
    name = (tmp_path / "track" / "wandb.id").read_text().strip()
    assert offline.name.endswith(name)
    (written,) = offline.glob("*.wandb")
    assert written.name == f"run-{name}.wandb"
    rows = [*_wandb_rows(written)]
    assert [row["_step"] for row in rows] == [0, 1, 2, 6, 7, 8]
    assert [row["visits"] for row in rows] == [0, 64, 64, 128, 128, 128]
    curve = [row["validation/accuracy"] for row in rows if "validation/accuracy" in row]
    assert curve == [0.5, 0.75]
    assert [row["cost/wh"] for row in rows if "cost/wh" in row] == [0.75]
    assert rows[-1]["end/test_accuracy"] == 0.7


def _wandb_rows(path: Path):
    """Yield the rows of a file of W&B's, a log as LevelDB has them."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), 7, b""
    while place < len(content):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of a block
            place += 32768 - place % 32768
            continue
        size, kind = (
            int.from_bytes(content[place + 4 : place + 6], "little"),
            content[place + 6],
        )
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            if record.HasField("history"):
                items = record.history.item
                yield {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in items
                }


@pytest.mark.filterwarnings("ignore")  # of the package, none of ours
def test_mlflow_keeps_one_run_in_a_local_file(tmp_path):
    pytest.importorskip("mlflow", reason="an extra: dpet-jax[mlflow]")
    from mlflow.tracking import MlflowClient

    held = numbered(EVENTS)
    follow(Mlflow(), run_at(tmp_path), held[:3], finished=False)
    database = tmp_path / "track" / "mlflow" / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    name = (tmp_path / "track" / "mlflow.id").read_text().strip()
    assert client.get_run(name).info.status == "KILLED"
    # a crash: all but the first is done again
    run = run_at(tmp_path, step=0, resumed=True, past=held[:3], kept=held[:1])
    follow(Mlflow(), run, numbered(EVENTS[1:], first=5))
    kept = client.get_run(name)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "tiny/seed3"
    assert kept.data.params == {"seed": "3", "train.batch_size": "32"}
    assert kept.data.metrics["end/test_accuracy"] == 0.7
    curve = client.get_metric_history(name, "validation/accuracy")
    assert [(point.step, point.value) for point in curve] == [(64, 0.5), (128, 0.75)]
    losses = client.get_metric_history(name, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(64, 2.0), (128, 1.0)]


def test_a_curve_has_no_wh_of_a_model():
    told = []
    for quality in ("measured", "modelled"):
        hand_on = experiment._measured_to(told.append, lambda quality=quality: quality)
        hand_on({"event": "train", "wh": WH})
    assert ["cost/wh" in measurements(event) for event in told] == [True, False]
