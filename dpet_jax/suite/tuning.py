"""Search for settings of a config: trials of optuna, each of them a metered run.

A folder holds the search: what is searched and how (tune.json), optuna's journal, a run
folder for each trial, and after each trial the table of all (trials.csv) and the best
as a config (best.yaml). Any number of processes may work on one folder at once, and
one that is started again goes on, first of all with the trials of those that are gone.

Trials are judged by validation accuracy at their end. Nothing here looks at test.
"""

import csv
import fcntl
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from dpet_jax.config import yaml12
from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.files import csv_cell, read_json, write_whole
from dpet_jax.run import build, experiment
from dpet_jax.run.costs import WORK_PHASES
from dpet_jax.run.folder import CONFIG, SUMMARY
from dpet_jax.run.interrupt import Interrupt

#: How the next setting is chosen: tree-structured Parzen estimators, by chance, every
#: combination once, or Gaussian processes.
Search: TypeAlias = Literal["tpe", "random", "grid", "gp"]

STUDY, TABLE, BEST = "tune.json", "trials.csv", "best.yaml"
_JOURNAL, _TRIALS, _ASKING = "journal.log", "trials", ".asking"


@dataclass(frozen=True)
class Axis:
    """The values that a key of a config may have.

    Attributes:
        key: Dotted, as on the command line.
        choices: Its values as they are written, or empty for a range.
        low: Least value of a range.
        high: Largest value, included.
        log: Whether equal factors are equally likely, instead of equal steps.
        whole: Whether the values of the range are whole numbers.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: int | float = 0.0
    high: int | float = 0.0
    log: bool = False
    whole: bool = False

    @classmethod
    def of(cls, text: str) -> "Axis":
        """Read `KEY=A,B,C` or `KEY=LOW..HIGH`, after which ` log` may stand.

        Raises:
            UserError: If it is neither.
        """
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not all(key.split(".")):
            raise UserError(
                f"--vary: {text!r} names no key and values; write KEY=A,B,C or "
                "KEY=LOW..HIGH or KEY='LOW..HIGH log'"
            )
        if ".." not in values:
            choices = _choices(key, values)
            return cls(key, choices)
        ends, *flags = values.split()
        try:
            low, high = (yaml12.read(end) for end in ends.split(".."))
        except (ValueError, yaml12.NotYamlError):
            low = high = None
        numbers = [isinstance(end, int | float) for end in (low, high)]
        if not all(numbers) or isinstance(low, bool) or isinstance(high, bool):
            raise UserError(
                f"--vary: {key}: {ends!r} is no range; write LOW..HIGH, such as 0.01..1"
            )
        if flags not in ([], ["log"]):
            raise UserError(
                f"--vary: {key}: {' '.join(flags)!r} after a range; only log may "
                "stand there"
            )
        if not -math.inf < low < high < math.inf:
            raise UserError(f"--vary: {key}: {ends} is empty; give the smaller first")
        if flags and low <= 0:
            raise UserError(
                f"--vary: {key}: {ends} log: a logarithm needs numbers above 0"
            )
        whole = isinstance(low, int) and isinstance(high, int)
        log = bool(flags)
        return cls(key, low=float(low), high=float(high), log=log, whole=whole)

    @property
    def edges(self) -> tuple[str, ...]:
        """The values to try a config with: all choices, or the ends of the range."""
        return self.choices or tuple(map(self.text_of, (self.low, self.high)))

    def text_of(self, value: Any) -> str:
        """Return a value of optuna's as it is written on the command line."""
        if self.choices:
            return str(value)
        return str(int(value)) if self.whole else f"{value:.4g}"


def _choices(key: str, values: str) -> tuple[str, ...]:
    """Split values at the commas that stand in no bracket."""
    try:
        read = yaml12.read(f"[{values}]")
    except yaml12.NotYamlError as error:
        raise UserError(f"--vary: {key}: not YAML: {error}") from error
    written = tuple(
        one if isinstance(one, str) else json.dumps(one)
        for one in (read if isinstance(read, list) else ())
    )
    if len(written) < 2 or len({*written}) < len(written):
        raise UserError(
            f"--vary: {key}: {values!r} leaves no choice; give two values or more, "
            "each once"
        )
    return written


