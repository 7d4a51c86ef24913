"""Accuracy curves of several seeds on one grid, and costs divided into parts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpet_jax.report.runs import Run
from dpet_jax.run.costs import By, spent_at

#: Parts that are in no cost of the table.
APART = ("evaluation", "compilation", "rest")
#: Kinds of work that a cost is divided into, in the order in which they are drawn.
PARTS = ("data", "selection", "warm-up", "rounds", "training", *APART)

#: The phases that a kind of work is made of; the others are the rest. Training is
#: divided further.
_PHASES = {
    "data": "data",
    "selection": "select",
    "train": "train",
    "evaluation": "eval",
    "compilation": "compile",
}
#: A phase of runs that choose a network from a pool, which is a selection too.
_POOL = "pool"
#: And one of runs whose method sets its keys as it goes.
_TUNER = "tuner"


class Curve(NamedTuple):
    """Accuracy over cost, over the seeds of a method.

    Attributes:
        cost: Every cost at which a seed evaluated, from the first one that all seeds
            have reached.
        median: Accuracy, over seeds.
        low: The smallest.
        high: The largest.
    """

    cost: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def accuracy_curve(runs: Sequence[Run], by: By) -> Curve | None:
    """Return the accuracy of some runs at every cost at which one was evaluated.

    At each cost a run counts with its latest evaluation up to there; nothing is
    interpolated, and a run that has ended keeps its last.

    Args:
        runs: Of one method, one a seed.
        by: What costs are compared in.

    Returns:
        None if a run has no evaluation, or its cost was not measured.
    """
    courses = [course(run, by) for run in runs]
    if not courses or any(one is None or one[0].size == 0 for one in courses):
        return None
    known = [one for one in courses if one is not None]
    first = max(cost[0] for cost, _ in known)
    grid = np.unique(np.concatenate([cost for cost, _ in known]))
    grid = grid[grid >= first]
    table = np.stack(
        [
            accuracy[np.searchsorted(cost, grid, side="right") - 1]
            for cost, accuracy in known
        ]
    )
    return Curve(grid, np.median(table, 0), table.min(0), table.max(0))


def course(run: Run, by: By) -> tuple[np.ndarray, np.ndarray] | None:
    """Return costs and accuracies of a run's evaluations; None if not measured."""
    found = [(run.cost(spent_at(e), by), e["accuracy"]) for e in run.evaluations()]
    if any(cost is None for cost, _ in found):
        return None
    costs, accuracies = zip(*found, strict=True) if found else ((), ())
    return np.array(costs, float), np.array(accuracies, float)


def parts_of(run: Run, by: By) -> dict[str, float] | None:
    """Divide what a run cost into kinds of work.

    Training is divided by the plans' labels: warm-up, rounds, and anything else. Every
    visit costs the same FLOPs, so that in epochs it is divided as its visits are.

    Args:
        run: The run.
        by: What costs are compared in; no visits are spent on selection.

    Returns:
        By kind of `PARTS`, without those that cost nothing; None if not measured.
    """
    spent = _phases(run.end, by) if by in ("wh", "seconds") else _counted(run, by)
    if spent is None:
        return None
    training = spent.pop("train")
    shares = _by_label(run, by)
    whole = sum(shares.values())
    for kind, share in shares.items():
        spent[kind] = training * share / whole if whole else 0.0
    if not whole:
        spent["training"] = training
    return {kind: spent[kind] for kind in PARTS if spent.get(kind)}


def mean_parts(runs: Sequence[Run], by: By) -> dict[str, float] | None:
    """Return the mean over runs of what each kind of work cost; None as `parts_of`."""
    found = [parts_of(run, by) for run in runs]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    kinds = [kind for kind in PARTS if any(kind in one for one in known)]
    return {k: sum(one.get(k, 0.0) for one in known) / len(known) for k in kinds}


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front: the points that no other beats in both, by cost."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def _phases(event: dict[str, object], by: By) -> dict[str, float] | None:
    phases = event.get(by)
    if not isinstance(phases, dict):
        return None
    parts = {part: phases[phase] for part, phase in _PHASES.items()}
    parts["selection"] += phases.get(_POOL, 0.0) + phases.get(_TUNER, 0.0)
    named = {*_PHASES.values(), _POOL, _TUNER}
    rest = [s for phase, s in phases.items() if phase not in named]
    return parts | {"rest": sum(rest)}


def _counted(run: Run, by: By) -> dict[str, float]:
    if by == "visits":
        return {"train": float(run.end["visits"])}
    flops, epochs = run.summary["flops"], run.summary["epochs"]
    selecting = run.summary["select_flops"]
    selecting += (run.summary.get(_POOL) or {"cost": {"flops": 0}})["cost"]["flops"]
    share = selecting / flops if flops else 0.0
    return {"selection": epochs * share, "train": epochs * (1 - share)}


def _by_label(run: Run, by: By) -> dict[str, float]:
    """Return how much was trained under each kind of plan."""
    marks = [event for event in run.events if event["event"] == "plan"]
    found: dict[str, float] = {}
    for plan, after in zip(marks, [*marks[1:], run.end], strict=False):
        kind = _kind(plan["label"])
        found[kind] = found.get(kind, 0.0) + _trained(after, by) - _trained(plan, by)
    return found


def _trained(event: dict[str, object], by: By) -> float:
    phases = event.get(by) if by in ("wh", "seconds") else None
    if isinstance(phases, dict):
        return float(phases["train"])
    return float(str(event["executed_visits" if by == "epochs" else "visits"]))


def _kind(label: str) -> str:
    if label == "warm-up":
        return "warm-up"
    return "rounds" if label.startswith(("round ", "boost ")) else "training"
