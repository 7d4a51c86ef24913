"""What a step costs on this machine, measured with a run's own program, and kept.

A profile is kept by all that a step's time depends on: device, versions, settings, the
network, optimizer, batch and image sizes, precision.
"""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from pydantic import Field

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import validate_as
from dpet_jax.data import Data
from dpet_jax.data.view import WHOLE
from dpet_jax.energy import EnergyMeter
from dpet_jax.energy.window import Window
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, write_whole
from dpet_jax.methods.base import Plan, Span
from dpet_jax.planner.planner import Spend, StepCost
from dpet_jax.run import build
from dpet_jax.run.machine import environment
from dpet_jax.section import Count, NonNegative, Positive, Section
from dpet_jax.training.chunks import Batches
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import DeviceLearner
from dpet_jax.training.scoring import EVALUATION

_WARM_UP, _TIMINGS = 5, 8
#: One timing lasts so long that the call of a program does not matter, which takes some
#: 3 ms, and all of them so long that a meter can tell what they took.
_TIMING_S, _METERED_S = 0.25, 3.0
#: Of steps so slow that not all timings fit in, fewer are made.
_LONGEST_S, _FEWEST = 5.0, 5
#: Batches of the evaluation that is timed.
EVALUATED = 4


class Profile(Section):
    """What a network was measured to cost.

    Attributes:
        key: All that it depends on.
        step_s: Seconds of a training step, the median.
        step_range_s: Its quartiles.
        step_j: Gross joules of a step, from the watts drawn; None where nothing tells.
        assumed: Where a model told them, its least and its most as shares of them; None
            where they were measured.
        num_train: Examples that the programs were compiled for.
        compile_s: Seconds until the programs were ready.
        trace_s: Those of them that the compiler did not take, which is about what a
            process spends whose compilation cache holds the programs; fetching them
            counts where that was measured.
        compile_j: Gross joules of the first; None where not measured.
        score_s: Seconds of an example's evaluation, which draws as many watts as
            training.
        measuring_s: Seconds that the whole measurement took.
        train_flops: FLOPs of an example's training visit; None if not kept.
        run_s: Seconds that a run takes beside training, choosing and evaluating: its
            folder, its checkpoint, its files; None where nobody has measured it.
        scores_s: Seconds until the programs of scores are ready that a method asks for,
            where those of training are and the compilation cache holds them; by the
            names of the scores.
    """

    key: dict[str, Any]
    step_s: Positive
    step_range_s: tuple[Positive, Positive]
    step_j: NonNegative | None
    assumed: tuple[NonNegative, NonNegative] | None = None
    num_train: Count
    compile_s: NonNegative
    trace_s: NonNegative
    compile_j: NonNegative | None
    score_s: NonNegative
    measuring_s: NonNegative
    train_flops: Positive | None = None
    run_s: NonNegative | None = None
    scores_s: dict[str, NonNegative] = Field(default_factory=dict)

    def __str__(self) -> str:
        """Return the figures that a plan hangs on."""
        low, high = (1e3 * each for each in self.step_range_s)
        joules = "" if self.step_j is None else f", {self.step_j:.3g} J"
        if self.step_j is not None and self.assumed is not None:
            least, most = (self.step_j * share for share in self.assumed)
            joules = f", ≈ {self.step_j:.3g} J [{least:.3g}, {most:.3g}] MODELLED"
        return (
            f"{1e3 * self.step_s:.3g} ms a step ({low:.3g} to {high:.3g}){joules}, "
            f"ready after {self.compile_s:.3g} s"
        )

    def cost(self, data: Data, parameters: int, train_flops: int) -> StepCost:
        """Return what a run on a data set costs.

        Args:
            data: The data set.
            parameters: Of the network.
            train_flops: Of one example's training visit.
        """
        ready_s = self.ready_s(data)
        judged = data.num_validation + data.num_test
        return StepCost(
            self.step_s,
            parameters,
            joules=self.step_j,
            compiling=Spend(ready_s, self._compiling_j(ready_s)),
            evaluating=self._as_training(judged * self.score_s),
            measuring=self.measuring,
            train_flops=train_flops,
        )

    def ready_s(self, data: Data) -> float:
        """Return the seconds until a process has its programs, cached or not.

        Args:
            data: The data set of its run.
        """
        cached = bool(jax.config.values.get("jax_compilation_cache_dir"))
        same = self.num_train == data.num_train
        return self.trace_s if cached and same else self.compile_s

    @property
    def flops_per_s(self) -> float | None:
        """FLOPs of a second of training; None if they are not kept."""
        if self.train_flops is None:
            return None
        return self.train_flops * self.key["batch_size"] / self.step_s

    @property
    def measuring(self) -> Spend:
        """What the whole measurement took."""
        compiling = self._compiling_j(self.compile_s)
        rest = self._as_training(self.measuring_s - self.compile_s)
        known = compiling is not None and rest.joules is not None
        joules = (compiling or 0.0) + (rest.joules or 0.0)
        return Spend(self.measuring_s, joules if known else None)

    def _compiling_j(self, seconds: float) -> float | None:
        if self.compile_j is None or not self.compile_s:
            return self._as_training(seconds).joules
        return self.compile_j * seconds / self.compile_s

    def _as_training(self, seconds: float) -> Spend:
        if self.step_j is None:
            return Spend(seconds)
        return Spend(seconds, self.step_j * seconds / self.step_s)


