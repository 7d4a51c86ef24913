"""Run what a suite still lacks, and record which runs belong together."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.run.folder import CONFIG
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.profiling import Profiles
from dpet_jax.suite.dry_run import Estimate, estimate
from dpet_jax.suite.duration import Durations, Run, told
from dpet_jax.suite.executor import Ended, Executor, InTurn, run_job
from dpet_jax.suite.folder import State, SuiteFolder
from dpet_jax.suite.variants import Job, Suite, Variant
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.schedule import Cosine


class Outcome(NamedTuple):
    """How a comparison ended.

    Attributes:
        folder: Of the suite.
        finished: Whether every run has finished.
        any_finished: Whether there is one to report on.
        interrupted: Whether it was asked to stop; it goes on when started again.
        problems: What went wrong, a sentence each.
    """

    folder: Path
    finished: bool
    any_finished: bool
    interrupted: bool
    problems: tuple[str, ...]


class Planned(NamedTuple):
    """A run that there will be, and what it is expected to cost.

    Attributes:
        job: The run.
        state: Whether it is finished, begun or missing.
        epochs: Full-pass equivalents; None if its config does not fit the data.
        problem: Why not.
    """

    job: Job
    state: State
    epochs: float | None
    problem: str | None = None


class Comparing:
    """A suite in its folder, which can be planned and run.

    Args:
        suite: What to run.
        out: Parent of the suite's folder.
        console: Where to show progress.
        only: Names of the variants to plan and run, or of rows of a grid; by default
            all.
        interrupt: A flag of the caller's; by default signals are listened to.

    Attributes:
        folder: The suite's.
        problems: What went wrong so far.
        lacking: Those of them that say what data cannot be read.

    Raises:
        UserError: If the suite has no such variant, or a run in the folder was made
            with another config.
    """

    def __init__(
        self,
        suite: Suite,
        out: Path,
        console: Console,
        only: Sequence[str] = (),
        interrupt: Interrupt | None = None,
    ) -> None:
        self.suite = suite
        self._variants = _chosen(suite, only)
        self.folder = SuiteFolder(suite, out)
        self.problems = [*suite.problems]
        self.lacking: list[str] = []
        self._out = out
        self._console = console
        self._interrupt = interrupt or Interrupt()
        self._listens = interrupt is None
        self._data: dict[str, Data] = {}
        self._unreadable: dict[tuple[str, int, int], str] = {}
        self._read_s = 0.0
        self._estimates: dict[str, Estimate] = {}
        self._done_s = self._done_flops = 0.0
        self._counted: set[str] = set()
        self._failed: set[str] = set()
        for job in self.folder.every_job():
            config = self.folder.of(job) / CONFIG
            if config.exists():
                experiment.check_same_config(job.config, config)

    # planning

    def trials(self) -> list[Job]:
        """Return the runs that choose settings, one variant after another."""
        grown = self.folder.growth()
        return [job for variant in self._variants for job in variant.trials(grown)]

    def reported(self) -> list[Job]:
        """Return the runs to be reported, with the settings chosen so far.

        Every method has its first seed before any has its second. A variant that is
        not tuned yet has its most expensive setting alone.
        """
        return [
            job
            for seed in self.suite.section.seeds
            for variant in self._variants
            for job in variant.jobs(self._settings(variant), seed)
        ]

    def _settings(self, variant: Variant) -> list[str]:
        chosen = [one.setting for one in self.folder.answers(variant).values()]
        if chosen:
            return chosen
        settings = variant.settings
        configs = {name: setting.config for name, setting in settings.items()}
        dear = max(configs, key=lambda name: self._epochs_if_known(configs[name]))
        values = settings[dear].values
        return [variant.named(values, h) for h in variant.horizons] or [dear]

    def planned(self) -> Iterator[Planned]:
        """Yield every run that there will be, with its cost from counted FLOPs."""
        for job in (*self.trials(), *self.reported()):
            try:
                epochs, problem = self._epochs(job.config), None
            except UserError as error:
                epochs, problem = None, str(error)
            yield Planned(job, self.folder.state(job), epochs, problem)

    def _seconds_per_flop(self) -> float | None:
        for job in self.folder.every_job():
            if self.folder.state(job) == "finished":
                self._count(job)
        return self._done_s / self._done_flops if self._done_flops else None

    def plan_lines(
        self,
        *,
        measure: bool = False,
        started_s: float = 0.0,
        profiles: Profiles | None = None,
    ) -> Iterator[str]:
        """Yield what would be run, a line each, and how long that would take.

        What keeps runs from being run is said once, and noted in `problems`.

        Args:
            measure: Measure the networks that were not measured here before.
            started_s: Seconds that a process takes until it reads its data.
            profiles: What was measured here before; by default the user's cache.
        """
        yield from self.problems
        left, count = 0.0, 0
        runs: list[Run] = []
        impossible: dict[str, list[str]] = {}
        for one in self.planned():
            cost = "cannot be run" if one.problem else f"{one.epochs:8.2f} epochs"
            yield f"{_name(one.job):<54} {one.state:<9}{cost}"
            count += 1
            if one.state != "finished":
                left += one.epochs or 0.0
                config = one.job.config
                if one.problem is not None:
                    impossible.setdefault(one.problem, []).append(one.job.folder)
                else:
                    work = self._estimate(config)
                    runs.append(Run(config, self._data_of(config), work))
        for problem, folders in impossible.items():
            self.problems.append(f"{_and_more(folders)}: {problem}")
            yield self.problems[-1]
        to_do = count - sum(map(self._finished, (*self.trials(), *self.reported())))
        yield (
            f"{count} runs, {to_do} of them to do: {left:.1f} epochs of full-pass "
            "equivalents"
        )
        if runs:
            began = started_s + self._read_s
            kept = Profiles() if profiles is None else profiles
            found = Durations(runs, began, kept)
            flops = sum(run.work.flops for run in runs)
            yield from self._duration_lines(found, flops, measure=measure)
        if any(variant.tuned for variant in self._variants):
            yield (
                "until it is tuned, a row is planned with its most expensive setting "
                "alone; it may need one for each target"
            )

    def _finished(self, job: Job) -> bool:
        return self.folder.state(job) == "finished"

    def _duration_lines(
        self, found: Durations, flops: int, *, measure: bool
    ) -> Iterator[str]:
        """Yield how long the runs take, as well as that can be told at once."""
        seconds, pace = found.seconds(), self._seconds_per_flop()
        if seconds is None and pace is not None and not measure:
            yield (
                f"about {told(flops * pace)} here, by the finished runs' FLOPs, "
                "compiling aside"
            )
            return
        if seconds is None:
            rough = found.roughly()
            by = "" if measure else "; --measure tells it more closely, in a minute"
            if rough is not None:
                low, high, count = rough
                yield (
                    f"{told(low)} to {told(high)} of training here, by FLOPs, at the "
                    f"rates of {count} networks that were measured{by}"
                )
            elif not measure:
                yield (
                    "nothing like it was measured here, so that nobody knows how long "
                    "they take; --measure tells, in a minute"
                )
        if seconds is None and measure:
            found.measure()
            seconds = found.seconds()
        if seconds is not None:
            yield f"about {told(seconds)} here, as measured; the report comes after"

    def missing(self) -> list[Job]:
        """Return the trials that have not finished; if all have, the reported runs."""
        for wanted in (self.trials, self.reported):
            left = [job for job in wanted() if self.folder.state(job) != "finished"]
            if left:
                return left
        return []

    # running

    def each_data(self) -> dict[str, tuple[Config, Data]]:
        """Return every data set of the runs, and a config that asks for it.

        Raises:
            UserError: If one cannot be read.
        """
        configs = {
            job.config.data.model_dump_json(): job.config
            for job in (*self.trials(), *self.reported())
        }
        return {key: (one, self._data_of(one)) for key, one in configs.items()}

    def _look_at_data(self) -> None:
        """Read the data of what is left to run; say once what cannot be read."""
        jobs: dict[str, list[str]] = {}
        for job in (*self.trials(), *self.reported()):
            if self.folder.state(job) == "finished":
                continue
            key = _asked_of_data(job.config)
            if key not in self._unreadable:
                # all else the run meets again, and keeps its traceback
                with contextlib.suppress(Exception):
                    try:
                        self._data_of(job.config)
                    except UserError as error:
                        self._unreadable[key] = str(error)
            if key in self._unreadable:
                jobs.setdefault(self._unreadable[key], []).append(job.folder)
        for problem, folders in jobs.items():
            self.lacking.append(f"{_and_more(folders)}: not run: {problem}")
            self._console.out(self.lacking[-1], highlight=False)
        self.problems += self.lacking

    def run(
        self, *, minutes: float | None = None, executor: Executor | None = None
    ) -> Outcome:
        """Run everything that is missing, tuning first.

        A finished run is not repeated and a begun one is resumed. A run that fails is
        recorded as a problem, and the others are run all the same.

        Args:
            minutes: Stop after so long; started again, the suite goes on.
            executor: Where to run; by default here, one after another.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        flag, runs = self._interrupt, executor or InTurn(self.run_one)
        listening = flag.listening() if self._listens else contextlib.nullcontext()
        with listening, flag.after(minutes):
            self._look_at_data()
            ended = self._run_all(self.trials, runs) and self._run_all(
                self.reported, runs
            )
        any_finished = self.folder.write(self.problems)
        states = [self.folder.state(job) for job in (*self.trials(), *self.reported())]
        return Outcome(
            self.folder.path,
            all(state == "finished" for state in states),
            any_finished,
            not ended,
            tuple(dict.fromkeys(self.problems)),
        )

    def _run_all(self, wanted: Callable[[], Sequence[Job]], executor: Executor) -> bool:
        """Run some jobs; return False if that was interrupted."""
        seen: set[str] = set()
        # what is wanted may depend on how the first ones end
        while new := {j.folder: j for j in wanted() if j.folder not in seen}:
            seen |= {*new}
            for job in new.values():
                if self.folder.state(job) == "finished":
                    self._count(job)
                elif _asked_of_data(job.config) in self._unreadable:
                    self._failed.add(job.folder)
                else:
                    executor.submit(job)
            whole = True
            with contextlib.closing(executor.results(self._interrupt)) as results:
                for ended in results:
                    if ended.how == "interrupted":
                        whole = False
                        continue
                    self._note(new[ended.folder], ended)
                    self.folder.write(self.problems)
                    self._show_progress(new[ended.folder])
            if not whole:
                return False
        return True

    def run_one(self, job: Job, interrupt: Interrupt) -> Ended:
        """Run one job in this process, and record it nowhere but in its own folder."""
        # on a terminal a bar shows the run; a log gets one line when it is done
        inner = self._console if self._console.is_terminal else None
        return run_job(job, self._out, self._data_of, interrupt, console=inner)

    def run_alone(self, folder: str, *, minutes: float | None = None) -> Ended:
        """Run one job, for whoever runs the others; nothing else is written.

        Args:
            folder: Of the job, below the output folder.
            minutes: Stop after so long; started again, it goes on.

        Raises:
            UserError: If the suite has no such job.
        """
        for job in self.folder.every_job():
            if job.folder == folder:
                with self._interrupt.listening(), self._interrupt.after(minutes):
                    return self.run_one(job, self._interrupt)
        raise UserError(
            f"command line: --job: {folder!r} is no run of "
            f"{self.suite.section.name}; --print-slurm and --dry-run show them all"
        )

    def _note(self, job: Job, ended: Ended) -> None:
        if ended.error is not None:
            # a full disk, say, which the next run would meet too
            raise ended.error
        if ended.how == "failed":
            self._failed.add(job.folder)
            self.problems.append(f"{job.folder}: {ended.reason}")
        else:
            self._count(job)

    def _show_progress(self, job: Job) -> None:
        jobs = [*self.trials(), *self.reported()]
        left = [
            one
            for one in jobs
            if self.folder.state(one) != "finished" and one.folder not in self._failed
        ]
        place, name = f"[{len(jobs) - len(left):>3}/{len(jobs)}]", _name(job)
        if job.folder in self._failed:
            self._console.out(f"{place} {name}: {self.problems[-1]}", highlight=False)
            return
        summary = self.folder.read(job).summary
        test = summary["test_accuracy"]
        accuracy = "diverged" if test is None else f"test {test:.4f}"
        self._console.out(
            f"{place} {name:<22} {accuracy:<11}{summary['epochs']:8.2f} epochs"
            f"{summary['wall_s']:7.1f} s {self._left(left)}".rstrip(),
            highlight=False,
        )

    def _left(self, jobs: Sequence[Job]) -> str:
        if not jobs or not self._done_flops:
            return ""
        flops = 0
        for job in jobs:
            # one that does not fit its data takes no time
            with contextlib.suppress(UserError):
                flops += self._estimate(job.config).flops
        minutes = flops * self._done_s / self._done_flops / 60
        return f"{minutes:.0f} min left" if minutes >= 1 else "< 1 min left"

    def _count(self, job: Job) -> None:
        if job.folder in self._counted:
            return
        self._counted.add(job.folder)
        try:
            summary = self.folder.read(job).summary
        except UserError as error:
            self.problems.append(str(error))
            return
        self._done_s += summary["wall_s"] - summary["phases"]["compile"]["s"]
        self._done_flops += summary["flops"]

    def _epochs(self, config: Config) -> float:
        return self._estimate(config).epochs

    def _epochs_if_known(self, config: Config) -> float:
        # what cannot be run is said where it is to be run
        with contextlib.suppress(UserError):
            return self._epochs(config)
        return 0.0

    def _estimate(self, config: Config) -> Estimate:
        """Return what a run is expected to cost.

        Neither its seed nor how fast it learns matters to that.
        """
        any_pace = {"optimizer": Sgd(), "schedule": Cosine()}
        train = config.train.model_copy(update=any_pace)
        alike = {"seed": 0, "name": "any", "train": train}
        key = config.model_copy(update=alike).model_dump_json()
        if key not in self._estimates:
            self._estimates[key] = estimate(config, self._data_of(config))
        return self._estimates[key]

    def _data_of(self, config: Config) -> Data:
        key = config.data.model_dump_json()
        if key not in self._data:
            began = time.monotonic()
            self._data[key] = parts.build_data(config)
            self._read_s += time.monotonic() - began
        return self._data[key]


def _chosen(suite: Suite, only: Sequence[str]) -> tuple[Variant, ...]:
    for name in only:
        names = [variant.name for variant in suite.variants]
        rows = [variant.key for variant in suite.variants]
        if name not in (*names, *rows):
            # of a grid, whose rows may be many, those of the variant that was meant
            meant = name.partition("/")[0]
            inside = [row for row in rows if row.startswith(f"{meant}/")]
            known = inside if "/" in name and inside else dict.fromkeys(names)
            raise UserError(
                f"command line: --only: {name!r} is no variant of "
                f"{suite.section.name}; choose from {', '.join(known)}"
            )
    wanted = {*only}
    return tuple(v for v in suite.variants if not only or wanted & {v.name, v.key})


def _asked_of_data(config: Config) -> tuple[str, int, int]:
    """Return what decides whether a config's data can be read, and fit it."""
    train = config.train
    return config.data.model_dump_json(), train.batch_size, train.augment.translate


def _and_more(folders: Sequence[str]) -> str:
    first, *others = folders
    return f"{first} and {len(others)} more" if others else first


def _name(job: Job) -> str:
    what = f"tuning {job.variant}" if job.trial else job.variant
    return " ".join(filter(None, (what, job.setting, f"seed {job.config.seed}")))
