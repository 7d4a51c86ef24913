"""How long runs take on this machine: the work of a dry run, at measured speeds."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.config.experiment import BudgetConfig, Config
from dpet_jax.config.load import validate
from dpet_jax.data import Data
from dpet_jax.energy import EnergyMeter
from dpet_jax.errors import UserError
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.run import build, experiment
from dpet_jax.run.machine import pinned
from dpet_jax.run.profiling import (
    EVALUATED,
    Profile,
    Profiles,
    learner_of,
    measure,
    profile_key,
)
from dpet_jax.suite.dry_run import Estimate

#: Networks that were measured, of which fewer give no range of rates.
_FEWEST = 2


class Speed(NamedTuple):
    """What the parts of a run take.

    Attributes:
        step_s: Seconds of a training step.
        batch_s: Seconds of evaluating a batch.
        run_s: Seconds that a run takes beside training, choosing and evaluating.
    """

    step_s: float
    batch_s: float
    run_s: float

    @classmethod
    def of_profile(cls, profile: Profile, config: Config, data: Data) -> "Speed":
        """Return the speed of a network that was measured.

        Args:
            profile: What was measured.
            config: Of a run of that network.
            data: Its data set.
        """
        batch = config.evaluate.batch_size
        rows = min(data.num_test, EVALUATED * batch)
        batch_s = profile.score_s * rows / max(1, math.ceil(rows / batch))
        return cls(profile.step_s, batch_s, profile.run_s or 0.0)

    @classmethod
    def of_run(
        cls, summary: Mapping[str, Any], took_s: float, config: Config, data: Data
    ) -> "Speed":
        """Return the speed that a run had which chose nothing and had no targets.

        Args:
            summary: Of the run.
            took_s: Seconds from its call to its return.
            config: The run's.
            data: Its data set.
        """
        spent = {name: phase["s"] for name, phase in summary["phases"].items()}
        steps = summary["executed_visits"] / config.train.batch_size
        judged = evaluated(config, data, summary["epochs"], targets=0)
        work_s = spent["train"] + spent["select"] + spent["eval"]
        return cls(
            spent["train"] / steps,
            spent["eval"] / judged,
            max(0.0, took_s - work_s - spent["compile"]),
        )

    def seconds(self, config: Config, data: Data, work: Estimate) -> float:
        """Return the seconds of a run whose programs are ready.

        Args:
            config: The run's.
            data: Its data set.
            work: What `estimate` says of it.
        """
        shape = data.input_shape[:2]
        forward = build.build_model(config, data).forward_flops(*shape)
        step_flops = TRAIN_FLOPS_PER_FORWARD * forward * config.train.batch_size
        trained = work.train_flops / step_flops
        scored = work.score_flops / (forward * config.evaluate.batch_size)
        batches = evaluated(config, data, work.epochs) + scored
        return self.run_s + trained * self.step_s + batches * self.batch_s


def evaluated(
    config: Config, data: Data, epochs: float, targets: int | None = None
) -> int:
    """Count the batches that a run evaluates.

    Args:
        config: The run's.
        data: Its data set.
        epochs: Full-pass equivalents that it takes.
        targets: How many it reaches, at a look each; by default all.
    """
    limits = build.build_limits(config)
    size = config.evaluate.batch_size
    validation, test = (
        math.ceil(rows / size) for rows in (data.num_validation, data.num_test)
    )
    # the last batch may pass the last point of the grid
    last = epochs - config.train.batch_size / data.num_train
    looks = 0 if limits.split is None else max(1, math.ceil(last / limits.every))
    reached = len(limits.all_targets) if targets is None else targets
    each, found = (test, 0) if limits.split == "test" else (validation, test)
    # the end looks at both splits
    return looks * each + min(looks, reached) * found + test + validation


def run_seconds(config: Config, data: Data) -> float:
    """Return what a run takes beside training, choosing and evaluating.

    It is found by a run of one step, whose programs are ready but for what every run
    makes ready anew.

    Args:
        config: Of a run whose programs this process has made.
        data: Its data set.
    """
    nothing = dict.fromkeys(("pool", "prune", "plateau"))
    plain = config.model_dump(mode="json") | {
        "method": {"kind": "standard", "passes": 1},
        "budget": {"visits": config.train.batch_size},
        "targets": (),
        "stop": {},
        "track": (),
        "name": "short",
        **nothing,
    }
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        short = validate(plain, "the dry run")
        summary = experiment.run(short, Path(folder), data=data).summary
        took_s = time.monotonic() - began
    if summary is None:
        raise UserError("interrupted; nothing was measured")
    spent = {name: phase["s"] for name, phase in summary["phases"].items()}
    compiling_s = sum(one["seconds"] for one in summary["compilations"].values())
    work_s = spent["train"] + spent["select"] + spent["eval"]
    return max(0.0, took_s - work_s - compiling_s)


def ready_seconds(config: Config, data: Data, scores: tuple[str, ...]) -> float:
    """Return the seconds until the programs of a run are ready, those of scores too.

    Those that this process has made already take none, nor does the compiler, for the
    compilation cache has what it makes.

    Args:
        config: Of a run.
        data: Its data set.
        scores: That its method asks for.
    """
    began = time.monotonic()
    with pinned():
        _, compiling_s = learner_of(config, data, scores)
    return max(0.0, time.monotonic() - began - compiling_s)


class Run(NamedTuple):
    """A run that there will be.

    Attributes:
        config: The run's.
        data: Its data set.
        work: What `estimate` says of it.
    """

    config: Config
    data: Data
    work: Estimate


class Durations:
    """Seconds of runs in one process, by what their networks were measured to take.

    Args:
        runs: The runs, in any order.
        begun_s: Seconds until a process has its data: its start, and reading them.
        profiles: What was measured here before.
    """

    def __init__(self, runs: Sequence[Run], begun_s: float, profiles: Profiles) -> None:
        self._runs, self._begun_s, self._profiles = runs, begun_s, profiles
        self._keys: dict[str, dict[str, Any]] = {}
        self._known: dict[str, Profile | None] = {}
        #: of each network, a run for each set of scores that is asked of it
        self._asking: dict[str, dict[str, Run]] = {}
        for run in runs:
            name = _alike(run.config)
            self._asking.setdefault(name, {}).setdefault(_scores(run.config), run)
            if name not in self._keys:
                with pinned(), _meter(run.config) as meter:
                    self._keys[name] = profile_key(run.config, run.data, meter)
                self._known[name] = profiles.find(self._keys[name])

    def _lacks(self, name: str) -> bool:
        found = self._known[name]
        if found is None or found.run_s is None:
            return True
        return not {*self._asking[name]} - {""} <= {*found.scores_s}

    def measure(self) -> None:
        """Measure the networks that nobody has measured yet, and keep that."""
        for name, asking in self._asking.items():
            if not self._lacks(name):
                continue
            run = asking.get("") or next(iter(asking.values()))
            config, data, found = run.config, run.data, self._known[name]
            if found is None:
                with pinned(), _meter(config) as meter:
                    found = measure(config, data, meter, self._keys[name])
            else:
                # what follows is timed where the programs of training are ready
                ready_seconds(config, data, ())
            run_s = found.run_s
            if run_s is None:
                run_s = run_seconds(config, data)
            scores_s = {
                names: ready_seconds(one.config, one.data, one.config.method.scores)
                for names, one in asking.items()
                if names and names not in found.scores_s
            }
            told = {"run_s": run_s, "scores_s": found.scores_s | scores_s}
            found = found.model_copy(update=told)
            self._profiles.keep(found, config.model.kind)
            self._known[name] = found

    def seconds(self) -> float | None:
        """Return what all runs take; None if a network was not measured."""
        if any(map(self._lacks, self._known)):
            return None
        ready_s = 0.0
        for name, found in self._known.items():
            assert found is not None, "nothing is lacking"
            asking = self._asking[name]
            ready_s += found.ready_s(next(iter(asking.values())).data)
            ready_s += sum(found.scores_s[scores] for scores in asking if scores)
        return self._begun_s + ready_s + sum(map(self._of, self._runs))

    def _of(self, run: Run) -> float:
        found = self._known[_alike(run.config)]
        assert found is not None, "nothing is lacking"
        return Speed.of_profile(found, run.config, run.data).seconds(*run)

    def roughly(self) -> tuple[float, float, int] | None:
        """Return seconds of training between which all runs will be, by their FLOPs.

        Returns:
            The least and the most, at the rates of other networks that were measured
            on this machine, and how many these were; None if they were less than two.
        """
        kept = self._profiles.of_this_machine()
        rates = [one.flops_per_s for one in kept if one.flops_per_s is not None]
        if len(rates) < _FEWEST:
            return None
        flops = sum(run.work.flops for run in self._runs)
        return flops / max(rates), flops / min(rates), len(rates)


def _alike(config: Config) -> str:
    """Return a name for what decides about the speed of a run's network."""
    parts = (config.model, config.train, config.data, config.energy)
    margins, batch = config.method.asks_margins, config.evaluate.batch_size
    return " ".join([*(p.model_dump_json() for p in parts), f"{margins} {batch}"])


def _scores(config: Config) -> str:
    """Return a name for what a method asks of its network."""
    return " ".join(sorted(config.method.scores))


def _meter(config: Config) -> EnergyMeter:
    return build.build_meter(config.model_copy(update={"budget": BudgetConfig()}))


def told(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
