import io

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
    assert resize_images(image, (1, 1))[0, 0, 0, 0] == round((400 + 30) / 8)
    halves = np.repeat(np.repeat(random_images(2, 3, 3, 3), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(resize_images(halves, (3, 3)), halves[:, ::2, ::2])


def test_resizing_while_decoding_equals_resizing_afterwards(as_picture):
    images = random_images(4, 9, 7, 3)
    blobs = [as_picture(image) for image in images]
    np.testing.assert_array_equal(
        decode_images(blobs, place, (4, 3)), resize_images(images, (4, 3))
    )


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        ((6, 10), np.s_[:, 2:8]),  # twice as large, from the columns in the middle
        ((10, 6), np.s_[2:8, :]),
        ((6, 6), np.s_[:, :]),
    ],
)
def test_cropping_keeps_the_shape_of_things_and_the_middle(as_picture, shape, middle):
    image = random_images(1, *shape, 3)
    wanted = resize_images(image[:, *middle], (3, 3)).astype(int)
    found = resize_images(image, (3, 3), "crop")
    # Pillow rounds after each axis, and where it begins decides which way
    assert np.abs(found - wanted).max() <= 1
    decoded = decode_images([as_picture(image[0])], place, (3, 3), "crop")
    np.testing.assert_array_equal(decoded, found)


def test_resizing_to_the_same_size_copies_nothing():
    images = random_images(2, 4, 4, 1)
    assert resize_images(images, (4, 4)) is images
    assert resize_images(images, None) is images


def test_pictures_of_many_sizes_pass_if_they_are_resized(as_picture):
    blobs = [as_picture(random_images(side, 8)) for side in (5, 8, 13)]
    assert decode_images(blobs, place, (4, 2)).shape == (3, 4, 2, 1)


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
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n",
        "16 bits": as_picture(np.full((40, 40), 40_000, np.uint16)),
    }


@pytest.mark.parametrize(
    "kind", ["no picture", "empty", "cut short", "damaged", "eps", "16 bits"]
)
@pytest.mark.parametrize("row", [0, 3])
def test_a_bad_picture_is_named_with_its_row(as_picture, refused, kind, row):
    blobs = [as_picture(random_images(40, 40, 3))] * 5
    blobs[row] = bad_pictures(as_picture)[kind]
    message = refused(decode_images, blobs, place)
    assert f"file.x row {row}: the image cannot be decoded" in message
    assert "Replace or remove it" in message


def test_every_bad_picture_is_counted_in_one_message(as_picture, refused):
    good, odd = (as_picture(random_images(side, 8)) for side in (8, 9))
    blobs = [b"x", good, odd, *[b"y"] * 6]
    message = refused(decode_images, blobs, place)
    for part in (
        "file.x row 0: the image cannot be decoded (1 bytes; Pillow knows no picture",
        "file.x row 6: the image",
        "and 2 more like these. Replace or remove",
        "file.x row 2: 9 x 8 pixels, but file.x row 1 is 8 x 8",
    ):
        assert part in message
    assert "row 7" not in message


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_pictures_are_turned_upright(orientation, kind):
    """Orientation of EXIF: where row 0 and column 0 of the stored pixels belong."""
    image = random_images(4, 6, 3)
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: image.transpose(1, 0, 2)[::-1],
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: image.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(buffer, kind, exif=exif)
    np.testing.assert_array_equal(decode_images([buffer.getvalue()], place)[0], image)


def test_files_are_decoded_like_their_bytes(as_picture, tmp_path):
    images = random_images(3, 5, 6, 3)
    files = [tmp_path / f"{row}.png" for row in range(3)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(as_picture(image))
    np.testing.assert_array_equal(decode_images(files, place), images)
