"""Selectors under `jax_enable_x64` pick as without it; traced, they say why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import Gradients
from dpet_jax.selection import (
    Validation,
    badge,
    blend,
    craig,
    facility_location,
    facility_location_of_gradients,
    glister,
    grad_match,
    grad_match_batches,
    graph_cut,
    graph_cut_of_gradients,
    herding,
    k_center,
    top_k,
)
from dpet_jax.selection.by_name import SELECTORS, Examples, run_selector
from dpet_jax.selection.ranking import descending

N, K, D = 6, 3, 4
RNG = np.random.default_rng(0)
ERRORS, FEATURES = RNG.normal(size=(N, K)), RNG.normal(size=(N, D))
LABELS = np.array([0, 1, 2, 0, 1, 2])


def every_selector(floating, integer):
    """Call all of them on arrays of these dtypes."""
    errors, features = (jnp.asarray(rows, floating) for rows in (ERRORS, FEATURES))
    gradients = Gradients(errors, features)
    labels = jnp.asarray(LABELS, integer)
    similarity = jnp.square(features @ features.T)
    key = jax.random.key(0)
    stochastic = {"greedy": "stochastic", "key": key}
    yield facility_location(similarity, 4)
    yield facility_location(similarity, 4, greedy="exact")
    yield facility_location(similarity, 4, **stochastic)
    yield facility_location_of_gradients(gradients, 4)
    yield graph_cut(similarity, 4)
    yield graph_cut_of_gradients(gradients, 4)
    yield craig(gradients, LABELS, 4)
    yield badge(gradients, 4, key=key)
    yield grad_match(gradients, 4)
    yield grad_match_batches(gradients, labels[:4].reshape(2, 2) + 1, 1)
    yield glister(gradients, Validation(errors, labels, features), 4, learning_rate=0.1)
    yield k_center(features, 4, start=labels[1:3])
    yield k_center(features, 4, key=key)
    yield herding(features, 4)
    yield top_k(errors[:, 0], 4), None, None
    yield descending(blend(errors[:, 0], errors[:, 1], 0.3), key=key)[0], None, None
    examples = Examples(errors, features, LABELS, K)
    for name in SELECTORS:
        yield run_selector(name, examples, 4)


def test_wide_numbers_change_no_pick():
    # float64 similarities ended in a TypeError about the carry of a loop
    expected = list(every_selector(jnp.float32, jnp.int32))
    with jax.enable_x64(True):
        got = list(every_selector(jnp.float64, jnp.int64))
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[0].dtype == np.int32


def test_what_float32_cannot_hold_is_refused():
    with (
        jax.enable_x64(True),
        pytest.raises(ValueError, match="not finite in float32"),
    ):
        herding(jnp.full((3, 2), 1e300), 1)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_traced_selectors_say_that_they_are_called_outside(transform):
    rows = jnp.ones((2, N, D))
    square = jnp.ones((2, N, N))
    keyed = {"key": jax.random.key(0)}
    for select in (
        lambda x: herding(x, 1),
        lambda x: k_center(x, 1),
        lambda x: top_k(x[:, 0], 1),
        lambda x: badge(Gradients(x, x), 1, **keyed),
        lambda x: craig(Gradients(x, x), LABELS, 1),
        lambda x: grad_match(Gradients(x, x), 1),
        lambda x: graph_cut_of_gradients(Gradients(x, x), 1),
        lambda x: glister(
            Gradients(x, x), Validation(x, LABELS, x), 1, learning_rate=0.1
        ),
        lambda x: run_selector("herding", Examples(x, x, LABELS, D), 1),
    ):
        with pytest.raises(ValueError, match=r"is called outside jax\.jit"):
            transform(select)(rows if transform is jax.vmap else rows[0])
    for select in (facility_location, graph_cut):
        with pytest.raises(ValueError, match=rf"{select.__name__} is called outside"):
            transform(lambda x, select=select: select(x, 1))(
                square if transform is jax.vmap else square[0]
            )
