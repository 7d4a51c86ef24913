"""Search for settings of a config: trials of optuna, each of them a metered run.

A folder holds the search: what is searched and how (tune.json), optuna's journal, a run
folder for each trial, a line for each time that a trial stopped (stops.jsonl), and
after each the table of all trials (trials.csv) and the best as a config (best.yaml).
Any number of processes may work on one folder at once, and one that is started again
goes on, first of all with the trials of those that are gone.

Trials are judged by validation accuracy at their end, or where they stop for a while.
Nothing here looks at test.
"""

import csv
import fcntl
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.data import Data
from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.files import JsonLines, csv_cell, read_json, write_whole
from dpet_jax.report.searches import STOPS, STUDY, Trial, read_stops
from dpet_jax.run import build, experiment
from dpet_jax.run.costs import WORK_PHASES
from dpet_jax.run.folder import CONFIG, ENERGY_REPORT, EVENTS, SUMMARY, read_events
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.base import Observed, Search
from dpet_jax.suite.searchers.brackets import described, filled, standing
from dpet_jax.suite.searchers.drawn import Tpe

TABLE, BEST = "trials.csv", "best.yaml"
_JOURNAL, _TRIALS = "journal.log", "trials"
_ASKING, _WRITING = ".asking", ".writing"


class Limits(NamedTuple):
    """When to stop, over all trials and all calls; None is no limit.

    Attributes:
        trials: How many to begin, and finish.
        epochs: Full-pass equivalents to spend, of selection and training.
        wh: Gross Wh to spend on them.
    """

    trials: int | None = None
    epochs: int | float | None = None
    wh: int | float | None = None


class Outcome(NamedTuple):
    """Where a search stands.

    Attributes:
        trials: That have ended, or stopped on their way, the best first.
        interrupted: Whether it was, so that there is more to do.
        best: The config of the best trial, on disk; None if none has ended well.
    """

    trials: tuple[Trial, ...]
    interrupted: bool
    best: Path | None


class _Job(NamedTuple):
    """What a worker does next.

    Attributes:
        number: Of the trial.
        stop: Which of the stops of its bracket it is to reach.
    """

    number: int
    stop: int


