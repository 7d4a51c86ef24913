"""The pool of pre-trained networks as runs see it: what they add, and how they start.

The choice is made once, at the beginning of a run, and recorded in its folder with what
the run starts from; a run that is resumed reads it there, whatever has become of the
pool.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.energy import EnergyMeter
from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.files import read_json, read_yaml
from dpet_jax.models.network import (
    TRAIN_FLOPS_PER_FORWARD,
    Network,
    network_from_json,
)
from dpet_jax.models.weights import (
    FINGERPRINT,
    Arrays,
    WeightsError,
    flatten,
    nest,
    read_weights,
    write_weights,
)
from dpet_jax.pretrained.choice import (
    SCRATCH,
    Candidate,
    PoolConfig,
    amortised,
    choose,
)
from dpet_jax.pretrained.pool import Card, ModelPool, Training, arrays_of
from dpet_jax.pretrained.probe import (
    Normalisation,
    Probe,
    ridge_flops,
    ridge_head,
    softened,
    stratified,
)
from dpet_jax.run.build import dtype_of
from dpet_jax.run.folder import CONFIG, POOL, START, SUMMARY, RunFolder, reading
from dpet_jax.run.load import load_run
from dpet_jax.training.learner import Start
from dpet_jax.training.memory import check_memory

Compiling = Callable[[], AbstractContextManager[Any]]

#: Fewest images of a class that a choice can be made by: one and its neighbour.
_PER_CLASS = 2


@dataclass(frozen=True)
class Beginning:
    """What a run starts from.

    Attributes:
        decision: How it was chosen: "chosen", "rule", "ranked", "cost", …; plain data,
            empty for a run without a pool.
        network: The run's network.
        data: The run's data, normalised as the network expects it.
        start: What the network starts from; None draws all of it.
        untrained: Whether it stays as it starts.
    """

    decision: dict[str, Any]
    network: Network
    data: Data
    start: Start | None = None
    untrained: bool = False

    @property
    def flops(self) -> int:
        """FLOPs of the choice and of a head in closed form."""
        return int(self.decision["cost"]["flops"]) if self.decision else 0


# into the pool


def card_to_pool(folder: Path, name: str, licence: str | None) -> tuple[Card, Arrays]:
    """Describe the network of a finished run for others to start from.

    Args:
        folder: The run's.
        name: That the network gets in the pool.
        licence: Under which it may be used.

    Raises:
        UserError: As `card_of_run`, or if it cannot be taken to other classes.
    """
    card, arrays = card_of_run(folder, name, licence)
    network = network_from_json(card.network)
    if network.head is None:
        with_classes_or_refuse(network)
    return card, arrays


def card_of_run(folder: Path, name: str, licence: str | None) -> tuple[Card, Arrays]:
    """Describe the network of a finished run.

    Args:
        folder: The run's.
        name: Of the network.
        licence: Under which it may be used.

    Raises:
        UserError: If there is no such run, or it has not ended.
    """
    run = load_run(folder)
    if not (folder / SUMMARY).exists():
        raise UserError(
            f"{folder}: the run has not ended; let it run on, with --resume, and add "
            "it then"
        )
    network = run.model
    with reading(folder):
        config, summary = read_yaml(folder / CONFIG), read_json(folder / SUMMARY)
        energy, visits = summary["energy"], summary["executed_visits"]
        trained_wh = summary["phases"]["train"]["wh"]
        joules = None
        if trained_wh is not None and visits:
            joules = 3600 * trained_wh / visits
        height, width, _ = run.view.shape(run.image_shape)
        arrays = arrays_of(jax.device_get(run.params), jax.device_get(run.batch_stats))
        parameters = [a.size for n, a in arrays.items() if n.startswith("params/")]
        card = Card(
            name=name,
            label=network.label,
            network=network.to_json(),
            model=config["model"],
            task=run.dataset,
            num_classes=network.num_classes,
            class_names=run.class_names,
            image_shape=run.image_shape,
            view=run.view,
            mean=tuple(run.mean),
            std=tuple(run.std),
            compute_dtype=run.compute_dtype,
            num_parameters=sum(parameters),
            flops_per_image=network.forward_flops(height, width),
            joules_per_image=joules,
            accuracy=summary["test_accuracy"],
            training=Training(
                wh=energy["wh"],
                quality=energy["quality"],
                seconds=summary["wall_s_without_eval"],
                flops=summary["flops"],
                epochs=summary["epochs"],
            ),
            licence=licence,
            origin=f"run {summary['name']} seed {summary['seed']}",
        )
    return card, arrays


def with_classes_or_refuse(network: Network) -> None:
    """Refuse a network that does not say which parameters are its last layer's.

    Raises:
        UserError: If it does not.
    """
    try:
        network.with_classes(network.num_classes)
    except ValueError as error:
        raise UserError(f"model: {error}") from error


# the choice


def check_pool(section: PoolConfig, data: Data, model: Network) -> None:
    """Refuse a pool, or a data set, that nothing can be chosen by.

    Raises:
        UserError: If the pool is empty or a card in it is damaged, there are too few
            images, or the run's own network cannot be compared with others.
    """
    pool = ModelPool(section.path)
    try:
        for name in _candidates(pool, section):
            pool.card(name)
    except WeightsError:
        raise
    except UserError as error:
        key = "path" if section.network is None else "network"
        raise UserError(f"pool.{key}: {error}") from error
    least = _PER_CLASS * data.num_classes
    if section.images < least:
        raise UserError(
            f"pool.images: {section.images} are less than {_PER_CLASS} for each of "
            f"the {data.num_classes} classes of {data.name}; choose at least {least}"
        )
    if model.head is None:
        with_classes_or_refuse(model)


def _candidates(pool: ModelPool, section: PoolConfig) -> list[str]:
    return pool.names() if section.network is None else [section.network]


def rank(
    config: Config,
    section: PoolConfig,
    data: Data,
    model: Network,
    compiling: Compiling = nullcontext,
) -> dict[str, Any]:
    """Measure how well each network of the pool fits the data, and choose.

    Args:
        config: The run's; its seed draws the images and the random network.
        section: The pool, and how to choose.
        data: The run's.
        model: The run's own network, which is drawn at random as "scratch".
        compiling: Opens the window in which programs are made.

    Returns:
        What `choose` gives, with "images", "flops" and a row's card facts.

    Raises:
        UserError: As `check_pool`, or if a file of the pool is damaged.
    """
    check_pool(section, data, model)
    rows = stratified(data.labels[: data.num_train], section.images, config.seed)
    images, labels = data.images.take(rows, axis=0), data.labels[rows]
    height, width, _ = data.input_shape
    flops = 0

    def measured(
        name: str, network: Network, arrays: Arrays, normalisation: Normalisation
    ) -> Candidate:
        nonlocal flops
        probe = _probe(config, network, arrays, normalisation, compiling)
        features = np.concatenate(list(probe.features(images)))
        score = probe.score(section.by, features, labels)
        forward = network.forward_flops(height, width)
        flops += probe.images_done * forward
        return Candidate(
            name,
            network.label,
            score,
            TRAIN_FLOPS_PER_FORWARD * forward,
            None
            if score is not None
            else "its features of these images are not finite",
        )

    with compiling():
        drawn = jax.device_get(jax.jit(model.init)(jax.random.key(config.seed)))
    own = Normalisation(data.mean, data.std)
    scratch = measured(SCRATCH, model, arrays_of(*drawn), own)
    if scratch.score is None:
        raise UserError(
            "pool: the features of the random network are not finite, so that nothing "
            "can be compared with them; choose another model"
        )
    candidates = [scratch]
    pool = ModelPool(section.path)
    for name in _candidates(pool, section):
        card, network, arrays = pool.load(name)
        problem, note = fit(card, network, data.input_shape)
        if config.train.resolution is not None and hasattr(network, "image_shape"):
            problem = "reads images of one size, and with train.resolution they grow"
        if problem is not None:
            forward = card.flops_per_image
            candidates.append(
                Candidate(
                    name, card.label, None, TRAIN_FLOPS_PER_FORWARD * forward, problem
                )
            )
            continue
        found = measured(name, network, arrays, _normalisation(card))
        candidates.append(
            found._replace(note=note, joules_per_image=card.joules_per_image)
        )
    return choose(candidates, section) | {"images": int(rows.size), "flops": flops}


def _probe(
    config: Config,
    network: Network,
    arrays: Arrays,
    normalisation: Normalisation,
    compiling: Compiling,
) -> Probe:
    batch, dtype = config.evaluate.batch_size, dtype_of(config)
    view = config.data.view
    return Probe(network, arrays, normalisation, dtype, batch, compiling, view)


def _normalisation(card: Card) -> Normalisation:
    return Normalisation(*(np.array(v, np.float32) for v in (card.mean, card.std)))


def fit(
    card: Card, network: Network, input_shape: tuple[int, int, int]
) -> tuple[str | None, str | None]:
    """Return why a network cannot start a run, and what to know of it if it can.

    Images stay as the run has them: features are measured at the size at which the
    network would be trained on.
    """
    height, width, channels = input_shape
    if network.head is None:
        return "does not say which parameters are its last layer's", None
    if network.in_channels != channels:
        count = network.in_channels
        plural = "" if count == 1 else "s"
        return f"reads {count} channel{plural}, but images have {channels}", None
    trained = card.input_shape[:2]
    if trained == (height, width):
        return None, None
    if getattr(network, "image_shape", input_shape) != input_shape:
        return (
            f"reads images of {trained[0]} x {trained[1]} pixels alone; set "
            f"data.image_size to {trained[0]}",
            None,
        )
    return None, (
        f"trained on {trained[0]} x {trained[1]} pixels, here {height} x {width}; "
        f"data.image_size: {trained[0]} would give it what it knows"
    )


# the start of a run


def begin(
    config: Config,
    data: Data,
    model: Network,
    folder: RunFolder,
    meter: EnergyMeter,
) -> Beginning:
    """Choose what a run starts from, or read what it has chosen before.

    Args:
        config: The run's.
        data: Its data.
        model: Its own network.
        folder: Its folder, in which choice and start are recorded.
        meter: Attributes seconds and energy to the phase "pool".

    Returns:
        What it starts from; without a pool, its own network, drawn at random.
    """
    section = config.pool
    if section is None:
        return Beginning({}, model, data)
    path = folder.path
    if not (path / POOL).exists():
        before = _spent(meter)
        with meter.window("pool"):
            decision = rank(
                config, section, data, model, lambda: meter.window("compile")
            )
            if decision["chosen"] != SCRATCH:
                decision |= _prepare(config, section, data, path, decision, meter)
        after = _spent(meter)
        decision["cost"] = {
            unit: None if spent is None else spent - (before[unit] or 0.0)
            for unit, spent in after.items()
        } | {"flops": decision.pop("flops")}
        folder.write_json(POOL, decision)
    with meter.window("pool"), reading(path):
        decision = read_json(path / POOL)
        if decision["chosen"] == SCRATCH:
            return Beginning(decision, model, data)
        return _recorded(config, data, path, decision)


def _spent(meter: EnergyMeter) -> dict[str, float | None]:
    wh = meter.wh()
    return {
        "seconds": meter.seconds().get("pool", 0.0),
        "wh": None if wh is None else wh.get("pool", 0.0),
    }


def _prepare(
    config: Config,
    section: PoolConfig,
    data: Data,
    path: Path,
    decision: dict[str, Any],
    meter: EnergyMeter,
) -> dict[str, Any]:
    """Write what the run starts from, and return what is known of it."""
    card, network, arrays = ModelPool(section.path).load(decision["chosen"])
    target = network.with_classes(data.num_classes)
    height, width, _ = data.input_shape
    batches = config.train.batch_size, config.evaluate.batch_size
    check_memory(target, data.input_shape, *batches, dtype_of(config))
    body = {n: a for n, a in arrays.items() if not _of_head(n, network)}
    flops = decision["flops"]
    if section.start != "finetune":
        probe = _probe(
            config,
            network,
            arrays,
            _normalisation(card),
            lambda: meter.window("compile"),
        )
        count = data.num_train
        head = ridge_head(
            probe.features(data.images[:count]), data.labels[:count], data.num_classes
        )
        if section.start != "head":
            head = softened(head)
        body |= flatten({"params": {str(network.head): head}})
        flops += probe.images_done * network.forward_flops(height, width)
        flops += ridge_flops(count, *head["kernel"].shape)
    written = write_weights(path / START, body, card.model_dump(mode="json"))
    return {
        "flops": flops,
        "network": target.to_json(),
        "start_fingerprint": written[FINGERPRINT],
        "old_rate": section.old_rate,
        "card": card.model_dump(mode="json"),
    }


def _of_head(name: str, network: Network) -> bool:
    return name.startswith(f"params/{network.head}/")


def _recorded(
    config: Config, data: Data, path: Path, decision: dict[str, Any]
) -> Beginning:
    """Read what a run starts from that was chosen and written before."""
    assert config.pool is not None
    if not (path / START).exists():
        raise DamagedFileError(path / START, "missing")
    arrays, written = read_weights(path / START)
    if written.get(FINGERPRINT) != decision["start_fingerprint"]:
        raise DamagedFileError(path / START, f"not what {POOL} says the run began with")
    card = Card.model_validate(decision["card"])
    tree = nest(arrays)
    start = Start(
        tree["params"], tree.get("batch_stats", {}), np.float32(decision["old_rate"])
    )
    mean, std = _normalisation(card)
    return Beginning(
        decision,
        network_from_json(decision["network"]),
        replace(data, mean=mean, std=std).read_by(data.origin),
        start,
        untrained=decision["start"] == "head",
    )


# the end of a run


def summarise(path: Path, summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a summary says about the start of a run; None without a pool.

    Energy, seconds and FLOPs of the run, without pre-training and with its share of it
    if it were used once, 10 or 100 times. Energies of two qualities are not added.

    Args:
        path: The run folder.
        summary: Of the run, as far as it is known.
    """
    if not (path / POOL).exists():
        return None
    with reading(path):
        decision = read_json(path / POOL)
        card = decision.get("card")
        if card is None:
            return decision
        training, energy = card["training"], summary["energy"]
        alike = training["quality"] == energy["quality"]
        spent = {
            "wh": energy["wh"] if alike else None,
            "seconds": summary["wall_s_without_eval"],
            "flops": summary["flops"],
        }
        shares = {unit: amortised(of, training[unit]) for unit, of in spent.items()}
        return decision | {"with_pretraining": shares}
