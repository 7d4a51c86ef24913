"""All probes of a meter together; no lock is held while a probe is asked."""

import contextlib
import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Probe, Unavailable
from dpet_jax.energy.sensing.channel import (
    CROSS_CHECK_S,
    Channel,
    ChannelRecord,
    Facts,
    ask,
    edge_j2,
)
from dpet_jax.energy.sensing.curve import Totals

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


class SensorsRecord(NamedTuple):
    """All channels and anomalies, as of one moment.

    Attributes:
        channels: By the id of their probe.
        unavailable: What cannot be read, and why.
        events: Anomalies in order; only the first are kept.
        event_counts: Number of anomalies by kind.
    """

    channels: dict[str, ChannelRecord]
    unavailable: tuple[Unavailable, ...]
    events: tuple[dict[str, Any], ...]
    event_counts: dict[str, int]


class Sensors:
    """Every channel, and the anomalies in reading them.

    Args:
        probes: What to read.
        unavailable: What cannot be read, and why.
        period_s: Seconds between readings.
        clock: Seconds, monotonic.

    Raises:
        ValueError: If two probes have one id, so that one would be taken for the other.

    Attributes:
        channels: By the id of their probe.
        unavailable: As given, and what turned out not to answer.
        event_counts: Number of anomalies by kind.
    """

    def __init__(
        self,
        probes: tuple[Probe, ...],
        unavailable: tuple[Unavailable, ...],
        period_s: float,
        clock: Callable[[], float],
    ) -> None:
        twice = [id_ for id_, n in Counter(p.id for p in probes).items() if n > 1]
        if twice:
            raise ValueError(f"two meters are called {twice[0]!r}; name them apart")
        gap_s = max(3 * period_s, 1.0)
        self.channels = {probe.id: Channel(probe, gap_s) for probe in probes}
        self._count_once()
        self.unavailable = list(unavailable)
        self.event_counts: Counter[str] = Counter()
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._answered, self._answering_s = -math.inf, 0.0
        self._latencies_s: deque[float] = deque(maxlen=256)
        self._facts: dict[str, Facts] = {}
        self._errors: dict[str, str] = {}

    @property
    def any_measured(self) -> bool:
        """Whether a sensor is part of the total."""
        return any(
            channel.counted and channel.source.quality == "measured"
            for channel in self.channels.values()
        )

    @property
    def any_to_admit(self) -> bool:
        """Whether a moment's look can show that a source does not work."""
        return any(
            len(channel.curves) > 1 or channel.source.kind == "counter"
            for channel in self.channels.values()
        )

    def read(self, *, unless_fresh: bool = False) -> None:
        """Ask every probe and add what it answered; errors are recorded, not raised.

        Args:
            unless_fresh: Do nothing if the last answers are younger than the time that
                answering took, for new ones would be no closer to the moment at hand.
                NVML's counters take some milliseconds, at each end of a short window.
        """
        began = self._clock()
        if unless_fresh and began - self._answered < self._answering_s:
            return
        # the driver is asked without a lock, so that nobody waits for it
        samples = {
            name: ask(channel.probe, self._clock)
            for name, channel in self.channels.items()
        }
        self._answered = self._clock()
        self._answering_s = self._answered - began
        with self._lock:
            for name, sample in samples.items():
                self._latencies_s.append(sample.took_s)
                if sample.error is not None:
                    self._errors[name] = sample.error
                if sample.took_s > self._period_s / 2:
                    self.event_counts["slow_read"] += 1
                for event in self.channels[name].add(sample):
                    self._note({"channel": name, **event})

    def admit(self, *, last: bool = True) -> bool:
        """Stop using what other sources contradict, after a look at all.

        Args:
            last: Whether this look decides. If not, nothing is given up yet.

        Returns:
            Whether nothing was contradicted.
        """
        agreed = True
        for name, channel in self.channels.items():
            reason = channel.admit(last=last)
            if reason is None:
                continue
            agreed = False
            if last:
                with self._lock:
                    what = reason.partition(":")[0]
                    self._note({"channel": name, "what": what, "reason": reason})
        return agreed

    def begin(self) -> None:
        """Count from here on; probes that have not answered yet become unavailable."""
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
            known = self._facts.get(name, Facts())
            foreign = facts.get("foreign_processes")
            if foreign and not known.shared:
                with self._lock:
                    self._note({"channel": name, "what": "foreign_process"})
            self._facts[name] = Facts(
                facts if known.first is None else known.first,
                # seen once is enough: the card was not ours alone
                known.shared or foreign,
                facts,
            )

    def totals(self) -> dict[str, Totals]:
        """Return what every channel has added up."""
        with self._lock:
            now = self._clock()
            return {name: c.totals(now) for name, c in self.channels.items()}

    def checks_j(self) -> dict[str, tuple[float, float]]:
        """Return the joules of both sources, of every channel that has a second one."""
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
        if seconds < CROSS_CHECK_S:
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

    def record(self) -> SensorsRecord:
        """Return all channels and anomalies up to now."""
        with self._lock:
            now = self._clock()
            channels = {
                name: channel.record(now, self._facts.get(name, Facts()))
                for name, channel in self.channels.items()
            }
            still = [
                Unavailable(
                    channel.component,
                    f"{name}: {channel.source.method} has not moved",
                    "look at the sensor with another tool; one that counts in large "
                    "steps needs a longer run",
                )
                for name, channel in channels.items()
                if channel.quality == "unavailable"
            ]
            return SensorsRecord(
                channels,
                (*self.unavailable, *still),
                tuple(self._events),
                dict(self.event_counts),
            )

    def tick_ms(self) -> tuple[float | None, float | None]:
        """Return median and 99th percentile of how long probes took to answer.

        In milliseconds, of the latest answers; None before there are two.
        """
        with self._lock:
            took_s = sorted(self._latencies_s)
        if len(took_s) < 2:
            return None, None
        last = len(took_s) - 1
        return 1000 * took_s[last // 2], 1000 * took_s[round(0.99 * last)]

    def close(self) -> None:
        """Release every probe, also where one of them cannot be or Ctrl-C comes."""
        with contextlib.ExitStack() as stack:
            for channel in self.channels.values():
                stack.callback(self._close, channel)

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
