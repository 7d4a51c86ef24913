"""Selectors return rows, each once, for any finite numbers; and the right ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import Gradients
from dpet_jax.selection import (
    Validation,
    badge,
    craig,
    facility_location,
    facility_location_of_gradients,
    glister,
    grad_match,
    graph_cut,
    graph_cut_of_gradients,
    herding,
    k_center,
    top_k,
)
from dpet_jax.selection.by_name import SELECTORS, Examples, run_selector
from dpet_jax.selection.picks import one_for_each

N, K, D = 6, 3, 4
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
MAGNITUDES = (1e-38, 1e-20, 1.0, 1e10, 1e19, 1e38)


def of_gradients(gradients, num_select):
    key = jax.random.key(0)
    validation = Validation(gradients.errors, jnp.asarray(LABELS), gradients.features)
    yield facility_location_of_gradients(gradients, num_select)
    yield facility_location_of_gradients(
        gradients, num_select, greedy="stochastic", key=key
    )
    yield graph_cut_of_gradients(gradients, num_select)
    yield craig(gradients, LABELS, num_select)
    yield badge(gradients, num_select, key=key)
    yield grad_match(gradients, num_select)
    yield glister(gradients, validation, num_select, learning_rate=0.1)


def of_rows(rows, num_select):
    largest = np.abs(rows).max(axis=1)
    similarity = jnp.asarray(np.minimum(largest[:, None], largest[None]))
    yield facility_location(similarity, num_select)
    yield graph_cut(similarity, num_select)
    yield k_center(jnp.asarray(rows), num_select)
    yield herding(jnp.asarray(rows), num_select)


def shaped(kind, rng, columns, magnitude):
    rows = rng.uniform(-1, 1, (N, columns)).astype(np.float32)
    if kind == "copies":
        rows[N // 2 :] = rows[: N // 2]
    elif kind == "ties":
        rows[:] = rows[0]
    elif kind == "zero rows":
        rows[::2] = 0.0
    elif kind == "one large":
        rows[1:] /= np.float32(max(magnitude, 1.0))
    return rows * np.float32(magnitude)


def check(chosen, num_select):
    assert chosen.indices.shape == (num_select,)
    assert np.unique(chosen.indices).size == num_select
    assert np.all((chosen.indices >= 0) & (chosen.indices < N))
    assert not np.isnan(chosen.gains).any()
    if chosen.weights is not None:
        assert np.isfinite(chosen.weights).all()


@pytest.mark.parametrize("kind", ["plain", "copies", "ties", "zero rows", "one large"])
def test_every_pick_is_a_row_and_none_comes_twice(kind):
    # 1e19 squared overflowed after the check for finite numbers: graph cut returned row
    # n five times, and facility location never ended
    rng = np.random.default_rng(0)
    for errors, features in [
        *((1.0, size) for size in MAGNITUDES),
        *((size, size) for size in MAGNITUDES),
        (1e20, 1e-20),
        (1e-20, 1e20),
    ]:
        gradients = Gradients(
            jnp.asarray(shaped(kind, rng, K, errors)),
            jnp.asarray(shaped(kind, rng, D, features)),
        )
        rows = shaped(kind, rng, D, features)
        for num_select in (1, N):
            for chosen in of_gradients(gradients, num_select):
                check(chosen, num_select)
            for chosen in of_rows(rows, num_select):
                check(chosen, num_select)


@pytest.mark.parametrize("size", [1.0, 1e19, 1e38])
def test_selectors_by_name_pick_rows_of_any_size(size):
    rng = np.random.default_rng(1)
    logits, features = (
        jnp.asarray(shaped("zero rows", rng, columns, size)) for columns in (K, D)
    )
    examples = Examples(logits, features, LABELS, K)
    for name in SELECTORS:
        for per_class in (False, True):
            check(run_selector(name, examples, 3, per_class=per_class), 3)
    np.testing.assert_array_equal(
        top_k(logits[:, 0], N), np.argsort(-logits[:, 0], stable=True)
    )


@pytest.mark.parametrize("power", [-90, -40, 40, 62])
def test_a_power_of_two_changes_no_pick_and_scales_the_gains(power):
    rng = np.random.default_rng(2)
    errors, features = (
        rng.normal(size=(N, columns)).astype(np.float32) for columns in (K, D)
    )
    scale = np.float32(2.0) ** np.float32(power)
    key = jax.random.key(3)

    def all_of(scale):
        gradients = Gradients(jnp.asarray(errors * scale), jnp.asarray(features))
        rows = jnp.asarray(features * scale)
        yield k_center(rows, 5), 1
        yield herding(rows, 5), 1
        yield craig(gradients, LABELS, 5), 1
        yield badge(gradients, 5, key=key), 1
        yield facility_location_of_gradients(gradients, 5), 0
        yield graph_cut_of_gradients(gradients, 5), 0

    for (got, grows), (expected, _) in zip(all_of(scale), all_of(1.0), strict=True):
        np.testing.assert_array_equal(got.indices, expected.indices)
        gains = expected.gains * (scale if grows else 1.0)
        np.testing.assert_allclose(got.gains, gains, rtol=1e-5, atol=1e-6 * scale)


def test_weights_of_large_and_small_gradients_are_least_squares():
    rng = np.random.default_rng(4)
    errors, features = rng.uniform(0.1, 1, (N, K)), rng.uniform(0.1, 1, (N, D))
    matrices = np.einsum("nk,ne->nke", errors, np.insert(features, 0, 1, axis=1))
    vectors = matrices.reshape(N, -1)
    for scale in (1e-6, 1e25):
        gradients = Gradients(
            jnp.asarray(errors * scale, jnp.float32), jnp.asarray(features, jnp.float32)
        )
        chosen = grad_match(gradients, 1, ridge=0.5)
        # one pick x: w = g'x / (x'x + ridge), with the sum of all g
        g, x = vectors.sum(axis=0), vectors[chosen.indices[0]]
        expected = (g @ x) / (x @ x + 0.5 / scale**2)
        np.testing.assert_allclose(chosen.weights, [expected], rtol=1e-5)
        assert chosen.indices[0] == np.argmax(vectors @ g)


def test_cosines_of_gradients_of_any_length_are_those_of_float64():
    rng = np.random.default_rng(5)
    errors = rng.normal(size=(N, K)) * 10.0 ** rng.integers(-30, 30, (N, 1))
    features = rng.normal(size=(N, D)) * 10.0 ** rng.integers(-30, 30, (N, 1))
    matrices = np.einsum("nk,ne->nke", errors, np.insert(features, 0, 1, axis=1))
    vectors = matrices.reshape(N, -1)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = 0.5 + 0.5 * units @ units.T
    level, expected, gains = np.zeros(N), [], []
    for _ in range(4):
        raised = np.maximum(similarity - level, 0).sum(axis=1)
        raised[expected] = -1
        expected.append(int(raised.argmax()))
        gains.append(raised.max())
        level = np.maximum(level, similarity[expected[-1]])
    gradients = Gradients(
        jnp.asarray(errors, jnp.float32), jnp.asarray(features, jnp.float32)
    )
    chosen = facility_location_of_gradients(gradients, 4)
    np.testing.assert_array_equal(chosen.indices, expected)
    np.testing.assert_allclose(chosen.gains, gains, rtol=1e-4)


def test_one_row_is_picked_whatever_its_size():
    for size in (0.0, 1.0, 1e38):
        rows = jnp.full((1, D), size, jnp.float32)
        assert k_center(rows, 1).indices.tolist() == [0]
        assert herding(rows, 1).indices.tolist() == [0]


def test_numbers_of_picks_and_masks_that_are_none_are_refused():
    rows = jnp.ones((N, D))
    with pytest.raises(ValueError, match="cannot take -1 of 6"):
        top_k(rows[:, 0], -1)
    with pytest.raises(ValueError, match="one boolean for each of 5 rows"):
        one_for_each(jnp.ones(N, jnp.bool_), N - 1)
    with pytest.raises(ValueError, match="a label is none of the 3 classes"):
        run_selector("badge", Examples(rows[:, :K], rows, LABELS + 1, K), 2)
