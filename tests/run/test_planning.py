"""Plans of a config: measured costs are kept, and what is written can be run."""

import json
import shutil
import time
from typing import ClassVar

import numpy as np
import pytest
from fakes.networks import MlpFamily

from dpet_jax.cli import main
from dpet_jax.config.load import load, validate
from dpet_jax.energy import CallableProbe, Energy
from dpet_jax.energy.window import Window
from dpet_jax.errors import UserError
from dpet_jax.planner.law import SHIPPED, Law, Level
from dpet_jax.planner.planner import Budget
from dpet_jax.run import calibration, experiment, planning, profiling
from dpet_jax.run.build import build_data
from dpet_jax.run.planning import (
    family_networks,
    plan_config,
    plan_lines,
    read_law,
    write_config,
)
from dpet_jax.run.profiling import Profiles

FAMILY = """
name: own
model: {kind: "fakes.networks:MlpFamily"}
train: {batch_size: 32, augment: {translate: 1}, optimizer: {learning_rate: 0.05}}
evaluate: {batch_size: 100}
"""
#: 159 steps, enough for the law, and too few epochs for anything to be dropped.
EPOCHS = 3.5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "own.yaml"
    path.write_text(FAMILY)
    return path


@pytest.fixture(scope="module")
def config(path):
    return load(path)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def planned(config, data, cache):
    return plan_config(
        config, Budget(epochs=EPOCHS), data=data, profiles=Profiles(cache)
    )


@pytest.fixture(scope="module")
def run(planned, tmp_path_factory):
    """Run what the plan has written."""
    folder = tmp_path_factory.mktemp("runs")
    write_config(planned, folder / "planned.yaml")
    return experiment.run(load(folder / "planned.yaml"), folder)


def test_a_plan_measures_what_it_needs_and_keeps_it(planned, cache):
    assert len(planned.profiles) == len(list(cache.iterdir())) == 1
    (profile,) = planned.profiles.values()
    low, high = profile.step_range_s
    assert 0 < low <= profile.step_s <= high
    assert profile.step_j is None
    assert 0 <= profile.trace_s <= profile.compile_s < profile.measuring_s
    chosen = next(one for one in planned.plan.table if one.why == "chosen")
    assert chosen.parameters == 64 * 8 * planned.plan.scale * 2 + (
        16 * planned.plan.scale * 11 + 10
    )


def test_what_is_kept_is_not_measured_again(config, data, cache, planned, monkeypatch):
    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(planning, "measure", refuse)
    again = plan_config(
        config, Budget(epochs=EPOCHS), data=data, profiles=Profiles(cache)
    )
    assert again.config == planned.config
    measuring = next(iter(planned.profiles.values())).measuring_s
    assert again.plan.seconds == pytest.approx(planned.plan.seconds - measuring)


@pytest.mark.parametrize("damage", ["cut", "not json", "of another", "a key less"])
def test_a_damaged_profile_is_measured_anew_and_said(
    damage, config, data, cache, planned, tmp_path, monkeypatch
):
    (kept,) = cache.iterdir()
    profile = next(iter(planned.profiles.values()))
    whole = json.loads(kept.read_text())
    broken = {
        "cut": kept.read_text()[:-40],
        "not json": "\0\1",
        "of another": json.dumps(whole | {"key": {"device": "other"}}),
        "a key less": json.dumps({k: v for k, v in whole.items() if k != "step_s"}),
    }
    file = tmp_path / kept.name
    file.write_text(broken[damage])
    monkeypatch.setattr(planning, "measure", lambda *_: profile)
    found = plan_config(
        config, Budget(epochs=EPOCHS), data=data, profiles=Profiles(tmp_path)
    )
    (note,) = [text for text in found.notes if "measured anew" in text]
    assert kept.name in note
    assert json.loads(file.read_text()) == whole
    assert found.plan == planned.plan


