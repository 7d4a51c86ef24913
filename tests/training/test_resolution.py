"""Sizes by visits, and steps on shrunk images against NumPy."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from fakes.networks import BATCH, NUM, NUM_TRAIN, TINY, bright_images, device_data
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.data.augment import Augmentation
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.resolution import FULL, Resolution, shrunk
from dpet_jax.training.schedule import Constant, traced_schedule
from dpet_jax.training.state import StepSpec, init_state
from dpet_jax.training.steps import Hyper, train_steps
from dpet_jax.training.traced import numbers_of, without_numbers

TWO = Resolution.of_shares(((0.25, 4), (0.5, 6)), 400)


def test_shares_of_the_visits_end_the_sizes():
    found = [TWO.pixels(visits) for visits in (0, 99, 100, 199, 200, 10**9)]
    assert found == [4, 4, 6, 6, None, None]
    assert (TWO.sizes, FULL.sizes, FULL.pixels(0)) == ((4, 6), (), None)


def test_steps_of_a_size_end_with_the_first_that_reaches_its_end():
    left = [TWO.steps_left(visits, 30) for visits in (0, 90, 99, 100, 120, 199)]
    assert left == [4, 1, 1, 4, 3, 1]
    assert TWO.steps_left(200, 30) == FULL.steps_left(0, 30) == sys.maxsize


def test_a_size_is_that_of_the_shorter_side():
    assert shrunk((8, 8), None) == (8, 8)
    assert shrunk((8, 8), 5) == (5, 5)
    assert shrunk((32, 48), 16) == (16, 24)
    assert shrunk((48, 32), 10) == (15, 10)


def kernel(large, small):
    """Weights of a triangle as wide as two small pixels, of each small pixel."""
    scale = large / small
    centres = (np.arange(small) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(large)[None] - centres[:, None]) / scale
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("pixels", [4, 6])
def test_a_step_trains_on_images_shrunk_by_a_triangle(pixels):
    mesh = data_mesh(1)
    static = without_numbers(Sgd())
    spec = StepSpec(TINY, static, BATCH, "float32", mesh)
    still = Augmentation(np.int32(0), np.bool_(False), np.int32(0))
    hyper = Hyper(
        traced_schedule(Constant(), 0.0), numbers_of(Sgd()), np.float32(0), still
    )
    draw = jax.jit(init_state, static_argnums=(0, 1, 2))
    state = draw(TINY, static, NUM_TRAIN, jax.random.key(1))
    rows = np.zeros(NUM_TRAIN, np.int32)
    rows[:BATCH] = [3, 1, 7, 2]
    images, labels = (one[rows[:BATCH]] for one in bright_images(NUM))
    weights = kernel(8, pixels)
    small = np.einsum("ij,bjkc,lk->bilc", weights, (images / 255 - 0.5) / 0.25, weights)
    outputs, _ = jax.jit(TINY.apply_train)(
        state.key, state.params, state.batch_stats, small.astype(np.float32)
    )
    log_p = np.asarray(jax.nn.log_softmax(outputs.logits))
    expected = -log_p[np.arange(BATCH), labels]
    ones = np.ones(NUM_TRAIN, np.float32)
    given = (state, device_data(), rows, np.int32(1), np.int32(0), ones, hyper)
    place = NamedSharding(mesh, PartitionSpec())
    after, _ = train_steps(replace(spec, pixels=pixels), *jax.device_put(given, place))
    np.testing.assert_allclose(after.losses[rows[:BATCH]], expected, rtol=2e-4)
