"""A run's model and coreset from Python."""

import jax
import numpy as np
import pytest

import dpet_jax
from dpet_jax.config.load import validate
from dpet_jax.data.sources import Digits
from dpet_jax.errors import UserError
from dpet_jax.run import experiment


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = validate(
        {
            "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
            "train": {"batch_size": 32},
            "method": {"kind": "standard", "passes": 2},
        },
        "test",
    )
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


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        dpet_jax.load_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint yet"):
        dpet_jax.load_run(tmp_path)
