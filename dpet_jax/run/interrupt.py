"""SIGTERM and SIGINT as a flag, so that a run can save before it leaves."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What a program that was asked to stop, and can go on later, exits with (EX_TEMPFAIL).
EXIT_RESUMABLE = 75


class Interrupt:
    """Whether someone asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the first signal into the flag; a second one acts at once, as before.

        Outside the main thread, where Python delivers no signals, this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.getsignal(number)
            for number in (signal.SIGTERM, signal.SIGINT)
        }

        def give_back() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.requested = True
            give_back()

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            give_back()

    @contextmanager
    def after(self, minutes: int | float | None) -> Iterator[None]:
        """Raise the flag after some minutes, unless that is left before; None never."""
        if minutes is None:
            yield
            return

        def stop() -> None:
            self.requested = True

        timer = threading.Timer(60 * minutes, stop)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
