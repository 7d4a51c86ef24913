import logging
import os

import numpy as np
import pytest
from PIL import Image

from dpet_jax.data import prepare
from dpet_jax.data.sources import Folder

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 6, 4, 3), dtype=np.uint8)


@pytest.fixture
def write(tmp_path, as_picture, images):
    """Write the pictures of some splits, so many a class; return the folder."""

    def write(**splits):
        rows = iter(range(len(images)))
        root = tmp_path / "zoo"
        for split, count in splits.items():
            for name in CLASSES:
                folder = root / split.strip("_") / name if split != "_" else root / name
                folder.mkdir(parents=True)
                for i in range(count):
                    path = folder / f"{i:03}.png"
                    path.write_bytes(as_picture(images[next(rows)]))
        return root

    return write


def test_splits_are_read_class_by_class_in_the_order_of_names(write, images):
    source = Folder(path=write(train=2, test=1, val=1)).read()
    assert source.name == "zoo"
    assert source.class_names == CLASSES
    np.testing.assert_array_equal(source.train.images, images[:6])
    np.testing.assert_array_equal(source.test.images, images[6:9])
    np.testing.assert_array_equal(source.validation.images, images[9:])
    assert source.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.test.labels.tolist() == source.validation.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_other_names_of_a_validation_split_are_known(write, name):
    source = Folder(path=write(train=2, test=1, **{name: 1})).read()
    assert source.validation.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("nested", [True, False])
def test_a_test_split_is_drawn_from_class_folders_where_there_is_none(
    write, images, nested
):
    root = write(**{"train" if nested else "_": 4})
    draws = []
    for seed in (0, 0, 1):
        section = Folder(path=root, test_fraction=0.5, split_seed=seed)
        source = section.read()
        assert source.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        together = np.concatenate([source.train.images, source.test.images])
        assert sorted(map(bytes, together)) == sorted(map(bytes, images))
        draws.append(source.test.images.tobytes())
        halves = Folder(path=root, test_fraction=0.5, validation_fraction=0.5)
        assert prepare(halves.read(), halves).num_validation == 3
    assert draws[0] == draws[1] != draws[2]


def test_a_class_may_be_called_like_a_split(tmp_path, as_picture, images):
    for i, name in enumerate(["bus", "test", "train"] * 2):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{i}.png").write_bytes(as_picture(images[i]))
    source = Folder(path=tmp_path, test_fraction=0.5).read()
    assert source.class_names == ("bus", "test", "train")


def test_whatever_pillow_reads_comes_to_common_channels(tmp_path, images):
    """Grey, palette, alpha, two bits, an animation; sizes differ."""
    picture = Image.fromarray(images[0])
    other = Image.fromarray(255 - images[0])
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
    a, b = tmp_path / "train" / "a", tmp_path / "train" / "b"
    picture.save(a / "0.tif")
    picture.save(a / "1.BMP")
    picture.save(a / "2.webp", lossless=True)
    picture.convert("RGBA").save(a / "3.png")
    picture.convert("L").save(a / "4.png")
    picture.save(a / "5", "ppm")
    greys = [Image.fromarray(np.full((6, 4), level, np.uint8)) for level in (40, 80)]
    greys[0].save(b / "0.gif", save_all=True, append_images=greys[1:])
    exif = Image.Exif()
    exif[0x0112] = 6  # held with its right side up: to be turned clockwise
    other.rotate(90, expand=True).save(b / "1.png", exif=exif)
    for name in ("a", "b"):  # all grey in one split, colours in the other
        greys[0].convert("1").save(tmp_path / "test" / name / "0.png")
    source = Folder(path=tmp_path).read()
    read = source.train.images
    assert read.shape == (8, 6, 4, 3)
    for row in (0, 1, 2, 3, 5):
        np.testing.assert_array_equal(read[row], images[0])
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(read[4], np.repeat(grey[..., None], 3, 2))
    assert (read[6] == 40).all()
    np.testing.assert_array_equal(read[7], 255 - images[0])
    assert source.test.images.shape == (2, 6, 4, 3)


def test_image_size_brings_all_pictures_to_one_size(write, as_picture):
    root = write(train=2, test=1)
    odd = as_picture(np.full((30, 20), 9, np.uint8))
    (root / "test" / "owl" / "000.png").write_bytes(odd)
    source = Folder(path=root, image_size=2).read()
    assert source.train.images.shape == (6, 2, 2, 3)
    assert (source.test.images[2] == 9).all()


