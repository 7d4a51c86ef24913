import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.selection import blend, descending, top_k
from dpet_jax.selection.ranking import rank, stretch

N = 8
SCORES = jnp.array([0.3, -1.0, 0.3, 5.0, 0.0, 0.3, 2.0, -1.0])
OTHERS = jnp.array([9.0, 1.0, 4.0, 4.0, -3.0, 7.0, 0.5, 0.5])
INFINITE = jnp.inf


def ranks(values, allowed):
    """Average ranks of ties from 0 to 1 among the allowed, by counting."""
    values = np.asarray(values, np.float64)
    kept = values[allowed]
    below = (kept[None] < values[:, None]).sum(1)
    level = (kept[None] == values[:, None]).sum(1)
    return (below + (level - 1) / 2) / max(len(kept) - 1, 1)


def expected_blend(scores, others, weight):
    allowed = np.asarray(scores) > -np.inf
    mixed = (1 - weight) * ranks(scores, allowed) + weight * ranks(others, allowed)
    return np.where(allowed, mixed, -np.inf)


def test_top_k_takes_the_largest_first():
    got = top_k(jnp.array([0.1, 0.9, -3.0, 0.5, 0.7]), 3)
    np.testing.assert_array_equal(got, [1, 4, 3])
    assert got.dtype == jnp.int32


def test_top_k_breaks_ties_by_index():
    np.testing.assert_array_equal(top_k(SCORES, 5), [3, 6, 0, 2, 5])
    np.testing.assert_array_equal(top_k(jnp.ones(4), 4), [0, 1, 2, 3])


def test_top_k_with_a_key_lets_every_tied_position_win():
    tied = jnp.array([1.0, 2.0, 2.0, 0.0, 2.0, 2.0])
    picks = [np.asarray(top_k(tied, 2, key=jax.random.key(s))) for s in range(40)]
    assert {int(pick[0]) for pick in picks} == {1, 2, 4, 5}
    assert {int(pick[1]) for pick in picks} == {1, 2, 4, 5}
    assert all(pick[0] != pick[1] for pick in picks)


def test_top_k_with_a_key_still_takes_the_largest_first_and_repeats():
    first, again = (top_k(SCORES, 5, key=jax.random.key(3)) for _ in range(2))
    assert first.dtype == jnp.int32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(SCORES[first], SCORES[top_k(SCORES, 5)])


def test_top_k_of_none_is_empty():
    assert top_k(SCORES, 0).shape == (0,)


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["index", "chance"])
@pytest.mark.parametrize(
    ("scores", "num_select", "message"),
    [
        ([1.0, np.nan], 1, "NaN"),
        ([np.nan, -np.inf], 0, "NaN"),
        ([1.0, 2.0], 3, "cannot take 3 of 2"),
        ([1.0, -np.inf, 2.0], 3, "fewer than 3 examples may be taken"),
        ([-np.inf], 1, "fewer than 1"),
    ],
    ids=str,
)
def test_top_k_refuses_what_has_no_honest_answer(scores, num_select, message, key):
    with pytest.raises(ValueError, match=message):
        top_k(jnp.array(scores), num_select, key=key)


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["index", "chance"])
def test_top_k_never_takes_minus_infinity(key):
    scores = SCORES.at[jnp.array([3, 0])].set(-INFINITE)
    got = top_k(scores, N - 2, key=key)
    assert set(got.tolist()) == set(range(N)) - {0, 3}


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_blend_equals_ranks_by_counting(weight):
    got = blend(SCORES, OTHERS, weight)
    np.testing.assert_allclose(got, expected_blend(SCORES, OTHERS, weight), rtol=1e-6)
    assert got.dtype == jnp.float32


def test_blend_of_hand_ranks():
    scores, others = jnp.array([5.0, 7.0, 7.0, 100.0]), jnp.array([4.0, 3.0, 2.0, 1.0])
    # ranks 0, 1/2, 1/2, 1 and 1, 2/3, 1/3, 0
    np.testing.assert_allclose(
        blend(scores, others, 0.25), [0.25, 13 / 24, 11 / 24, 0.75], rtol=1e-6
    )


def test_weights_of_zero_and_one_reduce_to_one_of_both():
    nothing = jnp.zeros(N)
    np.testing.assert_array_equal(
        blend(SCORES, OTHERS, 0.0), blend(SCORES, nothing, 0.0)
    )
    np.testing.assert_array_equal(
        blend(SCORES, OTHERS, 1.0), blend(OTHERS, nothing, 0.0)
    )


