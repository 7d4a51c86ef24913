"""Every combination of values, once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dpet_jax.errors import UserError
from dpet_jax.section import Number
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.base import Observed, StudiedSearch

_MOST = 1_000_000
#: Of a range, in the study.
_STUDIED = 5


class Grid(StudiedSearch):
    """Every combination once.

    In `compat: study` a range has five values in equal steps from its lower end, the
    upper end left out, and combinations are drawn without replacement.
    """

    kind: Literal["grid"] = "grid"
    values: Annotated[int, Field(ge=2, le=1000), Number] | None = Field(
        None,
        description="of a range, both ends among them, evenly or, after log, by equal "
        "factors; without it, ranges are refused",
    )
    shuffle: bool = Field(
        False,
        description="in an order drawn by chance, for searches that end before all "
        "are tried; otherwise the last key varies first",
    )

    def space(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Return the axes as choices."""
        studied = self.compat == "study"
        ranges = [axis.key for axis in axes if not axis.choices]
        if ranges and self.values is None and not studied:
            raise UserError(
                f"--search: grid needs choices, and {', '.join(ranges)} is a range; "
                "give values, search by '{kind: grid, values: 5}', or by tpe or random"
            )
        count = _STUDIED if studied else self.values or 0
        found = tuple(_choices(axis, count, studied) for axis in axes)
        points = math.prod(len(axis.choices) for axis in found)
        if points > _MOST:
            raise UserError(
                f"--search: a grid of {points:,} points; give fewer keys or values, "
                f"{_MOST:,} at most"
            )
        return found

    def points(self, axes: Sequence[Axis]) -> int | None:
        """Count the combinations."""
        return math.prod(len(axis.choices) for axis in axes)

    def point(
        self, axes: Sequence[Axis], past: Sequence[Observed], seed: int
    ) -> dict[str, Any] | None:
        """Return the next combination."""
        number = len(past)
        sizes = [len(axis.choices) for axis in axes]
        if self.shuffle or self.compat == "study":
            order = np.random.default_rng(seed).permutation(math.prod(sizes))
            number = int(order[number])
        places = np.unravel_index(number, sizes)
        return {
            axis.key: axis.choices[int(place)]
            for axis, place in zip(axes, places, strict=True)
        }


def _choices(axis: Axis, count: int, studied: bool) -> Axis:
    """Return a range as `count` of its values, the upper end left out by the study."""
    if axis.choices:
        return axis
    if studied:
        shares = [k / count for k in range(count)]
        found = [axis.low + share * (axis.high - axis.low) for share in shares]
    else:
        low, high = map(axis.scaled, (axis.low, axis.high))
        shares = [k / (count - 1) for k in range(count)]
        found = [axis.unscaled(low + share * (high - low)) for share in shares]
    texts = [axis.text_of(round(v) if axis.whole else v) for v in found]
    return replace(axis, choices=tuple(dict.fromkeys(texts)))
