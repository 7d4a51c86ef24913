"""Experiments from Python: the same runs, as values instead of folders."""

import json

import numpy as np
import pytest
import yaml

import dpet_jax
from dpet_jax.config.experiment import Config
from dpet_jax.data import ImageSet, Source
from dpet_jax.errors import UserError
from dpet_jax.interactive import _config
from dpet_jax.methods.rs2 import Rs2

TINY = {
    "name": "tiny",
    "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
    "train": {"batch_size": 64},
    "method": {"kind": "dpet_anneal", "epochs": 2.0},
    "evaluate": {"every": 1.0},
    "targets": [0.05],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return dpet_jax.run(TINY, {"seed": 3}, out=out, progress=False)


def test_a_run_is_what_its_folder_holds(run):
    assert (run.folder.parent.name, run.folder.name) == ("tiny", "seed3")
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert repr(run).startswith(
        f"Run({run.folder}: DPET in one schedule (loss), seed 3"
    )
    assert "\n" not in repr(run)


def test_curves_are_arrays_of_equal_length(run):
    curves = run.curves
    assert {held.shape for held in curves.values()} == {(2,)}
    assert (np.diff(curves["epochs"]) > 0).all()
    assert ((curves["accuracy"] >= 0) & (curves["accuracy"] <= 1)).all()
    assert np.isnan(curves["wh_warm"]).all() == (run.quality == "unavailable")


def test_the_coreset_and_the_model_are_those_of_the_run(run):
    assert len(run.coreset["source_rows"]) == run.summary["coreset_size"]
    model = run.model
    logits = model.apply_fn(model.params, np.zeros((2, 8, 8, 1), np.uint8))
    assert logits.shape == (2, 10)


def test_a_folder_is_read_again_as_the_same_run(run):
    again = dpet_jax.read_run(run.folder)
    assert again.summary == run.summary
    assert (again.curves["accuracy"] == run.curves["accuracy"]).all()


def test_a_run_writes_its_own_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr("dpet_jax.report.plots.style.to_png", lambda _: b"")
    page = run.report(tmp_path)
    assert page == tmp_path / "report.html"
    assert "DPET in one schedule" in page.read_text()


def test_the_package_of_runs_is_still_a_package():
    from dpet_jax.run.limits import StopReason

    assert callable(dpet_jax.run)
    assert dpet_jax.run.__name__ == "dpet_jax.run"
    assert "finished" in StopReason.__args__


def test_a_config_is_taken_as_object_keys_or_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    wanted = Config.model_validate(TINY)
    for given in (wanted, TINY, path, str(path)):
        assert _config(given, {}) == wanted
        changed = _config(given, {"train.batch_size": 32, "method.kind": "rs2"})
        assert (changed.train.batch_size, changed.method) == (32, Rs2())
    assert _config(None, {}).name == "quickstart"
    assert TINY["train"] == {"batch_size": 64}  # and is left as it was


def test_a_mistake_names_the_change_that_made_it(tmp_path):
    with pytest.raises(UserError, match=r"changes: train\.lr: unknown key, did"):
        dpet_jax.run(TINY, {"train.lr": 1.0}, out=tmp_path, progress=False)
    with pytest.raises(UserError, match=r"the config: train\.batch_size"):
        dpet_jax.run({"train": {"batch_size": 0}}, out=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_objects_take_the_place_of_sections_and_data_record_what_they_are(
    tmp_path, monkeypatch
):
    asked = []

    def start(config, out, **options):
        assert out == tmp_path
        asked.append((config, options["data"]))
        raise UserError("enough")

    monkeypatch.setattr("dpet_jax.run.experiment.run", start)
    rng = np.random.default_rng(0)

    def drawn(count):
        labels = np.arange(count, dtype=np.int32) % 2
        return ImageSet(rng.integers(0, 256, (count, 8, 8, 1), np.uint8), labels)

    mine = Source("mine", drawn(100), drawn(20), ("even", "odd"))
    with pytest.raises(UserError, match="enough"):
        dpet_jax.run(TINY, method=Rs2(passes=3), data=mine, out=tmp_path)
    ((config, data),) = asked
    assert config.method == Rs2(passes=3)
    assert (data.name, data.class_names) == ("mine", ("even", "odd"))
    assert (data.num_train, data.num_validation) == (90, 10)
    assert data.origin == "given in Python"


def test_a_comparison_is_returned_with_its_table(run, tmp_path, monkeypatch):
    monkeypatch.setattr("dpet_jax.report.plots.style.to_png", lambda _: b"")
    suite = {
        **{"name": "pair", "base": TINY, "seeds": [0], "targets": [0.05]},
        "variants": {"a": {"role": "standard"}, "b": {"set": {"method.epochs": 1.0}}},
    }
    found = dpet_jax.compare(
        suite, {"train.label_smoothing": 0.1}, out=tmp_path, progress=False
    )
    assert (found.finished, found.problems, found.by) == (True, (), run_unit(run))
    assert [row.key for row in found.comparison.rows] == ["a", "b"]
    assert {r.config["train"]["label_smoothing"] for r in found.comparison.runs} == {
        0.1
    }
    assert str(found).startswith("Cost to reach an accuracy")
    assert found.report().parent == tmp_path / "pair"
    # a file says the same, and finds what has been run
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    path = tmp_path / "pair.yaml"
    path.write_text(yaml.safe_dump(suite | {"base": "base.yaml"}))
    again = dpet_jax.compare(
        path, {"train.label_smoothing": 0.1}, out=tmp_path, progress=False
    )
    assert str(again) == str(found)
    with pytest.raises(UserError, match=r"^compare: train\.lr: unknown key"):
        dpet_jax.compare(suite, {"train.lr": 1.0}, out=tmp_path, progress=False)


def run_unit(run):
    return "wh" if run.quality == "measured" else "epochs"
