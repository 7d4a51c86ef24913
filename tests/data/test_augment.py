import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from dpet_jax.data.augment import (
    Augmentation,
    CropConfig,
    gather_augmented,
    normalise,
    random_boxes,
)
from dpet_jax.data.view import resized
from dpet_jax.training.compilation import compile_counts

N, HEIGHT, WIDTH = 5, 5, 7
BATCH = 400
IMAGES = np.random.default_rng(0).integers(0, 256, (N, HEIGHT, WIDTH, 2), np.uint8)
ROWS = np.arange(BATCH, dtype=np.int32) % N
augmented = jax.jit(gather_augmented, static_argnames="side")
drawn_boxes = jax.jit(random_boxes, static_argnames=("count", "size"))


def strengths(translate=0, flip=False, cutout=0):
    return Augmentation(jnp.int32(translate), jnp.bool_(flip), jnp.int32(cutout))


def draw(seed=0, **changes):
    batch, visible = augmented(
        jax.random.key(seed),
        jnp.asarray(IMAGES),
        jnp.asarray(ROWS),
        strengths(**changes),
    )
    return np.asarray(batch), np.asarray(visible)


def crops(image, translate):
    """Every shift of an image and the crop of its reflected padding there."""
    pad = ((translate, translate), (translate, translate), (0, 0))
    padded = np.pad(image, pad, mode="reflect")
    side = 2 * translate + 1
    return {
        (i - translate, j - translate): padded[i : i + HEIGHT, j : j + WIDTH]
        for i, j in np.ndindex(side, side)
    }


def matches(image, candidates):
    return [name for name, other in candidates.items() if (image == other).all()]


def test_no_strength_gives_the_stored_images():
    batch, visible = draw()
    np.testing.assert_array_equal(batch, IMAGES[ROWS])
    assert batch.dtype == np.uint8
    assert visible.shape == (BATCH, HEIGHT, WIDTH, 1)
    assert visible.all()


@pytest.mark.parametrize("translate", [1, 2, 3])
def test_translation_equals_a_crop_of_the_reflected_padding(translate):
    batch, _ = draw(translate=translate)
    shifts = [
        matches(image, crops(IMAGES[row], translate))
        for image, row in zip(batch, ROWS, strict=True)
    ]
    assert {len(found) for found in shifts} == {1}
    span = range(-translate, translate + 1)
    for axis in (0, 1):
        counts = [sum(found[0][axis] == step for found in shifts) for step in span]
        # uniform: six standard deviations of a binomial either way
        share = 1 / len(span)
        slack = 6 * (BATCH * share * (1 - share)) ** 0.5
        assert np.abs(np.array(counts) - BATCH * share).max() < slack
    assert len({found[0] for found in shifts}) > len(span)  # axes move apart


def test_a_shift_may_be_as_large_as_the_side_less_one():
    batch, _ = draw(translate=HEIGHT - 1)
    # such a shift down equals the one up, so that an image may match twice
    assert all(
        matches(image, crops(IMAGES[row], HEIGHT - 1))
        for image, row in zip(batch, ROWS, strict=True)
    )


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    batch, _ = draw(flip=True)
    mirrored = (batch == IMAGES[ROWS][:, :, ::-1]).all((1, 2, 3))
    kept = (batch == IMAGES[ROWS]).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 140 < mirrored.sum() < 260


def test_a_shifted_image_may_be_mirrored_too():
    batch, _ = draw(translate=1, flip=True)
    straight = 0
    for image, row in zip(batch, ROWS, strict=True):
        found = matches(image, crops(IMAGES[row], 1))
        mirrored = matches(image[:, ::-1], crops(IMAGES[row], 1))
        assert len(found) + len(mirrored) == 1
        straight += len(found)
    assert 140 < straight < 260


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_cutout_hides_one_square_clipped_at_the_border(side):
    batch, visible = draw(cutout=side)
    np.testing.assert_array_equal(batch, IMAGES[ROWS])
    hidden = ~visible[..., 0]
    for axis, size in ((2, HEIGHT), (1, WIDTH)):
        stripe = hidden.any(axis)
        squares = np.zeros((size, size), bool)
        for centre in range(size):
            start = centre - side // 2
            squares[centre, max(0, start) : start + side] = True
        counts = [(stripe == square).all(1).sum() for square in squares]
        assert sum(counts) == BATCH
        assert min(counts) > BATCH / size / 2
    np.testing.assert_array_equal(
        hidden, hidden.any(2)[:, :, None] & hidden.any(1)[:, None, :]
    )


def test_cutout_larger_than_the_image_hides_all_of_it():
    _, visible = draw(cutout=99)
    assert not visible.any()


@pytest.mark.parametrize(
    ("progress", "side"), [(0.0, 0), (0.1, 2), (0.25, 4), (0.5, 8), (0.75, 8), (2.0, 8)]
)
def test_the_square_of_cutout_grows_up_to_its_side(progress, side):
    given = strengths(translate=2, cutout=8)._replace(cutout_ramp=jnp.float32(0.5))
    now = given.at(jnp.float32(progress))
    assert now == strengths(translate=2, cutout=side)


