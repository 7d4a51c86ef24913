"""Gradients by the last layer, never formed, against those that are: float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import el2n, factors, grand_last_layer, last_layer_gram
from dpet_jax.scores.error import error_vector
from dpet_jax.scores.factors import Gradients, last_layer_gradients

N, D, K = 9, 7, 5


@pytest.fixture(scope="module")
def layer():
    """A last layer, the features it reads and the labels it should predict."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(D, K)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=K), jnp.float32)
    features = jnp.asarray(rng.normal(size=(N, D)), jnp.float32)
    return kernel, bias, features, jnp.asarray(rng.integers(0, K, N), jnp.int32)


@pytest.fixture(scope="module")
def examples(layer):
    kernel, bias, features, labels = layer
    return features @ kernel + bias[None], labels, features


def reference_gradients(logits, labels, features):
    """Every example's gradient by kernel and bias, float64[n, (d + 1) k]."""
    logits, features = (np.asarray(a, np.float64) for a in (logits, features))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    error = p / p.sum(-1, keepdims=True) - np.eye(logits.shape[1])[np.asarray(labels)]
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    return (inputs[:, :, None] * error[:, None, :]).reshape(len(features), -1)


def autodiff_gradients(kernel, bias, features, labels):
    def loss(weights, features, label):
        logits = features @ weights[0] + weights[1]
        return -jax.nn.log_softmax(logits)[label]

    per_example = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, 0)))
    by_kernel, by_bias = per_example((kernel, bias), features, labels)
    return jnp.concatenate([by_kernel.reshape(N, -1), by_bias], axis=1)


def grand(*examples):
    return jax.jit(jax.vmap(grand_last_layer))(*examples)


def test_grand_equals_the_length_of_the_gradient_in_float64(examples):
    exact = np.linalg.norm(reference_gradients(*examples), axis=1)
    np.testing.assert_allclose(grand(*examples), exact, rtol=2e-6)


def test_grand_equals_the_length_of_what_autodiff_derives(layer, examples):
    got = grand(*examples)
    lengths = jnp.linalg.norm(autodiff_gradients(*layer), axis=1)
    np.testing.assert_allclose(got, lengths, rtol=1e-5)


def test_grand_of_one_hand_computed_example():
    # p = (1/2, 1/2), so the error is (-1/2, 1/2); features of length 3
    score = grand_last_layer(
        jnp.zeros(2), jnp.int32(0), jnp.array([1.0, 2.0, 2.0], jnp.float32)
    )
    np.testing.assert_allclose(score, 5**0.5, rtol=1e-6)


def test_without_features_only_the_bias_is_left(examples):
    logits, labels, features = examples
    np.testing.assert_allclose(
        grand(logits, labels, jnp.zeros_like(features)),
        jax.jit(jax.vmap(el2n))(logits, labels),
        rtol=1e-6,
    )


def test_grand_ignores_a_shift_of_the_logits_and_a_rotation_of_the_features(examples):
    logits, labels, features = examples
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    turned = features @ jnp.asarray(rotation, jnp.float32)
    got = grand(logits + 3.0, labels, turned)
    expected = grand(*examples)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_grand_follows_the_order_of_classes_with_the_label(examples):
    logits, labels, features = examples
    got = grand(logits[:, ::-1], K - 1 - labels, features)
    expected = grand(*examples)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_narrow_logits_and_features_are_scored_in_float32(examples):
    logits, labels, features = examples
    dtype = jnp.bfloat16
    narrow = logits.astype(dtype), labels, (100 * features).astype(dtype)
    got = grand(*narrow)
    assert got.dtype == jnp.float32
    wide = narrow[0].astype(jnp.float32), labels, narrow[2].astype(jnp.float32)
    exact = np.linalg.norm(reference_gradients(*wide), axis=1)
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_grand_of_a_confident_and_right_example_keeps_its_digits():
    logits, label = jnp.array([25.0, 0.0, 1.0]), jnp.int32(0)
    features = jnp.array([3.0, 4.0])
    left = np.exp([-25.0, -24.0])
    exact = np.sqrt((left.sum() ** 2 + (left**2).sum()) * 26) / (1 + left.sum())
    np.testing.assert_allclose(
        grand_last_layer(logits, label, features), exact, rtol=3e-6
    )


def test_the_error_vector_is_the_gradient_by_the_logits(examples):
    logits, labels, _ = examples

    def loss(logits, label):
        return -jax.nn.log_softmax(logits)[label]

    got = jax.jit(jax.vmap(error_vector))(logits, labels)
    expected = jax.jit(jax.vmap(jax.grad(loss)))(logits, labels)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.sum(got, axis=1), 0.0, atol=1e-7)


def gram(*examples):
    return jax.jit(last_layer_gram)(*examples)


def test_the_gram_matrix_holds_all_inner_products_of_gradients(layer, examples):
    got = gram(*examples)
    assert got.dtype == jnp.float32
    exact = reference_gradients(*examples)
    np.testing.assert_allclose(got, exact @ exact.T, rtol=1e-5, atol=1e-5)
    derived = autodiff_gradients(*layer)
    np.testing.assert_allclose(got, derived @ derived.T, rtol=1e-4, atol=1e-4)


def test_the_diagonal_of_the_gram_matrix_is_grand_squared(examples):
    np.testing.assert_allclose(
        np.diagonal(gram(*examples)),
        grand(*examples) ** 2,
        rtol=1e-5,
    )


def test_the_gram_matrix_permutes_with_its_examples(examples):
    order = jnp.array([4, 0, 8, 3, 1, 2, 7, 6, 5])
    permuted = gram(*(each[order] for each in examples))
    straight = np.asarray(gram(*examples))
    expected = straight[order][:, order]
    np.testing.assert_allclose(permuted, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(straight, straight.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_multiply_the_gram_matrix_in_full_float32(platform, examples):
    traced = jax.jit(last_layer_gram).trace(*examples)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 2
    assert all("HIGHEST" in line for line in products)


# factors of two sets

inner_products = jax.jit(factors.inner_products)
squared_lengths = jax.jit(factors.squared_lengths)
unit_gradients = jax.jit(factors.unit_gradients)
cosine_similarity = jax.jit(factors.cosine_similarity)
distances = jax.jit(factors.distances)
weighted_sum = jax.jit(factors.weighted_sum)
products_with = jax.jit(factors.products_with)


@pytest.fixture(scope="module")
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
        gradients = jax.jit(last_layer_gradients)(
            jnp.asarray(logits, jnp.float32),
            jnp.asarray(labels, jnp.int32),
            jnp.asarray(features, jnp.float32),
        )
        sets.append((gradients, errors[:, :, None] * with_bias[:, None]))
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