def default_folder() -> Path:
    """Return where profiles are kept unless a caller says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(base) / "dpet_jax" / "profiles"


def profile_key(config: Config, data: Data, meter: EnergyMeter) -> dict[str, Any]:
    """Return all that the cost of a step depends on, as plain data."""
    step = build.build_learner_spec(config, build.build_model(config, data), ()).step
    facts = {
        **environment(),
        "network": step.model.to_json(),
        "optimizer": str(step.optimizer),
        "batch_size": step.batch_size,
        "score_batch_size": config.evaluate.batch_size,
        "image_shape": data.image_shape,
        "compute_dtype": step.dtype,
        "extras": [
            *(step.margins, step.averaged, step.bits, len(step.schedules)),
            # as they were named before there was anything to see but whole images
            *([] if data.view == WHOLE else [data.view.model_dump()]),
            *([] if config.train.augment.crop is None else ["crop"]),
        ],
        "meters": sorted(meter.sensors.channels),
    }
    if config.energy.cpu_model is not None:
        facts["cpu_model"] = config.energy.cpu_model.model_dump()
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


class Profiles:
    """A folder of profiles, a file each, whole or absent.

    Args:
        folder: Made when the first is kept; by default in the user's cache.
        say: Gets a line for each that is kept.
        anew: Find none, so that all are measured again and replaced.

    Attributes:
        problems: What could not be read or kept, a sentence each.
    """

    def __init__(
        self,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
        *,
        anew: bool = False,
    ) -> None:
        self.folder = default_folder() if folder is None else folder
        self._say, self._anew = say, anew
        self.problems: list[str] = []

    def find(self, key: dict[str, Any]) -> Profile | None:
        """Return the profile of a key; None if there is none that can be read."""
        if self._anew:
            return None
        path = self._path(key)
        try:
            kept = validate_as(Profile, read_json(path), str(path))
        except FileNotFoundError:
            return None
        except (UserError, OSError) as error:
            problem = str(error).partition("\n")[0].partition(";")[0]
        else:
            if kept.key == key:
                return kept
            problem = f"{path}: holds the profile of something else"
        self.problems.append(f"{problem}; it is measured anew")
        return None

    def of_this_machine(self) -> list[Profile]:
        """Return all that were kept of this device, with these versions."""
        plain = json.loads(json.dumps(environment(), default=str))
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with suppress(UserError, OSError):  # `find` says what is wrong with one
                kept = validate_as(Profile, read_json(path), str(path))
                if all(kept.key.get(name) == value for name, value in plain.items()):
                    found.append(kept)
        return found

    def keep(self, profile: Profile, name: str) -> None:
        """Keep a profile in the place of an older one, if the folder can be written.

        Args:
            profile: What was measured.
            name: Of the network, for people.
        """
        self._say(f"measured {name}: {profile}")
        path = self._path(profile.key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, profile.model_dump_json(indent=1) + "\n")
        except OSError as error:
            where = error.filename or path
            self.problems.append(f"{where}: {error.strerror}; the profile is not kept")

    def forget(self, profiles: Iterable[Profile]) -> None:
        """Drop profiles, so that they are measured anew when they are next asked for.

        Args:
            profiles: Kept or not.
        """
        for profile in profiles:
            path = self._path(profile.key)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self.problems.append(
                    f"{path}: {error.strerror}; it could not be dropped"
                )

    def _path(self, key: dict[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def learner_of(
    config: Config, data: Data, scores: tuple[str, ...] = ()
) -> tuple[DeviceLearner, float]:
    """Build the learner of a run, with all programs ready.

    Args:
        config: The run's.
        data: Its data.
        scores: What a method asks for, to be ready too.

    Returns:
        The learner, and the seconds that the compiler took of it: none for what this
        process has made before, and fetching from the compilation cache aside.
    """
    network = build.build_model(config, data)
    room = build.build_placement(config, data, network).room
    spec = build.build_learner_spec(config, network, scores, room)
    before = compile_counts()
    learner = DeviceLearner(data, spec, build.build_hyper(config), config.seed)
    for _ in learner.compile():
        pass
    learner.barrier()
    counts = compile_counts().since(before)
    return learner, counts.seconds - counts.fetching_s


def measure(
    config: Config, data: Data, meter: EnergyMeter, key: dict[str, Any]
) -> Profile:
    """Compile a config's programs, and time steps of training and evaluation.

    Five steps to warm up, then 8 timings on real batches, each of as many steps as a
    quarter of a second holds.

    Args:
        config: What is to be run.
        data: Its data.
        meter: Runs.
        key: From `profile_key`.
    """
    with meter.window("compile") as compiling:
        learner, compiling_s = learner_of(config, data)
    steps = _Steps(learner, data)
    warm = steps.timed(min(_WARM_UP, learner.main.max_steps))
    metered = meter.quality != "unavailable"
    least_s = _METERED_S if metered else 0.0
    each = max(1, min(round(_TIMING_S / warm), learner.main.max_steps))
    timings: list[float] = []
    with meter.window("train") as training:
        began, passed = time.monotonic(), 0.0
        while len(timings) < _FEWEST or (
            passed < _LONGEST_S and (len(timings) < _TIMINGS or passed < least_s)
        ):
            timings.append(steps.timed(each))
            passed = time.monotonic() - began
    rows = data.test_rows[: EVALUATED * config.evaluate.batch_size]
    with meter.window("eval") as evaluating:
        jax.device_get(learner.main.score(rows, EVALUATION, evaluated=True))
    low, median, high = statistics.quantiles(timings, n=4)
    training_j = joules_of(training)
    return Profile(
        key=key,
        step_s=median,
        step_range_s=(low, high),
        step_j=None if training_j is None else median * training_j / training.s,
        assumed=_assumed(training),
        num_train=data.num_train,
        compile_s=compiling.s,
        trace_s=max(0.0, compiling.s - compiling_s),
        compile_j=joules_of(compiling),
        score_s=evaluating.s / rows.size,
        measuring_s=compiling.s + training.s + evaluating.s,
        train_flops=learner.main.train_flops,
    )


class _Steps:
    """Steps of training on real batches, one stretch after another."""

    def __init__(self, learner: DeviceLearner, data: Data) -> None:
        plan = Plan(data.train_rows, label="profile", passes=10_000)
        self._network, self._done = learner.main, 0
        self._batches = Batches(plan, learner.batch_size, 0, 0)
        self._span = Span(0, plan.visits)
        self._network.begin(plan, 0)

    def timed(self, num_steps: int) -> float:
        """Train some steps; return the seconds of one."""
        rows = self._batches.rows(self._done, num_steps)
        visits = self._batches.visits_before(self._done)
        self._done += num_steps
        began = time.monotonic()
        self._network.wait(self._network.train(rows, num_steps, self._span, visits))
        return (time.monotonic() - began) / num_steps


def joules_of(window: Window) -> float | None:
    """Return the gross joules of a window; None where none are known.

    That is also so where it was too short for the sensor.
    """
    energy = window.energy
    if energy is None or energy.wh is None or window.resolution_limited:
        return None
    return 3600 * energy.wh


def _assumed(window: Window) -> tuple[float, float] | None:
    """Return the least and the most that a model gives, as shares of its energy."""
    energy = window.energy
    if energy is None or not energy.wh or energy.quality != "modelled":
        return None
    return energy.low_wh / energy.wh, energy.high_wh / energy.wh
