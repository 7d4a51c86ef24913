import hashlib
from dataclasses import replace

import numpy as np
import pytest

from dpet_jax.data import Data, ImageSet, Source, prepare
from dpet_jax.data.dataset import content_hash
from dpet_jax.errors import UserError


def test_rows_lie_in_the_order_training_validation_test(toy_source, settings):
    data = prepare(toy_source, settings(validation_fraction=0.2))
    assert (data.num_train, data.num_validation, data.num_test) == (32, 8, 20)
    assert data.train_rows.tolist() == list(range(32))
    assert data.validation_rows.tolist() == list(range(32, 40))
    assert data.test_rows.tolist() == list(range(40, 60))
    assert data.train_rows.dtype == data.test_rows.dtype == np.int32
    assert data.labels.dtype == np.int32


def test_source_rows_lead_back_to_every_image_and_label(toy_source, settings):
    data = prepare(toy_source, settings(validation_fraction=0.2, split_seed=4))
    drawn = data.source_rows[:40]
    assert sorted(drawn.tolist()) == list(range(40))
    np.testing.assert_array_equal(data.images[:40], toy_source.train.images[drawn])
    np.testing.assert_array_equal(data.labels[:40], toy_source.train.labels[drawn])
    assert data.source_rows[40:].tolist() == list(range(20))
    np.testing.assert_array_equal(data.images[40:], toy_source.test.images)
    np.testing.assert_array_equal(data.labels[40:], toy_source.test.labels)


def test_names_shape_and_classes_are_those_of_the_source(toy_source, settings):
    data = prepare(toy_source, settings())
    assert data.name == "toy"
    assert data.class_names == ("a", "b", "c", "d")
    assert data.num_classes == 4
    assert data.image_shape == (6, 4, 3)
    assert isinstance(data, Data)


@pytest.mark.parametrize("num_train", [40, 3000])  # one chunk, and several
def test_mean_and_std_are_those_of_the_training_split_alone(num_train, settings):
    rng = np.random.default_rng(0)
    # Channels differ, and so does the test split: neither may be mixed in.
    images = rng.integers(0, [100, 200, 256], (num_train, 5, 5, 3)).astype(np.uint8)
    labels = np.arange(num_train, dtype=np.int32) % 2
    bright = ImageSet(np.full((8, 5, 5, 3), 255, np.uint8), labels[:8])
    source = Source("x", ImageSet(images, labels), bright, ("a", "b"))
    data = prepare(source, settings(validation_fraction=0.3))
    pixels = data.images[data.train_rows].astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32


def test_a_constant_channel_can_be_divided_by_its_std(toy_source, settings):
    images = toy_source.train.images.copy()
    images[..., 1] = 77
    train = ImageSet(images, toy_source.train.labels)
    data = prepare(toy_source._replace(train=train), settings())
    assert data.mean[1] == pytest.approx(77 / 255)
    assert data.std[1] == pytest.approx(1 / 255)


def test_noise_touches_the_training_split_only_and_can_be_undone(toy_source, settings):
    clean = prepare(toy_source, settings(validation_fraction=0.2))
    noisy = prepare(toy_source, settings(validation_fraction=0.2, label_noise=0.5))
    changed = np.flatnonzero(noisy.labels != clean.labels)
    assert changed.tolist() == noisy.noisy_rows.tolist()
    assert len(changed) == 16
    assert changed.max() < noisy.num_train
    np.testing.assert_array_equal(noisy.clean_labels, clean.labels[changed])
    np.testing.assert_array_equal(noisy.images, clean.images)


def test_split_and_noise_follow_the_split_seed_independently(toy_source, settings):
    def rows(**changes):
        section = settings(validation_fraction=0.2, **changes)
        data = prepare(toy_source, section)
        return data.source_rows.tolist(), data.noisy_rows.tolist()

    base = rows(label_noise=0.5)
    assert rows(label_noise=0.5, split_seed=0) == base
    assert rows()[0] == base[0]  # noise moves no row
    other = rows(label_noise=0.5, split_seed=1)
    assert other[0] != base[0]
    assert other[1] != base[1]


def test_without_validation_all_training_rows_are_kept_in_order(toy_source, settings):
    data = prepare(toy_source, settings(validation_fraction=0.0))
    assert data.num_validation == 0
    assert data.validation_rows.shape == (0,)
    assert data.source_rows[:40].tolist() == list(range(40))


def test_resizing_reaches_every_split(toy_source, settings):
    data = prepare(toy_source, settings(image_size=2))
    assert data.images.shape == (60, 2, 2, 3)
    assert data.image_shape == (2, 2, 3)


def test_the_fingerprint_ignores_split_and_noise(toy_source, settings):
    prints = {
        prepare(toy_source, settings()).fingerprint,
        prepare(toy_source, settings(split_seed=9)).fingerprint,
        prepare(toy_source, settings(validation_fraction=0.3)).fingerprint,
        prepare(toy_source, settings(label_noise=0.3)).fingerprint,
    }
    assert len(prints) == 1


