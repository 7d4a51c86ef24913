import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from pydantic import ValidationError
from tensorflow_datasets.core import registered

from dpet_jax.data import prepare, stored
from dpet_jax.data.sources import Tfds


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


@pytest.fixture
def prepared(tmp_path, toy_rows):
    """The folder of a prepared set, and its pixels."""
    greys, rows = toy_rows
    return write_tfds(tmp_path / "data", toy_features(), rows), greys


def test_a_prepared_set_comes_back_bit_equal(prepared):
    path, greys = prepared
    source = Tfds(path=path, name="toy").read()
    assert source.name == "toy"
    assert source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(source.train.images[..., 0], greys[:4])
    np.testing.assert_array_equal(source.test.images[..., 0], greys[4:])
    assert source.train.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("placement", ["host", "stream"])
def test_records_that_are_read_later_are_those_of_now(
    prepared, tmp_path, monkeypatch, placement
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "with_grain", lambda: None)
    path, greys = prepared
    section = Tfds(path=path, name="toy", placement=placement, validation_fraction=0)
    for _ in range(2):
        data = prepare(stored.read_source(section), section)
        np.testing.assert_array_equal(np.asarray(data.images)[..., 0], greys)
        assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    kept = len(list(stored.rows_folder().iterdir()))
    (path / "another").mkdir()
    (path / "another" / "file").write_text("of another set")
    stored.read_source(section)
    assert len(list(stored.rows_folder().iterdir())) == kept == 1


