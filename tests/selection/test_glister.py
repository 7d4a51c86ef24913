"""GLISTER against a float64 loop that forms gradients and moves the last layer."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import Gradients, last_layer_gradients
from dpet_jax.selection.glister import Validation, glister, glister_picks

N, V, K, D = 30, 20, 3, 4
RNG = np.random.default_rng(2)
WEIGHT, BIAS = RNG.normal(size=(K, D)), RNG.normal(size=K)
H, H_V = RNG.normal(size=(N, D)), RNG.normal(size=(V, D))
Y, Y_V = RNG.integers(0, K, N), RNG.integers(0, K, V)
ALLOWED, COUNTED = np.arange(N) % 4 > 0, np.arange(V) % 5 > 0


def single(array):
    return jnp.asarray(array, jnp.int32 if array.dtype.kind == "i" else jnp.float32)


def errors_of(h, y, weight, bias):
    logits = h @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) - np.eye(K)[y]


def formed(h, y, weight, bias):
    with_bias = np.concatenate([np.ones((len(h), 1)), h], axis=1)
    return errors_of(h, y, weight, bias)[:, :, None] * with_bias[:, None]


GRADIENTS = last_layer_gradients(single(H @ WEIGHT.T + BIAS), single(Y), single(H))
VALIDATION = Validation(single(H_V @ WEIGHT.T + BIAS), single(Y_V), single(H_V))


def descent(num_select, learning_rate, every=1, allowed=None, counted=None):
    """Move the layer itself by each pick's gradient and form everything anew."""
    allowed = np.ones(N, bool) if allowed is None else allowed
    counted = np.ones(V, bool) if counted is None else counted
    weight, bias = WEIGHT.copy(), BIAS.copy()
    candidates, picks, gains = formed(H, Y, WEIGHT, BIAS), [], []
    for turn in range(num_select):
        if turn % every == 0:
            slope = formed(H_V[counted], Y_V[counted], weight, bias).mean(0)
            products = np.einsum("nke,ke->n", candidates, slope)
        open_products = np.where(allowed, products, -np.inf)
        open_products[picks] = -np.inf
        picks.append(int(open_products.argmax()))
        gains.append(products[picks[-1]])
        bias -= learning_rate * candidates[picks[-1]][:, 0]
        weight -= learning_rate * candidates[picks[-1]][:, 1:]
    return picks, gains


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("learning_rate", [0.0, 0.05, 0.5])
def test_glister_is_descent_of_the_last_layer_in_float64(learning_rate, every):
    got = glister(
        GRADIENTS,
        VALIDATION,
        10,
        learning_rate=learning_rate,
        picks_per_update=every,
    )
    picks, gains = descent(10, learning_rate, every)
    np.testing.assert_array_equal(got.indices, picks)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-4, atol=1e-5)
    assert (got.indices.dtype, got.gains.dtype) == (np.int32, np.float32)
    assert got.weights is None


def test_the_first_pick_changes_the_second_unlike_the_largest_of_fixed_gains():
    # of two classes, two copies and one that the validation set wants as well: after
    # the first copy's step the other copy has little left to say
    logits = jnp.zeros((3, 2))
    labels = jnp.array([0, 0, 1], jnp.int32)
    features = jnp.array([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    gradients = last_layer_gradients(logits, labels, features)
    validation = Validation(logits, labels, features)
    fixed = glister(gradients, validation, 2, learning_rate=0.0)
    moving = glister(gradients, validation, 2, learning_rate=0.5)
    np.testing.assert_array_equal(fixed.indices, [0, 1])
    np.testing.assert_array_equal(moving.indices, [0, 2])


def test_a_step_of_the_pick_lowers_the_validation_loss_by_its_gain():
    def loss(weight, bias):
        logits = H_V @ weight.T + bias
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(V), Y_V])

    got = glister(GRADIENTS, VALIDATION, 1, learning_rate=0.1)
    step = 1e-5 * formed(H, Y, WEIGHT, BIAS)[got.indices[0]]
    fall = loss(WEIGHT, BIAS) - loss(WEIGHT - step[:, 1:], BIAS - step[:, 0])
    np.testing.assert_allclose(fall / 1e-5, got.gains[0], rtol=1e-3)


