"""Whole runs on the digits with a tiny network: folders, resumption, comparison."""

import io
import json
import shutil
import sys
from dataclasses import replace
from typing import ClassVar

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dpet_jax.config.load import validate
from dpet_jax.data.sources import Digits
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, read_lines
from dpet_jax.methods.base import Pool
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run import experiment
from dpet_jax.run.build import build_data
from dpet_jax.run.folder import Recorder, read_events
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.load import load_run
from dpet_jax.run.summary import summary_lines
from dpet_jax.training.learner import DeviceLearner
from dpet_jax.training.network import DeviceNetwork

DPET = {
    "kind": "dpet",
    "warmup_passes": 2,
    "query_size": 50,
    "passes_per_round": 2,
    "max_rounds": 2,
}


def config(**changes):
    tree = {
        "name": "tiny",
        "model": {"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]},
        "train": {"batch_size": 32, "augment": {"translate": 1}},
        "method": DPET,
        "evaluate": {"every": 0.5},
        "targets": [0.2, 0.99],
        "checkpoint": {"every_s": 1000},
    } | changes
    return validate(tree, "test")


class AfterChunks(Interrupt):
    """An interrupt that comes before the given chunk of a run."""

    def __init__(self, chunks):
        self.left = chunks

    @property
    def requested(self):
        # a run looks after each program too that it makes ready
        self.left -= sys._getframe(1).f_code.co_name != "_compile"
        return self.left < 0


def rows_of(result):
    with np.load(result.folder / "coreset.npz") as saved:
        return saved["source_rows"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return experiment.run(config(), tmp_path_factory.mktemp("whole"))


def test_a_run_leaves_every_file(whole):
    names = {path.name for path in whole.folder.iterdir()}
    assert names >= {
        "config.yaml",
        "events.jsonl",
        "summary.json",
        "coreset.npz",
        "gallery.npz",
        "checkpoints",
    }
    assert not [name for name in names if name.endswith(".part")]


def test_the_summary_adds_up(whole):
    summary = read_json(whole.folder / "summary.json")
    assert summary["stopped_by"] == "finished"
    assert summary["coreset_size"] == 100
    assert summary["pruning_ratio"] == pytest.approx(1 - 100 / 1455)
    assert summary["visits"] == 2 * 485 + 2 * (50 + 100)
    # round 1 scores 1,455 examples and round 2 scores 1,405
    assert summary["scored_examples"] == 1455 + 1405
    steps = 31 + 4 + 7  # of 970, 100 and 200 visits
    assert summary["executed_visits"] == 32 * steps
    scored_rows = 2 * 3 * 500
    assert summary["epochs"] == pytest.approx((32 * steps + scored_rows / 3) / 1455)
    assert summary["selection_visits"] == 0
    full_pass_flops = summary["flops"] / summary["epochs"]
    assert summary["select_flops"] / full_pass_flops == pytest.approx(
        scored_rows / 3 / 1455
    )
    phases = {name: phase["s"] for name, phase in summary["phases"].items()}
    assert sum(phases.values()) == pytest.approx(summary["wall_s"])
    assert summary["wall_s_without_eval"] == pytest.approx(
        summary["wall_s"] - phases["eval"]
    )
    assert min(phases[name] for name in ("train", "select", "eval", "data")) > 0
    per_class = summary["per_class_accuracy"]
    assert np.mean(list(per_class.values())) == pytest.approx(
        summary["test_accuracy"], abs=1e-9
    )
    reached, missed = summary["targets"]
    assert reached["reached"]
    assert reached["test_accuracy"] is not None
    assert (missed["reached"], missed["epochs"]) == (False, None)


def test_events_tell_the_plans_in_order(whole):
    events = read_events(whole.folder / "events.jsonl")
    plans = [
        (event["label"], event["size"]) for event in events if event["event"] == "plan"
    ]
    assert plans == [("warm-up", 485), ("round 1", 50), ("round 2", 100)]
    assert [event["event_id"] for event in events] == list(range(len(events)))
    assert events[-1]["event"] == "stop"
    counted = [event["flops"] for event in events if "flops" in event]
    assert counted == sorted(counted)


def test_the_coreset_names_rows_of_the_source(whole):
    data = experiment.build.build_data(config())
    with np.load(whole.folder / "coreset.npz") as saved:
        rows, labels = saved["source_rows"], saved["labels"]
        np.testing.assert_array_equal(np.bincount(saved["round"]), [0, 50, 50])
        assert (np.diff(saved["score"][:50]) <= 0).all()

    np.testing.assert_array_equal(labels, Digits().read().train.labels[rows])
    assert len(set(rows)) == 100
    assert set(rows) <= set(data.source_rows[: data.num_train])


@pytest.mark.parametrize("chunks", [0, 1, 6])
def test_an_interrupted_run_resumes_to_the_same_bits(
    whole, tmp_path, monkeypatch, chunks, assert_same_run
):
    monkeypatch.setattr(experiment, "Interrupt", lambda: AfterChunks(chunks))
    stopped = experiment.run(config(), tmp_path)
    assert (stopped.stopped_by, stopped.summary) == ("interrupted", None)
    monkeypatch.undo()
    resumed = experiment.run(config(), tmp_path, resume=True)
    assert_same_run(whole.folder, resumed.folder)
    assert resumed.summary["segments"] == 2
    assert resumed.summary["lost"]["visits"] == 0
    for key in ("visits", "flops", "scored_examples", "test_accuracy"):
        assert resumed.summary[key] == whole.summary[key]


def test_a_run_that_is_left_at_a_share_of_it_goes_on_to_the_same_bits(
    whole, tmp_path, assert_same_run
):
    planned = config().method.planned_visits(Pool(1455, np.zeros(1455, np.int32), 10))
    left = experiment.run(config(), tmp_path, until=0.6)
    assert (left.stopped_by, left.summary) == ("paused", None)
    look = read_events(left.folder / "events.jsonl")[-3]
    assert look["event"] == "pause"
    assert 0.6 <= look["visits"] / planned < 0.65
    ended = experiment.run(config(), tmp_path, resume=True)
    assert_same_run(whole.folder, ended.folder)
    for key in ("visits", "flops", "scored_examples", "test_accuracy", "targets_on"):
        assert ended.summary[key] == whole.summary[key]
    # what was evaluated where it was left is not lost, and was no chance at a target
    assert ended.summary["lost"]["visits"] == 0
    epochs = [[t["epochs"] for t in r.summary["targets"]] for r in (whole, ended)]
    assert epochs[0] == epochs[1]


def test_shares_of_a_run_that_nobody_knows_the_length_of_are_refused(tmp_path):
    paced = {
        "method": {"kind": "dpet_anneal"},
        "budget": {"seconds": 5, "pace": True},
        "train": {"batch_size": 32, "schedule": {"kind": "linear"}},
    }
    with pytest.raises(UserError, match=r"^budget\.pace: the length"):
        experiment.run(config(**paced), tmp_path, until=0.5)
    unseen = {"data": {"validation_fraction": 0}, "targets": []}
    with pytest.raises(UserError, match=r"^data\.validation_fraction: 0 leaves no"):
        experiment.run(config(**unseen), tmp_path, until=0.5)
    assert not (tmp_path / "tiny").exists()


def test_a_budget_of_visits_or_epochs_shortens_what_a_share_is_of():
    pool = Pool(1000, np.zeros(1000, np.int32), 10)

    def after(share, **budget):
        made = config(method={"kind": "standard", "passes": 9}, budget=budget)
        return experiment.pause_visits(made, pool, share)

    assert after(1 / 9) == 1000  # not 1001, for all that 1/9 is not exact
    assert after(1 / 9, visits=4500) == 500
    assert after(0.5, epochs=2.5) == 1250
    assert after(1e-6) == 1


def test_work_after_the_last_checkpoint_is_lost_and_counted(
    whole, tmp_path, monkeypatch, assert_same_run
):
    write = Recorder.write
    seen = []

    def crash(self, event, **values):
        seen.append(event)
        if seen.count("plan") == 2:
            raise KeyboardInterrupt
        return write(self, event, **values)

    monkeypatch.setattr(Recorder, "write", crash)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(config(), tmp_path)
    monkeypatch.undo()
    resumed = experiment.run(config(), tmp_path, resume=True)
    assert_same_run(whole.folder, resumed.folder)
    # no checkpoint came before the crash, so the warm-up is done again
    assert resumed.summary["lost"]["visits"] == 970
    assert resumed.summary["lost"]["seconds"] > 0
    assert resumed.summary["visits"] == whole.summary["visits"]
    kept = read_events(resumed.folder / "events.jsonl")
    assert [e["label"] for e in kept if e["event"] == "plan"] == [
        "warm-up",
        "round 1",
        "round 2",
    ]


def test_resuming_a_finished_run_returns_what_it_found(whole):
    out = whole.folder.parent.parent
    before = (whole.folder / "events.jsonl").read_bytes()
    again = experiment.run(config(), out, resume=True)
    assert again.summary == whole.summary
    assert (whole.folder / "events.jsonl").read_bytes() == before


def test_two_runs_with_other_hyper_parameters_compile_nothing_twice(whole, tmp_path):
    other = config(
        seed=3,
        train={
            "batch_size": 32,
            "optimizer": {"learning_rate": 0.03, "momentum": 0.5, "nesterov": False},
            "schedule": {"kind": "triangular", "horizon": "method"},
            "augment": {"translate": 2, "flip": True, "cutout": 3},
            "label_smoothing": 0.1,
        },
        method={"kind": "active_learning", "passes_per_round": 1, "max_rounds": 1}
        | {"initial_size": 60, "query_size": 40},
    )
    summary = experiment.run(other, tmp_path).summary
    assert summary["compilations"]["train_steps"]["programs"] == 0
    assert summary["compilations"]["score_pool"]["programs"] == 0
    assert whole.summary["compilations"]["train_steps"]["programs"] <= 1


# what a resume finds


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """The run, interrupted before its fifth chunk, with two checkpoints."""
    out = tmp_path_factory.mktemp("halfway")
    often = config(checkpoint={"every_s": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "Interrupt", lambda: AfterChunks(4))
        assert experiment.run(often, out).stopped_by == "interrupted"
    return out, often


def resume(halfway, tmp_path, **given):
    shutil.copytree(halfway[0], tmp_path / "copy")
    shown = io.StringIO()
    console = Console(file=shown, width=1000)
    return experiment.run(
        halfway[1], tmp_path / "copy", resume=True, console=console, **given
    ), shown.getvalue()


@pytest.mark.parametrize("damaged", [1, 2], ids=["the last", "all"])
def test_damaged_checkpoints_cost_only_the_work_since_the_one_before(
    halfway, whole, tmp_path, assert_same_run, damaged
):
    folder = tmp_path / "copy" / "tiny" / "seed0"
    shutil.copytree(halfway[0], tmp_path / "copy")
    steps = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(steps) == 2
    for step in steps[-damaged:]:
        manifest = folder / "checkpoints" / step / "model_main" / "manifest.ocdbt"
        manifest.write_bytes(b"")
    resumed = experiment.run(halfway[1], tmp_path / "copy", resume=True)
    assert_same_run(whole.folder, resumed.folder)
    warnings = resumed.summary["warnings"]
    for step, warning in zip(reversed(steps), warnings, strict=False):
        assert f"checkpoints/{step}/model_main/manifest.ocdbt: damaged" in warning
        assert f"warning           {warning}" in summary_lines(resumed.summary)
    assert len(warnings) == damaged
    assert resumed.summary["lost"]["seconds"] > 0
    # the last two are of one place, where the run was interrupted
    assert (resumed.summary["lost"]["visits"] > 0) == (damaged == 2)
    assert resumed.summary["visits"] == whole.summary["visits"]


def test_other_data_are_refused_before_anything_changes(halfway, tmp_path):
    data = build_data(halfway[1])
    images = data.images.copy()
    images[0, 0, 0, 0] ^= 1
    own = replace(data, images=images)
    before = (halfway[0] / "tiny" / "seed0" / "events.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"began with other data \(digits, content"):
        resume(halfway, tmp_path, data=own)
    folder = tmp_path / "copy" / "tiny" / "seed0"
    assert (folder / "events.jsonl").read_bytes() == before
    # what was trained on is recorded, whatever the config says
    events = read_events(folder / "events.jsonl")
    assert events[0]["data_origin"] == "digits"
    method = {"kind": "standard", "passes": 1}
    summary = experiment.run(config(method=method), tmp_path, data=own).summary
    assert summary["data_origin"] == "given in Python"


def test_an_environment_that_is_not_pinned_is_named_where_a_run_goes_on(
    halfway, whole, tmp_path, monkeypatch, assert_same_run
):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    # what is pinned changes nothing, and is not worth a word
    with jax.enable_x64(True), jax.default_prng_impl("rbg"):
        resumed, shown = resume(halfway, tmp_path)
    assert_same_run(whole.folder, resumed.folder)
    (warning,) = resumed.summary["warnings"]
    assert warning.endswith(
        "not go on to the same bits: settings.NVIDIA_TF32_OVERRIDE was None, is now 1"
    )
    assert f"warning: {warning}" in shown


def test_a_signal_while_programs_compile_is_obeyed_at_the_next(
    tmp_path, monkeypatch, whole, assert_same_run
):
    asked = Interrupt()
    compile_all = DeviceLearner.compile

    def compile_and_ask(self):
        for number, done in enumerate(compile_all(self)):
            asked.requested = number == 1
            yield done

    monkeypatch.setattr(DeviceLearner, "compile", compile_and_ask)
    stopped = experiment.run(config(), tmp_path, interrupt=asked)
    assert stopped.stopped_by == "interrupted"
    names = [event["event"] for event in read_events(stopped.folder / "events.jsonl")]
    assert names == ["start", "compile", "compile"]
    assert (stopped.folder / "energy_report.json").exists()
    monkeypatch.undo()
    resumed = experiment.run(config(), tmp_path, resume=True)
    assert_same_run(whole.folder, resumed.folder)


# a proxy that scores

WIDE = {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]}
NARROW = ResidualNetwork(8, (8,), (1,), 10, 1)


def with_proxy(share, **changes):
    method = DPET | {"proxy": {"width_multiplier": share}}
    return config(model=WIDE, method=method | changes)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    return experiment.run(with_proxy(0.5), tmp_path_factory.mktemp("proxied"))


def test_a_proxy_costs_exactly_its_training_and_scoring(proxied):
    summary = proxied.summary
    wide = ResidualNetwork(16, (16,), (1,), 10, 1).forward_flops(8, 8)
    narrow = NARROW.forward_flops(8, 8)
    # it follows the warm-up and round 1; after round 2 nobody asks
    steps, followed = 31 + 4 + 7, 31 + 4
    selecting = 3 * narrow * 32 * followed + 2 * 1500 * narrow
    assert summary["select_flops"] == selecting
    assert summary["flops"] == 3 * wide * 32 * steps + selecting
    assert summary["epochs"] == summary["flops"] / (3 * wide * 1455)
    assert summary["selection_visits"] == 2 * 485 + 2 * 50
    assert summary["visits"] == 2 * 485 + 2 * (50 + 100)
    selections = [
        (event["selection_visits"], event["select_flops"], event["scored"])
        for event in read_events(proxied.folder / "events.jsonl")
        if event["event"] == "select"
    ]
    scoring = 1500 * narrow
    assert selections == [
        (2 * 485, 3 * narrow * 32 * 31 + scoring, 1455),
        (2 * 50, 3 * narrow * 32 * 4 + scoring, 1405),
    ]


def test_a_proxy_works_inside_the_window_of_selection(proxied):
    events = read_events(proxied.folder / "events.jsonl")
    spent = [event["seconds"] for event in events if event["event"] == "select"]
    windows = [
        line["s"]
        for line in read_lines(proxied.folder / "energy.jsonl")
        if (line["event"], line.get("phase")) == ("window", "select")
    ]
    # nothing is chosen for the warm-up, nor once the last round is over
    assert len(windows) == 4
    # a window lies inside what its event measures, compiling included
    assert all(0 < s <= told for s, told in zip(windows[1:3], spent, strict=True))
    assert 0 < proxied.summary["phases"]["select"]["s"] <= sum(windows) + 1e-6
    compiled = [event["what"] for event in events if event["event"] == "compile"]
    assert compiled[4:7] == ["proxy init", "proxy train_steps", "proxy score_pool"]
    assert proxied.summary["compilations"]["others"]["programs"] == 0


def test_a_proxy_chooses_and_only_the_main_model_is_what_a_run_leaves(
    proxied, tmp_path
):
    alone = experiment.run(config(model=WIDE), tmp_path)
    assert set(rows_of(alone)) != set(rows_of(proxied))
    run = load_run(proxied.folder)
    assert run.model.channels == (16,)
    stem = jax.tree.leaves(run.params["stem"])
    assert max(leaf.shape[-1] for leaf in stem) == 16


def test_a_proxy_as_wide_as_the_model_chooses_what_the_model_would(
    tmp_path, assert_same_run
):
    alone = experiment.run(config(model=WIDE), tmp_path / "alone")
    twin = experiment.run(with_proxy(1.0), tmp_path / "twin")
    assert_same_run(alone.folder, twin.folder)
    followed = 32 * (31 + 4) / 1455
    assert twin.summary["epochs"] == pytest.approx(alone.summary["epochs"] + followed)


def test_a_proxy_starts_anew_with_the_model(tmp_path, assert_same_run):
    method = {
        "kind": "active_learning",
        "initial_size": 40,
        "query_size": 30,
        "passes_per_round": 2,
        "max_rounds": 2,
    }
    alone = experiment.run(config(model=WIDE, method=method), tmp_path / "alone")
    method["proxy"] = {"width_multiplier": 1.0}
    twin = experiment.run(config(model=WIDE, method=method), tmp_path / "twin")
    assert_same_run(alone.folder, twin.folder)


@pytest.mark.parametrize("chunks", [1, 7])
def test_an_interrupted_proxy_resumes_to_the_same_bits(
    proxied, tmp_path, monkeypatch, chunks, assert_same_run
):
    monkeypatch.setattr(experiment, "Interrupt", lambda: AfterChunks(chunks))
    stopped = experiment.run(with_proxy(0.5), tmp_path)
    assert stopped.stopped_by == "interrupted"
    monkeypatch.undo()
    resumed = experiment.run(with_proxy(0.5), tmp_path, resume=True)
    assert_same_run(proxied.folder, resumed.folder)
    for key in ("visits", "flops", "select_flops", "selection_visits"):
        assert resumed.summary[key] == proxied.summary[key]


def test_killing_a_proxy_while_it_catches_up_loses_nothing_but_time(
    proxied, tmp_path, monkeypatch, assert_same_run
):
    result, asked = DeviceNetwork.result, []

    def crash(self, index_set):
        if index_set.shape != (1455,):  # the loop looks at all when it evaluates
            asked.append(index_set.shape)
        # the main model's warm-up, the proxy's, then round 1 of both
        if len(asked) == 4:
            raise KeyboardInterrupt
        return result(self, index_set)

    monkeypatch.setattr(DeviceNetwork, "result", crash)
    often = with_proxy(0.5).model_copy(
        update={"checkpoint": config(checkpoint={"every_s": 0}).checkpoint}
    )
    with pytest.raises(KeyboardInterrupt):
        experiment.run(often, tmp_path)
    monkeypatch.undo()
    resumed = experiment.run(often, tmp_path, resume=True)
    assert_same_run(proxied.folder, resumed.folder)
    assert resumed.summary["selection_visits"] == proxied.summary["selection_visits"]
    assert resumed.summary["lost"]["visits"] == 0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DPET | {"score": "random"}, r"random asks no network.*proxy at null"),
        (DPET | {"compat": "artifact"}, r"compat artifact.*proxy at null"),
        ({"kind": "rs2"}, r"proxy"),
    ],
    ids=["random", "artifact", "rs2"],
)
def test_a_proxy_that_cannot_be_asked_is_refused(method, message):
    with pytest.raises(UserError, match=message):
        config(method=method | {"proxy": {"width_multiplier": 0.5}})


@pytest.mark.parametrize(
    ("method", "size"),
    [
        ({"kind": "standard", "passes": 1}, None),
        ({"kind": "rs2", "keep_fraction": 0.1, "passes": 2, "replacement": True}, None),
        (DPET | {"score": "random"}, 100),
        (DPET | {"score": "grand_last_layer"}, 100),
        (DPET | {"score": "grand"}, 100),
        (DPET | {"score": "least_confidence", "compat": "artifact"}, 100),
        (DPET | {"dissimilarity": {"kind": "kl"}, "candidate_fraction": 0.5}, 100),
        (
            {
                "kind": "active_learning",
                "initial_size": 40,
                "query_size": 30,
                "passes_per_round": 2,
                "max_rounds": 1,
            },
            70,
        ),
    ],
    ids=[
        "standard",
        "rs2",
        "dpet-random",
        "dpet-last-layer",
        "dpet-grand",
        "dpet-artifact",
        "dpet-kl",
        "al",
    ],
)
def test_every_method_runs_to_its_end(tmp_path, method, size):
    result = experiment.run(config(method=method), tmp_path)
    assert result.stopped_by == "finished"
    assert result.summary["coreset_size"] == size
    assert (result.folder / "coreset.npz").exists() == (size is not None)


def test_a_saved_coreset_is_trained_on(whole, tmp_path):
    method = {"kind": "coreset", "path": str(whole.folder / "coreset.npz"), "passes": 2}
    result = experiment.run(config(method=method), tmp_path)
    assert result.summary["visits"] == 200
    np.testing.assert_array_equal(rows_of(whole), rows_of(result))
    other = config(method=method, data={"split_seed": 5})
    with pytest.raises(UserError, match=r"validation split.*data\.split_seed"):
        experiment.run(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"budget": {"epochs": 0.3}}, "budget.epochs"),
        ({"budget": {"visits": 200}}, "budget.visits"),
        ({"budget": {"seconds": 1e-3}}, "budget.seconds"),
        ({"stop": {"target": 0.11}}, "target"),
    ],
)
def test_what_ends_a_run_is_recorded(tmp_path, changes, reason):
    method = {"kind": "standard", "passes": 3}
    summary = experiment.run(config(method=method, **changes), tmp_path).summary
    assert summary["stopped_by"] == reason
    assert summary["visits"] < 3 * 1455
    if reason == "budget.visits":
        assert 200 <= summary["visits"] < 200 + 32
    if reason == "budget.epochs":
        assert 0.3 <= summary["epochs"] < 0.3 + 32 / 1455


