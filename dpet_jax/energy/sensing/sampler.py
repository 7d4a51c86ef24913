"""Time as a meter sees it: a clock, and a thread that reads at a steady pace."""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from dpet_jax.energy.probes.source import Source

_COUNTER_PERIOD_S = 0.1
_POWER_PERIOD_S = 0.05  # half of what sensors take for a new number
_NOTHING_PERIOD_S = 1.0  # then only the record is kept up
_PERIODS_S = (0.02, 5.0)


def reading_period_s(asked: float | None, sources: Sequence[Source]) -> float:
    """Return the seconds between two readings of all sources.

    Args:
        asked: What the user wants; None for what suits the sources.
        sources: Those that count.

    Raises:
        ValueError: If the period asked for is out of range.
    """
    if asked is not None:
        shortest, longest = _PERIODS_S
        if asked is True or not shortest <= asked <= longest:
            raise ValueError(
                f"period_s is {asked}; choose between {shortest} and {longest} s"
            )
        return asked
    if not sources:
        return _NOTHING_PERIOD_S
    counters = all(source.kind == "counter" for source in sources)
    return _COUNTER_PERIOD_S if counters else _POWER_PERIOD_S


class Ticks:
    """When the next tick is due, and how many were missed.

    Args:
        period_s: Seconds between ticks.
        now: The time at which to begin.

    Attributes:
        missed: Ticks left out because the one before ended too late for them.
    """

    def __init__(self, period_s: float, now: float) -> None:
        self.period_s = period_s
        self.missed = 0
        self._due = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next tick, on the grid of the first one."""
        self._due += self.period_s
        late = int((now - self._due) // self.period_s) if now > self._due else 0
        self.missed += late
        self._due += late * self.period_s
        return max(0.0, self._due - now)


class Clock:
    """Monotonic seconds of this machine; a test may give a meter another one.

    Calling it returns the time. Everything in a meter that depends on time asks its
    clock: for the time, to wait, and to be called at a steady pace.
    """

    def __call__(self) -> float:
        """Return the seconds since a fixed moment."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def every(self, ticks: Ticks, call: Callable[[], Any]) -> Callable[[], None]:
        """Call a bound method at every tick, in a thread of its own.

        Args:
            ticks: When to call it.
            call: What to call; it must not raise. It is held weakly.

        Returns:
            Ends this, and waits for a call under way.
        """
        return Sampler(call, ticks, self).stop


class Sampler:
    """A daemon thread that calls a method until stopped.

    It holds the method weakly: a meter that nobody stopped can be collected.

    Args:
        tick: A bound method, which must not raise.
        ticks: When to call it.
        clock: The clock of `ticks`.
    """

    def __init__(
        self, tick: Callable[[], Any], ticks: Ticks, clock: Callable[[], float]
    ) -> None:
        self._stop = threading.Event()
        self.ticks = ticks
        self._thread = threading.Thread(
            target=_loop,
            args=(weakref.WeakMethod(tick), self._stop, ticks, clock),
            name="dpet-energy-sampler",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(self, self._stop.set)

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ask the thread to end, and wait for it two periods and a second."""
        self._stop.set()
        self._thread.join(2 * self.ticks.period_s + 1.0)


def _loop(
    tick: "weakref.WeakMethod[Callable[[], Any]]",
    stop: threading.Event,
    ticks: Ticks,
    clock: Callable[[], float],
) -> None:
    while not stop.wait(ticks.wait_s(clock())):
        call = tick()
        if call is None:
            return
        call()
        del call
