"""RS2: a fresh random subset in every pass."""

from typing import Literal

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import Plan, generator
from dpet_jax.methods.standard import OnePlanMethod
from dpet_jax.section import Fraction, Passes


class Rs2(OnePlanMethod):
    """Repeated random sampling: a fresh random subset in every pass.

    Each pass trains on its own round(keep_fraction * n) examples; what a paper calls
    "epochs of RS2" are `passes` here.

    Source:
        Okanovic et al. (2024), "Repeated Random Sampling for Minimizing the
        Time-to-Accuracy of Learning".
    """

    kind: Literal["rs2"] = "rs2"
    keep_fraction: Fraction = Field(0.1, description="of the data in each pass")
    passes: Passes = Field(200, description="each over another random part")
    replacement: bool = Field(False, description="draw passes independently")

    @property
    def label(self) -> str:
        """The name that its authors gave it."""
        return "RS2"

    def make_plan(self, num_examples: int, seed: int) -> Plan:
        """Return one random subset a pass."""
        subsets = rs2_passes(
            num_examples,
            self.keep_fraction,
            self.passes,
            seed,
            replacement=self.replacement,
        )
        return Plan(subsets, label="rs2", passes=self.passes)


def kept(num_examples: int, keep_fraction: float) -> int:
    """Return m = round(keep_fraction * n), at least 1."""
    return max(1, round(keep_fraction * num_examples))


def rs2_passes(
    num_examples: int,
    keep_fraction: float,
    passes: int,
    seed: int,
    *,
    replacement: bool = False,
    stream: str = "rs2",
) -> np.ndarray:
    """Draw the random subset of every pass.

    Without replacement the passes walk one shuffled order of the data after another.
    Where a pass reaches the end of an order, the tail is carried over and completed
    from the next one, which is arranged so that the pass still holds no example twice.
    After t passes every example was thus seen floor(t * m / n) times or once more, for
    any keep fraction; peers drop the tail or visit it twice.

    Args:
        num_examples: n.
        keep_fraction: Share of the data in a pass, in (0, 1].
        passes: How many subsets.
        seed: The run's seed.
        replacement: Draw each pass from all data, whatever earlier passes held; within
            a pass no example comes twice either way.
        stream: Name of the randomness.

    Returns:
        int32[passes, m].

    Source:
        Okanovic et al. (2024), "Repeated Random Sampling for Minimizing the
        Time-to-Accuracy of Learning", algorithms 1 and 2.
    """
    size = kept(num_examples, keep_fraction)
    if replacement:
        return np.stack(
            [
                generator(seed, stream, index)
                .permutation(num_examples)[:size]
                .astype(np.int32)
                for index in range(passes)
            ]
        )
    rows = np.empty((passes, size), np.int32)
    order = np.zeros(0, np.int64)
    orders_drawn = 0
    for row in rows:
        if order.size >= size:
            row[:], order = order[:size], order[size:]
            continue
        tail = order
        order = generator(seed, stream, orders_drawn).permutation(num_examples)
        orders_drawn += 1
        head = order[~np.isin(order, tail)][: size - tail.size]
        row[:] = np.concatenate([tail, head])
        order = order[~np.isin(order, head)]
    return rows
