"""The first hour: a config, or a suite, for someone's data that this machine can do.

The data are looked at and the machine is measured; what is written ends in a stated
time here. Targets come from a short run of standard training, since an accuracy that is
hard on one data set is passed at once on another.
"""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.config import yaml12
from dpet_jax.config.experiment import Config
from dpet_jax.config.load import validate
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.planner.planner import Budget
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.page import drawing, write_report
from dpet_jax.run import build, experiment
from dpet_jax.run.fitting import look
from dpet_jax.run.machine import device_facts, pinned
from dpet_jax.run.planning import num_parameters, plan_config, recipe
from dpet_jax.run.profiling import Profile, Profiles, measure, profile_key
from dpet_jax.suite.duration import Speed, told

#: Widths that are measured at least: of the family that the planner was calibrated on.
SCALES = (1.0, 0.5)
#: Tried as well where no other leaves enough passes.
_NARROWEST = 0.25
#: Runs longer than this gain little on most data; a suite's shorter ones are half.
_MOST_PASSES = 64
#: DPET in one schedule needs some passes to gain anything; below that, a narrower
#: network learns more.
_LEAST_PASSES = 8
#: Of a suite; ranges need three.
SEEDS = (1, 2, 3)
_VARIANTS = 3
#: Share of the time that is planned, since a machine is not always as fast.
_PLANNED = 0.9
#: Of the time, or so many seconds, whichever is less, for the run that gives targets.
_BASELINE_SHARE, _BASELINE_S = 0.1, 60.0
#: Errors to reach, over that of the baseline: of a config's run, which is longer, and
#: of a suite whose longer runs are no better than its shorter ones.
_HARDER, _HARDER_IN_SUITE = (1.0, 0.75, 0.5), (1.0, 0.9, 0.8)
#: Evaluations on the way of a config's run.
_LOOKS = 10


class Length(NamedTuple):
    """What runs on some data take here.

    Attributes:
        pass_s: Seconds of a pass over the training split.
        look_s: Seconds of an evaluation of the validation split.
        first_s: Seconds until the first run of a process can train: its programs, from
            the compilation cache where there is one.
        each_s: Seconds that any run takes beside training and evaluating on the way.
        read_s: Seconds of a process before and after all runs: its start, reading the
            data, a suite's report.
    """

    pass_s: float
    look_s: float
    first_s: float
    each_s: float
    read_s: float = 0.0

    def seconds(self, lengths: Sequence[int | float], looks: int) -> float:
        """Return the seconds of some runs in one process.

        Args:
            lengths: Passes of each run.
            looks: Evaluations of each run.
        """
        of_run = self.each_s + looks * self.look_s
        once = self.read_s + self.first_s
        return once + sum(lengths) * self.pass_s + len(lengths) * of_run

    def passes(self, seconds: float, shares: Sequence[float], looks: int) -> float:
        """Return the passes of the longest of some runs that so many seconds hold.

        Args:
            seconds: Of all runs together.
            shares: Length of each run over that of the longest.
            looks: Evaluations of each run.
        """
        left = seconds - self.seconds([0.0] * len(shares), looks)
        return max(0.0, left / (sum(shares) * self.pass_s))


def targets_above(error: float, harder: Sequence[float], examples: int) -> list[float]:
    """Return accuracies at some shares of an error, rounded and ascending.

    Args:
        error: Of a baseline on the validation split.
        harder: Shares of it.
        examples: Of that split, which no accuracy is told apart more finely by.
    """
    digits = 2 if error > 0.1 else 3
    # an accuracy that one wrong example rules out is no target
    most = math.floor(1000 * (1 - 1 / examples)) / 1000
    found = {min(most, round(1 - share * error, digits)) for share in harder}
    return sorted(target for target in found if target > 0)


def targets_between(easy: float, hard: float, examples: int) -> list[float]:
    """Return accuracies between two errors, evenly on a logarithmic scale.

    Args:
        easy: Error of the shorter runs of a baseline.
        hard: Of the longer ones. If it is no lower, the task is noisy, or learnt
            already, and targets lie a little above the first.
        examples: Of the split, which no accuracy is told apart more finely by.
    """
    if not 0 < hard < easy:
        return targets_above(easy, _HARDER_IN_SUITE, examples)
    shares = [(hard / easy) ** part for part in (0.25, 0.5, 0.75)]
    return targets_above(easy, shares, examples)


