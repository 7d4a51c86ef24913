"""Successive halving and Hyperband: many short trials, of which the best go on.

The resource is the trial's own schedule: every trial of a bracket is a run of the full
length, and a stop is a place on its way. A trial that is promoted goes on from its
checkpoint (freeze-thaw), as if it had not been left, so that only its new part costs
anything; the papers start it anew, or leave that open.

Halving is synchronous: a stop is judged when all trials of the bracket have reached it.
optuna's HyperbandPruner cannot do that, for it judges a trial while it runs, against
whatever came before, and what it has pruned never comes back; nor can promotion by what
is there (ASHA), in which workers and their speed decide who goes on. Judged together, a
bracket costs what the paper's arithmetic says, and one that is killed, or shared by
several workers, promotes the same trials. Nobody waits for it: who finds a stop that
others are still on their way to begins the next bracket.

Source:
    Li et al., "Hyperband" (JMLR 18, 2018), Algorithm 1; Li et al., "A system for
    massively parallel hyperparameter tuning" (MLSys 2020), for the asynchronous form;
    Swersky et al., "Freeze-thaw Bayesian optimization" (arXiv:1406.3896).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from dpet_jax.section import Count, Number
from dpet_jax.suite.searchers.base import Bracket, Search


class _Brackets(Search):
    """What halving and Hyperband share."""

    eta: Annotated[int, Field(ge=2, le=100), Number] = Field(
        3, description="one of so many goes on, for so many times as long"
    )
    stops: Annotated[int, Field(ge=2, le=10), Number] = Field(
        3, description="of the longest bracket, the end of the run among them"
    )

    def _bracket(self, halvings: int, size: int, first: int) -> Bracket:
        """Return one with so many stops before the end of the run."""
        steps = range(halvings + 1)
        sizes = tuple(max(1, size // self.eta**step) for step in steps)
        shares = tuple(float(self.eta) ** (step - halvings) for step in steps)
        return Bracket(first, sizes, shares)


class Halving(_Brackets):
    """Successive halving: one bracket of many short trials, over and over.

    Source:
        Jamieson and Talwalkar, "Non-stochastic best arm identification" (AISTATS 2016).
    """

    kind: Literal["halving"] = "halving"
    size: Count | None = Field(
        None, description="trials of a bracket; by default just enough for one winner"
    )

    @property
    def round_size(self) -> int:
        """Trials of a bracket."""
        return self.size or self.eta ** (self.stops - 1)

    def bracket(self, number: int) -> Bracket:
        """Return the bracket of a trial; all are alike."""
        first = number - number % self.round_size
        return self._bracket(self.stops - 1, self.round_size, first)


class Hyperband(_Brackets):
    """Halving in brackets from many short trials to few long ones, over and over.

    Bracket s has ceil((stops / (s + 1)) eta^s) trials and its first stop at eta^-s of a
    run, for s = stops - 1 down to 0, so that each costs about `stops` runs where trials
    start anew, and less here.
    """

    kind: Literal["hyperband"] = "hyperband"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Trials of each bracket of a round, by s from the highest."""
        # of whole numbers: in floats a quotient may be a little above itself
        return tuple(
            -(-self.stops * self.eta**s // (s + 1)) for s in reversed(range(self.stops))
        )

    @property
    def round_size(self) -> int:
        """Trials of all brackets."""
        return sum(self.sizes)

    def bracket(self, number: int) -> Bracket:
        """Return the bracket of a trial."""
        first, place = number - number % self.round_size, number % self.round_size
        for below, size in enumerate(self.sizes):
            if place < size:
                return self._bracket(self.stops - 1 - below, size, first)
            first, place = first + size, place - size
        raise AssertionError("sizes add up to a round")


def standing(
    bracket: Bracket, reached: Sequence[Sequence[float | None]]
) -> tuple[list[int], set[int]]:
    """Return how far the trials of a bracket are to go, and which are out.

    A trial is promoted when all of its bracket have come to the stop that it is at,
    and fewer than go on were better there, or equal and before it. One that diverged
    is never promoted.

    Args:
        bracket: Of them.
        reached: Accuracy at each stop that a trial has reached, of each trial that was
            begun; None where it diverged, then and at all stops after it.

    Returns:
        The number of a stop for each trial; and places of trials that go no further
        than the stop that they are at, short of the end.
    """
    goals = [0] * len(reached)
    members, out = [*range(len(reached))], set[int]()
    if len(reached) < bracket.sizes[0]:
        return goals, out
    for stop, size in enumerate(bracket.sizes[1:]):
        if any(len(reached[m]) <= stop for m in members):
            return goals, out
        found = [(reached[m][stop], m) for m in members]
        known = [(-accuracy, m) for accuracy, m in found if accuracy is not None]
        promoted = [m for _, m in sorted(known)[:size]]
        out |= {*members} - {*promoted}
        members = promoted
        for m in members:
            goals[m] = stop + 1
    return goals, out


def filled(
    bracket: Bracket, accuracies: Sequence[float | None], *, ended: bool
) -> list[float | None]:
    """Return the accuracies of a trial at its stops, with those that it never needs.

    A run that has ended before a stop, because it met its target or diverged, stands
    there as it ended.
    """
    found = [*accuracies]
    missing = len(bracket.shares) - len(found)
    return found + [found[-1]] * missing if ended and found else found


def described(search: Search) -> str | None:
    """Return what a round of brackets is, in a line; None for a search without."""
    size = search.round_size
    if size is None:
        return None
    first, parts, cost = 0, [], 0.0
    while first < size:
        bracket = search.bracket(first)
        steps = zip(bracket.sizes, bracket.shares, strict=True)
        parts.append(" > ".join(f"{n} to {100 * s:.3g} %" for n, s in steps))
        first, cost = first + bracket.sizes[0], cost + bracket.cost
    return (
        f"{size} trials a round, which cost {math.ceil(10 * cost) / 10:g} whole runs: "
        f"{'; '.join(parts)}"
    )