def test_rows_not_allowed_or_not_counted_count_for_nothing():
    mask, counted = jnp.asarray(ALLOWED), jnp.asarray(COUNTED)
    padded = Gradients(*(jnp.where(mask[:, None], g, jnp.nan) for g in GRADIENTS))
    validation = Validation(
        jnp.where(counted[:, None], VALIDATION.logits, jnp.nan),
        jnp.where(counted, VALIDATION.labels, -1),
        jnp.where(counted[:, None], VALIDATION.features, jnp.inf),
    )
    got = glister(
        padded,
        validation,
        9,
        learning_rate=0.2,
        allowed=mask,
        validation_allowed=counted,
    )
    picks, gains = descent(9, 0.2, 1, ALLOWED, COUNTED)
    np.testing.assert_array_equal(got.indices, picks)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-4, atol=1e-5)


def test_smaller_budgets_are_prefixes_and_all_examples_can_be_picked():
    most = glister(GRADIENTS, VALIDATION, N, learning_rate=0.1)
    assert sorted(most.indices.tolist()) == list(range(N))
    for num_select in (0, 1, 11):
        fewer = glister(GRADIENTS, VALIDATION, num_select, learning_rate=0.1)
        np.testing.assert_array_equal(fewer.indices, most.indices[:num_select])
        np.testing.assert_array_equal(fewer.gains, most.gains[:num_select])


def test_a_permutation_of_the_input_permutes_the_picks():
    order = RNG.permutation(N)
    permuted = Gradients(*(leaf[order] for leaf in GRADIENTS))
    got = glister(permuted, VALIDATION, 10, learning_rate=0.1)
    straight = glister(GRADIENTS, VALIDATION, 10, learning_rate=0.1)
    np.testing.assert_array_equal(order[got.indices], straight.indices)


def test_what_has_no_honest_answer_is_refused():
    with pytest.raises(ValueError, match="cannot pick 31 of 30"):
        glister(GRADIENTS, VALIDATION, 31, learning_rate=0.1)
    with pytest.raises(ValueError, match="cannot update after 0"):
        glister(GRADIENTS, VALIDATION, 2, learning_rate=0.1, picks_per_update=0)
    for rate in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="learning rate cannot be"):
            glister(GRADIENTS, VALIDATION, 2, learning_rate=rate)
    broken = VALIDATION._replace(logits=VALIDATION.logits.at[3, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="not finite"):
        glister(GRADIENTS, broken, 2, learning_rate=0.1)
    with pytest.raises(ValueError, match="no validation example counts"):
        glister(
            GRADIENTS,
            VALIDATION,
            2,
            learning_rate=0.1,
            validation_allowed=jnp.zeros(V, jnp.bool_),
        )


def test_one_program_serves_every_budget_rate_and_set_of_candidates():
    glister_picks.clear_cache()
    for num_select, rate, allowed in ((3, 0.1, None), (7, 0.2, jnp.asarray(ALLOWED))):
        for every in (1, 4):
            glister(
                GRADIENTS,
                VALIDATION,
                num_select,
                learning_rate=rate,
                picks_per_update=every,
                allowed=allowed,
            )
    assert glister_picks._cache_size() == 1


def test_glister_lowers_for_accelerators_without_the_host():
    traced = glister_picks.trace(
        GRADIENTS,
        VALIDATION,
        jnp.asarray(ALLOWED),
        jnp.asarray(COUNTED),
        jnp.int32(3),
        jnp.float32(0.1),
        jnp.int32(1),
    )
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "callback" not in text
