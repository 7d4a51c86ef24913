"""Hands a run's events on to its trackers, which can neither end nor delay it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from dpet_jax.config.experiment import Config
from dpet_jax.errors import UserError
from dpet_jax.run.folder import EVENTS, read_events
from dpet_jax.trackers.base import TrackedRun, Tracker, Writer

#: Of a summary, what trackers show as the end of a run.
_ENDS = ("test_accuracy", "test_loss", "validation_accuracy", "wall_s", "coreset_size")


# A tracker that takes longer than this to end is left behind.
_PATIENCE_S = 60.0


class Tracking:
    """The trackers of a run, which write in a thread of their own.

    A tracker that raises is left out from then on, and a warning says so once.

    Args:
        trackers: What the config lists.
        run: What they follow.
        warn: Shows a sentence.

    Raises:
        UserError: If a tracker cannot begin.
    """

    def __init__(
        self,
        trackers: tuple[Tracker, ...],
        run: TrackedRun,
        warn: Callable[[str], None],
    ) -> None:
        self._warn = warn
        self._finished = False
        self._events: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        self._writers: list[tuple[Tracker, Writer]] = []
        for tracker in trackers:
            try:
                self._writers.append((tracker, tracker.open(run)))
            except Exception as error:  # each package has its own
                self._end_writers()
                raise UserError(
                    f"track: {tracker.kind} cannot begin: {_told(error)}; mend it, or "
                    f"leave {tracker.kind} out of track"
                ) from error
        self._thread: Thread | None = None
        if self._writers:
            # one that hangs must not keep the process
            self._thread = Thread(target=self._hand_on, name="trackers", daemon=True)
            self._thread.start()

    def write(self, event: Mapping[str, Any]) -> None:
        """Hand on an event that is on disk already, and wait for nobody."""
        if self._thread is not None:
            self._events.put(event)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Hand on what the run ended with."""
        self._finished = True
        self.write(end_event(summary))

    def close(self) -> None:
        """Let the trackers write what is left and end, if they do so in time."""
        if self._thread is None:
            return
        self._events.put(None)
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            kinds = ", ".join(tracker.kind for tracker, _ in self._writers[:])
            self._warn(
                f"  warning: track: {kinds} did not end within {_PATIENCE_S:g} s and "
                "may lack the last events, which are whole in the run's folder"
            )

    def _hand_on(self) -> None:
        while (event := self._events.get()) is not None:
            for tracker, writer in self._writers[:]:
                try:
                    writer.write(event)
                except Exception as error:
                    self._leave_out(tracker, writer, error)
        self._end_writers()

    def _end_writers(self) -> None:
        for tracker, writer in self._writers[:]:
            try:
                writer.close(finished=self._finished)
            except Exception as error:
                self._leave_out(tracker, writer, error)

    def _leave_out(self, tracker: Tracker, writer: Writer, error: Exception) -> None:
        self._writers.remove((tracker, writer))
        self._warn(
            f"  warning: track: {tracker.kind} failed ({_told(error)}); the run goes "
            "on without it, and its events are whole in its folder"
        )
        with suppress(Exception):
            writer.close(finished=False)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def end_event(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run ended with, as an event that is in no file."""
    ends = {key: summary.get(key) for key in _ENDS}
    return {"event": "end", "visits": summary["visits"], **ends}


def tracked_run(
    config: Config, folder: Path, *, resumed: bool, modelled: bool = False
) -> TrackedRun:
    """Return what trackers follow, from where what its folder holds ends.

    Args:
        config: The run's.
        folder: Of the run, held by this process.
        resumed: Whether the run goes on.
        modelled: Whether its Wh are a model's, which trackers leave out.
    """
    past: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    if resumed and (folder / EVENTS).exists():
        past = read_events(folder / EVENTS, superseded=True)
        kept = read_events(folder / EVENTS)
    # what was lost is counted in visits too, but it is no place to go on from
    past, kept = ([e for e in some if e["event"] != "lost"] for some in (past, kept))
    if modelled:
        past, kept = ([e | {"wh": None} for e in some] for some in (past, kept))
    return TrackedRun(
        config.name,
        config.seed,
        folder,
        config.model_dump(mode="json"),
        max((event.get("visits", 0) for event in kept), default=0),
        resumed,
        tuple(past),
        tuple(kept),
    )
