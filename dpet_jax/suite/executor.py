"""Where the runs of a suite are run: here, one after another, or elsewhere at once."""

import time
import traceback
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from rich.console import Console

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.errors import FolderInUseError, UserError
from dpet_jax.run import experiment
from dpet_jax.run.folder import CONFIG, SUMMARY
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite.variants import Job

#: What a failed run leaves in its folder.
ERROR = "error.txt"

_LOOK_S = 0.5


class Ended(NamedTuple):
    """How a job ended.

    Attributes:
        folder: Of the job, below the output folder.
        how: "interrupted" can be resumed; "failed" is every run that cannot be
            finished; "refused" by the system, as on a full disk, the next run would be
            too.
        reason: Why it failed, for people.
        error: What the system answered.
    """

    folder: str
    how: Literal["finished", "interrupted", "failed", "refused"]
    reason: str = ""
    error: OSError | None = None


@runtime_checkable
class Executor(Protocol):
    """Runs jobs, each in its folder below the output folder of a suite."""

    def submit(self, job: Job) -> None:
        """Take a job; `results` runs it."""
        ...

    def results(self, interrupt: Interrupt) -> Generator[Ended, None, None]:
        """Yield how every submitted job ends, once for each, in any order.

        Args:
            interrupt: Once it is requested no job is begun, those that run are left so
                that they can be resumed, and all of these end as interrupted.
        """
        ...


class InTurn:
    """Runs jobs in this process, one after another.

    Args:
        run: Runs one.
    """

    def __init__(self, run: Callable[[Job, Interrupt], Ended]) -> None:
        self._run = run
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Put a job behind the others."""
        self._waiting.append(job)

    def results(self, interrupt: Interrupt) -> Generator[Ended, None, None]:
        """Run the jobs, and yield how each ends."""
        while self._waiting:
            job = self._waiting.popleft()
            if interrupt.requested:
                yield Ended(job.folder, "interrupted")
            else:
                yield self._run(job, interrupt)


def run_job(
    job: Job,
    out: Path,
    data: Callable[[Config], Data],
    interrupt: Interrupt,
    *,
    console: Console | None = None,
    patience_s: float = 0.0,
) -> Ended:
    """Run a job in its folder, or go on with it; a finished one is left alone.

    Nothing is raised but what ends the process, so that one run that fails does not
    stop the others.

    Args:
        job: What to run.
        out: Parent of the folders of all runs.
        data: Gives what a config trains on.
        interrupt: Leaves the run so that it can be resumed.
        console: Where to show its progress; nowhere by default.
        patience_s: How long to wait where another process runs in its folder, as one
            on a machine that is about to be gone may for a while.
    """
    folder = out / job.folder
    until = time.monotonic() + patience_s
    while not interrupt.requested:
        if (folder / SUMMARY).exists():
            return Ended(job.folder, "finished")
        try:
            result = experiment.run(
                job.config,
                out,
                resume=(folder / CONFIG).exists(),
                console=console,
                data=data(job.config),
                interrupt=interrupt,
            )
        except OSError as error:
            return Ended(job.folder, "refused", error=error)
        except FolderInUseError as error:
            if time.monotonic() < until:
                time.sleep(_LOOK_S)
                continue
            return Ended(job.folder, "failed", f"not run: {error}")
        except UserError as error:
            return Ended(job.folder, "failed", f"not run: {error}")
        except Exception as error:
            # its traceback is kept
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
            return Ended(
                job.folder,
                "failed",
                f"failed: {described(error)} (see {ERROR} in its folder)",
            )
        if result.stopped_by == "interrupted":
            break
        (folder / ERROR).unlink(missing_ok=True)
        return Ended(job.folder, "finished")
    return Ended(job.folder, "interrupted")


def described(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
