"""What people watch: a live bar on a terminal, plain lines otherwise."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_QUIET_S = 10.0


class Display:
    """Show a run while it goes on.

    On a terminal a bar follows the current plan; elsewhere (a log file, a pipe) only
    lines appear, at the end of each plan and at most every ten seconds inside one.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last_line = time.monotonic()
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def line(self, text: str) -> None:
        """Print one line that stays."""
        self.console.out(text, highlight=False)
        self._last_line = time.monotonic()

    def begin_plan(self, label: str, visits: int, done: int) -> None:
        """Show that a plan begins, or goes on after `done` of its visits."""
        self._bar.start()
        self._task = self._bar.add_task(
            f"{label:<10}", total=visits, completed=done, note=""
        )

    def advance(self, done: int, loss: float, accuracy: float) -> None:
        """Show how far the plan is and how the last chunk went."""
        if self._task is not None:
            note = f"loss {loss:.3f}  accuracy {accuracy:.3f}"
            self._bar.update(self._task, completed=done, note=note)

    def evaluation(self, text: str, *, last: bool) -> None:
        """Print the last evaluation of a plan, and now and then one inside it."""
        quiet = time.monotonic() - self._last_line
        if last or quiet >= _QUIET_S:
            self.line(text)

    def end_plan(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._bar.stop()
