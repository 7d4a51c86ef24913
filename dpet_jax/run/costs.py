"""What a run had spent at an event, and what it cost to reach a target.

This is the only definition: summary.json, energy_report.json and the tables of a report
hold these numbers under these names.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

Event = dict[str, Any]

#: What costs can be given in.
By = Literal["wh", "epochs", "visits", "seconds"]

#: Phases whose seconds and energy buy accuracy. Evaluation is reported apart, since it
#: is the same for every method; checkpoints, idling and set-up are part of the whole
#: run only.
COST_PHASES = (
    *("compile", "data", "precision", "pool", "select", "tuner", "train", "prune"),
)
#: Of those, what every run spends on choosing and training; `tuner` only where a method
#: sets its keys as it goes.
WORK_PHASES = ("select", "tuner", "train")
#: Programs are compiled, and data are read, once for all runs of a process, or come
#: from a cache: whoever comes first would pay for all.
WARM_PHASES = tuple(p for p in COST_PHASES if p not in ("compile", "data"))


#: What passes between the last checkpoint and the end of a run that a signal stopped;
#: less than this was lost to no crash.
NEGLIGIBLE_S = 0.05


class Spent(NamedTuple):
    """What a run had spent from its start to an event; None where not measured.

    Work that a crash lost is in none of it.

    Attributes:
        epochs: Full-pass equivalents of training, scoring and auxiliary networks.
        visits: Examples that the main model has seen in training, repeats included.
        wall_s: Seconds of everything.
        seconds: Of `COST_PHASES`.
        seconds_warm: Of `WARM_PHASES`.
        wh: Energy of `COST_PHASES`, as this run spent it.
        wh_warm: Energy of `WARM_PHASES`.
        wh_eval: Energy of evaluation.
        wh_incl_eval: `wh` and `wh_eval` together.
        wh_total: Energy of everything.
    """

    epochs: float
    visits: int
    wall_s: float
    seconds: float | None
    seconds_warm: float | None
    wh: float | None
    wh_warm: float | None
    wh_eval: float | None
    wh_incl_eval: float | None
    wh_total: float | None


class TargetCost(NamedTuple):
    """What a run had spent at the first evaluation at or above a target.

    Attributes:
        target: The accuracy to be reached.
        accuracy: That of the evaluation.
        test_accuracy: Of the same parameters; None if the run was killed before it was
            measured.
        spent: Up to and with the evaluation.
        wh_cold: `spent.wh` if the run compiled its own programs; None if they were
            there already, since what compiling them costs was not measured.
        bracket_wh: `wh` at the evaluation before and at this one, between which the
            target was crossed; nothing is interpolated. None without energy.
        compile_cached: Whether programs came from a cache or an earlier run of the
            process.
    """

    target: float
    accuracy: float
    test_accuracy: float | None
    spent: Spent
    wh_cold: float | None
    bracket_wh: tuple[float, float] | None
    compile_cached: bool


def spent_at(event: Event) -> Spent:
    """Return what a run had spent at an event that carries the counters."""
    seconds, wh = event.get("seconds"), event.get("wh")
    return Spent(
        epochs=event["epochs"],
        visits=event["visits"],
        wall_s=event["time_s"],
        seconds=_sum(seconds, COST_PHASES),
        seconds_warm=_sum(seconds, WARM_PHASES),
        wh=_sum(wh, COST_PHASES),
        wh_warm=_sum(wh, WARM_PHASES),
        wh_eval=_sum(wh, ("eval",)),
        wh_incl_eval=_sum(wh, (*COST_PHASES, "eval")),
        wh_total=_sum(wh, wh or ()),
    )


def target_cost(events: Sequence[Event], target: float) -> TargetCost | None:
    """Return what it cost to reach a target; None if the run never did.

    Args:
        events: A run's, in order, without superseded ones.
        target: An accuracy.
    """
    looks = _evaluations(events)
    number = next((n for n, e in enumerate(looks) if e["accuracy"] >= target), None)
    if number is None:
        return None
    event, spent = looks[number], spent_at(looks[number])
    marks = (e for e in events if e["event"] == "target" and e["target"] == target)
    before = spent_at(looks[number - 1]).wh if number else 0.0
    bracket = None
    if before is not None and spent.wh is not None:
        bracket = (before, spent.wh)
    cached = _compile_cached(events)
    return TargetCost(
        target=target,
        accuracy=event["accuracy"],
        test_accuracy=next(marks, {}).get("test_accuracy"),
        spent=spent,
        wh_cold=None if cached else spent.wh,
        bracket_wh=bracket,
        compile_cached=cached,
    )


def target_costs(
    events: Sequence[Event], targets: Sequence[float]
) -> list[dict[str, Any]]:
    """Return one entry for each target, as summary.json and energy_report.json have it.

    An entry of a target that was not reached holds how far the run came, in
    `best_accuracy`, and what that took, in `wh_total`; its other numbers are None.

    Args:
        events: A run's, in order, without superseded ones.
        targets: Accuracies.
    """
    looks = _evaluations(events)
    best = max((event["accuracy"] for event in looks), default=None)
    spent_in_all = spent_at(looks[-1]).wh_total if looks else None
    entries = []
    for target in targets:
        cost = target_cost(events, target)
        if cost is None:
            numbers = dict.fromkeys((*TargetCost._fields, *Spent._fields))
            numbers |= {"best_accuracy": best, "wh_total": spent_in_all}
        else:
            numbers = cost._asdict() | cost.spent._asdict() | {"best_accuracy": None}
        del numbers["spent"]
        entries.append(numbers | {"target": target, "reached": cost is not None})
    return entries


def _evaluations(events: Sequence[Event]) -> list[Event]:
    """Return the evaluations that may reach a target: those of a finite model."""
    return [
        event
        for event in events
        if event["event"] == "evaluate"
        and event["accuracy"] is not None
        and event["loss"] is not None
    ]


def _compile_cached(events: Sequence[Event]) -> bool:
    """Return whether the first segment found programs instead of compiling them."""
    return any(
        event["cache_hits"]
        or (event["what"] == "train_steps" and event["programs"] == 0)
        for event in events
        if event["event"] == "compile" and event["segment"] == events[0]["segment"]
    )


def _sum(phases: dict[str, float] | None, names: Iterable[str]) -> float | None:
    if phases is None:
        return None
    # a phase of what only some runs do is not there in the others
    return float(sum(phases.get(name, 0.0) for name in names))
