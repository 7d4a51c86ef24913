"""Facility location and graph cut against brute force, float64 and each other."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores.factors import (
    Gradients,
    cosine_similarity,
    last_layer_gradients,
)
from dpet_jax.selection.coverage import rows_of_matrix
from dpet_jax.selection.submodular import (
    cosine_rows,
    cut_picks,
    facility_location,
    facility_location_of_gradients,
    graph_cut,
    graph_cut_of_gradients,
)

N = 120


def gradients_of(n, seed=0):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=(n, 4)), rng.integers(0, 4, n), rng.normal(size=(n, 7))
    types = jnp.float32, jnp.int32, jnp.float32
    return last_layer_gradients(*map(jnp.asarray, arrays, types))


@pytest.fixture(scope="module")
def gradients():
    return gradients_of(N)


@pytest.fixture(scope="module")
def similarity(gradients):
    return cosine_similarity(gradients, gradients)


def coverage_of(similarity, picks):
    return np.asarray(similarity, np.float64)[:, list(picks)].max(1).sum()


def cut_of(similarity, picks, redundancy):
    exact, picks = np.asarray(similarity, np.float64), list(picks)
    return exact[:, picks].sum() - redundancy * exact[np.ix_(picks, picks)].sum()


def largest(value, n, size):
    return max(value(picks) for picks in combinations(range(n), size))


def clusters(*sizes):
    """Blocks of ones: the best S has one of each of the largest blocks."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    return jnp.asarray(label[:, None] == label[None], jnp.float32)


@pytest.mark.parametrize("greedy", ["exact", "lazy"])
def test_facility_location_is_the_best_of_all_sets_where_greedy_is(greedy):
    similarity = clusters(3, 5, 4)
    picked = facility_location(similarity, 2, greedy=greedy)
    assert picked.indices.tolist() == [3, 8]
    assert picked.gains.tolist() == [5, 4]
    best = largest(lambda picks: coverage_of(similarity, picks), 12, 2)
    assert coverage_of(similarity, picked.indices) == best == 9


def test_graph_cut_is_the_best_of_all_sets_where_greedy_is():
    similarity = clusters(3, 5, 4)
    # a first of five gains 5 - 1, a first of four 4 - 1, a second of five 5 - 3
    picked = graph_cut(similarity, 2, redundancy=1.0)
    assert picked.indices.tolist() == [3, 8]
    np.testing.assert_allclose(picked.gains, [4, 3], rtol=1e-6)
    best = largest(lambda picks: cut_of(similarity, picks, 1.0), 12, 2)
    assert cut_of(similarity, picked.indices, 1.0) == best == 7


