"""One-shot methods: who chooses, after which training, and what is trained on then."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from dpet_jax.methods.base import FRESH, MAIN, Method, Pool, Selection, TrainResult
from dpet_jax.methods.one_shot import SELECTORS, OneShot, forgetting_ranks

N = 20
POOL = Pool(N, np.zeros(N, np.int32), 2)
NOTHING = np.zeros(0)


class Log:
    """A learner that writes down what it is asked; fresh networks score differently."""

    batch_size = 32

    def __init__(self, forgetting=None):
        self.said, self.drawn = [], []
        self.forgetting = forgetting

    def score(self, names, index_set, model=MAIN):
        self.said.append(("score", names, index_set.size, model))
        scores = np.roll(np.arange(N, dtype=np.float32), len(self.drawn))
        return dict.fromkeys(names, scores[index_set])

    def select(self, selector, index_set, num_select, model=MAIN, **options):
        self.said.append((selector, index_set.size, num_select, model, options))
        if selector == "top_k":
            order = np.argsort(-options["values"], kind="stable")[:num_select]
            return Selection(index_set[order], options["values"][order])
        chosen = np.arange(num_select, dtype=np.int32)[::-1]
        gains = np.arange(num_select, dtype=np.float32)
        return Selection(chosen, gains, weights=gains + 1)

    def fresh(self, seed):
        self.drawn.append(seed)
        return FRESH

    def train(self, plan, model):
        self.said.append(("train", plan.label, plan.size, plan.passes, model))
        rows = np.arange(N, dtype=np.int32)
        counts = np.zeros(N, np.float32)
        if self.forgetting is not None:
            counts = self.forgetting[len(self.drawn) - 1]
        return TrainResult(rows, -np.arange(N, dtype=np.float32), rows > 0, counts)


def method_of(by="el2n", **options):
    keys = {"keep_fraction": 0.25, "passes": 6, "pretrain_passes": 3}
    return OneShot(by=by, **(keys | {"per_class": False, "weighted": False} | options))


def run(method, learner=None, seed=0):
    assert isinstance(method, Method)
    learner, state, plans = learner or Log(), method.start(POOL, seed), []
    while True:
        state, plan = method.plan(state, learner)
        if plan is None:
            return state, plans, learner
        plans.append(plan)
        state = method.observe(
            state, TrainResult(NOTHING, NOTHING, NOTHING > 0, NOTHING)
        )


def test_a_fresh_network_learns_everything_and_then_chooses():
    state, (plan,), log = run(method_of())
    assert log.said[:2] == [
        ("train", "pre-training", N, 3, FRESH),
        ("score", ("el2n",), N, FRESH),
    ]
    assert (plan.label, plan.passes, plan.size) == ("coreset", 6, 5)
    assert (plan.weights, plan.schedule, plan.reset) == (None, None, "none")
    # the one network rolled the scores by one, so the best is example 0
    assert state.indices.tolist() == [0, 19, 18, 17, 16]
    assert plan.index_set.tolist() == [0, 16, 17, 18, 19]
    chosen = method_of().coreset(state)
    assert chosen.indices.tolist() == state.indices.tolist()
    assert chosen.scores.tolist() == [19, 18, 17, 16, 15]


def test_scores_are_averaged_over_networks_of_different_seeds():
    state, _, log = run(method_of("grand", networks=4))
    assert len(set(log.drawn)) == 4
    trained = [said[1] for said in log.said if said[0] == "train"]
    assert trained == [f"pre-training {i} of 4" for i in (1, 2, 3, 4)]
    rolled = [np.roll(np.arange(N), i) for i in (1, 2, 3, 4)]
    mean = np.mean(rolled, axis=0)
    expected = np.argsort(-mean, kind="stable")[:5]
    assert state.indices.tolist() == expected.tolist()
    np.testing.assert_allclose(state.gains, mean[expected])


def test_choosing_networks_depend_on_the_seed_of_the_run():
    first, again, other = (run(method_of(), seed=seed)[2].drawn for seed in (1, 1, 2))
    assert first == again != other


def test_random_control_asks_no_network_and_has_no_score():
    state, (plan,), log = run(method_of("random"), seed=3)
    assert log.drawn == []
    assert [said[0] for said in log.said] == ["top_k"]
    assert len(set(state.indices.tolist())) == 5
    assert np.isnan(state.gains).all()
    other, *_ = run(method_of("random"), seed=4)
    assert other.indices.tolist() != state.indices.tolist()
    assert plan.weights is None


def test_selectors_choose_with_the_fresh_network_and_their_weights_have_mean_one():
    state, (plan,), log = run(method_of("craig", weighted=True))
    name, size, count, model, options = log.said[-1]
    assert (name, size, count, model) == ("craig", N, 5, FRESH)
    assert options["per_class"] is False
    assert isinstance(options["seed"], int)
    # chosen 4 3 2 1 0 with weights 1 2 3 4 5, which follow their examples
    assert plan.index_set.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(plan.weights, np.array([5, 4, 3, 2, 1]) / 3)
    np.testing.assert_allclose(state.weights.mean(), 1)
    _, (unweighted,), _ = run(method_of("craig"))
    assert unweighted.weights is None


def test_choosing_again_asks_the_main_model_and_goes_on():
    method = method_of("craig", weighted=True, choose_every=2, passes=7)
    _, plans, log = run(method)
    assert [plan.passes for plan in plans] == [2, 2, 2, 1]
    assert log.drawn == []
    assert [said[0] for said in log.said] == ["top_k", "craig", "craig", "craig"]
    assert {said[3] for said in log.said} == {MAIN}
    assert len({said[4]["seed"] for said in log.said[1:]}) == 3
    assert plans[0].weights is None  # a random set has none
    assert [plan.reset for plan in plans] == ["none"] * 4
    ends = [(p.schedule.start + p.visits) / p.schedule.horizon for p in plans]
    np.testing.assert_allclose(ends, [2 / 7, 4 / 7, 6 / 7, 1])
    scored = run(method_of(choose_every=3))[2].said
    assert [said[0] for said in scored] == ["top_k", "score", "top_k"]
    assert scored[1][3] == MAIN


def test_planned_visits_are_those_of_the_coreset():
    assert method_of().planned_visits(POOL) == 6 * 5


# forgetting


def test_forgetting_is_counted_while_the_networks_train():
    counts = np.zeros((2, N), np.float32)
    counts[:, 7], counts[0, 3] = 2, 1
    counts[:, 11] = np.inf
    state, _, log = run(method_of("forgetting", networks=2), Log(forgetting=counts))
    assert not any(said[0] == "score" for said in log.said)
    # never learned, twice, half a time, and then by the last loss, highest first
    assert state.indices.tolist() == [11, 7, 3, 0, 1]


def test_never_learned_comes_first_only_where_no_network_learned_it():
    infinite = np.inf
    counts = np.array([[infinite, 4, infinite, 0], [infinite, 4, 3, 0]], np.float32)
    losses = np.zeros((2, 4), np.float32)
    ranks = forgetting_ranks(counts, losses)
    assert np.argsort(-ranks).tolist() == [0, 1, 2, 3]


def test_equal_counts_are_ranked_by_the_mean_of_the_last_losses():
    counts = np.ones((2, 3), np.float32)
    losses = np.array([[1, 5, 2], [1, 0, 2]], np.float32)
    assert np.argsort(-forgetting_ranks(counts, losses)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("passes", [0])
def test_a_network_may_choose_untrained(passes):
    method = method_of("grand", pretrain_passes=passes, passes=1)
    _, _, log = run(method)
    assert [said[0] for said in log.said] == ["score", "top_k"]
    assert len(log.drawn) == 1


# keys


@pytest.mark.parametrize(
    "changes",
    [
        {"by": "el2n", "weighted": True},
        {"by": "craig", "networks": 2},
        {"by": "random", "networks": 2},
        {"by": "random", "proxy": {}},
        {"by": "forgetting", "choose_every": 5},
        {"by": "forgetting", "pretrain_passes": 0},
        {"by": "el2n", "choose_every": 5, "networks": 2},
        {"by": "el2n", "choose_every": 5, "proxy": {}},
    ],
)
def test_one_shot_refuses_settings_that_contradict_each_other(changes):
    with pytest.raises(ValidationError, match="value_error"):
        OneShot(**changes)
    for key in changes.keys() - {"by"}:
        rest = {name: value for name, value in changes.items() if name != key}
        if rest != {"by": "random", "proxy": {}}:
            OneShot(**rest)


@pytest.mark.parametrize(
    ("by", "per_class", "weighted", "asks"),
    [
        ("random", False, False, ()),
        ("forgetting", False, False, ()),
        ("el2n", False, False, ("el2n",)),
        ("grand", False, False, ("grand",)),
        ("k_center", False, False, ("logits", "features")),
        ("glister", False, False, ("logits", "features")),
        ("craig", True, True, ("logits", "features")),
        ("grad_match", True, True, ("logits", "features")),
        ("herding", True, False, ("logits", "features")),
    ],
)
def test_one_shot_is_as_its_paper_has_it_unless_told_otherwise(
    by, per_class, weighted, asks
):
    method = method_of(by, per_class=None, weighted=None)
    assert method.scores == asks
    _, (plan,), log = run(method)
    assert log.said[-1][-1]["per_class"] is per_class
    assert (plan.weights is not None) is weighted
    _, (plan,), log = run(method_of(by, per_class=not per_class, weighted=False))
    assert log.said[-1][-1]["per_class"] is not per_class
    assert plan.weights is None


def test_a_network_is_drawn_unless_chance_or_the_model_chooses():
    assert method_of("random").auxiliary is None
    assert method_of(choose_every=2).auxiliary is None
    assert method_of("forgetting").auxiliary == (FRESH, 1.0)
    assert method_of(proxy={"width_multiplier": 0.5}).auxiliary == (FRESH, 0.5)


def test_selectors_that_it_names_are_those_there_are():
    from dpet_jax.selection import by_name

    assert {*SELECTORS, "stratified"} == {*by_name.SELECTORS}


def test_a_selector_of_ones_own_is_asked_for_by_its_path(monkeypatch):
    module = SimpleNamespace(
        pick=lambda examples, num_select: examples.labels[:num_select],
        score=lambda logits, label: logits[label],
        lone=lambda examples: examples,
    )
    monkeypatch.setitem(sys.modules, "lab", module)
    method = method_of("lab:pick")
    assert method.scores == ("logits", "features")
    _, (plan,), log = run(method)
    assert log.said[1][:4] == ("lab:pick", N, 5, FRESH)
    assert plan.index_set.tolist() == [0, 1, 2, 3, 4]
    assert plan.weights is None
    assert method.label == "one shot (pick, keep 0.25)"
    assert method_of("lab:score").scores == ("lab:score",)
    with pytest.raises(ValidationError, match="averages scores; lab:pick is none"):
        method_of("lab:pick", networks=2)
    # neither a score nor a selector, and the message has both forms
    with pytest.raises(ValidationError, match=r"\(examples, num_select\)"):
        method_of("lab:lone")
