"""Fits: data are recognised, one command trains, and the same one again goes on."""

import csv
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dpet_jax.cli import main
from dpet_jax.errors import UserError
from dpet_jax.planner.law import Level
from dpet_jax.planner.planner import Budget
from dpet_jax.run import experiment, fitting
from dpet_jax.run.fitting import FIT, fit, recognised
from dpet_jax.run.load import load_run
from dpet_jax.run.profiling import Profile, Profiles

#: More than any of these runs takes; of an hour the least network sees more examples
#: than can be counted.
LONG = Budget(seconds=300)


def pictures(folder, counts, size=(12, 9)):
    """Write noise in class folders; the first pixel numbers the pictures."""
    rng = np.random.default_rng(0)
    number = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for _ in range(count):
            pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
            number += 1
    return folder


def profile_of(key, step_s):
    return Profile(
        key=key,
        step_s=step_s,
        step_range_s=(step_s, step_s),
        step_j=None,
        num_train=100,
        compile_s=1.0,
        trace_s=0.5,
        compile_j=None,
        score_s=0.001,
        measuring_s=2.0,
    )


@pytest.fixture
def quick(monkeypatch, tmp_path_factory):
    """Let a fit train a perceptron for two epochs, whatever its budget is."""
    run = experiment.run
    calls = []

    def short(config, out, **options):
        calls.append(options["resume"])
        update = {"epochs": 2.0}
        method = config.method.model_copy(update=update)
        budget = config.budget.model_copy(update={"pace": False})
        assert config.budget.pace
        config = config.model_copy(update={"method": method, "budget": budget})
        return run(config, out, **options)

    monkeypatch.setattr(fitting, "_FAMILY", {"kind": "fakes.networks:MlpFamily"})
    monkeypatch.setattr(fitting.experiment, "run", short)
    folder = tmp_path_factory.getbasetemp() / "profiles"
    monkeypatch.setattr(fitting, "Profiles", lambda **_: Profiles(folder), raising=True)
    return calls


def test_data_are_recognised_by_looking(tmp_path):
    folder = pictures(tmp_path / "photos", {"cat": 3, "dog": 3})
    found = recognised(folder)
    assert (found.section.kind, found.usual) == ("folder", (9, 12))
    assert found.section.image_size == 9
    assert found.section.test_fraction is not None
    split = tmp_path / "split"
    for part in ("train", "test"):
        pictures(split / part, {"cat": 2, "dog": 2}, size=(16, 16))
    found = recognised(split)
    assert found.section.test_fraction is None
    assert found.section.image_size is None
    assert recognised(folder, 24).section.image_size == 24
    assert recognised(None).section.kind == "digits"
    np.savez(tmp_path / "x.npz", a=1)
    assert recognised(tmp_path / "x.npz").section.kind == "npz"
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_text("")
    assert recognised(tmp_path / "cifar-10-batches-py").section.kind == "cifar"
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").write_text("")
    assert recognised(tmp_path / "mnist").section.kind == "idx"


def test_large_pictures_are_brought_to_32_pixels_on_a_cpu(tmp_path):
    folder = pictures(tmp_path, {"cat": 2, "dog": 2}, size=(120, 90))
    assert recognised(folder).section.image_size == 32


