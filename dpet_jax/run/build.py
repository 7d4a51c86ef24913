"""From a config to the parts of a run; the only code that knows both."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from dpet_jax.config import experiment as schema
from dpet_jax.data import Data, prepare
from dpet_jax.data.augment import Augmentation
from dpet_jax.data.stored import Home, home_of, read_source
from dpet_jax.energy import Accelerator, CpuPowerModel, EnergyMeter, Probe, discover
from dpet_jax.energy.probes.neighbours import watched
from dpet_jax.errors import UserError
from dpet_jax.methods.base import ModelHandle, Pool
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD, Network
from dpet_jax.run.limits import Limits
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import LearnerSpec, data_mesh
from dpet_jax.training.memory import Placed, check_memory, placed
from dpet_jax.training.placement import rooms
from dpet_jax.training.prune import fast_multiple
from dpet_jax.training.resolution import Ladder
from dpet_jax.training.schedule import schedules_with, traced_schedule
from dpet_jax.training.state import StepSpec
from dpet_jax.training.steps import Hyper
from dpet_jax.training.traced import numbers_of, without_numbers


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


def build_data(config: schema.Config, home: Home | None = None) -> Data:
    """Read the data set and split it.

    Args:
        config: The run's.
        home: Where its pixels are to be; by default as sizes here have it.
    """
    home = home_of(config.data) if home is None else home
    section = config.data.model_copy(update={"placement": home.placement})
    data = prepare(read_source(section), section).read_by(section.kind, home.reason)
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


def build_model(config: schema.Config, data: Data) -> Network:
    """Shape the network for the data set; refuse one too large for this machine."""
    model = config.model.build(data.num_classes, data.input_shape)
    batches = config.train.batch_size, config.evaluate.batch_size
    check_memory(
        model,
        data.input_shape,
        *batches,
        dtype_of(config),
        copies=config.train.ema is not None,
    )
    _check_sides(config, data, model)
    return model


def _check_sides(config: schema.Config, data: Data, model: Network) -> None:
    """Refuse a network whose parameters depend on the side of its images."""
    resolution = config.train.resolution
    if resolution is None:
        return
    first, channels = resolution.start, data.input_shape[2]
    small = config.model.build(data.num_classes, (first, first, channels))
    if _sizes(small) != _sizes(model):
        raise UserError(
            f"train.resolution: {model.label} has other parameters for images of "
            f"{first} pixels than for those of {data.input_shape[0]}; choose a network "
            "that ends with a mean over all pixels, such as a residual one with its "
            "model.stem_kind named, or leave train.resolution at null"
        )


def _sizes(model: Network) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in model.shapes().items()}


def build_placement(config: schema.Config, data: Data, model: Network) -> Placed:
    """Choose where the pixels are while the run trains.

    Raises:
        UserError: If they are asked onto a device without room for them, or if there is
            no room for a batch.
    """
    budget = config.data.device_budget_mib
    batches = config.train.batch_size, config.evaluate.batch_size
    found = placed(
        model,
        data.images,
        batches,
        dtype_of(config),
        copies=config.train.ema is not None,
        asked=config.data.placement,
        budget=None if budget is None else int(budget * 2**20),
        because=data.placed_by,
    )
    if found.room is not None:
        parts = (-(-batch // data_mesh().size) for batch in batches)
        rooms(found.room, math.prod(data.image_shape), *parts)
    return found


def full_pass_flops(data: Data, model: Network) -> int:
    """Count the FLOPs of training a network on every training example once."""
    forward = model.forward_flops(*data.input_shape[:2])
    return data.num_train * TRAIN_FLOPS_PER_FORWARD * forward


def build_auxiliary(
    config: schema.Config, model: Network
) -> tuple[ModelHandle, Network] | None:
    """Shape the network that the method has trained to choose by, if it needs one.

    Args:
        config: The run's.
        model: The main network.

    Raises:
        UserError: If the model has no form so narrow.
    """
    wanted = config.method.auxiliary
    if wanted is None:
        return None
    handle, share = wanted
    if share == 1:
        return handle, model
    try:
        return handle, config.model.narrower(model, share)
    except ValueError as error:
        raise UserError(
            f"method.proxy.width_multiplier: {share:g} {error}, or leave method.proxy "
            "at null"
        ) from error


def build_learner_spec(
    config: schema.Config,
    model: Network,
    scores: tuple[str, ...] | None = None,
    room: int | None = None,
) -> LearnerSpec:
    """Return how the learner computes.

    Args:
        config: The run's.
        model: The main network.
        scores: What it will be asked for; by default what the method names.
        room: Bytes of the device that pixels may take; None where all are on it.
    """
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
    quantize = config.train.quantize
    step = StepSpec(
        model,
        without_numbers(config.train.optimizer),
        config.train.batch_size,
        dtype_of(config),
        mesh,
        schedules_with(config.train.schedule),
        margins=config.method.asks_margins,
        averaged=config.train.ema is not None,
        bits=None if quantize is None else quantize.bits,
        input_size=config.data.input_size,
    )
    return LearnerSpec(
        step,
        config.evaluate.batch_size,
        config.method.scores if scores is None else scores,
        build_auxiliary(config, model),
        _ladder(config),
        room,
    )


def _ladder(config: schema.Config) -> Ladder | None:
    section, last = config.train.resolution, config.data.input_size
    return None if section is None or last is None else section.ladder(last)


def build_hyper(config: schema.Config) -> Hyper:
    """Collect the traced numbers of training; the horizon is set by each plan."""
    train, quantize = config.train, config.train.quantize
    augment = train.augment
    return Hyper(
        schedule=traced_schedule(train.schedule, train.optimizer.learning_rate),
        optimizer=numbers_of(train.optimizer),
        label_smoothing=_single(train.label_smoothing),
        augmentation=Augmentation(
            _whole(augment.translate),
            _switch(augment.flip),
            _whole(augment.cutout),
            None if augment.cutout_ramp is None else _single(augment.cutout_ramp),
            None if augment.crop is None else augment.crop.traced(),
        ),
        ema=None if train.ema is None else _single(train.ema),
        quantize_from=None if quantize is None else _single(quantize.start),
        scale_penalty=_single(config.prune.l1)
        if config.prune is not None and config.prune.watches
        else None,
    )


def dtype_of(config: schema.Config) -> str:
    """Return the precision; float32, the dearest, where it is still to be chosen."""
    dtype = config.model.compute_dtype
    return "float32" if dtype == "auto" else dtype


def check_prune(config: schema.Config, model: Network) -> None:
    """Refuse to prune a network that nothing can be cut out of.

    Args:
        config: The run's.
        model: Its network.

    Raises:
        UserError: If there is nothing.
    """
    if config.prune is None:
        return
    sizes = [group.size for group in model.channel_groups]
    if not sizes:
        raise UserError(
            f"prune: {model.label} says of no channels that they can be cut out; "
            "leave prune at null, or choose a residual network"
        )
    asked = config.prune.multiple
    multiple = fast_multiple() if asked == "auto" else asked
    if max(sizes) <= multiple:
        raise UserError(
            f"prune.multiple: {multiple} is what every block keeps at least, but none "
            f"of {model.label} has more than {max(sizes)} channels inside; choose a "
            "smaller multiple or a wider model"
        )


# The records of traced values are annotated with JAX's arrays; before they go to the
# device these are numpy's.


def _single(value: float) -> Any:
    return np.float32(value)


def _whole(value: int) -> Any:
    return np.int32(value)


def _switch(value: bool) -> Any:
    return np.bool_(value)


def _no_energy(what: str, instead: str, unavailable: Iterable[Any]) -> UserError:
    reasons = "; ".join(f"{each.component}: {each.reason}" for each in unavailable)
    return UserError(
        f"{what} needs a source of energy, and this machine has none ({reasons}); see "
        f"dpet doctor, {instead} instead, or accept a model with "
        "energy.allow_modelled and energy.cpu_model (dpet fit: --cpu-model)"
    )


def build_meter(
    config: schema.Config, meters: Sequence[Probe] = (), *, host: bool = True
) -> EnergyMeter:
    """Make the energy meter, and refuse a budget that it could never enforce.

    Args:
        config: The run's.
        meters: Meters of the user's own.
        host: Whether this process measures CPU and memory of its machine; one does.
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
        host=host,
        include=section.include,
    )
    # another process may measure the machine that this one is on
    nothing = host and not found.probes
    if config.budget.wh is not None and nothing:
        raise _no_energy(
            f"budget.wh: {config.budget.wh:g}",
            "give budget.epochs, budget.visits or budget.seconds",
            found.unavailable,
        )
    if config.method.asks_joules and nothing:
        raise _no_energy(
            "method.tuner.cost: joules", "count epochs or seconds", found.unavailable
        )
    # until there is a learner, nothing is on the device that could be waited for
    no_device = Accelerator(
        barrier=lambda: None, compile_s=lambda: compile_counts().seconds
    )
    return EnergyMeter(watched(found), period_s=section.period_s, accelerator=no_device)


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
        pace=config.budget.pace,
        plateau=config.plateau,
    )
