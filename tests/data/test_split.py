import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.data.split import (
    add_label_noise,
    stratified_split,
    stratified_subset,
)
from dpet_jax.errors import UserError


def labels_of(*counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return np.random.default_rng(0).permutation(labels)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.lists(st.integers(20, 90), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**63),
)
def test_split_is_a_partition_in_proportion_to_the_classes(counts, fraction, seed):
    labels = labels_of(*counts)
    train, validation = stratified_split(labels, fraction, seed)
    assert train.dtype == validation.dtype == np.int64
    together = np.concatenate([train, validation])
    assert sorted(together.tolist()) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert len(validation) == round(fraction * len(labels))
    drawn = np.bincount(labels[validation], minlength=len(counts))
    assert (np.abs(drawn - fraction * np.array(counts)) < 1 + 1e-6).all()


def test_a_tenth_of_thirty_a_class_is_three_a_class():
    labels = labels_of(30, 30, 30)
    _, validation = stratified_split(labels, 0.1, seed=0)
    assert np.bincount(labels[validation]).tolist() == [3, 3, 3]


def test_rows_left_over_come_from_the_classes_with_the_largest_remainders():
    labels = labels_of(19, 12, 15)  # shares 1.9, 1.2 and 1.5 of 5 rows in all
    _, validation = stratified_split(labels, 0.1, seed=0)
    assert np.bincount(labels[validation]).tolist() == [2, 1, 2]


