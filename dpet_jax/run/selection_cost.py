"""What a selection costs while it goes on, and what may end it half-way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dpet_jax.errors import SelectionEndedError
from dpet_jax.methods.base import Plan
from dpet_jax.run.counters import Counters
from dpet_jax.run.limits import StopReason
from dpet_jax.run.trainer import Parts


class SelectionWatch:
    """Count one selection, chunk by chunk where networks are trained for it.

    Args:
        parts: What the loop works with.
        counters: The run's, which get the cost as it arises.
        exhausted: Returns what ends the run, or None.

    Attributes:
        flops: What it has cost so far.
    """

    def __init__(
        self,
        parts: Parts,
        counters: Counters,
        exhausted: Callable[[], StopReason | None],
    ) -> None:
        self.flops = 0
        self._parts = parts
        self._counters = counters
        self._exhausted = exhausted
        self._began = time.monotonic()
        self._scored = 0
        self._visits = 0
        self._shown: Plan | None = None
        self._before = self._read()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what happens inside; a signal or a budget may end it.

        Raises:
            SelectionEndedError: With the reason, between two chunks of training.
        """
        trainer, quiet = self._parts.trainer, self._parts.trainer.between_chunks
        trainer.between_chunks = self._between_chunks
        try:
            yield
        finally:
            trainer.between_chunks = quiet
            self._count()
            if self._shown is not None:
                self._parts.display.end_plan()

    def event(self) -> dict[str, Any]:
        """Return the values of the selection's event."""
        return {
            "scores": self._parts.method.scores,
            "scored": self._scored,
            "selection_visits": self._visits,
            "select_flops": self.flops,
            "seconds": time.monotonic() - self._began,
        }

    def _between_chunks(
        self, plan: Plan, visits: int, loss: float, accuracy: float
    ) -> None:
        display = self._parts.display
        if self._shown is not plan:
            if self._shown is not None:
                display.end_plan()
            display.begin_plan(f"select: {plan.label}", plan.visits, visits)
            self._shown = plan
        display.advance(visits, loss, accuracy)
        self._count()
        reason = self._exhausted()
        if reason is not None:
            raise SelectionEndedError(reason)

    def _count(self) -> None:
        now = self._read()
        scored, visits, flops = (a - b for a, b in zip(now, self._before, strict=True))
        self._before = now
        self._scored += scored
        self._visits += visits
        self.flops += flops
        self._counters.scored_examples += scored
        self._counters.flops += flops

    def _read(self) -> tuple[int, int, int]:
        trainer = self._parts.trainer
        return trainer.scored_examples, trainer.selection_visits, trainer.select_flops
