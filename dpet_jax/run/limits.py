"""Targets and budgets: when a run ends, and how far it may go before anyone looks."""

import math
import sys
from dataclasses import dataclass
from typing import Literal

from dpet_jax.run.counters import Counters
from dpet_jax.training.plateau import PlateauConfig

#: What ends a run: its method has no more plans, it reached its target, its accuracy
#: has stopped rising, a budget is used up, a callback stopped it, the loss is not
#: finite, or it left so that it can be resumed: because a signal interrupted it, or
#: where it was asked to pause.
StopReason = Literal[
    "finished",
    "target",
    "plateau",
    "budget.epochs",
    "budget.visits",
    "budget.seconds",
    "budget.wh",
    "callback",
    "diverged",
    "interrupted",
    "paused",
]


@dataclass(frozen=True)
class Limits:
    """What ends a run, and how often it is evaluated.

    Attributes:
        targets: Accuracies to record the cost of, ascending.
        stop_target: Accuracy that ends the run, or None.
        split: Split that decides about targets, "validation" or "test"; None for a
            run without a validation split, which is then not evaluated underway.
        every: Full-pass equivalents between evaluations.
        epochs: Budget of full-pass equivalents, or None.
        visits: Budget of visits, or None.
        seconds: Budget of seconds without evaluation, or None.
        wh: Budget of gross Wh without evaluation, or None.
        pace: Whether the schedule ends with the seconds, or the Wh.
        plateau: What to do where accuracy stops rising; None for nothing.
        pause: Visits at which to leave the run so that it can be resumed, or None.
    """

    targets: tuple[float, ...] = ()
    stop_target: float | None = None
    split: Literal["validation", "test"] | None = "validation"
    every: float = 1.0
    epochs: float | None = None
    visits: int | None = None
    seconds: float | None = None
    wh: float | None = None
    pace: bool = False
    plateau: PlateauConfig | None = None
    pause: int | None = None

    @property
    def all_targets(self) -> tuple[float, ...]:
        """Every target once, ascending, the one that ends the run included."""
        extra = () if self.stop_target is None else (self.stop_target,)
        return tuple(sorted({*self.targets, *extra}))

    def steps_to_evaluation(self, counters: Counters, flops_per_step: int) -> int:
        """Count the steps until the next point of the evaluation grid, at least 1."""
        due = counters.grid_point * self.every * counters.full_pass_flops
        return max(1, math.ceil((due - counters.flops) / flops_per_step))

    def steps_to_budget(
        self, counters: Counters, flops_per_step: int, batch_size: int
    ) -> int:
        """Count the steps until a budget of epochs or visits is used up, at least 1.

        The last step may pass the budget by less than a batch. Without a budget this is
        more steps than any run takes.
        """
        steps = [sys.maxsize]
        if self.epochs is not None:
            left = self.epochs * counters.full_pass_flops - counters.flops
            steps.append(math.ceil(left / flops_per_step))
        if self.visits is not None:
            steps.append(math.ceil((self.visits - counters.visits) / batch_size))
        return max(1, min(steps))

    def steps_to_pause(self, counters: Counters, batch_size: int) -> int:
        """Count the steps until the run is left, at least 1; see `steps_to_budget`."""
        if self.pause is None:
            return sys.maxsize
        return max(1, math.ceil((self.pause - counters.visits) / batch_size))

    def steps_to_wh(
        self, spent_wh: float | None, step_wh: float | None, pending: int
    ) -> int:
        """Count the steps that the budget of Wh still allows, 0 if none.

        Args:
            spent_wh: Spent so far; None if unavailable, when nothing is foreseen.
            step_wh: What one step will use; None if not known yet.
            pending: Steps that are queued already.
        """
        if self.wh is None or spent_wh is None:
            return sys.maxsize
        left = self.wh - spent_wh
        if not step_wh:
            return sys.maxsize if left > 0 else 0
        return max(0, math.floor(left / step_wh) - pending)

    def exhausted(
        self, counters: Counters, seconds: float, wh_steps: int = sys.maxsize
    ) -> StopReason | None:
        """Return the budget that is used up, or that it is time to pause, or None.

        Args:
            counters: Work done.
            seconds: Seconds without evaluation.
            wh_steps: What `steps_to_wh` returned.
        """
        if self.epochs is not None and counters.epochs >= self.epochs * (1 - 1e-12):
            return "budget.epochs"
        if self.visits is not None and counters.visits >= self.visits:
            return "budget.visits"
        if self.seconds is not None and seconds >= self.seconds:
            return "budget.seconds"
        if wh_steps < 1:
            return "budget.wh"
        pauses = self.pause is not None and counters.visits >= self.pause
        return "paused" if pauses else None
