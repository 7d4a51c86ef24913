"""A run's model in one file, and back from it."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpet_jax
from dpet_jax.cli import main
from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.models.weights import read_weights
from dpet_jax.run import experiment
from dpet_jax.run.export import export
from dpet_jax.run.predict import predict

CONFIG = {
    "model": {"kind": "resnet", "stem": 8, "channels": [8, 16], "blocks": [1, 1]},
    "train": {"batch_size": 64, "quantize": {"bits": 8, "start": 0.5}},
    "method": {"kind": "standard", "passes": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = validate(CONFIG, "test")
    return experiment.run(config, tmp_path_factory.mktemp("run")).folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from dpet_jax.data.sources import Digits

    path = tmp_path_factory.mktemp("pictures") / "some.npz"
    test = Digits().read().test
    np.savez(path, images=test.images[:40], labels=test.labels[:40])
    return path


def leaves(loaded):
    return jax.tree.leaves((loaded.params, loaded.batch_stats))


@pytest.mark.parametrize("form", ["f32", "bf16", "int8"])
def test_a_file_holds_the_model_of_the_run(form, run, tmp_path, pictures):
    written = export(run, form, tmp_path / "model.safetensors", "CC0")
    ours, read = dpet_jax.load_run(run), dpet_jax.load_run(written.path)
    assert read.model == ours.model
    assert read.class_names == ours.class_names
    assert read.image_shape == ours.image_shape
    for before, after in zip(leaves(ours), leaves(read), strict=True):
        if form == "bf16" and before.ndim > 1:
            before = before.astype(jnp.bfloat16).astype(jnp.float32)
        # the run has trained whole numbers, so that they are stored as they are
        rtol = {"f32": 0, "bf16": 1e-2, "int8": 1e-6}[form]
        np.testing.assert_allclose(after, before, rtol=rtol, atol=0)
    expected, got = predict(run, pictures), predict(written.path, pictures)
    tolerance = {"f32": 0, "bf16": 0.02, "int8": 1e-5}[form]
    np.testing.assert_allclose(
        got.probabilities, expected.probabilities, rtol=0, atol=tolerance
    )


def test_whole_numbers_take_a_quarter_of_the_bytes_of_the_kernels(run, tmp_path):
    written = export(run, "int8", tmp_path / "model.safetensors", None)
    arrays, card = read_weights(written.path)
    assert card["form"] == "int8"
    assert written.size == written.path.stat().st_size
    kernels = [n for n in arrays if n.endswith("/kernel")]
    assert len(kernels) == 7
    for name in kernels:
        assert arrays[name].dtype == np.int8
        assert arrays[name + ":scale"].shape == arrays[name].shape[-1:]
        assert np.abs(arrays[name]).max() == 127
    rest = arrays.keys() - {*kernels}
    assert {arrays[name].dtype for name in rest} == {np.dtype(np.float32)}
    plain = export(run, "f32", tmp_path / "plain.safetensors", None)
    assert plain.float32 == written.float32
    saved = sum(3 * arrays[n].size - 4 * arrays[n].shape[-1] for n in kernels)
    # headers differ by the names of the scales
    assert abs(plain.size - written.size - saved) < 1000


def test_a_fresh_process_predicts_the_same_from_the_file(run, tmp_path, pictures):
    path = tmp_path / "model.safetensors"
    assert main(["export", str(run), "--int8", f"--out={path}"]) == 0
    here = predict(path, pictures).to_csv()
    command = [sys.executable, "-m", "dpet_jax", "predict", str(path)]
    fresh = subprocess.run(
        [*command, f"--data={pictures}"], capture_output=True, text=True, check=True
    )
    assert fresh.stdout.splitlines()[:-1] == here.splitlines()


def test_a_pool_takes_the_file(run, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    export(run, "int8", path, None)
    pool = f"--pool={tmp_path / 'pool'}"
    assert main(["pool", "add", str(path), "--name=digits", pool]) == 0
    assert "digits" in capsys.readouterr().out
    in_pool = dpet_jax.load_run(tmp_path / "pool" / "digits.safetensors")
    for a, b in zip(leaves(in_pool), leaves(dpet_jax.load_run(path)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_exported_is_refused_in_a_sentence(run, tmp_path):
    with pytest.raises(UserError, match=r"--out: .*model\.bin: .*\.safetensors"):
        export(run, "f32", tmp_path / "model.bin", None)
    with pytest.raises(UserError, match="holds no run"):
        export(tmp_path, "f32", tmp_path / "model.safetensors", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(run, "f32", tmp_path / "file" / "model.safetensors", None)
    assert not (tmp_path / "model.safetensors").exists()
    broken = tmp_path / "broken.safetensors"
    export(run, "int8", broken, None)
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(UserError, match="is no whole safetensors file"):
        dpet_jax.load_run(broken)
