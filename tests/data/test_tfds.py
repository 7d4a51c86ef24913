import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets.core import registered

from dpet_jax.data.importers import import_dataset
from dpet_jax.data.sources import tfds


@pytest.fixture
def prepared(make_cifar, tmp_path):
    made = make_cifar("cifar10", "python", packed=True)
    import_dataset("cifar10", made.path, tmp_path / "data")
    return made, tmp_path / "data"


def write_tfds(data_dir, features, rows, version="1.0.0", supervised_keys=None):
    """Prepare a set called `toy` with any features and splits."""
    with registered.skip_registration():

        class Toy(tensorflow_datasets.core.GeneratorBasedBuilder):
            VERSION = tensorflow_datasets.core.Version(version)

            def _info(self):
                return tensorflow_datasets.core.DatasetInfo(
                    builder=self,
                    features=tensorflow_datasets.features.FeaturesDict(features),
                    supervised_keys=supervised_keys,
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {split: enumerate(items) for split, items in rows.items()}

            def _generate_examples(self):
                raise NotImplementedError

    Toy(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


FEATURES = tensorflow_datasets.features


def toy_features(**others):
    return {
        "image": FEATURES.Image(shape=(None, None, 1)),
        "label": FEATURES.ClassLabel(names=["cat", "dog"]),
        **others,
    }


@pytest.fixture
def toy_rows(as_picture):
    greys = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    rows = [
        {"image": as_picture(grey), "label": row % 2} for row, grey in enumerate(greys)
    ]
    return greys, {"train": rows[:4], "test": rows[4:]}


def test_an_imported_set_comes_back_bit_equal(prepared):
    made, data_dir = prepared
    source = tfds.read("cifar10", data_dir)
    assert source.name == "cifar10"
    assert source.class_names == tuple(made.class_names["label"])
    for split, images in (("train", source.train), ("test", source.test)):
        np.testing.assert_array_equal(images.images, made.images[split])
        np.testing.assert_array_equal(images.labels, made.labels[split]["label"])


def test_cifar100_is_labelled_by_its_hundred_classes(make_cifar, tmp_path):
    made = make_cifar("cifar100", "binary")
    import_dataset("cifar100", made.path, tmp_path / "data")
    source = tfds.read("cifar100", tmp_path / "data")
    assert len(source.class_names) == 100
    np.testing.assert_array_equal(source.train.labels, made.labels["train"]["label"])


def test_reading_and_importing_load_neither_tensorflow_nor_jax(prepared, tmp_path):
    made, data_dir = prepared
    code = f"""
import sys
from pathlib import Path
from dpet_jax.data import prepare, importers
from dpet_jax.data.sources import digits, npz, parquet, tfds
prepare(tfds.read("cifar10", {str(data_dir)!r}), validation_fraction=0.0)
importers.import_dataset("cifar10", Path({str(made.path)!r}), Path({str(tmp_path)!r}))
print(sorted({{"tensorflow", "jax", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_names_with_a_version_and_slices_of_splits_work(prepared):
    made, data_dir = prepared
    source = tfds.read("cifar10:3.0.2", data_dir, train_split="train[:80%]")
    assert source.name == "cifar10"
    np.testing.assert_array_equal(source.train.images, made.images["train"][:24])


def test_any_names_and_greys_of_any_set_are_found(tmp_path, toy_rows):
    greys, rows = toy_rows
    rows = {
        split: [{"photo": row["image"], "kind": row["label"]} for row in items]
        for split, items in rows.items()
    }
    features = {
        "photo": FEATURES.Image(shape=(None, None, 1)),
        "kind": FEATURES.ClassLabel(names=["cat", "dog"]),
    }
    source = tfds.read("toy", write_tfds(tmp_path, features, rows))
    np.testing.assert_array_equal(source.train.images[..., 0], greys[:4])
    assert source.class_names == ("cat", "dog")


def test_supervised_keys_decide_between_two_labels(tmp_path, toy_rows):
    _, rows = toy_rows
    rows = {
        split: [row | {"other": 1 - row["label"]} for row in items]
        for split, items in rows.items()
    }
    features = toy_features(other=FEATURES.ClassLabel(names=["x", "y"]))
    path = write_tfds(tmp_path, features, rows, supervised_keys=("image", "other"))
    source = tfds.read("toy", path)
    assert source.class_names == ("x", "y")
    assert source.train.labels.tolist() == [1, 0, 1, 0]


def test_the_newest_version_is_read(tmp_path, toy_rows):
    _, rows = toy_rows
    write_tfds(tmp_path, toy_features(), rows, version="9.0.0")
    newer = {"train": rows["train"][:2], "test": rows["test"]}
    write_tfds(tmp_path, toy_features(), newer, version="10.0.0")
    assert len(tfds.read("toy", tmp_path).train.labels) == 2
    assert len(tfds.read("toy:9.0.0", tmp_path).train.labels) == 4


def test_image_size_resizes_pictures_of_any_size(
    tmp_path, toy_rows, as_picture, refused
):
    _, rows = toy_rows
    rows["train"][2]["image"] = as_picture(np.full((30, 20), 9, np.uint8))
    path = write_tfds(tmp_path, toy_features(), rows)
    images = tfds.read("toy", path, image_size=2).train.images
    assert images.shape == (4, 2, 2, 1)
    assert (images[2] == 9).all()
    message = refused(tfds.read, "toy", path)
    for part in ("'train' row 2", "30 x 20", "5 x 3", "--data.image_size=N"):
        assert part in message


@pytest.mark.timeout(20)  # TFDS itself would try the network for minutes
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
@pytest.mark.parametrize("folder", ["nowhere", "empty", "half"])
def test_a_set_that_is_not_there_is_answered_with_how_to_make_it(
    tmp_path, refused, name, folder
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / name / "3.0.2").mkdir(parents=True)
    message = refused(tfds.read, name, tmp_path / folder)
    assert str(tmp_path / folder) in message
    remedy = (
        "array_record"
        if name == "mnist"
        else f"dpet data import {name} --from PATH --to DIR"
    )
    assert remedy in message


def test_a_missing_version_is_refused(prepared, refused):
    message = refused(tfds.read, "cifar10:9.9.9", prepared[1])
    for part in (str(prepared[1]), "cifar10:9.9.9", "dpet data import cifar10"):
        assert part in message


def test_another_file_format_is_refused_with_the_remedy(prepared, refused):
    info_file = prepared[1] / "cifar10" / "3.0.2" / "dataset_info.json"
    info = json.loads(info_file.read_text())
    info_file.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    message = refused(tfds.read, "cifar10", prepared[1])
    for part in (str(info_file.parent), "tfrecord", "array_record", "dpet data import"):
        assert part in message


@pytest.mark.parametrize("split", ["valid", "valid[:10%]", "train[", "train+valid"])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    prepared, refused, split
):
    message = refused(tfds.read, "cifar10", prepared[1], train_split=split)
    for part in (
        "cifar10/3.0.2",
        repr(split),
        "splits: test, train",
        "data.train_split",
    ):
        assert part in message


def test_an_empty_slice_is_refused(prepared, refused):
    message = refused(tfds.read, "cifar10", prepared[1], test_split="test[:0]")
    assert "'test[:0]': no rows" in message


def test_several_configs_are_left_to_the_user(tmp_path, toy_rows, refused):
    _, rows = toy_rows
    write_tfds(tmp_path, toy_features(), rows)
    for config in ("big", "small"):
        (tmp_path / "toy" / config).mkdir()
        (tmp_path / "toy" / "1.0.0").rename(tmp_path / "toy" / config / "1.0.0")
        if config == "big":
            write_tfds(tmp_path, toy_features(), rows)
    message = refused(tfds.read, "toy", tmp_path)
    for part in (str(tmp_path / "toy"), "big, small", "data.name", "toy/big"):
        assert part in message


def test_sets_that_are_not_image_classification_list_their_features(
    tmp_path, toy_rows, refused
):
    _, rows = toy_rows
    rows = {
        split: [{"image": r["image"]} for r in items] for split, items in rows.items()
    }
    features = {"image": FEATURES.Image(shape=(None, None, 1))}
    message = refused(tfds.read, "toy", write_tfds(tmp_path, features, rows))
    for part in (str(tmp_path / "toy"), "image: Image", "ClassLabel"):
        assert part in message


def test_a_damaged_record_file_is_named(prepared, refused):
    (file,) = (prepared[1] / "cifar10" / "3.0.2").glob("*train*")
    file.write_bytes(b"\x00" * file.stat().st_size)
    message = refused(tfds.read, "cifar10", prepared[1])
    for part in ("cifar10/3.0.2", "'train'", "cannot be read", "prepare the set again"):
        assert part in message


def test_a_class_without_training_examples_is_named(tmp_path, toy_rows, refused):
    _, rows = toy_rows
    rows["train"] = [row for row in rows["train"] if row["label"] == 0]
    message = refused(tfds.read, "toy", write_tfds(tmp_path, toy_features(), rows))
    for part in ("'train'", "class 1 (dog)", "add examples"):
        assert part in message
