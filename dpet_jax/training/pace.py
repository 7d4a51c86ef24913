"""How much a step takes, learned while training: seconds for chunks, Wh for budgets."""

import time

_CHUNK_S = 1.0
_FIRST_STEPS = 4
_NEWEST = 0.3


class Pace:
    """Choose the length of chunks, and foresee what they will use.

    Attributes:
        steps: Steps of the next chunk, so that it lasts about a second.
        step_wh: Wh of one step, a moving average; None while it is not known.
    """

    def __init__(self) -> None:
        self.steps = _FIRST_STEPS
        self.step_wh: float | None = None
        self._last_wait = 0.0
        self._last_wh: float | None = None

    def begin(self, wh: float | None) -> None:
        """Note that training begins, or goes on after something else.

        Args:
            wh: Spent so far; None if unavailable.
        """
        self._last_wh = wh

    def waited(self, num_steps: int, dispatched: float, wh: float | None) -> None:
        """Learn from a chunk that has ended.

        Args:
            num_steps: Its steps.
            dispatched: When it was queued.
            wh: Spent so far; None if unavailable.
        """
        now = time.monotonic()
        took = now - max(self._last_wait, dispatched)
        self._last_wait = now
        wanted = round(_CHUNK_S * num_steps / max(took, 1e-6))
        self.steps = max(1, min(wanted, 4 * self.steps))
        if wh is not None and self._last_wh is not None:
            newest = max(0.0, wh - self._last_wh) / num_steps
            known = newest if self.step_wh is None else self.step_wh
            self.step_wh = known + _NEWEST * (newest - known)
        self._last_wh = wh
