"""Whole numbers in place of fractional shares, without losing any of the total."""

import numpy as np
from jaxtyping import Float, Int, Int64

# Shares such as 0.1 * 30 are not exactly whole in floating point.
_DECIMALS = 9


def largest_remainder(
    shares: Float[np.ndarray, " k"] | Int[np.ndarray, " k"], total: int
) -> Int64[np.ndarray, " k"]:
    """Round shares to whole numbers that add up to a total.

    Each gets the whole part of its share; what is left of the total goes, one each, to
    the largest fractional parts, and to the earlier one among equals.

    Args:
        shares: What each would get if fractions were allowed, at least 0; to 9 decimal
            places.
        total: What the result adds up to: the sum of the shares, rounded either way.

    Returns:
        Whole numbers, each less than 1 away from its share.

    Raises:
        ValueError: If a share is negative or not finite, or no such rounding adds up
            to `total`.
    """
    shares = np.round(np.asarray(shares, np.float64), _DECIMALS)
    if not (np.isfinite(shares) & (shares >= 0)).all():
        raise ValueError("shares must be finite and at least 0")
    whole = np.floor(shares).astype(np.int64)
    left = total - int(whole.sum())
    if not 0 <= left <= np.count_nonzero(shares > whole):
        raise ValueError(f"shares of {shares.sum():g} cannot be rounded to {total}")
    # 2.6 - 2 and 0.6 differ in floating point; among equals the earlier one goes first
    rest = np.round(shares - whole, _DECIMALS)
    whole[np.argsort(-rest, kind="stable")[:left]] += 1
    return whole
