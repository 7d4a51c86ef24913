"""From a config to the parts of a run; the only code that knows both."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from dpet_jax import section as sections
from dpet_jax.config import experiment as schema
from dpet_jax.data import Data, prepare
from dpet_jax.data.augment import Augmentation
from dpet_jax.energy import Accelerator, CpuPowerModel, EnergyMeter, Probe, discover
from dpet_jax.errors import UserError
from dpet_jax.methods.base import Pool
from dpet_jax.models import ResNetSpec, resnet18, resnet20
from dpet_jax.models.spec import scaled_channels
from dpet_jax.run.limits import Limits
from dpet_jax.training import SCHEDULES, Family, Hyper, Schedule, StepSpec
from dpet_jax.training.learner import LearnerSpec, data_mesh


def build_pool(data: Data) -> Pool:
    """Return the training split as a method sees it."""
    count = data.num_train
    return Pool(
        count,
        data.labels[:count],
        data.num_classes,
        data.source_rows[:count],
        data.name,
        data.fingerprint,
    )


def build_data(config: schema.Config) -> Data:
    """Read the data set and split it."""
    data = prepare(config.data.read(), config.data)
    check_fit(config, data)
    return data


def check_fit(config: schema.Config, data: Data) -> None:
    """Refuse a training set-up that this data set does not allow.

    Raises:
        UserError: If it does not.
    """
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
        case sections.ResNetModel():
            return ResNetSpec(
                section.stem,
                section.channels,
                section.blocks,
                data.num_classes,
                channels,
            )
        case sections.ResNet20Model():
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


def build_proxy(config: schema.Config, model: ResNetSpec) -> ResNetSpec | None:
    """Shape the narrow network that scores in place of the model, if one is wanted.

    Args:
        config: The run's.
        model: Shape of the main network, whose depth it keeps.

    Raises:
        UserError: If so many channels cannot be made fewer.
    """
    section = getattr(config.method, "proxy", None)
    if section is None:
        return None
    share = section.width_multiplier
    multiple = getattr(config.model, "channel_multiple", 8)
    stem, *channels = (
        min(base, scaled_channels(base, share, multiple))
        for base in (model.stem, *model.channels)
    )
    proxy = replace(model, stem=stem, channels=tuple(channels))
    if share < 1 and proxy == model:
        raise UserError(
            f"method.proxy.width_multiplier: {share:g} leaves the model's channels "
            f"{list(model.channels)} as they are, which are at least 8 and rounded to "
            f"multiples of {multiple}; choose a smaller one, a wider model, or leave "
            "method.proxy at null"
        )
    return proxy


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
    step = StepSpec(
        model,
        optimizer_family(config),
        config.train.batch_size,
        config.model.compute_dtype,
        mesh,
    )
    narrow = build_proxy(config, model)
    batch = config.evaluate.batch_size
    method = config.method
    if not isinstance(method, method_sections.OneShotMethod):
        return LearnerSpec(step, batch, scores, proxy=narrow)
    # it is pre-trained on a plan of its own, not on those of the model
    asks = method.by != "random" and method.choose_every is None
    return LearnerSpec(step, batch, scores, fresh=(narrow or model) if asks else None)


def optimizer_family(config: schema.Config) -> Family:
    """Return the shape of the optimizer's state."""
    return "sgd" if config.train.optimizer.kind == "sgd" else "adam"


def build_hyper(config: schema.Config) -> Hyper:
    """Collect the traced numbers of training; the horizon is set by each plan.

    What the configured optimizer or schedule does not know is neutral.
    """
    optimizer = config.train.optimizer.model_dump()
    schedule = config.train.schedule.model_dump()
    augment = config.train.augment
    peak, decay = optimizer["learning_rate"], optimizer["weight_decay"]
    decoupled = optimizer["kind"] == "adamw"
    return Hyper(
        schedule=Schedule(
            kind=_whole(SCHEDULES.index(schedule["kind"])),
            peak=_single(peak),
            final=_single(schedule.get("final_learning_rate", 0.0)),
            start=_single(peak * schedule.get("start_fraction", 1.0)),
            peak_at=_single(schedule.get("peak_at", 0.5)),
            horizon=_single(1.0),
            cyclic=_switch(False),
        ),
        momentum=_single(optimizer.get("momentum", 0.0)),
        nesterov=_switch(optimizer.get("nesterov", False)),
        b1=_single(optimizer.get("b1", 0.9)),
        b2=_single(optimizer.get("b2", 0.999)),
        eps=_single(optimizer.get("eps", 1e-8)),
        gradient_decay=_single(0.0 if decoupled else decay),
        decoupled_decay=_single(decay if decoupled else 0.0),
        label_smoothing=_single(config.train.label_smoothing),
        augmentation=Augmentation(
            _whole(augment.translate), _switch(augment.flip), _whole(augment.cutout)
        ),
    )


# The records of traced values are annotated with JAX's arrays; before they go to the
# device these are numpy's.


def _single(value: float) -> Any:
    return np.float32(value)


def _whole(value: int) -> Any:
    return np.int32(value)


def _switch(value: bool) -> Any:
    return np.bool_(value)


def build_meter(config: schema.Config, meters: Sequence[Probe] = ()) -> EnergyMeter:
    """Make the energy meter, and refuse a budget that it could never enforce.

    Args:
        config: The run's.
        meters: Meters of the user's own.
    """
    section = config.energy
    model = None
    if section.cpu_model is not None:
        watts = section.cpu_model
        try:
            model = CpuPowerModel(watts.idle_w, watts.max_w, watts.source)
        except ValueError as error:
            raise UserError(f"energy.cpu_model: {error}") from error
    found = discover(
        jax.local_devices(),
        meters=meters,
        cpu_model=model,
        host=jax.process_index() == 0,
        include=section.include,
    )
    if config.budget.wh is not None and not found.probes:
        reasons = "; ".join(f"{e.component}: {e.reason}" for e in found.unavailable)
        raise UserError(
            f"budget.wh: {config.budget.wh:g} needs a source of energy, and this "
            f"machine has none ({reasons}); see dpet doctor, give budget.epochs, "
            "budget.visits or budget.seconds instead, or accept a model with "
            "energy.allow_modelled and energy.cpu_model"
        )
    # until there is a learner, nothing is on the device that could be waited for
    no_device = Accelerator(barrier=lambda: None)
    return EnergyMeter(found, period_s=section.period_s, accelerator=no_device)


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
        wh=config.budget.wh,
    )
