import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpet_jax.data import prepare
from dpet_jax.data.sources import Parquet

CLASS_NAMES = ("cat", "dog", "owl")


def hub_table(blobs, labels, image="img", label="label", class_names=CLASS_NAMES):
    """A table as the `datasets` library writes it."""
    pictures = [blob and {"bytes": blob, "path": None} for blob in blobs]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(pictures, kind), label: pa.array(labels)})
    if class_names is None:
        return table
    features = {
        image: {"_type": "Image"},
        label: {"_type": "ClassLabel", "names": list(class_names)},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return table.replace_schema_metadata(metadata)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 6, 4, 3), dtype=np.uint8)


@pytest.fixture
def write(tmp_path, images, as_picture):
    """Write a set of 6 training rows in two files and 3 test rows, some changed."""

    def write(replace=(), **names):
        blobs = [as_picture(image) for image in images]
        labels = [0, 1, 2, 2, 1, 0, 1, 2, 0]
        for row, blob, label in replace:
            blobs[row], labels[row] = blob, label
        folder = tmp_path / "zoo"
        folder.mkdir()
        for file, rows in (
            ("train-00000-of-00002", slice(0, 4)),
            ("train-00001-of-00002", slice(4, 6)),
            ("test-00000-of-00001", slice(6, 9)),
        ):
            table = hub_table(blobs[rows], labels[rows], **names)
            pq.write_table(table, folder / f"{file}.parquet")
        return folder

    return write


def test_files_of_a_split_are_joined_in_name_order(write, images):
    source = Parquet(path=write()).read()
    assert source.name == "zoo"
    assert source.class_names == CLASS_NAMES
    np.testing.assert_array_equal(source.train.images, images[:6])
    np.testing.assert_array_equal(source.test.images, images[6:])
    assert source.train.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert source.test.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize("image", ["image", "photo"])
@pytest.mark.parametrize("label", ["fine_label", "labels"])
def test_usual_columns_are_found(write, images, image, label):
    source = Parquet(path=write(image=image, label=label)).read()
    np.testing.assert_array_equal(source.train.images, images[:6])
    assert source.class_names == CLASS_NAMES


def test_unusual_columns_can_be_named(write):
    folder = write(image="a", label="kind")
    source = Parquet(path=folder, image_column="a", label_column="kind").read()
    assert source.train.labels.tolist() == [0, 1, 2, 2, 1, 0]


def test_without_metadata_classes_are_numbered(write):
    source = Parquet(path=write(class_names=None)).read()
    assert source.class_names == ("0", "1", "2")


def test_image_size_resizes_pictures_of_any_size(write, as_picture):
    odd = as_picture(np.full((30, 20, 3), 9, np.uint8))
    source = Parquet(path=write([(4, odd, 1)]), image_size=2).read()
    assert source.train.images.shape == (6, 2, 2, 3)
    assert (source.train.images[4] == 9).all()


def test_cropping_leaves_the_ends_of_long_pictures_out(write, as_picture):
    high = np.zeros((30, 10, 3), np.uint8)
    high[10:20] = 9
    path = write([(4, as_picture(high), 1)])
    source = Parquet(path=path, image_size=2, resize="crop").read()
    assert (source.train.images[4] == 9).all()


BAD_ROWS = {
    "undecodable": (
        [(5, b"no picture", 0)],
        {},
        [
            "train-00001-of-00002.parquet row 1",
            "cannot be decoded",
            "Replace or remove",
        ],
    ),
    "no bytes": (
        [(2, None, 2)],
        {},
        ["train-00000-of-00002.parquet row 2", "'img' is empty", "Correct or remove"],
    ),
    "no label": (
        [(7, b"", None)],
        {},
        ["test-00000-of-00001.parquet row 1", "'label' is empty", "Correct or remove"],
    ),
    "label -1": (
        [(8, b"", -1)],
        {},
        [
            "test-00000-of-00001.parquet, column 'label' row 2",
            "-1",
            "correct or remove",
        ],
    ),
    "label above the names": (
        [(4, b"", 3)],
        {},
        ["train-00001-of-00002.parquet, column 'label' row 0", "label 3", "below 3"],
    ),
    "test label never trained": (
        [(6, None, 5)],
        {"class_names": None},
        ["zoo test split row 0", "label 5", "below 3"],
    ),
    "class never trained": (
        [(0, None, 1), (5, None, 1)],
        {},
        ["zoo train split", "class 0 (cat)", "add examples"],
    ),
    "text labels": (
        [(row, None, "x") for row in range(9)],
        {},
        ["column 'label' is string", "data.label_column"],
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named_with_file_row_value_and_remedy(
    write, images, as_picture, refused, case
):
    replace, names, parts = BAD_ROWS[case]
    if case != "no bytes":  # None or nothing stands for the picture as it was
        replace = [(r, b or as_picture(images[r]), label) for r, b, label in replace]
    folder = write(replace, **names)
    message = refused(Parquet(path=folder).read)
    for part in (str(folder), *parts):
        assert part in message


def rewrite(folder, name, class_names, labels=(1, 2, 0)):
    """Give a file of three rows other class names and labels."""
    table = pq.read_table(folder / f"{name}.parquet")
    blobs = [struct["bytes"] for struct in table.column("img").to_pylist()]
    pq.write_table(
        hub_table(blobs, list(labels), class_names=class_names),
        folder / f"{name}.parquet",
    )


def test_class_names_in_another_order_are_mapped_by_name(write):
    """The test shard numbers owl, cat, dog; both are right within their file."""
    folder = write()
    rewrite(folder, "test-00000-of-00001", ("owl", "cat", "dog"), (2, 0, 1))
    source = Parquet(path=folder).read()
    assert source.class_names == CLASS_NAMES
    assert source.test.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("cat", "dog", "emu"), "emu, owl"),
        (("cat", "dog", "owl", "emu"), "emu"),
        (("cat", "dog", "dog"), "owl"),
    ],
)
def test_files_with_other_classes_are_refused_both_by_name(write, refused, names, part):
    folder = write()
    rewrite(folder, "test-00000-of-00001", names)
    message = refused(Parquet(path=folder).read)
    for expected in ("train-00000-of-00002", "test-00000-of-00001", part, "Export"):
        assert expected in message


