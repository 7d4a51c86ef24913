"""A query picks from what is not selected yet, with a learner's scores or by chance."""

import numpy as np
import pytest

from dpet_jax.methods.base import Learner, Selection
from dpet_jax.methods.query import Query

N = 20
NOTHING = np.zeros(0, np.int32)


class Scores:
    """A learner with a fixed score for every example; remembers what it was asked."""

    def __init__(self, scores):
        self.scores = np.asarray(scores, np.float32)
        self.asked = []

    def score(self, names, index_set):
        return dict.fromkeys(names, self.scores[index_set])

    def select(self, selector, index_set, num_select, **options):
        self.asked.append((selector, index_set.copy(), num_select, options))
        best = index_set[np.argsort(-self.scores[index_set], kind="stable")]
        chosen = best[:num_select]
        return Selection(chosen, self.scores[chosen])

    def fresh(self, seed):
        raise AssertionError(seed)

    def train(self, plan, model):
        raise AssertionError((plan, model))


class Forbidden:
    """A learner that must not be asked."""

    def score(self, names, index_set):
        raise AssertionError((names, index_set))

    def select(self, selector, index_set, num_select, **options):
        raise AssertionError((selector, index_set, num_select, options))

    def fresh(self, seed):
        raise AssertionError(seed)

    def train(self, plan, model):
        raise AssertionError((plan, model))


@pytest.fixture
def learner():
    learner = Scores((7 * np.arange(N)) % N)
    assert isinstance(learner, Learner)
    return learner


def test_most_informative_of_the_pool_are_picked_best_first(learner):
    selected = np.flatnonzero(learner.scores >= 18).astype(np.int32)
    chosen = Query("margin", 3).select(learner, N, selected, 0, 1)
    assert learner.scores[chosen.indices].tolist() == [17, 16, 15]
    assert chosen.gains.tolist() == [17, 16, 15]


def test_everything_not_selected_is_scored_once(learner):
    Query("margin", 3).select(learner, N, np.array([4, 19], np.int32), 0, 1)
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
    query = Query("entropy", 3, dissimilarity=kind, weight=0.25)
    assert query.scores == ("entropy", name)
    query.select(learner, N, NOTHING, 0, 1)
    assert learner.asked[0][3] == {"scores": ("entropy", name), "weight": 0.25}


@pytest.mark.parametrize("kind", ["none", "euclidean", "kl"])
@pytest.mark.parametrize("score", ["margin", "entropy", "least_confidence"])
def test_artifact_asks_for_one_score_that_the_authors_formula_is(score, kind):
    from dpet_jax.scores.registry import known_scores

    (name,) = Query(score, 3, dissimilarity=kind, artifact=True).scores
    assert name == f"artifact_{score}_{kind}"
    assert name in known_scores()


def test_random_control_never_asks_the_learner():
    query = Query("random", 5, candidate_fraction=0.2)
    assert query.scores == ()
    selected = np.arange(10, dtype=np.int32)
    chosen = query.select(Forbidden(), N, selected, 0, 1)
    assert len(set(chosen.indices.tolist())) == 5
    assert set(chosen.indices.tolist()) <= set(range(10, N))
    assert chosen.indices.dtype == np.int32
    assert np.isnan(chosen.gains).all()


def test_random_control_is_fair_and_depends_on_seed_and_round():
    def draw(seed, round_index):
        query = Query("random", 5)
        chosen = query.select(Forbidden(), N, NOTHING, seed, round_index)
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
    chosen = Query(score, 4).select(learner, N, selected, 0, 1)
    assert chosen.indices.size == chosen.gains.size == size
    assert set(chosen.indices.tolist()) <= set(range(N - left, N))


def test_empty_pool_is_not_scored():
    everything = np.arange(N, dtype=np.int32)
    chosen = Query("margin", 4).select(Forbidden(), N, everything, 0, 1)
    assert chosen.indices.size == 0


@pytest.mark.parametrize(
    ("fraction", "scored"), [(1.0, 16), (0.5, 8), (0.3, 5), (0.01, 3)]
)
def test_candidate_fraction_scores_that_share_of_the_pool(fraction, scored, learner):
    selected = np.arange(4, dtype=np.int32)
    query = Query("margin", 3, candidate_fraction=fraction)
    chosen = query.select(learner, N, selected, 0, 1)
    ((_, pool, _, _),) = learner.asked
    assert pool.size == len(set(pool.tolist())) == scored
    assert not set(pool.tolist()) & set(selected.tolist())
    best = sorted(learner.scores[pool].tolist(), reverse=True)[:3]
    assert chosen.gains.tolist() == best


def test_candidates_are_drawn_anew_each_round_and_repeatably(learner):
    query = Query("margin", 3, candidate_fraction=0.4)
    for seed, round_index in ((0, 1), (0, 1), (0, 2), (1, 1)):
        query.select(learner, N, NOTHING, seed, round_index)
    drawn = [tuple(pool.tolist()) for _, pool, _, _ in learner.asked]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


# spread out among the best


def test_a_spread_round_chooses_among_the_best_by_score(learner):
    query = Query("margin", 4, diversity="badge", shortlist=2.5)
    query.select(learner, N, NOTHING, 0, 1)
    (first, second) = learner.asked
    assert (first[0], first[2]) == ("top_k", 10)
    assert (second[0], second[2]) == ("badge", 4)
    assert sorted(learner.scores[second[1]]) == list(range(10, 20))
    assert query.asks == ("margin", "logits", "features")
    assert Query("margin", 4).asks == ("margin",)


def test_spreading_draws_anew_in_every_round_and_for_every_seed(learner):
    query = Query("margin", 2, diversity="k_center", shortlist=2.0)
    seeds = set()
    for seed, round_index in ((0, 1), (0, 2), (1, 1), (0, 1)):
        query.select(learner, N, NOTHING, seed, round_index)
        seeds.add(learner.asked[-1][3]["seed"])
    assert len(seeds) == 3


def test_a_shortlist_that_is_all_that_is_left_is_not_spread(learner):
    query = Query("margin", 4, diversity="badge", shortlist=3.0)
    selected = np.arange(16, dtype=np.int32)
    chosen = query.select(learner, N, selected, 0, 1)
    assert chosen.indices.size == 4
    assert [asked[0] for asked in learner.asked] == ["top_k"]
