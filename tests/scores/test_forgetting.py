"""Forgetting counts against a plain loop over histories, and means over seeds."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.scores.forgetting import (
    NEVER_LEARNED,
    count_forgetting,
    ensemble_mean,
    forgetting,
)

LENGTH = 7


def events(history):
    """Count the falls from right to wrong between neighbours; None if never right."""
    if not any(history):
        return None
    return sum(a and not b for a, b in pairwise(history))


@jax.jit
def count(history):
    """Count over a whole history with the kernel, as training does visit by visit."""
    counted, before = jnp.int32(NEVER_LEARNED), jnp.bool_(False)
    for correct in history:
        counted, before = count_forgetting(counted, before, correct), correct
    return counted


@settings(deadline=None, derandomize=True, max_examples=128)
@given(st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH))
def test_counts_are_the_falls_from_right_to_wrong(history):
    got = int(count(jnp.array(history)))
    expected = events(history)
    assert got == (NEVER_LEARNED if expected is None else expected)


@pytest.mark.parametrize(
    ("history", "score"),
    [
        ([], np.inf),
        ([False, False, False], np.inf),
        ([False, False, True], 0.0),
        ([True, False], 1.0),
        ([True, False, False], 1.0),
        ([False, True, False, True, False], 2.0),
    ],
    ids=str,
)
def test_score_of_hand_histories(history, score):
    counted, before = jnp.int32(NEVER_LEARNED), jnp.bool_(False)
    for correct in map(jnp.bool_, history):
        counted, before = count_forgetting(counted, before, correct), correct
    got = forgetting(counted)
    assert (float(got), got.dtype) == (score, jnp.float32)


def test_many_examples_are_counted_at_once_as_one_by_one():
    counts = jnp.array([-1, -1, 0, 0, 3, 3], jnp.int32)
    before = jnp.array([False, False, True, True, False, True])
    correct = jnp.array([False, True, False, True, False, False])
    after = jax.jit(jax.vmap(count_forgetting))(counts, before, correct)
    np.testing.assert_array_equal(after, [-1, 0, 1, 0, 3, 4])
    assert after.dtype == jnp.int32
    scores = jax.jit(jax.vmap(forgetting))(after)
    np.testing.assert_array_equal(scores, [np.inf, 0, 1, 0, 3, 4])


def test_what_was_never_learned_outranks_what_was_forgotten_most():
    scores = jax.vmap(forgetting)(jnp.array([10**6, NEVER_LEARNED], jnp.int32))
    assert scores[1] > scores[0]


def test_mean_over_runs_leaves_out_those_that_never_learned():
    runs = jnp.array(
        [[1.0, np.inf, np.inf, 2.0], [3.0, 4.0, np.inf, np.nan], [2.0, 6.0, np.inf, 1]]
    )
    np.testing.assert_array_equal(ensemble_mean(runs), [2.0, 5.0, np.inf, np.nan])


def test_nan_of_one_run_is_not_hidden_by_infinity_in_the_others():
    runs = jnp.array([[np.inf, np.nan], [np.nan, np.nan]])
    assert np.isnan(ensemble_mean(runs)).all()


def test_mean_of_one_run_is_that_run():
    run = jnp.array([0.5, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(ensemble_mean(run[None]), run)


def test_mean_equals_numpy_float64_and_ignores_the_order_of_runs():
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(5, 40))
    runs[rng.random(runs.shape) < 0.2] = np.inf
    runs[0] = rng.normal(size=40)
    expected = [np.mean(column[np.isfinite(column)]) for column in runs.T]
    for order in (np.arange(5), rng.permutation(5)):
        got = jax.jit(ensemble_mean)(jnp.asarray(runs[order], jnp.float32))
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
