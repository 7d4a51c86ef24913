"""Rows of a batch that name one example several times, against comparing all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.training.repeats import only_last

OUTSIDE = 9
CASES = {
    "all different": [3, 0, 8, 5],
    "all the same": [4] * 7,
    "all fill rows": [OUTSIDE] * 5,
    "last row alone": [2],
    "one twice, with fill rows": [1, OUTSIDE, 6, 1, OUTSIDE, 0, 6, 1],
}


def by_pairs(targets, outside):
    again = jnp.triu(targets[:, None] == targets[None, :], 1).any(axis=1)
    return jnp.where(again, outside, targets)


@pytest.mark.parametrize("case", CASES)
def test_the_last_of_equal_rows_stays_as_where_all_pairs_are_compared(case):
    targets = jnp.array(CASES[case], jnp.int32)
    kept = jax.jit(only_last, static_argnums=1)(targets, OUTSIDE)
    np.testing.assert_array_equal(kept, by_pairs(targets, OUTSIDE))
    np.testing.assert_array_equal(only_last(targets, OUTSIDE), kept)


def test_random_batches_keep_the_same_rows_as_where_all_pairs_are_compared():
    rng = np.random.default_rng(0)
    # of few examples, where most are repeated, and of many, where few are
    batches = np.stack(
        [rng.integers(0, rng.choice([2, 30, 1000]) + 1, 64) for _ in range(300)]
    )
    targets = jnp.asarray(np.minimum(batches, 900), jnp.int32)
    kept, wanted = (
        jax.jit(jax.vmap(lambda one, f=function: f(one, 900)))(targets)
        for function in (only_last, by_pairs)
    )
    np.testing.assert_array_equal(kept, wanted)
