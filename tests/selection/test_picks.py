"""What greedy selectors share: candidates, ties, buffers."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.selection.picks import (
    added,
    best,
    candidates,
    no_picks,
    rounded_up,
    selection,
)


def test_best_takes_the_smaller_index_of_a_tie_and_nothing_unavailable():
    values = jnp.array([9.0, 3.0, 3.0, 1.0, 3.0])
    available = jnp.array([False, False, True, True, True])
    assert int(best(values, available)) == 2


def test_best_prefers_an_available_minus_infinity_to_what_is_not_available():
    values = jnp.array([5.0, -jnp.inf, -jnp.inf])
    assert int(best(values, jnp.array([False, False, True]))) == 2


def test_candidates_count_and_look_at_allowed_rows_alone():
    rows = jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [0.0, 0.0]])
    allowed = jnp.array([True, False, True])
    np.testing.assert_array_equal(candidates(2, allowed, rows), allowed)
    with pytest.raises(ValueError, match="cannot pick 3 of 2"):
        candidates(3, allowed, rows)
    with pytest.raises(ValueError, match="cannot pick -1 of 2"):
        candidates(-1, allowed, rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_candidates_refuse_a_row_that_is_not_finite_in_any_array(value):
    sound, broken = jnp.zeros((3, 2)), jnp.zeros((3, 2)).at[1, 1].set(value)
    for arrays in ((sound, broken), (broken, sound)):
        with pytest.raises(ValueError, match="not finite"):
            candidates(1, None, *arrays)


def test_a_selection_holds_the_turns_asked_for_in_their_order():
    picks = no_picks(4)
    for turn, index in enumerate([7, 2, 5]):
        picks = added(picks, jnp.int32(turn), jnp.int32(index), jnp.float32(-turn))
    chosen = selection(picks, 2, 8, jnp.arange(4.0))
    np.testing.assert_array_equal(chosen.indices, [7, 2])
    np.testing.assert_array_equal(chosen.gains, [0.0, -1.0])
    np.testing.assert_array_equal(chosen.weights, [0.0, 1.0])
    assert (chosen.indices.dtype, chosen.gains.dtype) == (np.int32, np.float32)
    assert selection(picks, 0, 8).indices.shape == (0,)


def test_a_selection_refuses_what_overflowed():
    picks = no_picks(2)
    broken = added(picks, jnp.int32(0), jnp.int32(0), jnp.float32(jnp.nan))
    with pytest.raises(ValueError, match="too large"):
        selection(broken, 1, 8)
    with pytest.raises(ValueError, match="too large"):
        selection(picks, 1, 8, jnp.array([jnp.nan, 0.0]))


@pytest.mark.parametrize("indices", [[0, 0], [3, 0], [-1, 0]])
def test_a_selection_refuses_what_is_no_row_or_comes_twice(indices):
    picks = no_picks(2)._replace(indices=jnp.array(indices, jnp.int32))
    with pytest.raises(ValueError, match="too large"):
        selection(picks, 2, 3)


@pytest.mark.parametrize(
    ("num_select", "expected"), [(0, 1), (1, 1), (3, 4), (4, 4), (5, 8), (9, 12)]
)
def test_capacities_are_powers_of_two_up_to_the_most(num_select, expected):
    assert rounded_up(num_select, 12) == expected