def test_what_must_not_be_taken_stays_out_and_does_not_count():
    kept = np.array([1, 2, 4, 5, 6])
    out = jnp.array([0, 3, 7])
    scores = SCORES.at[out].set(-INFINITE)
    for others in (OTHERS, OTHERS.at[out].set(-INFINITE), OTHERS.at[out].set(1e9)):
        got = np.asarray(blend(scores, others, 0.4))
        assert np.isneginf(got[np.asarray(out)]).all()
        alone = blend(SCORES[kept], OTHERS[kept], 0.4)
        np.testing.assert_allclose(got[kept], alone, rtol=1e-6)


@pytest.mark.parametrize("allowed", [0, 1])
def test_blend_of_one_or_no_candidate_is_defined(allowed):
    scores = jnp.full(N, -INFINITE).at[:allowed].set(2.0)
    expected = [0.0] * allowed + [-np.inf] * (N - allowed)
    np.testing.assert_array_equal(blend(scores, OTHERS, 0.5), expected)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("which", [0, 1])
def test_one_nan_poisons_the_whole_blend(which, weight):
    pair = [SCORES, OTHERS]
    pair[which] = pair[which].at[2].set(jnp.nan)
    assert np.isnan(blend(*pair, weight)).all()


small = st.lists(st.integers(-8, 8), min_size=N, max_size=N)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    scores=small,
    others=small,
    excluded=st.lists(st.booleans(), min_size=N, max_size=N),
    weight=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    transform=st.sampled_from([np.exp, lambda x: x**3, lambda x: 5 * x - 3]),
)
def test_monotone_transforms_leave_a_blend_alone(
    scores, others, excluded, weight, transform
):
    scores, others = np.array(scores, np.float32), np.array(others, np.float32)
    scores[excluded] = -np.inf
    changed = np.where(excluded, scores, transform(np.where(excluded, 0, scores)))
    plain = blend(jnp.asarray(scores), jnp.asarray(others), weight)
    same = blend(
        jnp.asarray(changed, jnp.float32),
        jnp.asarray(transform(others), jnp.float32),
        weight,
    )
    np.testing.assert_array_equal(plain, same)
    np.testing.assert_allclose(plain, expected_blend(scores, others, weight), rtol=1e-6)
    finite = np.asarray(plain)[~np.array(excluded)]
    assert ((finite >= 0) & (finite <= 1)).all()


def test_top_k_counts_minus_zero_as_a_tie_with_zero():
    assert top_k(jnp.array([-0.0, 0.0, -0.0, -1.0]), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["index", "chance"])
def test_ranking_holds_the_scores_in_their_order_and_how_many_may_be_taken(key):
    scores = SCORES.at[jnp.array([3, 0])].set(-INFINITE)
    ranking = rank(scores, key)
    np.testing.assert_array_equal(ranking.scores, -np.sort(-np.asarray(scores)))
    np.testing.assert_array_equal(ranking.scores, scores[ranking.order])
    assert (int(ranking.allowed), bool(ranking.has_nan)) == (N - 2, False)
    order, allowed = descending(scores, key=key)
    np.testing.assert_array_equal(order, ranking.order)
    assert allowed == N - 2


@pytest.mark.parametrize("place", [0, 4, N - 1])
def test_ranking_tells_of_nan_wherever_it_stands(place):
    assert bool(rank(SCORES.at[place].set(jnp.nan)).has_nan)


@pytest.mark.parametrize("first", [0, 1, 5])
def test_stretch_is_that_part_of_the_ranking(first):
    ranking = rank(SCORES)
    order, scores = stretch(ranking, jnp.int32(first), 3)
    np.testing.assert_array_equal(order, ranking.order[first : first + 3])
    np.testing.assert_array_equal(scores, ranking.scores[first : first + 3])


def test_ranking_waits_for_no_transfer():
    scores = jax.device_put(SCORES)
    first = jax.device_put(np.int32(2))
    with jax.transfer_guard("disallow"):
        jax.device_get(stretch(rank(scores), first, 3))


def test_ranking_lowers_for_accelerators_without_the_host():
    ranking = rank(SCORES)
    programs = (
        rank.trace(SCORES),
        rank.trace(SCORES, jax.random.key(0)),
        stretch.trace(ranking, jnp.int32(0), 4),
        blend.trace(SCORES, OTHERS, jnp.float32(0.5)),
    )
    for traced in programs:
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text
