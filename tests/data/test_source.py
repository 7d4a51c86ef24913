import numpy as np
import pytest

from dpet_jax.data.source import (
    ImageSet,
    check_images,
    check_labels,
    distinct,
    make_source,
)

PLACE = "a.npz, key"


def image_set(labels, shape=(2, 2, 1)):
    labels = np.array(labels, np.int32)
    return ImageSet(np.zeros((len(labels), *shape), np.uint8), labels)


def test_float_pixels_are_scaled_and_rounded():
    pixels = np.array([0, 1, 0.5, 0.1, 1 / 255], np.float32).reshape(5, 1, 1)
    images = check_images(pixels, PLACE)
    assert images.dtype == np.uint8
    assert images.ravel().tolist() == [0, 255, round(127.5), 26, 1]


def test_every_level_survives_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    for kind in (np.float16, np.float32, np.float64):
        floats = (levels / np.float64(255)).astype(kind)
        np.testing.assert_array_equal(check_images(floats, PLACE), levels)


def test_greys_get_a_channel_axis_and_uint8_stays_as_it_is():
    greys = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    images = check_images(greys, PLACE)
    assert images.shape == (3, 2, 2, 1)
    np.testing.assert_array_equal(images[..., 0], greys)


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (np.zeros((3, 4), np.uint8), ["(3, 4)", "[n h w 3]"]),
        (np.zeros((3, 3, 8, 8), np.uint8), ["(3, 3, 8, 8)", "channel axis"]),
        (np.zeros((3, 0, 8), np.uint8), ["(3, 0, 8)"]),
        (np.zeros((0, 8, 8), np.uint8), ["no rows"]),
        (np.zeros((3, 8, 8), np.int64), ["int64", "uint8", "scale them"]),
        (np.full((3, 8, 8), "x"), ["<U1", "uint8"]),
    ],
)
def test_images_of_another_shape_or_type_are_refused(refused, images, parts):
    message = refused(check_images, images, PLACE)
    for part in (PLACE, *parts):
        assert part in message


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (np.nan, "correct or remove"),
        (np.inf, "correct or remove"),
        (255.0, "divide by 255"),
        (-0.25, "as they were before mean and standard deviation"),
    ],
)
def test_a_bad_pixel_is_named_with_row_position_and_value(refused, value, remedy):
    images = np.zeros((2000, 3, 3), np.float32)  # the row lies in the second chunk
    images[1500, 2, 1] = value
    message = refused(check_images, images, PLACE)
    for part in (f"{PLACE} row 1500", "(2, 1, 0)", f"is {value}", "[0, 1]", remedy):
        assert part in message


def test_sixteen_bit_pixels_are_not_told_to_be_cut(refused):
    message = refused(check_images, np.full((3, 8, 8), 40_000, np.uint16), PLACE)
    assert "divide by 65535" in message


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pixels_divided_by_255_twice_are_refused(refused, kind):
    levels = np.arange(256).reshape(4, 8, 8)
    message = refused(check_images, (levels / 255 / 255).astype(kind), PLACE)
    for part in (PLACE, "0.00392", "255 twice", "Divide once"):
        assert part in message
    assert (check_images(np.zeros((4, 8, 8), kind), PLACE) == 0).all()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 1], np.uint8),
        np.array([[2], [0], [1]], np.int64),
        np.array([2.0, 0.0, 1.0]),
    ],
)
def test_labels_become_int32_of_one_axis(labels):
    checked = check_labels(labels, PLACE)
    assert checked.dtype == np.int32
    assert checked.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (np.eye(3), ["(3, 3)", "one-hot"]),
        (np.array(3), ["()"]),
        (np.array([], np.int64), ["no rows"]),
        (np.array(["cat"]), ["<U3", "number the classes"]),
        (np.array([0, 1, -1, -2]), [f"{PLACE} row 2: label -1", "correct or remove"]),
        (np.array([0.0, 0.5]), [f"{PLACE} row 1: label 0.5", "integers"]),
        (np.array([0.0, np.nan]), [f"{PLACE} row 1: label nan", "integers"]),
        (np.array([0, 2**40]), [f"{PLACE} row 1: label {2**40}"]),
    ],
)
def test_bad_labels_are_refused(refused, labels, parts):
    message = refused(check_labels, labels, PLACE)
    for part in (PLACE, *parts):
        assert part in message


def test_a_label_at_the_number_of_classes_is_refused_and_one_below_passes(refused):
    message = refused(check_labels, np.array([9, 10]), PLACE, 10)
    assert f"{PLACE} row 1: label 10" in message
    assert "below 10" in message
    assert check_labels(np.array([9]), PLACE, 10).tolist() == [9]


def test_without_names_there_are_as_many_classes_as_the_training_labels_say():
    source = make_source("x", image_set([0, 2, 1]), image_set([0]), None, ("a", "b"))
    assert source.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("train", "test", "names", "parts"),
    [
        ([0, 1], [0, 2], None, ["B row 1: label 2", "below 2"]),
        ([0, 1, 2], [0], ["p", "q"], ["A row 2: label 2", "below 2"]),
        ([0, 3, 3], [0], None, ["A", "class 1, 2;", "without gaps"]),
        ([0, 1], [0], ["p", "q", "r"], ["A", "class 2 (r)", "add examples"]),
        ([0, 10**9], [0], None, ["class 1, 2, ", "10 and 999999989 more"]),
        ([0, 0], [0], None, ["A", "all examples are of one class"]),
    ],
)
def test_labels_that_do_not_fit_the_classes_are_refused(
    refused, train, test, names, parts
):
    message = refused(
        make_source, "x", image_set(train), image_set(test), names, ("A", "B")
    )
    for part in parts:
        assert part in message


def test_other_test_shapes_and_lengths_are_refused_with_both_numbers(refused):
    good = image_set([0, 1])
    message = refused(
        make_source, "x", good, image_set([0], (3, 2, 1)), None, ("A", "B")
    )
    for part in ("B", "3 x 2 x 1", "2 x 2 x 1", "--data.image_size=N"):
        assert part in message
    short = ImageSet(good.images[:1], good.labels)
    message = refused(make_source, "x", short, good, None, ("A", "B"))
    assert "A: 1 images but 2 labels" in message
    places = ("A", "B", "C")
    message = refused(make_source, "x", good, good, None, places, short)
    assert "C: 1 images but 2 labels" in message
    message = refused(make_source, "x", good, good, None, places, image_set([0, 2]))
    assert "C row 1: label 2" in message


def test_greys_beside_colours_become_rgb_in_every_split():
    grey, colour = image_set([0, 1]), image_set([0, 1], (2, 2, 3))
    grey.images[:] = 7
    source = make_source("x", grey, colour, None, ("A", "B", "C"), grey)
    for split in (source.train, source.validation):
        assert (split.images == 7).all()
        assert split.images.shape == colour.images.shape
    assert source.test.images is colour.images


def test_equal_names_of_classes_get_their_numbers():
    assert distinct(["crane", "owl", "crane"]) == ("crane (0)", "owl", "crane (2)")
    assert distinct(["a", "a", "a (0)"]) == ("a (0) (0)", "a (1)", "a (0) (2)")
    assert distinct(["a", "b"]) == ("a", "b")
    good = image_set([0, 1])
    source = make_source("x", good, good, ["a", "a"], ("A", "B"))
    assert source.class_names == ("a (0)", "a (1)")
