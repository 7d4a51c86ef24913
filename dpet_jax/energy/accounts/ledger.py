"""Seconds and joules of every phase and label of a program."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dpet_jax.energy.sensing.curve import Totals, add_by_name

PHASES = ("compile", "data", "select", "train", "eval", "checkpoint", "idle", "other")
RESOLUTION_S = 1.0


class Edge(NamedTuple):
    """All cumulative quantities at one moment.

    Attributes:
        t: Seconds of the meter's clock.
        totals: By channel.
        compile_s: Seconds spent compiling since a fixed moment.
    """

    t: float
    totals: dict[str, Totals]
    compile_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """What a phase or a label has used; rows add up.

    Attributes:
        s: Seconds in which no inner window was open, and
        totals: what was used in them, by channel; these add up over phases.
        inclusive_s: Seconds with those of inner windows, and
        inclusive_j: the joules, by channel.
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
    sync: frozenset[str] = frozenset()

    def __add__(self, other: "Row") -> "Row":
        return Row(
            self.s + other.s,
            add_by_name(self.totals, other.totals),
            self.inclusive_s + other.inclusive_s,
            add_by_name(self.inclusive_j, other.inclusive_j),
            self.count + other.count,
            self.short_s + other.short_s,
            self.compile_s + other.compile_s,
            add_by_name(self.edge_j2, other.edge_j2),
            self.sync | other.sync,
        )


class Frame(NamedTuple):
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
    """The time between two edges at which the innermost window changed."""

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
        edge_j2: Returns the variance that an edge brings to a channel, from the
            channel's name and its mean power before and after.
    """

    def __init__(
        self, first: Edge, edge_j2: Callable[[str, float, float], float]
    ) -> None:
        self._phases: dict[str, Row] = {}
        self._labels: dict[str, Row] = {}
        self._edge_j2 = edge_j2
        self._frames = [Frame("other", None, first)]
        self._last = first
        self._stretches: list[_Stretch] = []

    @property
    def open(self) -> tuple[str, str | None]:
        """Phase and label of the innermost window."""
        return self._frames[-1].phase, self._frames[-1].label

    def enter(self, phase: str, label: str | None, edge: Edge) -> Frame:
        """Open a window; by default it has the label of the window around it."""
        self.turn(edge)
        frame = Frame(phase, label or self._frames[-1].label, edge)
        self._frames.append(frame)
        return frame

    def leave(self, edge: Edge, sync: str) -> tuple[float, dict[str, Totals]]:
        """Close the innermost window.

        Args:
            edge: Where it ends.
            sync: How it made sure that the device was idle.

        Returns:
            Its seconds and what it used, inner windows included.
        """
        self.turn(edge)
        frame = self._frames.pop()
        seconds, used = edge.t - frame.opened.t, _since(frame.opened, edge)
        short_s = seconds if seconds < RESOLUTION_S else 0.0
        closed = Row(count=1, short_s=short_s, sync=frozenset({sync}))
        _book(self._phases, frame.phase, closed)
        labels = [outer.label for outer in self._frames]
        if frame.label is not None and frame.label not in labels:
            _book(self._labels, frame.label, Row(count=1))
        _include(frame, self._frames, edge, self._phases, self._labels)
        return seconds, used

    def rows(self) -> tuple[dict[str, Row], dict[str, Row]]:
        """Return the rows of phases and of labels as of the last edge.

        Open windows are part of the inclusive sums as far as they have come, so that
        nothing is missing should the process end inside them.
        """
        phases, labels = dict(self._phases), dict(self._labels)
        self._settle_edge(phases, labels)
        for depth, frame in enumerate(self._frames[1:], start=1):
            _include(frame, self._frames[:depth], self._last, phases, labels)
        return phases, labels

    def turn(self, edge: Edge) -> None:
        """Attribute what was used since the last edge."""
        seconds, used = edge.t - self._last.t, _since(self._last, edge)
        spent = Row(seconds, used, compile_s=edge.compile_s - self._last.compile_s)
        phase, label = self.open
        _book(self._phases, phase, spent)
        if label is not None:
            _book(self._labels, label, spent)
        self._last = edge
        if seconds > 0:
            self._stretch(phase, label, seconds, used)

    def _stretch(
        self, phase: str, label: str | None, seconds: float, used: dict[str, Totals]
    ) -> None:
        latest = self._stretches[-1:]
        if not latest or (latest[0].phase, latest[0].label) != (phase, label):
            self._settle_edge(self._phases, self._labels)
            latest = [_Stretch(phase, label)]
            self._stretches = self._stretches[-1:] + latest
        joules = {name: totals.energy_j for name, totals in used.items()}
        latest[0].s += seconds
        latest[0].joules = add_by_name(latest[0].joules, joules)

    def _settle_edge(self, phases: dict[str, Row], labels: dict[str, Row]) -> None:
        """Add the uncertainty of the latest edge to both its sides.

        It depends on the mean power up to the next edge, hence so late: power over a
        moment would show the steps in which counters move.
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
                    _book(rows, name, Row(edge_j2=variance_j2))


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


def _include(
    frame: Frame,
    outer: list[Frame],
    edge: Edge,
    phases: dict[str, Row],
    labels: dict[str, Row],
) -> None:
    """Add a window to the inclusive sums, unless one of its name is around it."""
    joules = {name: t.energy_j for name, t in _since(frame.opened, edge).items()}
    whole = Row(inclusive_s=edge.t - frame.opened.t, inclusive_j=joules)
    for rows, name, names in (
        (phases, frame.phase, [other.phase for other in outer]),
        (labels, frame.label, [other.label for other in outer]),
    ):
        if name is not None and name not in names:
            _book(rows, name, whole)


def _book(rows: dict[str, Row], name: str, row: Row) -> None:
    rows[name] = rows.get(name, Row()) + row


def _since(earlier: Edge, later: Edge) -> dict[str, Totals]:
    return {
        channel: totals - earlier.totals.get(channel, Totals())
        for channel, totals in later.totals.items()
    }
