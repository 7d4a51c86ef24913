"""The energy meter: named windows over sensors that are read at a steady pace."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dpet_jax.energy.accounts.ledger import (
    RESOLUTION_S,
    Edge,
    Frame,
    Ledger,
    Row,
    mean_watts,
)
from dpet_jax.energy.accounts.logbook import Logbook
from dpet_jax.energy.accounts.quantity import Energy
from dpet_jax.energy.accounts.state import (
    Accounts,
    Idle,
    Sampling,
    suspended_s,
    utc_now,
)
from dpet_jax.energy.probes.discover import discover
from dpet_jax.energy.probes.source import Found, Quality
from dpet_jax.energy.report.report import Report, build_report
from dpet_jax.energy.sensing.channel import CROSS_CHECK_S
from dpet_jax.energy.sensing.sampler import Clock, Ticks, reading_period_s
from dpet_jax.energy.sensing.sensors import Sensors
from dpet_jax.energy.window import Accelerator, Window

_ADMISSION_S = 0.6
#: Looks of so long, at most: the last begins when power that is averaged over a second
#: has forgotten what was before the first.
_LOOKS = 3
_JOURNAL_S = 1.0
_FACTS_S = 30.0


class NoSourceError(RuntimeError):
    """Energy must be measured, and this machine has no source of it."""


class EnergyMeter:
    """Measure what a program uses, by named window.

    Windows nest, in every thread apart. What no window claims is the phase "other", and
    what several threads claim at once is divided evenly among them, so that the phases
    add up to everything between start and stop. Nothing that goes wrong in a sensor
    raises: it is recorded, and the report says how well the energy is known.

    Args:
        found: What to read; by default all that `discover` finds.
        period_s: Seconds between readings, 0.02 to 5; by default 0.1 where counters
            are read and 0.05 where power is integrated.
        accelerator: How to wait for the device; may be replaced while no window is
            open.
        clock: Tells the time and reads the sensors at a steady pace; by default in a
            thread.
        strict: Refuse to start where nothing can be measured.

    Raises:
        ValueError: If the period is out of range, or two probes have one id.
        NoSourceError: If strict, and nothing can be measured.
    """

    def __init__(
        self,
        found: Found | None = None,
        *,
        period_s: float | None = None,
        accelerator: Accelerator | None = None,
        clock: Clock | None = None,
        strict: bool = False,
    ) -> None:
        found = discover() if found is None else found
        sources = [probe.sources[0] for probe in found.probes]
        self.period_s = reading_period_s(period_s, sources)
        self.accelerator = accelerator or Accelerator()
        self._clock = Clock() if clock is None else clock
        self.sensors = Sensors(
            found.probes, found.unavailable, self.period_s, self._clock
        )
        self._strict = strict
        self._earlier = Accounts()
        self._start_utc, self._suspended_s = utc_now(), suspended_s()
        self._lock = threading.RLock()
        self._ticks = Ticks(self.period_s, self._clock())
        self._tick_count = 0
        self._stop_ticks: Callable[[], None] = _do_nothing
        self._sampler_cpu_s = 0.0
        self._ledger: Ledger | None = None
        self._idle: Idle | None = None
        self._released = False
        self._logbook = Logbook(self.sensors.failed)
        self._end: Edge | None = None
        with self._closing_on_failure():
            self._check_source()

    # beginning and end

    def __enter__(self) -> "EnergyMeter":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> "EnergyMeter":
        """Look at the sensors for a moment, then begin to measure.

        If that is interrupted, the sensors are released and nothing is left behind; the
        meter cannot be started again.

        Raises:
            NoSourceError: If strict, and nothing can be measured.
            RuntimeError: If it failed to start before.
        """
        if self._ledger is None:
            if self._released:
                raise RuntimeError("the meter has released its sensors; make a new one")
            with self._closing_on_failure():
                self._begin()
        return self

    def _begin(self) -> None:
        self.sensors.ask_facts()
        self.sensors.read()
        if self.sensors.any_to_admit:
            for look in range(1, _LOOKS + 1):
                end = self._clock() + _ADMISSION_S
                while self._clock() < end:
                    self._clock.wait(self.period_s)
                    self.sensors.read()
                if self.sensors.admit(last=look == _LOOKS):
                    break
        self.sensors.read()
        self.sensors.begin()
        self._check_source()
        # not read again: what a counter gained since it began would be in no phase
        first = self._now()
        self._asked_facts = self._sampled = first.t
        self._ticks = Ticks(self.period_s, self._clock())
        self._ledger = Ledger(first, self.sensors.edge_j2)
        _live.add(self)
        self._stop_ticks = self._clock.every(self._ticks, self.read)

    @contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        """Release the sensors if what is done inside raises, or Ctrl-C ends it."""
        try:
            yield
        except BaseException:
            self._stop_ticks()
            self._ledger, self._released = None, True
            _live.discard(self)
            self.sensors.close()
            raise

    def stop(self) -> None:
        """End every measurement and release the sensors; again does nothing."""
        if self._end is not None or self._ledger is None:
            return
        self._stop_ticks()
        try:
            try:
                self._end = self._edge()
            finally:  # stopped also where Ctrl-C comes while a sensor is asked
                self._end = self._end or self._now()
                with self._lock:
                    self._ledger.turn(self._end)
            self._sample()
            self.sensors.ask_facts()
            self._note("end")
        finally:
            self.sensors.close()
            self._logbook.close()
            _live.discard(self)

    def resume(self, earlier: Accounts) -> None:
        """Go on from the accounts of earlier segments of the same run."""
        with self._lock:
            self._earlier = earlier
            present = self.accounts()
            self._logbook.begin(present)
            self._logbook.note("begin", present)

    def keep_journal(self, path: Path) -> None:
        """Keep the accounts in a file from now on; see `journal.read`.

        Raises:
            OSError: If the file cannot be written. Later failures are recorded in the
                report instead.
        """
        with self._lock:
            # first what came before this segment, so that the file adds up by itself
            self._logbook.keep(path, self._earlier)
            self._logbook.note("begin", self.accounts())

    @property
    def journal_lines(self) -> int:
        """Lines of the journal up to now; 0 without one."""
        return self._logbook.lines

    # windows

    @contextmanager
    def window(
        self,
        phase: str,
        label: str | None = None,
        *,
        index: int | None = None,
        sync: bool = True,
    ) -> Iterator[Window]:
        """Measure what is done inside.

        It begins and ends on an idle device: at its end the arrays given to `sync` are
        ready, or, without such a call, the device has finished everything.

        Args:
            phase: What is done: one of `PHASES`, or any other word.
            label: What it is a part of, such as "round 3"; by default that of the
                window around it.
            index: Number to put after the phase as the label.
            sync: False leaves the device alone; what it still does belongs to whatever
                comes next, and the window is marked.

        Raises:
            RuntimeError: If the meter does not run.
        """
        if self._ledger is None or self._end is not None:
            raise RuntimeError("the meter does not run; use it in a with statement")
        if index is not None:
            label = f"{phase} {index}"
        if sync:
            self.accelerator.barrier()
        checks = self.sensors.checks_j()
        edge = self._edge()
        with self._lock:
            frame = self._ledger.enter(phase, label, edge)
        window = Window(phase, frame.label, self.accelerator.block)
        try:
            yield window
            if sync and window.waited == "none":
                self.accelerator.barrier()
                window.waited = "barrier"
        finally:
            try:
                edge = self._edge()
            except BaseException:  # such as Ctrl-C while a sensor is asked
                self._close(window, frame, self._now())
                raise
            self._close(window, frame, edge)
            self.sensors.compare(checks, window.s)

    def _close(self, window: Window, frame: Frame, edge: Edge) -> None:
        with self._lock:
            assert self._ledger is not None
            window.s, used = self._ledger.leave(frame, edge, window.waited)
        window.resolution_limited = window.s < RESOLUTION_S
        window.energy = self._sensed().energy(
            Row(window.s, used), edges=True, checked=window.s >= CROSS_CHECK_S
        )
        self._note("window", phase=window.phase, label=window.label, s=window.s)

    def measure_idle(self, seconds: float = 10.0, settle_s: float = 2.0) -> None:
        """Do nothing for a while, in a window "idle", to know what that costs.

        Args:
            seconds: How long in all.
            settle_s: How much of it is left out at first, since averages look back a
                second; at most half of it is.

        Raises:
            ValueError: If `seconds` is not above 0.
        """
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds}; give a number above 0")
        settle_s = min(settle_s, seconds / 2)
        with self.window("idle"):
            self._clock.wait(settle_s)
            begin = self._edge()
            self._clock.wait(seconds - settle_s)
            end = self._edge()
        self._idle = Idle("measured", mean_watts(begin, end), end.t - begin.t)

    def read(self) -> None:
        """Read every sensor once, now.

        The clock calls this at every tick. Whatever goes wrong is recorded: the meter
        never stops what it measures.
        """
        began = time.thread_time()
        try:
            self.sensors.read()
            self._tick_count += 1
            now = self._clock()
            if now - self._asked_facts >= _FACTS_S:
                self._asked_facts = now
                self.sensors.ask_facts()
            if now - self._sampled >= _JOURNAL_S:
                self._sampled = now
                self._sample()
        except Exception as error:
            self.sensors.failed("sampler_failed", error)
        self._sampler_cpu_s += time.thread_time() - began

    # what is known at any time, without asking sensors or waiting for the device

    @property
    def quality(self) -> Quality:
        """The best quality at hand: measured, modelled or unavailable."""
        return self._known(()).quality

    @property
    def total_s(self) -> float:
        """Seconds of all phases together."""
        return self._known(()).total_s

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every phase, earlier segments included."""
        return self._known(()).seconds()

    def wh(self) -> dict[str, float] | None:
        """Return the gross Wh of every phase in the best quality, or None."""
        return self._known(()).wh()

    def energy(self, *, without: Collection[str] = ()) -> Energy:
        """Return the gross energy so far, with its interval.

        Args:
            without: Phases that are left out.
        """
        accounts = self._known(())
        rows = (row for name, row in accounts.phases.items() if name not in without)
        # inner edges cancel in the whole
        whole = replace(sum(rows, Row()), edge_j2={}, edges=0)
        return accounts.energy(whole, edges=True, checked=True)

    def accounts(self) -> Accounts:
        """Return everything known up to now, earlier segments included."""
        return self._known(None)

    def report(self) -> Report:
        """Return what is known up to now, with sources, intervals and reasons."""
        complete = self._end is not None
        with self._lock:
            return build_report(self.accounts(), self._logbook.trace, complete=complete)

    # inside

    def _check_source(self) -> None:
        if self._strict and not self.sensors.any_measured:
            reasons = [f"{e.component}: {e.reason}" for e in self.sensors.unavailable]
            raise NoSourceError("; ".join(reasons) or "no source is known")

    def _sensed(self) -> Accounts:
        """Return the channels of this segment, and no phases."""
        return Accounts(**self.sensors.record()._asdict())

    def _known(self, labels: Collection[str] | None) -> Accounts:
        """Return everything known up to now, with some labels or, for None, all.

        What is asked for often leaves labels out: a run may have thousands.
        """
        with self._lock:
            if self._ledger is not None and self._end is None:
                self._ledger.turn(self._now())
            earlier = self._earlier
            if labels is not None:
                known = {n: earlier.labels[n] for n in labels if n in earlier.labels}
                earlier = replace(earlier, labels=known)
            return earlier + self._present(labels)

    def _changed(self) -> Accounts:
        """Return what is known, with the labels that changed since the last call."""
        labels = set() if self._ledger is None else self._ledger.changed_labels()
        return self._known(labels)

    def _present(self, labels_asked: Collection[str] | None) -> Accounts:
        """Return the accounts of this segment as of the ledger's last edge."""
        phases, labels = (
            ({}, {}) if self._ledger is None else self._ledger.rows(labels_asked)
        )
        sensed = self._sensed()
        p50, p99 = self.sensors.tick_ms()
        return replace(
            sensed,
            segments=1,
            start_utc=self._start_utc,
            now_utc=utc_now(),
            suspended_s=round(suspended_s() - self._suspended_s, 2),
            phases=sensed.phases | phases,
            labels=labels,
            idle=self._idle,
            meter=Sampling(
                self.period_s,
                self._tick_count,
                self._ticks.missed,
                p50,
                p99,
                self._sampler_cpu_s,
            ),
        )

    def _now(self) -> Edge:
        """Return all sums as of now, without reading a sensor."""
        return Edge(self._clock(), self.sensors.totals(), self.accelerator.compile_s())

    def _edge(self) -> Edge:
        """Read every sensor now, unless it was just read; the time is taken last."""
        if self._end is not None:
            return self._end  # for a window that was open when the meter stopped
        self.sensors.read(unless_fresh=True)
        return self._now()

    def _sample(self) -> None:
        with self._lock:
            self._logbook.sample(self._changed())

    def _note(self, event: str, **values: Any) -> None:
        with self._lock:
            if self._logbook.lines:
                self._logbook.note(event, self._changed(), **values)

    def _after_fork(self) -> None:
        # files and sensors are the parent's; here no thread runs, and JAX would hang
        self._lock = threading.RLock()
        self._stop_ticks = _do_nothing
        self.accelerator = Accelerator(lambda _: None, lambda: None, float)
        self._logbook.close()
        self.sensors.after_fork()


def _do_nothing() -> None:
    pass


_live: "weakref.WeakSet[EnergyMeter]" = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [*map(EnergyMeter._after_fork, _live)])
