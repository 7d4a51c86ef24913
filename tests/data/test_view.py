"""What a network sees of a picture, against sums in NumPy, JAX's own and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from dpet_jax.data.sources import Digits
from dpet_jax.data.view import WHOLE, Box, View, resampled, resized

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 12, 17, 3), np.uint8)
#: Of each picture: a part that is enlarged, one that shrinks, one that does both.
BOXES = Box(
    *np.array(
        [[1.3, 0.0, 2.25], [4.5, 0.0, 0.5], [4.1, 12.0, 9.5], [5.2, 17.0, 3.0]],
        np.float32,
    )
)
SIZE = (6, 7)


def triangle(stored, seen, start, extent):
    """Return float64 weights, one pixel after the other."""
    weights = np.zeros((seen, stored))
    scale = extent / seen
    for i in range(seen):
        for p in range(stored):
            distance = abs(p + 0.5 - (start + (i + 0.5) * scale)) / max(1.0, scale)
            weights[i, p] = max(0.0, 1.0 - distance)
        weights[i] /= weights[i].sum()
    return weights


@jax.jit
def seen(pixels, box):
    return resampled(pixels, box, SIZE)


def test_a_part_of_each_picture_equals_sums_in_float64():
    found = seen(jnp.asarray(PIXELS), BOXES)
    for picture, image, *box in zip(found, PIXELS, *BOXES, strict=True):
        top, left, height, width = map(float, box)
        rows = triangle(12, SIZE[0], top, height)
        columns = triangle(17, SIZE[1], left, width)
        wanted = np.einsum("ih,jw,hwc->ijc", rows, columns, image.astype(np.float64))
        np.testing.assert_allclose(picture, wanted, atol=2e-3)


def test_a_part_of_each_picture_is_what_pillow_makes_of_it():
    found = np.asarray(seen(jnp.asarray(PIXELS), BOXES))
    for picture, image, *box in zip(found, PIXELS, *BOXES, strict=True):
        top, left, height, width = map(float, box)
        edges = left, top, left + width, top + height
        pillow = Image.fromarray(image).resize(
            SIZE[::-1], Image.Resampling.BILINEAR, edges
        )
        # Pillow rounds after each of its two passes
        np.testing.assert_allclose(picture, np.asarray(pillow), atol=1.01)


@pytest.mark.parametrize("size", [(6, 7), (24, 20), (12, 5)])
def test_a_whole_picture_is_resized_as_jax_does(size):
    pixels = jnp.asarray(PIXELS)
    shape = (3, *size, 3)
    wanted = jax.image.resize(pixels.astype(jnp.float32), shape, "linear")
    np.testing.assert_allclose(resized(pixels, size), wanted, atol=2e-3)
    box = Box(*(np.full(3, each, np.float32) for each in (0, 0, 12, 17)))
    np.testing.assert_allclose(resampled(pixels, box, size), wanted, atol=2e-3)


def test_a_picture_that_is_seen_as_it_is_stored_is_itself():
    pixels = jnp.asarray(PIXELS[:, :, :12])
    for view in (WHOLE, View(input_size=12), View(resize="crop")):
        assert view.of(pixels) is pixels


def test_evaluation_sees_the_middle():
    pixels = jnp.asarray(PIXELS[:, :, :12])
    view = View(input_size=6, evaluation_crop=0.5)
    np.testing.assert_allclose(view.of(pixels), PIXELS[:, 3:9, 3:9], atol=1e-3)
    assert view.shape((12, 12, 3)) == (6, 6, 3)
    assert WHOLE.shape((12, 17, 3)) == (12, 17, 3)
    # at the stored size where no other is given
    assert View(evaluation_crop=0.5).of(pixels).shape == pixels.shape


def test_a_section_says_what_is_seen():
    section = Digits(image_size=12, input_size=8, evaluation_crop=0.875, resize="crop")
    assert section.view == View(input_size=8, evaluation_crop=0.875, resize="crop")
    assert hash(section.view) == hash(section.view.model_copy())
    assert Digits().view == WHOLE
    with pytest.raises(ValidationError, match="image_size says of no size"):
        Digits(resize="crop")
