"""Learners that answer from a table, or that must not be asked at all."""

import numpy as np

from dpet_jax.methods.base import MAIN, Selection


class Forbidden:
    """A learner that must not be asked."""

    batch_size = 32

    def score(self, names, index_set, model=MAIN):
        raise AssertionError((names, index_set, model))

    def select(self, selector, index_set, num_select, model=MAIN, **options):
        raise AssertionError((selector, index_set, num_select, model, options))

    def fresh(self, seed):
        raise AssertionError(seed)

    def train(self, plan, model):
        raise AssertionError((plan, model))


class FixedScores(Forbidden):
    """A learner with a fixed score for every example; keeps what it was asked.

    Attributes:
        scores: float32[n].
        asked: Selector, pool, size and options of every selection.
    """

    def __init__(self, scores):
        self.scores = np.asarray(scores, np.float32)
        self.asked = []

    def select(self, selector, index_set, num_select, model=MAIN, **options):
        assert model == MAIN
        self.asked.append((selector, index_set.copy(), num_select, options))
        best = index_set[np.argsort(-self.scores[index_set], kind="stable")]
        chosen = best[:num_select]
        return Selection(chosen, self.scores[chosen])