@pytest.mark.parametrize("seed", range(4))
def test_greedy_reaches_more_than_one_minus_one_over_e(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.random((11, 11)) ** 3
    similarity = jnp.asarray(similarity + similarity.T, jnp.float32)
    least = 1 - 1 / np.e
    for size in (3, 5):
        picks = facility_location(similarity, size).indices
        best = largest(lambda picks: coverage_of(similarity, picks), 11, size)
        assert coverage_of(similarity, picks) >= least * best
        picks = graph_cut(similarity, size, redundancy=0.5).indices
        best = largest(lambda picks: cut_of(similarity, picks, 0.5), 11, size)
        assert cut_of(similarity, picks, 0.5) >= least * best


@pytest.mark.parametrize("greedy", ["exact", "lazy", "stochastic"])
def test_gains_add_up_to_the_value_of_the_function(similarity, greedy):
    key = jax.random.key(0) if greedy == "stochastic" else None
    picked = facility_location(similarity, 30, greedy=greedy, key=key)
    assert picked.indices.dtype == np.int32
    assert picked.gains.dtype == np.float32
    assert picked.weights is None
    value = coverage_of(similarity, picked.indices)
    np.testing.assert_allclose(picked.gains.astype(np.float64).sum(), value, rtol=1e-6)


def test_a_smaller_budget_is_a_prefix(similarity):
    for select in (facility_location, graph_cut):
        few, many = select(similarity, 7), select(similarity, 25)
        np.testing.assert_array_equal(few.indices, many.indices[:7])
        np.testing.assert_array_equal(few.gains, many.gains[:7])


def test_recomputed_rows_count_every_block(gradients, similarity):
    """A batched evaluation that only counts its first batch picks others."""
    # few enough that no two of a pair are equally good
    picked = facility_location(similarity, 20)
    blocked = facility_location_of_gradients(gradients, 20, memory_limit=0)
    np.testing.assert_array_equal(blocked.indices, picked.indices)
    np.testing.assert_allclose(blocked.gains, picked.gains, rtol=1e-3, atol=1e-4)
    built = facility_location_of_gradients(gradients, 20)
    np.testing.assert_array_equal(built.indices, picked.indices)
    exact, level, picks = np.asarray(similarity, np.float64)[:64], np.zeros(64), []
    for _ in range(20):
        picks.append(int(np.maximum(exact - level[:, None], 0).sum(0).argmax()))
        level = np.maximum(level, exact[:, picks[-1]])
    assert picks != picked.indices.tolist()


def naive_cut(similarity, num_select, redundancy, allowed):
    exact = np.asarray(similarity, np.float64) * allowed[:, None]
    picks, gains = [], []
    for _ in range(num_select):
        value = [
            cut_of(exact, [*picks, x], redundancy) if allowed[x] and x not in picks
            # below what any candidate reaches
            else -np.inf
            for x in range(len(exact))
        ]  # fmt: skip
        before = cut_of(exact, picks, redundancy) if picks else 0.0
        picks.append(int(np.argmax(value)))
        gains.append(max(value) - before)
    return picks, gains


@pytest.mark.parametrize("count", [N, 80])
@pytest.mark.parametrize("redundancy", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_both_forms_of_graph_cut_are_naive_greedy_in_float64(
    gradients, similarity, redundancy, count
):
    allowed = np.arange(N) < count
    picks, gains = naive_cut(similarity, 25, redundancy, allowed)
    given = {"redundancy": redundancy, "allowed": jnp.asarray(allowed)}
    for picked in (
        graph_cut(similarity, 25, **given),
        graph_cut_of_gradients(gradients, 25, **given),
    ):
        assert picked.indices.tolist() == picks
        np.testing.assert_allclose(picked.gains, gains, rtol=1e-5, atol=1e-4)


def test_graph_cut_is_not_blurred_by_what_all_similarities_share(similarity):
    # sums of 1e5: float32 has two digits after the point left
    shifted = similarity + 1e3
    plain, moved = graph_cut(similarity, 30), graph_cut(shifted, 30)
    lost = naive_regret(np.asarray(shifted, np.float64), moved.indices)
    assert moved.indices[:3].tolist() == plain.indices[:3].tolist()
    assert lost < 0.02


def naive_regret(exact, picks):
    totals, shared, worst = exact.sum(0), np.zeros(len(exact)), 0.0
    for turn, pick in enumerate(picks):
        gains = totals - 2 * shared - exact.diagonal()
        gains[picks[:turn]] = -np.inf
        worst = max(worst, gains.max() - gains[pick])
        shared += exact[pick]
    return worst


def test_an_example_without_a_gradient_is_half_similar_to_everything(gradients):
    errors = gradients.errors.at[5].set(0.0)
    blank = gradients._replace(errors=errors)
    similarity = cosine_similarity(blank, blank)
    expected = graph_cut(similarity, 30).indices
    np.testing.assert_array_equal(graph_cut_of_gradients(blank, 30).indices, expected)


def test_rows_that_do_not_count_may_hold_anything(gradients):
    junk = Gradients(
        gradients.errors.at[N - 20 :].set(jnp.nan),
        gradients.features.at[N - 20 :].set(jnp.inf),
    )
    allowed = jnp.arange(N) < N - 20
    for select in (facility_location_of_gradients, graph_cut_of_gradients):
        expected = select(gradients, 15, allowed=allowed)
        assert expected.indices.max() < N - 20
        got = select(junk, 15, allowed=allowed)
        np.testing.assert_array_equal(got.indices, expected.indices)
        np.testing.assert_allclose(got.gains, expected.gains, rtol=1e-5, atol=1e-4)


def test_a_permutation_of_the_examples_permutes_the_picks(gradients, similarity):
    order = np.random.default_rng(3).permutation(N)
    permuted = similarity[np.ix_(order, order)]
    turned = jax.tree.map(lambda factor: factor[order], gradients)
    for select, given, other in (
        (facility_location, similarity, permuted),
        (graph_cut, similarity, permuted),
        (graph_cut_of_gradients, gradients, turned),
    ):
        picks = select(given, 12).indices
        np.testing.assert_array_equal(order[select(other, 12).indices], picks)


@pytest.mark.parametrize("select", [facility_location, graph_cut])
@pytest.mark.parametrize(
    ("change", "num_select", "message"),
    [
        ({}, N + 1, "cannot pick 121 of 120"),
        ({}, -1, "cannot pick -1"),
        ({(3, 4): np.nan}, 2, "not finite"),
        ({(3, 4): np.inf}, 2, "not finite"),
        ({(3, 4): -0.1, (4, 3): -0.1}, 2, "negative"),
        ({(0, 4): 0.0}, 2, "not symmetric"),
    ],
    ids=str,
)
def test_what_has_no_honest_answer_is_refused(
    similarity, select, change, num_select, message
):
    for place, value in change.items():
        similarity = similarity.at[place].set(value)
    with pytest.raises(ValueError, match=message):
        select(similarity, num_select)


def test_options_and_gradients_that_mean_nothing_are_refused(gradients, similarity):
    with pytest.raises(ValueError, match="redundancy"):
        graph_cut(similarity, 2, redundancy=-1.0)
    with pytest.raises(ValueError, match="redundancy"):
        graph_cut_of_gradients(gradients, 2, redundancy=float("nan"))
    with pytest.raises(ValueError, match="needs a key"):
        facility_location(similarity, 2, greedy="stochastic")
    bad = gradients._replace(features=gradients.features.at[2, 1].set(jnp.nan))
    for select in (facility_location_of_gradients, graph_cut_of_gradients):
        with pytest.raises(ValueError, match="not finite"):
            select(bad, 2)


def test_none_can_be_picked(gradients, similarity):
    assert facility_location(similarity, 0).indices.shape == (0,)
    assert graph_cut_of_gradients(gradients, 0).indices.shape == (0,)


def test_one_program_serves_every_budget_and_redundancy(gradients, similarity):
    graph_cut(similarity, 2)
    graph_cut_of_gradients(gradients, 2)
    compiled = cut_picks._cache_size()
    graph_cut(similarity, 30, redundancy=0.25, allowed=jnp.arange(N) < 40)
    graph_cut_of_gradients(gradients, 11, redundancy=0.0)
    assert cut_picks._cache_size() == compiled


def test_graph_cut_lowers_for_accelerators_without_the_host(gradients, similarity):
    totals, one = jnp.zeros(N), jnp.float32(1)
    rest = (totals, totals, one, jnp.ones(N, jnp.bool_), jnp.int32(2), one)
    for rows, source in ((rows_of_matrix, similarity), (cosine_rows, gradients)):
        traced = cut_picks.trace(rows, source, *rest)
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "callback" not in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers' imports
@pytest.mark.parametrize("peer", ["submodlib", "apricot"])
def test_a_peer_reaches_the_same_value(peer, gradients):
    module = pytest.importorskip(peer, reason="a peer, installed by hand")
    gradients = gradients_of(1000)
    similarity = cosine_similarity(gradients, gradients)
    exact = np.asarray(similarity)
    ours = facility_location(similarity, 100)
    if peer == "submodlib":
        function = module.FacilityLocationFunction(
            n=1000, mode="dense", sijs=exact, separate_rep=False
        )
        chosen = function.maximize(budget=100, optimizer="LazyGreedy")
        theirs = [index for index, _ in chosen]
    else:
        model = module.FacilityLocationSelection(100, metric="precomputed")
        theirs = model.fit(exact.astype(np.float64)).ranking
    value, other = (coverage_of(exact, picks) for picks in (ours.indices, theirs))
    assert abs(value - other) <= 1e-6 * other
    # they part company at ties alone
    assert ours.indices[:20].tolist() == [int(index) for index in theirs[:20]]
