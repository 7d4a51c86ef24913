"""Where a run's seconds go: named windows that nest and add up to the whole."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("compile", "data", "select", "train", "eval", "checkpoint", "other")


class PhaseClock:
    """Attribute every second of a run to exactly one phase.

    A window that opens inside another pauses it, so that the phases add up to the run.
    Whatever no window claims is `other`. A window closes on an idle device: `barrier`
    is called before its last edge is read.

    Args:
        barrier: Blocks until the accelerator has finished everything asked of it.
        now: The clock, in seconds; monotonic.
    """

    def __init__(
        self,
        barrier: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.barrier = barrier
        self._now = now
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open = ["other"]
        self._edge = now()

    @contextmanager
    def window(self, phase: str) -> Iterator[None]:
        """Attribute the seconds inside to a phase of `PHASES`.

        Raises:
            ValueError: If there is no such phase.
        """
        if phase not in PHASES:
            raise ValueError(f"no phase called {phase!r}; there are {PHASES}")
        self._turn()
        self._open.append(phase)
        try:
            yield
            self.barrier()
        finally:
            self._turn()
            self._open.pop()

    def resume(self, seconds: dict[str, float]) -> None:
        """Add the phases of earlier segments of the same run."""
        for phase, earlier in seconds.items():
            self._seconds[phase] += earlier

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every phase up to now."""
        self._turn()
        return dict(self._seconds)

    @property
    def total_s(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds().values())

    def _turn(self) -> None:
        edge = self._now()
        self._seconds[self._open[-1]] += edge - self._edge
        self._edge = edge
