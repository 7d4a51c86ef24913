from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.quotas import largest_remainder


def by_hand(sizes, total):
    """Exact quotas of classes in proportion to their sizes, in rational numbers."""
    shares = [Fraction(size * total, sum(sizes)) for size in sizes]
    quotas = [int(share) for share in shares]
    order = sorted(range(len(sizes)), key=lambda i: quotas[i] - shares[i])
    for i in order[: total - sum(quotas)]:
        quotas[i] += 1
    return quotas


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12), st.data())
def test_quotas_in_proportion_to_sizes_are_the_exact_ones(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    shares = np.array(sizes) * total / sum(sizes)
    quotas = largest_remainder(shares, total)
    assert quotas.dtype == np.int64
    assert quotas.tolist() == by_hand(sizes, total)


def test_shares_that_floating_point_puts_beside_a_whole_number_count_as_whole():
    assert largest_remainder(np.array([0.1 + 0.2] * 10) * 10, 30).tolist() == [3] * 10
    assert largest_remainder(np.array([0.7, 0.1]) * 30, 24).tolist() == [21, 3]


def test_equal_remainders_go_to_the_earlier_one():
    assert largest_remainder(np.array([0.5, 1.5, 2.5, 3.5]), 8).tolist() == [1, 2, 2, 3]
    assert largest_remainder(np.zeros(0), 0).tolist() == []


@pytest.mark.parametrize(
    ("shares", "total"),
    [
        ([1.5, 1.5], 1),
        ([1.5, 1.5], 5),
        ([1.0, 2.0], 4),
        ([-0.5, 1.5], 1),
        ([np.nan], 1),
        ([np.inf], 1),
    ],
)
def test_a_total_that_no_rounding_gives_is_refused(shares, total):
    with pytest.raises(ValueError, match=r"cannot be rounded|at least 0"):
        largest_remainder(np.array(shares), total)
