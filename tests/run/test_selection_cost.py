"""A selection under way: what it costs so far, and what ends it."""

from types import SimpleNamespace

import numpy as np
import pytest

from dpet_jax.errors import SelectionEndedError
from dpet_jax.methods.base import Plan
from dpet_jax.run.counters import Counters
from dpet_jax.run.selection_cost import SelectionWatch

PLAN = Plan(np.arange(10, dtype=np.int32), "pre-training", 2)


class Display:
    def __init__(self):
        self.said = []

    def begin_plan(self, label, visits, done):
        self.said.append(("begin", label, visits, done))

    def advance(self, done, loss, accuracy):
        self.said.append(("advance", done, loss, accuracy))

    def end_plan(self):
        self.said.append(("end",))


def quiet(*_):
    raise AssertionError("called outside a selection")


@pytest.fixture
def watched():
    """A watch over a pretended trainer, and what may end it."""
    trainer = SimpleNamespace(
        scored_examples=5, selection_visits=7, select_flops=11, between_chunks=quiet
    )
    parts = SimpleNamespace(
        trainer=trainer, display=Display(), method=SimpleNamespace(scores=("el2n",))
    )
    reasons = []
    counters = Counters(100)
    made = object.__new__(SelectionWatch)
    init = getattr(SelectionWatch.__init__, "__wrapped__", SelectionWatch.__init__)
    init(made, parts, counters, lambda: reasons[-1] if reasons else None)
    return SimpleNamespace(
        watch=made, parts=parts, trainer=trainer, counters=counters, reasons=reasons
    )


def work(trainer, scored=0, visits=0, flops=0):
    trainer.scored_examples += scored
    trainer.selection_visits += visits
    trainer.select_flops += flops


def test_cost_is_counted_once_as_it_arises(watched):
    trainer = watched.trainer
    with watched.watch.watching():
        work(trainer, visits=4, flops=40)
        trainer.between_chunks(PLAN, 4, 0.5, 0.25)
        assert watched.counters.flops == 40
        work(trainer, scored=3, flops=2)
    event = watched.watch.event()
    assert (event["scored"], event["selection_visits"], event["select_flops"]) == (
        3,
        4,
        42,
    )
    assert (watched.counters.flops, watched.counters.scored_examples) == (42, 3)
    assert event["scores"] == ("el2n",)
    assert event["seconds"] >= 0


def test_training_for_a_selection_is_shown(watched):
    with watched.watch.watching():
        watched.trainer.between_chunks(PLAN, 4, 0.5, 0.25)
        watched.trainer.between_chunks(PLAN, 8, 0.4, 0.5)
        other = Plan(PLAN.index_set, "another", 1)
        watched.trainer.between_chunks(other, 2, 0.3, 0.75)
    assert watched.parts.display.said == [
        ("begin", "select: pre-training", 20, 4),
        ("advance", 4, 0.5, 0.25),
        ("advance", 8, 0.4, 0.5),
        ("end",),
        ("begin", "select: another", 10, 2),
        ("advance", 2, 0.3, 0.75),
        ("end",),
    ]


def test_a_reason_ends_it_between_chunks_and_what_it_cost_stays_counted(watched):
    def selection():
        with watched.watch.watching():
            work(watched.trainer, visits=4, flops=40)
            watched.reasons.append("budget.wh")
            watched.trainer.between_chunks(PLAN, 4, 0.5, 0.25)

    with pytest.raises(SelectionEndedError, match=r"^budget\.wh$"):
        selection()
    assert watched.counters.flops == 40
    assert watched.trainer.between_chunks is quiet


def test_afterwards_the_trainer_is_as_before(watched):
    with watched.watch.watching():
        assert watched.trainer.between_chunks is not quiet
    assert watched.trainer.between_chunks is quiet
    assert watched.watch.flops == 0
    assert watched.parts.display.said == []
