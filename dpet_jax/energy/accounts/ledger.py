"""Seconds and joules of every phase and label of a program."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
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
        edges: Edges between this row and others.
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
    edges: int = 0

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
            self.edges + other.edges,
        )

    def beside(self, other: "Row", names: dict[str, str]) -> "Row":
        """Add what other channels used in the same time, by the names they get."""
        added = {}
        for key in ("totals", "inclusive_j", "edge_j2"):
            theirs = getattr(other, key)
            new = {names[name]: theirs[name] for name in theirs if name in names}
            added[key] = getattr(self, key) | new
        return replace(self, **added)

    def divided(self, by: int) -> "Row":
        """Return one of several equal parts of what was used."""
        totals = {name: one * (1 / by) for name, one in self.totals.items()}
        return Row(self.s / by, totals, compile_s=self.compile_s / by)


@dataclass(frozen=True, eq=False)
class Frame:
    """An open window.

    Attributes:
        phase: Its name.
        label: What it is a part of, such as "round 3"; None if of nothing.
        opened: The edge at which it began.
        thread: The thread that opened it.
    """

    phase: str
    label: str | None
    opened: Edge
    thread: int


#: Phase and label of everything that uses energy at one time; one for each thread.
_Owners = tuple[tuple[str, str | None], ...]


@dataclass
class _Stretch:
    """The time between two edges at which the innermost windows changed."""

    owners: _Owners
    s: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)

    def mean_w(self) -> dict[str, float]:
        return {channel: used / self.s for channel, used in self.joules.items()}


class _Names:
    """The rows of all phases, or of all labels, and how often each name is open."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self._changed: set[str] = set()
        self._open: dict[str, tuple[int, Edge]] = {}

    def book(self, name: str | None, row: Row) -> None:
        if name is not None:
            self.rows[name] = self.rows.get(name, Row()) + row
            self._changed.add(name)

    def enter(self, name: str | None, edge: Edge) -> None:
        if name is not None:
            count, opened = self._open.get(name, (0, edge))
            self._open[name] = count + 1, opened

    def leave(self, name: str | None, edge: Edge) -> None:
        """Close one window; the time of several of one name at once counts once."""
        if name is None:
            return
        count, opened = self._open.pop(name)
        if count > 1:
            self._open[name] = count - 1, opened
        else:
            self.book(name, _whole(opened, edge))

    def until(
        self, edge: Edge, names: Iterable[str] | None, pending: dict[str, Row]
    ) -> dict[str, Row]:
        """Return rows of some names, or of all, with what is still open or pending."""
        if names is None:
            names = self.rows | self._open | pending
        rows = {}
        for name in names:
            parts = [self.rows.get(name), pending.get(name)]
            if name in self._open:
                parts.append(_whole(self._open[name][1], edge))
            known = [part for part in parts if part is not None]
            if known:
                rows[name] = sum(known[1:], known[0])
        return rows

    def take_changed(self, pending: Iterable[str]) -> set[str]:
        """Return the names that have changed, with those that are open or pending."""
        changed, self._changed = self._changed, set()
        return changed.union(self._open, pending)


