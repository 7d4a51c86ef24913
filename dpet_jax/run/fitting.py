"""A classifier of someone's pictures within a budget: look, plan, train, export."""

import csv
import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from dpet_jax.config.experiment import Config, CpuModelConfig
from dpet_jax.config.load import validate, validate_as
from dpet_jax.data import Data, DataSection
from dpet_jax.data.class_folders import entries
from dpet_jax.data.decode import picture_size
from dpet_jax.data.sources import Cifar, Digits, Folder, Idx, Npz, Parquet
from dpet_jax.data.sources.cifar import holds_cifar
from dpet_jax.data.sources.idx import holds_idx
from dpet_jax.errors import UserError
from dpet_jax.files import csv_cell, read_json, write_whole
from dpet_jax.planner.law import Level, Observation, shipped, steepest_level
from dpet_jax.planner.planner import Budget, BudgetTooSmallError
from dpet_jax.pretrained.choice import SCRATCH
from dpet_jax.pretrained.pool import ModelPool
from dpet_jax.run import build, experiment
from dpet_jax.run.calibration import level_of
from dpet_jax.run.experiment import Result
from dpet_jax.run.export import export
from dpet_jax.run.folder import CONFIG, CORESET
from dpet_jax.run.load import load_run
from dpet_jax.run.planning import (
    BATCH,
    Planned,
    family_networks,
    num_parameters,
    plan_config,
    plan_lines,
    recipe_rate,
)
from dpet_jax.run.profiling import Profiles

FIT = "fit.json"
MODEL, MODEL_INT8 = "model.safetensors", "model_int8.safetensors"
CORESET_TABLE = "coreset.csv"
#: Budget of the digits, which need none.
DIGITS_S = 25.0
#: The side that larger pictures are brought to, on a CPU and on an accelerator.
_CPU_SIDE, _SIDE = 32, 64
#: Pictures whose size is looked at.
_LOOKED_AT = 200
#: Of a class, so that some are left to train on beside one to validate and to test on.
_FEWEST = 5
_TEST_FRACTION = 0.15
#: The family that the ranking law was calibrated on. Channels that fill vectors, or
#: tensor cores: on a CPU a step of 17, 35 and 70 took 1.6 times that of 16, 32 and 64.
_FAMILY = {"kind": "resnet20", "channel_multiple": 8}
#: Lengths of the two runs that fix the level of a data set, in steps.
_LEVEL_STEPS = (300, 1600)
#: The smallest network with so many parameters makes them: level and slope are those of
#: every size, and below, the law has little to go by.
_LEVEL_PARAMETERS = 20_000
#: Within this factor a step takes what was measured, pauses between plans included,
#: once training has lasted so long.
_AS_MEASURED, _TELLING_S = 1.3, 5.0
#: A target that takes longer is not begun.
_LONGEST_S, _HOUR_S = 86_400.0, 3_600.0


class _Tried(NamedTuple):
    """What two short runs told: the level, and their network's speed."""

    level: Level
    parameters: int
    visit_s: float


@dataclass(frozen=True)
class Fit:
    """What came of it.

    Attributes:
        folder: Holds everything; it is a run folder, with more files in it.
        result: How the run ended; without a summary it was interrupted.
        answer: What came out and what it took, a line each.
        commands: Lines to copy, for using the model.
    """

    folder: Path
    result: Result
    answer: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


class _Found(NamedTuple):
    """What was recognised: where the pictures are, and how large they are."""

    section: DataSection
    usual: tuple[int, int] | None  # height and width, if they had to be looked at