def test_the_fingerprint_tells_apart_what_differs(toy_source, settings):
    pixels = toy_source.test.images.copy()
    pixels[-1, -1, -1, -1] ^= 1
    labels = toy_source.train.labels[::-1].copy()
    train, test = toy_source.train, toy_source.test
    turned = train.images.reshape(40, 4, 6, 3), test.images.reshape(20, 4, 6, 3)
    others = [
        toy_source,
        toy_source._replace(test=ImageSet(pixels, test.labels)),
        toy_source._replace(train=ImageSet(train.images, labels)),
        toy_source._replace(validation=test),
        toy_source._replace(
            train=ImageSet(turned[0], train.labels),
            test=ImageSet(turned[1], test.labels),
        ),
    ]
    prints = [prepare(source, settings()).fingerprint for source in others]
    prints.append(prepare(toy_source, settings(image_size=3)).fingerprint)
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_is_the_same_on_every_machine(settings):
    images = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)
    split = ImageSet(images, np.array([0, 1, 0, 1], np.int32))
    data = prepare(
        Source("x", split, split, ("a", "b")), settings(validation_fraction=0.5)
    )
    one = b"(4, 2, 2, 1)" + bytes(range(16))
    one += b"".join(label.to_bytes(4, "little") for label in (0, 1, 0, 1))
    assert data.fingerprint == hashlib.sha256(one + one).hexdigest()


def test_the_content_hash_tells_apart_whatever_a_run_could_notice(toy_source, settings):
    data = prepare(toy_source, settings(label_noise=0.1))
    again = prepare(toy_source, settings(label_noise=0.1))
    assert content_hash(data) == content_hash(again)
    pixels, labels = data.images.copy(), data.labels.copy()
    pixels[data.num_train, 0, 0, 0] ^= 1
    labels[[0, 1]] = labels[[1, 0]]
    assert labels.tolist() != data.labels.tolist()
    others = [
        data,
        replace(data, images=pixels),
        replace(data, images=data.images.reshape(60, 4, 6, 3)),
        replace(data, labels=labels),
        replace(data, class_names=("a", "b", "d", "c")),
        replace(data, num_train=data.num_train - 1, num_test=data.num_test + 1),
        replace(data, mean=data.mean + 1),
        replace(data, clean_labels=data.clean_labels[::-1].copy()),
        prepare(toy_source, settings(label_noise=0.2)),
        prepare(toy_source, settings(label_noise=0.1, split_seed=1)),
    ]
    assert len({content_hash(other) for other in others}) == len(others)
    assert len({other.fingerprint for other in others}) == 1  # of one source


def test_the_content_hash_ignores_how_arrays_lie_in_memory(toy_source, settings):
    data = prepare(toy_source, settings())
    turned = np.asfortranarray(data.images)
    swapped = data.mean.astype(data.mean.dtype.newbyteorder(">"))
    for same in (replace(data, images=turned), replace(data, mean=swapped)):
        assert content_hash(same) == content_hash(data)


BROKEN = {
    "pixels of another type": (
        {"images": np.zeros((40, 6, 4, 3), np.int32)},
        ["toy train images", "int32"],
    ),
    "fewer labels": ({"labels": np.zeros(39, np.int32)}, ["toy train", "39 labels"]),
    "a label of no class": (
        {"labels": np.full(40, 4, np.int32)},
        ["toy train row 0", "label 4", "below 4"],
    ),
    "text for labels": ({"labels": np.full(40, "a")}, ["toy train labels", "<U1"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_source_of_ones_own_returns_is_checked(
    refused, toy_source, settings, case
):
    changes, parts = BROKEN[case]
    broken = toy_source._replace(train=toy_source.train._replace(**changes))
    message = refused(prepare, broken, settings())
    for part in parts:
        assert part in message


def test_a_source_of_ones_own_returns_a_source(refused, toy_source, settings):
    message = refused(prepare, tuple(toy_source), settings())
    assert "read() returned tuple; it must return a dpet_jax.data.Source" in message


def test_a_source_of_ones_own_may_return_floats_and_greys(toy_source, settings):
    floats = toy_source.train.images[..., 0] / 255
    train = ImageSet(floats, toy_source.train.labels.astype(np.int64))
    data = prepare(toy_source._replace(train=train), settings(validation_fraction=0))
    np.testing.assert_array_equal(data.images[:40, ..., 1], data.images[:40, ..., 0])
    np.testing.assert_array_equal(
        data.images[:40, ..., 0], toy_source.train.images[..., 0]
    )
    assert data.labels.dtype == np.int32


def test_data_of_ones_own_have_names_that_differ(toy_source, settings, refused):
    data = prepare(toy_source, settings())
    message = refused(replace, data, class_names=("a", "b", "c", "a"))
    assert "toy: class_names holds 'a' twice" in message


def test_classes_that_are_named_are_kept_and_labelled_in_that_order(
    toy_source, settings
):
    data = prepare(toy_source, settings(classes=("d", "b"), validation_fraction=0.2))
    assert data.class_names == ("d", "b")
    assert (data.num_train, data.num_validation, data.num_test) == (16, 4, 10)
    for split, rows in (
        (toy_source.train, range(20)),
        (toy_source.test, range(20, 30)),
    ):
        wanted = np.isin(split.labels, (3, 1))
        images, labels = split.images[wanted], np.where(split.labels[wanted] == 3, 0, 1)
        place = data.source_rows[[*rows]]
        np.testing.assert_array_equal(data.images[[*rows]], images[place])
        np.testing.assert_array_equal(data.labels[[*rows]], labels[place])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("a", "e"),
            r"data\.classes: toy has no class 'e'; its classes are a, b",
        ),
        (("a", "b", "a"), r"data\.classes: 'a' is there twice"),
    ],
)
def test_classes_that_are_not_there_are_refused(toy_source, settings, names, message):
    with pytest.raises(UserError, match=message):
        prepare(toy_source, settings(classes=names))