class Ledger:
    """Attribute everything between two edges to the innermost open window.

    What no window claims belongs to the phase "other", so that the phases always add
    up to the whole. Every thread has windows of its own; what is used while several
    threads have one open is divided evenly among their innermost windows, since nobody
    knows which of them used it. The inclusive sums hold it whole.

    Args:
        first: The edge at which the whole begins.
        edge_j2: Returns the variance that an edge brings to a channel, from the
            channel's name and its mean power before and after.
    """

    def __init__(
        self, first: Edge, edge_j2: Callable[[str, float, float], float]
    ) -> None:
        self._phases, self._labels = _Names(), _Names()
        self._edge_j2 = edge_j2
        self._stacks: dict[int, list[Frame]] = {}
        self._last = first
        self._stretches: list[_Stretch] = []

    @property
    def open(self) -> _Owners:
        """Phase and label of the innermost window of every thread that has one."""
        tops = [stack[-1] for stack in self._stacks.values()]
        return tuple((top.phase, top.label) for top in tops) or (("other", None),)

    def enter(self, phase: str, label: str | None, edge: Edge) -> Frame:
        """Open a window of this thread.

        By default it has the label of the window around it.
        """
        self.turn(edge)
        thread = threading.get_ident()
        stack = self._stacks.setdefault(thread, [])
        label = label or (stack[-1].label if stack else None)
        frame = Frame(phase, label, edge, thread)
        stack.append(frame)
        self._phases.enter(phase, edge)
        self._labels.enter(label, edge)
        return frame

    def leave(
        self, frame: Frame, edge: Edge, sync: str
    ) -> tuple[float, dict[str, Totals]]:
        """Close a window, also one inside which others are still open.

        Args:
            frame: What `enter` returned.
            edge: Where it ends.
            sync: How it made sure that the device was idle.

        Returns:
            Its seconds and what was used meanwhile, inner windows included.
        """
        self.turn(edge)
        stack = self._stacks[frame.thread]
        stack.remove(frame)
        if not stack:
            del self._stacks[frame.thread]
        seconds, used = edge.t - frame.opened.t, _since(frame.opened, edge)
        short_s = seconds if seconds < RESOLUTION_S else 0.0
        closed = Row(count=1, short_s=short_s, sync=frozenset({sync}))
        self._phases.book(frame.phase, closed)
        if frame.label not in [outer.label for outer in stack]:
            self._labels.book(frame.label, Row(count=1))
        self._phases.leave(frame.phase, edge)
        self._labels.leave(frame.label, edge)
        return seconds, used

    def rows(
        self, labels: Iterable[str] | None = None
    ) -> tuple[dict[str, Row], dict[str, Row]]:
        """Return the rows of phases and of labels as of the last edge.

        Open windows are part of the inclusive sums as far as they have come, so that
        nothing is missing should the process end inside them.

        Args:
            labels: Which labels' rows are asked for; None for all.
        """
        pending_phases, pending_labels = self._pending()
        return (
            self._phases.until(self._last, None, pending_phases),
            self._labels.until(self._last, labels, pending_labels),
        )

    def changed_labels(self) -> set[str]:
        """Return the labels whose rows have changed since this was last asked."""
        return self._labels.take_changed(self._pending()[1])

    def turn(self, edge: Edge) -> None:
        """Attribute what was used since the last edge."""
        seconds, used = edge.t - self._last.t, _since(self._last, edge)
        compile_s = edge.compile_s - self._last.compile_s
        owners = self.open
        spent = Row(seconds, used, compile_s=compile_s)
        if len(owners) > 1:
            spent = spent.divided(len(owners))
        for phase, label in owners:
            self._phases.book(phase, spent)
            self._labels.book(label, spent)
        self._last = edge
        if seconds > 0:
            self._stretch(owners, seconds, used)

    def _stretch(
        self, owners: _Owners, seconds: float, used: dict[str, Totals]
    ) -> None:
        latest = self._stretches[-1:]
        if not latest or latest[0].owners != owners:
            for names, pending in zip(
                (self._phases, self._labels), self._pending(), strict=True
            ):
                for name, row in pending.items():
                    names.book(name, row)
            latest = [_Stretch(owners)]
            self._stretches = self._stretches[-1:] + latest
        joules = {name: totals.energy_j for name, totals in used.items()}
        latest[0].s += seconds
        latest[0].joules = add_by_name(latest[0].joules, joules)

    def _pending(self) -> tuple[dict[str, Row], dict[str, Row]]:
        """Return what the latest edge adds to phases and labels on both its sides.

        Its uncertainty depends on the mean power up to the next edge, hence so late:
        power over a moment would show the steps in which counters move.
        """
        if not self._stretches:
            return {}, {}
        # before the very first edge there is nothing
        before_w, after_w = self._stretches[0].mean_w(), self._stretches[-1].mean_w()
        variance_j2 = {
            channel: self._edge_j2(channel, before_w.get(channel, power_w), power_w)
            for channel, power_w in after_w.items()
        }
        edge = Row(edge_j2=variance_j2, edges=1)
        before, after = self._stretches[0].owners, self._stretches[-1].owners
        if len(self._stretches) < 2:
            before = ()
        return _charged(before, after, 0, edge), _charged(before, after, 1, edge)


def _charged(before: _Owners, after: _Owners, part: int, edge: Row) -> dict[str, Row]:
    """Return an edge for each row whose share changes there; else it cancels."""
    first, second = _shares(before, part), _shares(after, part)
    return {
        name: edge
        for name in first | second
        if name is not None and first.get(name) != second.get(name)
    }


def _shares(owners: _Owners, part: int) -> dict[str | None, float]:
    names = [owner[part] for owner in owners]
    return {name: names.count(name) / len(names) for name in names}


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


def _whole(opened: Edge, edge: Edge) -> Row:
    """Return the inclusive sums between two edges."""
    joules = {name: t.energy_j for name, t in _since(opened, edge).items()}
    return Row(inclusive_s=edge.t - opened.t, inclusive_j=joules)


def _since(earlier: Edge, later: Edge) -> dict[str, Totals]:
    return {
        channel: totals - earlier.totals.get(channel, Totals())
        for channel, totals in later.totals.items()
    }
