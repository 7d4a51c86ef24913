from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import TINY

from dpet_jax.training.average import LAST
from dpet_jax.training.optimizer import Adam, AdamW, Sgd
from dpet_jax.training.state import init_state

N = 5
drawn = jax.jit(init_state, static_argnums=(0, 1, 2))


def fresh(key):
    return drawn(TINY, Adam(), N, key)


def plain(tree):
    """Leaves as NumPy arrays, keys by their data."""
    return [
        np.asarray(jax.random.key_data(leaf))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf)
        for leaf in jax.tree.leaves(tree)
    ]


@pytest.mark.parametrize(
    ("optimizer", "moments"), [(Sgd(), 1), (Adam(), 2), (AdamW(), 2)]
)
def test_a_state_holds_the_models_shapes_and_the_optimizers_moments(optimizer, moments):
    key = jax.random.key(0)
    state = jax.eval_shape(partial(init_state, TINY, optimizer, N), key)
    params, batch_stats = jax.eval_shape(TINY.init, key)
    assert (state.params, state.batch_stats) == (params, batch_stats)
    tables = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(tables) == moments * sum(leaf.size for leaf in jax.tree.leaves(params))


def test_moments_and_step_begin_at_zero():
    state = fresh(jax.random.key(0))
    assert not any(leaf.any() for leaf in plain(state.opt_state))
    assert (int(state.step), state.step.dtype) == (0, jnp.int32)


def test_the_tables_say_that_no_example_was_trained_on():
    state = fresh(jax.random.key(0))
    np.testing.assert_array_equal(state.losses, np.full(N, np.inf))
    np.testing.assert_array_equal(state.correct, np.zeros(N, bool))
    np.testing.assert_array_equal(state.forgetting, np.full(N, -1))
    kinds = (state.losses.dtype, state.correct.dtype, state.forgetting.dtype)
    assert kinds == (jnp.float32, jnp.bool_, jnp.int32)


def test_chance_decides_how_visits_begin_that_alternate():
    draw = jax.jit(init_state, static_argnums=(0, 1, 2, 4, 5))

    def first(seed):
        state = draw(TINY, Sgd(), 400, jax.random.key(seed), LAST, True)
        return np.asarray(state.mirrored)

    assert 140 < first(0).sum() < 260
    assert 140 < (first(0) != first(1)).sum() < 260
    np.testing.assert_array_equal(first(0), first(0))
    assert fresh(jax.random.key(0)).mirrored == ()


def test_equal_keys_give_equal_states_and_other_keys_others():
    first, again, other = (fresh(jax.random.key(s)) for s in (1, 1, 2))
    for a, b in zip(plain(first), plain(again), strict=True):
        np.testing.assert_array_equal(a, b)
    for get in (lambda s: s.params["stem"], lambda s: s.key):
        assert all(
            (a != b).any()
            for a, b in zip(plain(get(first)), plain(get(other)), strict=True)
        )


def test_augmentation_does_not_draw_from_the_key_of_the_parameters():
    key = jax.random.key(1)
    state = fresh(key)
    assert (plain(state.key)[0] != plain(key)[0]).any()
    reused = jax.jit(lambda key: TINY.init(key)[0]["stem"])(state.key)
    assert (plain(reused)[0] != plain(state.params["stem"])[0]).all()
