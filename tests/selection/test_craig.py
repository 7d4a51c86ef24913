"""CRAIG picks medoids and counts every example once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import Gradients, last_layer_gradients
from dpet_jax.selection import lazy
from dpet_jax.selection.craig import Closeness, closeness_rows, craig
from dpet_jax.selection.per_class import class_quotas

SIZES = (90, 60, 50, 40)
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(4), SIZES))
N = len(LABELS)


@pytest.fixture(scope="module")
def gradients():
    rng = np.random.default_rng(0)
    return last_layer_gradients(
        jnp.asarray(rng.normal(size=(N, 4)), jnp.float32),
        jnp.asarray(LABELS, jnp.int32),
        jnp.asarray(rng.normal(size=(N, 1)), jnp.float32),
    )


@pytest.fixture(scope="module")
def apart(gradients):
    """Distances of the gradients as they are, (d + 1) k numbers each, in float64."""
    errors, features = (np.asarray(factor, np.float64) for factor in gradients)
    with_bias = np.concatenate([np.ones((N, 1)), features], axis=1)
    formed = (errors[:, :, None] * with_bias[:, None]).reshape(N, -1)
    return np.sqrt(np.square(formed[:, None] - formed[None]).sum(2))


def medoids(apart, count, reach):
    """Greedy of the sum of distances to the nearest medoid, in float64."""
    nearest, picks, gains = np.full(len(apart), reach), [], []
    for _ in range(count):
        gain = np.maximum(nearest[:, None] - apart, 0).sum(0)
        gain[picks] = -1
        first, second = np.sort(gain)[:-3:-1]
        assert first - second > 1e-4, "rounding may decide"
        picks.append(int(gain.argmax()))
        gains.append(gain.max())
        nearest = np.minimum(nearest, apart[:, picks[-1]])
    return picks, gains


def test_closeness_is_reach_minus_distance(gradients, apart):
    which = jnp.array([5, 0, 9], jnp.int32)
    rows = closeness_rows(Closeness(gradients, jnp.float32(30.0)), which)
    np.testing.assert_allclose(rows, 30.0 - apart[[5, 0, 9]], rtol=1e-5)
    np.testing.assert_array_equal(rows[jnp.arange(3), which], 30.0)


@pytest.mark.parametrize("limit", [2**30, 0], ids=["matrix", "recomputed"])
def test_each_class_gets_its_greedy_medoids(gradients, apart, limit):
    picked = craig(gradients, LABELS, 14, memory_limit=limit)
    quotas = class_quotas(LABELS, 4, 14)
    assert quotas.tolist() == [5, 4, 3, 2]
    for one in range(4):
        members = np.flatnonzero(one == LABELS)
        inside = apart[np.ix_(members, members)]
        # a largest distance in place of the bound, as the paper has it: same picks
        expected, gains = medoids(inside, quotas[one], inside.max())
        mine = LABELS[picked.indices] == one
        np.testing.assert_array_equal(picked.indices[mine], members[expected])
        np.testing.assert_allclose(picked.gains[mine][1:], gains[1:], rtol=1e-3)


def test_without_classes_all_examples_are_one(gradients, apart):
    lengths = np.sqrt(np.square(apart).sum() / 2) / N
    for limit in (2**30, 0):
        picked = craig(gradients, LABELS, 12, per_class=False, memory_limit=limit)
        expected, _ = medoids(apart, 12, 1e3 * lengths)
        assert picked.indices.tolist() == expected
        assert picked.weights.sum() == N


@pytest.mark.parametrize("per_class", [True, False])
def test_a_weight_counts_the_examples_nearest_to_a_pick(gradients, apart, per_class):
    picked = craig(gradients, LABELS, 14, per_class=per_class)
    far = np.where(LABELS[:, None] == LABELS[picked.indices][None], 0, 1e9)
    nearest = (apart[:, picked.indices] + (far if per_class else 0)).argmin(1)
    counts = np.bincount(nearest, minlength=14)
    np.testing.assert_array_equal(picked.weights, counts)
    assert picked.weights.dtype == np.float32
    # a count that begins at one gives n + k
    assert picked.weights.sum() == N != (counts + 1).sum()
    if per_class:
        for one, size in enumerate(SIZES):
            assert picked.weights[LABELS[picked.indices] == one].sum() == size


def test_twins_that_are_both_picked_stand_for_themselves(gradients):
    twice = jax.tree.map(lambda factor: jnp.concatenate([factor, factor]), gradients)
    labels = np.concatenate([LABELS, LABELS])
    picked = craig(twice, labels, 2 * N)
    np.testing.assert_array_equal(picked.weights, np.ones(2 * N))
    assert sorted(picked.indices.tolist()) == list(range(2 * N))


def test_classes_side_by_side_pick_as_one_after_another(gradients):
    one, other = (craig(gradients, LABELS, 14, greedy=g) for g in ("lazy", "exact"))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-5)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_stochastic_greedy_draws_and_still_counts_everyone(gradients):
    first, again, other = (
        craig(gradients, LABELS, 30, greedy="stochastic", key=jax.random.key(seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.indices, again.indices)
    assert first.indices.tolist() != other.indices.tolist()
    assert first.weights.sum() == other.weights.sum() == N


def test_a_smaller_budget_is_a_prefix_and_every_prefix_is_near_the_proportions(
    gradients,
):
    many, few = craig(gradients, LABELS, 70), craig(gradients, LABELS, 28)
    np.testing.assert_array_equal(many.indices[:28], few.indices)
    for end in range(1, 71):
        counts = np.bincount(LABELS[many.indices[:end]], minlength=4)
        assert (np.abs(counts - end * np.array(SIZES) / N) <= 1.01).all()


def test_a_permutation_of_the_examples_permutes_the_picks(gradients):
    """Picks that are looked up in another order than they were made in are others."""
    order = np.random.default_rng(3).permutation(N)
    turned = jax.tree.map(lambda factor: factor[order], gradients)
    picked = craig(gradients, LABELS, 14)
    other = craig(turned, LABELS[order], 14)
    np.testing.assert_array_equal(order[other.indices], picked.indices)
    np.testing.assert_array_equal(other.weights, picked.weights)


def test_one_program_serves_all_classes_and_budgets(gradients):
    craig(gradients, LABELS, 14)
    compiled = lazy.lazy_cover._cache_size()
    craig(gradients, np.roll(LABELS, 5) % 3, 33)
    assert lazy.lazy_cover._cache_size() == compiled


@pytest.mark.parametrize(
    ("labels", "num_select", "options", "message"),
    [
        (LABELS, N + 1, {}, "cannot pick"),
        (LABELS + 1, 3, {}, "none of the 4 classes"),
        (LABELS[1:], 3, {}, "239 labels of 240 gradients"),
        (LABELS, 3, {"greedy": "stochastic"}, "needs a key"),
        (LABELS, 3, {"greedy": "exact", "memory_limit": 9}, "lazy greedy picks the"),
    ],
    ids=range(5),
)
def test_what_has_no_honest_answer_is_refused(
    gradients, labels, num_select, options, message
):
    with pytest.raises(ValueError, match=message):
        craig(gradients, labels, num_select, **options)


def test_gradients_that_are_not_finite_are_refused(gradients):
    bad = Gradients(gradients.errors.at[3, 1].set(jnp.nan), gradients.features)
    with pytest.raises(ValueError, match="not finite"):
        craig(bad, LABELS, 3)
