"""Selections from scores and outputs that a network may have given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.errors import DivergedError
from dpet_jax.selection.by_name import run_selector
from dpet_jax.training.selection import (
    finite_examples,
    importance,
    top_k_on_device,
    top_k_per_class,
)

N, CAPACITY, K = 20, 40, 3
LABELS = (np.arange(N) % K).astype(np.int32)
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
RNG = np.random.default_rng(0)
MARGIN, EL2N = RNG.normal(size=(2, N)).astype(np.float32)


def padded(values, fill=-np.inf):
    whole = np.full((CAPACITY, *np.shape(values)[1:]), fill, np.float32)
    whole[:N] = values
    return jax.device_put(whole)


SCORES = {"margin": padded(MARGIN), "el2n": padded(EL2N)}


def top_k(values, num_select):
    return top_k_on_device(values, num_select, stretch_size=8, sharding=HERE)


@pytest.mark.parametrize("num_select", [0, 1, 8, 9, N])
def test_the_largest_come_first_however_many_are_read(num_select):
    chosen = top_k(SCORES["margin"], num_select)
    expected = np.argsort(-MARGIN)[:num_select]
    np.testing.assert_array_equal(chosen.indices, expected)
    np.testing.assert_array_equal(chosen.gains, MARGIN[expected])


def test_weight_moves_a_blend_from_one_score_to_the_other():
    names = ("margin", "el2n")
    for weight, values in ((0.0, MARGIN), (1.0, EL2N)):
        chosen = top_k(importance(SCORES, names, weight, HERE), 5)
        np.testing.assert_array_equal(chosen.indices, np.argsort(-values)[:5])
    alone = importance(SCORES, ("margin",), 0.7, HERE)
    np.testing.assert_array_equal(alone, SCORES["margin"])


def test_each_class_gets_its_share_of_the_best():
    values = (LABELS == 0) * 10 + np.linspace(1, 0, N, dtype=np.float32)
    ranked = top_k(padded(values), N)
    chosen = top_k_per_class(ranked, LABELS, K, 6)
    assert np.bincount(LABELS[chosen.indices]).tolist() == [2, 2, 2]
    for label in range(K):
        got = chosen.indices[LABELS[chosen.indices] == label]
        np.testing.assert_array_equal(got, np.flatnonzero(label == LABELS)[:2])
    np.testing.assert_allclose(chosen.gains, values[chosen.indices])


def test_too_many_and_nan_are_refused():
    with pytest.raises(ValueError, match="cannot take 21 of 20"):
        top_k(SCORES["margin"], 21)
    broken = SCORES["margin"].at[7].set(jnp.nan)
    with pytest.raises(DivergedError, match="NaN"):
        top_k(broken, 3)


def test_nothing_is_transferred_unasked():
    with jax.transfer_guard("disallow"):
        top_k(importance(SCORES, ("margin", "el2n"), 0.3, HERE), 9)


def test_selectors_read_outputs_that_are_finite_past_the_examples_or_not():
    logits, features = RNG.normal(size=(N, K)), RNG.normal(size=(N, 4))
    outputs = {"logits": padded(logits), "features": padded(features, np.nan)}
    examples = finite_examples(outputs, LABELS, K, HERE)
    chosen = run_selector("k_center", examples, N, seed=1)
    assert sorted(chosen.indices.tolist()) == list(range(N))
    features[7, 2] = np.inf
    broken = outputs | {"features": padded(features)}
    with pytest.raises(DivergedError, match=r"logits or features.*not finite"):
        finite_examples(broken, LABELS, K, HERE)
