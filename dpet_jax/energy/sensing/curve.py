"""E(t): the joules of one source since its first reading, as one function of time.

Every window is a difference of this function, so windows add up and nest by
construction, whatever happens to single readings.
"""

import bisect
import math
from dataclasses import dataclass
from operator import add, attrgetter, sub
from typing import Any, TypeVar

from dpet_jax.energy.probes.source import Source

_KEEP_S = 1200.0
_UNKNOWN_PERIOD_S = 1.0
#: So many times as long as usual without a move, and a counter has stopped.
_STOPPED = 10.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of a curve up to one moment; a difference of two describes a window.

    Attributes:
        energy_j: Joules.
        samples: Readings that gave a knot; a share of them where time was divided.
        gap_s: Seconds between readings that were too far apart.
        unmeasured_s: Seconds of which the energy is not known and not counted.
        variance_j2: Sum of the squared standard errors of the linear interpolation.
        sum_w: Sum of the power readings, and
        sum_w2: of their squares; 0 for counters.
        low_j: Joules under a model's lowest assumption, and
        high_j: under its highest; 0 for what is measured.
        over_power_j: Joules beyond the integral of another power reading, and
        over_counter_j: beyond what a counter that was contradicted has counted.
    """

    energy_j: float = 0.0
    samples: int | float = 0
    gap_s: float = 0.0
    unmeasured_s: float = 0.0
    variance_j2: float = 0.0
    sum_w: float = 0.0
    sum_w2: float = 0.0
    low_j: float = 0.0
    high_j: float = 0.0
    over_power_j: float = 0.0
    over_counter_j: float = 0.0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*map(add, _values(self), _values(other)))

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(*map(sub, _values(self), _values(other)))

    def __mul__(self, share: float) -> "Totals":
        return Totals(*(share * value for value in _values(self)))

    def values(self) -> list[float | int]:
        """Return the numbers in order, from which `Totals` is made again."""
        return list(_values(self))


# dataclasses.astuple copies deeply, which was most of the work of a reading
_values = attrgetter(*Totals.__slots__)

#: Whatever can be added, such as numbers or totals.
_T = TypeVar("_T", bound=Any)


def add_by_name(one: dict[str, _T], other: dict[str, _T]) -> dict[str, _T]:
    """Add two dictionaries, name by name; what only one of them has stays as it is."""
    return one | {
        name: one[name] + value if name in one else value
        for name, value in other.items()
    }


class Curve:
    """Cumulative energy of one source.

    Power is integrated by the trapezoid rule, which is the exact integral of the
    linear interpolant; counters are interpolated linearly. A reading that failed adds
    no knot: the next one bridges it. Energy that is not known (a counter that was
    reset) is never invented: it comes from `fill_j`, or the seconds are unmeasured.

    Args:
        source: What is read.
        max_gap_s: Seconds between two readings beyond which they count as a gap.
        keep_s: How far back `energy_j` can look.

    Attributes:
        step_j: Joules that a counter holds back until it moves; 0 while it was never
            seen to stand still for longer than its update period.
    """

    def __init__(
        self, source: Source, max_gap_s: float = 1.0, keep_s: float = _KEEP_S
    ) -> None:
        self.source = source
        self.totals = Totals()
        self.max_w = 0.0
        self._max_gap_s = max_gap_s
        self._keep_s = keep_s
        self._times: list[float] = []
        self._energies: list[float] = []
        self._values: list[float] = []
        self.step_j = 0.0
        self._began_t = self._moved_t = 0.0
        self._moves = self._stood = 0

    @property
    def first_t(self) -> float | None:
        """Time of the oldest knot that is kept."""
        return self._times[0] if self._times else None

    @property
    def last_t(self) -> float | None:
        """Time of the latest knot."""
        return self._times[-1] if self._times else None

    @property
    def moved(self) -> bool:
        """Whether a counter ever moved, or power was ever above zero."""
        return self._moves > 0 if self.source.kind == "counter" else self.max_w > 0

    @property
    def interval_s(self) -> float:
        """Seconds that usually pass between two moves of a counter."""
        seen_s = (self._moved_t - self._began_t) / max(1, self._moves)
        return max(self.source.update_period_s or 0.0, seen_s)

    def still_since(self, t: float) -> float | None:
        """Return since when a counter has stood still for too long; None if it runs.

        A counter that never moved has stood still from its first reading on.
        """
        if self.source.kind != "counter" or not self._times:
            return None
        usual_s = max(self._max_gap_s, _STOPPED * self.interval_s)
        stopped = not self._moves or t - self._moved_t > usual_s
        return self._moved_t if stopped else None

    def add(
        self, t: float, value: float | None, fill_j: float | None = None
    ) -> str | None:
        """Add a reading.

        Args:
            t: When it was taken, in seconds of a monotonic clock.
            value: Joules or watts; None if the reading failed.
            fill_j: What another source measured since the latest knot, in case this
                one does not know.

        Returns:
            The kind of anomaly: "read_failed", "implausible_power", "wrap",
            "counter_reset", "wrap_ambiguous" or "stalled"; None for an ordinary
            reading.
        """
        if value is None or not math.isfinite(value) or value < 0:
            return "read_failed"
        if self.source.kind == "power" and value > self.source.max_w:
            return "implausible_power"
        if not self._times:
            self._append(t, value, Totals(samples=1, **_moments(self.source, value)))
            return None
        dt = t - self._times[-1]
        if dt <= 0:
            # a reading at a window's edge overtook this one; both are true
            return None
        if self.source.kind == "power":
            change, event = self._trapezoid(dt, value), None
        else:
            change, event = self._count(t, value, fill_j)
        self._append(t, value, change)
        return event

    def energy_j(self, t: float) -> float:
        """Return the joules at some time between the oldest kept knot and the latest.

        Earlier and later times give the energy of the nearest knot: what has not been
        read is not counted yet.
        """
        times, energies = self._times, self._energies
        after = bisect.bisect_right(times, t)
        if after == 0:
            return energies[0] if energies else 0.0
        if after == len(times):
            return energies[-1]
        before = after - 1
        dt = times[after] - times[before]
        share = (t - times[before]) / dt
        if self.source.kind == "counter":
            return energies[before] + share * (energies[after] - energies[before])
        p0, p1 = self._values[before], self._values[after]
        return energies[before] + dt * share * (p0 + 0.5 * (p1 - p0) * share)

    def _trapezoid(self, dt: float, power: float) -> Totals:
        before = self._values[-1]
        # wherever between two readings the power changed, the error is at most this
        half_step_j = 0.5 * abs(power - before) * dt
        return Totals(
            energy_j=0.5 * (before + power) * dt,
            samples=1,
            gap_s=dt if dt > self._max_gap_s else 0.0,
            variance_j2=half_step_j**2 / 3,
            **_moments(self.source, power),
        )

    def _count(
        self, t: float, raw: float, fill_j: float | None
    ) -> tuple[Totals, str | None]:
        dt, change = t - self._times[-1], raw - self._values[-1]
        wrap_j = self.source.wrap_j
        # a counter that moves in steps may show at once what it held back so long
        step_s = self.source.update_period_s or _UNKNOWN_PERIOD_S
        most_j = self.source.max_w * (t - self._moved_t + step_s) + 1.0
        gap_s = dt if dt > self._max_gap_s else 0.0
        event = None
        if change < 0 and wrap_j and change + wrap_j <= most_j:
            change, event = change + wrap_j, "wrap"
        if not 0 <= change <= most_j:
            known = fill_j is not None
            return Totals(
                energy_j=fill_j or 0.0,
                samples=1,
                gap_s=gap_s,
                unmeasured_s=0.0 if known else dt,
            ), "counter_reset"
        if wrap_j and self.source.max_w * dt >= wrap_j:
            # it may have gone round once more: what is known is a lower bound
            return Totals(change, 1, gap_s, unmeasured_s=dt), "wrap_ambiguous"
        if change and self._has_stalled(t, change):
            lost_s = t - self._moved_t
            return Totals(change, 1, gap_s, unmeasured_s=lost_s), "stalled"
        held_s = t - self._moved_t
        if self._stood and held_s > 2 * (self.source.update_period_s or 0.0):
            self.step_j = max(self.step_j, change)
        return Totals(change, 1, gap_s), event

    def _has_stalled(self, t: float, change: float) -> bool:
        """Whether a counter that moves again has lost what was used meanwhile.

        One that only held it back moves by all of it at once.
        """
        if self._moves < 2 or self.still_since(t) is None:
            return False
        usual_w = self.totals.energy_j / (self._moved_t - self._began_t)
        return change / (t - self._moved_t) < usual_w / _STOPPED

    def _append(self, t: float, value: float, change: Totals) -> None:
        if self.source.kind == "power":
            self.max_w = max(self.max_w, value)
        if not self._values:
            self._began_t = self._moved_t = t
        elif value != self._values[-1]:
            self._moved_t, self._stood = t, 0
            self._moves += 1
        else:
            self._stood += 1
        self.totals += change
        self._times.append(t)
        self._energies.append(self.totals.energy_j)
        self._values.append(value)
        if t - self._times[0] > 2 * self._keep_s:
            old = bisect.bisect_right(self._times, t - self._keep_s) - 1
            del self._times[:old], self._energies[:old], self._values[:old]


def _moments(source: Source, value: float) -> dict[str, float]:
    if source.kind == "counter":
        return {}
    return {"sum_w": value, "sum_w2": value * value}
