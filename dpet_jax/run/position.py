"""State of a run on the host, and how a checkpoint keeps it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dpet_jax.methods.base import Cost, Plan, Span
from dpet_jax.planner.pacing import Pacing
from dpet_jax.run.counters import Counters
from dpet_jax.run.prune import PruneState
from dpet_jax.training.plateau import Plateau


@dataclass
class Position:
    """Everything the loop changes, beside what is on the device.

    Attributes:
        state: The method's state, a NamedTuple of arrays and numbers.
        counters: Work done so far.
        plan: What is being trained on, its schedule settled; None between plans.
        plan_index: How many plans came before.
        cursor: Steps of the plan that are done.
        targets: What was reached, and when.
        evaluated_visits: Visits at the last evaluation, or None before the first.
        pending: Plans, trained on since the proxy was last asked, that it has yet to
            catch up on; none without a proxy.
        prune: How far pruning has come; None where nobody prunes.
        pacing: How the schedule is to end with a budget; None where it does not, and
            before the first plan.
        plateau: How accuracy has gone on; it matters where plateaus do.
        paid: What choosing and training had cost when the method last observed a plan;
            None before the first.
    """

    state: Any
    counters: Counters
    plan: Plan | None = None
    plan_index: int = 0
    cursor: int = 0
    targets: list[dict[str, Any]] = field(default_factory=list)
    evaluated_visits: int | None = None
    pending: list[Plan] = field(default_factory=list)
    prune: PruneState | None = None
    pacing: Pacing | None = None
    plateau: Plateau = field(default_factory=Plateau)
    paid: Cost | None = None

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and plain values from which `restore` rebuilds it."""
        arrays, plain = _taken_apart(self.state, "method")
        if self.plan is not None:
            arrays |= _arrays("plan", self.plan)
        for number, plan in enumerate(self.pending):
            arrays |= _arrays(f"pending.{number}", plan)
        return arrays, {
            "method": plain,
            "plan": self.plan and _header(self.plan),
            "pending": [_header(plan) for plan in self.pending],
            "plan_index": self.plan_index,
            "cursor": self.cursor,
            "counters": asdict(self.counters),
            "targets": self.targets,
            "evaluated_visits": self.evaluated_visits,
            "prune": self.prune and asdict(self.prune),
            "pacing": self.pacing and self.pacing.to_json(),
            "plateau": list(self.plateau),
            "paid": self.paid and list(self.paid),
        }

    def restore(self, arrays: dict[str, np.ndarray], plain: dict[str, Any]) -> None:
        """Become what `saved` returned; the present method state gives its type."""
        self.state = _put_together(self.state, "method", arrays, plain["method"])
        self.counters = Counters(**plain["counters"])
        self.plan_index = plain["plan_index"]
        self.cursor = plain["cursor"]
        self.targets = plain["targets"]
        self.evaluated_visits = plain["evaluated_visits"]
        # checkpoints of earlier versions have none
        prune = plain.get("prune")
        self.prune = prune and PruneState(**prune)
        pacing = plain.get("pacing")
        self.pacing = pacing and Pacing.from_json(pacing)
        self.plateau = Plateau(*plain.get("plateau", ()))
        paid = plain.get("paid")
        self.paid = paid and Cost(*paid)
        header = plain["plan"]
        self.plan = header and _plan("plan", arrays, header)
        self.pending = [
            _plan(f"pending.{number}", arrays, header)
            for number, header in enumerate(plain["pending"])
        ]


def _taken_apart(state: Any, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a method's state by dotted name, and all else as it is.

    A field may itself be a NamedTuple of arrays and numbers.
    """
    arrays, plain = {}, {}
    for key, value in state._asdict().items():
        inner = f"{name}.{key}"
        if isinstance(value, np.ndarray):
            arrays[inner] = value
        elif hasattr(value, "_asdict"):
            of_it, plain[key] = _taken_apart(value, inner)
            arrays |= of_it
        else:
            plain[key] = value
    return arrays, plain


def _put_together(
    like: Any, name: str, arrays: dict[str, np.ndarray], plain: dict[str, Any]
) -> Any:
    """Return the state that was taken apart; `like` gives the types."""
    found = dict(plain)
    for key, value in like._asdict().items():
        inner = f"{name}.{key}"
        if inner in arrays:
            found[key] = arrays[inner]
        elif hasattr(value, "_asdict") and isinstance(found.get(key), dict):
            found[key] = _put_together(value, inner, arrays, found[key])
    return type(like)(**found)


def _arrays(name: str, plan: Plan) -> dict[str, np.ndarray]:
    arrays = {f"{name}.index_set": plan.index_set}
    if plan.weights is not None:
        arrays[f"{name}.weights"] = plan.weights
    return arrays


def _header(plan: Plan) -> dict[str, Any]:
    return {
        "label": plan.label,
        "passes": plan.passes,
        "schedule": list(plan.schedule or ()),
        "learning_rate": plan.learning_rate,
        "learning_rate_factor": plan.learning_rate_factor,
        "reset": plan.reset,
    }


def _plan(name: str, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Plan:
    return Plan(
        arrays[f"{name}.index_set"],
        label=header["label"],
        passes=header["passes"],
        weights=arrays.get(f"{name}.weights"),
        schedule=Span(*header["schedule"]),
        # checkpoints of earlier versions have none
        learning_rate=header.get("learning_rate"),
        learning_rate_factor=header.get("learning_rate_factor", 1.0),
        reset=header["reset"],
    )
