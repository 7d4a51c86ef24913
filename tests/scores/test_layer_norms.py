"""The length of a layer's gradient against a float64 product written out by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.gradient.layer_norms import (
    Window,
    choose_convolution,
    choose_dense,
    squared_convolution_norm,
    squared_dense_norm,
)

WINDOWS = {
    "3x3": Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "stride 2": Window((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "1x1": Window((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "1x1 stride 2": Window((1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    "uneven": Window((2, 3), (1, 1), ((0, 1), (2, 0)), (1, 1)),
    "dilated": Window((3, 2), (1, 2), ((2, 2), (0, 1)), (2, 1)),
    "1d": Window((3,), (2,), ((1, 1),), (1,)),
}


def operands(window, seed=0):
    """Draw an input and a cotangent of the shape that the window gives."""
    rng = np.random.default_rng(seed)
    sides = (7, 6)[: len(window.kernel)]
    outputs = [
        (side + low + high - (kernel - 1) * dilation - 1) // stride + 1
        for side, (low, high), kernel, dilation, stride in zip(
            sides,
            window.padding,
            window.kernel,
            window.dilation,
            window.strides,
            strict=True,
        )
    ]
    return rng.normal(size=(*sides, 3)), rng.normal(size=(*outputs, 4))


def kernel_gradient(images, cotangent, window):
    """Add up, output by output, what each kernel entry multiplied; float64."""
    padded = np.pad(images, (*window.padding, (0, 0)))
    gradient = np.zeros((*window.kernel, images.shape[-1], cotangent.shape[-1]))
    for output in np.ndindex(cotangent.shape[:-1]):
        for step in np.ndindex(window.kernel):
            pixel = tuple(
                o * stride + s * dilation
                for o, s, stride, dilation in zip(
                    output, step, window.strides, window.dilation, strict=True
                )
            )
            gradient[step] += np.outer(padded[pixel], cotangent[output])
    return gradient


def single(*arrays):
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


convolution_norm = jax.jit(squared_convolution_norm, static_argnums=(2, 3))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form)
        for name, window in WINDOWS.items()
        for form in ("product", "ghost", "pixel ghost")
        # strided patches are no shifts of one another
        if form != "pixel ghost" or window.slides_by_one
    ],
)
def test_every_form_gives_the_length_of_the_kernel_gradient(name, form):
    window = WINDOWS[name]
    images, cotangent = operands(window)
    expected = np.sum(kernel_gradient(images, cotangent, window) ** 2)
    found = convolution_norm(*single(images, cotangent), window, form)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["product", "ghost", "pixel ghost"])
def test_a_batch_gets_the_lengths_of_its_examples(form):
    window = WINDOWS["3x3"]
    pairs = [operands(window, seed) for seed in range(3)]
    batch = single(*(np.stack(arrays) for arrays in zip(*pairs, strict=True)))
    many = jax.vmap(lambda x, d: convolution_norm(x, d, window, form))
    expected = [np.sum(kernel_gradient(*pair, window) ** 2) for pair in pairs]
    np.testing.assert_allclose(jax.jit(many)(*batch), expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["product", "ghost"])
def test_dense_forms_give_the_length_of_the_product(form):
    rng = np.random.default_rng(1)
    inputs, cotangent = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    expected = np.sum((inputs.T @ cotangent) ** 2)
    found = squared_dense_norm(*single(inputs, cotangent), form)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["product", "ghost"])
def test_lengths_of_bfloat16_layers_are_added_up_in_float32(form):
    ones = jnp.ones((1000, 1), jnp.bfloat16)
    # in bfloat16 a sum of ones stops at 256
    assert squared_dense_norm(ones, ones, form) == 1e6


@pytest.mark.parametrize("form", ["product", "ghost", "pixel ghost"])
def test_lengths_grow_with_the_square_of_the_cotangent(form):
    window = WINDOWS["3x3"]
    images, cotangent = single(*operands(window))
    once = convolution_norm(images, cotangent, window, form)
    thrice = convolution_norm(images, 3 * cotangent, window, form)
    np.testing.assert_allclose(thrice, 9 * once, rtol=1e-5)


def test_the_cheapest_form_is_chosen_layer_by_layer():
    same = WINDOWS["3x3"]
    # by hand: 1024 positions of 64 channels, then 16 of 512, of ResNet-18
    first = choose_convolution(same, (32, 32), (32, 32), (64, 64))
    assert first == ("product", 1024 * 9 * 64 * 64)
    last = choose_convolution(same, (4, 4), (4, 4), (512, 512))
    assert last == ("pixel ghost", 16**2 * 512 + 16**2 * (9 + 512))
    strided = choose_convolution(WINDOWS["stride 2"], (8, 8), (4, 4), (256, 512))
    assert strided == ("ghost", 16**2 * (9 * 256 + 512))
    assert choose_dense(1, 512, 10) == ("ghost", 522)
    assert choose_dense(100, 8, 10) == ("product", 8000)


def test_no_other_form_would_cost_less():
    for side, channels in itertools.product((2, 4, 8, 16), (8, 32, 128)):
        outputs, width = (side, side), (channels, channels)
        chosen = choose_convolution(WINDOWS["3x3"], outputs, outputs, width)
        positions = side * side
        product = positions * 9 * channels**2
        assert chosen.multiply_adds <= min(product, positions**2 * 10 * channels)
