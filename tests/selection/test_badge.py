"""BADGE's draws: their distribution, their distances, what is never drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import Gradients, last_layer_gradients
from dpet_jax.selection.badge import badge, badge_picks

N, K, D = 24, 3, 5
RNG = np.random.default_rng(3)
LOGITS, FEATURES = RNG.normal(size=(N, K)) * 2, RNG.normal(size=(N, D))
LABELS = LOGITS.argmax(1)
GRADIENTS = last_layer_gradients(
    jnp.asarray(LOGITS, jnp.float32),
    jnp.asarray(LABELS, jnp.int32),
    jnp.asarray(FEATURES, jnp.float32),
)
ALLOWED = np.arange(N) % 3 > 0


def formed():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    errors = p - np.eye(K)[LABELS]
    with_bias = np.concatenate([np.ones((N, 1)), FEATURES], axis=1)
    return (errors[:, :, None] * with_bias[:, None]).reshape(N, -1)


FORMED = formed()


def lying_at(positions):
    """Gradients of two classes whose distances are those of points on a line."""
    positions = jnp.asarray(positions, jnp.float32)[:, None]
    errors = jnp.concatenate([positions, -positions], axis=1)
    return Gradients(errors, jnp.zeros((len(positions), 1)))


def test_gains_are_distances_from_the_picks_before():
    got = badge(GRADIENTS, 12, key=jax.random.key(0))
    assert got.gains[0] == np.inf
    for turn in range(1, 12):
        before, new = FORMED[got.indices[:turn]], FORMED[got.indices[turn]]
        nearest = np.linalg.norm(before - new[None], axis=1).min()
        np.testing.assert_allclose(got.gains[turn], nearest, rtol=1e-3, atol=1e-4)
    assert (got.indices.dtype, got.gains.dtype) == (np.int32, np.float32)
    assert got.weights is None


def test_the_second_draw_follows_squared_distances():
    points = np.array([0.0, 1.0, 3.0, 6.0])
    gradients, allowed = lying_at(points), jnp.ones(4, jnp.bool_)
    keys = jax.random.split(jax.random.key(1), 4000)
    draw = jax.jit(
        jax.vmap(lambda key: badge_picks(gradients, allowed, jnp.int32(2), key))
    )
    firsts, seconds = np.asarray(draw(keys).indices)[:, :2].T
    np.testing.assert_allclose(np.bincount(firsts) / 4000, 0.25, atol=0.03)
    for first in range(4):
        drawn = np.bincount(seconds[firsts == first], minlength=4)
        squared = np.square(points - points[first])
        np.testing.assert_allclose(
            drawn / drawn.sum(), squared / squared.sum(), atol=0.06
        )


def test_copies_are_drawn_last_though_all_can_be():
    # long enough for rounding to leave something of the distance of two copies
    features = jnp.asarray(RNG.normal(size=(N, 50)) + 3, jnp.float32)
    gradients = Gradients(
        *(
            jnp.concatenate([leaf, leaf[:8], leaf[:8]])
            for leaf in GRADIENTS._replace(features=features)
        )
    )
    for seed in range(5):
        got = badge(gradients, N + 16, key=jax.random.key(seed))
        assert sorted(got.indices.tolist()) == list(range(N + 16))
        kinds = np.where(got.indices >= N, (got.indices - N) % 8, got.indices)
        assert len(set(kinds[:N].tolist())) == N
        np.testing.assert_array_equal(got.gains[N:], 0.0)


def test_draws_among_copies_are_uniform():
    same = lying_at([2.0] * 5)
    drawn = [badge(same, 2, key=jax.random.key(s)).indices[1] for s in range(60)]
    assert set(drawn) == set(range(5))


def test_rows_not_allowed_are_never_drawn_and_count_for_nothing():
    mask = jnp.asarray(ALLOWED)
    padded = Gradients(*(jnp.where(mask[:, None], g, jnp.nan) for g in GRADIENTS))
    got = badge(padded, 16, key=jax.random.key(0), allowed=mask)
    assert set(got.indices.tolist()) == set(np.flatnonzero(ALLOWED))
    masked = badge(GRADIENTS, 16, key=jax.random.key(0), allowed=mask)
    np.testing.assert_array_equal(got.indices, masked.indices)


def test_smaller_budgets_are_prefixes_and_a_key_repeats():
    most = badge(GRADIENTS, N, key=jax.random.key(7))
    for num_select in (0, 1, 9):
        fewer = badge(GRADIENTS, num_select, key=jax.random.key(7))
        np.testing.assert_array_equal(fewer.indices, most.indices[:num_select])
    other = badge(GRADIENTS, N, key=jax.random.key(8))
    assert other.indices.tolist() != most.indices.tolist()


def test_what_has_no_honest_answer_is_refused():
    with pytest.raises(ValueError, match="cannot pick 25 of 24"):
        badge(GRADIENTS, 25, key=jax.random.key(0))
    broken = GRADIENTS._replace(errors=GRADIENTS.errors.at[3, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="not finite"):
        badge(broken, 2, key=jax.random.key(0))


def test_one_program_serves_every_budget_and_every_set_of_candidates():
    badge_picks.clear_cache()
    for num_select, allowed in ((3, None), (7, jnp.asarray(ALLOWED)), (N, None)):
        badge(GRADIENTS, num_select, key=jax.random.key(num_select), allowed=allowed)
    assert badge_picks._cache_size() == 1


def test_badge_lowers_for_accelerators_without_the_host():
    traced = badge_picks.trace(
        GRADIENTS, jnp.asarray(ALLOWED), jnp.int32(3), jax.random.key(0)
    )
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "callback" not in text
