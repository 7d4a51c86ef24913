import numpy as np
import pytest
from PIL import Image

from dpet_jax.data.decode import decode_images, resize_images


def place(row):
    return f"file.x row {row}"


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_lossless_pictures_come_back_bit_equal_and_in_order(as_picture):
    images = random_images(5, 6, 4, 3)
    decoded = decode_images([as_picture(image) for image in images], place)
    np.testing.assert_array_equal(decoded, images)


def test_pictures_large_enough_for_threads_keep_their_order(as_picture):
    images = random_images(12, 64, 64, 3)
    blobs = [as_picture(image) for image in images]
    assert min(map(len, blobs)) > 8_192
    np.testing.assert_array_equal(decode_images(blobs, place), images)


def test_greys_keep_one_channel(as_picture):
    images = random_images(3, 5, 5)
    decoded = decode_images([as_picture(image) for image in images], place)
    np.testing.assert_array_equal(decoded, images[..., None])


@pytest.mark.parametrize("grey_rows", [[0, 1], [2, 3]])
def test_one_coloured_picture_makes_every_grey_rgb(as_picture, grey_rows):
    images = random_images(4, 5, 5, 3)
    images[grey_rows] = images[grey_rows][..., :1]
    blobs = [
        as_picture(image[..., 0] if row in grey_rows else image)
        for row, image in enumerate(images)
    ]
    np.testing.assert_array_equal(decode_images(blobs, place), images)


@pytest.mark.parametrize("transparency", [None, b"\x00\x80\xff"])
def test_a_palette_becomes_the_colours_it_stands_for(tmp_path, transparency):
    picture = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "L").convert("P")
    picture.putdata([0, 1, 2, 0])
    picture.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    options = {} if transparency is None else {"transparency": transparency}
    picture.save(tmp_path / "p.png", **options)
    decoded = decode_images([(tmp_path / "p.png").read_bytes()], place)
    assert decoded[0].tolist() == [
        [[255, 0, 0], [0, 255, 0]],
        [[10, 20, 30], [255, 0, 0]],
    ]


def test_resizing_averages_areas():
    image = np.array([[0, 100, 7, 7], [200, 100, 7, 9]], np.uint8)[None, ..., None]
    assert resize_images(image, 1)[0, 0, 0, 0] == round((400 + 30) / 8)
    halves = np.repeat(np.repeat(random_images(2, 3, 3, 3), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(resize_images(halves, 3), halves[:, ::2, ::2])


def test_resizing_while_decoding_equals_resizing_afterwards(as_picture):
    images = random_images(4, 9, 7, 3)
    blobs = [as_picture(image) for image in images]
    np.testing.assert_array_equal(
        decode_images(blobs, place, image_size=4), resize_images(images, 4)
    )


def test_resizing_to_the_same_size_copies_nothing():
    images = random_images(2, 4, 4, 1)
    assert resize_images(images, 4) is images
    assert resize_images(images, None) is images


def test_pictures_of_many_sizes_pass_if_they_are_resized(as_picture):
    blobs = [as_picture(random_images(side, 8)) for side in (5, 8, 13)]
    assert decode_images(blobs, place, image_size=4).shape == (3, 4, 4, 1)


@pytest.mark.parametrize("side", [4, 64])  # in this thread, and in several
def test_mixed_sizes_name_the_row_both_sizes_and_the_remedy(as_picture, refused, side):
    blobs = [as_picture(random_images(*hw, 3)) for hw in [(side, side)] * 2 + [(6, 80)]]
    message = refused(decode_images, blobs, place)
    for part in ("file.x row 2", "6 x 80", f"{side} x {side}", "--data.image_size=N"):
        assert part in message


def bad_pictures(as_picture):
    good = as_picture(random_images(40, 40, 3))
    return {
        "no picture": b"hello",
        "empty": b"",
        "cut short": good[: len(good) // 2],
        "damaged": good[:60] + b"\x00" * 60 + good[120:],
        "16 bits": as_picture(np.full((40, 40), 40_000, np.uint16)),
    }


@pytest.mark.parametrize(
    "kind", ["no picture", "empty", "cut short", "damaged", "16 bits"]
)
@pytest.mark.parametrize("row", [0, 3])
def test_a_bad_picture_is_named_with_its_row(as_picture, refused, kind, row):
    blobs = [as_picture(random_images(40, 40, 3))] * 5
    blobs[row] = bad_pictures(as_picture)[kind]
    message = refused(decode_images, blobs, place)
    assert f"file.x row {row}: the image cannot be decoded" in message
    assert "Replace or remove it" in message


@pytest.mark.parametrize("image_size", [0, -3])
def test_a_side_below_one_pixel_is_refused_with_its_value(refused, image_size):
    message = refused(resize_images, random_images(1, 2, 2, 1), image_size)
    assert "data.image_size" in message
    assert str(image_size) in message
