"""Measure what is not ours: any program from outside, any function from inside."""

import functools
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from dpet_jax.energy.meter import EnergyMeter
from dpet_jax.energy.report.report import Report, headline
from dpet_jax.energy.window import Window
from dpet_jax.errors import UserError

#: The phase of a program that is measured from outside.
COMMAND = "command"

#: What is handed on to the program.
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
#: What a terminal sends to the program as well, by itself.
_OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT)
#: What a shell adds to the number of the signal that ended a program.
_BY_SIGNAL = 128


class Measured(NamedTuple):
    """A program that has ended.

    Attributes:
        exit_code: Its own, or 128 and the number of the signal that ended it.
        report: The standard energy report, of which it is the phase `COMMAND`.
    """

    exit_code: int
    report: Report

    def lines(self) -> list[str]:
        """Return seconds and Wh by source, or why there are none, a line each."""
        data = self.report.data
        energy = data["energy"]
        lines = [
            f"{'seconds':<12}{data['phases'][COMMAND]['s']:.2f}",
            f"{'energy':<12}{headline(data)}",
        ]
        if energy["quality"] != "unavailable":
            lines += [
                f"{'':<12}{one['id']}: {one['wh']:.4g} Wh measured by {one['method']}"
                + ("" if one["counted"] else ", a part of another and not added")
                for one in energy["by_source"]
                # a model's Wh stands above, with its interval
                if one["quality"] == "measured"
            ]
            lines += [
                f"{'':<12}without {one['component']}: {one['reason']}; {one['remedy']}"
                for one in energy["unavailable"]
            ]
        return [*lines, *(f"{'warning':<12}{text}" for text in data["warnings"])]


def measure_command(command: Sequence[str], meter: EnergyMeter) -> Measured:
    """Run a program to its end, and measure meanwhile.

    It has this process' input and output. Signals that ask to end go to it, and what it
    makes of them is what happens; Ctrl-C in a terminal reaches it anyway. Whatever it
    starts itself is measured too, as everything else on the same sensors is.

    Args:
        command: The program and its arguments.
        meter: Not started yet; it is stopped at the end.

    Raises:
        UserError: If there is no such program.
    """
    with _Signals() as signals, meter:
        with meter.window(COMMAND):
            try:
                process = subprocess.Popen(command)
            except OSError as error:
                raise UserError(
                    f"{command[0]}: cannot be started ({error.strerror}); give the "
                    "program and its arguments after --"
                ) from error
            signals.hand_on_to(process)
            code = process.wait()
        meter.stop()
    report = meter.report()
    report.data["run_id"] = shlex.join(command)
    report.data["system"] |= {"os": platform.system()}
    return Measured(code if code >= 0 else _BY_SIGNAL - code, report)


class _Signals:
    """Hands signals on to a program while it runs, and takes none for this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        # Python delivers signals to the main thread alone
        if threading.current_thread() is threading.main_thread():
            for number in (*_FORWARDED, *_OF_TERMINALS):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hand_on_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Begin with what came before the program was there."""
        self._process = process
        for number in self._early:
            process.send_signal(number)

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._process is None:
            self._early.append(number)
        elif number in _FORWARDED or not _in_foreground():
            # a program that is gone already takes nothing
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _in_foreground() -> bool:
    """Return whether a terminal sends its signals to this process and its children."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


class MeasuredFunction:
    """A function whose calls are measured.

    Attributes:
        last: Seconds and energy of the last call; None before the first.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        meter: EnergyMeter,
        out: Path | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._meter, self._out = function, meter, out
        self._phase = getattr(function, "__name__", "call")
        self.last: Window | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; the measurement ends when the arrays it returns are there.

        Raises:
            OSError: If the report cannot be written.
        """
        self._meter.start()
        try:
            with self._meter.window(self._phase) as self.last:
                result = self._function(*args, **kwargs)
                if _holds_arrays(result):
                    self.last.sync(result)
            return result
        finally:
            if self._out is not None:
                self.report().write(self._out)

    def report(self) -> Report:
        """Return the energy report of all calls so far, and of the time between."""
        return self._meter.report()

    def stop(self) -> None:
        """End the measurement and release the sensors; later calls are refused."""
        self._meter.stop()


def measured(
    function: Callable[..., Any] | None = None,
    *,
    meter: EnergyMeter | None = None,
    out: Path | str | None = None,
) -> Any:
    """Measure the calls of a function, or a block of a program.

    `@measured` above a function gives a `MeasuredFunction`, and `with measured() as
    window:` the `Window` of the block, whose seconds and energy are known at its end.
    Where JAX is used, both end when the device has done its work.

    Args:
        function: What `@measured` stands above.
        meter: Not started yet; by default one of all that this machine can measure.
        out: Where the standard energy report is written: after each call, or at the
            end of the block.
    """
    path = None if out is None else Path(out)
    if function is not None:
        return MeasuredFunction(function, meter or EnergyMeter(), path)
    return _Measuring(meter, path)


class _Measuring:
    """`measured(...)`, before it is known what stands below it."""

    def __init__(self, meter: EnergyMeter | None, out: Path | None) -> None:
        self._meter, self._out = meter, out
        self._block: Any = None

    def __call__(self, function: Callable[..., Any]) -> MeasuredFunction:
        return MeasuredFunction(function, self._meter or EnergyMeter(), self._out)

    def __enter__(self) -> Window:
        self._block = _block(self._meter or EnergyMeter(), self._out)
        window: Window = self._block.__enter__()
        return window

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, trace)


@contextmanager
def _block(meter: EnergyMeter, out: Path | None) -> Iterator[Window]:
    try:
        with meter, meter.window("block") as window:
            yield window
    finally:
        if out is not None:
            meter.report().write(out)


def _holds_arrays(result: Any) -> bool:
    """Return whether JAX has to be waited for to have a result."""
    jax = sys.modules.get("jax")
    leaves = [] if jax is None else jax.tree.leaves(result)
    return any(hasattr(leaf, "block_until_ready") for leaf in leaves)
