"""What a meter writes down while it runs: a power trace, and a journal if asked for."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpet_jax.energy.accounts.journal import Journal, State
from dpet_jax.energy.accounts.power_trace import Trace


class Logbook:
    """Keep the trace in memory, and everything in a file once there is one.

    Args:
        failed: Told when the file cannot be written any more; nothing is raised, since
            a full disk must not stop what is measured.

    Attributes:
        trace: The power over time.
    """

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self.trace = Trace()
        self._failed = failed
        self._journal: Journal | None = None
        self._lines = 0
        self._before: tuple[float, dict[str, float]] = (0.0, {})

    @property
    def lines(self) -> int:
        """Lines of the journal up to now; 0 if there never was one."""
        return self._lines

    def begin(self, state: State) -> None:
        """Go on from a state: what it holds is not part of the trace."""
        self._before = _run_s(state), _joules(state)

    def keep(self, path: Path, state: State) -> None:
        """Write a journal from now on."""
        self._journal = Journal(path, state)
        self._lines = self._journal.lines

    def sample(self, state: State) -> None:
        """Add a bin to the trace, from the last one until now."""
        (start_s, before), (end_s, after) = (
            self._before,
            (_run_s(state), _joules(state)),
        )
        joules = {name: j - before.get(name, 0.0) for name, j in after.items()}
        self.trace.add(start_s, end_s, joules)
        self.note("sample", state, start_s=start_s, end_s=end_s, joules=joules)
        self._before = end_s, after

    def note(self, event: str, state: State, **values: Any) -> None:
        """Write a line with what has changed."""
        if self._journal is None:
            return
        try:
            self._journal.write(event, state, **values)
            self._lines = self._journal.lines
        except OSError as error:
            self.close()
            self._failed("journal_failed", error)

    def close(self) -> None:
        """Close the file; in a forked child, the child's hold on it."""
        journal, self._journal = self._journal, None
        if journal is not None:
            with contextlib.suppress(OSError):
                journal.close()


def _run_s(state: State) -> float:
    return sum(row["s"] for row in state["phases"].values())


def _joules(state: State) -> dict[str, float]:
    return {
        name: channel["totals"]["energy_j"]
        for name, channel in state["channels"].items()
    }
