"""Facility location in shards against brute force, one search, and its bounds."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.methods.one_shot import SHARDED_SELECTORS
from dpet_jax.scores.factors import cosine_similarity, last_layer_gradients
from dpet_jax.selection.by_name import IN_SHARDS, Examples, run_selector
from dpet_jax.selection.shards import facility_location_in_shards
from dpet_jax.selection.submodular import facility_location_of_gradients

KEY = jax.random.key(0)


# of one size in all tests, for every size of a shard is a program
N = 24


def gradients_of(seed=0):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=(N, 4)), rng.integers(0, 4, N), rng.normal(size=(N, 7))
    types = jnp.float32, jnp.int32, jnp.float32
    return last_layer_gradients(*map(jnp.asarray, arrays, types))


def covered(gradients, picks):
    similarity = np.asarray(cosine_similarity(gradients, gradients), np.float64)
    return similarity[:, np.asarray(picks)].max(1).sum()


@pytest.mark.parametrize("seed", range(4))
def test_picks_cover_what_the_bound_says_at_least(seed):
    gradients, size, shards = gradients_of(seed), 3, 4
    similarity = np.asarray(cosine_similarity(gradients, gradients), np.float64)
    best = max(
        similarity[:, list(picks)].max(1).sum() for picks in combinations(range(N), 3)
    )
    chosen = facility_location_in_shards(
        gradients, size, shards=shards, key=jax.random.key(seed)
    )
    assert len(set(chosen.indices.tolist())) == size
    bound = (1 - 1 / np.e) ** 2 / min(shards, size)
    assert covered(gradients, chosen.indices) >= bound * best
    # and what one finds in practice
    assert covered(gradients, chosen.indices) >= 0.95 * best


def test_gains_are_those_of_covering_all_examples():
    gradients = gradients_of()
    chosen = facility_location_in_shards(gradients, 5, shards=4, key=KEY)
    values = [0.0] + [covered(gradients, chosen.indices[: i + 1]) for i in range(5)]
    np.testing.assert_allclose(chosen.gains, np.diff(values), rtol=1e-4)


def test_shards_that_give_all_of_their_examples_are_one_search():
    # each proposes all it has, so that the second greedy is one over all
    gradients = gradients_of()
    whole = facility_location_of_gradients(gradients, 6)
    chosen = facility_location_in_shards(gradients, 6, shards=4, key=KEY)
    np.testing.assert_array_equal(chosen.indices, whole.indices)
    np.testing.assert_allclose(chosen.gains, whole.gains, rtol=1e-4)
    one = facility_location_in_shards(gradients, 6, shards=1, key=KEY)
    np.testing.assert_array_equal(one.indices, whole.indices)


def test_the_key_deals_the_examples_out():
    gradients = gradients_of(1)
    picks = [
        tuple(
            facility_location_in_shards(
                gradients, 1, shards=4, key=jax.random.key(seed)
            ).indices.tolist()
        )
        for seed in (*range(6), *range(6))
    ]
    assert picks[:6] == picks[6:]
    assert len(set(picks)) > 1


def test_what_is_not_allowed_is_neither_picked_nor_covered():
    gradients = gradients_of()
    allowed = jnp.asarray(np.arange(N) % 2 == 0)
    chosen = facility_location_in_shards(
        gradients, 4, shards=2, key=KEY, allowed=allowed
    )
    assert (chosen.indices % 2 == 0).all()
    some = jax.tree.map(lambda factor: factor[::2], gradients)
    assert chosen.gains.sum() == pytest.approx(
        covered(some, chosen.indices // 2), rel=1e-4
    )


def test_nothing_less_than_one_shard_is_refused():
    with pytest.raises(ValueError, match="at least one shard, not 0"):
        facility_location_in_shards(gradients_of(), 2, shards=0, key=KEY)


def test_selectors_by_name_pick_in_shards_class_by_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, N).astype(np.int32)
    logits, features = (
        jnp.asarray(rng.normal(size=(N, width)), jnp.float32) for width in (2, 5)
    )
    examples = Examples(logits, features, labels, 2)
    chosen = run_selector(
        "facility_location", examples, 6, per_class=True, seed=3, shards=2
    )
    assert len(set(chosen.indices.tolist())) == 6
    share = np.bincount(labels[chosen.indices], minlength=2)
    assert abs(share - 6 * np.bincount(labels) / N).max() < 1
    with pytest.raises(ValueError, match="herding does not pick in shards"):
        run_selector("herding", examples, 3, shards=2)
    assert IN_SHARDS == SHARDED_SELECTORS
