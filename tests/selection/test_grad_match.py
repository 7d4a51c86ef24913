"""Gradient matching against formed gradients and scipy's least squares in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from dpet_jax.scores.factors import Gradients, last_layer_gradients
from dpet_jax.selection.grad_match import (
    Formed,
    grad_match,
    grad_match_batches,
    matching_picks,
)

N, K, D = 48, 4, 6
RNG = np.random.default_rng(1)


def problem(sign):
    """Return factors and the gradients formed; few points at odds, or many."""
    logits = RNG.normal(size=(N, K)) * 2
    labels = RNG.integers(0, K, N)
    features = sign(RNG.normal(size=(N, D)))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    errors = p - np.eye(K)[labels]
    factors = last_layer_gradients(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(features, jnp.float32),
    )
    with_bias = np.concatenate([np.ones((N, 1)), features], axis=1)
    return factors, (errors[:, :, None] * with_bias[:, None]).reshape(N, -1)


PROBLEMS = {"alike": problem(np.abs), "at odds": problem(lambda x: x)}
GRADIENTS, FORMED = PROBLEMS["at odds"]
ALLOWED = np.arange(N) % 3 > 0


def objective(formed, target, weights, ridge):
    residual = np.asarray(weights, np.float64) @ formed - target
    return residual @ residual + ridge * np.sum(np.square(weights, dtype=np.float64))


def best_weights(formed, target, ridge):
    rows = np.concatenate([formed.T, np.sqrt(ridge) * np.eye(len(formed))])
    return nnls(rows, np.concatenate([target, np.zeros(len(formed))]))[0]


def pursuit(formed, target, num_select, ridge, allowed):
    """Pick what correlates most with the residual, refit with scipy, again."""
    picks, weights, gains = [], np.zeros(0), []
    for _ in range(num_select):
        correlations = formed @ (target - weights @ formed[picks])
        correlations[~allowed] = -np.inf
        correlations[picks] = -np.inf
        picks.append(int(correlations.argmax()))
        gains.append(correlations[picks[-1]])
        weights = best_weights(formed[picks], target, ridge)
    return picks, weights, gains


@pytest.mark.parametrize("ridge", [5.0, 0.5, 0.01])
@pytest.mark.parametrize("name", PROBLEMS)
def test_grad_match_is_the_pursuit_in_float64(name, ridge):
    gradients, formed = PROBLEMS[name]
    target = formed.sum(0)
    picks, weights, gains = pursuit(formed, target, 12, ridge, np.ones(N, bool))
    got = grad_match(gradients, 12, ridge=ridge)
    np.testing.assert_array_equal(got.indices, picks)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.weights, weights, rtol=1e-3, atol=1e-4)
    assert {a.dtype.name for a in got} == {"int32", "float32"}


@pytest.mark.parametrize("num_select", [1, 5, 16, N])
@pytest.mark.parametrize("name", PROBLEMS)
def test_weights_are_the_best_of_all_that_are_not_negative(name, num_select):
    gradients, formed = PROBLEMS[name]
    target = formed.sum(0)
    got = grad_match(gradients, num_select, ridge=0.1)
    chosen = formed[got.indices]
    least = objective(chosen, target, best_weights(chosen, target, 0.1), 0.1)
    assert objective(chosen, target, got.weights, 0.1) <= least * (1 + 1e-5) + 1e-6
    assert np.all(got.weights >= 0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_left_falls_with_every_pick(name):
    gradients, formed = PROBLEMS[name]
    target = formed.sum(0)
    left = [target @ target]
    everyone, ridge = jnp.ones(N, jnp.bool_), jnp.float32(0.5)
    for count in range(1, 17):
        picks, weights = matching_picks(
            gradients, everyone, jnp.int32(count), ridge, capacity=16
        )
        chosen = formed[np.asarray(picks.indices)[:count]]
        left.append(objective(chosen, target, np.asarray(weights)[:count], 0.5))
    assert np.all(np.diff(left) <= 1e-5 * np.array(left[:-1]))
    assert left[-1] < left[0] / 10


def test_exactly_as_many_as_asked_for_come_back_and_useless_ones_weigh_nothing():
    # one error vector at different features: one example alone can match the target
    errors = jnp.tile(jnp.array([[1.0, -1.0]]), (6, 1))
    features = jnp.array([[1.0, 0.0]] + [[-1.0, 0.0]] * 5)
    target = jnp.array([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]])
    got = grad_match(Gradients(errors, features), 6, ridge=1e-3, target=target)
    assert sorted(got.indices.tolist()) == list(range(6))
    assert got.indices[0] == 0
    assert got.weights[0] > 1.0
    np.testing.assert_array_equal(got.weights[1:], 0.0)


def test_copies_of_one_gradient_share_its_weight():
    copies = Gradients(*(jnp.repeat(leaf[:1], N, axis=0) for leaf in GRADIENTS))
    got = grad_match(copies, 8, ridge=1e-3, allowed=jnp.arange(N) < 8)
    np.testing.assert_array_equal(got.indices, np.arange(8))
    np.testing.assert_allclose(got.weights, 1.0, atol=1e-2)


def test_all_examples_with_a_small_ridge_give_back_the_sum():
    got = grad_match(GRADIENTS, N, ridge=1e-4)
    total = got.weights.astype(np.float64) @ FORMED[got.indices]
    np.testing.assert_allclose(total, FORMED.sum(0), atol=1e-3)


def test_a_target_of_its_own_is_matched():
    target = FORMED[10] * 3 + FORMED[20] * 2
    got = grad_match(
        GRADIENTS,
        10,
        ridge=1e-3,
        target=jnp.asarray(target, jnp.float32).reshape(K, -1),
    )
    picks, weights, _ = pursuit(FORMED, target, 10, 1e-3, np.ones(N, bool))
    np.testing.assert_array_equal(got.indices, picks)
    np.testing.assert_allclose(got.weights, weights, rtol=1e-3, atol=1e-3)


def test_rows_not_allowed_count_for_nothing():
    mask = jnp.asarray(ALLOWED)
    padded = Gradients(*(jnp.where(mask[:, None], g, jnp.nan) for g in GRADIENTS))
    got = grad_match(padded, 10, allowed=mask)
    picks, weights, _ = pursuit(FORMED, FORMED[ALLOWED].sum(0), 10, 0.5, ALLOWED)
    np.testing.assert_array_equal(got.indices, picks)
    np.testing.assert_allclose(got.weights, weights, rtol=1e-3, atol=1e-4)


def test_smaller_budgets_pick_prefixes():
    most = grad_match(GRADIENTS, 20)
    for num_select in (0, 1, 9):
        fewer = grad_match(GRADIENTS, num_select)
        np.testing.assert_array_equal(fewer.indices, most.indices[:num_select])
        np.testing.assert_allclose(fewer.gains, most.gains[:num_select], rtol=1e-3)


def test_a_permutation_of_the_input_permutes_picks_and_weights():
    order = RNG.permutation(N)
    straight = grad_match(GRADIENTS, 10)
    permuted = grad_match(Gradients(*(leaf[order] for leaf in GRADIENTS)), 10)
    np.testing.assert_array_equal(order[permuted.indices], straight.indices)
    np.testing.assert_allclose(permuted.weights, straight.weights, rtol=1e-3)


def test_batches_are_matched_by_their_mean_gradients():
    batches = RNG.permutation(N).reshape(12, 4).astype(np.int32)
    got = grad_match_batches(GRADIENTS, jnp.asarray(batches), 5)
    means = FORMED[batches].mean(1)
    picks, weights, gains = pursuit(means, FORMED.sum(0), 5, 0.5, np.ones(12, bool))
    np.testing.assert_array_equal(got.indices, batches[picks].reshape(-1))
    np.testing.assert_allclose(got.weights, np.repeat(weights / 4, 4), rtol=1e-3)
    np.testing.assert_allclose(got.gains, np.repeat(gains, 4), rtol=1e-4)
    assert {a.dtype.name for a in got} == {"int32", "float32"}


def test_what_has_no_honest_answer_is_refused():
    with pytest.raises(ValueError, match="cannot pick 49 of 48"):
        grad_match(GRADIENTS, 49)
    for broken in (
        GRADIENTS._replace(errors=GRADIENTS.errors.at[3, 1].set(jnp.nan)),
        GRADIENTS._replace(features=GRADIENTS.features.at[3, 1].set(jnp.inf)),
    ):
        with pytest.raises(ValueError, match="not finite"):
            grad_match(broken, 3)
    for ridge in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ridge must be positive"):
            grad_match(GRADIENTS, 3, ridge=ridge)
    with pytest.raises(ValueError, match="target is not finite"):
        grad_match(GRADIENTS, 3, target=jnp.full((K, D + 1), jnp.nan))
    for position in (-1, N):
        with pytest.raises(ValueError, match="no position among 48"):
            grad_match_batches(GRADIENTS, jnp.full((2, 2), position, jnp.int32), 1)
    with pytest.raises(ValueError, match="cannot pick 3 of 2"):
        grad_match_batches(GRADIENTS, jnp.zeros((2, 2), jnp.int32), 3)


def test_one_program_serves_all_budgets_of_a_capacity():
    matching_picks.clear_cache()
    for num_select, allowed in ((9, None), (16, None), (12, jnp.asarray(ALLOWED))):
        grad_match(GRADIENTS, num_select, ridge=1.0 / num_select, allowed=allowed)
    assert matching_picks._cache_size() == 1


def test_matching_lowers_for_accelerators_without_the_host():
    formed = Formed(jnp.asarray(FORMED, jnp.float32).reshape(N, K, -1))
    for gradients in (GRADIENTS, formed):
        traced = matching_picks.trace(
            gradients,
            jnp.asarray(ALLOWED),
            jnp.int32(3),
            jnp.float32(0.5),
            capacity=8,
        )
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text
