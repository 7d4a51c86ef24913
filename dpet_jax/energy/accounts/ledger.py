"""Who used what: seconds and joules by phase and by label, from edge to edge."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dpet_jax.energy.sensing.curve import Totals

PHASES = ("compile", "data", "select", "train", "eval", "checkpoint", "idle", "other")
RESOLUTION_S = 1.0


class Edge(NamedTuple):
    """One moment at which all that is cumulative was read.

    Attributes:
        t: Seconds of the meter's clock.
        totals: By channel.
        compile_s: Seconds spent compiling since some moment.
    """

    t: float
    totals: dict[str, Totals]
    compile_s: float = 0.0


@dataclass
class Row:
    """What a phase or a label has used.

    Attributes:
        s: Seconds in which no inner window was open, and
        totals: what was used in them, by channel; these add up over phases.
        inclusive_s: Seconds with those of inner windows, and
        inclusive_j: the joules.
        count: Windows closed.
        short_s: Seconds of closed windows that were shorter than a second.
        compile_s: Seconds spent compiling.
        edge_j2: Variance from edges, by channel, in J².
        sync: How windows made sure that the device was idle when they closed.
    """

    s: float = 0.0
    totals: dict[str, Totals] = field(default_factory=dict)
    inclusive_s: float = 0.0
    inclusive_j: dict[str, float] = field(default_factory=dict)
    count: int = 0
    short_s: float = 0.0
    compile_s: float = 0.0
    edge_j2: dict[str, float] = field(default_factory=dict)
    sync: set[str] = field(default_factory=set)

    def spend(self, seconds: float, used: dict[str, Totals], compile_s: float) -> None:
        """Add what was used between two edges."""
        self.s += seconds
        self.compile_s += compile_s
        for channel, totals in used.items():
            self.totals[channel] = self.totals.get(channel, Totals()) + totals

    def include(self, seconds: float, used: dict[str, Totals]) -> None:
        """Add what a window used, its inner windows included."""
        self.inclusive_s += seconds
        joules = {channel: totals.energy_j for channel, totals in used.items()}
        _add_to(self.inclusive_j, joules)

    def copy(self) -> "Row":
        """Return a copy that later edges leave alone."""
        return Row.from_json(self.to_json())

    def add(self, other: "Row") -> None:
        """Add what an earlier segment of the same run used."""
        self.spend(other.s, other.totals, other.compile_s)
        self.inclusive_s += other.inclusive_s
        self.count += other.count
        self.short_s += other.short_s
        _add_to(self.inclusive_j, other.inclusive_j)
        _add_to(self.edge_j2, other.edge_j2)
        self.sync |= other.sync

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "s": self.s,
            "totals": {name: t.to_json() for name, t in self.totals.items()},
            "inclusive_s": self.inclusive_s,
            "inclusive_j": dict(self.inclusive_j),
            "count": self.count,
            "short_s": self.short_s,
            "compile_s": self.compile_s,
            "edge_j2": dict(self.edge_j2),
            "sync": sorted(self.sync),
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Row":
        """Rebuild what `to_json` returned."""
        totals = {name: Totals(*values) for name, values in plain["totals"].items()}
        return cls(
            **(
                plain
                | {
                    "totals": totals,
                    "inclusive_j": dict(plain["inclusive_j"]),
                    "edge_j2": dict(plain["edge_j2"]),
                    "sync": set(plain["sync"]),
                }
            )
        )


@dataclass
class Frame:
    """An open window.

    Attributes:
        phase: Its name.
        label: What it is a part of, such as "round 3"; None if of nothing.
        opened: The edge at which it began.
    """

    phase: str
    label: str | None
    opened: Edge


@dataclass
class _Stretch:
    """The time between two edges, at which the innermost window changed."""

    phase: str
    label: str | None
    s: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)

    def mean_w(self) -> dict[str, float]:
        return {channel: used / self.s for channel, used in self.joules.items()}


class Ledger:
    """Attribute everything between two edges to the innermost open window.

    What no window claims belongs to the phase "other", so that the phases always add
    up to the whole.

    Args:
        first: The edge at which the whole begins.
        edge_j2: Variance that an edge brings to a channel, from its name and the mean
            power before and after.
    """

    def __init__(
        self, first: Edge, edge_j2: Callable[[str, float, float], float]
    ) -> None:
        self.phases: dict[str, Row] = {}
        self.labels: dict[str, Row] = {}
        self._edge_j2 = edge_j2
        self._frames = [Frame("other", None, first)]
        self._last = first
        self._stretches: list[_Stretch] = []

    @property
    def open(self) -> tuple[str, str | None]:
        """Phase and label of the innermost window."""
        return self._frames[-1].phase, self._frames[-1].label

    def enter(self, phase: str, label: str | None, edge: Edge) -> Frame:
        """Open a window; without a label of its own it belongs to the outer one's."""
        self.turn(edge)
        frame = Frame(phase, label or self._frames[-1].label, edge)
        self._frames.append(frame)
        return frame

    def leave(self, edge: Edge, sync: str) -> tuple[float, dict[str, Totals]]:
        """Close the innermost window.

        Returns:
            Its seconds and what it used, inner windows included.
        """
        self.turn(edge)
        frame = self._frames.pop()
        seconds, used = edge.t - frame.opened.t, _since(frame.opened, edge)
        for rows, name, outer in (
            (self.phases, frame.phase, [f.phase for f in self._frames]),
            (self.labels, frame.label, [f.label for f in self._frames]),
        ):
            if name is None:
                continue
            row = rows.setdefault(name, Row())
            if rows is self.phases:
                row.count += 1
                row.sync.add(sync)
                row.short_s += seconds if seconds < RESOLUTION_S else 0.0
            if name not in outer:
                row.count += rows is self.labels
                row.include(seconds, used)
        return seconds, used

    def rows(self) -> tuple[dict[str, Row], dict[str, Row]]:
        """Return copies of the rows of phases and labels as of the last edge.

        Open windows are part of the inclusive sums as far as they have come, so that
        nothing is missing should the process end inside them.
        """
        phases = {name: row.copy() for name, row in self.phases.items()}
        labels = {name: row.copy() for name, row in self.labels.items()}
        self._settle_edge(phases, labels)
        for depth, frame in enumerate(self._frames[1:], start=1):
            used = _since(frame.opened, self._last)
            outer = self._frames[:depth]
            if frame.phase not in [f.phase for f in outer]:
                row = phases.setdefault(frame.phase, Row())
                row.include(self._last.t - frame.opened.t, used)
            if frame.label is not None and frame.label not in [f.label for f in outer]:
                row = labels.setdefault(frame.label, Row())
                row.include(self._last.t - frame.opened.t, used)
        return phases, labels

    def turn(self, edge: Edge) -> None:
        """Attribute what was used since the last edge."""
        seconds, used = edge.t - self._last.t, _since(self._last, edge)
        compile_s = edge.compile_s - self._last.compile_s
        phase, label = self.open
        rows = [self.phases.setdefault(phase, Row())]
        if label is not None:
            rows.append(self.labels.setdefault(label, Row()))
        for row in rows:
            row.spend(seconds, used, compile_s)
        self._last = edge
        if seconds > 0:
            self._stretch(phase, label, seconds, used)

    def _stretch(
        self, phase: str, label: str | None, seconds: float, used: dict[str, Totals]
    ) -> None:
        latest = self._stretches[-1:]
        if not latest or (latest[0].phase, latest[0].label) != (phase, label):
            self._settle_edge(self.phases, self.labels)
            latest = [_Stretch(phase, label)]
            self._stretches = self._stretches[-1:] + latest
        latest[0].s += seconds
        _add_to(latest[0].joules, {name: t.energy_j for name, t in used.items()})

    def _settle_edge(self, phases: dict[str, Row], labels: dict[str, Row]) -> None:
        """Tell both sides of the latest edge how uncertain it is.

        How much depends on the mean power up to the next one, hence so late: power
        over a moment would show the steps in which counters move.
        """
        if not self._stretches:
            return
        # before the very first edge there is nothing
        before_w, after_w = self._stretches[0].mean_w(), self._stretches[-1].mean_w()
        variance_j2 = {
            channel: self._edge_j2(channel, before_w.get(channel, power_w), power_w)
            for channel, power_w in after_w.items()
        }
        for rows, names in (
            (phases, [side.phase for side in self._stretches]),
            (labels, [side.label for side in self._stretches]),
        ):
            for name in names:
                # an edge inside a row cancels in its sum
                if name is not None and names.count(name) == 1:
                    _add_to(rows[name].edge_j2, variance_j2)


def mean_watts(begin: Edge, end: Edge) -> dict[str, float]:
    """Return the mean power between two edges, by channel.

    Channels that were silent for a tenth of it are left out: their power is not known,
    and not 0 either.
    """
    seconds = end.t - begin.t
    return {
        channel: used.energy_j / seconds
        for channel, used in _since(begin, end).items()
        if used.unmeasured_s < seconds / 10
    }


def _since(earlier: Edge, later: Edge) -> dict[str, Totals]:
    return {
        channel: totals - earlier.totals.get(channel, Totals())
        for channel, totals in later.totals.items()
    }


def _add_to(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