def test_a_diverged_run_says_so_and_keeps_no_broken_model(tmp_path):
    wild = {"batch_size": 32, "optimizer": {"learning_rate": 1e30}}
    result = experiment.run(config(train=wild), tmp_path)
    assert result.stopped_by == "diverged"
    assert result.summary["test_accuracy"] is None


def test_a_model_without_numbers_chooses_nothing(tmp_path, monkeypatch):
    begin = DeviceNetwork.begin

    def spoil(self, plan, plan_index):
        begin(self, plan, plan_index)
        broken = jax.tree.map(lambda leaf: leaf * np.nan, self._state.params)
        self._state = self._state._replace(params=broken)

    monkeypatch.setattr(DeviceNetwork, "begin", spoil)
    monkeypatch.setattr(DeviceNetwork, "wait", lambda *_: (1.0, 1, 1))
    blind = config(data={"validation_fraction": 0}, targets=[])
    result = experiment.run(blind, tmp_path)
    assert result.stopped_by == "diverged"
    assert result.summary["coreset_size"] == 0


def test_training_reads_class_folders_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    for split, count in (("train", 8), ("test", 2)):
        for name in names:
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    data = {
        "kind": "folder",
        "path": str(tmp_path / "pictures"),
        "image_size": 8,
        "validation_fraction": 0.25,
    }
    result = experiment.run(
        config(data=data, method={"kind": "standard", "passes": 1}), tmp_path / "runs"
    )
    assert result.summary["visits"] == 60
    assert result.summary["dataset"] == "pictures"
    assert set(result.summary["per_class_accuracy"]) == set(names)
    assert "tensorflow" not in sys.modules


