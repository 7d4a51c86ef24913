import hashlib

import numpy as np
import pytest

from dpet_jax.data import Data, ImageSet, Source, prepare


def test_rows_lie_in_the_order_training_validation_test(toy_source):
    data = prepare(toy_source, validation_fraction=0.2)
    assert (data.num_train, data.num_validation, data.num_test) == (32, 8, 20)
    assert data.train_rows.tolist() == list(range(32))
    assert data.validation_rows.tolist() == list(range(32, 40))
    assert data.test_rows.tolist() == list(range(40, 60))
    assert data.train_rows.dtype == data.test_rows.dtype == np.int32
    assert data.labels.dtype == np.int32


def test_source_rows_lead_back_to_every_image_and_label(toy_source):
    data = prepare(toy_source, validation_fraction=0.2, split_seed=4)
    drawn = data.source_rows[:40]
    assert sorted(drawn.tolist()) == list(range(40))
    np.testing.assert_array_equal(data.images[:40], toy_source.train.images[drawn])
    np.testing.assert_array_equal(data.labels[:40], toy_source.train.labels[drawn])
    assert data.source_rows[40:].tolist() == list(range(20))
    np.testing.assert_array_equal(data.images[40:], toy_source.test.images)
    np.testing.assert_array_equal(data.labels[40:], toy_source.test.labels)


def test_names_shape_and_classes_are_those_of_the_source(toy_source):
    data = prepare(toy_source)
    assert data.name == "toy"
    assert data.class_names == ("a", "b", "c", "d")
    assert data.num_classes == 4
    assert data.image_shape == (6, 4, 3)
    assert isinstance(data, Data)


@pytest.mark.parametrize("num_train", [40, 3000])  # one chunk, and several
def test_mean_and_std_are_those_of_the_training_split_alone(num_train):
    rng = np.random.default_rng(0)
    # Channels differ, and so does the test split: neither may be mixed in.
    images = rng.integers(0, [100, 200, 256], (num_train, 5, 5, 3)).astype(np.uint8)
    labels = np.arange(num_train, dtype=np.int32) % 2
    bright = ImageSet(np.full((8, 5, 5, 3), 255, np.uint8), labels[:8])
    source = Source("x", ImageSet(images, labels), bright, ("a", "b"))
    data = prepare(source, validation_fraction=0.3)
    pixels = data.images[data.train_rows].astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32


def test_a_constant_channel_can_be_divided_by_its_std(toy_source):
    images = toy_source.train.images.copy()
    images[..., 1] = 77
    train = ImageSet(images, toy_source.train.labels)
    data = prepare(toy_source._replace(train=train))
    assert data.mean[1] == pytest.approx(77 / 255)
    assert data.std[1] == pytest.approx(1 / 255)


def test_noise_touches_the_training_split_only_and_can_be_undone(toy_source):
    clean = prepare(toy_source, validation_fraction=0.2)
    noisy = prepare(toy_source, validation_fraction=0.2, label_noise=0.5)
    changed = np.flatnonzero(noisy.labels != clean.labels)
    assert changed.tolist() == noisy.noisy_rows.tolist()
    assert len(changed) == 16
    assert changed.max() < noisy.num_train
    np.testing.assert_array_equal(noisy.clean_labels, clean.labels[changed])
    np.testing.assert_array_equal(noisy.images, clean.images)


def test_split_and_noise_follow_their_own_seeds(toy_source):
    def rows(**seeds):
        data = prepare(toy_source, validation_fraction=0.2, label_noise=0.5, **seeds)
        return data.source_rows.tolist(), data.noisy_rows.tolist()

    base = rows()
    assert rows(split_seed=0, noise_seed=0) == base
    other_noise = rows(noise_seed=1)
    assert other_noise[0] == base[0]
    assert other_noise[1] != base[1]
    assert rows(split_seed=1)[0] != base[0]


def test_without_validation_all_training_rows_are_kept_in_order(toy_source):
    data = prepare(toy_source, validation_fraction=0.0)
    assert data.num_validation == 0
    assert data.validation_rows.shape == (0,)
    assert data.source_rows[:40].tolist() == list(range(40))


def test_resizing_reaches_every_split(toy_source):
    data = prepare(toy_source, image_size=2)
    assert data.images.shape == (60, 2, 2, 3)
    assert data.image_shape == (2, 2, 3)


def test_the_fingerprint_ignores_split_and_noise(toy_source):
    prints = {
        prepare(toy_source).fingerprint,
        prepare(toy_source, split_seed=9).fingerprint,
        prepare(toy_source, validation_fraction=0.3).fingerprint,
        prepare(toy_source, label_noise=0.3, noise_seed=2).fingerprint,
    }
    assert len(prints) == 1


def test_the_fingerprint_tells_apart_what_differs(toy_source):
    pixels = toy_source.test.images.copy()
    pixels[-1, -1, -1, -1] ^= 1
    labels = toy_source.train.labels[::-1].copy()
    train, test = toy_source.train, toy_source.test
    turned = train.images.reshape(40, 4, 6, 3), test.images.reshape(20, 4, 6, 3)
    others = [
        toy_source,
        toy_source._replace(test=ImageSet(pixels, test.labels)),
        toy_source._replace(train=ImageSet(train.images, labels)),
        toy_source._replace(
            train=ImageSet(turned[0], train.labels),
            test=ImageSet(turned[1], test.labels),
        ),
    ]
    prints = [prepare(source).fingerprint for source in others]
    prints.append(prepare(toy_source, image_size=3).fingerprint)
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_is_the_same_on_every_machine():
    images = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)
    split = ImageSet(images, np.array([0, 1, 0, 1], np.int32))
    data = prepare(Source("x", split, split, ("a", "b")), validation_fraction=0.5)
    one = b"(4, 2, 2, 1)" + bytes(range(16))
    one += b"".join(label.to_bytes(4, "little") for label in (0, 1, 0, 1))
    assert data.fingerprint == hashlib.sha256(one + one).hexdigest()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_size", 0),
        ("validation_fraction", 1.0),
        ("split_seed", -1),
        ("label_noise", 1.01),
        ("noise_seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(
    refused, toy_source, setting, value
):
    message = refused(prepare, toy_source, **{setting: value})
    assert f"data.{setting} is {value}" in message
