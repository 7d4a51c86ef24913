import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.selection.coverage import rows_of_matrix
from dpet_jax.selection.greedy import (
    check_greedy,
    cover,
    exact_cover,
    sample_size,
    settled,
    stochastic_cover,
)

RNG = np.random.default_rng(0)
N = 90


@pytest.fixture(scope="module")
def similarity():
    points = RNG.normal(size=(N, 3))
    apart = np.sqrt(np.square(points[:, None] - points[None]).sum(2))
    return jnp.asarray(apart.max() - apart, jnp.float32)


def naive(similarity, num_select, allowed):
    """Greedy in float64, evaluating all gains."""
    exact = np.asarray(similarity, np.float64)[allowed]
    level, picks, gains = np.zeros(len(exact)), [], []
    for _ in range(num_select):
        possible = np.maximum(exact - level[:, None], 0).sum(0)
        possible[~allowed] = -1
        possible[picks] = -1
        picks.append(int(possible.argmax()))
        gains.append(possible[picks[-1]])
        level = np.maximum(level, exact[:, picks[-1]])
    return picks, gains


def everyone(count=N):
    return jnp.arange(N) < count


def stochastic(similarity, num_select, size, seed=0, allowed=None):
    allowed = everyone() if allowed is None else allowed
    covered = stochastic_cover(
        rows_of_matrix,
        similarity,
        allowed,
        jnp.int32(num_select),
        jnp.int32(size),
        jax.random.key(seed),
    )
    picks = covered.picks
    return np.asarray(picks.indices)[:num_select], np.asarray(picks.gains)[:num_select]


@pytest.mark.parametrize("count", [N, 70])
def test_exact_greedy_is_naive_greedy_in_float64(similarity, count):
    covered = exact_cover(similarity, everyone(count), jnp.int32(20))
    picks, gains = naive(similarity, 20, np.asarray(everyone(count)))
    assert covered.picks.indices.tolist()[:20] == picks
    np.testing.assert_allclose(covered.picks.gains[:20], gains, rtol=1e-5)


def test_every_way_to_look_that_sees_all_picks_the_same(similarity):
    picks, _ = naive(similarity, 20, np.ones(N, np.bool_))
    for greedy in ("auto", "exact", "lazy"):
        got = cover(rows_of_matrix, similarity, everyone(), 20, greedy=greedy)
        assert got.picks.indices.tolist()[:20] == picks
    assert stochastic(similarity, 20, N)[0].tolist() == picks


def test_stochastic_greedy_looks_at_n_over_k_log_one_over_epsilon():
    assert sample_size(5000, 500, 0.01) == math.ceil(10 * math.log(100)) == 47
    assert sample_size(50000, 5000, 0.1) == 24
    assert sample_size(100, 2, 0.01) == 100
    assert sample_size(100, 0, 0.01) == 100
    # a formula with epsilon = 0.9 looks at one: chance, not greed
    peer = max(round(-math.log(0.9) * 10), 1)
    assert peer == 1 != sample_size(5000, 500, 0.01)


def test_stochastic_greedy_takes_the_best_of_exactly_as_many_draws(similarity):
    """Its first pick's rank among all is that of the best of so many draws."""
    best = np.asarray(similarity, np.float64).sum(1).argsort()[::-1]
    ranks = np.empty(N)
    ranks[best] = np.arange(N)
    for size, least, most in ((1, 38, 51), (17, 3.2, 5.8)):
        # (N + 1) / (size + 1) - 1 on average: 44.5 and 4.1, for draws without return
        means = [ranks[stochastic(similarity, 1, size, s)[0][0]] for s in range(200)]
        assert least < np.mean(means) < most


def test_stochastic_greedy_repeats_itself_and_never_picks_twice(similarity):
    picks, gains = stochastic(similarity, 60, 5, allowed=everyone(70))
    again, _ = stochastic(similarity, 60, 5, allowed=everyone(70))
    np.testing.assert_array_equal(picks, again)
    assert len(set(picks.tolist())) == 60
    assert picks.max() < 70
    value = np.asarray(similarity, np.float64)[:70][:, picks].max(1).sum()
    np.testing.assert_allclose(gains.astype(np.float64).sum(), value, rtol=1e-6)
    other, _ = stochastic(similarity, 60, 5, seed=1, allowed=everyone(70))
    assert other.tolist() != picks.tolist()


def test_stochastic_greedy_loses_about_epsilon(similarity):
    _, gains = naive(similarity, 10, np.ones(N, np.bool_))
    size = sample_size(N, 10, 0.01)
    values = [stochastic(similarity, 10, size, seed)[1].sum() for seed in range(20)]
    assert np.mean(values) > 0.99 * sum(gains)


def test_one_program_serves_every_budget(similarity):
    exact_cover(similarity, everyone(), jnp.int32(2))
    stochastic(similarity, 2, 3)
    before = exact_cover._cache_size(), stochastic_cover._cache_size()
    exact_cover(similarity, everyone(50), jnp.int32(30))
    stochastic(similarity, 30, 9, allowed=everyone(50))
    assert (exact_cover._cache_size(), stochastic_cover._cache_size()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("greedy", 0.1, None), "not one of"),
        (("stochastic", 0.1, None), "needs a key"),
        (("lazy", 0.1, jax.random.key(0)), "nothing else takes one"),
        (("lazy", 0.0, None), "inside"),
        (("lazy", 1.0, None), "inside"),
        (("lazy", math.nan, None), "inside"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_greedy(*options)


@pytest.mark.parametrize(
    ("backend", "fits", "way"),
    [("cpu", True, "lazy"), ("gpu", True, "exact"), ("gpu", False, "lazy")],
)
def test_accelerators_look_at_everything_where_it_fits(backend, fits, way, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert settled("auto", 8, 8 if fits else 7) == way
    assert settled("stochastic", 8, 8 if fits else 7) == "stochastic"


def test_exact_greedy_says_when_its_matrix_is_too_large(similarity):
    with pytest.raises(ValueError, match="lazy greedy picks the same"):
        cover(_rows, similarity, everyone(), 2, greedy="exact", memory_limit=1000)


def _rows(similarity, which):
    return similarity[which]


def test_greedy_lowers_for_accelerators_without_the_host(similarity):
    one, key = jnp.int32(1), jax.random.key(0)
    programs = (
        exact_cover.trace(similarity, everyone(), one),
        stochastic_cover.trace(rows_of_matrix, similarity, everyone(), one, one, key),
    )
    for traced in programs:
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text
