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
    with pytest.raises(UserError, match="holds no pictures"):
        read_new_images(tmp_path, (8, 8, 3), NAMES)
