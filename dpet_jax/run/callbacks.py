"""What a caller listens to a run with: told of every event, and able to end the run.

Trackers follow a run in a thread of their own and can neither end nor delay it; a
callback is the caller's code, so it runs in the run's thread and its mistakes are told.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from dpet_jax.run.limits import StopReason
from dpet_jax.run.tracking import end_event
from dpet_jax.trackers.base import TrackedRun, Tracker, Writer

#: A function of an event, what a tracker opens, or a tracker.
Callback: TypeAlias = Callable[[dict[str, Any]], object] | Writer | Tracker


class StopRun(Exception):
    """Raised in a callback, it ends the run as a target that is reached does."""


class Callbacks:
    """The callbacks of a run; after a mistake in one of them none is called again.

    The run goes on to where it can save before it ends, so that nothing is lost.

    Args:
        given: Called in this order.
        run: What trackers among them follow.

    Attributes:
        asked: How the run is to end: "callback" after `StopRun`, "interrupted" after
            any other exception, which `close` raises; None while it is to go on.
    """

    def __init__(
        self, given: Sequence[Callback] = (), run: TrackedRun | None = None
    ) -> None:
        self.asked: StopReason | None = None
        self._error: Exception | None = None
        self._finished = False
        self._writers: list[Writer] = []
        self._functions: list[Callable[[dict[str, Any]], object]] = []
        try:
            for one in given:
                self._take(one, run)
        except BaseException:
            self.close()
            raise

    def _take(self, one: Callback, run: TrackedRun | None) -> None:
        if isinstance(one, Tracker):
            assert run is not None, "a tracker follows a run"
            one.check()
            one = one.open(run)
        if isinstance(one, Writer):
            self._writers.append(one)
            one = one.write
        self._functions.append(one)

    def write(self, event: Mapping[str, Any]) -> None:
        """Tell each of an event, which is on disk already."""
        for function in self._functions:
            if self._error is None:
                # a copy, for the run works with its own
                self._call(function, copy.deepcopy(dict(event)))

    def end(self, summary: Mapping[str, Any]) -> None:
        """Tell each what the run ended with."""
        self._finished = True
        self.write(end_event(summary))

    def close(self) -> None:
        """Let those that have an end come to it, and raise what one of them raised."""
        for writer in self._writers:
            self._call(writer.close, finished=self._finished)
        self._writers.clear()
        if self._error is not None:
            raise self._error

    def _call(self, function: Callable[..., object], *args: Any, **named: Any) -> None:
        try:
            function(*args, **named)
        except StopRun:
            self.asked = self.asked or "callback"
        except Exception as error:
            self._error, self.asked = self._error or error, "interrupted"
