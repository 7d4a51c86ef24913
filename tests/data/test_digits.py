import numpy as np
from sklearn.datasets import load_digits

from dpet_jax.data.sources import digits


def test_digits_are_all_there_once_and_scaled_to_the_full_range():
    source = digits.read()
    raw = load_digits()
    expected = np.rint(raw.images / 16 * 255).astype(np.uint8)
    images = np.concatenate([source.train.images, source.test.images])[..., 0]
    labels = np.concatenate([source.train.labels, source.test.labels])
    assert images.max() == 255
    rows = sorted(
        (image.tobytes(), int(k)) for image, k in zip(images, labels, strict=True)
    )
    assert rows == sorted(
        (image.tobytes(), int(k)) for image, k in zip(expected, raw.target, strict=True)
    )


def test_the_test_split_is_fixed_and_stratified():
    first, second = digits.read(), digits.read()
    assert len(first.test.labels) == 180
    assert len(first.train.labels) == 1617
    shares = np.bincount(load_digits().target) * 180 / 1797
    assert (np.abs(np.bincount(first.test.labels) - shares) < 1).all()
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_digits_are_named():
    source = digits.read()
    assert source.name == "digits"
    assert source.class_names == tuple("0123456789")
    assert source.train.images.shape[1:] == (8, 8, 1)
