"""The shared softmax, and what it is for: scores that keep their digits near 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import SCORES
from dpet_jax.scores.softmax import gaps_below_best, weights_beside

CONFIDENT = ("margin", "entropy", "least_confidence", "cross_entropy", "el2n")


@pytest.fixture(scope="module")
def confident():
    """Right predictions that leave 1e-1 to 1e-12 to the other classes."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 6))
    labels = rng.integers(0, 6, 40)
    logits[np.arange(40), labels] += np.linspace(4, 30, 40)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32)


def reference(name, logits, labels):
    """The score in float64 from e^(z - z_1), whose sums need no subtraction from 1."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    ordered = -np.sort(-logits, axis=-1)
    rest = np.exp(ordered[:, 1:] - ordered[:, :1])
    left = rest.sum(-1)
    if name == "margin":
        return (left + rest[:, 0]) / (1 + left)
    if name == "least_confidence":
        return left / (1 + left)
    if name == "cross_entropy":
        return np.log1p(left)
    if name == "el2n":
        return np.sqrt(left**2 + (rest**2).sum(-1)) / (1 + left)
    p = np.concatenate([np.ones((len(rest), 1)), rest], -1) / (1 + left)[:, None]
    return p[:, 0] * np.log1p(left) - (p[:, 1:] * np.log(p[:, 1:])).sum(-1)


@pytest.mark.parametrize("name", CONFIDENT)
def test_scores_of_confident_examples_keep_six_digits(name, variant, confident):
    got = variant(SCORES[name])(*confident)
    np.testing.assert_allclose(got, reference(name, *confident), rtol=3e-6)


@pytest.mark.parametrize("name", CONFIDENT)
def test_scores_of_confident_examples_differ(name, confident):
    assert np.unique(jax.vmap(SCORES[name])(*confident)).size == 40


@pytest.mark.parametrize("name", CONFIDENT)
def test_the_last_bit_of_a_logit_moves_a_score_by_its_own_size_only(name, confident):
    logits, labels = confident
    nudged = jnp.nextafter(logits, jnp.inf)
    got, other = (jax.vmap(SCORES[name])(each, labels) for each in (logits, nudged))
    # 2e-6 is the last bit of a logit of 30
    np.testing.assert_allclose(got, other, rtol=5e-6)


@pytest.mark.parametrize("name", CONFIDENT)
def test_scores_tell_examples_apart_down_to_the_smallest_float(name):
    # what is left over is 1e-22, whose square no float32 holds
    logits = jnp.array([50.0, 0.0, -1.0])
    got = SCORES[name](logits, jnp.int32(0))
    exact = reference(name, np.asarray(logits)[None], [0])[0]
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_gaps_are_float32_distances_from_the_largest_logit():
    gaps = gaps_below_best(jnp.array([1.0, 3.0, -2.0, 3.0], jnp.bfloat16))
    assert gaps.dtype == jnp.float32
    np.testing.assert_array_equal(gaps, [2.0, 0.0, 5.0, 0.0])


@pytest.mark.parametrize("index", range(4))
def test_weights_beside_a_class_are_the_softmax_of_the_others(index):
    logits = np.array([0.5, 2.0, -1.0, 2.0])
    p = np.exp(logits) / np.exp(logits).sum()
    gaps = gaps_below_best(jnp.asarray(logits, jnp.float32))
    weights, total = weights_beside(gaps, jnp.int32(index))
    assert weights[index] == 0.0
    np.testing.assert_allclose(
        np.delete(weights / total, index), np.delete(p, index), rtol=1e-6
    )


@pytest.mark.parametrize("name", CONFIDENT)
def test_a_diverged_prediction_scores_nan(name):
    logits = jnp.array([1.0, jnp.nan, 2.0])
    assert np.isnan(SCORES[name](logits, jnp.int32(0)))
