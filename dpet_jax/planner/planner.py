"""The planner: which network a budget buys, from measured costs and the ranking law.

    costs = {(0.5, 64): StepCost(0.005, 20_906), (1.0, 64): StepCost(0.021, 272_474)}
    plan(Budget(seconds=60), costs, num_train=10_000).scale

Nothing is trained to find out: the law says which of two trainings ends better, and the
costs how many examples each network sees within the budget.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from dpet_jax.errors import UserError
from dpet_jax.planner.law import LEAST_STEPS, Law, Level, shipped

#: Share of a budget of seconds or Wh that is planned with; the rest is for what no
#: measurement foresees.
PLANNED = 0.98
#: Batches are as good where they train so many of the images a second of the fastest.
_FAST_ENOUGH = 0.9
_J_PER_WH = 3600.0


class BudgetTooSmallError(UserError):
    """A budget in which no network could be trained.

    Attributes:
        least: The smallest one in which one could, in the budget's unit, where its
            costs are known beforehand.
    """

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message)
        self.least = least


@dataclass(frozen=True)
class Budget:
    """What a training may cost, or what it has to reach: one of four.

    Attributes:
        seconds: Of everything: measuring, compiling, training, the last evaluation.
        wh: Gross energy of everything, likewise.
        epochs: Examples seen, in passes over the training split.
        target: Accuracy to reach, in (0, 1), for the least energy, or time.

    Raises:
        UserError: If it is not exactly one of them, or out of range.
    """

    seconds: int | float | None = None
    wh: int | float | None = None
    epochs: int | float | None = None
    target: int | float | None = None

    def __post_init__(self) -> None:
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            told = ", ".join(given) or "none"
            raise UserError(
                f"budget: give one of seconds, wh, epochs and target (got {told})"
            )
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise UserError(
                f"budget: {self.unit} is {self.amount:g}; give a number above 0"
            )
        if self.target is not None and self.target >= 1:
            raise UserError(
                f"budget: target is {self.target:g}; an accuracy is a share below 1, "
                "such as 0.9"
            )

    @property
    def unit(self) -> Literal["seconds", "wh", "epochs", "target"]:
        """Which of the four it is."""
        if self.seconds is not None:
            return "seconds"
        if self.wh is not None:
            return "wh"
        return "epochs" if self.epochs is not None else "target"

    @property
    def amount(self) -> float:
        """Its number."""
        return float(getattr(self, self.unit))

    def __str__(self) -> str:
        """Return it as people write it."""
        words = {"seconds": "s", "wh": "Wh", "epochs": "epochs"}
        if self.unit == "target":
            return f"accuracy {self.amount:g}"
        return f"{self.amount:g} {words[self.unit]}"


class Spend(NamedTuple):
    """Time and energy of something.

    Attributes:
        seconds: Of time.
        joules: Gross energy, what idling takes included; None where not measured.
    """

    seconds: int | float
    joules: int | float | None = None


NOTHING = Spend(0.0, 0.0)


@dataclass(frozen=True)
class StepCost:
    """What a network costs on this machine, in batches of one size.

    Attributes:
        seconds: Of a training step.
        parameters: Of the network.
        joules: Of a step, gross; None where not measured.
        compiling: Until its programs are ready to run.
        evaluating: The evaluations that a run ends with.
        measuring: What it took to find that out.
        train_flops: FLOPs of one example's training visit.
        measured: False for a guess, which is shown and never chosen, but where the
            budget does not depend on it.
        note: Why it was not measured.
    """

    seconds: int | float
    parameters: int
    joules: int | float | None = None
    compiling: Spend = NOTHING
    evaluating: Spend = NOTHING
    measuring: Spend = NOTHING
    train_flops: int = 0
    measured: bool = True
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """A network that was considered, and what the budget would make of it.

    Attributes:
        scale: Of the family.
        batch_size: Rows of a step.
        parameters: Of the network.
        visits: Examples that it would see; 0 where the budget ends before.
        steps: In so many steps.
        score: g of the law; None without visits.
        seconds: Expected of everything, what was spent before included.
        wh: Likewise; None where not measured.
        measured: Whether its step was.
        why: Why it was chosen, or why not.
    """

    scale: float
    batch_size: int
    parameters: int
    visits: int
    steps: int
    score: float | None
    seconds: float
    wh: float | None
    measured: bool
    why: str


@dataclass(frozen=True)
class Plan:
    """What to train within a budget.

    Attributes:
        budget: The budget.
        scale: Of the network within its family.
        batch_size: Rows of a step.
        drop: Share of the data left out, or "auto", the rule of `dpet_anneal`.
        visits: Examples to see.
        epochs: Those over the training split's size.
        steps: In so many steps.
        seconds: Expected of everything, what was spent before included.
        wh: Likewise; None where not measured.
        accuracy: Expected at the end; None where the data's level is not known.
        reasons: Why, a sentence each.
        warnings: What to beware of, a sentence each; those on ranges that were left
            begin with "extrapolated".
        table: All that was considered, by scale and batch size.
        law: The law.
    """

    budget: Budget
    scale: float
    batch_size: int
    drop: float | Literal["auto"]
    visits: int
    epochs: float
    steps: int
    seconds: float
    wh: float | None
    accuracy: float | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    table: tuple[Candidate, ...]
    law: Law


def plan(
    budget: Budget,
    costs: Mapping[tuple[float, int], StepCost],
    law: Law | None = None,
    *,
    num_train: int,
    family: str = "resnet20",
    spent: Spend = NOTHING,
    idle_w: int | float | None = None,
    level: Level | None = None,
) -> Plan:
    """Choose the network that ends with the least error within a budget.

    The batch size of each scale is the smallest that trains nearly as many images a
    second as the fastest. Within 98 % of the budget, less what is spent before and
    after training, the scale sees V examples; the largest g(V, parameters) wins.
    For a target the cheapest network wins that the law expects to end a standard
    deviation above it, as five runs in six then reach it.

    Args:
        budget: What it may cost.
        costs: By scale and batch size.
        law: The ranking law; by default the shipped one of the family.
        num_train: Examples of the training split.
        family: Kind of the model.
        spent: What measuring has cost already, where that is part of the budget.
        idle_w: Watts while nothing is trained, for parts whose joules are not known.
        level: Of the error on this data, if runs have fixed it.

    Raises:
        BudgetTooSmallError: If no measured network could be trained a step.
        UserError: If there is a target and no level, or no network can reach it, or a
            budget of Wh and no joules.
    """
    law = shipped(family) if law is None else law
    if budget.unit == "target" and level is None:
        raise UserError(
            f"budget: an accuracy of {budget.amount:g} cannot be planned for: the "
            "level of the error on this data is not known; two finished runs on it "
            "whose rate decayed to the end fix it"
        )
    if budget.unit == "wh" and not any(
        cost.joules is not None for cost in costs.values() if cost.measured
    ):
        raise UserError(
            f"budget: {budget} cannot be planned for: nothing here tells what a step "
            "takes; see dpet doctor, give energy.allow_modelled and energy.cpu_model, "
            "or give seconds or epochs"
        )
    offers = [
        _Offer.of(key, cost, budget, law, num_train, spent, idle_w, level)
        for key, cost in sorted(costs.items())
    ]
    chosen = _batches(offers)
    able = [one for one in chosen if one.steps and (one.cost.measured or one.free)]
    if not able:
        raise _too_small(budget, chosen, spent)
    if budget.unit == "target":
        best = _cheapest(able)
    else:
        best = max(able, key=lambda one: (one.score, -one.cost.parameters))
    table = tuple(_candidate(one, best, chosen, budget) for one in offers)
    return Plan(
        budget=budget,
        scale=best.scale,
        batch_size=best.batch_size,
        drop="auto",
        visits=best.visits,
        epochs=best.visits / num_train,
        steps=best.steps,
        seconds=best.spend.seconds,
        wh=_wh(best.spend),
        accuracy=None if level is None else level.accuracy(best.score),
        reasons=_reasons(best, able, budget, law, level),
        warnings=_warnings(best, law, family),
        table=table,
        law=law,
    )


@dataclass(frozen=True)
class _Offer:
    """A network with what the budget makes of it."""

    scale: float
    batch_size: int
    cost: StepCost
    steps: int
    visits: int
    score: float
    spend: Spend
    least: float  # of the budget, for one step, once its costs are known
    free: bool  # whether its visits do not depend on what a step costs

    @classmethod
    def of(
        cls,
        key: tuple[float, int],
        cost: StepCost,
        budget: Budget,
        law: Law,
        num_train: int,
        spent: Spend,
        idle_w: int | float | None,
        level: Level | None,
    ) -> "_Offer":
        scale, batch = key
        parts = [spent, cost.compiling, cost.evaluating]
        fixed = Spend(
            sum(part.seconds for part in parts),
            _sum([_joules(part, idle_w) for part in parts]),
        )
        least = 0.0
        if budget.unit in ("seconds", "wh"):
            scaled = _J_PER_WH if budget.unit == "wh" else 1.0
            before, each = (
                (fixed.seconds, cost.seconds)
                if budget.unit == "seconds"
                else (fixed.joules, cost.joules)
            )
            if before is None or each is None:
                steps, least = 0, math.inf
            else:
                left = PLANNED * budget.amount * scaled - before
                steps = max(0, math.floor(left / each))
                known = spent.seconds if budget.unit == "seconds" else spent.joules
                least = (before - (known or 0.0) + each) / PLANNED / scaled
            visits = steps * batch
        elif budget.unit == "epochs":
            visits = max(1, round(budget.amount * num_train))
            steps = -(-visits // batch)
        else:
            assert level is not None
            wanted = law.visits_to(level.score(law.aim(budget.amount)), cost.parameters)
            share = law.in_effect(1.0, batch)
            visits = 0 if wanted is None else math.ceil(wanted / share)
            steps = -(-visits // batch)
        score = -math.inf
        if visits:
            score = law.score(law.in_effect(visits, batch), cost.parameters)
        training = Spend(
            steps * cost.seconds,
            None if cost.joules is None else steps * cost.joules,
        )
        spend = Spend(
            fixed.seconds + training.seconds, _sum([fixed.joules, training.joules])
        )
        free = budget.unit == "epochs"
        return cls(scale, batch, cost, steps, visits, score, spend, least, free)

    @property
    def images_per_s(self) -> float:
        return self.batch_size / self.cost.seconds


def _joules(part: Spend, idle_w: int | float | None) -> int | float | None:
    if part.joules is not None:
        return part.joules
    if part.seconds == 0:
        return 0.0
    return None if idle_w is None else idle_w * part.seconds


def _sum(parts: Sequence[int | float | None]) -> int | float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _wh(spend: Spend) -> float | None:
    return None if spend.joules is None else spend.joules / _J_PER_WH


def _cheapest(offers: Sequence[_Offer]) -> _Offer:
    """Return the offer that takes the least energy, or time where that is not known."""
    joules = [one.spend.joules for one in offers]
    known = [each for each in joules if each is not None]
    costs = known if len(known) == len(joules) else [o.spend.seconds for o in offers]
    return offers[costs.index(min(costs))]


def _batches(offers: Sequence[_Offer]) -> list[_Offer]:
    """Return the offer of each scale at the batch size that it would be trained with.

    That is a measured one where there is any.
    """
    chosen = []
    for scale in sorted({one.scale for one in offers}):
        alike = [one for one in offers if one.scale == scale]
        alike = [one for one in alike if one.cost.measured] or alike
        fastest = max(one.images_per_s for one in alike)
        enough = [one for one in alike if one.images_per_s >= _FAST_ENOUGH * fastest]
        chosen.append(min(enough, key=lambda one: one.batch_size))
    return chosen


def _too_small(budget: Budget, offers: Sequence[_Offer], spent: Spend) -> UserError:
    if budget.unit == "target":
        return UserError(
            f"budget: no network of the family is expected to reach {budget}; give a "
            "lower one"
        )
    known = [one for one in offers if one.cost.measured] or offers
    cheapest = min(known, key=lambda one: one.least)
    least = cheapest.least
    if least <= budget.amount:
        return BudgetTooSmallError(
            f"budget: measuring took {spent.seconds:.3g} s, and {budget} leaves no "
            "time to train; the costs are known now, so plan again",
            least,
        )
    unit = "s" if budget.unit == "seconds" else "Wh"
    parts = cheapest.cost.compiling.seconds, cheapest.cost.evaluating.seconds
    return BudgetTooSmallError(
        f"budget: {budget} is too little for any network; scale {cheapest.scale:g} "
        f"takes the least, {_up(least)} {unit}: compiling takes {parts[0]:.3g} s and "
        f"evaluating {parts[1]:.3g} s before and after the first step; give more",
        least,
    )


def _up(value: float) -> str:
    """Return a number with three digits, rounded up."""
    digits = 2 - math.floor(math.log10(value))
    scaled = math.ceil(value * 10**digits - 1e-9) / 10**digits
    return f"{scaled:.{max(0, digits)}f}"


def _candidate(
    offer: _Offer, best: _Offer, chosen: Sequence[_Offer], budget: Budget
) -> Candidate:
    return Candidate(
        scale=offer.scale,
        batch_size=offer.batch_size,
        parameters=offer.cost.parameters,
        visits=offer.visits,
        steps=offer.steps,
        score=offer.score if offer.visits else None,
        seconds=offer.spend.seconds,
        wh=_wh(offer.spend),
        measured=offer.cost.measured,
        why=_why(offer, best, chosen, budget),
    )


def _why(offer: _Offer, best: _Offer, chosen: Sequence[_Offer], budget: Budget) -> str:
    if offer is best:
        return "chosen"
    if offer not in chosen and offer.cost.measured:
        other = next(one for one in chosen if one.scale == offer.scale)
        if offer.batch_size > other.batch_size:
            return f"batches of {other.batch_size} train nearly as many images a second"
        return f"batches of {other.batch_size} train more images a second"
    if not (offer.cost.measured or offer.free):
        return f"not measured: {offer.cost.note or 'guessed from its FLOPs'}"
    if not offer.steps:
        return (
            "cannot reach it"
            if budget.unit == "target"
            else "over budget before its first step"
        )
    if budget.unit == "target":
        return "takes more to get there"
    gap = best.score - offer.score
    if offer.cost.parameters < best.cost.parameters:
        return f"too small for what it would see: g {gap:.3f} lower"
    return f"sees too few examples for its size: g {gap:.3f} lower"


def _reasons(
    best: _Offer,
    able: Sequence[_Offer],
    budget: Budget,
    law: Law,
    level: Level | None,
) -> tuple[str, ...]:
    found = []
    if budget.unit == "target":
        found.append(
            f"scale {best.scale:g} is expected to reach {budget} at the least cost, "
            f"after {best.visits:,} examples: they are planned to end at "
            f"{law.aim(budget.amount):.3f}, so that five runs in six reach it"
        )
    else:
        found.append(
            f"scale {best.scale:g} sees {best.visits:,} examples, and its "
            f"g = {best.score:.3f} is the largest of {len(able)}"
        )
        others = [one for one in able if one is not best]
        if others:
            second = max(others, key=lambda one: one.score)
            found.append(_second(best, second, level))
    if level is None:
        found.append(
            "the level of the error on this data is not known, so no accuracy is "
            "predicted; which network is best does not depend on it"
        )
    numbers = ", ".join(f"{value:.4g}" for value in law.coefficients)
    found.append(f"law a, b, c, d = {numbers}; {law.origin}")
    return tuple(found)


def _second(best: _Offer, second: _Offer, level: Level | None) -> str:
    text = f"next is scale {second.scale:g}, g {best.score - second.score:.3f} lower"
    if level is None:
        return text
    points = 100 * (level.accuracy(best.score) - level.accuracy(second.score))
    return f"{text}, {points:.2f} points of accuracy"


def _warnings(best: _Offer, law: Law, family: str) -> tuple[str, ...]:
    found = []
    if best.steps < LEAST_STEPS:
        found.append(
            f"{best.steps} steps are few: below {LEAST_STEPS} the ranking was not "
            "tested, and large networks were still at chance; give more, or smaller "
            "batches"
        )
    effective = law.in_effect(best.visits, best.batch_size)
    beyond = law.beyond(family, effective, best.cost.parameters)
    found.extend(f"extrapolated: {text}" for text in beyond)
    return tuple(found)
