import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dpet_jax.models import conv
from dpet_jax.models.conv import (
    canonical_convolution,
    canonical_gradients,
    convolution,
    convolution_of_groups,
    native_convolution,
    native_gradients,
    pixels_at_once,
    product_convolution,
)


def loop(images, kernel, stride, cotangent=None):
    """Convolve pixel by pixel in float64; with a cotangent return the gradients."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    side, pad = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (-(-size // stride) for size in images.shape[1:3])
    output = np.zeros((len(images), height, width, kernel.shape[-1]))
    of_padded, of_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(height, width):
        rows, columns = (slice(s * stride, s * stride + side) for s in (i, j))
        patch = padded[:, rows, columns]
        output[:, i, j] = np.tensordot(patch, kernel, 3)
        if cotangent is not None:
            here = np.asarray(cotangent, np.float64)[:, i, j]
            of_padded[:, rows, columns] += np.tensordot(here, kernel, (1, 3))
            of_kernel += np.tensordot(patch, here, (0, 0))
    if cotangent is None:
        return output
    inside = slice(pad, pad + images.shape[1]), slice(pad, pad + images.shape[2])
    return of_padded[:, *inside], of_kernel


def draw(side, stride, size, channels):
    rng = np.random.default_rng(0)
    out = tuple(-(-s // stride) for s in size)
    shapes = (2, *size, channels[0]), (side, side, *channels), (2, *out, channels[1])
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def assert_close(got, expected):
    got = np.asarray(got)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


every_shape = pytest.mark.parametrize(
    ("side", "stride", "size"),
    [
        *((k, s, size) for k in (1, 3) for s in (1, 2) for size in ((8, 5), (7, 6))),
        (5, 1, (4, 7)),
        (5, 2, (7, 4)),
        (3, 3, (7, 6)),
        (3, 1, (2, 1)),
        (3, 2, (1, 2)),
    ],
)


@every_shape
def test_all_forms_and_gradients_equal_a_loop_over_pixels(side, stride, size):
    @jax.jit
    def everything(images, kernel, cotangent):
        outputs = [
            form(images, kernel, stride)
            for form in (
                native_convolution,
                product_convolution,
                canonical_convolution,
                convolution,
            )
        ]
        chosen = jax.vjp(partial(convolution, stride=stride), images, kernel)[1]
        gradients = [
            native_gradients(stride, images, kernel, cotangent),
            canonical_gradients(stride, images, kernel, cotangent),
            chosen(cotangent),
        ]
        return outputs, gradients

    images, kernel, cotangent = draw(side, stride, size, (3, 5))
    outputs, gradients = everything(images, kernel, cotangent)
    for output in outputs:
        assert_close(output, loop(images, kernel, stride))
    for of_images, of_kernel in gradients:
        expected = loop(images, kernel, stride, cotangent)
        assert_close(of_images, expected[0])
        assert_close(of_kernel, expected[1])


@pytest.mark.parametrize("part_bytes", [1, 2**20])
@every_shape
def test_gradients_of_large_images_equal_a_loop_over_pixels(
    side, stride, size, part_bytes, monkeypatch
):
    monkeypatch.setattr(conv, "_NATIVE_PIXELS", 1)
    monkeypatch.setattr(conv, "_PART_BYTES", part_bytes)
    images, kernel, cotangent = draw(side, stride, size, (3, 5))
    gradients = jax.jit(partial(canonical_gradients, stride))
    expected = loop(images, kernel, stride, cotangent)
    for got, wanted in zip(gradients(images, kernel, cotangent), expected, strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("at_once", [2, 3, 4])
@every_shape
def test_several_pixels_at_once_equal_a_loop_over_pixels(side, stride, size, at_once):
    images, kernel, _ = draw(side, stride, size, (3, 5))
    margins = [(side // 2, side // 2)] * 2
    several = partial(
        convolution_of_groups, stride=stride, margins=margins, size=at_once
    )
    output = jax.jit(several)(images, kernel)
    assert_close(output, loop(images, kernel, stride))


def test_few_channels_take_several_pixels_at_once():
    assert [pixels_at_once(16, outputs) for outputs in (4, 8, 12, 16, 24)] == [
        8,
        4,
        2,
        2,
        1,
    ]
    assert pixels_at_once(24, 8) == 1
    # pictures of three channels are worth more
    assert [pixels_at_once(3, outputs) for outputs in (8, 16, 32, 64)] == [8, 4, 2, 1]


@pytest.mark.parametrize(("dtype", "at_once"), [("float32", 4), ("bfloat16", 1)])
def test_only_float32_computes_several_pixels_at_once(dtype, at_once):
    images, kernel = jnp.zeros((2, 8, 8, 8), dtype), jnp.zeros((3, 3, 8, 8), dtype)
    text = str(jax.make_jaxpr(partial(canonical_convolution, stride=1))(images, kernel))
    (strides,) = re.findall(r"window_strides=\((\d+), (\d+)\)", text)
    assert strides == ("1", str(at_once))


def test_a_batch_is_taken_apart_by_a_divisor_or_not_at_all():
    assert conv._part(128, conv._PART_BYTES // 10) == 8
    assert conv._part(96, conv._PART_BYTES // 13) == 12
    assert conv._part(127, conv._PART_BYTES // 10) == 127
    assert conv._part(7, conv._PART_BYTES // 10) == 7
    assert conv._part(4, 2 * conv._PART_BYTES) == 1


def test_stride_two_pads_one_pixel_on_both_sides():
    # 'SAME' would start at pixel 0 and see the ones at rows 0 to 2: 3, not 2
    images = jnp.ones((1, 4, 1, 1))
    column = jnp.zeros((3, 3, 1, 1)).at[:, 1].set(1.0)
    output = native_convolution(images, column, 2)
    np.testing.assert_array_equal(output[0, :, 0, 0], [2.0, 3.0])


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_inside_a_loop_body_equal_those_outside(stride):
    images, kernel, cotangent = draw(3, stride, (7, 6), (3, 5))

    def gradients(images, kernel):
        return jax.vjp(partial(convolution, stride=stride), images, kernel)[1](
            cotangent
        )

    @jax.jit
    def looped(images, kernel):
        def body(_, total):
            return jax.tree.map(jnp.add, total, gradients(images, kernel))

        zero = jnp.zeros_like(images), jnp.zeros_like(kernel)
        return lax.fori_loop(0, 3, body, zero)

    for inside, outside in zip(
        looped(images, kernel), jax.jit(gradients)(images, kernel), strict=True
    ):
        assert_close(inside, 3.0 * np.asarray(outside))


# images of 8 x 8 and more are the CPU's own convolution's
@pytest.mark.parametrize(
    ("size", "maps", "products"), [((7, 8), 0, 11), ((8, 8), 5, 1)]
)
def test_the_cpu_multiplies_matrices_and_convolves_only_large_images(
    size, maps, products
):
    text = lowered("cpu", size)
    assert results_of(text) == ["b, 0, 1, f"] * maps
    # 9 kernel positions, the image gradient and the way forward; of large images the
    # gradient by the kernel, and convolutions: forward, and of each place by the stride
    assert len(re.findall(r"= stablehlo\.dot_general", text)) == products


@pytest.mark.parametrize("size", [(8, 8), (16, 16)])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_convolutions_alone(platform, size):
    text = lowered(platform, size)
    assert "stablehlo.dot_general" not in text
    # forward, image gradient, and the kernel gradient, whose result is a kernel
    assert sorted(results_of(text)) == ["0, 1, b, f", "b, 0, 1, f", "b, 0, 1, f"]


@pytest.mark.parametrize(("by", "layout"), [(0, "b, 0, 1, f"), (1, "0, 1, b, f")])
def test_only_the_gradient_that_is_asked_for_is_formed(by, layout):
    images, kernel, cotangent = draw(3, 1, (5, 4), (3, 5))

    def loss(images, kernel):
        return jnp.sum(convolution(images, kernel, 1) * cotangent)

    gradient = jax.jit(jax.grad(loss, by))
    expected = loop(images, kernel, 1, cotangent)[by]
    assert_close(gradient(images, kernel), expected)
    traced = gradient.trace(images, kernel)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert results_of(text) == [layout]


def lowered(platform, size):
    images, kernel, cotangent = draw(3, 2, size, (3, 5))

    def loss(images, kernel):
        return jnp.sum(convolution(images, kernel, 2) * cotangent)

    traced = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(images, kernel)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def results_of(text):
    return re.findall(r"stablehlo\.convolution.*?->\[(.*?)\]", text)


@pytest.mark.parametrize("size", [(7, 6), (9, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_results_have_the_dtype_of_the_images(stride, size):
    arrays = [x.astype(jnp.bfloat16) for x in draw(3, stride, size, (3, 5))]
    output = jax.eval_shape(partial(canonical_convolution, stride=stride), *arrays[:2])
    gradients = jax.eval_shape(partial(canonical_gradients, stride), *arrays)
    assert {x.dtype for x in (output, *gradients)} == {jnp.dtype("bfloat16")}
