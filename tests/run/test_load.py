"""A finished run back in Python: its model, its coreset, and labels for new images."""

import shutil

import jax
import numpy as np
import pytest

import dpet_jax
from dpet_jax.config.load import validate
from dpet_jax.data.sources import Digits
from dpet_jax.errors import UserError
from dpet_jax.run import experiment
from dpet_jax.run.predict import predict
from dpet_jax.training.checkpoint import Checkpoints

CONFIG = {
    "model": {"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]},
    "train": {"batch_size": 32},
    "method": {"kind": "standard", "passes": 2},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = validate(CONFIG, "test")
    return experiment.run(config, tmp_path_factory.mktemp("run"))


def test_the_loaded_model_has_the_accuracy_of_the_summary(result):
    run = dpet_jax.load_run(result.folder)
    test = Digits().read().test
    logits = run.apply_fn(run.params, jax.numpy.asarray(test.images))
    accuracy = np.mean(np.argmax(logits, axis=1) == test.labels)
    assert accuracy == pytest.approx(result.summary["test_accuracy"])
    assert run.coreset is None
    assert run.image_shape == (8, 8, 1)
    assert run.class_names[3] == "3"


def test_an_average_in_few_bits_is_what_a_run_leaves_and_it_resumes_to_the_same_bits(
    tmp_path, assert_same_run, stopped_after
):
    train = {"batch_size": 32, "ema": 0.9, "quantize": {"bits": 4, "start": 0.5}}
    config = validate(CONFIG | {"train": train}, "test")
    whole = experiment.run(config, tmp_path / "whole")
    run = dpet_jax.load_run(whole.folder)
    test = Digits().read().test
    logits = run.apply_fn(run.params, jax.numpy.asarray(test.images))
    accuracy = np.mean(np.argmax(logits, axis=1) == test.labels)
    assert accuracy == pytest.approx(whole.summary["test_accuracy"])
    raw = Checkpoints(whole.folder / "checkpoints", read_only=True).read_part(
        "main", {"params": run.params}
    )
    assert not np.array_equal(raw["params"]["head"]["bias"], run.params["head"]["bias"])
    for kernel in (k for k in jax.tree.leaves(run.params) if k.ndim >= 2):
        channel = np.asarray(kernel, np.float64)[..., 0]
        multiples = channel / (np.abs(channel).max() / 7)
        np.testing.assert_allclose(multiples, np.round(multiples), atol=1e-3)

    stopped = experiment.run(config, tmp_path / "parts", interrupt=stopped_after(7))
    assert stopped.stopped_by == "interrupted"
    resumed = experiment.run(config, tmp_path / "parts", resume=True)
    assert resumed.summary["segments"] == 2
    assert_same_run(whole.folder, resumed.folder)


@pytest.mark.parametrize("recorded", ["in the checkpoint", "in the config alone"])
def test_the_loaded_model_computes_in_the_dtype_of_the_run(
    result, tmp_path, monkeypatch, recorded
):
    folder = tmp_path / "run"
    shutil.copytree(result.folder, folder)
    text = (folder / "config.yaml").read_text()
    narrow = text.replace("compute_dtype: float32", "compute_dtype: bfloat16")
    (folder / "config.yaml").write_text(narrow)
    if recorded == "in the config alone":
        read_meta = Checkpoints.read_meta

        def without(self):
            meta = read_meta(self)
            del meta["facts"]["compute_dtype"]
            return meta

        monkeypatch.setattr(Checkpoints, "read_meta", without)
    wide, run = dpet_jax.load_run(result.folder), dpet_jax.load_run(folder)
    images = Digits().read().test.images[:20]
    same = np.array_equal(
        run.apply_fn(run.params, images), wide.apply_fn(wide.params, images)
    )
    assert same == (recorded == "in the checkpoint")


def test_a_damaged_checkpoint_is_no_model(result, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(result.folder, folder)
    path = next(folder.rglob("model_main/_METADATA"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"^{path}: damaged: other bytes"):
        dpet_jax.load_run(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        dpet_jax.load_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint yet"):
        dpet_jax.load_run(tmp_path)


# new images


def test_predict_agrees_with_the_summary(result, tmp_path):
    test = Digits().read().test
    np.savez(tmp_path / "test.npz", images=test.images, labels=test.labels)
    prediction = predict(result.folder, tmp_path / "test.npz")
    assert prediction.accuracy == pytest.approx(result.summary["test_accuracy"])
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1, rtol=1e-5)
    lines = prediction.to_csv().splitlines()
    assert len(lines) == 1 + len(test.labels)
    assert lines[0] == "image,label,class," + ",".join(f"p_{k}" for k in range(10))


def test_predictions_do_not_depend_on_their_company(result, tmp_path):
    images = Digits().read().test.images
    np.savez(tmp_path / "all.npz", images=images)
    np.savez(tmp_path / "one.npz", images=images[7:8])
    together = predict(result.folder, tmp_path / "all.npz").probabilities[7]
    alone = predict(result.folder, tmp_path / "one.npz").probabilities[0]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_a_table_that_cannot_be_written_is_a_mistake(result, tmp_path):
    np.savez(tmp_path / "new.npz", images=Digits().read().test.images[:2])
    prediction = predict(result.folder, tmp_path / "new.npz")
    with pytest.raises(UserError, match=r"--csv: .*cannot be written"):
        prediction.write_csv(tmp_path / "missing" / "table.csv")
    prediction.write_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == prediction.to_csv()
    assert prediction.accuracy is None
