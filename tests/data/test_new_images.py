import os

import numpy as np
import pytest
from PIL import Image

from dpet_jax.data.new_images import read_new_images
from dpet_jax.errors import UserError

NAMES = ("cat", "dog")


def pictures(folder, side=8, mode="RGB"):
    for index, name in enumerate(("a.png", "b.png")):
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((side, side, 3), 40 * (index + 1), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name)


def test_a_folder_of_pictures_has_no_labels(tmp_path):
    pictures(tmp_path / "new")
    new = read_new_images(tmp_path / "new", (8, 8, 3), NAMES)
    assert new.names == ["a.png", "b.png"]
    assert new.labels is None
    assert new.images[:, 0, 0, 0].tolist() == [40, 80]


def test_class_folders_are_labels(tmp_path):
    pictures(tmp_path / "dog")
    pictures(tmp_path / "cat")
    new = read_new_images(tmp_path, (8, 8, 3), NAMES)
    assert new.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_brought_to_the_models_shape(tmp_path, mode):
    pictures(tmp_path, side=32, mode=mode)
    assert read_new_images(tmp_path, (8, 8, 3), NAMES).images.shape == (2, 8, 8, 3)


def test_pictures_are_cropped_as_those_trained_on_were(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 9
    Image.fromarray(pixels).save(tmp_path / "a.png")
    given = tmp_path, (4, 4, 3), NAMES
    assert (read_new_images(*given, "crop").images == 9).all()
    assert not read_new_images(*given).images.all()


def test_an_npz_may_hold_labels(tmp_path):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[1, 0])
    assert read_new_images(tmp_path / "a.npz", (8, 8, 3), NAMES).labels.tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": [1]}, "has no array 'images'; it holds pictures"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": [0, 2]}, "label 2"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": [0]}, "2 images but 1"),
        ({"images": np.full((1, 8, 8, 3), np.nan)}, "nan"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=r"a\.npz") as error:
        read_new_images(tmp_path / "a.npz", (8, 8, 3), NAMES)
    assert message.lower() in str(error.value).lower()


def test_colour_does_not_fit_a_grey_model(tmp_path):
    pictures(tmp_path)
    with pytest.raises(
        UserError, match=r"do not fit the model, which takes \(8, 8, 1\)"
    ):
        read_new_images(tmp_path, (8, 8, 1), NAMES)


@pytest.mark.parametrize("name", ["missing", "missing.npz", "text.txt"])
def test_something_to_read_must_be_there(tmp_path, name):
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(UserError, match=r"neither an \.npz file nor a folder"):
        read_new_images(tmp_path / name, (8, 8, 3), NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        read_new_images(tmp_path / "empty", (8, 8, 3), NAMES)


def test_no_file_is_skipped(tmp_path, refused):
    """Whatever Pillow reads is read; what it does not read is an error."""
    pictures(tmp_path / "cat")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "cat" / "c.tif")
    new = read_new_images(tmp_path, (8, 8, 3), NAMES)
    assert new.names == ["cat/a.png", "cat/b.png", "cat/c.tif"]
    assert new.images[:, 0, 0, 0].tolist() == [40, 80, 9]
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    message = refused(read_new_images, tmp_path, (8, 8, 3), NAMES)
    assert f"{tmp_path}/cat/notes.txt: the image cannot be decoded" in message


def test_a_model_may_take_images_that_are_no_squares(tmp_path):
    pictures(tmp_path, side=30)
    assert read_new_images(tmp_path, (12, 20, 3), NAMES).images.shape == (2, 12, 20, 3)


def test_folders_of_other_names_are_no_labels_and_that_is_said(tmp_path, caplog):
    pictures(tmp_path / "2024")
    pictures(tmp_path / "2025")
    assert read_new_images(tmp_path, (8, 8, 3), NAMES).labels is None
    (message,) = caplog.messages
    for part in ("accuracy unknown", "2024, 2025", "cat, dog"):
        assert part in message


@pytest.mark.parametrize(
    ("beside", "names", "part"),
    [
        ("horse", NAMES, "the model has no class horse"),
        (".", NAMES, "pictures in no class folder: 2 (a.png, b.png)"),
        ("dog/deep", NAMES, "folders inside folders: 1 (dog/deep)"),
        ("dog", ("cat", "dog", "dog"), "several classes called dog"),
    ],
)
def test_labels_that_are_known_in_part_are_refused(
    tmp_path, refused, beside, names, part
):
    pictures(tmp_path / "cat")
    pictures(tmp_path / beside)
    message = refused(read_new_images, tmp_path, (8, 8, 3), names)
    assert f"--data: {tmp_path}: " in message
    assert part in message


def test_paths_that_cannot_be_read_are_refused_at_once(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("pipe.npz", "x" * 300, "a\0b", "/dev/zero"):
        message = refused(read_new_images, tmp_path / name, (4, 4, 1), ("a", "b"))
        assert "neither an .npz file nor a folder" in message