@dataclass
class Tuning:
    """A search for settings, in a folder.

    Args:
        config: Path of the config that trials vary.
        overrides: Of it, for every trial.
        axes: What is varied.
        out: Folder of the search.
        search: How the next setting is chosen.
        seed: Of the choice; trials train with the seed of the config.
        say: Shows a line.
        data: What all trials train on, where none of the axes varies it; by default it
            is read.

    Raises:
        UserError: If the config or one of the values is refused, if the folder holds
            another search, or if optuna is missing.
    """

    config: Path
    overrides: Sequence[str]
    axes: Sequence[Axis]
    out: Path
    search: Search = field(default_factory=Tpe)
    seed: int = 0
    say: Callable[[str], None] = print
    data: Data | None = None

    def __post_init__(self) -> None:
        self._optuna = _optuna()
        keys = [axis.key for axis in self.axes]
        if not keys:
            raise UserError("--vary: missing; name a key and its values, once or more")
        if len({*keys}) < len(keys):
            raise UserError(f"--vary: a key twice among {', '.join(keys)}")
        self._space = self.search.space(self.axes)
        first = {axis.key: axis.edges[0] for axis in self.axes}
        for axis in self.axes:
            for text in axis.edges:
                self._loaded(first | {axis.key: text})
        self._check_folder()

    def run(
        self,
        limits: Limits,
        *,
        minutes: int | float | None = None,
        interrupt: Interrupt | None = None,
    ) -> Outcome:
        """Finish the trials of workers that are gone, then new ones, up to a limit.

        Args:
            limits: When to stop.
            minutes: Stop after so long, trials in between; started again it goes on.
            interrupt: A flag of the caller's; by default signals are listened to.
        """
        asked = Interrupt() if interrupt is None else interrupt
        if (limits, minutes) == (Limits(), None):
            limits = Limits(trials=self.search.round_size)
        with ExitStack() as stack:
            if interrupt is None:
                stack.enter_context(asked.listening())
            stack.enter_context(asked.after(minutes))
            if (line := described(self.search)) is not None:
                self.say(f"{self.search.name}: {line}")
            while not asked.requested:
                with ExitStack() as held:
                    job = self._claim(limits, held)
                    if job is None:
                        break
                    if not self._run(job, asked):
                        break
        return self._outcome(interrupted=asked.requested)

    # one trial

    def _claim(self, limits: Limits, held: ExitStack) -> _Job | None:
        """Return what is this worker's to do from now on; None if there is nothing."""
        with _locked(self.out / _ASKING, wait=True):
            study = self._study()
            known = study.get_trials(deepcopy=False)
            stops = self._stops(known)
            spent = self._spent(limits, [trial[-1] for trial in stops if trial])
            for job in self._due(study, known, stops):
                # what was begun is finished; to promote one, there must be means
                if job.stop and spent:
                    continue
                # else its worker is on it; if that is gone, so is its lock
                if held.enter_context(_locked(self._lock(job.number))):
                    return job
            points = self.search.points(self._space)
            most = [n for n in (points, limits.trials) if n is not None]
            if spent or any(len(known) >= n for n in most):
                return None
            past = self._past(known, stops)
            study = self._study(len(known))
            trial = ask(study, self.search, self._space, past, self.seed)
            if not held.enter_context(_locked(self._lock(trial.number))):
                raise UserError(
                    f"{self._lock(trial.number)}: is locked by another program; use "
                    "another --out"
                )
            return _Job(int(trial.number), 0)

    def _due(
        self, study: Any, known: Sequence[Any], stops: Sequence[Sequence[Trial]]
    ) -> list[_Job]:
        """Return how far which trials are to go that are not there yet.

        Those that are out are closed in optuna's journal.
        """
        state = self._optuna.trial.TrialState
        due, first = [], 0
        while first < len(known):
            bracket = self.search.bracket(first)
            after = min(first + bracket.sizes[0], len(known))
            reached = [
                filled(
                    bracket,
                    [stop.accuracy for stop in stops[number]],
                    ended=bool(stops[number]) and stops[number][-1].ended,
                )
                for number in range(first, after)
            ]
            goals, out = standing(bracket, reached)
            for place, goal in enumerate(goals):
                if len(reached[place]) <= goal:
                    due.append(_Job(first + place, goal))
            for place in out:
                if not known[first + place].state.is_finished():
                    study.tell(first + place, state=state.PRUNED)
            first = after
        return due

    def _past(
        self, known: Sequence[Any], stops: Sequence[Sequence[Trial]]
    ) -> list[Observed]:
        """Return what was tried, and its cost: Wh if measured of all, or FLOPs."""
        ended = [trial[-1] for trial in stops if trial]
        by_wh = all(_measured_wh(trial) is not None for trial in ended)
        past = []
        for trial, found in zip(known, stops, strict=True):
            accuracy, cost = None, None
            if found:
                accuracy = found[-1].accuracy
                cost = found[-1].wh if by_wh else float(found[-1].flops)
            past.append(Observed(dict(trial.params), accuracy, cost))
        return past

    def _run(self, job: _Job, interrupt: Interrupt) -> bool:
        """Run a trial to a stop, and write it down; False if it was interrupted."""
        number, study = job.number, self._study()
        known = study.get_trials(deepcopy=False)[number]
        values = self._values(known.params)
        config = self._config(values, _name(number))
        folder = experiment.run_folder(config, self.out / _TRIALS)
        share = self.search.bracket(number).shares[job.stop]
        result = experiment.run(
            config,
            self.out / _TRIALS,
            resume=(folder / CONFIG).exists(),
            data=self._data_of(config),
            interrupt=interrupt,
            until=share if share < 1 else None,
        )
        if result.stopped_by == "interrupted":
            return False
        trial = self._at_stop(number, values, folder, share)
        if trial.accuracy is None and trial.stopped_by != "diverged":
            raise UserError(
                f"{self.config}: leaves no validation examples to judge trials by; "
                "give data.validation_fraction a share above 0"
            )
        with _locked(self.out / _ASKING, wait=True):
            self._write_stop(trial)
            self._tell(study, trial)
            self._write(self._trials())
        self.say(_line(trial))
        return True

    def _tell(self, study: Any, trial: Trial) -> None:
        """Tell optuna of a trial that has ended."""
        if not trial.ended:
            return
        if trial.accuracy is None:  # worse than any, to every sampler
            pruned = self._optuna.trial.TrialState.PRUNED
            study.tell(trial.number, state=pruned, skip_if_finished=True)
        else:
            study.tell(trial.number, trial.accuracy, skip_if_finished=True)

    def _at_stop(
        self, number: int, values: dict[str, str], folder: Path, share: float
    ) -> Trial:
        """Read from its folder how a trial did, and what it spent, where it stopped."""
        if (folder / SUMMARY).exists():
            found = read_json(folder / SUMMARY)
            accuracy, counted = _accuracy(found), found
            stopped_by = found["stopped_by"]
            share = 1.0
        else:
            found = read_json(folder / ENERGY_REPORT)
            looks = [e for e in read_events(folder / EVENTS) if e["event"] == "pause"]
            accuracy, counted = looks[-1]["accuracy"], looks[-1]
            stopped_by = "paused"
        busy = [found["phases"].get(name) for name in WORK_PHASES]
        phases = [phase for phase in busy if phase is not None]
        wh = [phase["wh"] for phase in phases]
        qualities = {phase["quality"] for phase in phases if phase["wh"]}
        return Trial(
            number=number,
            share=share,
            values=values,
            accuracy=accuracy,
            epochs=counted["epochs"],
            flops=counted["flops"],
            seconds=sum(phase["s"] for phase in phases),
            wh=None if None in wh else sum(wh),
            quality="+".join(sorted(qualities)) or "unavailable",
            stopped_by=stopped_by,
            folder=folder,
        )

    def _data_of(self, config: Config) -> Data | None:
        """Return the data, read once, if all trials have the same."""
        if any(axis.key.split(".")[0] == "data" for axis in self.axes):
            return None
        if self.data is None:
            self.data = build.build_data(config)
        return self.data

    def _config(self, values: Mapping[str, str], name: str | None = None) -> Config:
        config = self._loaded(self.search.applied(dict(values)))
        return config if name is None else config.model_copy(update={"name": name})

    def _loaded(self, values: Mapping[str, str]) -> Config:
        changes = [f"--{key}={text}" for key, text in values.items()]
        return load(self.config, [*self.overrides, *changes])

    # optuna

    def _study(self, asked: int = 0) -> Any:
        """Open the study.

        Args:
            asked: Trials so far. A sampler begins anew with every trial, from seed and
                number, or a search that goes on would draw again what it began with.
        """
        optuna = self._optuna
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(
                str(self.out / _JOURNAL), _JournalLock(self.out / _WRITING)
            )
        )
        made = self.search.sampler(10_007 * self.seed + asked)
        return optuna.create_study(
            storage=storage,
            sampler=made,
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
        )

    def _values(self, params: Mapping[str, Any]) -> dict[str, str]:
        return {axis.key: axis.text_of(params[axis.key]) for axis in self._space}

    # what is known

    def _spent(self, limits: Limits, trials: Sequence[Trial]) -> bool:
        """Return whether the means of the search are used up."""
        if limits.epochs is not None and sum(t.epochs for t in trials) >= limits.epochs:
            return True
        if limits.wh is None:
            return False
        spent = [t.wh for t in trials if t.wh is not None]
        if trials and not spent:
            raise UserError(
                "--wh: nothing measures energy here, see dpet doctor; limit --epochs "
                "or --minutes instead"
            )
        return sum(spent) >= limits.wh

    def _stops(self, known: Sequence[Any]) -> list[list[Trial]]:
        """Return the stops of each trial, in order; `_ASKING` must be held.

        What a worker that was killed left out is made up for: the line of a trial that
        has ended, as in folders of an earlier version, and to tell optuna of it.
        """
        found: list[list[Trial]] = [[] for _ in known]
        for stop in read_stops(self.out):
            if stop.number >= len(known):
                raise DamagedFileError(
                    self.out / _JOURNAL, f"it lacks trial {stop.number} of {STOPS}"
                )
            found[stop.number].append(stop)
        for trial, stops in zip(known, found, strict=True):
            finished = trial.state.is_finished()
            if finished and not stops:
                values = self._values(trial.params)
                config = self._config(values, _name(trial.number))
                folder = experiment.run_folder(config, self.out / _TRIALS)
                stops.append(self._at_stop(trial.number, values, folder, 1.0))
                self._write_stop(stops[-1])
            elif stops and not finished:
                self._tell(self._study(), stops[-1])
        return found

    def _write_stop(self, trial: Trial) -> None:
        file = JsonLines(self.out / STOPS)
        try:
            file.append(trial.to_json(self.out))
        finally:
            file.close()

    def _trials(self) -> list[Trial]:
        """Return every trial at its last stop, the best first."""
        last = {stop.number: stop for stop in read_stops(self.out)}
        return sorted(
            last.values(),
            key=lambda t: (t.accuracy is None, -(t.accuracy or 0.0), t.number),
        )

    def _outcome(self, *, interrupted: bool) -> Outcome:
        with _locked(self.out / _ASKING, wait=True):
            self._stops(self._study().get_trials(deepcopy=False))
            trials = self._trials()
            best = self._write(trials)
        return Outcome(tuple(trials), interrupted, best)

    def _write(self, trials: Sequence[Trial]) -> Path | None:
        """Write the table, and the best trial as a config."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        keys = [axis.key for axis in self.axes]
        fields = ("share", "stopped_by", "epochs", "flops", "seconds_warm", "wh_warm")
        writer.writerow(["trial", *keys, "validation_accuracy", *fields, "folder"])
        for trial in trials:
            cells = [trial.number, *(trial.values[key] for key in keys), trial.accuracy]
            cells += [trial.share, trial.stopped_by, trial.epochs, trial.flops]
            cells += [trial.seconds, _measured_wh(trial)]
            place = trial.folder.relative_to(self.out)
            writer.writerow([csv_cell(cell) for cell in (*cells, str(place))])
        write_whole(self.out / TABLE, text.getvalue())
        best = next((trial for trial in trials if trial.accuracy is not None), None)
        if best is None:
            return None
        config = self._config(best.values)
        config = config.model_copy(update={"name": f"{config.name}_tuned"})
        comment = (
            f"# the best of {len(trials)} trials by {self.search.name}, validation "
            f"accuracy {best.accuracy:.4f}{best.after} with one seed:\n"
            f"# it was chosen for that, so expect less of it with another seed\n"
        )
        write_whole(self.out / BEST, comment + config.to_yaml())
        return self.out / BEST

    def _check_folder(self) -> None:
        """Begin the folder; refuse one that holds another search."""
        described = {
            "config": self._config({}).model_dump(mode="json"),
            "axes": [json.loads(json.dumps(asdict(axis))) for axis in self.axes],
            "search": self._said if self.search.unusual else self.search.kind,
            "seed": self.seed,
        }
        path = self.out / STUDY
        (self.out / _TRIALS).mkdir(parents=True, exist_ok=True)
        with _locked(self.out / _ASKING, wait=True):
            if not path.exists():
                write_whole(path, json.dumps(described, indent=1) + "\n")
                return
        known = read_json(path)
        differing = [name for name in described if known.get(name) != described[name]]
        if differing:
            raise UserError(
                f"{path}: holds another search (its {' and '.join(differing)} differ); "
                "use another --out, or remove the folder"
            )

    @property
    def _said(self) -> dict[str, Any]:
        return {"kind": self.search.kind, **self.search.unusual}

    def _lock(self, number: int) -> Path:
        return self.out / _TRIALS / f".{_name(number)}.lock"


def ask(
    study: Any,
    search: Search,
    space: Sequence[Axis],
    past: Sequence[Observed],
    seed: int,
) -> Any:
    """Return optuna's trial of the next setting.

    Args:
        study: Of optuna, with the sampler of the search.
        search: How it is chosen.
        space: The axes as the search draws from them.
        past: What was tried.
        seed: Of the search.
    """
    point = search.point(space, past, seed)
    if point is not None:
        study.enqueue_trial(point)
    return study.ask({axis.key: axis.distribution for axis in space})


def lines(outcome: Outcome, again: str) -> Iterator[str]:
    """Yield the answer of a search.

    Args:
        outcome: Of it.
        again: The command that goes on.
    """
    ended = [trial for trial in outcome.trials if trial.accuracy is not None]
    epochs = sum(trial.epochs for trial in outcome.trials)
    seconds = sum(trial.seconds for trial in outcome.trials)
    wh = [_measured_wh(trial) for trial in outcome.trials]
    spent = f"{epochs:.4g} epochs, {seconds:.4g} s"
    if wh and None not in wh:
        spent += f", {sum(w for w in wh if w is not None):.4g} Wh"
    for place, trial in enumerate(ended[:5], 1):
        shown = "  ".join(f"{key}={text}" for key, text in trial.values.items())
        yield f"  {place}  validation {trial.accuracy:.4f}{trial.after}  {shown}"
    if ended:
        yield (
            f"best of {len(outcome.trials)} trials ({spent}): validation "
            f"{ended[0].accuracy:.4f}{ended[0].after}, with one seed and chosen for it"
        )
        yield f"config      {outcome.best}; train it with: dpet run {outcome.best}"
    else:
        yield f"no trial of {len(outcome.trials)} has an accuracy ({spent})"
    if outcome.interrupted:
        yield f"interrupted; go on with: {again}"


def _name(number: int) -> str:
    return f"trial{number:04d}"


def _measured_wh(trial: Trial) -> float | None:
    """Return the energy of a trial; None of a model's, which has no interval here."""
    return None if "modelled" in trial.quality else trial.wh