def fit(  # noqa: PLR0913
    data: Path | None,
    budget: Budget,
    out: Path,
    *,
    image_size: int | None = None,
    seed: int = 0,
    pool: Path | None = None,
    console: Console | None = None,
    profiles: Profiles | None = None,
    began: float | None = None,
    measuring_counts: bool = True,
    cpu_model: Mapping[str, Any] | None = None,
) -> Fit:
    """Train a classifier on pictures within a budget, or go on with it.

    The data are recognised by looking at them, the planner chooses the network that the
    budget buys on this machine, and one schedule ends with the budget, which counts
    reading, measuring, compiling, training and evaluating. In a folder that holds a fit
    of the same data and budget it goes on where that one was left: the plan stays, the
    time that was spent counts, and the time between does not.

    Args:
        data: A folder of class folders, of parquet files or of MNIST's idx files, CIFAR
            as it is published, or an .npz file; None is scikit-learn's digits.
        budget: Seconds, Wh or a target; a target counts its two short runs that fix
            what accuracy the data allow.
        out: The folder of the result.
        image_size: Side that pictures are brought to; by default what they have, and
            on a CPU at most 32 pixels.
        seed: Of the run.
        pool: Folder of pre-trained networks, one of which it starts from where that is
            expected to save energy; choosing counts. By default it starts from scratch.
        console: Where to show what happens; nowhere by default.
        profiles: What was measured here before; by default the user's cache.
        began: When the budget began to count, by `time.monotonic`; by default now.
        measuring_counts: Whether a budget that is over once this machine is measured is
            refused; else it begins to count only then.
        cpu_model: The keys of `energy.cpu_model`, where nothing measures energy here.

    Raises:
        UserError: If there is nothing that can be trained on, the budget is too small,
            or the folder holds something else.
    """
    began = time.monotonic() if began is None else began
    console = console or Console(quiet=True)

    def say(line: str) -> None:
        console.out(line, highlight=False)

    if budget.unit == "epochs":
        raise UserError("budget: epochs are planned by dpet plan; give seconds or wh")
    model = None
    if cpu_model is not None:
        model = validate_as(CpuModelConfig, dict(cpu_model), "--cpu-model")
    asked = {
        "data": None if data is None else str(data.resolve()),
        budget.unit: budget.amount,
        "image_size": image_size,
        "seed": seed,
        # as folders of earlier versions have it
        **({} if pool is None else {"pool": str(pool.resolve())}),
        **({} if model is None else {"cpu_model": model.model_dump(mode="json")}),
    }
    kept, prepared = _kept(out, asked), None
    if kept is None and pool is not None:
        ModelPool(pool).names()  # refuses one that is empty, before anything takes time
    if kept is None:
        prepared = _Fitting(
            data,
            budget,
            out,
            image_size,
            seed,
            say,
            profiles,
            began,
            measuring_counts=measuring_counts,
            cpu_model=model,
        )
        config, read = prepared.planned()
        if pool is not None:
            config = _changed(config, {"pool": {"path": pool}})
        kept = {
            "asked": asked,
            "before_s": time.monotonic() - prepared.began,
            "before_wh": prepared.before_wh,
            "found": prepared.said,
            "config": config.model_dump(mode="json"),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / FIT, json.dumps(kept, indent=1) + "\n")
        except OSError as error:
            raise UserError(
                f"{out}: cannot write ({error.strerror}); choose another with --out=DIR"
            ) from error
    else:
        for line in kept["found"]:
            say(line)
        say(f"  going on with {out}, as planned")
        config, read = validate(kept["config"], str(out / FIT)), None
    result = experiment.run(
        config,
        out,
        folder=out,
        resume=(out / CONFIG).exists(),
        console=console,
        data=read,
    )
    if result.summary is None or result.stopped_by == "diverged":
        return Fit(out, result)
    notes = [] if prepared is None else prepared.checked(result.summary)
    return _finished(kept, budget, result, config, notes)


