"""Which networks to measure for a plan: the best by a guess, then what could be better.

FLOPs do not give time: over the ResNet-20 family they span a factor of 64 and the time
of a visit one of 15. So they only say where to begin.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dpet_jax.errors import UserError
from dpet_jax.planner.planner import (
    Budget,
    BudgetTooSmallError,
    Plan,
    Spend,
    StepCost,
)

#: A network and the rows of its step.
Key = tuple[float, int]
#: Programs that one plan compiles to measure them.
MOST = 4
#: Time of a visit over FLOPs, as an exponent, along the ResNet-20 family on a CPU core.
_EXPONENT = 0.65
#: Of what is left of a budget, a further measurement may take so much.
_WORTH = 0.1


class Size(NamedTuple):
    """What is known of a network without running it.

    Attributes:
        parameters: Of the network.
        train_flops: FLOPs of one example's training visit.
    """

    parameters: int
    train_flops: int


class Anchor(NamedTuple):
    """A guess at the speed of a machine on which nothing was measured yet.

    Attributes:
        train_flops: Of a visit.
        seconds: That it takes.
        watts: Drawn meanwhile.
    """

    train_flops: int | float
    seconds: float
    watts: float = 100.0


def with_guesses(
    sizes: Mapping[Key, Size], measured: Mapping[Key, StepCost], anchor: Anchor
) -> dict[Key, StepCost]:
    """Return the cost of every network, guessed from FLOPs where it is not measured.

    Between two measured networks the time of a visit is a power of FLOPs; beyond them,
    and where there is one or none, it is theirs with the exponent of the family. A
    guess also pays for its measurement, which takes as long as the longest so far.

    Args:
        sizes: Every network.
        measured: What is known.
        anchor: Speed, where nothing is.
    """
    if measured:
        points = sorted(
            (
                math.log(sizes[key].train_flops),
                cost.seconds / key[1],
                cost.joules,
                key[1],
            )
            for key, cost in measured.items()
        )
        at = [flops for flops, *_ in points]
        seconds = [math.log(each) for _, each, *_ in points]
        joules = [
            None if each is None else math.log(each / batch)
            for *_, each, batch in points
        ]
    else:
        at = [math.log(anchor.train_flops)]
        seconds = [math.log(anchor.seconds)]
        joules = [math.log(anchor.watts * anchor.seconds)]
    some = max(
        measured.values(),
        key=lambda cost: cost.measuring.seconds,
        default=StepCost(1.0, 1),
    )
    before = _both(some.measuring, some.compiling)
    found = {}
    for key, size in sizes.items():
        if key in measured:
            found[key] = measured[key]
            continue
        flops = math.log(size.train_flops)
        each = [value for value in joules if value is not None]
        found[key] = StepCost(
            key[1] * _along(flops, at, seconds),
            size.parameters,
            joules=key[1] * _along(flops, at, each) if len(each) == len(at) else None,
            compiling=before,
            evaluating=some.evaluating,
            train_flops=size.train_flops,
            measured=False,
        )
    return found


def _both(one: Spend, other: Spend) -> Spend:
    known = one.joules is not None and other.joules is not None
    joules = (one.joules or 0.0) + (other.joules or 0.0)
    return Spend(one.seconds + other.seconds, joules if known else None)


def _along(flops: float, at: list[float], logs: list[float]) -> float:
    inside = float(np.interp(flops, at, logs))
    beyond = flops - float(np.clip(flops, at[0], at[-1]))
    return math.exp(inside + _EXPONENT * beyond)


def explore(
    sizes: Mapping[Key, Size],
    measure: Callable[[Key], StepCost],
    choose: Callable[[Mapping[Key, StepCost], Spend], Plan],
    *,
    known: Mapping[Key, StepCost],
    anchor: Anchor,
    budget: Budget,
    spent: Callable[[], Spend],
) -> dict[Key, StepCost]:
    """Measure the best network and its neighbours, until the best is measured.

    At most four are compiled, and of neighbours none that would take more than a tenth
    of what is left of the budget.

    Args:
        sizes: Every network.
        measure: Measures one, which compiles it.
        choose: Plans with costs and what was spent.
        known: What was measured before.
        anchor: Speed, where nothing was.
        budget: Of the plan.
        spent: Returns what measuring has cost so far.

    Returns:
        Costs of every network; those not measured are guesses that say why.
    """
    costs, compiled, note = dict(known), 0, "its guess lies behind what was measured"
    while True:
        full, so_far = with_guesses(sizes, costs, anchor), spent()
        best, key = _next(full, costs, lambda each, s=so_far: choose(each, s), budget)
        if key is None:
            break
        if compiled >= MOST:
            note = f"{MOST} networks were compiled for this plan already"
            break
        # the best has to be compiled anyway, and its guess has paid for that
        if key != best and not _worth(costs, budget, so_far):
            note = "measuring it would take too much of the budget"
            break
        costs[key] = measure(key)
        compiled += 1
    return {
        key: cost if cost.measured else replace(cost, note=note)
        for key, cost in full.items()
    }


def _next(
    full: Mapping[Key, StepCost],
    costs: Mapping[Key, StepCost],
    choose: Callable[[Mapping[Key, StepCost]], Plan],
    budget: Budget,
) -> tuple[Key | None, Key | None]:
    """Return the best so far, guesses included, and what to measure next, if anything.

    That is the best itself, or else the most promising of its neighbours.
    """
    guesses = {key: replace(cost, measured=True) for key, cost in full.items()}
    try:
        plan = choose(guesses)
    except BudgetTooSmallError:
        # of what is too dear by a guess, the cheapest tells what the least budget is
        cheapest = min(guesses, key=lambda key: guesses[key].seconds)
        return cheapest, None if costs else cheapest
    except UserError:
        return None, None  # no measurement would change it
    best = plan.scale, plan.batch_size
    if best not in costs:
        return best, best
    if budget.unit == "epochs":
        return best, None  # its examples are given, whatever they cost
    scales, batches = (sorted({key[i] for key in full}) for i in (0, 1))
    place = scales.index(best[0])
    near = [
        (scales[i], best[1]) for i in (place - 1, place + 1) if 0 <= i < len(scales)
    ]
    near += [(best[0], batch) for batch in batches]
    scores = {
        (one.scale, one.batch_size): -math.inf if one.score is None else one.score
        for one in plan.table
    }
    near = [key for key in near if key in full and key not in costs]
    return best, max(near, key=lambda key: scores[key], default=None)


def _worth(costs: Mapping[Key, StepCost], budget: Budget, spent: Spend) -> bool:
    if budget.unit not in ("seconds", "wh"):
        return True
    take = max((cost.measuring for cost in costs.values()), key=lambda one: one.seconds)
    if budget.unit == "seconds":
        return take.seconds <= _WORTH * (budget.amount - spent.seconds)
    left = 3600 * budget.amount - (spent.joules or 0.0)
    return (take.joules or 0.0) <= _WORTH * left
