import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.selection.coverage import (
    gains_of,
    rows_of_matrix,
    similarity_matrix,
    stretch_of,
    taken,
    uncovered,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 100])
def test_a_gain_is_the_sum_of_what_the_levels_would_rise_by(n):
    similar, level = RNG.random((3, n), np.float32), RNG.random(n, np.float32)
    level[::4] = np.inf
    expected = np.maximum(similar.astype(np.float64) - level, 0).sum(1)
    got = gains_of(jnp.asarray(similar), jnp.asarray(level))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_pick_raises_levels_and_stands_for_itself_and_all_that_it_raises():
    covered = uncovered(jnp.array([True, True, False, True]))
    first, second = jnp.array([0.9, 0.2, 0.8, 0.0]), jnp.array([0.9, 0.5, 0.9, 0.0])
    covered = taken(covered, jnp.int32(0), jnp.int32(0), jnp.float32(1.1), first)
    covered = taken(covered, jnp.int32(1), jnp.int32(3), jnp.float32(0.3), second)
    np.testing.assert_allclose(covered.level, [0.9, 0.5, np.inf, 0.0], rtol=1e-6)
    # 0 stays with the earlier of two equals, 3 is nobody's but its own
    assert covered.nearest.tolist()[:2] == [0, 1]
    assert covered.nearest.tolist()[3] == 1
    assert covered.picks.indices.tolist()[:2] == [0, 3]
    np.testing.assert_allclose(covered.picks.gains[:2], [1.1, 0.3], rtol=1e-6)


@pytest.mark.parametrize("n", [3, 256, 300])
def test_a_matrix_built_in_blocks_holds_every_row_in_its_place(n):
    matrix = jnp.asarray(RNG.random((n, n), np.float32))
    np.testing.assert_array_equal(similarity_matrix(_doubled, matrix, n), 2 * matrix)


def _doubled(matrix, which):
    return 2.0 * matrix[which]


def test_rows_of_a_matrix_come_in_the_order_asked_for():
    matrix = jnp.asarray(RNG.random((6, 6), np.float32))
    which = jnp.array([4, 0, 4])
    np.testing.assert_array_equal(rows_of_matrix(matrix, which), matrix[which])


def test_stretches_cover_everything_and_end_at_the_end():
    seen = [stretch_of(jnp.int32(index), 4, 10)[1].tolist() for index in range(3)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