class Copies(NamedTuple):
    """Images that there are more than once, pixel by pixel.

    Attributes:
        repeats: Training images that repeat an earlier one.
        conflicts: Those of them whose label is another.
        leaked: Validation and test images that are among the training images.
    """

    repeats: int
    conflicts: int
    leaked: int

    def __str__(self) -> str:
        if not (self.repeats or self.leaked):
            return "none, pixel by pixel"
        return (
            f"{self.repeats:,} training images repeat another ({self.conflicts:,} with "
            f"another label); {self.leaked:,} to validate or test on are among them"
        )


def copies(data: Data) -> Copies:
    """Count images that are equal to the last pixel, at the size they are used in."""
    hashes = [
        hashlib.blake2b(i.tobytes(), digest_size=16).digest() for i in data.images
    ]
    first: dict[bytes, int] = {}
    repeats = conflicts = 0
    for row, key in enumerate(hashes[: data.num_train]):
        earlier = first.setdefault(key, row)
        repeats += earlier != row
        conflicts += earlier != row and data.labels[row] != data.labels[earlier]
    leaked = sum(key in first for key in hashes[data.num_train :])
    return Copies(repeats, int(conflicts), leaked)


class Started(NamedTuple):
    """What is to be written.

    Attributes:
        files: Text by path; the first is what to run.
        lines: What was found and planned, for people.
        command: What runs it.
    """

    files: dict[Path, str]
    lines: tuple[str, ...]
    command: str


def start(  # noqa: PLR0913
    path: Path | None,
    minutes: float,
    out: Path | None,
    *,
    suite: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    profiles: Profiles | None = None,
    started_s: float = 0.0,
) -> Started:
    """Look at data and machine, and plan a run or a suite that ends in some minutes.

    Args:
        path: Pictures, of any kind that `dpet fit` recognises; None for the digits.
        minutes: That the run, or all of the suite, may take on this machine.
        out: The file; by default the name of the data.
        suite: Plan a comparison of standard training, DPET in one schedule and its
            random control instead of one run.
        image_size: Side that pictures are brought to; by default what suits them and
            this machine.
        seed: Of the run.
        say: Gets each line as soon as it is known.
        profiles: What was measured here before; by default the user's cache.
        started_s: Seconds that a process takes until it reads its data.

    Raises:
        UserError: If there is nothing that can be trained on, or not in this time.
    """
    if not (0 < minutes < math.inf):
        raise UserError(f"command line: --minutes: {minutes} is no number above 0")
    starting = _Starting(path, minutes, image_size, seed, say, profiles, started_s)
    out = out or Path(f"{starting.config.name}.yaml")
    with starting.folders:
        return starting.suite(out) if suite else starting.run(out)


class _Baseline(NamedTuple):
    """How a short run of standard training went.

    Attributes:
        error: On the validation split.
        speed: Of its parts.
        compiling_s: Seconds until its programs were ready.
        folder: Where it is.
    """

    error: float
    speed: Speed
    compiling_s: float
    folder: Path


