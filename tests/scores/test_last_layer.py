import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import el2n, grand_last_layer, last_layer_gram
from dpet_jax.scores.error import error_vector

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

    per_example = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))
    by_kernel, by_bias = per_example((kernel, bias), features, labels)
    return jnp.concatenate([by_kernel.reshape(N, -1), by_bias], axis=1)


def test_grand_equals_the_length_of_the_gradient_in_float64(variant, examples):
    got = variant(grand_last_layer)(*examples)
    exact = np.linalg.norm(reference_gradients(*examples), axis=1)
    np.testing.assert_allclose(got, exact, rtol=2e-6)


def test_grand_equals_the_length_of_what_autodiff_derives(layer, examples):
    got = jax.vmap(grand_last_layer)(*examples)
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
        jax.vmap(grand_last_layer)(logits, labels, jnp.zeros_like(features)),
        jax.vmap(el2n)(logits, labels),
        rtol=1e-6,
    )


def test_grand_ignores_a_shift_of_the_logits_and_a_rotation_of_the_features(examples):
    logits, labels, features = examples
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    turned = features @ jnp.asarray(rotation, jnp.float32)
    got = jax.vmap(grand_last_layer)(logits + 3.0, labels, turned)
    expected = jax.vmap(grand_last_layer)(*examples)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_grand_follows_the_order_of_classes_with_the_label(examples):
    logits, labels, features = examples
    got = jax.vmap(grand_last_layer)(logits[:, ::-1], K - 1 - labels, features)
    expected = jax.vmap(grand_last_layer)(*examples)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_logits_and_features_are_scored_in_float32(dtype, examples):
    logits, labels, features = examples
    narrow = logits.astype(dtype), labels, (100 * features).astype(dtype)
    got = jax.vmap(grand_last_layer)(*narrow)
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


def test_the_error_vector_is_the_gradient_by_the_logits(variant, examples):
    logits, labels, _ = examples

    def loss(logits, label):
        return -jax.nn.log_softmax(logits)[label]

    got = variant(error_vector)(logits, labels)
    np.testing.assert_allclose(
        got, jax.vmap(jax.grad(loss))(logits, labels), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(np.sum(got, axis=1), 0.0, atol=1e-7)


@pytest.mark.parametrize("compile_it", [False, True])
def test_the_gram_matrix_holds_all_inner_products_of_gradients(
    compile_it, layer, examples
):
    gram = jax.jit(last_layer_gram) if compile_it else last_layer_gram
    got = gram(*examples)
    assert got.dtype == jnp.float32
    exact = reference_gradients(*examples)
    np.testing.assert_allclose(got, exact @ exact.T, rtol=1e-5, atol=1e-5)
    derived = autodiff_gradients(*layer)
    np.testing.assert_allclose(got, derived @ derived.T, rtol=1e-4, atol=1e-4)


def test_the_diagonal_of_the_gram_matrix_is_grand_squared(examples):
    np.testing.assert_allclose(
        jnp.diagonal(last_layer_gram(*examples)),
        jax.vmap(grand_last_layer)(*examples) ** 2,
        rtol=1e-5,
    )


def test_the_gram_matrix_permutes_with_its_examples(examples):
    order = jnp.array([4, 0, 8, 3, 1, 2, 7, 6, 5])
    permuted = last_layer_gram(*(each[order] for each in examples))
    gram = last_layer_gram(*examples)
    np.testing.assert_allclose(permuted, gram[order][:, order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gram, gram.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_multiply_the_gram_matrix_in_full_float32(platform, examples):
    traced = jax.jit(last_layer_gram).trace(*examples)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 2
    assert all("HIGHEST" in line for line in products)
