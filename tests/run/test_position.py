"""A position goes through a checkpoint, JSON included, and comes back equal."""

import dataclasses
import json

import numpy as np
import pytest

from dpet_jax.methods.active_learning import RoundState
from dpet_jax.methods.base import Cost, Plan, Selection, Span
from dpet_jax.methods.standard import OnePlanState
from dpet_jax.methods.tuner import TunerState
from dpet_jax.run.counters import Counters
from dpet_jax.run.history import LossHistory
from dpet_jax.run.position import Position

TARGETS = [{"target": 0.5, "reached": True, "accuracy": 0.51, "epochs": 0.1 + 0.2}]
EMPTY = RoundState.begin(12, 3)
FULL = EMPTY._replace(plans=2).extended(
    1, Selection(np.array([4, 0], np.int32), np.array([0.1, np.nan], np.float32))
)
BEGUN = EMPTY._replace(tuner=TunerState())
TUNED = FULL._replace(
    tuner=TunerState(
        rows=np.arange(6, dtype=np.int32).reshape(2, 3),
        losses=np.array([0.1 + 0.2, np.nan]),
        cycle=None,
        facts={"score": "margin", "ends": False},
    )
)
ROW = np.array([1, 5, 2], np.int32)
PLANS = {
    "none": None,
    "row": Plan(ROW, "round 1", 4, schedule=Span(0, 12)),
    "weights": Plan(
        ROW, "w", 2, np.array([0.1, 1, 3], np.float32), Span(7, 9), reset="optimizer"
    ),
    "rates": Plan(
        ROW, "r", 2, None, Span(7, 9), learning_rate=0.02, learning_rate_factor=0.1
    ),
    "rows": Plan(np.stack([ROW, ROW + 1]), "warm-up", 2, schedule=Span(5, 6, True)),
}


def assert_same(left, right):
    """Compare field by field; arrays with their types, NaN equal to NaN."""
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, tuple | list):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(
    ("state", "begun"),
    [
        (EMPTY, EMPTY),
        (FULL, EMPTY),
        (TUNED, BEGUN),
        (OnePlanState(9, 1, True), OnePlanState(9, 1, False)),
        (OnePlanState(9, 1, False), OnePlanState(9, 1, False)),
    ],
    ids=["empty", "selected", "tuned", "planned", "unplanned"],
)
@pytest.mark.parametrize(
    "pending",
    [[], [PLANS["weights"]], [PLANS[name] for name in ("rows", "row", "weights")] * 4],
    ids=["all asked", "one pending", "twelve pending"],
)
def test_position_comes_back_equal_from_arrays_and_json(state, begun, plan, pending):
    counters = Counters(1000, 7, 8, 9, 2**60, 5)
    saved = Position(state, counters, plan, 3, 17, TARGETS, evaluated_visits=6)
    saved.pending, saved.paid = pending, Cost(1.5, 0.1 + 0.2, None)
    saved.history = LossHistory.begin(4, margins=plan is None)._replace(
        looks=np.array([2, 0, 1, 1], np.int32)
    )
    arrays, plain = saved.saved()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    restored = Position(
        begun, Counters(1), PLANS["rows"], 99, 99, [{"stale": 1}], evaluated_visits=99
    )
    restored.pending = [PLANS["row"]]
    restored.restore(dict(arrays), json.loads(json.dumps(plain, sort_keys=True)))
    assert_same(restored, saved)


def test_plans_and_states_of_earlier_versions_have_what_they_lack_by_default():
    arrays, plain = Position(FULL, Counters(10), PLANS["row"]).saved()
    for name in ("method.known", "method.round_losses"):
        del arrays[name]
    del plain["method"]["boosted"], plain["method"]["tuner"], plain["paid"]
    for name in ("learning_rate", "learning_rate_factor"):
        del plain["plan"][name]
    restored = Position(EMPTY, Counters(10))
    restored.restore(arrays, json.loads(json.dumps(plain, sort_keys=True)))
    assert_same(restored.state, FULL)
    assert_same(restored.plan, PLANS["row"])


def test_run_that_was_never_evaluated_stays_so():
    arrays, plain = Position(EMPTY, Counters(10)).saved()
    restored = Position(EMPTY, Counters(10), evaluated_visits=4)
    restored.restore(arrays, json.loads(json.dumps(plain, sort_keys=True)))
    assert restored.evaluated_visits is None
    assert restored.targets == []
    assert restored.plan is None


def test_saved_holds_only_arrays_that_numpy_can_store_without_pickle():
    arrays, _ = Position(FULL, Counters(1), PLANS["weights"]).saved()
    assert {array.dtype.kind for array in arrays.values()} <= {"i", "f"}
    assert set(arrays) == {
        *("method.indices", "method.round_index", "method.scores"),
        *("method.known", "method.round_losses"),
        *("plan.index_set", "plan.weights"),
    }
