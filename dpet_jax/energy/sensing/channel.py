"""The energy of one component: its best source counts, the others check it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Probe, Source
from dpet_jax.energy.sensing.curve import Curve, Totals, add_by_name

_FAILURES_TO_DEMOTE = 5
_SUSPECT_RATIO = 2.0
_CHECK_MIN_J = 1.0
_CLOCK_ROUNDING_S = 1e-9


class Sample(NamedTuple):
    """One answer of a probe.

    Attributes:
        t: When, halfway between question and answer.
        took_s: How long the probe took to answer.
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


class SourceRecord(NamedTuple):
    """A source and what it has added up.

    Attributes:
        source: What is asked.
        energy_j: Joules since the meter began.
        samples: Its readings.
        alive: Whether it is still used.
    """

    source: Source
    energy_j: float = 0.0
    samples: int = 0
    alive: bool = True


class Facts(NamedTuple):
    """What a probe says about its component.

    Attributes:
        first: Its first answer; None if it never gave one.
        shared: Whether another process was ever seen on it; None if not known.
        last: Its latest answer.
    """

    first: dict[str, Any] | None = None
    shared: bool | None = None
    last: dict[str, Any] | None = None


@dataclass(frozen=True)
class ChannelRecord:
    """A component, its sources and what they have added up, as of one moment.

    Attributes:
        component: What is measured.
        scope: What its numbers cover.
        counted: Whether it is part of the total; a component inside another is not.
        active: Number of the source that counts.
        sources: All sources, best first.
        totals: What the component has used.
        max_w: Highest power that any source reported; None if none reports power.
        events: Number of anomalies by kind.
        facts: What the probe says about the component.
    """

    component: str
    scope: str
    counted: bool
    active: int
    sources: tuple[SourceRecord, ...]
    totals: Totals = field(default_factory=Totals)
    max_w: float | None = None
    events: dict[str, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)

    @property
    def source(self) -> Source:
        """The source that counts."""
        return self.sources[self.active].source

    def __add__(self, later: "ChannelRecord") -> "ChannelRecord":
        """Add what the same component has used in the next segment of a run."""
        sources = later.sources
        # a driver that was changed in between may offer other sources
        if [one.source.method for one in self.sources] == [
            one.source.method for one in sources
        ]:
            sources = tuple(
                new._replace(
                    energy_j=old.energy_j + new.energy_j,
                    samples=old.samples + new.samples,
                )
                for old, new in zip(self.sources, sources, strict=True)
            )
        before, now = self.facts, later.facts
        return replace(
            later,
            sources=sources,
            totals=self.totals + later.totals,
            max_w=max(self.max_w or 0.0, later.max_w or 0.0) or None,
            events=add_by_name(self.events, later.events),
            facts=Facts(
                now.first if before.first is None else before.first,
                before.shared or now.shared,
                now.last,
            ),
        )

    def unread(self, seconds: float) -> "ChannelRecord":
        """Add seconds in which the component was not read at all."""
        return replace(self, totals=self.totals + Totals(unmeasured_s=seconds))


class Channel:
    """The curves of one probe, and which of them counts.

    Args:
        probe: What is asked.
        max_gap_s: Seconds between two readings beyond which they count as a gap.

    Attributes:
        counted: Whether it is part of the total; a component inside another is not.
        events: Number of anomalies by kind.
    """

    def __init__(self, probe: Probe, max_gap_s: float = 1.0) -> None:
        self.probe = probe
        self.curves = [Curve(source, max_gap_s) for source in probe.sources]
        self.counted = True
        self.events: Counter[str] = Counter()
        self._max_gap_s = max_gap_s
        # power comes first: it fills in what a counter does not know
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
        """Add an answer of the probe.

        Two threads may ask at once. Then nobody knows which of two answers is the later
        one, and a counter must not seem to run backwards: the first one counts.

        Returns:
            The anomalies that are worth a line in a record.
        """
        asked_t = sample.t - sample.took_s / 2
        if asked_t < self._answered_t - _CLOCK_ROUNDING_S:
            self.events["overtaken"] += 1
            return []
        self._answered_t = sample.t + sample.took_s / 2
        anomalies: list[dict[str, Any]] = []
        before_t = self.curves[self._active].last_t
        for number in self._order:
            curve, value = self.curves[number], sample.values[number]
            event = curve.add(sample.t, value, self._fill_j(number, sample.t))
            no_knot = event in ("read_failed", "implausible_power")
            self._failures[number] = self._failures[number] + 1 if no_knot else 0
            if event is not None:
                self.events[event] += 1
            if event not in (None, "read_failed", "wrap"):
                anomalies.append({"what": event, "source": curve.source.method})
        after_t = self.curves[self._active].last_t
        if before_t is not None and after_t is not None:
            gap_s = after_t - before_t
            if gap_s > self._max_gap_s:
                self.events["gap"] += 1
                anomalies.append({"what": "gap", "seconds": gap_s})
        if max(self._failures) >= _FAILURES_TO_DEMOTE:
            anomalies += self._demote_failing(sample.error)
        return anomalies

    def totals(self, now: float) -> Totals:
        """Return what the component has used, without a break where sources change."""
        total = self._carried + self.curves[self._active].totals
        if self.source.quality == "modelled":
            low_j, high_j = self._assumed_j(total.energy_j)
            total = replace(total, low_j=low_j, high_j=high_j)
        last = self.curves[self._active].last_t
        if last is not None and now - last > self._max_gap_s:
            # no reading since; if one comes, these seconds are bridged after all
            silent = total.unmeasured_s + now - last
            total = replace(total, unmeasured_s=silent)
        return total

    def admit(self) -> str | None:
        """Compare the counter with power once both were read for a while.

        Call it before anything relies on the energy. A counter that does not move, is
        off by more than a factor of two or shows more than the device can draw is not
        used.

        Returns:
            Why the counter is not used, or None.
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
        """Count from here on; what was read before was only a check."""
        self._carried = Totals() - self.curves[self._active].totals
        self._begun_j = [curve.totals.energy_j for curve in self.curves]

    def cross_check_j(self) -> float | None:
        """Return the joules of a second source, since any moment."""
        check = self._other(self._active)
        if check is None:
            return None
        return check.totals.energy_j

    def record(self, now: float, facts: Facts) -> ChannelRecord:
        """Return the component, its sources and what they have added up.

        Args:
            now: The time, as of which a source may have been silent.
            facts: What the probe says about the component.
        """
        return ChannelRecord(
            self.probe.component,
            self.probe.scope,
            self.counted,
            self._active,
            tuple(
                SourceRecord(
                    curve.source,
                    self._since_begun_j(number),
                    curve.totals.samples,
                    number not in self._dead,
                )
                for number, curve in enumerate(self.curves)
            ),
            self.totals(now),
            self.max_w,
            dict(self.events),
            facts,
        )

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
        """Stop using sources that failed five times in a row, except the last one."""
        anomalies = []
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
            anomalies.append(
                {
                    "what": "demoted",
                    "source": self.curves[number].source.method,
                    "error": error,
                }
            )
        return anomalies

    def _go_on_with(self, number: int) -> None:
        """Let another source count from the last reading of the present one on."""
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
