"""The ranking law and the level of a data set, from run folders."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, read_yaml
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.methods.standard import Standard
from dpet_jax.models.network import network_from_json
from dpet_jax.planner.law import (
    LEAST_STEPS,
    SHIPPED,
    Law,
    Level,
    Observation,
    fit_level,
    refit,
    shipped,
)
from dpet_jax.run.folder import CHECKPOINTS, CONFIG, SUMMARY
from dpet_jax.run.planning import num_parameters, write_law
from dpet_jax.training.checkpoint import Checkpoints

#: A schedule has decayed where its last rate is at most so much of its largest.
_DECAYED = 0.02


class Calibrated(NamedTuple):
    """A law that was refitted.

    Attributes:
        law: The law.
        prior: Where its coefficients started.
        family: Kind of the models.
        observations: What it was fitted to.
        left_out: Why others were not, a sentence each.
    """

    law: Law
    prior: Law
    family: str
    observations: tuple[Observation, ...]
    left_out: tuple[str, ...]


def calibrate(paths: Sequence[Path], prior: Law | None = None) -> Calibrated:
    """Refit the law to finished runs of one family, held to a prior by a ridge.

    Level and slope belong to each data set and recipe. Runs of a data set and recipe of
    which there are fewer than three are left out, for two only fix level and slope.

    Args:
        paths: Run folders, or folders above such.
        prior: Where the coefficients start, and stay where the runs say little; by
            default at the shipped law of their family.

    Raises:
        UserError: If no runs are left, or they are of several families.
    """
    runs, left_out = _read(paths, SHIPPED if prior is None else prior)
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    for members in [few for few in groups.values() if len(few) < 3]:
        left_out += [
            f"{run.folder}: one of {len(members)} with its data and recipe, of which "
            "a fit takes three"
            for run in members
        ]
        del groups[members[0].group]
    used = [run for members in groups.values() for run in members]
    if not used:
        raise UserError(_none(paths, left_out))
    families = sorted({run.family for run in used})
    if len(families) > 1:
        raise UserError(
            f"{paths[0]}: these are runs of {' and '.join(families)}; calibrate one "
            "family at a time"
        )
    prior = shipped(families[0]) if prior is None else prior
    observations = tuple(run.observation for run in used)
    try:
        law = refit(observations, prior, family=families[0])
    except ValueError as error:
        raise UserError(f"{paths[0]}: cannot calibrate: {error}") from error
    return Calibrated(law, prior, families[0], observations, tuple(left_out))


def level_of(paths: Sequence[Path], law: Law, fingerprint: str) -> Level:
    """Fit the level of the error on a data set to finished runs on it.

    Args:
        paths: At least two run folders, or folders above such.
        law: Gives their g.
        fingerprint: Of the data set; runs on another one fix nothing.

    Raises:
        UserError: If they do not fix it.
    """
    runs, left_out = _read(paths, law)
    other = [run for run in runs if run.fingerprint != fingerprint]
    left_out += [f"{run.folder}: trained on other data" for run in other]
    here = [run.observation for run in runs if run.fingerprint == fingerprint]
    if len(here) < 2:
        raise UserError(_none(paths, left_out))
    try:
        return fit_level(here, law)
    except ValueError as error:
        raise UserError(f"{paths[0]}: fix no level: {error}") from error


def calibration_lines(
    paths: Sequence[Path], prior: Law | None, out: Path
) -> Iterator[str]:
    """Refit the law, write it, and yield what `dpet plan --calibrate` prints.

    Args:
        paths: Run folders, or folders above such.
        prior: Where the coefficients start; None for the shipped law of the family.
        out: Gets the law.

    Raises:
        UserError: See `calibrate`; or if the file cannot be written.
    """
    found = calibrate(paths, prior)
    write_law(found.law, out)
    groups = len({one.group for one in found.observations})
    yield (
        f"{len(found.observations)} runs of {found.family} in {groups} groups of equal "
        f"data and recipe; residuals {100 * found.law.residual:.2f} points"
    )
    for name in "abcd":
        before, after = getattr(found.prior, name), getattr(found.law, name)
        yield f"  {name}  {after:8.4f}  ({before:.4f} before)"
    for why in found.left_out:
        yield f"left out    {why}"
    yield f"law         {out}; plan by it with: dpet plan CONFIG --law={out}"


class _Run(NamedTuple):
    folder: Path
    family: str
    fingerprint: str
    group: str
    observation: Observation


def _read(paths: Sequence[Path], law: Law) -> tuple[list[_Run], list[str]]:
    runs, problems = [], []
    for path in paths:
        folders = sorted(mark.parent for mark in path.rglob(SUMMARY))
        if not folders:
            problems.append(f"{path}: holds no finished run")
        for folder in folders:
            try:
                runs.append(_read_run(folder, law))
            except (UserError, OSError, KeyError, TypeError) as error:
                text = str(error).partition("\n")[0]
                told = isinstance(error, UserError)
                problems.append(text if told else f"{folder}: cannot be read ({text})")
    return runs, problems


def _read_run(folder: Path, law: Law) -> _Run:
    summary = read_json(folder / SUMMARY)
    config = validate(read_yaml(folder / CONFIG), str(folder / CONFIG))
    batch, visits = config.train.batch_size, int(summary["visits"])
    accuracy = summary["validation_accuracy"]  # test is for judging the plan
    reason = _unfit(config, summary)
    if reason is None and visits < LEAST_STEPS * batch:
        reason = f"saw {visits:,} examples, fewer than {LEAST_STEPS} steps have"
    if reason is None and not (accuracy is not None and 0 < accuracy < 1):
        reason = "its error on validation is 0, or was not measured"
    if reason is not None:
        raise UserError(f"{folder}: {reason}")
    with closing(Checkpoints(folder / CHECKPOINTS, read_only=True)) as checkpoints:
        if checkpoints.latest is None:
            raise UserError(f"{folder}: has no checkpoint that says its network")
        facts = checkpoints.read_meta()["facts"]
    try:
        network = network_from_json(facts["model"])
    except ValueError as error:
        raise UserError(f"{folder}: its network cannot be rebuilt: {error}") from error
    fingerprint = str(summary["fingerprint"])
    group = json.dumps(
        {
            "fingerprint": fingerprint,
            "data": [summary["num_train"], config.data.label_noise],
            "family": config.model.kind,
            "train": _recipe(config),
            "dropped": getattr(config.method, "dropped", 0.0),
        },
        sort_keys=True,
    )
    observation = Observation(
        group,
        law.in_effect(visits, batch),
        num_parameters(network),
        float(accuracy),
    )
    return _Run(folder, config.model.kind, fingerprint, group, observation)


def _unfit(config: Config, summary: dict[str, Any]) -> str | None:
    """Return why a run says nothing about the law; None if it does."""
    schedule, train = config.train.schedule, config.train
    last = getattr(schedule, "final_learning_rate", None)
    if summary["stopped_by"] != "finished":
        return f"was ended by {summary['stopped_by']} before its schedule was over"
    if not isinstance(config.method, Standard | DpetAnneal):
        return f"trains by {config.method.kind}, not in one schedule on everything"
    if last is None or last > _DECAYED * train.optimizer.learning_rate:
        return f"its rate has not decayed to the end ({schedule.kind})"
    if not isinstance(getattr(schedule, "horizon", "plan"), str):
        return "its schedule has a horizon of its own"
    if config.pool is not None:
        return "started from a network that was trained before"
    return None


def _recipe(config: Config) -> dict[str, Any]:
    """Return how a config trains; its rate over the root of the batch size."""
    plain = config.train.model_dump(mode="json")
    rate = plain["optimizer"]["learning_rate"] / math.sqrt(plain.pop("batch_size"))
    plain["optimizer"]["learning_rate"] = f"{rate:.2g}"
    return plain


def _none(paths: Sequence[Path], left_out: Sequence[str]) -> str:
    why = "; ".join(left_out[:3])
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return f"{paths[0]}: too few runs that fit: {why or 'only one'}{more}"