def test_a_cache_that_cannot_be_written_is_said(
    config, data, planned, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    profile = next(iter(planned.profiles.values()))
    monkeypatch.setattr(planning, "measure", lambda *_: profile)
    found = plan_config(
        config, Budget(epochs=EPOCHS), data=data, profiles=Profiles(tmp_path / "file/x")
    )
    assert any("not kept" in note for note in found.notes)


def test_the_config_of_a_plan_trains_as_planned_with_the_programs_measured(
    planned, run
):
    summary = run.summary
    assert run.stopped_by == "finished"
    assert summary["visits"] == planned.plan.visits == round(EPOCHS * 1_455)
    assert summary["method"] == "dpet_anneal"
    assert summary["compilations"]["train_steps"]["programs"] == 0
    assert summary["compilations"]["score_pool"]["programs"] == 0


def test_the_config_of_a_plan_says_all_that_was_chosen(planned, run):
    saved = load(run.folder / "config.yaml")
    assert saved == planned.config
    assert saved.model == MlpFamily(width=round(16 * planned.plan.scale))
    assert saved.method.epochs == pytest.approx(EPOCHS, abs=1e-3)
    assert saved.method.drop == "auto"
    assert saved.train.schedule.kind == "triangular"
    assert saved.evaluate.every == saved.method.epochs


def test_lines_say_what_was_chosen_what_else_and_why(planned):
    text = "\n".join(plan_lines(planned))
    assert "3.5 epochs on digits (1,455 train)" in text
    assert "accuracy not known" in text
    assert text.count("not measured") == 1  # its energy; epochs fix the rest
    assert "no coefficients were fitted to fakes.networks:MlpFamily" in text
    assert "extrapolated: the law's runs were trained by Nesterov SGD" in text
    assert SHIPPED.origin in text


def test_seconds_leave_what_measuring_took_out_of_the_run(
    config, data, planned, tmp_path, monkeypatch
):
    profile = next(iter(planned.profiles.values()))
    slow = profile.model_copy(
        update={
            **{"step_s": 0.01, "compile_s": 2.0, "trace_s": 1.0, "measuring_s": 3.0},
            "score_s": 0.001,
        }
    )
    monkeypatch.setattr(planning, "measure", lambda *_: slow)
    found = plan_config(
        config, Budget(seconds=100), data=data, profiles=Profiles(tmp_path)
    )
    spent, evaluating = 3.0 * len(found.profiles), 0.001 * (162 + 180)
    before = spent + evaluating + 1.0
    assert found.plan.steps == int((98 - before) / 0.01)
    assert found.config.budget.seconds == pytest.approx(100 - spent - evaluating)
    assert found.config.budget.wh is None


def test_more_examples_than_a_run_can_count_are_refused(
    config, data, planned, tmp_path, monkeypatch
):
    profile = next(iter(planned.profiles.values()))
    monkeypatch.setattr(planning, "measure", lambda *_: profile)
    with pytest.raises(UserError, match="a run counts 2,147,483,647 at most"):
        plan_config(config, Budget(epochs=2e6), data=data, profiles=Profiles(tmp_path))


def test_energy_is_measured_by_a_meter_of_the_users_own(
    config, data, planned, tmp_path, monkeypatch
):
    meter = CallableProbe(
        lambda: 36.0 * time.monotonic(),
        name="PDU",
        kind="counter",
        unit="J",
        rel_uncertainty=0.01,
    )
    monkeypatch.setattr(MlpFamily, "scales", (planned.plan.scale,))
    found = plan_config(
        config, Budget(wh=1), data=data, profiles=Profiles(tmp_path), meters=(meter,)
    )
    (profile,) = found.profiles.values()
    assert profile.step_j / profile.step_s == pytest.approx(36, rel=0.1)
    # 36 W for 100 s
    assert found.plan.wh == pytest.approx(0.98, abs=0.005)
    assert found.plan.seconds == pytest.approx(98, rel=0.1)
    assert found.config.budget.wh < 1


def test_energy_of_a_model_is_planned_with_and_stands_with_its_interval(
    config, data, planned, tmp_path, monkeypatch
):
    watts = {"idle_w": 20.0, "max_w": 65.0, "source": "a test"}
    asked = {"allow_modelled": True, "cpu_model": watts}
    modelled = validate(config.model_dump(mode="json") | {"energy": asked}, "test")
    measured = next(iter(planned.profiles.values()))
    keys = []

    def measure(at, data, meter, key):
        del at, data, meter
        keys.append(key)
        told = {"step_j": 40 * measured.step_s, "assumed": (0.25, 1.5)}
        return measured.model_copy(update={**told, "key": key})

    monkeypatch.setattr(planning, "measure", measure)
    monkeypatch.setattr(MlpFamily, "scales", (planned.plan.scale,))
    found = plan_config(modelled, Budget(wh=1), data=data, profiles=Profiles(tmp_path))
    assert [key["cpu_model"] for key in keys] == [watts]
    assert found.plan.wh == pytest.approx(0.98, abs=0.01)
    assert found.energy.quality == "modelled"
    assert found.energy.interval_wh == pytest.approx(
        (0.25 * found.plan.wh, 1.5 * found.plan.wh)
    )
    lines = [*plan_lines(found)]
    assert f"{found.energy}; accuracy" in lines[2]
    assert "MODELLED" in lines[2]
    (row,) = [line for line in lines if line.endswith("chosen")]
    assert row.split()[-2] == "-"  # no Wh without their interval
    assert any("counted by its middle" in line for line in lines)
    assert 0.9 < found.config.budget.wh < 1
    assert found.config.energy.cpu_model == modelled.energy.cpu_model


def test_what_a_model_assumes_is_kept_as_shares():
    window = Window("train", None, lambda _: None, s=2.0)
    window.energy = Energy(2.0, "modelled", 0.0, 0.5, 3.0)
    assert profiling._assumed(window) == (0.25, 1.5)
    assert profiling.joules_of(window) == 7200
    window.energy = Energy(2.0, "measured", 0.0, 0.5, 3.0)
    assert profiling._assumed(window) is None


def test_an_accelerator_gets_its_precision_channels_and_batches_unless_told(
    data, monkeypatch
):
    monkeypatch.setattr(planning, "_on_cpu", lambda: False)
    free = validate({"model": {"kind": "resnet20"}}, "test")
    told = validate({"model": {"kind": "resnet20", "compute_dtype": "float32"}}, "test")
    model = planning.recipe(free).model
    assert (model.compute_dtype, model.channel_multiple) == ("bfloat16", 8)
    model = planning.recipe(told).model
    assert (model.compute_dtype, model.channel_multiple) == ("float32", 8)
    assert planning._batch_sizes(free, [], data) == (128, 256, 512)
    assert planning._batch_sizes(free, [64, 2_000], data) == (64,)


def test_the_rate_grows_with_the_root_of_the_batch(config, data):
    family = planning._Family(planning.recipe(config), data, (32, 128))
    rates = [
        family.config((1.0, batch)).train.optimizer.learning_rate for batch in (32, 128)
    ]
    assert rates == pytest.approx([0.05, 0.1])


# calibration


@pytest.fixture(scope="module")
def grid(run, tmp_path_factory):
    """Return run folders that end as a law says; only their summaries differ."""
    folder = tmp_path_factory.mktemp("grid")
    law, level = Law(c=-0.02), Level(-1.4, -0.3)
    parameters = next(iter(calibration._read([run.folder], SHIPPED)[0])).observation
    for number, visits in enumerate((6_000, 12_000, 50_000, 200_000)):
        copy = folder / f"run{number}"
        shutil.copytree(run.folder, copy)
        summary = json.loads((copy / "summary.json").read_text())
        score = law.score(visits, parameters.parameters)
        summary |= {"visits": visits, "validation_accuracy": level.accuracy(score)}
        (copy / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_law_is_refitted_to_run_folders_and_read_back(grid, tmp_path, capsys):
    out = tmp_path / "law.json"
    assert main(["plan", "--calibrate", str(grid), f"--out={out}"]) == 0
    law = read_law(out)
    assert law.families == ("fakes.networks:MlpFamily",)
    assert law.visits[0] <= 6_000 < 200_000 <= law.visits[1]
    # a ridge moves c from -0.0085 towards the -0.02 of these runs
    assert -0.02 < law.c < -0.009
    assert np.abs(np.subtract(law.coefficients, SHIPPED.coefficients)).max() < 0.02
    assert "4 runs of fakes.networks:MlpFamily in 1 groups" in capsys.readouterr().out


def test_runs_that_do_not_fit_are_left_out_and_named(grid, tmp_path, capsys):
    for change in ({"stopped_by": "budget.seconds"}, {"visits": 64}):
        folder = tmp_path / next(iter(change))
        shutil.copytree(grid / "run0", folder)
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | change))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text("{")
    found = calibration.calibrate([grid, tmp_path])
    assert len(found.observations) == 4
    text = "\n".join(found.left_out)
    assert "was ended by budget.seconds" in text
    assert "fewer than 150 steps" in text
    assert "torn" in text
    assert main(["plan", "--calibrate", str(tmp_path), f"--out={tmp_path}/x"]) == 2
    assert "too few runs that fit" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_two_runs_on_the_data_fix_its_level(grid, data, config, cache):
    runs = [grid / "run0", grid / "run2"]
    level = calibration.level_of(runs, Law(c=-0.02), data.fingerprint)
    assert level == pytest.approx((-1.4, -0.3))
    found = plan_config(
        config,
        Budget(epochs=EPOCHS),
        data=data,
        profiles=Profiles(cache),
        law=Law(c=-0.02),
        level=level,
    )
    assert found.plan.accuracy == pytest.approx(
        level.accuracy(
            Law(c=-0.02).score(
                found.plan.visits,
                next(o.parameters for o in found.plan.table if o.why == "chosen"),
            )
        )
    )
    assert "give or take" in "\n".join(plan_lines(found))
    with pytest.raises(UserError, match="trained on other data"):
        calibration.level_of(runs, SHIPPED, "another")


# mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds=0"], "seconds is 0; give a number above 0"),
        (["--seconds=nan"], "seconds is nan"),
        ([], "give one of seconds, wh, epochs and target"),
        (["--target=0.9"], "--level"),
        (["--epochs=2", "--law=missing.json"], "cannot read the law"),
        (["--epochs=2", "--batches=a"], "no list of numbers"),
        (
            [
                "--epochs=2",
                "--model={kind: resnet, stem: 8, channels: [8], blocks: [1]}",
            ],
            "resnet is no family with a ranking law",
        ),
        (["--epochs=2", "--batches=5000"], "more than the 1455 training examples"),
        (["--calibrate", "runs", "--out=x"], "--calibrate goes with"),
        (["--epochs=2", "--level", "nowhere"], "holds no finished run"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, said, path, capsys):
    assert main(["plan", str(path), *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "x"}', '{"b": NaN}', '{"e": 1}'])
def test_a_law_that_cannot_be_read_is_refused(content, tmp_path):
    file = tmp_path / "law.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"law\.json"):
        read_law(file)


def test_a_config_that_starts_from_a_pool_is_refused(config, tmp_path):
    pooled = load_with(config, tmp_path, pool={"path": "pool"})
    with pytest.raises(UserError, match="drop the pool"):
        plan_config(pooled, Budget(epochs=2))


def test_a_config_whose_images_grow_is_refused(config, tmp_path):
    data = config.data.model_dump(mode="json") | {"input_size": 8}
    train = config.train.model_dump(mode="json") | {"resolution": {"start": 4}}
    growing = load_with(config, tmp_path, data=data, train=train)
    with pytest.raises(UserError, match=r"^train\.resolution: a plan counts on steps"):
        plan_config(growing, Budget(epochs=2))


def load_with(config, tmp_path, **changes):
    file = tmp_path / "changed.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json") | changes))
    return load(file)


class Fitting(MlpFamily):
    """A family that has a size for every picture but the smallest."""

    scales: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.51, 0.0)

    def build(self, num_classes, image_shape):
        if self.width == 0:
            raise UserError("too small a network")
        return super().build(num_classes, image_shape)


def test_scales_that_do_not_fit_or_are_another_are_left_out_and_named(
    config, data, monkeypatch
):
    fitting = config.model_copy(update={"model": Fitting()})
    found = family_networks(fitting, data)
    assert [*found.networks] == [0.5, 1.0]
    assert found.left_out == [
        "scale 0 is left out: too small a network",
        "scale 0.51 is left out: rounded, it is a smaller one",
    ]
    monkeypatch.setattr(Fitting, "scales", (0.0,))
    with pytest.raises(UserError, match="scale 0 is left out: too small"):
        family_networks(fitting, data)
