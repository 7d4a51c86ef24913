"""State of a run on the host, and how a checkpoint keeps it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dpet_jax.methods.base import Cost, Plan
from dpet_jax.methods.saved import (
    plan_arrays,
    plan_from,
    plan_header,
    put_together,
    taken_apart,
)
from dpet_jax.planner.pacing import Pacing
from dpet_jax.run.counters import Counters
from dpet_jax.run.history import LossHistory
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
        history: What training said about every example; None before the first look.
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
    history: LossHistory | None = None

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and plain values from which `restore` rebuilds it."""
        arrays, plain = taken_apart(self.state, "method")
        if self.plan is not None:
            arrays |= plan_arrays("plan", self.plan)
        if self.history is not None:
            arrays |= taken_apart(self.history, "history")[0]
        for number, plan in enumerate(self.pending):
            arrays |= plan_arrays(f"pending.{number}", plan)
        return arrays, {
            "method": plain,
            "plan": self.plan and plan_header(self.plan),
            "pending": [plan_header(plan) for plan in self.pending],
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
        self.state = put_together(self.state, "method", arrays, plain["method"])
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
        # likewise
        self.history = None
        if "history.looks" in arrays:
            begun = LossHistory.begin(0, margins=False)
            self.history = put_together(begun, "history", arrays, {})
        header = plain["plan"]
        self.plan = header and plan_from("plan", arrays, header)
        self.pending = [
            plan_from(f"pending.{number}", arrays, header)
            for number, header in enumerate(plain["pending"])
        ]