class Limits(NamedTuple):
    """When to stop, over all trials and all calls; None is no limit.

    Attributes:
        trials: How many to finish.
        epochs: Full-pass equivalents to spend, of selection and training.
        wh: Gross Wh to spend on them.
    """

    trials: int | None = None
    epochs: int | float | None = None
    wh: int | float | None = None


class Trial(NamedTuple):
    """One that has ended.

    Attributes:
        number: Of optuna.
        values: As they are written, by key.
        accuracy: On validation at its end; None where it diverged.
        epochs: Full-pass equivalents.
        seconds: Of selection and training.
        wh: Of them, or None where nothing measures energy.
        folder: Its run folder.
    """

    number: int
    values: dict[str, str]
    accuracy: float | None
    epochs: float
    seconds: float
    wh: float | None
    folder: Path


class Outcome(NamedTuple):
    """Where a search stands.

    Attributes:
        trials: That have ended, the best first.
        interrupted: Whether it was, so that there is more to do.
        best: The config of the best trial, on disk; None if none has ended well.
    """

    trials: tuple[Trial, ...]
    interrupted: bool
    best: Path | None


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

    Raises:
        UserError: If the config or one of the values is refused, if the folder holds
            another search, or if optuna is missing.
    """

    config: Path
    overrides: Sequence[str]
    axes: Sequence[Axis]
    out: Path
    search: Search = "tpe"
    seed: int = 0
    say: Callable[[str], None] = print
    _data: Data | None = field(default=None, init=False)
    _read: dict[int, Trial] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._optuna = _optuna(self.search)
        keys = [axis.key for axis in self.axes]
        if not keys:
            raise UserError("--vary: missing; name a key and its values, once or more")
        if len({*keys}) < len(keys):
            raise UserError(f"--vary: a key twice among {', '.join(keys)}")
        if self.search == "grid" and any(not axis.choices for axis in self.axes):
            ranges = [axis.key for axis in self.axes if not axis.choices]
            raise UserError(
                f"--search: grid needs choices, and {', '.join(ranges)} is a range; "
                "give values, or search by tpe or random"
            )
        first = {axis.key: axis.edges[0] for axis in self.axes}
        for axis in self.axes:
            for text in axis.edges:
                self._config(first | {axis.key: text})
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
        with ExitStack() as stack:
            if interrupt is None:
                stack.enter_context(asked.listening())
            stack.enter_context(asked.after(minutes))
            while not asked.requested:
                with ExitStack() as held:
                    number = self._claim(limits, held)
                    if number is None:
                        break
                    if not self._run(number, asked):
                        break
        return self._outcome(interrupted=asked.requested)

    # one trial

    def _claim(self, limits: Limits, held: ExitStack) -> int | None:
        """Return a trial that is this worker's from now on; None if there is none."""
        with _locked(self.out / _ASKING, wait=True):
            running = self._optuna.trial.TrialState.RUNNING
            trials = self._study().get_trials(deepcopy=False)
            going = 0
            for trial in trials:
                if trial.state != running:
                    continue
                if held.enter_context(_locked(self._lock(trial.number))):
                    return int(trial.number)  # its worker is gone
                going += 1
            if self._enough(limits, going):
                return None
            study = self._study(len(trials))
            if self.search == "grid":
                keys = [axis.key for axis in self.axes]
                points = [*product(*(axis.choices for axis in self.axes))]
                study.enqueue_trial(dict(zip(keys, points[len(trials)], strict=True)))
            trial = study.ask(self._distributions())
            if not held.enter_context(_locked(self._lock(trial.number))):
                raise UserError(
                    f"{self._lock(trial.number)}: is locked by another program; use "
                    "another --out"
                )
            return int(trial.number)

    def _run(self, number: int, interrupt: Interrupt) -> bool:
        """Run a trial to its end and tell optuna; False if it was interrupted."""
        study = self._study()
        known = study.get_trials(deepcopy=False)[number]
        values = self._values(known.params)
        config = self._config(values, _name(number))
        folder = experiment.run_folder(config, self.out / _TRIALS)
        result = experiment.run(
            config,
            self.out / _TRIALS,
            resume=(folder / CONFIG).exists(),
            data=self._data_of(config),
            interrupt=interrupt,
        )
        if result.summary is None:
            return False
        accuracy = _accuracy(result.summary)
        if accuracy is None and result.stopped_by != "diverged":
            raise UserError(
                f"{self.config}: leaves no validation examples to judge trials by; "
                "give data.validation_fraction a share above 0"
            )
        state = self._optuna.trial.TrialState
        if accuracy is None:  # worse than any that has an accuracy, to every sampler
            study.tell(number, state=state.PRUNED, skip_if_finished=True)
        else:
            study.tell(number, accuracy, skip_if_finished=True)
        trials = self._ended()
        with _locked(self.out / _ASKING, wait=True):
            self._write(trials)
        shown = ", ".join(f"{key.rpartition('.')[2]} {values[key]}" for key in values)
        text = "diverged" if accuracy is None else f"validation {accuracy:.4f}"
        self.say(
            f"trial {number:<4} {shown:<44} {text}  {result.summary['epochs']:7.2f} "
            f"epochs {result.summary['wall_s']:8.1f} s"
        )
        return True

    def _data_of(self, config: Config) -> Data | None:
        """Return the data, read once, if all trials have the same."""
        if any(axis.key.split(".")[0] == "data" for axis in self.axes):
            return None
        if self._data is None:
            self._data = build.build_data(config)
        return self._data

    def _config(self, values: Mapping[str, str], name: str | None = None) -> Config:
        changes = [f"--{key}={text}" for key, text in values.items()]
        config = load(self.config, [*self.overrides, *changes])
        return config if name is None else config.model_copy(update={"name": name})

    # optuna

    def _study(self, asked: int = 0) -> Any:
        """Open the study.

        Args:
            asked: Trials so far. A sampler begins anew with every trial, from seed and
                number, or a search that goes on would draw again what it began with.
        """
        optuna = self._optuna
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(self.out / _JOURNAL))
        )
        samplers, seed = optuna.samplers, 10_007 * self.seed + asked
        match self.search:
            case "tpe":
                # of several keys at once; what other workers try counts as bad, so that
                # they try something else
                made = samplers.TPESampler(
                    seed=seed, multivariate=True, constant_liar=True
                )
            case "gp":
                made = samplers.GPSampler(seed=seed)
            case _:  # a grid's points are given
                made = samplers.RandomSampler(seed=seed)
        return optuna.create_study(
            storage=storage,
            sampler=made,
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
        )

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        return {
            axis.key: kinds.CategoricalDistribution(axis.choices)
            if axis.choices
            else kinds.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
            if axis.whole
            else kinds.FloatDistribution(axis.low, axis.high, log=axis.log)
            for axis in self.axes
        }

    def _values(self, params: Mapping[str, Any]) -> dict[str, str]:
        return {axis.key: axis.text_of(params[axis.key]) for axis in self.axes}

    # what is known

    def _enough(self, limits: Limits, going: int) -> bool:
        trials = self._ended()
        if self.search == "grid":
            points = math.prod(len(axis.choices) for axis in self.axes)
            if len(trials) + going >= points:
                return True
        if limits.trials is not None and len(trials) + going >= limits.trials:
            return True
        if limits.epochs is not None and sum(t.epochs for t in trials) >= limits.epochs:
            return True
        spent = [t.wh for t in trials if t.wh is not None]
        if limits.wh is None:
            return False
        if trials and not spent:
            raise UserError(
                "--wh: nothing measures energy here, see dpet doctor; limit --epochs "
                "or --minutes instead"
            )
        return sum(spent) >= limits.wh

    def _ended(self) -> list[Trial]:
        """Return the trials that have ended, the best first."""
        for trial in self._study().get_trials(deepcopy=False):
            # one that has ended stays as it is, so that each is read once
            if trial.state.is_finished() and trial.number not in self._read:
                self._read[trial.number] = self._trial(trial)
        return sorted(
            self._read.values(),
            key=lambda t: (t.accuracy is None, -(t.accuracy or 0.0), t.number),
        )

    def _trial(self, ended: Any) -> Trial:
        values = self._values(ended.params)
        config = self._config(values, _name(ended.number))
        folder = experiment.run_folder(config, self.out / _TRIALS)
        summary = read_json(folder / SUMMARY)
        phases = summary["phases"]
        busy = [phases[name] for name in WORK_PHASES if name in phases]
        wh = [phase["wh"] for phase in busy]
        return Trial(
            ended.number,
            values,
            _accuracy(summary),
            summary["epochs"],
            sum(phase["s"] for phase in busy),
            None if None in wh else sum(wh),
            folder,
        )

    def _outcome(self, *, interrupted: bool) -> Outcome:
        trials = self._ended()
        with _locked(self.out / _ASKING, wait=True):
            best = self._write(trials)
        return Outcome(tuple(trials), interrupted, best)

    def _write(self, trials: Sequence[Trial]) -> Path | None:
        """Write the table, and the best trial as a config."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        keys = [axis.key for axis in self.axes]
        fields = ("validation_accuracy", "epochs", "seconds_warm", "wh_warm", "folder")
        writer.writerow(["trial", *keys, *fields])
        for trial in trials:
            cells = [trial.number, *(trial.values[key] for key in keys), trial.accuracy]
            cells += [trial.epochs, trial.seconds, trial.wh]
            place = trial.folder.relative_to(self.out)
            writer.writerow([csv_cell(cell) for cell in (*cells, str(place))])
        write_whole(self.out / TABLE, text.getvalue())
        best = next((trial for trial in trials if trial.accuracy is not None), None)
        if best is None:
            return None
        config = self._config(best.values)
        config = config.model_copy(update={"name": f"{config.name}_tuned"})
        comment = (
            f"# the best of {len(trials)} trials by {self.search}, validation accuracy "
            f"{best.accuracy:.4f} with one seed:\n"
            f"# it was chosen for that, so expect less of it with another seed\n"
        )
        write_whole(self.out / BEST, comment + config.to_yaml())
        return self.out / BEST

    def _check_folder(self) -> None:
        """Begin the folder; refuse one that holds another search."""
        described = {
            "config": self._config({}).model_dump(mode="json"),
            "axes": [json.loads(json.dumps(asdict(axis))) for axis in self.axes],
            "search": self.search,
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

    def _lock(self, number: int) -> Path:
        return self.out / _TRIALS / f".{_name(number)}.lock"


def lines(outcome: Outcome, again: str) -> Iterator[str]:
    """Yield the answer of a search.

    Args:
        outcome: Of it.
        again: The command that goes on.
    """
    ended = [trial for trial in outcome.trials if trial.accuracy is not None]
    epochs = sum(trial.epochs for trial in outcome.trials)
    seconds = sum(trial.seconds for trial in outcome.trials)
    wh = [trial.wh for trial in outcome.trials]
    spent = f"{epochs:.4g} epochs, {seconds:.4g} s"
    if wh and None not in wh:
        spent += f", {sum(w for w in wh if w is not None):.4g} Wh"
    for place, trial in enumerate(ended[:5], 1):
        shown = "  ".join(f"{key}={text}" for key, text in trial.values.items())
        yield f"  {place}  validation {trial.accuracy:.4f}  {shown}"
    if ended:
        yield (
            f"best of {len(outcome.trials)} trials ({spent}): validation "
            f"{ended[0].accuracy:.4f}, with one seed and chosen for it"
        )
        yield f"config      {outcome.best}; train it with: dpet run {outcome.best}"
    else:
        yield f"no trial of {len(outcome.trials)} has an accuracy ({spent})"
    if outcome.interrupted:
        yield f"interrupted; go on with: {again}"


def _name(number: int) -> str:
    return f"trial{number:04d}"


def _accuracy(summary: Mapping[str, Any]) -> float | None:
    accuracy = summary["validation_accuracy"]
    return None if summary["stopped_by"] == "diverged" else accuracy


def _optuna(search: Search) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "dpet tune needs optuna: pip install 'dpet-jax[tune]'"
        ) from error
    if search == "gp":
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise UserError(
                "--search: gp is optuna's, which needs PyTorch for it; install torch, "
                "or search by tpe"
            ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


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
