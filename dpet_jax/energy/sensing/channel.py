"""The energy of one component: its best source counts, the others check it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Probe, Quality, Source, as_number
from dpet_jax.energy.sensing.curve import Curve, Totals, add_by_name

#: Windows at least so long are compared with a second source.
CROSS_CHECK_S = 10.0

_FAILURES_TO_DEMOTE = 5
_SUSPECT_RATIO = 2.0
_CHECK_MIN_J = 1.0
_CLOCK_ROUNDING_S = 1e-9
#: A counter is compared with the power over so many seconds and readings at a time.
_STRETCH_S = 5.0
_STRETCH_READINGS = 20
#: How far the gains of counter and power may be apart.
_GAINS_REL = 0.2


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
        values = tuple(None if x is None else as_number(x) for x in probe.read())
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
        moved: Whether a counter ever moved, or power was ever above zero.
        step_j: Joules that a counter holds back until it moves.
    """

    source: Source
    energy_j: float = 0.0
    samples: int = 0
    alive: bool = True
    moved: bool = True
    step_j: float = 0.0


class Span(NamedTuple):
    """Which source the energy comes from, and from when on.

    Attributes:
        method: That of the source.
        from_s: Seconds of the run at which it began.
        why: Why the one before it was given up; empty for the first.
    """

    method: str
    from_s: float = 0.0
    why: str = ""


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
        spans: Which sources gave the energy, in order.
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
    spans: tuple[Span, ...] = ()

    @property
    def source(self) -> Source:
        """The source that counts."""
        return self.sources[self.active].source

    @property
    def step_j(self) -> float:
        """Joules that the source that counts holds back until it moves."""
        return self.sources[self.active].step_j

    @property
    def quality(self) -> Quality:
        """That of the source; a sensor that never moved has measured nothing."""
        one = self.sources[self.active]
        still = one.samples > 0 and not one.moved
        if one.source.quality == "measured" and still and not self.totals.energy_j:
            return "unavailable"
        return one.source.quality

    def after(self, earlier_s: float) -> "ChannelRecord":
        """Return the record as that of a segment before which some seconds passed."""
        spans = [span._replace(from_s=span.from_s + earlier_s) for span in self.spans]
        return replace(self, spans=tuple(spans))

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
                    moved=old.moved or new.moved,
                    step_j=max(old.step_j, new.step_j),
                )
                for old, new in zip(self.sources, sources, strict=True)
            )
        before, now = self.facts, later.facts
        spans = later.spans
        if self.spans and spans and self.spans[-1].method == spans[0].method:
            spans = spans[1:]  # it goes on with the same one
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
            spans=self.spans + spans,
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
        self._begun_t = -math.inf
        self._looked_j = [0.0 for _ in self.curves]
        self._spans = [Span(self.source.method)]
        # a counter that was given up for its rate: nobody knows which one is right
        self._rejected: int | None = None
        self._common: dict[int, _Common] = {}
        self._stretch: _Stretch | None = None
        self._contradiction: _Contradiction | None = None

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
        self._compare(sample.t)
        return anomalies + self._give_up_contradicted(sample.t)

    def totals(self, now: float) -> Totals:
        """Return what the component has used, without a break where sources change."""
        total = self._carried + self.curves[self._active].totals
        if self.source.quality == "modelled":
            low_j, high_j = self._assumed_j(total.energy_j)
            total = replace(total, low_j=low_j, high_j=high_j)
        active = self.curves[self._active]
        last, still = active.last_t, active.still_since(now)
        since = None if still is None else max(still, self._begun_t)
        if since is None and last is not None and now - last > self._max_gap_s:
            since = last
        if since is not None:
            # if a reading comes, or a move, these seconds are bridged after all
            silent = total.unmeasured_s + now - since
            total = replace(total, unmeasured_s=silent)
        return total

    def admit(self, *, last: bool = True) -> str | None:
        """Compare the counter with power once both were read for a while.

        Call it before anything relies on the energy. A counter that does not move, is
        off by more than a factor of two from every power, or shows more than the device
        can draw is not used; nor is power that is 0 W where another is not.

        Args:
            last: Whether the source is given up if the others contradict it. If not,
                the next call compares what is read from now on: power that is averaged
                over a second still holds a load that ended before the first reading.

        Returns:
            Why the first source is not to be used, or None.
        """
        reason = self._objection()
        if reason is None:
            return None
        if not last:
            self._looked_j = [curve.totals.energy_j for curve in self.curves]
            return reason
        check = self._checks(0)[0]
        self._dead.add(0)
        self._active = self.curves.index(check)
        if reason.startswith("counter_suspect"):
            self.events["counter_suspect"] += 1
        return reason

    def _objection(self) -> str | None:
        """Return what speaks against the first source in the look at hand, or None."""
        counter, checks = self.curves[0], self._checks(0)
        if 0 in self._dead or not checks or counter.source.quality != "measured":
            return None
        if counter.source.kind != "counter":
            if counter.moved:
                return None
            return "power_suspect: it gave 0 W, another source more"

        def seen_j(curve: Curve) -> float:
            return curve.totals.energy_j - self._looked_j[self.curves.index(curve)]

        def agrees(check: Curve) -> bool:
            checked = seen_j(check)
            if checked < _CHECK_MIN_J and counted < _CHECK_MIN_J:
                return True
            if _sees_a_part(check.source):
                return counted > 0
            return checked / _SUSPECT_RATIO <= counted <= checked * _SUSPECT_RATIO

        counted = seen_j(counter)
        # where it jumped, what it seems to have counted was filled in from power
        if jumps := self.events["counter_reset"]:
            reason = f"it jumped {jumps} times by more than the device can draw"
        elif any(agrees(check) for check in checks):
            return None
        else:
            reason = f"it counted {counted:.1f} J, power gives {seen_j(checks[0]):.1f}"
        return f"counter_suspect: {reason}"

    def begin(self) -> None:
        """Count from here on; what was read before was only a check."""
        active = self.curves[self._active]
        self._carried = Totals() - active.totals
        self._begun_j = [curve.totals.energy_j for curve in self.curves]
        self._begun_t = self._answered_t if active.last_t is None else active.last_t
        self._common, self._stretch, self._contradiction = {}, None, None
        self._spans = [Span(self.source.method)]

    def cross_check_j(self) -> float | None:
        """Return the joules of a second source, since any moment."""
        checks = self._checks(self._active)
        return checks[0].totals.energy_j if checks else None

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
                    int(curve.totals.samples),
                    number not in self._dead,
                    curve.moved,
                    curve.step_j,
                )
                for number, curve in enumerate(self.curves)
            ),
            self.totals(now),
            self.max_w,
            dict(self.events),
            facts,
            tuple(self._spans),
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

    def _checks(self, number: int) -> list[Curve]:
        """Return the power readings that another source is compared with.

        One that is known to sample a part of the time is asked where no other is: a
        load in step with it is misjudged.
        """
        powers = [
            curve
            for other, curve in enumerate(self.curves)
            if curve.source.kind == "power"
            and curve.source.quality == "measured"
            and other not in (number, *self._dead)
            and curve.totals.samples > 1
            and curve.moved  # what draws 0 W all the time is no check but a fault
        ]
        return [p for p in powers if not _sees_a_part(p.source)] or powers

    # a source against others

    def _compare(self, t: float) -> None:
        """Add by how much the energy exceeds what other sources give."""
        rivals = {}
        if checks := self._checks(self._active):
            rivals["over_power_j"] = self.curves.index(checks[0])
        if self._rejected is not None:
            rivals["over_counter_j"] = self._rejected
        active = self.curves[self._active]
        for name, number in rivals.items():
            rival = self.curves[number]
            if active.last_t != t or rival.last_t != t:
                continue
            now = _Common(
                t, self._active, active.totals.energy_j - rival.totals.energy_j
            )
            before, self._common[number] = self._common.get(number), now
            if (
                before is not None
                and before.active == now.active
                and t - before.t <= self._max_gap_s
            ):
                self._add_over(**{name: now.over_j - before.over_j})

    def _add_over(self, **over_j: float) -> None:
        self._carried += Totals(**over_j)

    def _give_up_contradicted(self, t: float) -> list[dict[str, Any]]:
        """Stop using a counter that power contradicts twice in a row."""
        counter = self.curves[self._active]
        checks = [self.curves.index(one) for one in self._checks(self._active)]
        asked = (self._active, *checks)
        read = all(self.curves[n].last_t == t for n in asked)
        if counter.source.kind != "counter" or not checks or not read:
            return []
        joules = {n: self.curves[n].totals.energy_j for n in asked}
        begun = self._stretch
        if (
            begun is None
            or begun.joules.keys() != joules.keys()
            or t - begun.last_t > self._max_gap_s
        ):
            self._stretch, self._contradiction = _Stretch(t, t, joules), None
            return []
        begun.last_t, begun.readings = t, begun.readings + 1
        seconds = max(_STRETCH_S, _STRETCH_S * counter.interval_s)
        if t - begun.t < seconds or begun.readings < _STRETCH_READINGS:
            return []
        self._stretch = _Stretch(t, t, joules)
        used = {n: joules[n] - begun.joules[n] for n in joules}
        signs = {
            _contradicts(
                used[self._active], used[n], self.curves[n].source, counter.step_j
            )
            for n in checks
        }
        sign = signs.pop() if len(signs) == 1 else 0  # one that agrees is enough
        before, self._contradiction = self._contradiction, None
        if not sign:
            return []
        if before is None or before.sign != sign:
            self._contradiction = _Contradiction(sign, begun.t)
            return []
        return [self._give_up_counter(t, before.since, checks[0])]

    def _give_up_counter(self, t: float, since: float, number: int) -> dict[str, Any]:
        """Let power count from where a counter began to be contradicted."""
        given_up, counter = self._active, self.curves[self._active]
        still = counter.still_since(t)
        since = max(self._begun_t, since if still is None else min(since, still))
        before_j = self.totals(t).energy_j
        why = "stood still" if still is not None else "was contradicted by power"
        self._dead.add(given_up)
        self._go_on_with(number, since, f"{counter.source.method} {why}")
        gained_j = self.totals(t).energy_j - before_j
        if still is None:
            self._rejected = given_up
            self._add_over(over_power_j=gained_j, over_counter_j=gained_j)
        else:
            self._add_over(over_power_j=gained_j)
        self._compare(t)
        self.events["contradicted"] += 1
        return {
            "what": "contradicted",
            "source": counter.source.method,
            "why": why,
            "instead": self.source.method,
            "from_s": self._spans[-1].from_s,
        }

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
                old = self.curves[number]
                since = self._answered_t if old.last_t is None else old.last_t
                self._go_on_with(alive[0], since, f"{old.source.method} failed")
            self.events["demoted"] += 1
            anomalies.append(
                {
                    "what": "demoted",
                    "source": self.curves[number].source.method,
                    "error": error,
                }
            )
        return anomalies

    def _go_on_with(self, number: int, since: float, why: str) -> None:
        """Let another source count from some moment on; the energy never falls."""
        old, new = self.curves[self._active], self.curves[number]
        known_j = self._begun_j[number]
        counted_j = old.totals.energy_j
        if old.last_t is not None:
            known_j = max(known_j, new.energy_j(since))
            # what it counted since then does not count, but cannot be taken back
            least_j = counted_j - new.totals.energy_j + known_j
            counted_j = max(old.energy_j(since), least_j)
        carried = self._carried + old.totals - new.totals
        self._carried = replace(
            carried, energy_j=self._carried.energy_j + counted_j - known_j
        )
        self._active = number
        from_s = max(0.0, since - self._begun_t) if self._begun_t > -math.inf else 0.0
        self._spans.append(Span(new.source.method, from_s, why))


