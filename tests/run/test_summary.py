"""The gallery of a run; the rest of a summary is in test_experiment."""

import numpy as np

from dpet_jax.config.load import validate
from dpet_jax.methods.base import Coreset
from dpet_jax.run import build as parts
from dpet_jax.run import summary


def coreset(size):
    return Coreset(
        np.arange(size, dtype=np.int32)[::-1].copy(),
        np.zeros(size, np.int32),
        np.linspace(1, 0, size).astype(np.float32),
    )


def test_the_gallery_holds_the_first_and_the_last_to_enter():
    data = parts.build_data(validate({}, "test"))
    chosen = coreset(200)
    gallery = summary._gallery(chosen, data)
    np.testing.assert_array_equal(gallery["entered"], [*range(32), *range(168, 200)])
    rows = chosen.indices[gallery["entered"]]
    np.testing.assert_array_equal(gallery["images"], data.images[rows])
    np.testing.assert_array_equal(gallery["score"], chosen.scores[gallery["entered"]])


def test_a_small_gallery_holds_each_example_once():
    data = parts.build_data(validate({}, "test"))
    for size in (0, 1, 40):
        gallery = summary._gallery(coreset(size), data)
        np.testing.assert_array_equal(gallery["entered"], np.arange(size))