def test_label_noise_is_recorded(tmp_path):
    noisy = config(data={"label_noise": 0.2}, method={"kind": "standard", "passes": 1})
    result = experiment.run(noisy, tmp_path)
    with np.load(result.folder / "label_noise.npz") as saved:
        assert saved["source_rows"].size == round(0.2 * 1455)
        assert (saved["clean_labels"] != saved["noisy_labels"]).all()
    start = read_events(result.folder / "events.jsonl")[0]
    assert start["noisy_labels"] == round(0.2 * 1455)


def test_stopping_on_test_marks_the_run(tmp_path):
    peeking = config(
        data={"validation_fraction": 0}, stop={"on": "test", "target": 0.11}
    )
    summary = experiment.run(peeking, tmp_path).summary
    assert summary["targets_on"] == "test"
    assert summary["validation_accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"holds a run already; .*--resume.*--overwrite.*--out"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
        (
            {"resume": True, "changes": {"train": {"batch_size": 16}}},
            r"another config: train.augment.translate was 1, is now 0; train.batch",
        ),
    ],
)
def test_a_begun_folder_is_left_alone(whole, arguments, message):
    changes = arguments.pop("changes", {})
    before = {p: p.read_bytes() for p in whole.folder.glob("*.*") if p.is_file()}
    with pytest.raises(UserError, match=message):
        experiment.run(config(**changes), whole.folder.parent.parent, **arguments)
    assert before == {p: p.read_bytes() for p in before}


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        experiment.run(config(), tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_the_run(tmp_path):
    method = {"kind": "standard", "passes": 1}
    experiment.run(config(), tmp_path)
    result = experiment.run(config(method=method), tmp_path, overwrite=True)
    assert not (result.folder / "coreset.npz").exists()
    events = read_events(result.folder / "events.jsonl", superseded=True)
    assert [e["label"] for e in events if e["event"] == "plan"] == ["standard"]


def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path):
    (tmp_path / "tiny").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write the run folder.*--out"):
        experiment.run(config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"batch_size": 5000}}, r"train.batch_size: 5000 .*1455 training"),
        (
            {"train": {"batch_size": 32, "augment": {"translate": 8}}},
            r"train.augment.translate: 8 .*at most 7",
        ),
        (
            {"method": DPET | {"proxy": {"width_multiplier": 0.5}}},
            r"method.proxy.width_multiplier: 0.5 .*wider model",
        ),
        (
            {"method": {"kind": "coreset", "path": "nowhere.npz"}},
            r"method.path: nowhere.npz: is no coreset",
        ),
    ],
)
def test_a_set_up_that_does_not_fit_the_data_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        experiment.run(config(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_seeds_are_paired_on_one_split(whole, tmp_path):
    other = experiment.run(config(seed=1), tmp_path)
    start, twin = (
        read_events(folder / "events.jsonl")[0]
        for folder in (whole.folder, other.folder)
    )
    assert start["fingerprint"] == twin["fingerprint"]
    assert set(rows_of(whole)) != set(rows_of(other))


def test_the_display_shows_each_plan_once(tmp_path):
    console = Console(record=True, width=200)
    experiment.run(config(), tmp_path, console=console)
    text = console.export_text()
    assert text.count("round 1 ") == 1
    assert "1,455 train · 162 validation · 180 test" in text


def test_the_checkpoint_holds_plain_numbers(whole):
    checkpoints = sorted((whole.folder / "checkpoints").iterdir())
    meta = json.loads((checkpoints[-1] / "meta" / "metadata").read_text())
    assert meta["meta"]["position"]["counters"]["visits"] == whole.summary["visits"]


# methods that choose once, or in every pass

ONE_SHOT = {"kind": "one_shot", "keep_fraction": 0.2, "passes": 3}
ONE_SHOT |= {"pretrain_passes": 2}


@pytest.mark.parametrize(
    "method",
    [
        ONE_SHOT | {"by": "craig"},
        ONE_SHOT | {"by": "el2n", "networks": 2, "proxy": {"width_multiplier": 0.5}},
        ONE_SHOT | {"by": "forgetting", "per_class": True},
        ONE_SHOT | {"by": "glister", "choose_every": 2},
        DPET | {"max_rounds": 1, "diversity": {"kind": "stratified"}},
        {"kind": "infobatch", "passes": 4, "annealing_start": 0.75},
        {"kind": "loss_threshold", "passes": 3},
        {"kind": "selective_backprop", "passes": 2, "look_ahead": 300},
    ],
    ids=lambda method: method.get("by", method["kind"]),
)
def test_methods_run_from_a_config_and_tell_their_cost(tmp_path, method):
    model = {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]}
    result = experiment.run(config(method=method, model=model), tmp_path)
    summary = result.summary
    assert result.stopped_by == "finished"
    events = read_events(result.folder / "events.jsonl")
    selected = [event for event in events if event["event"] == "select"]
    for key in ("select_flops", "selection_visits"):
        assert summary[key] == sum(event[key] for event in selected)
    assert summary["flops"] > summary["select_flops"]
    plans = [event for event in events if event["event"] == "plan"]
    visits = sum(plan["size"] * plan["passes"] for plan in plans)
    assert summary["visits"] == visits
    if method["kind"] == "one_shot":
        assert summary["coreset_size"] == 291
        assert summary["visits"] == 3 * 291
        networks = method.get("networks", 1)
        if "choose_every" in method:
            assert summary["selection_visits"] == 0
        else:
            assert summary["selection_visits"] == networks * 2 * 1455
    if method["kind"] == "infobatch":
        # full, pruned twice, annealed
        sizes = [plan["size"] for plan in plans]
        assert sizes[0] == sizes[3] == 1455
        assert all(1455 / 2 < size < 1455 for size in sizes[1:3])


@pytest.mark.parametrize("chunks", [2, 12])
def test_a_choice_that_was_interrupted_is_made_again(
    tmp_path, monkeypatch, chunks, assert_same_run
):
    run = config(method=ONE_SHOT | {"by": "k_center", "pretrain_passes": 9})
    whole = experiment.run(run, tmp_path / "whole")
    monkeypatch.setattr(experiment, "Interrupt", lambda: AfterChunks(chunks))
    stopped = experiment.run(run, tmp_path / "cut")
    assert stopped.stopped_by == "interrupted"
    monkeypatch.undo()
    resumed = experiment.run(run, tmp_path / "cut", resume=True)
    assert resumed.stopped_by == "finished"
    assert_same_run(whole.folder, resumed.folder)
    assert resumed.summary["flops"] == whole.summary["flops"]


# DPET that replays less than all

LEARNT = {"boost": {"threshold": 9, "passes": 2, "keep_fraction": 0.1}}
LEARNT |= {"round_learning_rate": 0.02, "restart": False, "max_rounds": 4}
LEARNT |= {"replay": {"kind": "loss", "anchor": 0.2, "ratio": 0.5}}


def replayed(**keys):
    """Return a run whose state between rounds is as rich as it gets."""
    train = {"batch_size": 32, "schedule": {"kind": "cosine", "horizon": "method"}}
    return config(method=DPET | LEARNT | keys, train=train)


@pytest.fixture(scope="module")
def with_replay(tmp_path_factory):
    return experiment.run(replayed(), tmp_path_factory.mktemp("replay"))


def test_replay_and_boost_cost_what_was_planned(with_replay):
    events = read_events(with_replay.folder / "events.jsonl")
    plans = [event for event in events if event["event"] == "plan"]
    # 50 new ones, 25 old ones, and a fifth of the pass is anchors
    assert [(plan["label"], plan["size"]) for plan in plans] == [
        *(("warm-up", 485), ("round 1", 62), ("round 2", 94), ("boost 2", 146)),
        *(("round 3", 94), ("boost 3", 146), ("round 4", 94)),
    ]
    assert [plan["learning_rate"] for plan in plans] == [
        *(None, 0.02, 0.02, None, 0.02, None, 0.02)
    ]
    factors = [plan["learning_rate_factor"] for plan in plans]
    assert factors == [1, 1, 1, 0.1, 1, 0.1, 1]
    # here every boost is due, so the most that may be is what was done
    pool = Pool(1455, np.zeros(1455, np.int32), 10)
    assert with_replay.summary["visits"] == replayed().method.planned_visits(pool)
    # training gives the losses away: rounds score the pool and nothing else
    assert with_replay.summary["scored_examples"] == sum(
        1455 - 50 * k for k in range(4)
    )
    assert with_replay.summary["compilations"]["train_steps"]["programs"] <= 1


@pytest.mark.parametrize("chunks", [6, 9])
def test_replay_resumes_in_the_middle_of_rounds(
    with_replay, tmp_path, monkeypatch, chunks, assert_same_run
):
    monkeypatch.setattr(experiment, "Interrupt", lambda: AfterChunks(chunks))
    assert experiment.run(replayed(), tmp_path).stopped_by == "interrupted"
    monkeypatch.undo()
    resumed = experiment.run(replayed(), tmp_path, resume=True)
    assert_same_run(with_replay.folder, resumed.folder)
    for key in ("visits", "flops", "test_accuracy"):
        assert resumed.summary[key] == with_replay.summary[key]


def test_replay_goes_on_after_a_crash(
    with_replay, tmp_path, monkeypatch, assert_same_run
):
    write = Recorder.write
    seen = []

    def crash(self, event, *given, **values):
        seen.append(values.get("label"))
        if event == "checkpoint" and "boost 3" in seen:
            raise KeyboardInterrupt
        return write(self, event, *given, **values)

    monkeypatch.setattr(Recorder, "write", crash)
    often = replayed().model_copy(
        update={"checkpoint": config(checkpoint={"every_s": 0}).checkpoint}
    )
    with pytest.raises(KeyboardInterrupt):
        experiment.run(often, tmp_path)
    monkeypatch.undo()
    resumed = experiment.run(often, tmp_path, resume=True)
    assert resumed.summary["segments"] == 2
    assert_same_run(with_replay.folder, resumed.folder)


@pytest.mark.parametrize("kind", ["chunk", "herding"])
def test_one_schedule_ends_with_the_last_round_whatever_is_replayed(
    tmp_path, monkeypatch, kind
):
    spans = []
    begin = DeviceNetwork.begin

    def watched(self, plan, plan_index):
        spans.append((plan.schedule.start + plan.visits, plan.schedule.horizon))
        begin(self, plan, plan_index)

    monkeypatch.setattr(DeviceNetwork, "begin", watched)
    size = {} if kind == "chunk" else {"ratio": 0.5}
    run = replayed(replay={"kind": kind, **size}, boost=None, max_rounds=3)
    summary = experiment.run(run, tmp_path).summary
    assert len(spans) == 4
    assert spans[-1] == (summary["visits"], summary["visits"])
    old = {"chunk": (0, 50, 50)}.get(kind, (0, 25, 25))
    assert summary["visits"] == 970 + sum(2 * (50 + more) for more in old)
    looked_at = 50 + 100 if kind == "herding" else 0
    assert summary["scored_examples"] == 1455 + 1405 + 1355 + looked_at


def test_replaying_all_is_what_it_always_was(whole, tmp_path, assert_same_run):
    explicit = DPET | {"replay": {"kind": "all", "anchor": 0.0}, "restart": True}
    again = experiment.run(config(method=explicit), tmp_path)
    assert_same_run(whole.folder, again.folder)
    anchored = DPET | {"replay": {"anchor": 0.5}}
    other = experiment.run(config(method=anchored, name="other"), tmp_path).summary
    assert other["visits"] == 2 * 485 + 2 * (100 + 200)


# DPET in one schedule

ANNEAL = {"kind": "dpet_anneal", "epochs": 4, "drop": 0.5}


def annealed(**keys):
    return config(method=ANNEAL | keys)


@pytest.fixture(scope="module")
def in_one_schedule(tmp_path_factory):
    return experiment.run(annealed(), tmp_path_factory.mktemp("anneal"))


def test_dropping_nothing_is_standard_to_the_last_bit(tmp_path, assert_same_run):
    standard = config(method={"kind": "standard", "passes": 3})
    one = experiment.run(standard, tmp_path / "standard")
    nothing = annealed(epochs=3, drop=0.0, coreset_fraction=None)
    other = experiment.run(nothing, tmp_path / "anneal")
    assert_same_run(one.folder, other.folder)
    assert other.summary["epochs"] == one.summary["epochs"]


def test_one_schedule_leaves_out_what_its_keys_say(in_one_schedule, tmp_path):
    twin = experiment.run(annealed(by="random"), tmp_path)
    sizes, others = (
        [e["size"] for e in read_events(run.folder / "events.jsonl") if "size" in e]
        for run in (in_one_schedule, twin)
    )
    assert sizes == others
    # (1 - p + p e) n examples in whole batches of 32, and full passes around them
    middle = round((1 - 0.5 + 0.5 * 0.05) * 1455) // 32 * 32
    assert sizes[:5] == [1455 // 32 * 32] + [middle] * 4
    assert sum(sizes) == 4 * 1455
    assert in_one_schedule.summary["coreset_size"] == 436
    assert in_one_schedule.summary["pruning_ratio"] is None


def test_one_schedule_costs_its_budget_and_chooses_for_nothing(in_one_schedule):
    summary = in_one_schedule.summary
    assert summary["visits"] == 4 * 1455
    # every plan fills up its last batch
    assert 4 <= summary["epochs"] < 4 * 1.03
    assert summary["select_flops"] == summary["scored_examples"] == 0
    phases = {name: phase["s"] for name, phase in summary["phases"].items()}
    assert phases["select"] > 0
    events = read_events(in_one_schedule.folder / "events.jsonl")
    learnt = [e["learnt"] for e in events if e["event"] == "plan" and "learnt" in e]
    assert len(learnt) >= 4
    assert learnt[-1] > learnt[0]
    run = load_run(in_one_schedule.folder)
    assert run.coreset["kept"].shape == run.coreset["source_rows"].shape == (436,)


class WithinPlan(Interrupt):
    """An interrupt that comes when the given plan of a run was first looked at."""

    def __init__(self, events, plan):
        self.events, self.plan = events, plan

    @property
    def requested(self):
        if not self.events.exists():
            return False
        plans = 0
        for event in read_events(self.events):
            plans += event["event"] == "plan"
            if plans == self.plan and event["event"] == "evaluate":
                return True
        return False


@pytest.mark.parametrize(("plan", "by"), [(2, "loss"), (3, "margin")])
def test_one_schedule_resumes_in_its_middle(
    in_one_schedule, tmp_path, monkeypatch, plan, by, assert_same_run
):
    whole = in_one_schedule
    if by == "margin":
        whole = experiment.run(annealed(by=by), tmp_path / "whole")
        assert not np.array_equal(rows_of(whole), rows_of(in_one_schedule))
    file = tmp_path / "tiny/seed0/events.jsonl"
    run = annealed(by=by)
    monkeypatch.setattr(experiment, "Interrupt", lambda: WithinPlan(file, plan))
    assert experiment.run(run, tmp_path).stopped_by == "interrupted"
    monkeypatch.undo()
    # the second and the third pass are looked at after their first step
    events = read_events(file)
    (*_, begun) = (event for event in events if event["event"] == "plan")
    assert begun["dropped"] > 0
    assert events[-1]["visits"] - begun["visits"] == 32
    resumed = experiment.run(run, tmp_path, resume=True)
    assert_same_run(whole.folder, resumed.folder)
    np.testing.assert_array_equal(rows_of(whole), rows_of(resumed))


def test_one_schedule_needs_no_program_of_its_own(tmp_path):
    """Programs of a batch that no other test has, so that none is ready before."""

    def compiled(name, method):
        run = config(method=method, train={"batch_size": 27})
        summary = experiment.run(run, tmp_path / name).summary
        return {
            what: found["programs"] for what, found in summary["compilations"].items()
        }

    first = compiled("standard", {"kind": "standard", "passes": 1})
    assert first["train_steps"] == 1
    assert not any(compiled("loss", ANNEAL).values())
    assert not any(compiled("random", ANNEAL | {"by": "random"}).values())
    # the table of margins is in a program of its own, in place of the other
    asked = compiled("margin", ANNEAL | {"by": "margin"})
    assert (asked["train_steps"], asked["score_pool"]) == (1, 0)


def test_data_that_were_read_before_give_the_same_run(whole, tmp_path, assert_same_run):
    data = build_data(config())
    again = experiment.run(config(), tmp_path, data=data)
    assert_same_run(whole.folder, again.folder)
    wrong = config(train={"batch_size": 2000})
    with pytest.raises(UserError, match=r"train\.batch_size: 2000 is more"):
        experiment.run(wrong, tmp_path / "wrong", data=data)


class NeedsALibrary(Digits):
    """Digits that are read with a module which nothing else imports."""

    libraries: ClassVar[tuple[str, ...]] = ("sklearn.datasets", "this_is_not_there")
    seen: ClassVar[list[bool]] = []

    def read(self):
        self.seen.append("sklearn.datasets" in sys.modules)
        return super().read()


def test_libraries_of_a_source_are_there_before_anything_is_measured(
    tmp_path, monkeypatch
):
    import sklearn.datasets

    assert sklearn.datasets
    monkeypatch.delitem(sys.modules, "sklearn.datasets")
    made = config(method={"kind": "standard", "passes": 1})
    experiment.run(made.model_copy(update={"data": NeedsALibrary()}), tmp_path)
    assert NeedsALibrary.seen == [True]
