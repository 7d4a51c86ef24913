"""All probes of a meter together: read at once, without a lock held meanwhile."""

import statistics
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from dpet_jax.energy.probes.source import Probe, Unavailable
from dpet_jax.energy.sensing.channel import Channel, ask, edge_j2
from dpet_jax.energy.sensing.curve import Totals

_CROSS_CHECK_S = 10.0
_CROSS_CHECK_REL = 0.1
_MOST_EVENTS = 200

#: A component inside another: its energy is part of the other's and not added to it.
_INSIDE = {
    "module": {"node"},
    "gpu": {"node", "module"},
    "gpu_parent": {"node", "module"},
    "psys": {"node", "module"},
    "package": {"node", "module", "psys"},
    "dram": {"node", "module", "psys"},
}


class Sensors:
    """Every channel, and what was remarkable about reading them.

    Args:
        probes: What to read.
        unavailable: What cannot be read, and why.
        period_s: Seconds between readings.
        clock: Seconds, monotonic.

    Attributes:
        channels: By the id of their probe.
        unavailable: As given, and what was put aside later.
        event_counts: How often what happened.
    """

    def __init__(
        self,
        probes: tuple[Probe, ...],
        unavailable: tuple[Unavailable, ...],
        period_s: float,
        clock: Callable[[], float],
    ) -> None:
        gap_s = max(3 * period_s, 1.0)
        self.channels = {probe.id: Channel(probe, gap_s) for probe in probes}
        self._count_once()
        self.unavailable = list(unavailable)
        self.event_counts: Counter[str] = Counter()
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._latencies_s: deque[float] = deque(maxlen=1024)
        self._facts: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}

    def read(self) -> None:
        """Ask every probe and add what it answered; errors are recorded, not raised."""
        # the driver is asked without a lock, so that nobody waits for it
        samples = {
            name: ask(channel.probe, self._clock)
            for name, channel in self.channels.items()
        }
        with self._lock:
            for name, sample in samples.items():
                self._latencies_s.append(sample.took_s)
                if sample.error is not None:
                    self._errors[name] = sample.error
                if sample.took_s > self._period_s / 2:
                    self.event_counts["slow_read"] += 1
                for event in self.channels[name].add(sample):
                    self._note({"channel": name, **event})

    def admit(self) -> None:
        """Put counters aside that contradict the power; once, after a first moment."""
        for name, channel in self.channels.items():
            reason = channel.admit()
            if reason is not None:
                with self._lock:
                    self._note(
                        {"channel": name, "what": "counter_suspect", "reason": reason}
                    )

    def begin(self) -> None:
        """Count from here on; what has not said a word yet is put aside."""
        with self._lock:
            silent = {}
            for name, channel in list(self.channels.items()):
                if any(curve.totals.samples for curve in channel.curves):
                    channel.begin()
                else:
                    silent[name] = self.channels.pop(name)
            self._count_once()
        for name, channel in silent.items():
            error = self._errors.get(name)
            self.unavailable.append(
                Unavailable(
                    channel.probe.component,
                    f"{channel.source.method}: no reading came"
                    + (f" ({error})" if error else ""),
                    "look at the sensor with another tool",
                )
            )
            self._close(channel)

    def ask_facts(self) -> None:
        """Ask for what changes slowly; the first and the latest answers are kept."""
        for name, channel in self.channels.items():
            try:
                facts = dict(channel.probe.facts())
            except Exception as error:
                self.failed("facts_failed", error)
                continue
            known = self._facts.setdefault(name, {"first": facts, "shared": None})
            known["last"] = facts
            foreign = facts.get("foreign_processes")
            if foreign and not known["shared"]:
                with self._lock:
                    self._note({"channel": name, "what": "foreign_process"})
            # seen once is enough: the card was not ours alone
            known["shared"] = known["shared"] or foreign

    def totals(self) -> dict[str, Totals]:
        """Return what every channel has added up."""
        with self._lock:
            now = self._clock()
            return {name: c.totals(now) for name, c in self.channels.items()}

    def checks_j(self) -> dict[str, tuple[float, float]]:
        """Return the joules of every channel that has a second source, and that's."""
        with self._lock:
            pairs = {}
            for name, channel in self.channels.items():
                checked = channel.cross_check_j()
                if checked is not None:
                    counted = channel.totals(self._clock()).energy_j
                    pairs[name] = (counted, checked)
            return pairs

    def compare(self, before: dict[str, tuple[float, float]], seconds: float) -> None:
        """Note where two sources disagree by more than a tenth over a long window."""
        if seconds < _CROSS_CHECK_S:
            return
        for name, (counted, checked) in self.checks_j().items():
            counted_before, checked_before = before.get(name, (0.0, 0.0))
            counted, checked = counted - counted_before, checked - checked_before
            if abs(counted - checked) > _CROSS_CHECK_REL * checked:
                with self._lock:
                    self._note(
                        {
                            "channel": name,
                            "what": "sources_disagree",
                            "seconds": seconds,
                            "counted_j": counted,
                            "checked_j": checked,
                        }
                    )

    def edge_j2(self, name: str, before_w: float, after_w: float) -> float:
        """Return the variance that an edge brings to a channel, in J²."""
        channel = self.channels.get(name)
        return 0.0 if channel is None else edge_j2(channel.source, before_w, after_w)

    def failed(self, what: str, error: BaseException) -> None:
        """Note an error that must not stop the program."""
        with self._lock:
            self._note({"what": what, "error": f"{type(error).__name__}: {error}"})

    def state(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        with self._lock:
            now = self._clock()
            return {
                "channels": {
                    name: channel.state(now)
                    | {"facts": dict(self._facts.get(name, {}))}
                    for name, channel in self.channels.items()
                },
                "unavailable": [list(entry) for entry in self.unavailable],
                "events": {str(n): event for n, event in enumerate(self._events)},
                "event_counts": dict(self.event_counts),
            }

    def tick_ms(self) -> dict[str, float | None]:
        """Return how long probes took to answer of late, in milliseconds."""
        with self._lock:
            return _percentiles(self._latencies_s)

    def close(self) -> None:
        """Release every probe."""
        for channel in self.channels.values():
            self._close(channel)

    def after_fork(self) -> None:
        """Forget everything in a forked child: the sensors belong to the parent."""
        self._lock = threading.Lock()
        self.channels = {}

    def _count_once(self) -> None:
        for name, inside in _inside_others(self.channels).items():
            self.channels[name].counted = not inside

    def _close(self, channel: Channel) -> None:
        try:
            channel.probe.close()
        except Exception as error:
            self.failed("close_failed", error)

    def _note(self, event: dict[str, Any]) -> None:
        self.event_counts[event["what"]] += 1
        if len(self._events) < _MOST_EVENTS:
            self._events.append({"clock_s": self._clock(), **event})


def _inside_others(channels: dict[str, Channel]) -> dict[str, bool]:
    probes = {name: channel.probe for name, channel in channels.items()}
    scopes = {probe.scope for probe in probes.values() if _is_measured(probe)}
    return {
        name: _is_measured(probe) and bool(_INSIDE.get(probe.scope, set()) & scopes)
        for name, probe in probes.items()
    }


def _is_measured(probe: Probe) -> bool:
    return probe.sources[0].quality == "measured"


def _percentiles(values: deque[float]) -> dict[str, float | None]:
    if len(values) < 2:
        return {"p50": None, "p99": None}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": 1000 * cuts[49], "p99": 1000 * cuts[98]}
