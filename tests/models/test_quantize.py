"""Weights of few bits against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.models.quantize import (
    dequantize,
    quantize,
    quantized_params,
    straight_through,
)

RNG = np.random.default_rng(0)
KERNEL = (RNG.normal(size=(3, 3, 5, 4)) * [1e-3, 1.0, 40.0, 0.0]).astype(np.float32)
PARAMS = {
    "stem": {"kernel": jnp.asarray(KERNEL)},
    "norm": {"scale": jnp.asarray(RNG.normal(size=4), jnp.float32)},
    "head": {
        "kernel": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
        "bias": jnp.asarray(RNG.normal(size=4), jnp.float32),
    },
}


def nearest(kernel, bits):
    """Round each channel alone, in float64."""
    rounded = np.zeros(kernel.shape)
    for channel in range(kernel.shape[-1]):
        held = kernel[..., channel].astype(np.float64)
        step = np.abs(held).max() / (2 ** (bits - 1) - 1)
        rounded[..., channel] = step * np.round(held / step) if step else 0.0
    return rounded


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_kernel_is_the_nearest_multiple_of_the_scale_of_its_channel(bits):
    got = quantize(jnp.asarray(KERNEL), bits)
    assert got.values.dtype == jnp.int8
    most = 2 ** (bits - 1) - 1
    np.testing.assert_array_equal(np.abs(got.values).max((0, 1, 2)), [most] * 3 + [0])
    np.testing.assert_allclose(dequantize(got), nearest(KERNEL, bits), rtol=1e-5)
    # half a step is the most that a weight moves
    moved = np.abs(dequantize(got) - KERNEL).max((0, 1, 2))
    assert np.all(moved <= np.asarray(got.scale) * 0.501)


def test_what_is_quantized_stays_as_it_is():
    once = quantize(jnp.asarray(KERNEL), 8)
    again = quantize(dequantize(once), 8)
    np.testing.assert_array_equal(once.values, again.values)
    np.testing.assert_allclose(dequantize(once), dequantize(again), rtol=1e-6)


def test_only_kernels_are_rounded():
    got = quantized_params(PARAMS, 3)
    for layer, name in (("norm", "scale"), ("head", "bias")):
        np.testing.assert_array_equal(got[layer][name], PARAMS[layer][name])
    for layer in ("stem", "head"):
        expected = nearest(np.asarray(PARAMS[layer]["kernel"]), 3)
        np.testing.assert_allclose(got[layer]["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("on", [False, True])
def test_the_gradient_passes_through_the_rounding(on):
    images = jnp.asarray(RNG.normal(size=(2, 6)), jnp.float32)

    def loss(params):
        return jnp.sum(jnp.tanh(images @ params["head"]["kernel"]) ** 2)

    through = jax.value_and_grad(lambda p: loss(straight_through(p, 3, jnp.array(on))))
    value, gradient = through(PARAMS)
    at = quantized_params(PARAMS, 3) if on else PARAMS
    expected_value, expected = jax.value_and_grad(loss)(at)
    np.testing.assert_array_equal(value, expected_value)
    np.testing.assert_allclose(
        gradient["head"]["kernel"], expected["head"]["kernel"], rtol=1e-3, atol=1e-6
    )
    assert np.abs(gradient["head"]["kernel"]).max() > 0.1
