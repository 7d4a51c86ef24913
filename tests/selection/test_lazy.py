"""Lazy greedy picks what evaluating every gain in float64 picks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.selection.coverage import rows_of_matrix
from dpet_jax.selection.lazy import READ, RECOMPUTED, Blocks, lazy_cover

BLOCKS = {"read": READ, "recomputed": RECOMPUTED, "odd": Blocks(3, 7, 4)}


def distances(n, groups, seed=0):
    """Closeness in the plane, with `groups` clusters: gains over five decades."""
    rng = np.random.default_rng(seed)
    points = 4 * rng.normal(size=(groups, 2))[rng.integers(0, groups, n)]
    points = points + 0.3 * rng.normal(size=(n, 2))
    apart = np.sqrt(np.square(points[:, None] - points[None]).sum(2))
    return (apart.max() - apart).astype(np.float32)


def gathered(similarity, which):
    return similarity[which]


def among_others(similarity):
    """Put a matrix in a larger one, so that tests share a program."""
    few = len(similarity)
    whole = np.full((257, 257), 7.0, np.float32)
    whole[:few, :few] = similarity
    return whole, np.arange(257) < few


def run(similarity, num_select, blocks=READ, allowed=None):
    allowed = np.ones(len(similarity), np.bool_) if allowed is None else allowed
    covered = lazy_cover(
        rows_of_matrix if blocks == READ else gathered,
        jnp.asarray(similarity),
        jnp.asarray(allowed),
        jnp.int32(num_select),
        blocks,
    )
    picks = np.asarray(covered.picks.indices)[:num_select]
    return picks, np.asarray(covered.picks.gains)[:num_select], covered


def regrets(similarity, picks, gains, allowed=None):
    """How much more the best candidate of each turn would have gained, in float64."""
    exact = np.asarray(similarity, np.float64)
    if allowed is not None:
        exact = np.where(allowed[:, None], exact, 0.0)
    level, lost = np.zeros(len(exact)), []
    for turn, pick in enumerate(picks):
        possible = np.maximum(exact - level[:, None], 0).sum(0)
        possible[picks[:turn]] = -1
        if allowed is not None:
            possible[~allowed] = -1
        np.testing.assert_allclose(gains[turn], possible[pick], rtol=2e-5, atol=1e-4)
        lost.append(possible.max() - possible[pick])
        level = np.maximum(level, exact[:, pick])
    return np.array(lost)


@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_no_candidate_would_have_gained_more(blocks, groups):
    similarity = distances(257, groups)
    picks, gains, _ = run(similarity, 100, blocks)
    assert len(set(picks.tolist())) == 100
    # last gains are some 0.01
    assert regrets(similarity, picks, gains).max() < 2e-5


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_all_can_be_picked_and_a_gain_of_nothing_is_no_trap(blocks):
    similarity = np.repeat(np.repeat(distances(20, 3), 3, 0), 3, 1)
    similarity, allowed = among_others(similarity)
    picks, gains, _ = run(similarity, 60, blocks, allowed)
    assert sorted(picks.tolist()) == list(range(60))
    np.testing.assert_array_equal(gains[20:], 0.0)
    # of three that are one, the first is picked; the others follow in their order
    assert (picks[:20] % 3 == 0).all()
    assert picks[20:].tolist() == sorted(picks[20:].tolist())


def test_equal_candidates_are_picked_in_their_order():
    for similarity in (np.ones((9, 9)), np.eye(9)):
        similarity, allowed = among_others(similarity)
        assert run(similarity, 9, allowed=allowed)[0].tolist() == list(range(9))


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_what_is_not_allowed_is_as_if_it_were_not_there(blocks):
    similarity = distances(257, 12)
    allowed = np.random.default_rng(1).random(257) < 0.6
    picks, gains, _ = run(similarity, 60, blocks, allowed)
    assert allowed[picks].all()
    assert regrets(similarity, picks, gains, allowed).max() < 2e-5


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_every_example_is_stood_for_by_its_nearest_pick(blocks):
    similarity = distances(257, 12)
    picks, _, covered = run(similarity, 40, blocks)
    np.testing.assert_array_equal(covered.nearest, similarity[:, picks].argmax(1))
    np.testing.assert_array_equal(covered.level, similarity[:, picks].max(1))


def test_a_permutation_of_the_examples_permutes_the_picks():
    # few enough that no two of a pair are equally good
    similarity, order = distances(257, 12), np.random.default_rng(2).permutation(257)
    picks, _, _ = run(similarity, 15)
    permuted, _, _ = run(similarity[np.ix_(order, order)], 15)
    np.testing.assert_array_equal(order[permuted], picks)


def test_the_value_does_not_drift_where_gains_are_tiny_beside_the_first():
    # 1e4 in common leaves three digits after the point to float32
    similarity = distances(257, 12) + np.float32(1e3)
    picks, gains, _ = run(similarity, 100)
    assert regrets(similarity, picks, gains).max() < 2e-3
    value = similarity[:, picks].astype(np.float64).max(1).sum()
    np.testing.assert_allclose(gains.astype(np.float64).sum(), value, rtol=1e-6)


def test_one_program_serves_every_budget_and_every_number_allowed():
    similarity = distances(257, 4)
    run(similarity, 3)
    compiled = lazy_cover._cache_size()
    for budget, size in ((1, 257), (40, 50), (7, 7), (0, 257)):
        run(similarity, budget, allowed=np.arange(257) < size)
    assert lazy_cover._cache_size() == compiled


def test_lazy_greedy_lowers_for_accelerators_without_the_host():
    traced = lazy_cover.trace(
        gathered, jnp.eye(64), jnp.ones(64, jnp.bool_), jnp.int32(3), RECOMPUTED
    )
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "callback" not in text


def test_lazy_greedy_waits_for_no_transfer():
    matrix, allowed = np.eye(257, dtype=np.float32), np.ones(257, np.bool_)
    arguments = jax.device_put((matrix, allowed, np.int32(3)))
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(lazy_cover(rows_of_matrix, *arguments, READ))
