"""The meter: windows over all sensors at once, read by a thread while they are open."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from dpet_jax.energy.accounts.journal import State
from dpet_jax.energy.accounts.ledger import RESOLUTION_S, Edge, Ledger, Row, mean_watts
from dpet_jax.energy.accounts.logbook import Logbook
from dpet_jax.energy.accounts.state import (
    SCHEMA,
    combine,
    counted,
    empty_state,
    quality_of,
    seconds_by_phase,
    suspended_s,
    utc_now,
    wh_of,
)
from dpet_jax.energy.probes.discover import discover
from dpet_jax.energy.probes.source import JOULES_PER_WH, Found, Quality
from dpet_jax.energy.report.report import Report, build_report, row_energy
from dpet_jax.energy.sensing.sampler import Sampler, Ticks, reading_period_s
from dpet_jax.energy.sensing.sensors import Sensors
from dpet_jax.energy.window import Accelerator, Window

_ADMISSION_S = 0.6
_JOURNAL_S = 1.0
_FACTS_S = 30.0


class NoSourceError(RuntimeError):
    """Energy was asked for strictly, and this machine has no source of it."""


class EnergyMeter:
    """Measure what a program uses, by named window.

    Windows nest. What no window claims is the phase "other", so that the phases add up
    to everything between start and stop. Nothing that goes wrong in a sensor raises:
    it is recorded, and the report tells how well the energy is known.

    Args:
        found: What to read; by default all that `discover` finds.
        period_s: Seconds between readings, 0.02 to 5; by default 0.1 where counters
            are read and 0.05 where power is integrated.
        accelerator: How to wait for the device; may be replaced while no window is
            open.
        clock: Seconds, monotonic.
        sleep: Passes time instead of a thread that runs in it, for tests.
        strict: Refuse to start where nothing can be measured.

    Raises:
        ValueError: If the period is out of range.
        NoSourceError: If strict, and nothing can be measured.
    """

    def __init__(
        self,
        found: Found | None = None,
        *,
        period_s: float | None = None,
        accelerator: Accelerator | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
        strict: bool = False,
    ) -> None:
        found = discover() if found is None else found
        sources = [probe.sources[0] for probe in found.probes]
        self.period_s = reading_period_s(period_s, sources)
        self.accelerator = accelerator or Accelerator()
        self.sensors = Sensors(found.probes, found.unavailable, self.period_s, clock)
        self._clock, self._sleep, self._strict = clock, sleep, strict
        self._earlier = empty_state()
        self._start_utc, self._suspended_s = utc_now(), suspended_s()
        self._lock = threading.RLock()
        self._ticks = Ticks(self.period_s, clock())
        self._tick_count = 0
        self._sampler: Sampler | None = None
        self._sampler_cpu_s = 0.0
        self._ledger: Ledger | None = None
        self._idle: dict[str, Any] | None = None
        self._logbook = Logbook(self.sensors.failed)
        self._end: Edge | None = None
        self._insist()

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
        """Look at the sensors for a moment, then begin to measure."""
        if self._ledger is not None:
            return self
        self.sensors.ask_facts()
        self.sensors.read()
        if any(len(c.curves) > 1 for c in self.sensors.channels.values()):
            end = self._clock() + _ADMISSION_S
            while self._clock() < end:
                (self._sleep or time.sleep)(self.period_s)
                self.sensors.read()
            self.sensors.admit()
        self.sensors.read()
        self.sensors.begin()
        self._insist()
        # not read again: what a counter gained since it began would be in no phase
        first = Edge(self._clock(), self.sensors.totals(), self.accelerator.compile_s())
        self._ledger = Ledger(first, self.sensors.edge_j2)
        self._asked_facts = self._sampled = first.t
        self._ticks = Ticks(self.period_s, self._clock())
        if self._sleep is None:
            self._sampler = Sampler(self._tick, self._ticks, self._clock)
        _live.add(self)
        return self

    def stop(self) -> None:
        """End every measurement and release the sensors; again does nothing."""
        if self._end is not None or self._ledger is None:
            return
        if self._sampler is not None:
            self._sampler.stop()
        self._end = self._edge()
        with self._lock:
            self._ledger.turn(self._end)
        self._sample()
        self.sensors.ask_facts()
        self.sensors.close()
        self._note("end")
        self._logbook.close()
        _live.discard(self)

    def take_up(self, earlier: State) -> None:
        """Go on from the state of earlier segments of the same run."""
        with self._lock:
            self._earlier = earlier
            self._logbook.begin(self.state())

    def keep_journal(self, path: Path) -> None:
        """Keep the record in a file from now on; see `journal.read`.

        Raises:
            OSError: If the file cannot be written. Later failures are recorded in the
                report instead.
        """
        with self._lock:
            # first what came before this segment, so that the file adds up by itself
            self._logbook.keep(path, self._earlier)
            self._logbook.note("begin", self.state())

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
        there, or, without such a call, the device has finished everything.

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
            edge = self._edge()
            with self._lock:
                window.s, used = self._ledger.leave(edge, window.waited)
            window.resolution_limited = window.s < RESOLUTION_S
            window.energy = row_energy(
                Row(window.s, used), self.sensors.state(), edges=True
            )
            self.sensors.compare(checks, window.s)
            self._note("window", phase=phase, label=frame.label, s=window.s)

    def measure_idle(self, seconds: float = 10.0, settle_s: float = 2.0) -> None:
        """Do nothing for a while, in a window "idle", to know what that costs.

        Args:
            seconds: How long in all.
            settle_s: How much of it is left out at first: averages look back a second;
                at most half of it is.

        Raises:
            ValueError: If no time is to be spent.
        """
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds}; give a number above 0")
        settle_s = min(settle_s, seconds / 2)
        with self.window("idle"):
            self._pass(settle_s)
            begin = self._edge()
            self._pass(seconds - settle_s)
            end = self._edge()
        watts = mean_watts(begin, end)
        seconds = end.t - begin.t
        self._idle = {"method": "measured", "watts": watts, "seconds": seconds}

    # what is known at any time, without asking sensors or waiting for the device

    @property
    def quality(self) -> Quality:
        """The best quality at hand: measured, modelled or unavailable."""
        return quality_of({"channels": self._channels()})

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every phase, earlier segments included."""
        with self._lock:
            seconds = seconds_by_phase(self._earlier)
            for phase, row in self._rows().items():
                seconds[phase] = seconds.get(phase, 0.0) + row.s
        return seconds

    @property
    def total_s(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds().values())

    def wh(self) -> dict[str, float] | None:
        """Return the gross Wh of every phase in the best quality, or None."""
        channels = self._channels()
        quality = quality_of({"channels": channels})
        if quality == "unavailable":
            return None
        names = counted({"channels": channels}, quality)
        wh = wh_of(self._earlier["phases"], names)
        with self._lock:
            for phase, row in self._rows().items():
                joules = (t.energy_j for name, t in row.totals.items() if name in names)
                wh[phase] = wh.get(phase, 0.0) + sum(joules) / JOULES_PER_WH
        return wh

    def state(self) -> State:
        """Return everything known, as plain values, earlier segments included."""
        with self._lock:
            self._rows()
            return combine(self._earlier, self._present())

    def report(self) -> Report:
        """Return what is known up to now, with sources, intervals and reasons."""
        complete = self._end is not None
        with self._lock:
            return build_report(self.state(), self._logbook.trace, complete=complete)

    # inside

    def _insist(self) -> None:
        if self._strict and self.quality != "measured":
            reasons = [f"{e.component}: {e.reason}" for e in self.sensors.unavailable]
            raise NoSourceError("; ".join(reasons) or "no source is known")

    def _rows(self) -> dict[str, Row]:
        """Return the phases up to now, as far as the sensors were read."""
        if self._ledger is None:
            return {}
        if self._end is None:
            compile_s = self.accelerator.compile_s()
            edge = Edge(self._clock(), self.sensors.totals(), compile_s)
            self._ledger.turn(edge)
        return self._ledger.phases

    def _channels(self) -> State:
        present = {name: c.about() for name, c in self.sensors.channels.items()}
        return self._earlier["channels"] | present

    def _present(self) -> State:
        rows, labels = ({}, {}) if self._ledger is None else self._ledger.rows()
        sensors = self.sensors.state()
        tick_ms = self.sensors.tick_ms()
        return (
            empty_state()
            | sensors
            | {
                "schema": SCHEMA,
                "segments": 1,
                "start_utc": self._start_utc,
                "now_utc": utc_now(),
                "suspended_s": round(suspended_s() - self._suspended_s, 2),
                "phases": {name: row.to_json() for name, row in rows.items()},
                "labels": {name: row.to_json() for name, row in labels.items()},
                "idle": self._idle,
                "meter": {
                    "period_s": self.period_s,
                    "ticks": self._tick_count,
                    "missed_ticks": self._ticks.missed,
                    "tick_ms_p50": tick_ms["p50"],
                    "tick_ms_p99": tick_ms["p99"],
                    "cpu_s": self._sampler_cpu_s,
                    "clock": "monotonic",
                },
            }
        )

    def _edge(self) -> Edge:
        """Read every sensor now; the time is taken last."""
        if self._end is not None:
            return self._end  # for a window that was open when the meter stopped
        self.sensors.read()
        return Edge(self._clock(), self.sensors.totals(), self.accelerator.compile_s())

    def _pass(self, seconds: float) -> None:
        """Let time pass while the sensors are read."""
        if self._sleep is None:
            time.sleep(seconds)
            return
        end = self._clock() + seconds
        while self._clock() < end:
            self._sleep(min(self._ticks.wait_s(self._clock()), end - self._clock()))
            self._tick()

    def _tick(self) -> None:
        """Read every sensor once; called by the thread, and by tests instead of it."""
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
        except Exception as error:  # the meter never stops what it measures
            self.sensors.failed("sampler_failed", error)
        self._sampler_cpu_s += time.thread_time() - began

    def _sample(self) -> None:
        with self._lock:
            self._logbook.sample(self.state())

    def _note(self, event: str, **values: Any) -> None:
        with self._lock:
            if self._logbook.lines:
                self._logbook.note(event, self.state(), **values)

    def _after_fork(self) -> None:
        # files and sensors are the parent's; here no thread runs, and JAX would hang
        self._lock = threading.RLock()
        self._sampler = None
        self.accelerator = Accelerator(lambda _: None, lambda: None, float)
        self._logbook.close()
        self.sensors.after_fork()


_live: "weakref.WeakSet[EnergyMeter]" = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [*map(EnergyMeter._after_fork, _live)])