class _Starting:
    """Data and machine, looked at and measured."""

    def __init__(
        self,
        path: Path | None,
        minutes: float,
        image_size: int | None,
        seed: int,
        say: Callable[[str], None],
        profiles: Profiles | None,
        started_s: float,
    ) -> None:
        self.minutes, self._say = minutes, say
        self.lines: list[str] = []
        self.folders = ExitStack()  # of baselines
        self.began = time.monotonic()
        self.profiles = Profiles(say=lambda _: None) if profiles is None else profiles
        looked = look(path, image_size, seed)
        self._read_s = started_s + time.monotonic() - self.began
        self.config, self.data = recipe(looked.config), looked.data
        for line in looked.lines:
            self.say(line)
        self.say(f"  copies    {copies(self.data)}")
        facts = device_facts()
        kind = f"{facts['count']} x {facts['kind']}"
        self.say(f"  machine   {kind}, {facts['cpu_cores']} CPU cores")
        self.measured = {scale: self._measured(scale) for scale in SCALES}

    def say(self, line: str) -> None:
        """Show a line, and keep it for the file."""
        self._say(line)
        self.lines.append(line)

    def _measured(self, scale: float) -> Profile:
        config = self._scaled(scale)
        with pinned(), build.build_meter(config) as meter:
            key = profile_key(config, self.data, meter)
            found = self.profiles.find(key)
            if found is None:
                found = measure(config, self.data, meter, key)
                self.profiles.keep(found, f"scale {scale:g}")
            network = build.build_model(config, self.data)
        speed = config.train.batch_size / found.step_s
        self.say(
            f"  speed     {speed:,.0f} images/s in training at scale {scale:g} "
            f"({num_parameters(network):,} parameters)"
        )
        return found

    def _scaled(self, scale: float) -> Config:
        model = self.config.model.scaled(scale)
        return self.config.model_copy(update={"model": model})

    def _length(
        self, profile: Profile, speed: Speed, targets: int = 0, read_s: float = 0.0
    ) -> Length:
        """Return what runs take.

        Args:
            profile: Of their network.
            speed: Of their network, and of a run.
            targets: How many they reach on the way, at a look each.
            read_s: Of a process, beside its start and reading.
        """
        data, config = self.data, self.config
        batch, size = config.train.batch_size, config.evaluate.batch_size
        validation, test = (
            math.ceil(rows / size) for rows in (data.num_validation, data.num_test)
        )
        # the end looks at both splits, and a target at the test split
        ends = validation + test + targets * test
        return Length(
            pass_s=math.ceil(data.num_train / batch) * speed.step_s,
            look_s=validation * speed.batch_s,
            first_s=profile.ready_s(data),
            each_s=speed.run_s + ends * speed.batch_s,
            read_s=self._read_s + read_s,
        )

    def run(self, out: Path) -> Started:
        """Plan one run."""
        seconds = 60 * self.minutes
        planned = plan_config(
            self.config,
            Budget(seconds=_PLANNED * seconds),
            data=self.data,
            profiles=self.profiles,
        )
        scale = planned.plan.scale
        profile = planned.profiles[scale, planned.plan.batch_size]
        base = planned.config.model_copy(
            update={"name": out.stem, "budget": self.config.budget}
        )
        length = self._length(profile, Speed.of_profile(profile, base, self.data))
        share_s = min(_BASELINE_SHARE * seconds, _BASELINE_S)
        short = max(1, min(_MOST_PASSES // 4, int(share_s / length.pass_s)))
        # a pass may be longer than what there is for it; compiling counts there too
        limit_s = profile.compile_s + 2 * share_s
        seen = self._baseline(base, short, limit_s)
        # steps of a run are more than those that were timed, and its end is one
        length = self._length(profile, seen.speed, targets=len(_HARDER))
        length = length._replace(first_s=max(length.first_s, seen.compiling_s))
        passes = min(_MOST_PASSES, length.passes(_PLANNED * seconds, (1.0,), _LOOKS))
        epochs = _round_down(passes)
        if epochs < 1:
            least = math.ceil(length.seconds([1.0], _LOOKS) / _PLANNED / 60)
            raise UserError(
                f"command line: --minutes: {self.minutes:g} are too few for one pass "
                f"over {self.data.num_train:,} pictures; give {least} or more, or a "
                "smaller --image-size"
            )
        targets = targets_above(seen.error, _HARDER, self.data.num_validation)
        expected = length.seconds([epochs], _LOOKS)
        self._say_plan(scale, f"{epochs:g} passes", expected, targets)
        tree = _tree(base, epochs / _LOOKS, targets)
        tree["method"] = {"kind": "dpet_anneal", "epochs": epochs}
        text = self._text(out, tree, expected, "what does DPET reach", "run")
        validate(yaml12.read(text), str(out))  # what is written has to load
        return Started({out: text}, tuple(self.lines), f"dpet run {out}")

    def suite(self, out: Path) -> Started:
        """Plan a comparison."""
        seconds = 60 * self.minutes
        shares = (1.0, 0.5) * (_VARIANTS * len(SEEDS))
        chosen, passes = SCALES[-1], 0.0
        for scale in (*SCALES, _NARROWEST):
            if scale not in self.measured:
                self.measured[scale] = self._measured(scale)
            profile = self.measured[scale]
            speed = Speed.of_profile(profile, self._scaled(scale), self.data)
            length = self._length(profile, speed)
            chosen, passes = scale, length.passes(_PLANNED * seconds, shares, 1)
            if passes >= _LEAST_PASSES:
                break
        base = self._scaled(chosen).model_copy(update={"name": f"{out.stem}_base"})
        longest = self._even(passes)
        first = self._baseline(base, longest // 2)
        profile, looks = self.measured[chosen], 1
        # every length reaches all that it reaches at its one look
        length = self._length(profile, first.speed, targets=1)
        longest = self._even(
            min(longest, length.passes(_PLANNED * seconds, shares, looks))
        )
        # this one finds the programs of the first, as most runs of a suite do
        second = self._baseline(base, longest)
        trained = {longest // 2: first, longest: second}
        length = self._length(profile, second.speed, 1, self._report_s(first, second))
        first_s = max(length.first_s, first.compiling_s)
        # what every run makes ready anew is no part of what the first one waits for
        each_s = length.each_s + second.compiling_s
        length = length._replace(first_s=first_s, each_s=each_s)
        if length.seconds([longest * share for share in shares], looks) > seconds:
            longest = self._even(length.passes(_PLANNED * seconds, shares, looks))
        errors = []
        for passes in (longest // 2, longest):
            # where the machine turned out slower, they are not those of above
            run = trained.get(passes) or self._baseline(base, passes)
            errors.append(run.error)
        targets = targets_between(errors[0], errors[1], self.data.num_validation)
        expected = length.seconds([longest * share for share in shares], looks)
        if longest < _LEAST_PASSES:
            self.say(
                f"  warning   runs of {longest} passes: DPET in one schedule gains "
                f"little below {_LEAST_PASSES}; give more --minutes"
            )
        runs = f"{len(shares)} runs of {longest // 2} and {longest} passes"
        self._say_plan(chosen, runs, expected, targets)
        base_file = out.with_name(f"{out.stem}_base.yaml")
        tree = _tree(base, 2.0 * longest, targets)
        base_text = self._text(base_file, tree, None, f"the base of {out}", "")
        validate(yaml12.read(base_text), str(base_file))
        text = self._text(
            out,
            _suite_tree(out.stem, base_file.name, longest, targets),
            expected,
            "does choosing what to train on pay",
            "compare",
        )
        return Started(
            {out: text, base_file: base_text},
            tuple(self.lines),
            f"dpet compare {out}",
        )

    def _even(self, passes: int | float) -> int:
        if passes < 2:
            raise UserError(
                f"command line: --minutes: {self.minutes:g} are too few for a suite of "
                f"{2 * _VARIANTS * len(SEEDS)} runs on {self.data.num_train:,} "
                "pictures; give more, or a smaller --image-size"
            )
        return 2 * int(min(passes, _MOST_PASSES) // 2)

    def _report_s(self, *baselines: "_Baseline") -> float:
        """Return the seconds of a report, by writing one on the baselines."""
        began = time.monotonic()
        try:
            drawing()
        except UserError:  # without what draws there will be no report either
            return 0.0
        comparison = read_comparison([each.folder for each in baselines], "epochs")
        folder = self.folders.enter_context(tempfile.TemporaryDirectory())
        write_report(comparison, "epochs", Path(folder))
        return time.monotonic() - began

    def _baseline(
        self, config: Config, passes: int, limit_s: float | None = None
    ) -> "_Baseline":
        """Train shortly as papers do; return how that went."""
        plain = config.model_dump(mode="json") | {
            "method": {"kind": "standard", "passes": passes},
            "evaluate": {**config.evaluate.model_dump(), "every": 10.0 * passes},
            "checkpoint": {"every_s": 3600.0},
            "budget": {"seconds": limit_s},
            "name": "baseline",
        }
        short = validate(plain, "dpet init")
        folder = self.folders.enter_context(tempfile.TemporaryDirectory())
        began = time.monotonic()
        summary = experiment.run(short, folder, data=self.data).summary
        took_s = time.monotonic() - began
        if summary is None:
            raise UserError("interrupted; nothing is written")
        accuracy = summary["validation_accuracy"]
        if accuracy is None:
            raise UserError(
                "the quick baseline diverged, so that there is no target to be given; "
                "look at the pictures and their labels"
            )
        self.say(
            f"  baseline  {summary['epochs']:.3g} passes of standard training end at "
            f"{accuracy:.3f} of validation"
        )
        return _Baseline(
            1 - accuracy,
            Speed.of_run(summary, took_s, short, self.data),
            summary["phases"]["compile"]["s"],
            Path(folder),
        )

    def _say_plan(
        self, scale: float, what: str, expected: float, targets: Sequence[float]
    ) -> None:
        listed = ", ".join(f"{target:g}" for target in targets)
        self.say(
            f"  plan      {what} at scale {scale:g}, about {told(expected)} here; "
            f"targets {listed or 'none'}"
        )

    def _text(
        self,
        out: Path,
        tree: dict[str, Any],
        expected: float | None,
        question: str,
        command: str,
    ) -> str:
        """Return the text of a file: what was found as its comment, then its keys."""
        day = datetime.now(UTC).date().isoformat()
        head = [
            f"question: {question} on {self.data.name}?",
            f"command:  dpet {command} {out}",
        ]
        if expected is None:
            head = [question]
        else:
            head.append(f"cost:     about {told(expected)} on the machine below")
        head += [f"found by dpet init, {day}:", *self.lines]
        comment = "".join(f"# {line}".rstrip() + "\n" for line in head)
        parts = []
        for key, value in tree.items():
            why = _WHY.get(key)
            parts.append(f"# {why}\n" if why else "")
            parts.append(yaml12.write({key: value}))
        return comment + "".join(parts)


#: What a newcomer may ask of each key.
_WHY = {
    "name": "runs go to runs/<name>/",
    "data": "image_size brings pictures to so many pixels a side; smaller is faster",
    "model": "scale sets width and depth; more learns more, and takes longer",
    "train": "the rate grows with the root of the batch",
    "method": "DPET in one schedule: a full pass, then what is not learnt, by losses",
    "evaluate": "in epochs, full-pass equivalents",
    "targets": "accuracies on validation at shares of the quick baseline's error; the "
    "cost of each is recorded",
    "base": "what all variants have in common",
    "read": "each run is read once, at its end; costs are compared at equal accuracy",
    "seeds": "fewer than three give no ranges",
    "variants": "one length is half of the other; rates are not tuned, see "
    "docs/comparisons.md",
}


def _tree(config: Config, every: float, targets: Sequence[float]) -> dict[str, Any]:
    """Return the keys of a config that are not as they would be anyway."""
    plain = config.model_dump(mode="json", exclude_defaults=True)
    tree: dict[str, Any] = {"name": config.name}
    if config.seed:
        tree["seed"] = config.seed
    for part in ("data", "model"):
        section = getattr(config, part)
        kept = section.model_dump(mode="json", exclude_defaults=True)
        tree[part] = {"kind": section.kind} | kept
    train = dict(plain.get("train", {}))
    for part in ("optimizer", "schedule"):
        section = getattr(config.train, part)
        kept = section.model_dump(mode="json", exclude_defaults=True)
        train[part] = {"kind": section.kind} | kept
    train["batch_size"] = config.train.batch_size
    tree["train"] = train
    tree["evaluate"] = {"every": float(f"{every:.4g}")}
    if targets:
        tree["targets"] = list(targets)
    return tree


def _suite_tree(
    name: str, base: str, longest: int, targets: Sequence[float]
) -> dict[str, Any]:
    lengths = [longest // 2, longest]

    def variant(label: str, method: dict[str, Any], key: str, **more: Any) -> Any:
        return {
            "label": label,
            **more,
            "set": {"method": method},
            # a list of its own, for YAML would refer to one that is shared
            "horizons": {key: [*lengths]},
        }

    anneal = {"kind": "dpet_anneal"}
    return {
        "name": name,
        "base": base,
        "read": "end",
        "seeds": list(SEEDS),
        "targets": list(targets),
        "statements": [
            "Learning rates are those of the planner's recipe and were not tuned."
        ],
        "variants": {
            "standard": variant(
                "standard", {"kind": "standard"}, "method.passes", role="tuned"
            ),
            "anneal": variant("DPET in one schedule", anneal, "method.epochs"),
            "random": variant(
                "random drop of the same sizes",
                {**anneal, "by": "random"},
                "method.epochs",
                role="random",
            ),
        },
    }


def _round_down(passes: int | float) -> float:
    """Return whole passes where there are many, and else two digits."""
    if passes >= 10:
        return float(int(passes))
    return math.floor(10 * passes) / 10
