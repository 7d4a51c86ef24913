import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.methods.base import Selection
from dpet_jax.selection.per_class import class_quotas, interleaved, per_class


def labels_of(*sizes):
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))


def test_quotas_by_hand():
    # shares 4.7, 1.5, 0.8: the places left go to the fractions 0.8 and 0.7
    assert class_quotas(labels_of(47, 15, 8), 3, 7).tolist() == [5, 1, 1]
    assert class_quotas(labels_of(5, 5, 5), 3, 4).tolist() == [2, 1, 1]
    assert class_quotas(labels_of(4, 0, 4), 3, 8).tolist() == [4, 0, 4]
    assert class_quotas(labels_of(4, 4), 2, 0).tolist() == [0, 0]
    assert class_quotas(np.zeros(0, np.int64), 2, 0).tolist() == [0, 0]
    # shares 8/3, 2/3 and 2/3: of equal fractions the first two get the places left
    assert class_quotas(labels_of(4, 1, 1), 3, 4).tolist() == [3, 1, 0]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.data())
def test_quotas_add_up_stay_within_one_of_the_share_and_fit_the_class(sizes, data):
    total = sum(sizes)
    budget = data.draw(st.integers(0, total))
    quotas = class_quotas(labels_of(*sizes), len(sizes), budget)
    assert quotas.sum() == budget
    assert (quotas <= sizes).all()
    share = np.array(sizes) * budget / max(total, 1)
    assert (np.abs(quotas - share) < 1).all()


def test_quotas_of_50000_examples_do_not_overflow():
    labels = np.repeat(np.arange(10, dtype=np.int32), 500_000)
    assert class_quotas(labels, 10, 4_999_990).tolist() == [499_999] * 10


@pytest.mark.parametrize(
    ("labels", "num_select", "message"),
    [
        ([0, 1], 3, "cannot pick 3 of 2"),
        ([0, 2], 1, "none of"),
        ([-1, 1], 1, "none of"),
    ],
    ids=str,
)
def test_what_cannot_be_divided_is_refused(labels, num_select, message):
    with pytest.raises(ValueError, match=message):
        class_quotas(np.array(labels), 2, num_select)


def last_first(positions, quota):
    order = np.arange(positions.size)[::-1][:quota].astype(np.int32)
    return Selection(order, positions[order].astype(np.float32))


def test_every_class_is_asked_for_its_share_in_its_own_positions():
    labels = labels_of(30, 20, 10)
    picked = per_class(last_first, labels, 3, 12)
    assert picked.indices.dtype == np.int32
    assert np.bincount(labels[picked.indices]).tolist() == [6, 4, 2]
    np.testing.assert_array_equal(picked.gains, picked.indices)
    for one in range(3):
        mine = picked.indices[labels[picked.indices] == one]
        expected = np.flatnonzero(labels == one)[::-1][: mine.size]
        np.testing.assert_array_equal(mine, expected)
    assert picked.weights is None


def test_a_class_without_a_place_is_not_asked():
    asked = []

    def select(positions, quota):
        asked.append((positions.size, quota))
        return last_first(positions, quota)

    assert per_class(select, labels_of(50, 1, 0), 3, 5).indices.size == 5
    assert asked == [(50, 5)]
    assert per_class(select, labels_of(50, 1, 0), 3, 0).indices.size == 0


def test_prefixes_are_nested_in_larger_budgets_and_near_the_proportions():
    labels = labels_of(60, 30, 10)
    whole = per_class(last_first, labels, 3, 50).indices
    part = per_class(last_first, labels, 3, 20).indices
    np.testing.assert_array_equal(part, whole[:20])
    for end in range(1, 51):
        counts = np.bincount(labels[whole[:end]], minlength=3)
        assert (np.abs(counts - end * np.array([0.6, 0.3, 0.1])) <= 1).all()


def test_weights_travel_with_their_picks():
    one = Selection(
        np.array([5, 3], np.int32), np.ones(2, np.float32), np.array([2, 1])
    )
    two = Selection(np.array([8], np.int32), np.zeros(1, np.float32), np.array([7]))
    merged = interleaved([one, two], [2, 1])
    assert merged.indices.tolist() == [5, 8, 3]
    assert merged.weights.tolist() == [2, 7, 1]
    assert merged.weights.dtype == merged.gains.dtype == np.float32