def test_the_seed_decides_which_rows_are_drawn():
    labels = labels_of(50, 50)
    draws = [stratified_split(labels, 0.3, seed)[1].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_every_row_is_drawn_equally_often_over_seeds():
    labels = labels_of(10, 10)
    times = np.zeros(20)
    for seed in range(400):
        times[stratified_split(labels, 0.3, seed)[1]] += 1
    # Binomial(400, 0.3): mean 120, standard deviation 9.2.
    assert (np.abs(times - 120) < 5 * 9.2).all()


def test_fraction_zero_gives_an_empty_validation_set():
    train, validation = stratified_split(labels_of(1, 2), 0.0, seed=0)
    assert train.tolist() == [0, 1, 2]
    assert len(validation) == 0


def test_two_of_a_class_can_be_halved():
    labels = np.array([0, 1, 0, 1], np.int32)
    train, validation = stratified_split(labels, 0.5, seed=3)
    assert sorted(labels[train]) == sorted(labels[validation]) == [0, 1]


LONG_TAILS = {
    "a small class": (0.1, (30, 4), (3, 1), ["class 1 with 4", "4 instead of 3"]),
    "a single example": (
        *(0.5, (30, 1), (15, 0)),
        ["class 1 with 1", "1 with a single example keep it"],
    ),
    "more than fits": (0.98, (100, 10), (98, 9), ["class 1 with 10", "0.1 to 0.9"]),
    "a long tail": (
        *(0.1, (500, 50, 9, 5, 2, 1), (50, 5, 1, 1, 1, 0)),
        ["2 of them, such as class 4 with 2", "58 instead of 57"],
    ),
}


@pytest.mark.parametrize("case", LONG_TAILS)
def test_classes_too_small_for_their_share_are_drawn_from_and_named(case, caplog):
    fraction, counts, drawn_of_each, parts = LONG_TAILS[case]
    labels = labels_of(*counts)
    left, drawn = stratified_split(labels, fraction, 0)
    assert np.bincount(labels[drawn], minlength=len(counts)).tolist() == [
        *drawn_of_each
    ]
    assert sorted([*left, *drawn]) == list(range(sum(counts)))
    assert set(labels[left]) == set(range(len(counts)))
    (record,) = caplog.records
    for part in (f"data.validation_fraction is {fraction}", *parts):
        assert part in record.getMessage()


@pytest.mark.parametrize("least", [2, 3, 7, 9, 40])
def test_the_shares_that_a_warning_offers_give_every_class_its_own(least, caplog):
    labels = labels_of(997, least)
    stratified_split(labels, 0.999, 0, class_names=["cat", "dog"])
    (record,) = caplog.records
    assert f"such as class dog with {least} examples" in record.getMessage()
    offered = re.search(r"from ([\d.]+) to ([\d.]+), or add", record.getMessage())
    caplog.clear()
    for share in map(float, offered.groups()):
        train, drawn = stratified_split(labels, share, 0)
        assert 1 in labels[train]
        assert 1 in labels[drawn]
    assert not caplog.records


def test_a_split_without_two_of_a_class_is_refused(refused):
    message = refused(stratified_split, labels_of(1, 1, 1), 0.3, 0)
    for part in ("validation_fraction is 0.3", "no class has two", "set it to 0"):
        assert part in message


def test_the_draws_of_two_keys_are_independent_and_named(refused):
    labels = labels_of(50, 50)
    one, other = (
        stratified_split(labels, 0.3, 0, key)[1].tolist()
        for key in ("validation_fraction", "test_fraction")
    )
    assert one != other
    message = refused(stratified_split, labels_of(1, 1), 0.3, 0, "test_fraction")
    for part in ("data.test_fraction is 0.3", "make a test split of your own"):
        assert part in message


@pytest.mark.parametrize("fraction", [0.004, 0.25, 1.0])
def test_noise_changes_exactly_the_rows_it_names(fraction):
    labels = labels_of(70, 80, 93)
    before = labels.copy()
    noisy, rows = add_label_noise(labels, fraction, seed=0, num_classes=3)
    assert noisy.dtype == np.int32
    assert rows.dtype == np.int64
    assert np.flatnonzero(noisy != labels).tolist() == rows.tolist()
    assert len(rows) == round(fraction * 243)
    assert noisy.min() >= 0
    assert noisy.max() < 3
    np.testing.assert_array_equal(labels, before)


def test_noise_draws_the_other_classes_equally_often():
    labels = np.full(30_000, 2, np.int32)
    noisy, _ = add_label_noise(labels, 1.0, seed=0, num_classes=4)
    counts = np.bincount(noisy, minlength=4)
    assert counts[2] == 0
    # Binomial(30,000, 1/3): standard deviation 82.
    assert (np.abs(counts[[0, 1, 3]] - 10_000) < 5 * 82).all()


def test_noise_depends_on_its_seed_alone():
    labels = labels_of(100, 100)
    draws = [add_label_noise(labels, 0.2, seed, 2)[1].tolist() for seed in (5, 5, 6)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_no_noise_leaves_the_labels():
    labels = labels_of(5, 5)
    noisy, rows = add_label_noise(labels, 0.0, seed=0, num_classes=2)
    np.testing.assert_array_equal(noisy, labels)
    assert len(rows) == 0


# subsets


def test_subset_has_the_size_asked_for_and_every_class_in_proportion():
    labels = np.repeat(np.arange(3, dtype=np.int32), (50, 30, 20))
    rows = stratified_subset(labels, 37, 0)
    assert rows.size == len(set(rows.tolist())) == 37
    assert np.all(np.diff(rows) > 0)
    # shares are 18.5, 11.1 and 7.4
    assert np.bincount(labels[rows]).tolist() == [19, 11, 7]


def test_subset_is_drawn_by_its_seed():
    labels = np.zeros(100, np.int32)
    first, again, other = (stratified_subset(labels, 10, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
    np.testing.assert_array_equal(stratified_subset(labels, 100, 3), np.arange(100))


@pytest.mark.parametrize(
    ("size", "message"),
    [(101, "choose fewer, or null"), (4, "class 1 without an example.*at least 20")],
)
def test_impossible_subset_is_refused(size, message):
    labels = np.repeat(np.arange(2, dtype=np.int32), (95, 5))
    with pytest.raises(UserError, match=rf"data\.train_examples is {size}.*{message}"):
        stratified_subset(labels, size, 0)
    with pytest.raises(UserError, match=message.replace("class 1", "class dog")):
        stratified_subset(labels, size, 0, ["cat", "dog"])
