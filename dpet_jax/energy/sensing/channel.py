"""One component's energy: the best source that works counts, the others check it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Probe, Source
from dpet_jax.energy.sensing.curve import Curve, Totals

_FAILURES_TO_DEMOTE = 5
_SUSPECT_RATIO = 2.0
_CHECK_MIN_J = 1.0
_CLOCK_ROUNDING_S = 1e-9


class Sample(NamedTuple):
    """What a probe answered.

    Attributes:
        t: When, halfway between question and answer.
        took_s: How long the answer took.
        values: One for each source; None for one that failed.
        error: What the probe raised, if it did.
    """

    t: float
    took_s: float
    values: tuple[float | None, ...]
    error: str | None = None


def ask(probe: Probe, clock: Callable[[], float]) -> Sample:
    """Ask a probe for all its values; whatever it raises is a failed reading."""
    asked = clock()
    error = None
    try:
        values = tuple(None if x is None else float(x) for x in probe.read())
        if len(values) != len(probe.sources):
            raise ValueError(f"{len(values)} values of {len(probe.sources)} sources")
    except (Exception, SystemExit) as problem:  # some tools exit on a failed reading
        values = (None,) * len(probe.sources)
        error = f"{type(problem).__name__}: {problem}"
    answered = clock()
    return Sample((asked + answered) / 2, answered - asked, values, error)


class Channel:
    """The curves of one probe, and which of them counts.

    Args:
        probe: What is asked.
        max_gap_s: Seconds between two readings beyond which they count as a gap.

    Attributes:
        counted: Whether it is part of the total; a component inside another is not.
        events: How often what was remarkable.
    """

    def __init__(self, probe: Probe, max_gap_s: float = 1.0) -> None:
        self.probe = probe
        self.curves = [Curve(source, max_gap_s) for source in probe.sources]
        self.counted = True
        self.events: Counter[str] = Counter()
        self._max_gap_s = max_gap_s
        # power comes first: it fills in where a counter cannot tell
        self._order = sorted(
            range(len(self.curves)),
            key=lambda number: probe.sources[number].kind == "counter",
        )
        self._failures = [0] * len(self.curves)
        self._dead: set[int] = set()
        self._active = 0
        self._carried = Totals()
        self._begun_j = [0.0] * len(self.curves)
        self._answered_t = -math.inf

    @property
    def source(self) -> Source:
        """The source that counts."""
        return self.curves[self._active].source

    @property
    def max_w(self) -> float | None:
        """Highest power that any source reported; None if none reports power."""
        return max((curve.max_w for curve in self.curves), default=0.0) or None

    def add(self, sample: Sample) -> list[dict[str, Any]]:
        """Add what the probe answered.

        Two threads may ask at once. Which of two answers is the later one cannot be
        told then, and a counter must not seem to run backwards: the first one counts.

        Returns:
            What was remarkable and is worth a line in a record.
        """
        asked_t = sample.t - sample.took_s / 2
        if asked_t < self._answered_t - _CLOCK_ROUNDING_S:
            self.events["overtaken"] += 1
            return []
        self._answered_t = sample.t + sample.took_s / 2
        remarkable: list[dict[str, Any]] = []
        before_t = self.curves[self._active].last_t
        for number in self._order:
            curve, value = self.curves[number], sample.values[number]
            event = curve.add(sample.t, value, self._fill_j(number, sample.t))
            no_knot = event in ("read_failed", "implausible_power")
            self._failures[number] = self._failures[number] + 1 if no_knot else 0
            if event is not None:
                self.events[event] += 1
            if event not in (None, "read_failed", "wrap"):
                remarkable.append({"what": event, "source": curve.source.method})
        after_t = self.curves[self._active].last_t
        if before_t is not None and after_t is not None:
            gap_s = after_t - before_t
            if gap_s > self._max_gap_s:
                self.events["gap"] += 1
                remarkable.append({"what": "gap", "seconds": gap_s})
        if max(self._failures) >= _FAILURES_TO_DEMOTE:
            remarkable += self._demote_failing(sample.error)
        return remarkable

    def totals(self, now: float) -> Totals:
        """Return what the component has used, without a break where sources change."""
        total = self._carried + self.curves[self._active].totals
        if self.source.quality == "modelled":
            low_j, high_j = self._assumed_j(total.energy_j)
            total = replace(total, low_j=low_j, high_j=high_j)
        last = self.curves[self._active].last_t
        if last is not None and now - last > self._max_gap_s:
            # nothing has been heard since; if it speaks up again this is taken back
            silent = total.unmeasured_s + now - last
            total = replace(total, unmeasured_s=silent)
        return total

    def admit(self) -> str | None:
        """Compare the counter with power once both were read for a while.

        To be asked before anything relies on the energy. A counter that stands still,
        is off by more than a factor of two or shows more than the device can draw is
        not used.

        Returns:
            Why the counter was put aside, or None.
        """
        counter = self.curves[0]
        check = self._other(0)
        if counter.source.kind != "counter" or 0 in self._dead or check is None:
            return None
        counted, checked = counter.totals.energy_j, check.totals.energy_j
        idle = checked < _CHECK_MIN_J and counted < _CHECK_MIN_J
        agrees = checked / _SUSPECT_RATIO <= counted <= checked * _SUSPECT_RATIO
        # where it jumped, what it seems to have counted was filled in from power
        jumps = self.events["counter_reset"]
        if (idle or agrees) and not jumps:
            return None
        self._dead.add(0)
        self._active = self.curves.index(check)
        self.events["counter_suspect"] += 1
        reason = f"it counted {counted:.1f} J, power gives {checked:.1f}"
        if jumps:
            reason = f"it jumped {jumps} times by more than the device can draw"
        return f"counter_suspect: {reason}"

    def begin(self) -> None:
        """Count from here on; what was read before only served to look around."""
        self._carried = Totals() - self.curves[self._active].totals
        self._begun_j = [curve.totals.energy_j for curve in self.curves]

    def cross_check_j(self) -> float | None:
        """Return the joules of a second source, which count from any moment."""
        check = self._other(self._active)
        if check is None:
            return None
        return check.totals.energy_j

    def about(self) -> dict[str, Any]:
        """Describe the component and its sources."""
        return {
            "component": self.probe.component,
            "scope": self.probe.scope,
            "counted": self.counted,
            "active": self._active,
            "sources": [asdict(curve.source) for curve in self.curves],
        }

    def state(self, now: float) -> dict[str, Any]:
        """Describe the component, its sources and what they have added up."""
        return self.about() | {
            "sources": [
                asdict(curve.source)
                | {
                    "energy_j": self._since_begun_j(number),
                    "samples": curve.totals.samples,
                    "alive": number not in self._dead,
                }
                for number, curve in enumerate(self.curves)
            ],
            "totals": asdict(self.totals(now)),
            "max_w": self.max_w,
            "events": dict(self.events),
        }

    def _since_begun_j(self, number: int) -> float:
        return self.curves[number].totals.energy_j - self._begun_j[number]

    def _assumed_j(self, energy_j: float) -> tuple[float, float]:
        """Return low and high of a model: its other two sources, if it has any."""
        if len(self.curves) < 3:
            spread_j = self.source.rel_uncertainty * energy_j
            return energy_j - spread_j, energy_j + spread_j
        return self._since_begun_j(1), self._since_begun_j(2)

    def _fill_j(self, number: int, t: float) -> float | None:
        last = self.curves[number].last_t
        if self.curves[number].source.kind != "counter" or last is None:
            return None
        for other in self.curves:
            source = other.source
            known = source.kind == "power" and source.quality == "measured"
            if known and other.last_t == t:
                return other.energy_j(t) - other.energy_j(last)
        return None

    def _other(self, number: int) -> Curve | None:
        for other, curve in enumerate(self.curves):
            power = curve.source.kind == "power" and curve.source.quality == "measured"
            alive = other != number and other not in self._dead
            if alive and power and curve.totals.samples > 1:
                return curve
        return None

    def _demote_failing(self, error: str | None) -> list[dict[str, Any]]:
        """Give up sources that failed five times in a row, except the last one left."""
        remarkable = []
        for number, failures in enumerate(self._failures):
            alive = [
                other
                for other in range(len(self.curves))
                if other not in self._dead
                and other != number
                and self.curves[other].source.quality == "measured"
                and self._failures[other] < _FAILURES_TO_DEMOTE
            ]
            if failures < _FAILURES_TO_DEMOTE or number in self._dead or not alive:
                continue
            self._dead.add(number)
            if number == self._active:
                self._go_on_with(alive[0])
            self.events["demoted"] += 1
            remarkable.append(
                {
                    "what": "demoted",
                    "source": self.curves[number].source.method,
                    "error": error,
                }
            )
        return remarkable

    def _go_on_with(self, number: int) -> None:
        """Let another source count from where the present one was last heard."""
        old, new = self.curves[self._active], self.curves[number]
        last = old.last_t
        known_j = self._begun_j[number]
        if last is not None:
            known_j = max(known_j, new.energy_j(last))
        carried = self._carried + old.totals - new.totals
        self._carried = replace(
            carried,
            energy_j=self._carried.energy_j + old.totals.energy_j - known_j,
        )
        self._active = number


def edge_j2(source: Source, before_w: float, after_w: float) -> float:
    """Return the variance that one edge between two windows brings, in J².

    A counter is up to one period behind; an average looks one window back. An edge is
    one of the two of a window, and the bounds are taken as k=2.

    Args:
        source: What is read.
        before_w: Mean power of the window that ends.
        after_w: Mean power of the window that begins.
    """
    if source.kind == "counter":
        late_j = (source.update_period_s or 0.0) * 0.5 * (before_w + after_w)
        return late_j**2 / 8
    window_s = max(source.sensor_window_s or 0.0, source.update_period_s or 0.0)
    return (window_s * (after_w - before_w)) ** 2 / 4
