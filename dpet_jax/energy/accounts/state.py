"""All that a meter knows of a run, as a record that adds up over segments.

Its JSON is kept in checkpoints and journals; the names of the keys stay as they are, so
that runs can be resumed and reported by later versions. A version that adds keys counts
the number of the schema up; earlier ones then refuse the file, and keys that an older
file lacks have their defaults.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

from dpet_jax.energy.accounts.ledger import PHASES, Row
from dpet_jax.energy.accounts.plain import PlainError, rebuild
from dpet_jax.energy.accounts.quantity import Energy, measured, modelled
from dpet_jax.energy.probes.source import JOULES_PER_WH, Quality, Source, Unavailable
from dpet_jax.energy.sensing.channel import ChannelRecord, Facts, edge_j2
from dpet_jax.energy.sensing.curve import Totals, add_by_name

SCHEMA = "dpet-jax/meter-state/2"
_READABLE = ("dpet-jax/meter-state/1", SCHEMA)


class Idle(NamedTuple):
    """What the machine draws when it does nothing.

    Attributes:
        method: "measured", "min_observed" (the least that was seen) or "none".
        watts: By channel.
        seconds: How long it was measured; None if it was not.
    """

    method: str
    watts: dict[str, float]
    seconds: float | None = None


class Lost(NamedTuple):
    """What crashes made the run do again; no part of its energy.

    Attributes:
        s: Seconds.
        wh: Watt-hours; None if unavailable.
        quality: That of the energy.
    """

    s: float = 0.0
    wh: float | None = None
    quality: Quality = "unavailable"


class Sampling(NamedTuple):
    """How the meter itself has worked.

    Attributes:
        period_s: Seconds between two readings.
        ticks: Readings of all sensors.
        missed_ticks: Readings left out because one before them took too long.
        tick_ms_p50: Median time that a probe took to answer, and
        tick_ms_p99: its 99th percentile; None if not known.
        cpu_s: CPU seconds of the readings.
        clock: Which clock gives the seconds.
    """

    period_s: float
    ticks: int = 0
    missed_ticks: int = 0
    tick_ms_p50: float | None = None
    tick_ms_p99: float | None = None
    cpu_s: float = 0.0
    clock: str = "monotonic"


def _no_phases() -> dict[str, Row]:
    return {phase: Row() for phase in PHASES}


@dataclass(frozen=True)
class Accounts:
    """The energy accounts of a run, or of one segment of it.

    Attributes:
        segments: Processes that have worked on the run.
        start_utc: When the first of them began; None before that.
        now_utc: When this record was made.
        suspended_s: Seconds that the machine has slept.
        phases: What each phase has used; together, all that was used.
        labels: What each label has used.
        channels: The components that are measured or modelled.
        unavailable: What cannot be measured.
        events: Anomalies in order, the first of each segment only.
        event_counts: Number of anomalies by kind.
        idle: The power of an idle machine, if it was measured.
        meter: How the meter has worked; None before it began.
        lost: What crashes made the run do again.
    """

    segments: int = 0
    start_utc: str | None = None
    now_utc: str | None = None
    suspended_s: float = 0.0
    phases: dict[str, Row] = field(default_factory=_no_phases)
    labels: dict[str, Row] = field(default_factory=dict)
    channels: dict[str, ChannelRecord] = field(default_factory=dict)
    unavailable: tuple[Unavailable, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    event_counts: dict[str, int] = field(default_factory=dict)
    idle: Idle | None = None
    meter: Sampling | None = None
    lost: Lost = field(default_factory=Lost)

    # what is in them

    @property
    def quality(self) -> Quality:
        """The best quality that counts: measured, modelled or unavailable."""
        found = {c.quality for c in self.channels.values() if c.counted}
        if "measured" in found:
            return "measured"
        return "modelled" if "modelled" in found else "unavailable"

    def counted(self, quality: Quality) -> list[str]:
        """Return the channels that add up to the energy of one quality."""
        return [
            name
            for name, channel in self.channels.items()
            if channel.counted and channel.quality == quality
        ]

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every phase."""
        return {name: row.s for name, row in self.phases.items()}

    @property
    def total_s(self) -> float:
        """Seconds of all phases together."""
        return sum(row.s for row in self.phases.values())

    def wh(self) -> dict[str, float] | None:
        """Return the gross Wh of every phase in the best quality, or None."""
        quality = self.quality
        return None if quality == "unavailable" else self._wh(self.counted(quality))

    def energy(
        self,
        row: Row,
        quality: Quality | None = None,
        *,
        edges: bool,
        checked: bool = False,
    ) -> Energy:
        """Turn what a phase, a label or a window used into an energy.

        Args:
            row: What was used.
            quality: Which; by default the best there is.
            edges: Whether the row is one stretch whose two edges are still to be
                counted.
            checked: Whether the interval reaches to what other sensors give. Averages
                lag, so that over short windows sensors differ by their nature.
        """
        quality = quality or self.quality
        names = self.counted(quality)
        if quality == "unavailable" or not names:
            reasons = tuple(f"{e.component}: {e.reason}" for e in self.unavailable)
            return Energy(None, "unavailable", reasons=reasons)
        if quality == "modelled":
            return modelled([(name, row.totals.get(name, Totals())) for name in names])
        parts = []
        for name in names:
            source, step_j = self.channels[name].source, self.channels[name].step_j
            totals = row.totals.get(name, Totals())
            # the first edge or the last, of the run itself, is not among them
            outer = 0 if edges else max(2, row.edges + row.edges % 2)
            variance_j2 = row.edge_j2.get(name, 0.0) + outer * step_j**2 / 8
            if edges and row.s > 0:
                mean_w = totals.energy_j / row.s
                variance_j2 += 2 * edge_j2(source, mean_w, mean_w, step_j)
            if not checked:
                totals = replace(totals, over_power_j=0.0, over_counter_j=0.0)
            parts.append((name, source, totals, row.s, variance_j2))
        return measured(parts)

    # how they add up

    def __add__(self, later: "Accounts") -> "Accounts":
        """Add the next segment of the same run."""
        meter = later.meter
        if meter is not None and self.meter is not None:
            meter = meter._replace(
                ticks=self.meter.ticks + meter.ticks,
                missed_ticks=self.meter.missed_ticks + meter.missed_ticks,
                cpu_s=self.meter.cpu_s + meter.cpu_s,
            )
        return Accounts(
            segments=self.segments + later.segments,
            start_utc=self.start_utc or later.start_utc,
            now_utc=later.now_utc,
            suspended_s=self.suspended_s + later.suspended_s,
            phases=add_by_name(self.phases, later.phases),
            labels=add_by_name(self.labels, later.labels),
            channels=self._add_channels(later),
            unavailable=later.unavailable,
            events=self.events + later.events,
            event_counts=add_by_name(self.event_counts, later.event_counts),
            idle=later.idle or self.idle,
            meter=meter,
            lost=self.lost,
        )

    def with_lost(self, crashed: "Accounts") -> "Accounts":
        """Return these accounts, of a checkpoint, with all that came later as lost.

        Args:
            crashed: The last that is known of the segment that crashed.
        """
        quality = crashed.quality
        names = crashed.counted(quality)
        lost_wh = None
        if quality != "unavailable":
            lost_wh = crashed.lost.wh or 0.0
            lost_wh += sum(crashed._wh(names).values())
            lost_wh -= sum(self._wh(names).values())
        lost_s = crashed.lost.s + crashed.total_s - self.total_s
        return replace(
            self,
            segments=crashed.segments,
            start_utc=crashed.start_utc,
            lost=Lost(lost_s, lost_wh, quality),
        )

    def beside(self, other: "Accounts", host: str = "") -> "Accounts":
        """Add what another process has measured at the same time; seconds stay these.

        Args:
            other: Its accounts.
            host: Name of its machine, put before its channels; empty for this machine,
                of which a channel that is here already is left out.
        """
        names = {name: f"{host}/{name}" if host else name for name in other.channels}
        names = {old: new for old, new in names.items() if new not in self.channels}

        def joined(here: dict[str, Row], there: dict[str, Row]) -> dict[str, Row]:
            return here | {
                name: here.get(name, Row()).beside(row, names)
                for name, row in there.items()
            }

        idle = self.idle
        if idle is not None and other.idle is not None:
            watts = _renamed(other.idle.watts, names)
            idle = idle._replace(watts=idle.watts | watts)
        place = f"{host}: " if host else ""
        unavailable = [
            one._replace(component=f"{place}{one.component}")
            for one in other.unavailable
        ]
        return replace(
            self,
            phases=joined(self.phases, other.phases),
            labels=joined(self.labels, other.labels),
            channels=self.channels | _renamed(other.channels, names),
            unavailable=(*self.unavailable, *(unavailable if host else ())),
            events=self.events + tuple({"host": host, **one} for one in other.events),
            event_counts=add_by_name(self.event_counts, other.event_counts),
            idle=idle,
        )

    def _wh(self, channels: list[str]) -> dict[str, float]:
        """Return the gross Wh of every phase, of some channels together."""
        return {
            name: sum(row.totals[c].energy_j for c in channels if c in row.totals)
            / JOULES_PER_WH
            for name, row in self.phases.items()
        }

    def _add_channels(self, later: "Accounts") -> dict[str, ChannelRecord]:
        channels = {}
        for name in {**self.channels, **later.channels}:
            before, now = self.channels.get(name), later.channels.get(name)
            if before is not None and now is not None:
                channels[name] = before + now.after(self.total_s)
            elif before is not None:
                channels[name] = before.unread(later.total_s)
            elif now is not None:
                channels[name] = now.after(self.total_s).unread(self.total_s)
        return channels

    # as plain data

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, with the keys that are on disk."""
        return {
            "schema": SCHEMA,
            "segments": self.segments,
            "start_utc": self.start_utc,
            "now_utc": self.now_utc,
            "suspended_s": self.suspended_s,
            "phases": {name: _row_to_json(row) for name, row in self.phases.items()},
            "labels": {name: _row_to_json(row) for name, row in self.labels.items()},
            "channels": {
                name: _channel_to_json(channel)
                for name, channel in self.channels.items()
            },
            "unavailable": [list(entry) for entry in self.unavailable],
            # by number, so that a journal's line holds only those that are new
            "events": {str(n): dict(event) for n, event in enumerate(self.events)},
            "event_counts": dict(self.event_counts),
            "idle": None if self.idle is None else self.idle._asdict(),
            "meter": {} if self.meter is None else self.meter._asdict(),
            "lost": self.lost._asdict(),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Accounts":
        """Rebuild what `to_json` returned.

        Raises:
            ValueError: If it is anything else; the message names the key.
        """
        schema = plain.get("schema")
        if schema not in _READABLE:
            raise PlainError(
                f"schema: is {schema!r}, and this version of dpet_jax reads "
                f"{' and '.join(_READABLE)}; use the version that wrote it"
            )
        try:
            known = {name: value for name, value in plain.items() if name != "schema"}
            known["events"] = list(plain["events"].values())
            known["meter"] = plain["meter"] or None
            known["channels"] = {
                name: {**one, "sources": [_apart(source) for source in one["sources"]]}
                for name, one in plain["channels"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise PlainError(f"no energy accounts: {error!r}") from error
        accounts: Accounts = rebuild(cls, known)
        for name, channel in accounts.channels.items():
            if not 0 <= channel.active < len(channel.sources):
                raise PlainError(f"channels.{name}.active: there is no such source")
        return accounts


def utc_now() -> str:
    """Return the time of day in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def suspended_s() -> float:
    """Return how long this machine has slept since it was started; 0 if not known."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(
        time.CLOCK_MONOTONIC
    )


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {new: values[old] for old, new in names.items() if old in values}


def _row_to_json(row: Row) -> dict[str, Any]:
    return {
        **vars(row),
        "totals": {name: totals.values() for name, totals in row.totals.items()},
        "inclusive_j": dict(row.inclusive_j),
        "edge_j2": dict(row.edge_j2),
        "sync": sorted(row.sync),
    }


def _channel_to_json(channel: ChannelRecord) -> dict[str, Any]:
    facts = channel.facts
    return {
        **vars(channel),
        "sources": [
            {
                **vars(one.source),
                "energy_j": one.energy_j,
                "samples": one.samples,
                "alive": one.alive,
                "moved": one.moved,
                "step_j": one.step_j,
            }
            for one in channel.sources
        ],
        "totals": asdict(channel.totals),
        "events": dict(channel.events),
        "facts": {} if facts == Facts() else facts._asdict(),
        "spans": [list(span) for span in channel.spans],
    }


def _apart(plain: dict[str, Any]) -> dict[str, Any]:
    """Part what a source is from what it has added up."""
    names = [one.name for one in fields(Source)]
    source = {name: plain[name] for name in names if name in plain}
    others = {name: value for name, value in plain.items() if name not in names}
    return {"source": source, **others}