def test_cropping_leaves_the_ends_of_long_pictures_out(write, as_picture):
    root = write(train=2, test=1)
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 9
    (root / "test" / "owl" / "000.png").write_bytes(as_picture(wide))
    source = Folder(path=root, image_size=2, resize="crop").read()
    assert (source.test.images[2] == 9).all()


def test_hidden_files_and_links_to_folders(write, caplog):
    root = write(train=2, test=1)
    for place in (root, root / "train", root / "train" / "cat"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
            (place / name).write_bytes(b"x")
        (place / "__MACOSX").mkdir()
    (root / "train" / "owl").rename(root.parent / "owls")
    (root / "train" / "owl").symlink_to(root.parent / "owls")
    with caplog.at_level(logging.WARNING):
        assert len(Folder(path=root).read().train.labels) == 6
    assert caplog.messages == []


def test_files_in_no_class_folder_are_left_out_with_a_warning(write, caplog):
    root = write(train=2, test=1)
    (root / "README.md").write_text("hello")
    (root / "train" / "labels.csv").write_text("a,b")
    (root / "LICENSE").write_text("mine")
    Folder(path=root).read()
    (message,) = caplog.messages
    for part in (str(root), "3 (train/labels.csv, LICENSE, README.md)"):
        assert part in message
    for part in (".csv: 1", ".md: 1", "no extension: 1"):
        assert part in message


def touch(path, content=b"no picture"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def remove(folder):
    for file in folder.iterdir():
        file.unlink()


def one_class(root):
    for split in ("train", "test"):
        for name in ("dog", "owl"):
            remove(root / split / name)
            (root / split / name).rmdir()


def small(root, as_picture):
    touch(root / "train" / "cat" / "001.png", as_picture(np.zeros((5, 9), np.uint8)))


PROBLEMS = {
    "a file that is no picture": (
        lambda root, _: touch(root / "test" / "owl" / "notes.txt"),
        ["test/owl/notes.txt", "cannot be decoded", "no picture format", "remove"],
    ),
    "an empty file": (
        lambda root, _: touch(root / "train" / "cat" / "a.png", b""),
        ["train/cat/a.png", "0 bytes"],
    ),
    "a broken link": (
        lambda root, _: (root / "train" / "cat" / "a.png").symlink_to("nowhere"),
        ["train/cat/a.png", "No such file"],
    ),
    "a pipe": (
        lambda root, _: os.mkfifo(root / "train" / "cat" / "a.png"),
        ["train/cat/a.png", "no regular file"],
    ),
    "several sizes": (
        small,
        ["train/cat/001.png: 5 x 9 pixels", "is 6 x 4", "--data.image_size=N"],
    ),
    "one class": (
        lambda root, _: one_class(root),
        ["/train: one class only, cat", "two class folders"],
    ),
    "a class without test pictures": (
        lambda root, _: remove(root / "test" / "dog"),
        ["/test: no pictures of class dog", "remove the folders"],
    ),
    "a class without training pictures": (
        lambda root, _: remove(root / "train" / "dog"),
        ["/train: no pictures of class dog"],
    ),
    "a class that is not trained": (
        lambda root, _: touch(root / "test" / "Cat" / "0.png"),
        ["/test: class Cat without a folder in", "correct the name"],
    ),
    "no class folders to test on": (
        lambda root, _: [(remove(f), f.rmdir()) for f in (root / "test").iterdir()],
        ["/test: no pictures of class cat, dog, owl"],
    ),
    "pictures beside class folders": (
        lambda root, picture: touch(root / "test" / "x.png", picture(np.eye(3) > 0)),
        ["pictures in no class folder: 1 (test/x.png)", "move them"],
    ),
    "pictures beside the splits": (
        lambda root, picture: touch(root / "x.png", picture(np.eye(3) > 0)),
        ["pictures in no class folder: 1 (x.png)"],
    ),
    "folders beside the splits": (
        lambda root, _: touch(root / "extra" / "0.png"),
        ["folders beside the splits: 1 (extra)", "validation, val, valid"],
    ),
    "two validation splits": (
        lambda root, _: [(root / name / "cat").mkdir(parents=True) for name in V],
        ["folders beside the splits: 1 (val)", "there may be one"],
    ),
    "folders inside class folders": (
        lambda root, _: touch(root / "train" / "cat" / "more" / "0.png"),
        ["folders inside class folders: 1 (train/cat/more)"],
    ),
}
V = ("val", "validation")


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong_with_a_folder_is_named_with_the_remedy(
    write, as_picture, refused, case
):
    change, parts = PROBLEMS[case]
    root = write(train=2, test=1)
    change(root, as_picture)
    message = refused(Folder(path=root).read)
    for part in (str(root), *parts):
        assert part in message


def test_all_that_is_wrong_stands_in_one_message(write, as_picture, refused):
    root = write(train=2, test=1)
    for case in (
        "a file that is no picture",
        "several sizes",
        "a class without test pictures",
        "folders beside the splits",
    ):
        PROBLEMS[case][0](root, as_picture)
    for i in range(7):
        touch(root / "train" / "owl" / f"z{i}.txt")
    message = refused(Folder(path=root, test_fraction=0.5).read)
    for part in (
        "no pictures of class dog",
        "folders beside the splits: 1 (extra)",
        "data.test_fraction is 0.5, but",
        "train/owl/z4.txt",
        "and 3 more like these",
        "5 x 9 pixels",
    ):
        assert part in message


def test_folders_of_another_layout_say_where_pictures_belong(
    write, tmp_path, as_picture, refused
):
    message = refused(Folder(path=tmp_path / "nowhere").read)
    for part in (
        f"{tmp_path / 'nowhere'}: no such folder",
        "data.path",
        "train/<class>",
    ):
        assert part in message
    (tmp_path / "flat").mkdir()
    message = refused(Folder(path=tmp_path / "flat").read)
    assert "no class folders; it holds 0 ()" in message
    for name in ("train", "test"):
        touch(tmp_path / "flat" / name / "0.png", as_picture(np.zeros((2, 2), bool)))
    message = refused(Folder(path=tmp_path / "flat", test_fraction=0.5).read)
    assert f"no class folders in {tmp_path / 'flat' / 'train'}" in message
    root = write(test=1)
    message = refused(Folder(path=root).read)
    for part in (f"no class folders in {root / 'train'}", "there are test"):
        assert part in message


@pytest.mark.parametrize("split", ["train", "_"])
def test_without_a_test_split_a_share_is_asked_for(write, refused, split):
    message = refused(Folder(path=write(**{split: 4})).read)
    for part in ("no test split", "data.test_fraction", "0.2"):
        assert part in message


def test_a_share_that_a_class_is_too_small_for_draws_one_of_it(write, tmp_path, caplog):
    source = Folder(path=write(_=4), test_fraction=0.1).read()
    assert np.bincount(source.test.labels).tolist() == [1, 1, 1]
    named = "such as class dog with 4 examples"
    for part in ("data.test_fraction is 0.1", named, "from 0.25 to 0.75"):
        assert part in caplog.text
    # and so does the share to validate on
    section = Folder(path=tmp_path / "zoo", test_fraction=0.25, validation_fraction=0.1)
    prepare(section.read(), section)
    assert "such as class dog with 3 examples" in caplog.messages[-1]


def test_the_parent_of_a_data_set_is_no_data_set(write, refused):
    root = write(train=2, test=1)
    message = refused(Folder(path=root.parent, test_fraction=0.5).read)
    assert "folders inside class folders: 2 (zoo/test, zoo/train)" in message


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3])
def test_a_validation_split_of_its_own_is_used_whole(write, images, refused, fraction):
    section = Folder(path=write(train=2, test=1, val=1), validation_fraction=fraction)
    if fraction == 0.3:
        message = refused(prepare, section.read(), section)
        for part in ("data.validation_fraction is 0.3", "zoo", "leave the key away"):
            assert part in message
        return
    data = prepare(section.read(), section)
    expected = images[9:] if fraction else images[:0]
    np.testing.assert_array_equal(data.images[data.validation_rows], expected)
    np.testing.assert_array_equal(data.images[data.train_rows], images[:6])
    np.testing.assert_array_equal(data.images[data.test_rows], images[6:9])
    assert data.source_rows[: data.num_train].tolist() == list(range(6))
