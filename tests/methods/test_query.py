"""A query picks from what is not selected yet, with a learner's scores or by chance."""

import numpy as np
import pytest
from fakes.learner import FixedScores, Forbidden
from pydantic import ValidationError

from dpet_jax.methods.base import PROXY, Learner
from dpet_jax.methods.dpet import Dpet
from dpet_jax.scores.registry import lookup

N = 20
NOTHING = np.zeros(0, np.int32)


def query_of(score="margin", query_size=3, **keys):
    return Dpet(score=score, query_size=query_size, **keys)


@pytest.fixture
def learner():
    learner = FixedScores((7 * np.arange(N)) % N)
    assert isinstance(learner, Learner)
    return learner


def test_most_informative_of_the_pool_are_picked_best_first(learner):
    selected = np.flatnonzero(learner.scores >= 18).astype(np.int32)
    chosen = query_of("margin", 3).query(learner, N, selected, 0, 1)
    assert learner.scores[chosen.indices].tolist() == [17, 16, 15]
    assert chosen.gains.tolist() == [17, 16, 15]


def test_everything_not_selected_is_scored_once(learner):
    query_of("margin", 3).query(learner, N, np.array([4, 19], np.int32), 0, 1)
    ((selector, pool, num_select, options),) = learner.asked
    assert selector == "top_k"
    assert pool.tolist() == [i for i in range(N) if i not in (4, 19)]
    assert pool.dtype == np.int32
    assert num_select == 3
    assert options == {"scores": ("margin",), "weight": 0.0}


@pytest.mark.parametrize(
    ("kind", "name"), [("euclidean", "el2n"), ("kl", "cross_entropy")]
)
def test_dissimilarity_asks_for_two_scores_and_passes_its_weight(kind, name, learner):
    query = query_of("entropy", dissimilarity={"kind": kind, "weight": 0.25})
    assert query.scores == ("entropy", name)
    query.query(learner, N, NOTHING, 0, 1)
    assert learner.asked[0][3] == {"scores": ("entropy", name), "weight": 0.25}


@pytest.mark.parametrize("kind", ["none", "euclidean", "kl"])
@pytest.mark.parametrize("score", ["margin", "entropy", "least_confidence"])
def test_artifact_asks_for_one_score_that_the_authors_formula_is(score, kind):
    (name,) = query_of(score, dissimilarity={"kind": kind}, compat="artifact").scores
    assert name == f"artifact_{score}_{kind}"
    assert lookup(name)


def test_random_control_never_asks_the_learner():
    query = query_of("random", 5, candidate_fraction=0.2)
    assert query.scores == ()
    selected = np.arange(10, dtype=np.int32)
    chosen = query.query(Forbidden(), N, selected, 0, 1)
    assert len(set(chosen.indices.tolist())) == 5
    assert set(chosen.indices.tolist()) <= set(range(10, N))
    assert chosen.indices.dtype == np.int32
    assert np.isnan(chosen.gains).all()


def test_random_control_is_fair_and_depends_on_seed_and_round():
    def draw(seed, round_index):
        query = query_of("random", 5)
        chosen = query.query(Forbidden(), N, NOTHING, seed, round_index)
        return tuple(chosen.indices.tolist())

    assert draw(0, 1) == draw(0, 1)
    assert len({draw(0, 1), draw(0, 2), draw(1, 1)}) == 3
    times = np.bincount(np.concatenate([draw(seed, 1) for seed in range(400)]))
    # Binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert (np.abs(times - 100) < 5 * 8.7).all()


@pytest.mark.parametrize("score", ["margin", "random"])
@pytest.mark.parametrize(("left", "size"), [(0, 0), (1, 1), (3, 3), (9, 4)])
def test_query_takes_what_is_left_of_the_pool(left, size, score, learner):
    selected = np.arange(N - left, dtype=np.int32)
    chosen = query_of(score, 4).query(learner, N, selected, 0, 1)
    assert chosen.indices.size == chosen.gains.size == size
    assert set(chosen.indices.tolist()) <= set(range(N - left, N))


def test_empty_pool_is_not_scored():
    everything = np.arange(N, dtype=np.int32)
    chosen = query_of("margin", 4).query(Forbidden(), N, everything, 0, 1)
    assert chosen.indices.size == 0


@pytest.mark.parametrize(
    ("fraction", "scored"), [(1.0, 16), (0.5, 8), (0.3, 5), (0.01, 3)]
)
def test_candidate_fraction_scores_that_share_of_the_pool(fraction, scored, learner):
    selected = np.arange(4, dtype=np.int32)
    query = query_of("margin", 3, candidate_fraction=fraction)
    chosen = query.query(learner, N, selected, 0, 1)
    ((_, pool, _, _),) = learner.asked
    assert pool.size == len(set(pool.tolist())) == scored
    assert not set(pool.tolist()) & set(selected.tolist())
    best = sorted(learner.scores[pool].tolist(), reverse=True)[:3]
    assert chosen.gains.tolist() == best


def test_candidates_are_drawn_anew_each_round_and_repeatably(learner):
    query = query_of("margin", 3, candidate_fraction=0.4)
    for seed, round_index in ((0, 1), (0, 1), (0, 2), (1, 1)):
        query.query(learner, N, NOTHING, seed, round_index)
    drawn = [tuple(pool.tolist()) for _, pool, _, _ in learner.asked]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


# spread out among the best


def test_a_spread_round_chooses_among_the_best_by_score(learner):
    query = query_of(query_size=4, diversity={"kind": "badge", "shortlist": 2.5})
    query.query(learner, N, NOTHING, 0, 1)
    (first, second) = learner.asked
    assert (first[0], first[2]) == ("top_k", 10)
    assert (second[0], second[2]) == ("badge", 4)
    assert sorted(learner.scores[second[1]]) == list(range(10, 20))
    assert query.scores == ("margin", "logits", "features")
    assert query_of("margin", 4).scores == ("margin",)


def test_spreading_draws_anew_in_every_round_and_for_every_seed(learner):
    query = query_of(query_size=2, diversity={"kind": "k_center", "shortlist": 2})
    seeds = set()
    for seed, round_index in ((0, 1), (0, 2), (1, 1), (0, 1)):
        query.query(learner, N, NOTHING, seed, round_index)
        seeds.add(learner.asked[-1][3]["seed"])
    assert len(seeds) == 3


def test_a_shortlist_that_is_all_that_is_left_is_not_spread(learner):
    query = query_of(query_size=4, diversity={"kind": "badge", "shortlist": 3})
    selected = np.arange(16, dtype=np.int32)
    chosen = query.query(learner, N, selected, 0, 1)
    assert chosen.indices.size == 4
    assert [asked[0] for asked in learner.asked] == ["top_k"]


# what it needs


def test_a_proxy_is_the_auxiliary_network_and_appears_in_the_label():
    assert query_of().auxiliary is None
    method = query_of(proxy={"width_multiplier": 0.5})
    assert method.auxiliary == (PROXY, 0.5)
    assert method.label == "DPET (margin by a proxy of width 0.5)"
    assert query_of("least_confidence").label == "DPET (least confidence)"


def test_a_score_that_nobody_knows_is_refused_with_those_there_are():
    with pytest.raises(ValidationError, match=r"'bald'.*margin"):
        query_of("bald")
