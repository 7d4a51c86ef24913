"""A choice among candidates, made from what a pretended network says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import MAIN
from dpet_jax.training.selection import READ_OUT, Chooser

N, CAPACITY, K = 30, 40, 3
POOL = np.arange(5, 25, dtype=np.int32)
LABELS = (np.arange(N + 10) % K).astype(np.int32)


class Network:
    """Scores that depend on the row alone, padded as a learner pads them."""

    def __init__(self, **changes):
        rng = np.random.default_rng(0)
        self.values = {
            "margin": rng.normal(size=(N + 10,)),
            "el2n": rng.normal(size=(N + 10,)),
            "logits": rng.normal(size=(N + 10, K)),
            "features": rng.normal(size=(N + 10, 4)),
        } | changes
        self.asked = []

    def __call__(self, names, rows, model):
        self.asked.append((names, rows.tolist(), model))
        return {name: self.padded(self.values[name][rows]) for name in names}

    def padded(self, values):
        whole = np.full((CAPACITY, *values.shape[1:]), -np.inf, np.float32)
        whole[: len(values)] = values
        return jnp.asarray(whole)


def chooser(network, validation_rows=None):
    if validation_rows is None:
        validation_rows = np.arange(N, N + 10, dtype=np.int32)
    return Chooser(
        network,
        jax.device_put,
        labels=LABELS,
        num_classes=K,
        validation_rows=validation_rows,
        capacity=CAPACITY,
        stretch_size=8,
        learning_rate=0.1,
    )


@pytest.fixture
def network():
    return Network()


def test_best_by_a_score_come_first(network):
    chosen = chooser(network).select("top_k", POOL, 7, MAIN, scores=("margin",))
    expected = POOL[np.argsort(-network.values["margin"][POOL])][:7]
    np.testing.assert_array_equal(chosen.indices, expected)
    np.testing.assert_allclose(chosen.gains, network.values["margin"][expected])
    assert network.asked == [(("margin",), POOL.tolist(), MAIN)]


def test_weight_moves_a_blend_from_one_score_to_the_other(network):
    for weight, name in ((0.0, "margin"), (1.0, "el2n")):
        chosen = chooser(network).select(
            "top_k", POOL, 5, MAIN, scores=("margin", "el2n"), weight=weight
        )
        expected = POOL[np.argsort(-network.values[name][POOL])][:5]
        np.testing.assert_array_equal(chosen.indices, expected)


def test_values_are_ranked_without_asking_anyone(network):
    values = np.linspace(1, 0, 20).astype(np.float32)
    chosen = chooser(network).select("top_k", POOL, 3, MAIN, values=values)
    assert chosen.indices.tolist() == [5, 6, 7]
    assert network.asked == []


def test_each_class_gets_its_share(network):
    values = (LABELS[POOL] == 0) * 10 + np.linspace(1, 0, 20)
    chosen = chooser(network).select(
        "top_k", POOL, 6, MAIN, values=values.astype(np.float32), per_class=True
    )
    assert np.bincount(LABELS[chosen.indices]).tolist() == [2, 2, 2]
    for label in range(K):
        of_class = POOL[LABELS[POOL] == label][:2]
        got = chosen.indices[LABELS[chosen.indices] == label]
        np.testing.assert_array_equal(got, of_class)


def test_too_many_are_refused(network):
    with pytest.raises(ValueError, match="cannot take 21 of 20"):
        chooser(network).select("top_k", POOL, 21, MAIN, scores=("margin",))


def test_a_network_that_says_no_number_chooses_nothing():
    values = np.zeros(N + 10)
    values[7] = np.nan
    with pytest.raises(DivergedError, match="NaN"):
        chooser(Network(margin=values)).select(
            "top_k", POOL, 3, MAIN, scores=("margin",)
        )
    features = np.zeros((N + 10, 4))
    features[7, 2] = np.inf
    with pytest.raises(DivergedError, match="main model says is not finite"):
        chooser(Network(features=features)).select("k_center", POOL, 3, MAIN)


def test_selectors_read_logits_and_features_and_return_positions_of_the_split(network):
    chosen = chooser(network).select("k_center", POOL, 20, MAIN, seed=1)
    np.testing.assert_array_equal(np.sort(chosen.indices), POOL)
    assert network.asked == [(READ_OUT, POOL.tolist(), MAIN)]


def test_glister_looks_at_the_validation_rows_or_else_at_the_candidates(network):
    chooser(network).select("glister", POOL, 3, MAIN)
    assert [rows for _, rows, _ in network.asked] == [POOL.tolist(), [*range(30, 40)]]
    other = Network()
    none = np.zeros(0, np.int32)
    chooser(other, none).select("glister", POOL, 3, MAIN)
    assert [rows for _, rows, _ in other.asked] == [POOL.tolist()]


def test_unknown_selector_is_named_with_those_there_are(network):
    with pytest.raises(ValueError, match=r"'magic'; there is top_k, .*craig"):
        chooser(network).select("magic", POOL, 3, MAIN)