def shards(folder, *names):
    """Leave the training split in files of these names, each with all its classes."""
    first = folder / "train-00000-of-00002.parquet"
    content = first.read_bytes()
    for file in folder.glob("train*"):
        file.unlink()
    for name in names:
        (folder / f"{name}.parquet").write_bytes(content)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train-00000-of-00002"], ["1 of 2 files", "train-00001-of-00002", "again"]),
        (
            ["train-00001-of-00009", "train-00004-of-00009"],
            ["2 of 9 files", "train-00000-of-00009", "and more"],
        ),
        (
            ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
            ["several exports", "train-00000-of-00001", "train-00000-of-00002"],
        ),
        (
            ["train-00000-of-00001", "train-more"],
            ["several exports", "train-more.parquet"],
        ),
        (
            ["train-00000-of-00001-0123abcd", "train-00000-of-00001-4567cdef"],
            ["0123abcd.parquet and train", "the same shard", "remove one"],
        ),
        (["train-00001-of-00001"], ["train-00000-of-00001"]),
        (
            ["train-00000-of-00001", "train-00001-of-00001"],
            ["2 of 1 files", "impossible numbers"],
        ),
    ],
)
def test_files_that_say_that_others_are_missing_are_not_read_alone(
    write, refused, names, parts
):
    folder = write()
    shards(folder, *names)
    message = refused(Parquet(path=folder).read)
    for part in (str(folder), *parts):
        assert part in message


@pytest.mark.parametrize(
    "names",
    [
        ["train-0", "train-1"],
        ["train-00000-of-00002-0123abcd", "train-00001-of-00002-4567cdef"],
    ],
)
def test_files_of_other_names_are_joined_as_before(write, names):
    folder = write()
    shards(folder, *names)
    assert Parquet(path=folder).read().train.labels.tolist() == [0, 1, 2, 2] * 2


def test_one_file_a_split_and_a_column_of_plain_bytes(tmp_path, images, as_picture):
    for kind in (pa.binary(), pa.large_binary()):
        for split, rows in (("train", slice(0, 6)), ("test", slice(6, 9))):
            blobs = pa.array([as_picture(image) for image in images[rows]], kind)
            labels = [0, 1, 2, 2, 1, 0, 1, 2, 0][rows]
            table = pa.table({"photo": blobs, "label": labels, "id": labels})
            pq.write_table(table, tmp_path / f"{split}.parquet")
        source = Parquet(path=tmp_path).read()
        np.testing.assert_array_equal(source.train.images, images[:6])
        np.testing.assert_array_equal(source.test.images, images[6:])
        assert source.test.labels.tolist() == [1, 2, 0]


