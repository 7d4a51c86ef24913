"""Gradient norms of rows on the device, and the operations counted for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.data.augment import normalise
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.scores import gradient_norms
from dpet_jax.scores.pool import ScoreSpec
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.grand import gradient_norm_flops, gradient_norms_of_data
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.state import DeviceData

MODEL = ResidualNetwork(8, (8, 16), (1, 1), 3, 1)
SPEC = ScoreSpec(MODEL, (), 4, "float32", data_mesh())
NUM, SIDE, CAPACITY = 11, 6, 12


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    data = DeviceData(
        jnp.asarray(rng.integers(0, 256, (NUM, SIDE, SIDE, 1)), jnp.uint8),
        jnp.asarray(rng.integers(0, 3, NUM), jnp.int32),
        jnp.full(1, 0.4),
        jnp.full(1, 0.3),
    )
    params, stats = jax.jit(MODEL.init)(jax.random.key(0))
    images = normalise(data.images, data.mean, data.std)
    norms = gradient_norms(MODEL.bind(stats), params, images, data.labels)
    return data, params, stats, np.asarray(norms)


def scored(pool, rows):
    data, params, stats, _ = pool
    padded = np.zeros(CAPACITY, np.int32)
    padded[: len(rows)] = rows
    return np.asarray(
        gradient_norms_of_data(
            SPEC, params, stats, data, *jax.device_put((padded, np.int32(len(rows))))
        )
    )


@pytest.mark.parametrize("rows", [range(NUM), [7, 0, 10], [3], []])
def test_rows_get_the_norms_of_their_examples_and_nothing_behind_them(pool, rows):
    rows = np.array(rows, np.int32)
    norms = scored(pool, rows)
    np.testing.assert_allclose(norms[: rows.size], pool[3][rows], rtol=1e-5)
    assert np.all(norms[rows.size :] == -np.inf)


def test_no_number_of_rows_compiles_again(pool):
    scored(pool, [1])
    before = compile_counts()
    for count in (2, 5, 11):
        scored(pool, np.arange(count))
    assert compile_counts().since(before).programs == 0


def test_flops_are_two_passes_and_the_lengths():
    # by hand, at 6 x 6: multiply-adds of each kernel's length in its cheapest form
    stem = 36 * 9 * 1 * 8
    same = 36 * 9 * 8 * 8
    halved = min(9 * 9 * 8 * 16, 9**2 * (9 * 8 + 16))
    last = 9**2 * 16 + 9**2 * (9 + 16)
    shortcut = min(9 * 8 * 16, 9**2 * (8 + 16))
    head = 16 + 3
    lengths = stem + 2 * same + halved + last + shortcut + head
    # no gradient goes to the images
    passes = 2 * MODEL.forward_flops(SIDE, SIDE) - 2 * stem
    assert gradient_norm_flops(MODEL, SIDE, SIDE) == passes + 2 * lengths


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_norms_in_bfloat16_lower_for_accelerators(pool, platform):
    data, params, stats, _ = pool
    spec = ScoreSpec(MODEL, (), 4, "bfloat16", data_mesh())
    rows, count = np.zeros(CAPACITY, np.int32), np.int32(3)
    traced = gradient_norms_of_data.trace(spec, params, stats, data, rows, count)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    convolutions = [
        line for line in text.splitlines() if "stablehlo.convolution" in line
    ]
    assert convolutions
    assert all(line.rstrip().endswith("xbf16>") for line in convolutions)