def _accuracy(summary: Mapping[str, Any]) -> float | None:
    accuracy = summary["validation_accuracy"]
    return None if summary["stopped_by"] == "diverged" else accuracy


def _line(trial: Trial) -> str:
    """Return what a search shows of a trial that has stopped."""
    shown = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in trial.values.items())
    found = trial.accuracy
    text = "diverged" if found is None else f"validation {found:.4f}{trial.after}"
    return (
        f"trial {trial.number:<4} {shown:<44} {text}  {trial.epochs:7.2f} epochs "
        f"{trial.seconds:8.1f} s"
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "dpet tune needs optuna: pip install 'dpet-jax[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


class _JournalLock:
    """The lock of optuna's journal; the system gives it back where its process ends.

    That of optuna is a link, which a worker that was killed leaves behind; where the
    folder is named by a relative path, others would wait for it for ever.

    Args:
        path: A file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = ExitStack()

    def acquire(self) -> bool:
        """Wait until nobody else writes."""
        return self._held.enter_context(_locked(self._path, wait=True))

    def release(self) -> None:
        """Let others write."""
        self._held.close()


@contextmanager
def _locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that the system gives back where its process ends.

    Args:
        path: A file.
        wait: Until another has given it back; otherwise whether it was free is told.
    """
    file: IO[bytes]
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
