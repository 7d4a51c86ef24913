"""From a config to the parts of a run; the only code that knows both."""

from pathlib import Path
from typing import Any

import numpy as np

from dpet_jax import schema
from dpet_jax.data import Data, prepare
from dpet_jax.data.augment import Augmentation
from dpet_jax.data.sources import digits, npz, parquet, tfds
from dpet_jax.errors import UserError
from dpet_jax.learner import LearnerSpec, data_mesh
from dpet_jax.methods.active_learning import ActiveLearning
from dpet_jax.methods.base import Coreset, Method
from dpet_jax.methods.coreset import saved_coreset
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.query import Query
from dpet_jax.methods.rs2 import rs2
from dpet_jax.methods.standard import standard
from dpet_jax.models import ResNetSpec, resnet18, resnet20
from dpet_jax.stopping import Limits
from dpet_jax.training import SCHEDULES, Hyper, Schedule, StepSpec


def build_data(config: schema.Config) -> Data:
    """Read the data set and split it."""
    section = config.data
    match section:
        case schema.TfdsData():
            source = tfds.read(
                section.name,
                section.path,
                train_split=section.train_split,
                test_split=section.test_split,
                image_size=section.image_size,
            )
        case schema.ParquetData():
            source = parquet.read(
                section.path,
                image_column=section.image_column,
                label_column=section.label_column,
                image_size=section.image_size,
            )
        case schema.NpzData():
            source = npz.read(section.path)
        case _:
            source = digits.read()
    data = prepare(
        source,
        image_size=section.image_size,
        validation_fraction=section.validation_fraction,
        split_seed=section.split_seed,
        label_noise=section.label_noise,
        noise_seed=section.split_seed,
    )
    _check_fit(config, data)
    return data


def _check_fit(config: schema.Config, data: Data) -> None:
    """Refuse a training set-up that this data set does not allow."""
    batch, translate = config.train.batch_size, config.train.augment.translate
    if data.num_train < batch:
        raise UserError(
            f"train.batch_size: {batch} is more than the {data.num_train} training "
            f"examples of {data.name}; choose at most {data.num_train}"
        )
    side = min(data.image_shape[:2])
    if translate >= side:
        raise UserError(
            f"train.augment.translate: {translate} shifts images of {data.name} by "
            f"their whole side of {side} pixels or more; choose at most {side - 1}"
        )


def build_model(config: schema.Config, data: Data) -> ResNetSpec:
    """Shape the network for the data set."""
    section, channels = config.model, data.image_shape[2]
    match section:
        case schema.ResNetModel():
            return ResNetSpec(
                section.stem,
                section.channels,
                section.blocks,
                data.num_classes,
                channels,
            )
        case schema.ResNet20Model():
            scale = section.scale
            return resnet20(
                data.num_classes,
                channels,
                width_multiplier=scale or section.width_multiplier,
                depth_multiplier=scale or section.depth_multiplier,
                channel_multiple=section.channel_multiple,
            )
        case _:
            return resnet18(
                data.num_classes,
                channels,
                width_multiplier=section.width_multiplier,
                depth_multiplier=section.depth_multiplier,
                channel_multiple=section.channel_multiple,
            )


def build_learner_spec(
    config: schema.Config, model: ResNetSpec, scores: tuple[str, ...]
) -> LearnerSpec:
    """Say how the learner computes."""
    mesh = data_mesh()
    batches = {
        "train.batch_size": config.train.batch_size,
        "evaluate.batch_size": config.evaluate.batch_size,
    }
    for key, batch in batches.items():
        if batch % mesh.size:
            raise UserError(
                f"{key}: {batch} does not divide among {mesh.size} devices; choose a "
                f"multiple of {mesh.size}"
            )
    family = "sgd" if config.train.optimizer.kind == "sgd" else "adam"
    step = StepSpec(
        model, family, config.train.batch_size, config.model.compute_dtype, mesh
    )
    return LearnerSpec(step, config.evaluate.batch_size, scores)


