"""A power trace of bounded size: bins that double in length when there are too many."""

from typing import Any

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
