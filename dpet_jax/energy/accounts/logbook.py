"""What a meter writes down while it runs: a power trace, and a journal if asked for."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.energy.accounts.journal import Journal
from dpet_jax.energy.accounts.state import Accounts
from dpet_jax.energy.sensing.curve import add_by_name

_MOST_BINS = 512


class _Bin(NamedTuple):
    start_s: float
    end_s: float
    joules: dict[str, float]


class Trace:
    """Mean power of every channel over bins of time, of bounded size.

    Bins double in length when there are too many. They hold energy, so that halving
    their number loses no joule.

    Args:
        most_bins: More are never kept.
    """

    def __init__(self, most_bins: int = _MOST_BINS) -> None:
        self._most = most_bins
        self._at_once = 1
        self._bins: list[_Bin] = []
        self._waiting: _Bin | None = None
        self._joined = 0

    def add(self, start_s: float, end_s: float, joules: dict[str, float]) -> None:
        """Add what was used between two moments, the later after the earlier."""
        new = _Bin(start_s, end_s, joules)
        self._waiting = new if self._waiting is None else _joined(self._waiting, new)
        self._joined += 1
        if self._joined < self._at_once:
            return
        self._bins.append(self._waiting)
        self._waiting, self._joined = None, 0
        if len(self._bins) > self._most:
            first, second = self._bins[::2], self._bins[1::2]
            pairs = map(_joined, first, second)
            self._bins = [*pairs, *first[len(second) :]]
            self._at_once *= 2

    def bins(self) -> list[dict[str, Any]]:
        """Return start, end and mean watts of each bin, in order of time."""
        waiting = [] if self._waiting is None else [self._waiting]
        return [
            {
                "start_s": start,
                "end_s": end,
                "w": {name: used / (end - start) for name, used in joules.items()},
            }
            for start, end, joules in self._bins + waiting
            if end > start
        ]

    def low_w(self, channel: str) -> float | None:
        """Return the 5th percentile of a channel's power, or None without any."""
        powers = sorted(b["w"][channel] for b in self.bins() if channel in b["w"])
        return powers[int(0.05 * (len(powers) - 1))] if powers else None


class Logbook:
    """Keep the trace in memory, and everything in a file once there is one.

    Args:
        failed: Called when the file cannot be written any more; nothing is raised,
            since a full disk must not stop what is measured.

    Attributes:
        trace: The power over time.
        lines: Lines of the journal up to now; 0 if there never was one.
    """

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self.trace = Trace()
        self.lines = 0
        self._failed = failed
        self._journal: Journal | None = None
        self._before: tuple[float, dict[str, float]] = (0.0, {})

    def begin(self, accounts: Accounts) -> None:
        """Begin the trace here; what was used up to now is not part of it."""
        self._before = accounts.total_s, _joules(accounts)

    def keep(self, path: Path, accounts: Accounts) -> None:
        """Write a journal from now on."""
        self._journal = Journal(path, accounts)
        self.lines = self._journal.lines

    def sample(self, accounts: Accounts) -> None:
        """Add a bin to the trace, from the last one until now."""
        (start_s, before), (end_s, after) = (
            self._before,
            (accounts.total_s, _joules(accounts)),
        )
        joules = {name: j - before.get(name, 0.0) for name, j in after.items()}
        self.trace.add(start_s, end_s, joules)
        self.note("sample", accounts, start_s=start_s, end_s=end_s, joules=joules)
        self._before = end_s, after

    def note(self, event: str, accounts: Accounts, **values: Any) -> None:
        """Write a line with what has changed."""
        if self._journal is None:
            return
        try:
            self._journal.write(event, accounts, **values)
            self.lines = self._journal.lines
        except OSError as error:
            self.close()
            self._failed("journal_failed", error)

    def close(self) -> None:
        """Close the file; in a forked child, the child's hold on it."""
        journal, self._journal = self._journal, None
        if journal is not None:
            with contextlib.suppress(OSError):
                journal.close()


def _joined(one: _Bin, later: _Bin) -> _Bin:
    return _Bin(one.start_s, later.end_s, add_by_name(one.joules, later.joules))


def _joules(accounts: Accounts) -> dict[str, float]:
    return {name: c.totals.energy_j for name, c in accounts.channels.items()}
