"""What a meter writes down while it runs: a power trace, and a journal if asked for."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpet_jax.energy.accounts.journal import Journal, State

_MOST_BINS = 512


class Trace:
    """Mean power of every channel over bins of time.

    Bins hold energy, so that halving their number loses no joule.

    Args:
        most_bins: More are never kept.
    """

    def __init__(self, most_bins: int = _MOST_BINS) -> None:
        self._most = most_bins
        self._at_once = 1
        self._bins: list[tuple[float, float, dict[str, float]]] = []
        self._waiting: list[tuple[float, float, dict[str, float]]] = []
        self._joined = 0

    def add(self, start_s: float, end_s: float, joules: dict[str, float]) -> None:
        """Add what was used between two moments, the later after the earlier."""
        self._waiting = [_joined([*self._waiting, (start_s, end_s, joules)])]
        self._joined += 1
        if self._joined < self._at_once:
            return
        self._bins += self._waiting
        self._waiting, self._joined = [], 0
        if len(self._bins) > self._most:
            pairs = [self._bins[n : n + 2] for n in range(0, len(self._bins), 2)]
            self._bins = [_joined(pair) for pair in pairs]
            self._at_once *= 2

    def bins(self) -> list[dict[str, Any]]:
        """Return start, end and mean watts of each bin, in order of time."""
        return [
            {
                "start_s": start,
                "end_s": end,
                "w": {name: used / (end - start) for name, used in joules.items()},
            }
            for start, end, joules in self._bins + self._waiting
            if end > start
        ]

    def low_w(self, channel: str) -> float | None:
        """Return the 5th percentile of a channel's power, or None without any."""
        powers = sorted(b["w"][channel] for b in self.bins() if channel in b["w"])
        return powers[int(0.05 * (len(powers) - 1))] if powers else None


def _joined(
    bins: list[tuple[float, float, dict[str, float]]],
) -> tuple[float, float, dict[str, float]]:
    names = dict.fromkeys(name for _, _, joules in bins for name in joules)
    total = {name: sum(joules.get(name, 0.0) for *_, joules in bins) for name in names}
    return bins[0][0], bins[-1][1], total


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