def test_equal_rows_of_a_batch_and_other_keys_draw_anew():
    first, other = (draw(seed, translate=2, flip=True)[0] for seed in (0, 1))
    assert len(np.unique(first[ROWS == 0], axis=0)) > 10
    assert (first != other).any((1, 2, 3)).mean() > 0.8
    np.testing.assert_array_equal(first, draw(0, translate=2, flip=True)[0])


def test_one_compilation_serves_all_strengths():
    draw()
    before = compile_counts().programs
    for changes in ({"translate": 3}, {"flip": True}, {"cutout": 2, "translate": 1}):
        draw(7, **changes)
    assert compile_counts().programs == before


def boxes(size=(32, 32), seed=0, **keys):
    found = drawn_boxes(jax.random.key(seed), CropConfig(**keys).traced(), 4000, size)
    return [np.asarray(each, np.float64) for each in found]


@pytest.mark.parametrize("size", [(32, 32), (20, 50)])
def test_random_boxes_lie_inside_the_image_and_have_the_area_and_aspect_asked(size):
    top, left, height, width = boxes(size, area=(0.3, 0.9), aspect=(0.5, 2.0))
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= size[0] + 1e-4
    assert (left + width).max() <= size[1] + 1e-4
    area, aspect = height * width / np.prod(size), width / height
    assert 0.3 - 1e-5 <= area.min() < 0.32
    assert area.max() <= 0.9 + 1e-5
    # a high box as large as that does not fit into a low image
    assert 0.5 - 1e-5 <= aspect.min() < (0.52 if size == (32, 32) else 0.9)
    assert 1.95 < aspect.max() <= 2 + 1e-5


def test_boxes_that_always_fit_are_uniform_in_area_aspect_and_place():
    top, left, height, width = boxes(area=(0.1, 0.4), aspect=(0.5, 2.0))
    uniform = [
        (height * width / 32**2 - 0.1) / 0.3,
        np.log(width / height) / np.log(4) + 0.5,
        top / (32 - height),
        left / (32 - width),
    ]
    for drawn in uniform:
        # of 4,000 numbers: the largest gap to a straight line in a thousand samples
        order = np.sort(drawn)
        assert np.abs(order - (np.arange(4000) + 0.5) / 4000).max() < 0.0308
    assert np.abs(np.corrcoef(uniform) - np.eye(4)).max() < 0.07


def test_where_no_box_fits_the_largest_in_the_middle_is_seen():
    top, left, height, width = boxes((10, 40), area=(1, 1), aspect=(0.5, 2.0))
    for found, wanted in ((top, 0), (left, 10), (height, 10), (width, 20)):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_box_of_all_is_the_whole_image_resized():
    squares, rows = jnp.asarray(IMAGES[:, :, :5]), jnp.asarray(ROWS)
    key, side = jax.random.key(0), 4
    everything = CropConfig(area=(1, 1), aspect=(1, 1)).traced()
    for given in (strengths(), strengths(translate=2, flip=True)):
        stored, _ = augmented(key, squares, rows, given)
        wanted = resized(stored, (side, side))
        for crop in (None, everything):
            cropped = given._replace(crop=crop)
            found, visible = augmented(key, squares, rows, cropped, side=side)
            np.testing.assert_allclose(found, wanted, atol=1e-3)
            assert visible.shape == (BATCH, side, side, 1)
    same, _ = augmented(key, squares, rows, given, side=5)
    assert same.dtype == jnp.uint8
    np.testing.assert_array_equal(same, stored)


def test_a_square_covers_as_much_of_an_image_of_another_side():
    squares, rows = jnp.asarray(IMAGES[:, :, :5]), jnp.asarray(ROWS)
    _, visible = augmented(
        jax.random.key(0), squares, rows, strengths(cutout=2), side=10
    )
    hidden = (~np.asarray(visible)).sum((1, 2, 3))
    assert hidden.max() == 4 * 4
    assert hidden.min() >= 2 * 2  # at a corner


def test_boxes_change_nothing_else_and_compile_once_for_all_strengths():
    rows, key = jnp.asarray(ROWS), jax.random.key(3)
    given = strengths(translate=2, flip=True, cutout=2)
    _, before = augmented(key, jnp.asarray(IMAGES), rows, given)
    programs = None
    for area in ((0.5, 1.0), (0.1, 0.2)):
        crop = CropConfig(area=area).traced()
        cropped = given._replace(crop=crop)
        found, after = augmented(key, jnp.asarray(IMAGES), rows, cropped)
        assert found.shape == (BATCH, HEIGHT, WIDTH, 2)
        np.testing.assert_array_equal(after, before)
        programs = programs or compile_counts().programs
    assert compile_counts().programs == programs


@pytest.mark.parametrize("key", ["area", "aspect"])
def test_a_range_that_descends_is_refused(key):
    with pytest.raises(ValidationError, match=r"least and then the largest .*turn"):
        CropConfig(**{key: (0.9, 0.8)})


def test_normalise_scales_to_one_then_subtracts_and_divides_by_channel():
    pixels = jnp.array([0, 255, 51, 102], jnp.uint8).reshape(1, 1, 2, 2)
    got = normalise(pixels, jnp.array([0.0, 0.5]), jnp.array([1.0, 0.25]))
    np.testing.assert_allclose(got.ravel(), [0.0, 2.0, 0.2, -0.4], rtol=1e-6)
    assert got.dtype == jnp.float32