def _kept(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier process has planned in a folder; None if nothing."""
    if not out.exists():
        return None
    if not (out / FIT).exists():
        if not out.is_dir() or entries(out):
            raise UserError(
                f"{out}: is there already and holds no fit; choose another with "
                "--out=DIR"
            )
        return None
    kept = read_json(out / FIT)
    before = kept.get("asked")
    if before != asked:
        told = ", ".join(f"{k} {v}" for k, v in (before or {}).items() if v is not None)
        raise UserError(
            f"{out}: holds a fit that was asked for otherwise ({told}); give the same "
            "to go on, or choose another with --out=DIR"
        )
    return kept


class _Fitting:
    """Everything before the run that counts."""

    def __init__(  # noqa: PLR0913
        self,
        data: Path | None,
        budget: Budget,
        out: Path,
        image_size: int | None,
        seed: int,
        say: Callable[[str], None],
        profiles: Profiles | None,
        began: float,
        *,
        measuring_counts: bool,
        cpu_model: CpuModelConfig | None = None,
    ) -> None:
        self.path, self.budget, self.out, self.seed = data, budget, out, seed
        self.image_size, self.began = image_size, began
        self.measuring_counts, self._cpu_model = measuring_counts, cpu_model
        self.before_wh: float | None = None  # measuring took so many
        self.profiles = Profiles(say=say) if profiles is None else profiles
        self.said: list[str] = []
        self._say = say
        self._used: Planned | None = None  # what is trained

    def say(self, line: str) -> None:
        """Show a line, and keep it for a process that goes on."""
        self._say(line)
        self.said.append(line)

    def planned(self) -> tuple[Config, Data]:
        """Look, read and plan."""
        config, data, lines = look(self.path, self.image_size, self.seed)
        for line in lines:
            self.say(line)
        if self._cpu_model is not None:
            model = self._cpu_model.model_dump(mode="json")
            given = {"allow_modelled": True, "cpu_model": model}
            config = _changed(config, {"energy": given})
        if self.budget.unit == "target":
            return self._to_target(config, data), data
        return self._within(config, data), data

    def _within(self, config: Config, data: Data) -> Config:
        budget, unit = self.budget, self.budget.unit
        left = budget.amount
        if unit == "seconds":
            left -= self._elapsed
            if left <= 0:
                raise UserError(
                    f"budget: {budget} were over before there was a plan, after "
                    f"{self._elapsed:.1f} s; give more"
                )
        try:
            planned = self._plan(config, data, Budget(**{unit: round(left, 1)}))
        except BudgetTooSmallError as error:
            took = f"{self._elapsed:.1f} s of {budget} are over"
            if self.measuring_counts:
                raise UserError(f"{error}; {took}") from error
            self.say(f"  measured  {took}, which count on top this first time")
            self.began = time.monotonic()
            planned = self._plan(config, data, budget)
        self._say_plan(planned)
        measuring_j = planned.spent.joules
        self.before_wh = None if measuring_j is None else measuring_j / 3600
        chosen = planned.plan.scale, planned.plan.batch_size
        looks = 2 * data.num_validation + data.num_test
        after_s = looks * planned.profiles[chosen].score_s
        limit = planned.config.budget.model_dump()
        if unit == "seconds":
            # what planning took beside measuring counts too
            limit["seconds"] = budget.amount - self._elapsed - after_s
            if limit["seconds"] <= 0:
                raise UserError(f"budget: {budget} leave no time to train; give more")
        limit["pace"] = True
        every_s = min(30.0, max(5.0, budget.amount / 6)) if unit == "seconds" else 30.0
        epochs = planned.config.evaluate.every
        return _changed(
            planned.config,
            {
                "budget": limit,
                "checkpoint": {"every_s": every_s},
                "evaluate": {"every": 10 * epochs},  # at the end alone
            },
        )

    def _to_target(self, config: Config, data: Data) -> Config:
        tried = self._try(config, data)
        wanted, level = self.budget, tried.level
        # before anything is measured, which takes longer than this
        if math.isinf(_least_visits(config, data, wanted.amount, level)):
            law = shipped(config.model.kind)
            score = law.score(_HOUR_S / tried.visit_s, tried.parameters)
            reached = level.accuracy(score)
            raise self._out_of_reach("by any network of the family", reached)
        try:
            planned = self._plan(config, data, wanted, level)
        except UserError as error:
            reason = str(error)
        else:
            if planned.plan.seconds <= _LONGEST_S:
                self._say_plan(planned)
                return planned.config
            reason = f"{wanted} is expected after {planned.plan.seconds / 3600:,.0f} h"
        hour = self._plan(config, data, Budget(seconds=_HOUR_S), level).plan.accuracy
        assert hour is not None, "the level is known"
        raise self._out_of_reach(f"within a day here ({reason})", hour)

    def _out_of_reach(self, how: str, hour: float) -> UserError:
        return UserError(
            f"--target: {self.budget.amount:g} is not expected to be reached {how}; "
            f"{_HOUR_S / 60:.0f} minutes are expected to end at {hour:.3f}. Give a "
            "lower target, or --minutes"
        )

    def _try(self, config: Config, data: Data) -> _Tried:
        """Train twice, shortly and to the end of the schedule."""
        place = self.out.with_name(f"{self.out.name}-level")
        sizes = [*_sizes(config, data)]
        enough = (one for one in sizes if one[1] >= _LEVEL_PARAMETERS)
        small, parameters = next(enough, sizes[-1])
        for number, steps in enumerate(_LEVEL_STEPS):
            epochs = steps * config.train.batch_size / data.num_train
            length = {"method": {"epochs": epochs}, "evaluate": {"every": epochs}}
            folder = place / f"run{number}"
            result = experiment.run(
                _changed(small, length),
                place,
                folder=folder,
                resume=(folder / CONFIG).exists(),
                data=data,
            )
            if result.summary is None:
                raise UserError("interrupted; the same command goes on")
            accuracy = result.summary["validation_accuracy"]
            train_s = result.summary["phases"]["train"]["s"]
            visit_s = train_s / result.summary["executed_visits"]
            self.say(
                f"  tried     {epochs:.3g} epochs end at {accuracy:.3f} of validation"
            )
            if number == 0 and 0 < accuracy < 1:
                visits = steps * config.train.batch_size
                run = Observation(data.fingerprint, visits, parameters, accuracy)
                self._doubt(config, data, run, visit_s)
        level = level_of([place], shipped(small.model.kind), data.fingerprint)
        return _Tried(level, parameters, visit_s)

    def _doubt(
        self, config: Config, data: Data, run: Observation, visit_s: float
    ) -> None:
        """Say, before a longer run tells, that a target looks out of reach."""
        steep = steepest_level(run, shipped(config.model.kind))
        least = _least_visits(config, data, self.budget.amount, steep)
        if least * visit_s > _LONGEST_S:
            self.say(
                f"  doubtful  {self.budget.amount:g} looks more than a day away here, "
                "even if the error falls as steeply as on the easiest pictures known; "
                "a longer run tells"
            )

    def _plan(
        self, config: Config, data: Data, budget: Budget, level: Level | None = None
    ) -> Planned:
        return plan_config(
            config, budget, level=level, data=data, profiles=self.profiles
        )

    def checked(self, summary: Mapping[str, Any]) -> list[str]:
        """Drop what was measured if steps took another time; say so.

        It may have been measured, or trained, while the machine did other work; the
        networks are chosen by how their times compare, so that all are dropped.

        Args:
            summary: Of the run that was planned.
        """
        begun = summary.get("pool", {}).get("chosen", SCRATCH)
        if self._used is None or begun != SCRATCH:  # a network of its own speed
            return []
        plan, profiles = self._used.plan, self._used.profiles
        steps = summary["executed_visits"] / plan.batch_size
        said = profiles[plan.scale, plan.batch_size].step_s
        train_s = summary["phases"]["train"]["s"]
        if train_s < _TELLING_S or not steps:
            return []
        took = train_s / steps
        if said / _AS_MEASURED < took < said * _AS_MEASURED:
            return []
        self.profiles.forget(profiles.values())
        return [
            f"a step took {1e3 * took:.3g} ms, where {1e3 * said:.3g} had been "
            "measured: the machine did other work then or now, and is measured anew "
            "next time"
        ]

    def _say_plan(self, planned: Planned) -> None:
        """Say what will be trained, what it is expected to take, and why."""
        self._used = planned
        first, train, expected, *_ = plan_lines(planned)
        if self.budget.unit != "target":
            paced = "clock" if self.budget.unit == "seconds" else "meter"
            accuracy = expected.rpartition("; ")[2]
            expected = (
                f"  expected  to end with {self.budget}, by the {paced}; {accuracy}"
            )
        network = first.partition(": ")[2]
        self.say(
            f"  plan      {network}; {train.strip().removeprefix('train').strip()}"
        )
        self.say(expected)
        why = "; ".join(planned.plan.reasons[:2])
        self.say(f"  why       {why}")
        for text in planned.plan.warnings:
            self.say(f"  warning   {text}")
        if planned.energy.quality == "modelled":
            self.say(f"  energy    {planned.energy}, by the watts that were given")

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self.began


# what the data are


def recognised(path: Path | None, image_size: int | None = None) -> _Found:
    """Find out of which kind data are, and to which side to bring the pictures.

    Args:
        path: A file or a folder; None for the digits.
        image_size: The side, if it is given.

    Raises:
        UserError: If they are of no kind that can be trained on.
    """
    if path is None:
        return _Found(Digits(image_size=image_size), None)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; give a folder of pictures in class "
            "folders, a folder of parquet or idx files, an .npz file or CIFAR's archive"
        )
    keys: dict[str, Any] = {"path": path}
    if path.is_file():
        if path.suffix == ".npz":
            return _Found(Npz(image_size=image_size, **keys), None)
        if ".tar" in path.suffixes or path.suffix == ".tgz":
            return _Found(Cifar(image_size=image_size, **keys), None)
        raise UserError(
            f"{path}: is neither an .npz file nor CIFAR's archive; give one, or a "
            "folder of pictures in class folders"
        )
    inside = entries(path)
    if any(entry.suffix == ".parquet" for entry in inside):
        section: DataSection = Parquet(**keys)
        sizes = [picture_size(blob) for blob in Parquet(**keys).some(_LOOKED_AT)]
    elif holds_cifar(path):
        return _Found(Cifar(image_size=image_size, **keys), None)
    elif holds_idx(path):
        return _Found(Idx(image_size=image_size, **keys), None)
    else:
        tested = any(
            e.name == "test" and any(map(os.path.isdir, entries(e)))
            for e in inside
            if e.is_dir()
        )
        section = Folder(test_fraction=None if tested else _TEST_FRACTION, **keys)
        files = section.training_files(drawn=False)
        sizes = [picture_size(f) for f in files[:: max(1, len(files) // _LOOKED_AT)]]
    usual = Counter(sizes).most_common(1)[0][0] if sizes else None
    side = _side(sizes) if image_size is None else image_size
    return _Found(section.model_copy(update={"image_size": side}), usual)


class Looked(NamedTuple):
    """What looking at someone's pictures gives.

    Attributes:
        config: Of a run on them, without a size and a length of its own.
        data: Read.
        lines: What was found, for people.
    """

    config: Config
    data: Data
    lines: list[str]


def look(path: Path | None, image_size: int | None, seed: int) -> Looked:
    """Recognise, read and check pictures, and set a run on them up.

    Args:
        path: A file or a folder; None for the digits.
        image_size: Side that pictures are brought to; by default what suits them and
            this machine.
        seed: Of the run.

    Raises:
        UserError: If there is nothing that can be trained on.
    """
    found = recognised(path, image_size)
    name = "digits" if path is None else path.resolve().stem
    config = _config(_file_name(name), found.section, seed)
    data = build.build_data(_with_batch(config, 1))
    smallest = _check_classes(data)
    config = _with_batch(config, min(BATCH, data.num_train))
    config = _augmented(config, data)
    return Looked(config, data, _found_lines(path, data, found.usual, smallest))


def _side(sizes: Sequence[tuple[int, int]]) -> int | None:
    """Return the side to bring pictures to; None leaves them as they are."""
    if not sizes:
        return None
    on_cpu = jax.devices()[0].platform == "cpu"
    most = _CPU_SIDE if on_cpu else _SIDE
    shortest = min(min(size) for size in sizes)
    usual = min(Counter(sizes).most_common(1)[0][0])
    if len(set(sizes)) == 1 and sizes[0] == (usual, usual) and usual <= most:
        return None
    return max(8, min(most, usual, max(shortest, 8)))


def _check_classes(data: Data) -> tuple[str, int]:
    """Return the smallest class and its size; refuse one too small to be split."""
    counts = np.bincount(data.labels, minlength=data.num_classes)
    place = int(counts.argmin())
    name, size = data.class_names[place], int(counts[place])
    if size < _FEWEST:
        raise UserError(
            f"{data.name}: class {name} has {size} pictures; a class takes at least "
            f"{_FEWEST}, of which some are kept to validate and to test on. Add some, "
            "or leave the class out"
        )
    return name, size


def _found_lines(
    path: Path | None,
    data: Data,
    usual: tuple[int, int] | None,
    smallest: tuple[str, int],
) -> list[str]:
    counts = np.bincount(data.labels, minlength=data.num_classes)
    largest = data.class_names[int(counts.argmax())], int(counts.max())
    height, width, channels = data.image_shape
    looked = "" if usual is None else f"usually {usual[1]} x {usual[0]}; "
    what = "digits (scikit-learn's)" if path is None else str(path)
    return [
        f"{what}: {data.labels.size:,} pictures in {data.num_classes} classes (largest "
        f"{largest[0]} {largest[1]:,}, smallest {smallest[0]} {smallest[1]:,}), "
        f"{looked}using {width} x {height}, {'grey' if channels == 1 else 'colour'}",
        f"  split     {data.num_train:,} to train, {data.num_validation:,} to "
        f"validate, {data.num_test:,} to test",
    ]


# the config


def _config(name: str, section: DataSection, seed: int) -> Config:
    plain = {
        "name": name,
        "seed": seed,
        "data": section.model_dump(mode="json"),
        "model": _FAMILY,
        "train": {
            "optimizer": {
                "kind": "sgd",
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
            },
            "schedule": {"kind": "triangular"},
        },
        "method": {"kind": "dpet_anneal"},
    }
    return validate(plain, "dpet fit")


def _least_visits(config: Config, data: Data, target: float, level: Level) -> float:
    """Return the fewest examples by which a network of the family is to reach a target.

    They are infinite if none is ever expected to.
    """
    law = shipped(config.model.kind)
    score = level.score(law.aim(target))
    each = (law.visits_to(score, parameters) for _, parameters in _sizes(config, data))
    return min((visits for visits in each if visits is not None), default=math.inf)


def _sizes(config: Config, data: Data) -> Iterator[tuple[Config, int]]:
    """Yield the config of each size of the family, smallest first, and parameters."""
    for scale, network in family_networks(config, data).networks.items():
        model = config.model.scaled(scale)
        yield config.model_copy(update={"model": model}), num_parameters(network)


def _changed(config: Config, parts: dict[str, dict[str, Any]]) -> Config:
    """Return a checked config in which some keys of some sections are others."""
    plain = config.model_dump(mode="json")
    for section, keys in parts.items():
        plain[section] = (plain[section] or {}) | keys
    return validate(plain, "dpet fit")


def _with_batch(config: Config, batch: int) -> Config:
    optimizer = config.train.optimizer.model_copy(
        update={"learning_rate": recipe_rate(batch)}
    )
    return _changed(
        config,
        {
            "train": {
                "batch_size": batch,
                "optimizer": optimizer.model_dump(mode="json"),
            }
        },
    )


def _augmented(config: Config, data: Data) -> Config:
    """Shift all pictures, and mirror those in colour: of greys many are signs."""
    height, width, channels = data.image_shape
    shift = min(4, max(1, min(height, width) // 8))
    augment = {"translate": shift, "flip": channels == 3}
    return _changed(config, {"train": {"augment": augment}})


def _file_name(text: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in text).strip("_")
    return kept or "data"


# the result


def _finished(
    kept: dict[str, Any],
    budget: Budget,
    result: Result,
    config: Config,
    notes: Sequence[str],
) -> Fit:
    out, summary = result.folder, result.summary
    assert summary is not None
    whole = export(out, "f32", out / MODEL, None)
    small = export(out, "int8", out / MODEL_INT8, None)
    table = _write_coreset(out, config)
    used_s = kept["before_s"] + summary["wall_s"] + summary["lost"]["seconds"]
    spent = f"{used_s:.1f} s"
    if budget.unit == "seconds":
        spent += f" of {budget.amount:g} ({100 * used_s / budget.amount:.1f} %)"
    if budget.unit == "wh":
        energy = summary["energy"]
        used_wh = (kept["before_wh"] or 0.0) + energy["wh"] + (energy["lost_wh"] or 0.0)
        spent += f" with {100 * used_wh / budget.amount:.1f} % of {budget}"
        if energy["quality"] == "modelled":
            spent += ", by the middle of the model"
    validation = summary["validation_accuracy"]
    accuracy = f"test accuracy {summary['test_accuracy']:.4f}" + (
        "" if validation is None else f", validation {validation:.4f}"
    )
    target = ""
    if budget.unit == "target":
        word = "reached" if summary["test_accuracy"] >= budget.amount else "missed"
        target = f"; {word} {budget.amount:g}"
    answer = [
        f"done in {spent}: {accuracy}{target}",
        f"{'took':<12}{summary['visits']:,} examples, {summary['epochs']:.2f} "
        f"full-pass equivalents; energy {summary['energy']['headline']}",
        f"{'model':<12}{out / MODEL} ({whole.size / 1e6:.2f} MB; int8 "
        f"{small.size / 1e6:.2f} MB beside it)",
    ]
    if table is not None:
        answer.append(f"{'coreset':<12}{table}")
    if begun := summary.get("pool"):
        ranked = len(begun["ranked"]) - 1
        answer.append(f"{'began':<12}from {begun['chosen']}, of a pool of {ranked}")
    answer += [f"{'note':<12}{note}" for note in notes]
    commands = (
        f"dpet predict {out} --data=NEW_PICTURES",
        f"dpet export {out} --bf16 --out=model.safetensors",
    )
    return Fit(out, result, tuple(answer), commands)


def _write_coreset(out: Path, config: Config) -> Path | None:
    """Write the examples worth keeping: what each is, its class, how often kept."""
    if not (out / CORESET).exists():
        return None
    run = load_run(out)
    chosen = run.coreset
    assert chosen is not None
    rows = chosen["source_rows"]
    section = config.data
    files = section.training_files() if isinstance(section, Folder) else None
    names = [str(row) if files is None else str(files[row]) for row in rows]
    kept = chosen.get("kept", np.zeros(len(rows), np.int32))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row" if files is None else "file", "label", "passes_kept"])
    for name, label, often in zip(names, chosen["labels"], kept, strict=True):
        cells = name, run.class_names[int(label)], int(often)
        table.writerow(map(csv_cell, cells))
    write_whole(out / CORESET_TABLE, text.getvalue())
    return out / CORESET_TABLE
