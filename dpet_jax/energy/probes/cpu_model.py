"""A model of the CPU's power from how busy it is; used only if asked for."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Source

STAT = Path("/proc/stat")

# Columns of a line of /proc/stat; what follows them is contained in the first two.
_IDLE, _IOWAIT, _STEAL, _COLUMNS = 3, 4, 7, 8


class _Busyness(NamedTuple):
    time_s: float
    busy_ticks: int
    all_ticks: int
    process_s: float


class CpuPowerModel:
    """Model the power of all CPU packages together; nothing here is measured.

    P = idle_w + (max_w - idle_w) u, with u the share of the machine's CPU time that was
    not idle since the reading before. Its three sources are, in this order:

    - mid: P of the whole machine. This one counts.
    - low: (max_w - idle_w) times this process' share of the machine's CPU time, with
      no idle power; children count once they have ended and been waited for.
    - high: max_w all the time.

    low <= mid <= high at every reading: two tools with another curve each differ by
    a factor of two on one run, so the mid alone says little.

    Args:
        idle_w: Power of all packages when nothing runs.
        max_w: Power of all packages under full load.
        source: Where the two figures come from, such as "wall meter, 2026-03" or a
            data sheet. There are no defaults: a model needs figures of known origin.
        stat: The machine's CPU times.
        process_times: Returns the process' CPU times in seconds, as `os.times` does.
        now: The clock, in seconds; monotonic.

    Raises:
        ValueError: If the figures are out of order, `source` is empty, or `stat` cannot
            be read, as outside Linux.
    """

    id = "cpu:model"
    component = "cpu"
    scope = "package"

    def __init__(
        self,
        idle_w: float,
        max_w: float,
        source: str,
        *,
        stat: Path = STAT,
        process_times: Callable[[], Sequence[float]] = os.times,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        truth = isinstance(idle_w, bool) or isinstance(max_w, bool)
        if truth or not 0 <= idle_w < max_w < math.inf:
            raise ValueError(
                f"idle_w is {idle_w} and max_w is {max_w}; give watts with "
                "0 <= idle_w < max_w"
            )
        if not source.strip():
            raise ValueError(
                "source is empty; say where the watts come from, such as 'wall meter' "
                "or a data sheet"
            )
        self._idle_w = idle_w
        self._max_w = max_w
        self._source = source
        self._stat = stat
        self._process_times = process_times
        self._now = now
        self._shares: tuple[float, float] | None = None
        try:
            self._num_cpus = _num_cpus(stat)
            self._last = self._busyness()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{stat} does not show how busy the CPU is ({error}); the model needs "
                "Linux' /proc: leave it out here, or name a meter"
            ) from error
        named = f"model: idle {idle_w:g} W, max {max_w:g} W ({source})"
        self.sources = tuple(
            Source(
                f"{named}; {what}",
                "power",
                rel_uncertainty=0.0,  # low and high are the interval, the whole of it
                max_w=max_w,
                quality="modelled",
            )
            for what in ("machine's CPU time", "process' CPU time, no idle", "max")
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the mid, low and high power since the reading before.

        It never waits. All three are None as long as the machine's CPU times have not
        moved since the model was made, so that the three cover the same seconds; when
        they do not move later, the last answer holds.
        """
        try:
            new = self._busyness()
        except (OSError, ValueError):
            return (None, None, None)
        old, moved = self._last, new.all_ticks - self._last.all_ticks
        if moved < 0:  # the kernel lets iowait run backwards
            self._last = new
        elif moved > 0 and new.time_s > old.time_s:
            machine = _clip((new.busy_ticks - old.busy_ticks) / moved, 1.0)
            capacity_s = (new.time_s - old.time_s) * self._num_cpus
            process = _clip((new.process_s - old.process_s) / capacity_s, machine)
            self._shares = machine, process
            self._last = new
        if self._shares is None:
            return (None, None, None)
        machine, process = self._shares
        dynamic_w = self._max_w - self._idle_w
        mid_w = min(self._idle_w + dynamic_w * machine, self._max_w)
        return (mid_w, dynamic_w * process, self._max_w)

    def facts(self) -> dict[str, Any]:
        """Return the figures that the model uses, and where they come from."""
        return {
            "name": "CPU power model",
            "idle_w": self._idle_w,
            "max_w": self._max_w,
            "source": self._source,
            "num_cpus": self._num_cpus,
            "shared": self.scope,
            "foreign_processes": None,
        }

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def _busyness(self) -> _Busyness:
        time_s = self._now()
        head = self._stat.read_text(encoding="ascii").partition("\n")[0].split()
        if not head or head[0] != "cpu":
            raise ValueError("no line of all CPUs")
        ticks = [int(column) for column in head[1:][:_COLUMNS]]
        if len(ticks) <= _IOWAIT:
            raise ValueError("too few columns")
        # Stolen time is another virtual machine's.
        unused = ticks[_IDLE] + ticks[_IOWAIT] + sum(ticks[_STEAL:])
        process_s = float(sum(self._process_times()[:4]))
        return _Busyness(time_s, sum(ticks) - unused, sum(ticks), process_s)


def _num_cpus(stat: Path) -> int:
    lines = stat.read_text(encoding="ascii").splitlines()
    number = sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)
    if number == 0:
        raise ValueError("no line of a single CPU")
    return number


def _clip(share: float, most: float) -> float:
    return min(max(share, 0.0), most)
