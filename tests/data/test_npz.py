import numpy as np
import pytest

from dpet_jax.data.sources import Npz

KERAS = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
        "test_labels": np.array([[2], [1], [0]], np.uint8),
    }


@pytest.mark.parametrize("keras", [False, True])
def test_arrays_come_back_under_either_set_of_names(tmp_path, arrays, keras):
    names = KERAS if keras else {key: key for key in KERAS}
    path = tmp_path / "things.npz"
    np.savez_compressed(path, extra=1, **{names[key]: a for key, a in arrays.items()})
    source = Npz(path=path).read()
    assert source.name == "things"
    assert source.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(source.train.images, arrays["train_images"])
    np.testing.assert_array_equal(source.test.images, arrays["test_images"])
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.test.labels.tolist() == [2, 1, 0]


def test_float_greys_become_uint8_with_a_channel(tmp_path, arrays):
    for key in ("train_images", "test_images"):
        arrays[key] = arrays[key][..., 0] / 255.0
    np.savez(tmp_path / "a.npz", **arrays)
    images = Npz(path=tmp_path / "a.npz").read().train.images
    assert images.shape == (6, 4, 5, 1)
    np.testing.assert_array_equal(images[..., 0], np.rint(arrays["train_images"] * 255))


def changed(key, value):
    return lambda arrays: arrays | {key: value}


def with_pixel(value):
    def change(arrays):
        images = arrays["test_images"] / 255
        images[1, 0, 0, 2] = value
        return arrays | {"test_images": images}

    return change


BAD_ARRAYS = {
    "missing keys": (
        lambda arrays: {"train_images": arrays["train_images"], "labels": np.zeros(6)},
        [
            "no train_labels, test_images, test_labels",
            "the file has labels, train_images",
            "savez",
        ],
    ),
    "negative label": (
        changed("train_labels", np.array([0, 1, 2, -7, 1, 2])),
        ["train_labels row 3", "-7", "correct or remove"],
    ),
    "fractional label": (
        changed("test_labels", np.array([0, 1.5, 2])),
        ["test_labels row 1", "1.5", "integers"],
    ),
    "test label without training class": (
        changed("test_labels", np.array([0, 3, 2])),
        ["test_labels row 1", "label 3", "below 3"],
    ),
    "class never trained": (
        changed("train_labels", np.array([0, 3, 3, 0, 1, 1])),
        ["train_labels", "class 2", "add examples"],
    ),
    "one-hot labels": (changed("train_labels", np.eye(6)), ["(6, 6)", "one-hot"]),
    "lengths": (
        changed("train_labels", np.array([0, 1, 2])),
        ["train_labels", "6 images but 3 labels"],
    ),
    "empty": (
        changed("train_images", np.zeros((0, 4, 5, 3), np.uint8)),
        ["train_images", "no rows"],
    ),
    "channels first": (
        changed("test_images", np.zeros((3, 3, 4, 5), np.uint8)),
        ["test_images", "(3, 3, 4, 5)", "channel axis"],
    ),
    "other size": (
        changed("test_images", np.zeros((3, 4, 4, 3), np.uint8)),
        ["4 x 4 x 3", "4 x 5 x 3", "--data.image_size=N"],
    ),
    "integer pixels": (
        changed("train_images", np.zeros((6, 4, 5, 3), np.int32)),
        ["train_images", "int32", "uint8"],
    ),
    "nan": (with_pixel(np.nan), ["test_images row 1", "(0, 0, 2) is nan", "correct"]),
    "out of range": (with_pixel(3.0), ["test_images row 1", "is 3.0", "divide by 255"]),
    "objects": (
        changed("train_labels", np.array([0, None], object)),
        ["array of Python objects", "plain arrays of numbers"],
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_named_with_file_key_and_remedy(tmp_path, arrays, refused, case):
    change, parts = BAD_ARRAYS[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **change(arrays))
    message = refused(Npz(path=path).read)
    for part in (str(path), *parts):
        assert part in message


def one_array(arrays, path):
    with path.open("wb") as file:
        np.save(file, arrays["train_images"])


def damaged_npz(arrays, path):
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    content[80:140] = bytes(60)  # inside the first compressed array
    path.write_bytes(content)


BAD_FILES = {
    "missing": (lambda _arrays, _path: None, "no such file"),
    "folder": (lambda _arrays, path: path.mkdir(), "no such file"),
    "text": (lambda _arrays, path: path.write_text("hello"), "is no .npz file"),
    "empty": (lambda _arrays, path: path.write_bytes(b""), "numpy.savez"),
    "damaged": (damaged_npz, "numpy.savez"),
    "one array": (one_array, "is no .npz file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_the_remedy(tmp_path, arrays, refused, case):
    make, part = BAD_FILES[case]
    path = tmp_path / "bad.npz"
    make(arrays, path)
    message = refused(Npz(path=path).read)
    assert str(path) in message
    assert part in message
    assert "allow_pickle" not in message