def test_bytes_that_are_no_pictures_are_named(tmp_path, refused):
    table = pa.table({"raw": [b"\0" * 192, b"\1" * 192], "label": [0, 1]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    message = refused(Parquet(path=tmp_path).read)
    for part in ("train.parquet row 0", "192 bytes", "cannot be decoded"):
        assert part in message


def test_one_file_beside_shards_is_refused(write, refused):
    folder = write()
    shards(folder, "train", "train-00000-of-00001")
    message = refused(Parquet(path=folder).read)
    for part in ("train-00000-of-00001.parquet beside train.parquet", "leave one"):
        assert part in message


def test_splits_of_other_names_and_one_to_validate_on(write, images, refused, caplog):
    folder = write()
    (folder / "test-00000-of-00001.parquet").rename(folder / "validation.parquet")
    message = refused(Parquet(path=folder).read)
    for part in ("no file test.parquet", "validation.parquet", "data.test_split"):
        assert part in message
    source = Parquet(path=folder, test_split="validation").read()
    np.testing.assert_array_equal(source.test.images, images[6:])
    assert source.validation is None

    shutil.copy(folder / "validation.parquet", folder / "final.parquet")
    caplog.clear()
    source = Parquet(path=folder, test_split="final").read()
    (record,) = caplog.records
    for part in ("left out", "1 (validation.parquet)", "data.validation_split"):
        assert part in record.getMessage()
    caplog.clear()
    section = Parquet(path=folder, test_split="final", validation_split="validation")
    data = prepare(section.read(), section)
    assert (data.num_train, data.num_validation, data.num_test) == (6, 3, 3)
    assert data.labels[data.validation_rows].tolist() == [1, 2, 0]
    assert not caplog.records


def test_a_split_that_serves_twice_is_refused(write, refused):
    message = refused(Parquet(path=write(), test_split="train").read)
    assert "data.train_split and data.test_split are both 'train'" in message


def test_a_pipe_among_the_files_is_refused_at_once(write, refused):
    folder = write()
    os.mkfifo(folder / "train-00002-of-00003.parquet")
    assert "train-00002-of-00003.parquet: is no regular" in refused(
        Parquet(path=folder).read
    )


def test_metadata_without_an_end_is_none(write):
    folder = write()
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file)
        deep = {"huggingface": "[" * 100_000}
        pq.write_table(table.replace_schema_metadata(deep), file)
    assert Parquet(path=folder).read().class_names == ("0", "1", "2")


def test_classes_of_one_name_are_told_apart(write):
    folder = write(class_names=("crane", "owl", "crane"))
    source = Parquet(path=folder).read()
    assert source.class_names == ("crane (0)", "owl", "crane (2)")


def test_mixed_sizes_name_the_row_and_the_remedy(write, as_picture, refused):
    odd = as_picture(np.zeros((5, 4, 3), np.uint8))
    message = refused(Parquet(path=write([(4, odd, 1)])).read)
    for part in (
        "train-00001-of-00002.parquet row 0",
        "5 x 4",
        "6 x 4",
        "image_size=N",
    ):
        assert part in message


def test_missing_columns_list_those_present(write, refused):
    folder = write(image="photo", label="kind")
    message = refused(Parquet(path=folder).read)
    for part in ("no column label", "photo, kind", "data.label_column", ".parquet"):
        assert part in message
    message = refused(
        Parquet(path=folder, image_column="pic", label_column="kind").read
    )
    for part in ("no column 'pic'", "photo, kind", "data.image_column"):
        assert part in message
    message = refused(
        Parquet(path=folder, image_column="kind", label_column="kind").read
    )
    for part in ("'kind' is int64", "bytes", "data.image_column"):
        assert part in message


def test_a_choice_between_two_picture_columns_is_left_to_the_user(
    tmp_path, as_picture, refused
):
    blob = {"bytes": as_picture(np.zeros((2, 2), np.uint8)), "path": ""}
    table = pa.table({"left": [blob] * 2, "right": [blob] * 2, "label": [0, 1]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}-0.parquet")
    message = refused(Parquet(path=tmp_path).read)
    for part in ("more than one", "left, right, label", "data.image_column"):
        assert part in message
    assert Parquet(path=tmp_path, image_column="left").read().train.labels.tolist() == [
        0,
        1,
    ]


def test_missing_folders_and_splits_say_where_to_look(write, tmp_path, refused):
    message = refused(Parquet(path=tmp_path / "nowhere").read)
    assert f"{tmp_path / 'nowhere'}: no such folder" in message
    assert "data.path" in message
    folder = write()
    message = refused(Parquet(path=tmp_path).read)
    assert "no file train.parquet or train-*.parquet" in message
    assert str(folder) in message
    (folder / "test-00000-of-00001.parquet").unlink()
    message = refused(Parquet(path=folder).read)
    assert f"{folder}: no file test.parquet or test-*.parquet" in message
    assert "train-00000-of-00002.parquet" in message


def test_damaged_and_empty_files_are_named(write, refused):
    folder = write()
    file = folder / "test-00000-of-00001.parquet"
    good = file.read_bytes()
    for content in (b"", b"hello", good[:300] + good[-300:]):
        file.write_bytes(content)
        message = refused(Parquet(path=folder).read)
        assert f"{file}: cannot be read as parquet" in message
    pq.write_table(hub_table([], pa.array([], pa.int64())), file)
    assert f"{folder} test: no rows" in refused(Parquet(path=folder).read)


@pytest.mark.slow
@pytest.mark.skipif(
    "DPET_CIFAR10_JPEG" not in os.environ,
    reason="set DPET_CIFAR10_JPEG to a folder of CIFAR-10 as parquet",
)
def test_the_real_cifar10_is_read_whole():
    source = Parquet(path=os.environ["DPET_CIFAR10_JPEG"]).read()
    assert source.class_names[3] == "cat"
    assert np.bincount(source.train.labels).tolist() == [5000] * 10
    assert np.bincount(source.test.labels).tolist() == [1000] * 10
    swapped = source._replace(train=source.test)
    data = prepare(swapped, Parquet(path=".", validation_fraction=0))
    assert data.image_shape == (32, 32, 3)
    np.testing.assert_allclose(data.mean, (0.494, 0.485, 0.450), atol=6e-4)
    np.testing.assert_allclose(data.std, (0.245, 0.242, 0.261), atol=6e-4)