def build_hyper(config: schema.Config) -> Hyper:
    """Collect the traced numbers of training; the horizon is set by each plan."""
    optimizer, schedule = config.train.optimizer, config.train.schedule
    peak = optimizer.learning_rate
    augment = config.train.augment
    decay, decoupled = (
        optimizer.weight_decay,
        isinstance(optimizer, schema.AdamWOptimizer),
    )
    triangular = isinstance(schedule, schema.TriangularSchedule)
    constant = isinstance(schedule, schema.ConstantSchedule)
    sgd = isinstance(optimizer, schema.SgdOptimizer)
    single = np.float32
    return Hyper(
        schedule=Schedule(
            kind=np.int32(SCHEDULES.index(schedule.kind)),
            peak=single(peak),
            final=single(0.0 if constant else schedule.final_learning_rate),
            start=single(peak * schedule.start_fraction if triangular else peak),
            peak_at=single(schedule.peak_at if triangular else 0.5),
            horizon=single(1.0),
            cyclic=np.bool_(False),
        ),
        momentum=single(optimizer.momentum if sgd else 0.0),
        nesterov=np.bool_(optimizer.nesterov if sgd else False),
        b1=single(0.9 if sgd else optimizer.b1),
        b2=single(0.999 if sgd else optimizer.b2),
        eps=single(1e-8 if sgd else optimizer.eps),
        gradient_decay=single(0.0 if decoupled else decay),
        decoupled_decay=single(decay if decoupled else 0.0),
        label_smoothing=single(config.train.label_smoothing),
        augmentation=Augmentation(
            np.int32(augment.translate),
            np.bool_(augment.flip),
            np.int32(augment.cutout),
        ),
    )


def build_method(config: schema.Config, data: Data) -> Method:
    """Make the method."""
    section = config.method
    match section:
        case schema.StandardMethod():
            return standard(section.passes)
        case schema.Rs2Method():
            return rs2(
                section.keep_fraction, section.passes, replacement=section.replacement
            )
        case schema.CoresetMethod():
            return saved_coreset(load_coreset(section.path, data), section.passes)
        case schema.ActiveLearningMethod():
            return ActiveLearning(
                Query(section.score, section.query_size, section.candidate_fraction),
                initial_size=section.initial_size,
                passes_per_round=section.passes_per_round,
                max_rounds=section.max_rounds,
                from_scratch=section.from_scratch,
            )
        case _:
            query = Query(
                section.score,
                section.query_size,
                section.candidate_fraction,
                section.dissimilarity.kind,
                section.dissimilarity.weight,
                artifact=section.compat == "artifact",
            )
            return Dpet(
                query,
                warmup_passes=section.warmup_passes,
                keep_fraction=section.keep_fraction,
                passes_per_round=section.passes_per_round,
                max_rounds=section.max_rounds,
            )


def build_limits(config: schema.Config) -> Limits:
    """Collect targets, budgets and the evaluation grid."""
    validated = config.data.validation_fraction > 0
    split = config.stop.on if validated or config.stop.on == "test" else None
    return Limits(
        targets=config.targets,
        stop_target=config.stop.target,
        split=split,
        every=config.evaluate.every,
        epochs=config.budget.epochs,
        visits=config.budget.visits,
        seconds=config.budget.seconds,
    )


def coreset_arrays(chosen: Coreset, data: Data) -> dict[str, np.ndarray]:
    """Return what coreset.npz holds: rows of the source, not of this run's split."""
    return {
        "source_rows": data.source_rows[chosen.indices],
        "labels": data.labels[chosen.indices],
        "round": chosen.round_index,
        "score": chosen.scores,
        "fingerprint": np.array(data.fingerprint),
        "dataset": np.array(data.name),
    }


def load_coreset(path: Path, data: Data) -> Coreset:
    """Read a coreset.npz and find its rows in this run's training split.

    Raises:
        UserError: If the file is no coreset, was chosen from other data, or holds rows
            that this run keeps for validation.
    """
    key = f"method.path: {path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            saved: dict[str, Any] = dict(file)
        rows, rounds, scores = saved["source_rows"], saved["round"], saved["score"]
        fingerprint = str(saved["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{key}: is no coreset ({error}); give the coreset.npz of a finished run"
        ) from error
    if fingerprint != data.fingerprint:
        raise UserError(
            f"{key}: was chosen from {saved.get('dataset', 'other data')!s} with "
            f"fingerprint {fingerprint[:12]}, but this run reads {data.name} with "
            f"{data.fingerprint[:12]}; use the same data and data.image_size"
        )
    if rows.size == 0:
        raise UserError(f"{key}: holds no examples; give a run that selected some")
    train_rows = data.source_rows[: data.num_train]
    order = np.argsort(train_rows)
    found = np.searchsorted(train_rows, rows, sorter=order)
    positions = order[np.minimum(found, data.num_train - 1)]
    outside = train_rows[positions] != rows
    if outside.any():
        raise UserError(
            f"{key}: {int(outside.sum())} of its {rows.size} rows are in this run's "
            "validation split; use the data.split_seed and data.validation_fraction "
            "that it was chosen with"
        )
    return Coreset(positions.astype(np.int32), rounds, scores)
