"""A method that asks a proxy: who answers, and after which training."""

import numpy as np
import pytest

from dpet_jax.methods.base import MAIN, PROXY, Learner, Plan, Selection, TrainResult
from dpet_jax.methods.proxy import ProxyLearner

POOL = np.arange(5, dtype=np.int32)
PLANS = [Plan(POOL[: size + 1], f"plan {size}") for size in range(3)]


class Log:
    """A learner that writes down what it is asked, and by whose handle."""

    batch_size = 32

    def __init__(self, fails_at=None):
        self.said, self.fails_at = [], fails_at

    def score(self, names, index_set, model=MAIN):
        self.said.append(("score", model, names, index_set.size))
        return dict.fromkeys(names, index_set)

    def select(self, selector, index_set, num_select, model=MAIN, **options):
        self.said.append((selector, model, num_select, options))
        return Selection(index_set[:num_select], index_set[:num_select])

    def fresh(self, seed):
        raise AssertionError(seed)

    def train(self, plan, model):
        if plan.label == self.fails_at:
            raise KeyboardInterrupt
        self.said.append(("train", model, plan.label))
        return TrainResult(*[plan.index_set] * 4)


@pytest.fixture
def log():
    return Log()


CAUGHT_UP = [("train", PROXY, plan.label) for plan in PLANS]
SELECT = ("top_k", PROXY, 2, {"scores": ("margin",)})


def test_proxy_catches_up_in_order_and_then_answers(log):
    pending = list(PLANS)
    learner = ProxyLearner(log, pending)
    assert isinstance(learner, Learner)
    chosen = learner.select("top_k", POOL, 2, scores=("margin",))
    assert chosen.indices.tolist() == [0, 1]
    assert log.said == [*CAUGHT_UP, SELECT]
    assert pending == []


def test_proxy_that_is_up_to_date_only_answers(log):
    learner = ProxyLearner(log, list(PLANS))
    learner.score(("margin", "el2n"), POOL)
    learner.select("top_k", POOL, 2, scores=("margin",))
    scored = ("score", PROXY, ("margin", "el2n"), 5)
    assert log.said == [*CAUGHT_UP, scored, SELECT]


def test_proxy_that_nobody_asks_is_not_trained(log):
    pending = list(PLANS)
    ProxyLearner(log, pending)
    assert (log.said, len(pending)) == ([], 3)


@pytest.mark.parametrize("model", [MAIN, PROXY])
def test_a_score_of_the_main_model_is_the_proxys(log, model):
    ProxyLearner(log, []).score(("margin",), POOL, model)
    assert log.said == [("score", PROXY, ("margin",), 5)]


def test_other_models_answer_for_themselves_without_the_proxy(log):
    pending = list(PLANS)
    learner = ProxyLearner(log, pending)
    learner.score(("margin",), POOL, "twin")
    learner.train(PLANS[1], "twin")
    assert log.said == [
        ("score", "twin", ("margin",), 5),
        ("train", "twin", "plan 1"),
    ]
    assert len(pending) == 3


def test_a_method_cannot_train_the_proxy_on_plans_of_its_own(log):
    with pytest.raises(ValueError, match="main model's plans alone"):
        ProxyLearner(log, []).train(PLANS[0], PROXY)
    assert log.said == []


def test_plan_counts_as_caught_up_on_only_when_its_training_has_ended():
    pending, log = list(PLANS), Log(fails_at="plan 1")
    with pytest.raises(KeyboardInterrupt):
        ProxyLearner(log, pending).score(("margin",), POOL)
    assert [plan.label for plan in pending] == ["plan 1", "plan 2"]