class _Common(NamedTuple):
    """By how much one source exceeds another, up to a reading of both."""

    t: float
    active: int
    over_j: float


@dataclass
class _Stretch:
    """The time over which a counter is compared with the power."""

    t: float
    last_t: float
    joules: dict[int, float]
    readings: int = 0


class _Contradiction(NamedTuple):
    """That a counter counts less (-1) or more (1) than the power gives."""

    sign: int
    since: float


def _sees_a_part(source: Source) -> bool:
    """Whether a sensor is known to sample only a part of the time."""
    return bool(source.sensor_window_s) and source.coverage(0.0) < 1


def _contradicts(
    counted_j: float, checked_j: float, check: Source, step_j: float
) -> int:
    """Return -1 if a counter shows too little for the power, 1 if too much, else 0.

    Power that is sampled a part of the time only shows whether there was any.
    """
    slack_j = _CHECK_MIN_J + step_j
    low_j, high_j = checked_j / (1 + _GAINS_REL), checked_j / (1 - _GAINS_REL)
    if _sees_a_part(check):
        return -int(not counted_j and low_j > slack_j)
    return int(counted_j > high_j + slack_j) - int(counted_j < low_j - slack_j)


def edge_j2(
    source: Source, before_w: float, after_w: float, step_j: float = 0.0
) -> float:
    """Return the variance that one edge between two windows brings, in J².

    A counter is up to one period and one step behind; an average looks one window back.
    An edge is one of the two of a window, and the bounds are taken as k=2.

    Args:
        source: What is read.
        before_w: Mean power of the window that ends.
        after_w: Mean power of the window that begins.
        step_j: Joules that a counter holds back until it moves.
    """
    if source.kind == "counter":
        late_j = (source.update_period_s or 0.0) * 0.5 * (before_w + after_w)
        return (late_j**2 + step_j**2) / 8
    window_s = max(source.sensor_window_s or 0.0, source.update_period_s or 0.0)
    return (window_s * (after_w - before_w)) ** 2 / 4
