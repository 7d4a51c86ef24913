"""The contracts: plans that can be trained on, and draws that can be repeated."""

import numpy as np
import pytest

from dpet_jax.methods.base import Coreset, Plan, Selection, generator


def test_plan_counts_its_examples_and_visits():
    one = Plan(np.arange(5, dtype=np.int32), "x", passes=3)
    assert (one.size, one.visits) == (5, 15)
    rows = Plan(np.zeros((4, 6), np.int32), "x", passes=4)
    assert (rows.size, rows.visits) == (6, 24)


@pytest.mark.parametrize(
    ("shape", "passes"), [((0,), 1), ((3, 0), 3), ((3,), 0), ((3, 5), 2), ((1, 5), 3)]
)
def test_plan_that_cannot_be_trained_on_is_refused(shape, passes):
    with pytest.raises(ValueError, match="plan 'x'"):
        Plan(np.zeros(shape, np.int32), "x", passes)


def test_coreset_grows_in_the_order_of_entering():
    chosen = Selection(np.array([7, 2]), np.array([0.5, 0.25]))
    more = Selection(np.array([9]), np.array([np.nan]))
    coreset = Coreset.empty().extended(1, chosen).extended(4, more)
    assert coreset.indices.tolist() == [7, 2, 9]
    assert coreset.round_index.tolist() == [1, 1, 4]
    np.testing.assert_array_equal(coreset.scores, [0.5, 0.25, np.nan])
    dtypes = [array.dtype for array in coreset[:3]]
    assert dtypes == [array.dtype for array in Coreset.empty()[:3]]
    assert dtypes == [np.int32, np.int32, np.float32]


def test_generator_repeats_itself_and_differs_in_seed_stream_and_index():
    decisions = [
        (0, "rs2", 0),
        (1, "rs2", 0),
        (0, "query", 0),
        (0, "rs2", 1),
        (0, "rs", 2),
    ]
    draws = [generator(*decision).integers(2**62) for decision in decisions]
    assert len(set(draws)) == len(decisions)
    assert draws == [generator(*decision).integers(2**62) for decision in decisions]
