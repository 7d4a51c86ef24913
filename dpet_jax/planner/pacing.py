"""Pacing: let a schedule end with the clock, or the energy, that a run was given.

At a boundary the examples that are left are counted anew from what has been spent and
an average of what an example costs; the schedule goes on from the share of it that is
over, and reaches its end with the last of them. Each such reset is a record, and the
records alone decide, so that a resumed run that has read them goes on as it would have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dpet_jax.planner.planner import PLANNED

#: Weight of the newest stretch in the average cost of an example.
_NEWEST = 0.5
#: Share of the budget, and of the examples, after which they are counted anew.
_STRETCH = 1 / 32


class Reset(NamedTuple):
    """What was known at a boundary, and what follows from it.

    Attributes:
        visits: Examples seen.
        spent: Of the budget, in its unit.
        per_visit: Average cost of an example from there on, as expected.
        progress: Share of the schedule that was over, in [0, 1].
        horizon: Examples after which the schedule ends.
    """

    visits: int
    spent: float
    per_visit: float
    progress: float
    horizon: int


@dataclass(frozen=True)
class Pacing:
    """A schedule over as many examples as a budget lasts.

    Attributes:
        budget: Seconds or joules that the run has.
        reserved: Of them, for what comes after training, such as an evaluation.
        resets: What was decided so far; the first is the plan's.
    """

    budget: int | float
    reserved: int | float
    resets: tuple[Reset, ...]

    @classmethod
    def begin(
        cls,
        budget: int | float,
        visits: int,
        per_visit: int | float,
        *,
        reserved: int | float = 0.0,
        spent: int | float = 0.0,
    ) -> "Pacing":
        """Begin with a plan.

        Args:
            budget: Seconds or joules that the run has.
            visits: Examples that the plan wants it to see.
            per_visit: What an example is expected to cost.
            reserved: Of the budget, for what comes after training.
            spent: Of the budget before the first example.
        """
        return cls(budget, reserved, (Reset(0, spent, per_visit, 0.0, visits),))

    @property
    def last(self) -> Reset:
        """The reset that holds."""
        return self.resets[-1]

    def left(self, visits: int) -> int:
        """Return how many examples are still to be seen.

        Args:
            visits: Examples seen so far.
        """
        return max(0, self.last.horizon - visits)

    def progress(self, visits: int) -> float:
        """Return the share of the schedule that is over, 1 at its end.

        Args:
            visits: Examples seen so far, not fewer than at the last reset.
        """
        reset = self.last
        stretch = reset.horizon - reset.visits
        if stretch <= 0:
            return 1.0
        passed = (visits - reset.visits) / stretch
        return min(1.0, reset.progress + (1 - reset.progress) * passed)

    def to_boundary(self, visits: int) -> int:
        """Return how many examples to see before they are to be counted anew.

        Args:
            visits: Examples seen so far.
        """
        stretch = max(1, math.ceil(_STRETCH * self.last.horizon))
        return min(self.left(visits), max(0, self.last.visits + stretch - visits))

    def due(self, visits: int, spent: int | float) -> bool:
        """Return whether it is time to count anew.

        Args:
            visits: Examples seen so far.
            spent: Of the budget so far.
        """
        if self.left(visits) == 0 or visits == self.last.visits:
            return self.left(visits) == 0
        if self.to_boundary(visits) == 0:
            return True
        return spent - self.last.spent >= _STRETCH * self.budget

    def delayed(self, spent: int | float) -> "Pacing":
        """Take out of an example's cost what was spent on something else.

        Args:
            spent: Of the budget since the last reset, as on compiling again; it is
                gone, but the next examples will not cost it.
        """
        last = self.last._replace(spent=self.last.spent + spent)
        return replace(self, resets=(*self.resets[:-1], last))

    def span(self, visits: int) -> tuple[int, int]:
        """Return start and horizon of the schedule as a `Span` has them.

        Args:
            visits: Examples seen before what begins now.

        Returns:
            Such that start over horizon is `progress`, and start plus what is left is
            the horizon.
        """
        left, progress = self.left(visits), self.progress(visits)
        if left == 0:
            return 1, 1
        start = round(progress * left / (1 - progress))
        return start, start + left

    def reset(self, visits: int, spent: int | float) -> "Pacing":
        """Count anew what is left of the schedule.

        Args:
            visits: Examples seen so far.
            spent: Of the budget so far, in this process and earlier ones; what passed
                while none ran does not count.
        """
        last, per_visit = self.last, self.last.per_visit
        if visits > last.visits:
            newest = (spent - last.spent) / (visits - last.visits)
            # the first is what was foreseen, the second knows
            weight = _NEWEST if len(self.resets) > 1 else 1.0
            per_visit += weight * (newest - per_visit)
        rest = PLANNED * self.budget - self.reserved - spent
        left = max(0, int(rest / per_visit)) if per_visit > 0 else self.left(visits)
        now = Reset(visits, spent, per_visit, self.progress(visits), visits + left)
        return replace(self, resets=(*self.resets, now))

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` turns into an equal pacing."""
        resets = [list(one) for one in self.resets]
        return {"budget": self.budget, "reserved": self.reserved, "resets": resets}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Pacing":
        """Rebuild a pacing from what `to_json` gave."""
        resets: Sequence[Sequence[Any]] = plain["resets"]
        return cls(
            plain["budget"], plain["reserved"], tuple(Reset(*one) for one in resets)
        )