def test_parquet_is_recognised_by_its_first_pictures(tmp_path):
    pa, pq = (pytest.importorskip(f"pyarrow{name}") for name in ("", ".parquet"))
    pictures(tmp_path / "png", {"cat": 2})
    blobs = [file.read_bytes() for file in sorted((tmp_path / "png/cat").iterdir())]
    table = pa.table({"img": [{"bytes": b} for b in blobs], "label": [0, 1]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    found = recognised(tmp_path)
    assert (found.section.kind, found.usual) == ("parquet", (9, 12))


def test_files_of_the_training_split_are_in_the_order_of_its_rows(tmp_path):
    folder = pictures(tmp_path / "photos", {"cat": 9, "dog": 11}, size=(8, 8))
    section = recognised(folder).section
    images = section.read().train.images
    files = section.training_files()
    assert [int(file.stem) for file in files] == images[:, 0, 0, 0].tolist()
    assert len(files) < 20 == len(section.training_files(drawn=False))


def test_one_command_leaves_model_coreset_and_answer_and_goes_on(tmp_path, quick):
    folder = pictures(tmp_path / "photos", {"cat": 40, "dog": 50, "owl": 30}, (8, 8))
    out = tmp_path / "out"
    found = fit(folder, LONG, out)
    assert found.answer[0].startswith("done in ")
    assert "of 300" in found.answer[0]
    assert load_run(out / "model.safetensors").class_names == ("cat", "dog", "owl")
    assert (out / "model_int8.safetensors").stat().st_size < (
        out / "model.safetensors"
    ).stat().st_size
    rows = list(csv.DictReader((out / "coreset.csv").read_text().splitlines()))
    assert len(rows) == found.result.summary["coreset_size"]
    assert all(f"/{row['label']}/" in row["file"] for row in rows)
    again = fit(folder, LONG, out)
    assert (again.answer, quick) == (found.answer, [False, True])
    with pytest.raises(UserError, match="asked for otherwise"):
        fit(folder, Budget(seconds=60), out)


@pytest.mark.parametrize(
    ("seconds", "dropped"), [(4.9, False), (8.0, False), (12.0, False), (14.0, True)]
)
def test_a_measurement_that_a_long_run_contradicts_is_dropped(
    tmp_path, seconds, dropped
):
    profiles = Profiles(tmp_path)
    # of a step of 10 ms; the run has 1,000 of them
    kept = {
        (1.0, 64): profile_of({"net": "large"}, 0.010),
        (0.5, 64): profile_of({"net": "small"}, 0.004),
    }
    for one in kept.values():
        profiles.keep(one, "net")
    fitting_ = fitting._Fitting(
        *(None, LONG, tmp_path, None, 0, lambda _: None, profiles, 0.0),
        measuring_counts=True,
    )
    plan = SimpleNamespace(scale=1.0, batch_size=64)
    fitting_._used = SimpleNamespace(plan=plan, profiles=kept)
    summary = {"executed_visits": 64_000, "phases": {"train": {"s": seconds}}}
    notes = fitting_.checked(summary)
    assert bool(notes) == dropped
    assert [profiles.find(one.key) is None for one in kept.values()] == [dropped] * 2
    if dropped:
        assert notes[0].startswith("a step took 14 ms, where 10 had been measured")


def test_a_fit_starts_from_a_pool_that_holds_something(tmp_path, monkeypatch):
    pool = tmp_path / "pool"
    pool.mkdir()
    with pytest.raises(UserError, match="holds no pre-trained network"):
        fit(None, LONG, tmp_path / "out", pool=pool)
    assert not (tmp_path / "out").exists()
    config = fitting.look(None, None, 0).config
    began = []
    monkeypatch.setattr(fitting.ModelPool, "names", lambda _: ["mine"])
    monkeypatch.setattr(fitting._Fitting, "planned", lambda _: (config, None))
    monkeypatch.setattr(
        fitting.experiment,
        "run",
        lambda config, out, **_: (
            began.append(config) or experiment.Result(out, "interrupted", None)
        ),
    )
    for _ in range(2):  # the second one goes on
        fit(None, LONG, tmp_path / "out", pool=pool)
    assert [str(config.pool.path) for config in began] == [str(pool)] * 2
    with pytest.raises(UserError, match="asked for otherwise"):
        fit(None, LONG, tmp_path / "out")


@pytest.mark.usefixtures("quick")
def test_a_fit_that_was_left_before_its_run_began_keeps_its_plan(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("planned again")

    out = tmp_path / "out"
    short = fitting.experiment.run
    monkeypatch.setattr(fitting.experiment, "run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(None, LONG, out)
    kept = (out / FIT).read_text()
    monkeypatch.setattr(fitting.experiment, "run", short)
    monkeypatch.setattr(fitting, "plan_config", refuse)
    assert fit(None, LONG, out).answer
    assert (out / FIT).read_text() == kept


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"cat": 9}, "one class only"),
        ({"cat": 9, "dog": 3}, "class dog has 3 pictures"),
        ({}, "no class folders"),
    ],
)
def test_pictures_that_no_one_could_learn_from_are_refused(counts, told, tmp_path):
    (tmp_path / "photos").mkdir()
    folder = pictures(tmp_path / "photos", counts)
    with pytest.raises(UserError, match=told):
        fit(folder, LONG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds no fit"):
        fit(None, LONG, tmp_path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fit photos", "fit photos --minutes=10"),
        ("fit --minutes=0", "give a number above 0"),
        ("fit --target=1.5", "a share below 1"),
        ("fit nowhere --seconds=60", "nowhere: no such file"),
        ("fit --seconds=60 --image-size=2", "2 is not from 8"),
        ("fit --wh=1", "(dpet fit: --cpu-model)"),
        ("fit --wh=1 --cpu-model=20", "'20' holds no keys; write '{idle_w: 20"),
        ("fit --wh=1 --cpu-model='{idle_w: 2, max_w: 3}'", "source: missing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    line, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def measuring(plan, measured):
    """Return a method that notes its calls."""

    def noted(*args):
        measured.append(args)
        return plan(*args)

    return noted


@pytest.mark.usefixtures("quick")
def test_an_impossible_target_is_refused_with_what_can_be_reached(
    tmp_path, monkeypatch
):
    tried = fitting._Tried(Level(-1.0, -0.3), 23_000, 1e-4)
    monkeypatch.setattr(fitting, "_HOUR_S", 60.0)
    monkeypatch.setattr(fitting, "_LONGEST_S", 1.0)
    monkeypatch.setattr(fitting._Fitting, "_try", lambda *_: tried)
    measured = []
    monkeypatch.setattr(
        fitting._Fitting, "_plan", measuring(fitting._Fitting._plan, measured)
    )
    for target, why in ((0.999999, "by any network"), (0.8, "within a day here")):
        with pytest.raises(UserError, match=why) as caught:
            fit(None, Budget(target=target), tmp_path / "out")
        found = re.search(
            r"1 minutes are expected to end at (0\.\d+)", str(caught.value)
        )
        assert 0.6 < float(found[1]) < 0.999999
        # what no network reaches is refused before anything is measured
        assert bool(measured) == (target == 0.8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("target", "doubtful"), [(0.9, False), (0.9999, True)])
def test_the_level_comes_from_two_lengths_of_a_small_network(
    tmp_path, monkeypatch, target, doubtful
):
    ran, level = [], Level(-1.0, -0.3)

    def run(config, _, *, folder, **__):
        ran.append(config)
        phases = {"train": {"s": 3.0}}
        told = {"validation_accuracy": 0.5, "phases": phases, "executed_visits": 6000}
        return experiment.Result(folder, "finished", told)

    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr(fitting, "level_of", lambda *_: level)
    looked = fitting.look(None, None, 0)
    wanted, said = Budget(target=target), []
    fitted = fitting._Fitting(
        *(None, wanted, tmp_path / "out", None, 0, said.append, None, 0.0),
        measuring_counts=True,
    )
    tried = fitted._try(looked.config, looked.data)
    assert (tried.level, tried.visit_s) == (level, 5e-4)
    assert [config.model.scale for config in ran] == [0.5, 0.5]
    n = looked.data.num_train
    steps = [round(config.method.epochs * n / 64) for config in ran]
    assert steps == [300, 1600]
    # what looks out of reach is said before the longer run
    kinds = [line.split()[0] for line in said]
    assert kinds == ["tried", *["doubtful"] * doubtful, "tried"]