def test_reading_loads_neither_tensorflow_nor_jax(prepared):
    code = f"""
import sys
from dpet_jax.data import prepare
from dpet_jax.data.sources import Tfds
section = Tfds(path={str(prepared[0])!r}, name="toy", validation_fraction=0)
prepare(section.read(), section)
print(sorted({{"tensorflow", "jax", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_names_with_a_version_and_slices_of_splits_work(prepared):
    path, greys = prepared
    source = Tfds(path=path, name="toy:1.0.0", train_split="train[:50%]").read()
    assert source.name == "toy"
    np.testing.assert_array_equal(source.train.images[..., 0], greys[:2])


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
    source = Tfds(name="toy", path=write_tfds(tmp_path, features, rows)).read()
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
    source = Tfds(name="toy", path=path).read()
    assert source.class_names == ("x", "y")
    assert source.train.labels.tolist() == [1, 0, 1, 0]


def test_the_newest_version_is_read(tmp_path, toy_rows):
    _, rows = toy_rows
    write_tfds(tmp_path, toy_features(), rows, version="9.0.0")
    newer = {"train": rows["train"][:2], "test": rows["test"]}
    write_tfds(tmp_path, toy_features(), newer, version="10.0.0")
    assert len(Tfds(name="toy", path=tmp_path).read().train.labels) == 2
    assert len(Tfds(name="toy:9.0.0", path=tmp_path).read().train.labels) == 4


def test_image_size_resizes_pictures_of_any_size(
    tmp_path, toy_rows, as_picture, refused
):
    _, rows = toy_rows
    high = np.full((30, 20), 9, np.uint8)
    high[:5] = high[-5:] = 99
    rows["train"][2]["image"] = as_picture(high)
    path = write_tfds(tmp_path, toy_features(), rows)
    section = Tfds(name="toy", path=path, image_size=2)
    images = section.read().train.images
    assert images.shape == (4, 2, 2, 1)
    assert (images[2] == 39).all()
    cropped = section.model_copy(update={"resize": "crop"}).read().train.images
    assert (cropped[2] == 9).all()
    message = refused(Tfds(name="toy", path=path).read)
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
    message = refused(Tfds(name=name, path=tmp_path / folder).read)
    assert str(tmp_path / folder) in message
    remedy = "array_record" if name == "mnist" else "--data.kind=cifar --data.path=FILE"
    assert remedy in message


def test_a_missing_version_is_refused(prepared, refused):
    message = refused(Tfds(name="toy:9.9.9", path=prepared[0]).read)
    for part in (str(prepared[0]), "toy:9.9.9", "array_record"):
        assert part in message


def test_another_file_format_is_refused_with_the_remedy(prepared, refused):
    info_file = prepared[0] / "toy" / "1.0.0" / "dataset_info.json"
    info = json.loads(info_file.read_text())
    info_file.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    message = refused(Tfds(name="toy", path=prepared[0]).read)
    for part in (str(info_file.parent), "tfrecord", "array_record", "prepare"):
        assert part in message


@pytest.mark.parametrize("split", ["valid", "valid[:10%]", "train[", "train+valid"])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    prepared, refused, split
):
    message = refused(Tfds(name="toy", path=prepared[0], train_split=split).read)
    for part in (
        "toy/1.0.0",
        repr(split),
        "splits: test, train",
        "data.train_split",
    ):
        assert part in message


def test_an_empty_slice_is_refused(prepared, refused):
    message = refused(Tfds(name="toy", path=prepared[0], test_split="test[:0]").read)
    assert "'test[:0]': no rows" in message


def test_several_configs_are_left_to_the_user(tmp_path, toy_rows, refused):
    _, rows = toy_rows
    write_tfds(tmp_path, toy_features(), rows)
    for config in ("big", "small"):
        (tmp_path / "toy" / config).mkdir()
        (tmp_path / "toy" / "1.0.0").rename(tmp_path / "toy" / config / "1.0.0")
        if config == "big":
            write_tfds(tmp_path, toy_features(), rows)
    message = refused(Tfds(name="toy", path=tmp_path).read)
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
    message = refused(Tfds(name="toy", path=write_tfds(tmp_path, features, rows)).read)
    for part in (str(tmp_path / "toy"), "image: Image", "ClassLabel"):
        assert part in message


def test_damaged_metadata_is_named(prepared, refused):
    (prepared[0] / "toy" / "1.0.0" / "dataset_info.json").write_text("{")
    message = refused(Tfds(name="toy", path=prepared[0]).read)
    for part in ("toy/1.0.0: cannot be read as a prepared TFDS set", "again"):
        assert part in message


def test_a_damaged_record_file_is_named(prepared, refused):
    (file,) = (prepared[0] / "toy" / "1.0.0").glob("*train*")
    file.write_bytes(b"\x00" * file.stat().st_size)
    message = refused(Tfds(name="toy", path=prepared[0]).read)
    for part in ("toy/1.0.0", "'train'", "cannot be read", "prepare the set again"):
        assert part in message


def test_a_class_without_training_examples_is_named(tmp_path, toy_rows, refused):
    _, rows = toy_rows
    rows["train"] = [row for row in rows["train"] if row["label"] == 0]
    message = refused(
        Tfds(name="toy", path=write_tfds(tmp_path, toy_features(), rows)).read
    )
    for part in ("'train'", "class 1 (dog)", "add examples"):
        assert part in message


def test_a_split_to_validate_on_is_named_and_none_serves_twice(prepared, refused):
    path = prepared[0]
    section = Tfds(
        name="toy",
        path=path,
        train_split="train[:50%]",
        validation_split="train[50%:]",
    )
    source = section.read()
    whole = Tfds(name="toy", path=path).read()
    both = [source.train.labels, source.validation.labels]
    np.testing.assert_array_equal(np.concatenate(both), whole.train.labels)
    message = refused(Tfds(name="toy", path=path, test_split="train").read)
    assert "data.train_split and data.test_split are both 'train'" in message


def test_a_pipe_among_the_files_is_refused_at_once(prepared, refused):
    folder = next(prepared[0].glob("**/dataset_info.json")).parent
    os.mkfifo(folder / "toy-pipe")
    try:
        message = refused(Tfds(name="toy", path=prepared[0]).read)
    finally:
        (folder / "toy-pipe").unlink()
    assert "toy-pipe: is no regular file" in message


@pytest.mark.parametrize("name", ["../..", "a/../b", "*", "a:*", "", "/etc", "a[b]"])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(ValidationError):
        Tfds(name=name, path=tmp_path)
