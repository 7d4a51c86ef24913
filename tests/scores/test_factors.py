"""Gradients as factors equal the gradients that NumPy forms in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import (
    Gradients,
    cosine_similarity,
    distances,
    inner_products,
    last_layer_gradients,
    products_with,
    squared_lengths,
    unit_gradients,
    weighted_sum,
)


@pytest.fixture
def formed():
    """Factors of 12 and of 5 examples, and their gradients [n, k, d + 1]."""
    rng = np.random.default_rng(0)
    sets = []
    for count in (12, 5):
        logits, features = rng.normal(size=(count, 4)), rng.normal(size=(count, 7))
        labels = rng.integers(0, 4, count)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        errors = p - np.eye(4)[labels]
        with_bias = np.concatenate([np.ones((count, 1)), features], axis=1)
        factors = last_layer_gradients(
            jnp.asarray(logits, jnp.float32),
            jnp.asarray(labels, jnp.int32),
            jnp.asarray(features, jnp.float32),
        )
        sets.append((factors, errors[:, :, None] * with_bias[:, None]))
    return sets


def test_inner_products_are_those_of_the_gradients(formed):
    (left, a), (right, b) = formed
    expected = np.einsum("nke,mke->nm", a, b)
    np.testing.assert_allclose(inner_products(left, right), expected, atol=2e-6)
    np.testing.assert_allclose(
        squared_lengths(left), np.square(a).sum((1, 2)), rtol=1e-5
    )


def test_distances_and_cosines_are_those_of_the_gradients(formed):
    (left, a), (right, b) = formed
    apart = np.sqrt(np.square(a[:, None] - b[None]).sum((2, 3)))
    np.testing.assert_allclose(distances(left, right), apart, atol=1e-5)
    lengths = [np.sqrt(np.square(x).sum((1, 2))) for x in (a, b)]
    cosines = np.einsum("nke,mke->nm", a, b) / np.outer(*lengths)
    np.testing.assert_allclose(
        cosine_similarity(left, right), (1 + cosines) / 2, atol=1e-6
    )


def test_a_weighted_sum_and_its_products_are_those_of_the_gradients(formed):
    (left, a), (right, b) = formed
    weights = np.linspace(-1, 2, 12)
    total = np.einsum("n,nke->ke", weights, a)
    matrix = weighted_sum(left, jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(matrix, total, atol=1e-5)
    np.testing.assert_allclose(
        products_with(right, matrix), np.einsum("nke,ke->n", b, total), atol=1e-5
    )


def test_a_gradient_of_length_zero_stays_zero_and_others_get_length_one():
    errors = jnp.asarray([[0.0, 0.0], [3.0, -3.0]], jnp.float32)
    units = unit_gradients(Gradients(errors, jnp.ones((2, 3), jnp.float32)))
    np.testing.assert_allclose(squared_lengths(units), [0.0, 1.0], rtol=1e-6)
