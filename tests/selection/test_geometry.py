"""k-center and herding against float64 NumPy, brute force and hand values."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.selection.geometry import (
    herding,
    herding_picks,
    k_center,
    k_center_picks,
)

N, D = 40, 3
RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(N, D)) * [3.0, 1.0, 0.5] + [5.0, -2.0, 0.0]
FEATURES = jnp.asarray(POINTS, jnp.float32)
#: Nine of them may be picked; what is elsewhere must not matter.
ALLOWED = np.isin(np.arange(N), [1, 4, 5, 11, 17, 20, 28, 33, 39])
PADDED = jnp.where(ALLOWED[:, None], FEATURES, jnp.nan)


def farthest_first(points, num_select, chosen):
    chosen, picks, gains = list(chosen), [], []
    for _ in range(num_select):
        if chosen:
            apart = np.linalg.norm(points[:, None] - points[None, chosen], axis=2)
            nearest = apart.min(1)
            nearest[chosen] = -1
            picks.append(int(nearest.argmax()))
            gains.append(nearest[picks[-1]])
        else:
            to_mean = np.linalg.norm(points - points.mean(0), axis=1)
            picks.append(int(to_mean.argmin()))
            gains.append(np.inf)
        chosen.append(picks[-1])
    return picks, gains


def herded(points, num_select):
    mean, picks = points.mean(0), []
    for turn in range(num_select):
        ahead = (turn + 1) * mean - points[picks].sum(0)
        away = np.linalg.norm(ahead[None] - points, axis=1)
        away[picks] = np.inf
        picks.append(int(away.argmin()))
    return picks


def radius(points, picks):
    apart = np.linalg.norm(points[:, None] - points[None, list(picks)], axis=2)
    return apart.min(1).max()


@pytest.mark.parametrize("start", [(), (3,), (7, 21, 8)])
def test_k_center_is_farthest_first(start):
    given = jnp.array(start, jnp.int32) if start else None
    got = k_center(FEATURES, 12, start=given)
    picks, gains = farthest_first(POINTS, 12, start)
    np.testing.assert_array_equal(got.indices, picks)
    np.testing.assert_allclose(got.gains, gains, rtol=1e-5)
    assert (got.indices.dtype, got.gains.dtype) == (np.int32, np.float32)
    assert got.weights is None


@pytest.mark.parametrize("key", [None, jax.random.key(5)], ids=["mean", "key"])
@pytest.mark.parametrize("num_select", [1, 2, 3, 4])
def test_k_center_stays_within_twice_the_best_radius(num_select, key):
    got = k_center(PADDED, num_select, key=key, allowed=jnp.asarray(ALLOWED))
    few = POINTS[ALLOWED]
    least = min(radius(few, some) for some in combinations(range(9), num_select))
    places = np.flatnonzero(ALLOWED).tolist()
    assert radius(few, [places.index(i) for i in got.indices]) <= 2 * least + 1e-5


def test_k_center_begins_in_the_middle_and_goes_to_the_ends():
    line = jnp.array([[0.0], [1.0], [4.0], [5.0], [10.0]])
    got = k_center(line, 5)
    np.testing.assert_array_equal(got.indices, [2, 4, 0, 1, 3])
    np.testing.assert_array_equal(got.gains, [np.inf, 6.0, 4.0, 1.0, 1.0])


def test_a_key_draws_the_first_pick_of_k_center_and_only_that():
    firsts = set()
    for seed in range(20):
        first, *rest = k_center(FEATURES, 4, key=jax.random.key(seed)).indices.tolist()
        assert rest == farthest_first(POINTS, 3, [first])[0]
        firsts.add(first)
    assert len(firsts) > 5
    start = jnp.array([3], jnp.int32)
    drawn = k_center(FEATURES, 4, key=jax.random.key(0), start=start)
    np.testing.assert_array_equal(
        drawn.indices, k_center(FEATURES, 4, start=start).indices
    )


def test_k_center_picks_no_start_again_and_start_may_lie_outside_the_allowed():
    features = PADDED.at[0].set(FEATURES[0])
    start = jnp.array([0, 4], jnp.int32)
    got = k_center(features, 8, start=start, allowed=jnp.asarray(ALLOWED))
    assert set(got.indices.tolist()) == set(np.flatnonzero(ALLOWED)) - {4}
    near_start = np.linalg.norm(POINTS - POINTS[0], axis=1)
    near_start = np.minimum(near_start, np.linalg.norm(POINTS - POINTS[4], axis=1))
    np.testing.assert_allclose(got.gains[0], near_start[ALLOWED].max(), rtol=1e-5)


def test_k_center_tells_near_points_apart_far_from_the_origin():
    cloud = np.asarray(RNG.integers(-40, 40, (N, D)), np.float64)
    far = jnp.asarray(cloud + 4096.0, jnp.float32)
    picks, gains = farthest_first(cloud + 4096.0, 10, [2])
    got = k_center(far, 10, start=jnp.array([2], jnp.int32))
    np.testing.assert_allclose(got.gains, gains, rtol=1e-5)
    np.testing.assert_array_equal(got.indices, picks)


def test_herding_takes_the_point_that_brings_the_mean_nearest():
    got = herding(FEATURES, 20)
    picks = herded(POINTS, 20)
    np.testing.assert_array_equal(got.indices, picks)
    errors = [
        np.linalg.norm(POINTS[picks[: t + 1]].mean(0) - POINTS.mean(0))
        for t in range(20)
    ]
    np.testing.assert_allclose(got.gains, -np.array(errors), atol=2e-6)
    assert (got.indices.dtype, got.gains.dtype) == (np.int32, np.float32)


def test_herding_keeps_the_mean_far_better_than_chance():
    def error(picks):
        return np.linalg.norm(POINTS[picks].mean(0) - POINTS.mean(0))

    chance = [error(RNG.permutation(N)[:10]) for _ in range(100)]
    assert error(herding(FEATURES, 10).indices) < np.mean(chance) / 5


def test_herding_by_hand():
    # the mean is 3: first the 3, then 6 - 3 = 3 asks for the 2, then 9 - 5 for the 5
    line = jnp.array([[5.0], [3.0], [2.0], [-3.0], [8.0]])
    np.testing.assert_array_equal(herding(line, 3).indices, [1, 2, 0])


def test_rows_not_allowed_count_for_nothing():
    mask, places = jnp.asarray(ALLOWED), np.flatnonzero(ALLOWED)
    few = POINTS[places]
    got = k_center(PADDED, 9, allowed=mask)
    picks, gains = farthest_first(few, 9, ())
    np.testing.assert_array_equal(got.indices, places[picks])
    np.testing.assert_allclose(got.gains, gains, atol=1e-5)
    picks = herded(few, 9)
    got = herding(PADDED, 9, allowed=mask)
    np.testing.assert_array_equal(got.indices, places[picks])
    errors = [
        np.linalg.norm(few[picks[: t + 1]].mean(0) - few.mean(0)) for t in range(9)
    ]
    np.testing.assert_allclose(got.gains, -np.array(errors), atol=1e-5)


@pytest.mark.parametrize("select", [k_center, herding])
def test_smaller_budgets_are_prefixes_and_all_examples_can_be_picked(select):
    most = select(FEATURES, N)
    assert sorted(most.indices.tolist()) == list(range(N))
    for num_select in (0, 1, 17):
        fewer = select(FEATURES, num_select)
        np.testing.assert_array_equal(fewer.indices, most.indices[:num_select])
        np.testing.assert_array_equal(fewer.gains, most.gains[:num_select])


@pytest.mark.parametrize("select", [k_center, herding])
def test_equal_points_are_picked_by_index(select):
    np.testing.assert_array_equal(select(jnp.ones((6, 2)), 6).indices, np.arange(6))


@pytest.mark.parametrize("select", [k_center, herding])
def test_a_permutation_of_the_input_permutes_the_picks(select):
    order = RNG.permutation(N)
    np.testing.assert_array_equal(
        order[select(FEATURES[order], 10).indices], select(FEATURES, 10).indices
    )


@pytest.mark.parametrize("select", [k_center, herding])
def test_what_has_no_honest_answer_is_refused(select):
    with pytest.raises(ValueError, match="cannot pick 41 of 40"):
        select(FEATURES, 41)
    with pytest.raises(ValueError, match="cannot pick 10 of 9"):
        select(FEATURES, 10, allowed=jnp.asarray(ALLOWED))
    with pytest.raises(ValueError, match="not finite"):
        select(PADDED, 3)


def test_k_center_refuses_a_start_that_is_no_position_or_not_finite():
    for start in (-1, N):
        with pytest.raises(ValueError, match="no position among 40"):
            k_center(FEATURES, 3, start=jnp.array([start], jnp.int32))
    outside = jnp.array([0], jnp.int32)
    with pytest.raises(ValueError, match="not finite"):
        k_center(PADDED, 3, start=outside, allowed=jnp.asarray(ALLOWED))
    with pytest.raises(ValueError, match="cannot pick 40 of 39"):
        k_center(FEATURES, N, start=jnp.array([3], jnp.int32))


def test_one_program_serves_every_budget_and_every_set_of_candidates():
    k_center_picks.clear_cache()
    herding_picks.clear_cache()
    for num_select, allowed in ((3, None), (5, jnp.asarray(ALLOWED)), (N, None)):
        k_center(FEATURES, num_select, allowed=allowed)
        herding(FEATURES, num_select, allowed=allowed)
    k_center(FEATURES, 4, start=jnp.array([1, 2, 3], jnp.int32))
    assert k_center_picks._cache_size() == 1
    assert herding_picks._cache_size() == 1


def test_geometry_lowers_for_accelerators_without_the_host():
    mask, count = jnp.asarray(ALLOWED), jnp.int32(3)
    programs = (
        k_center_picks.trace(FEATURES, mask, ~mask, count),
        k_center_picks.trace(FEATURES, mask, ~mask, count, jax.random.key(0)),
        herding_picks.trace(FEATURES, mask, count),
    )
    for traced in programs:
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text
