"""What all kinds of source have in common, and the smallest of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits

from dpet_jax.config.experiment import Config
from dpet_jax.data import DataSection, ImageSet, Source, prepare
from dpet_jax.data.augment import AugmentConfig
from dpet_jax.data.decode import resize_images
from dpet_jax.data.sources import Cifar, Digits, Folder, Idx, Npz, Parquet, Tfds
from dpet_jax.section import import_path, one_of

ROOT = Path(__file__).parents[2]
HEAVY = ("tensorflow_datasets", "pyarrow", "sklearn", "scipy", "PIL", "jax", "flax")


def test_libraries_of_sources_are_imported_when_they_are_read():
    code = f"""
import pkgutil, sys, importlib
import dpet_jax.data.sources
for module in pkgutil.walk_packages(dpet_jax.data.__path__, "dpet_jax.data."):
    if module.name != "dpet_jax.data.device":  # holds arrays of JAX
        importlib.import_module(module.name)
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_every_kind_is_listed_with_its_own_file():
    kinds = one_of(Config, "data").by_name
    assert set(kinds) == {"digits", "folder", "cifar", "parquet", "npz", "idx", "tfds"}
    files = {path.stem for path in (ROOT / "dpet_jax/data/sources").glob("[!_]*.py")}
    assert files == set(kinds)
    for name, kind in kinds.items():
        assert kind.__module__ == f"dpet_jax.data.sources.{name}"


def test_sources_are_called_by_what_they_name():
    sections = [
        Digits(),
        Folder(path="a/zoo/"),
        Parquet(path="a/b"),
        Npz(path="a/things.npz"),
        Tfds(path="x", name="cifar10:3.0.2"),
        Tfds(path="x", name="toy/big"),
        Cifar(path="x"),
        Idx(path="a/mnist/"),
    ]
    labels = ["digits", "zoo", "b", "things", "cifar10", "toy", "cifar", "mnist"]
    assert [section.label for section in sections] == labels


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
        {"validation_fraction": float("nan")},
        {"train_examples": 0},
        {"train_examples": True},
        {"split_seed": -1},
        {"label_noise": 1.01},
        {"label_noise": -0.5},
    ],
)
def test_settings_out_of_range_are_refused(wrong, settings):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        settings(**wrong)


def test_shares_and_strengths_out_of_range_are_refused():
    for share in (0, 1, -0.5, True):
        with pytest.raises(ValidationError):
            Folder(path="x", test_fraction=share)
    with pytest.raises(ValidationError):
        AugmentConfig(cutout=-1)


class Stripes(DataSection):
    """Two classes of stripes: a source of one's own, by its import path."""

    side: int = 4

    def read(self):
        along = np.zeros((self.side, self.side), np.uint8)
        along[::2] = 255
        images = np.stack([along, along.T] * 10)
        split = ImageSet(images[..., None], np.arange(20, dtype=np.int32) % 2)
        return Source("stripes", split, split, ("along", "across"))


class Lacking(DataSection):
    """A source that forgot to read."""


def test_a_source_of_ones_own_is_named_by_its_import_path():
    keys = {"kind": import_path(Stripes), "validation_fraction": 0.2, "side": 6}
    section = Config.model_validate({"data": keys}).data
    assert section == Stripes(validation_fraction=0.2, side=6)
    data = prepare(section.read(), section)
    assert (data.name, data.num_validation, data.image_shape) == (
        "stripes",
        4,
        (6, 6, 1),
    )
    assert Config(data=section).model_dump()["data"]["kind"] == keys["kind"]
    with pytest.raises(ValidationError, match=r"Lacking' lacks read"):
        Config.model_validate({"data": {"kind": import_path(Lacking)}})


def test_digits_are_all_there_once_and_scaled_to_the_full_range():
    source = Digits().read()
    raw = load_digits()
    expected = np.rint(raw.images / 16 * 255).astype(np.uint8)
    images = np.concatenate([source.train.images, source.test.images])[..., 0]
    labels = np.concatenate([source.train.labels, source.test.labels])
    assert images.max() == 255
    rows = sorted((i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True))
    assert rows == sorted(
        (i.tobytes(), int(k)) for i, k in zip(expected, raw.target, strict=True)
    )
    assert source.name == "digits"
    assert source.class_names == tuple("0123456789")
    assert source.train.images.shape[1:] == (8, 8, 1)


def test_the_test_split_of_the_digits_is_fixed_and_stratified():
    first, second = Digits().read(), Digits(split_seed=3).read()
    assert (len(first.train.labels), len(first.test.labels)) == (1617, 180)
    shares = np.bincount(load_digits().target) * 180 / 1797
    assert (np.abs(np.bincount(first.test.labels) - shares) < 1).all()
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_the_splits_of_earlier_versions_are_drawn_still():
    """Row numbers and a fingerprint that saved coresets and runs refer to."""
    section = Digits(label_noise=0.1, train_examples=1000)
    data = prepare(section.read(), section)
    assert (data.num_train, data.num_validation) == (1000, 162)
    drawn = [int(data.source_rows[:1000].sum()), int(data.source_rows[1000:1162].sum())]
    assert drawn == [815082, 123110]
    assert int(data.noisy_rows.sum()) == 52818
    assert int(data.labels[:1000].sum()) == 4457
    assert data.fingerprint.startswith("2687f9adbb4ce0c39ee04e564a33ba2d354d2018f22447")


@pytest.mark.parametrize("kind", [Cifar, Folder, Idx, Npz, Parquet, Tfds])
def test_paths_that_cannot_be_read_are_refused_at_once(kind, tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("pipe", "loop", "file", "/dev/zero", "/dev/null", "no"):
        section = kind(path=tmp_path / name)
        assert name in refused(section.read)
    for name in ("x" * 256, "a\0b"):
        with pytest.raises(ValidationError):
            kind(path=tmp_path / name)


def test_images_that_no_memory_holds_are_refused(refused):
    section = Digits(image_size=4096)
    source = section.read()
    many = ImageSet(
        np.broadcast_to(source.train.images[:1], (10**8, 8, 8, 1)),
        source.train.labels,
    )
    message = refused(resize_images, many.images, (4096, 4096))
    for part in ("100,000,000 images of 4096 x 4096", "GB", "data.image_size"):
        assert part in message
