"""A plan for a config: what its family's networks cost here, and which one to train."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from dpet_jax.config.experiment import BudgetConfig, Config
from dpet_jax.config.load import validate, validate_as
from dpet_jax.data import Data
from dpet_jax.energy import Energy, Probe
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, write_whole
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD, Network
from dpet_jax.planner.law import Law, Level, shipped
from dpet_jax.planner.planner import (
    NOTHING,
    Budget,
    Candidate,
    Plan,
    Spend,
    StepCost,
    plan,
)
from dpet_jax.planner.search import Anchor, Key, Size, explore
from dpet_jax.run import build
from dpet_jax.run.machine import device_facts, pinned
from dpet_jax.run.profiling import Profile, Profiles, measure, profile_key
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.schedule import Triangular

#: The recipe of the runs that the shipped law was calibrated on.
RATE, BATCH = 0.2, 64
#: Time of a visit of 1.57 MFLOP on one CPU core, and by a rough guess on a GPU.
_VISIT_FLOPS, _CPU_CORE_S, _ACCELERATOR_S = 1.57e6, 8e-5, 1e-6
#: A run counts its examples in int32.
_MOST_VISITS = 2**31 - 1
#: Quartiles of steady timings lie no further apart, as a factor.
_STEADY = 1.3
#: Batches to choose from on an accelerator, as multiples of the config's.
_LARGER = (1, 2, 4)


class Planned(NamedTuple):
    """A plan and what carries it out.

    Attributes:
        plan: Which network of the family, how long, why.
        config: Resolved; `dpet run` trains it.
        network: The network.
        data: What it is trained on.
        profiles: What was measured, by scale and batch size.
        notes: What else to know, a sentence each.
        spent: What measuring has cost.
    """

    plan: Plan
    config: Config
    network: Network
    data: Data
    profiles: Mapping[Key, Profile]
    notes: tuple[str, ...]
    spent: Spend = NOTHING

    @property
    def energy(self) -> Energy:
        """Expected of everything, with the interval of a model if one tells it."""
        kept = self.profiles.get((self.plan.scale, self.plan.batch_size))
        wh = self.plan.wh
        if wh is None or kept is None or kept.assumed is None:
            return Energy(wh, "unavailable" if wh is None else "measured")
        least, most = kept.assumed
        return Energy(wh, "modelled", 0.0, least * wh, most * wh)


def plan_config(
    config: Config,
    budget: Budget,
    *,
    law: Law | None = None,
    level: Level | None = None,
    batches: Sequence[int] = (),
    data: Data | None = None,
    profiles: Profiles | None = None,
    meters: Sequence[Probe] = (),
) -> Planned:
    """Choose the network of a config's family that a budget buys on this machine.

    What is not known of the costs is measured, with the programs that the run will use;
    see `explore`. Of the config, the model's family, data, optimizer and augmentation
    stand; scale, batch size, method, schedule and budget are the plan's.

    Args:
        config: Names the family and the data.
        budget: What everything may cost.
        law: The ranking law; by default the shipped one of the family.
        level: Of the error on this data, if runs have fixed it.
        batches: Batch sizes to choose from; by default the config's, and on an
            accelerator twice and four times as many.
        data: What `build.build_data` made of an equal `config.data`; by default it is
            read.
        profiles: What was measured here before; by default the user's cache.
        meters: Meters of the user's own.

    Raises:
        UserError: If the model is no family, the budget cannot be planned for or is
            below what any network takes, or the config does not fit the data.
    """
    check_plannable(config, budget, leveled=level is not None)
    base = recipe(config)
    law = shipped(config.model.kind) if law is None else law
    profiles = Profiles() if profiles is None else profiles
    metered = base.model_copy(update={"budget": BudgetConfig(wh=budget.wh)})
    with pinned(), build.build_meter(metered, meters) as meter:
        data = build.build_data(config) if data is None else data
        family = _Family(base, data, _batch_sizes(base, batches, data))
        known: dict[Key, Profile] = {}
        for key in family.sizes:
            kept = profiles.find(profile_key(family.config(key), data, meter))
            if kept is not None:
                known[key] = kept
        spent = [NOTHING]

        def measured(key: Key) -> StepCost:
            at = family.config(key)
            found = measure(at, data, meter, profile_key(at, data, meter))
            profiles.keep(found, f"scale {key[0]:g}, batches of {key[1]}")
            known[key] = found
            spent.append(found.measuring)
            return family.cost(key, found)

        def choose(costs: Mapping[Key, StepCost], so_far: Spend) -> Plan:
            return plan(
                budget,
                costs,
                law,
                num_train=data.num_train,
                family=config.model.kind,
                spent=so_far,
                level=level,
            )

        costs = explore(
            family.sizes,
            measured,
            choose,
            known={key: family.cost(key, kept) for key, kept in known.items()},
            anchor=_anchor(),
            budget=budget,
            spent=lambda: _total(spent),
        )
        found = choose(costs, _total(spent))
        key = found.scale, found.batch_size
        notes = (
            *profiles.problems,
            *family.left_out,
            *_unsteady(known.get(key)),
            *_by_model(known.get(key), budget),
            *_other_recipe(base, law),
        )
        return Planned(
            found,
            _resolved(family.config(key), found, costs[key], _total(spent)),
            family.networks[found.scale],
            data,
            known,
            notes,
            _total(spent),
        )


def check_plannable(config: Config, budget: Budget, *, leveled: bool) -> None:
    """Refuse what no plan can be made for, before anything is read or compiled.

    Args:
        config: What is to be planned.
        budget: For what.
        leveled: Whether the level of the error on the data is known.

    Raises:
        UserError: If the model is no family, the run would start from a pool of
            networks, or there is a target without a level.
    """
    if not config.model.scales:
        raise UserError(
            f"model.kind: {config.model.kind} is no family with a ranking law; choose "
            "resnet20 or resnet18, or give a kind of your own `scales` and `scaled`"
        )
    if config.train.resolution is not None:
        raise UserError(
            "train.resolution: a plan counts on steps of one size, and with it images "
            "grow; leave it at null to plan, or train without a plan"
        )
    if config.pool is not None:
        raise UserError(
            "pool: the size of a network that was trained before is given; drop the "
            "pool to plan one, or train without a plan"
        )
    if budget.unit == "target" and not leveled:
        raise UserError(
            f"budget: {budget} cannot be planned for: the level of the error on this "
            "data is not known; name two finished runs on it with --level"
        )


class FamilyNetworks(NamedTuple):
    """The networks of a family that fit some data.

    Attributes:
        networks: By scale, smallest first; no two are the same.
        left_out: Why other scales are not among them, a sentence each.
    """

    networks: dict[float, Network]
    left_out: list[str]


def family_networks(config: Config, data: Data) -> FamilyNetworks:
    """Build the networks of a config's family that fit the data.

    Args:
        config: Its model names the family.
        data: What they are to train on.

    Raises:
        UserError: If none fits.
    """
    found = FamilyNetworks({}, [])
    for scale in sorted(config.model.scales):
        scaled = config.model_copy(update={"model": config.model.scaled(scale)})
        try:
            network = build.build_model(scaled, data)
        except UserError as error:
            found.left_out.append(f"scale {scale:g} is left out: {error}")
            continue
        if network in found.networks.values():
            found.left_out.append(
                f"scale {scale:g} is left out: rounded, it is a smaller one"
            )
            continue
        found.networks[scale] = network
    if not found.networks:
        raise UserError("; ".join(found.left_out))
    return found


class _Family:
    """The sizes of a config's model that fit this data and this machine."""

    def __init__(self, base: Config, data: Data, batches: Sequence[int]) -> None:
        self._base, self._data = base, data
        self.networks, self.left_out = family_networks(base, data)
        height, width, _ = data.input_shape
        self.sizes: dict[Key, Size] = {}
        for scale, network in self.networks.items():
            size = Size(
                num_parameters(network),
                TRAIN_FLOPS_PER_FORWARD * network.forward_flops(height, width),
            )
            self.sizes |= {(scale, batch): size for batch in batches}

    def config(self, key: Key) -> Config:
        """Return the config of a scale and a batch size, without a length."""
        scale, batch = key
        train = self._base.train
        # as the recipe's: the rate that is best for a batch grows with its root
        factor = math.sqrt(batch / train.batch_size)
        rate = train.optimizer.learning_rate * factor
        optimizer = train.optimizer.model_copy(update={"learning_rate": rate})
        return self._base.model_copy(
            update={
                "model": self._base.model.scaled(scale),
                "train": train.model_copy(
                    update={"batch_size": batch, "optimizer": optimizer}
                ),
            }
        )

    def cost(self, key: Key, profile: Profile) -> StepCost:
        """Return what a run of a size costs."""
        return profile.cost(self._data, *self.sizes[key])


def _on_cpu() -> bool:
    return bool(jax.devices()[0].platform == "cpu")


def recipe(config: Config) -> Config:
    """Return the config with the plan's method, schedule and precision.

    Args:
        config: Whose data, family, optimizer and augmentation stand.
    """
    model, train = config.model, config.train
    set_ = model.model_fields_set
    if not _on_cpu():
        faster = {"compute_dtype": "bfloat16", "channel_multiple": 8}
        model = model.model_copy(
            update={
                name: value
                for name, value in faster.items()
                if name in type(model).model_fields and name not in set_
            }
        )
    schedule = train.schedule
    if not isinstance(schedule, Triangular):
        schedule = Triangular()
    method = config.method
    if not isinstance(method, DpetAnneal):
        method = DpetAnneal()
    schedule = schedule.model_copy(update={"horizon": "plan"})
    return config.model_copy(
        update={
            "model": model,
            "train": train.model_copy(update={"schedule": schedule}),
            "method": method,
            "budget": BudgetConfig(),
        }
    )


def _resolved(config: Config, found: Plan, cost: StepCost, spent: Spend) -> Config:
    """Return the config that carries a plan out."""
    epochs = found.epochs
    if found.visits > _MOST_VISITS:
        raise UserError(
            f"budget: {found.budget} is {found.visits:,} examples; a run counts "
            f"{_MOST_VISITS:,} at most; give less"
        )
    # what the run's own budget counts: neither measuring nor evaluating
    left: dict[str, float] = {}
    if found.budget.seconds is not None:
        ours = spent.seconds + cost.evaluating.seconds
        left["seconds"] = found.budget.seconds - ours
    elif found.budget.wh is not None:
        joules = (spent.joules or 0.0) + (cost.evaluating.joules or 0.0)
        left["wh"] = found.budget.wh - joules / 3600
    planned = config.model_copy(
        update={
            "name": f"{config.name}_planned",
            "method": config.method.model_copy(update={"epochs": epochs}),
            # one schedule is looked at when it is over
            "evaluate": config.evaluate.model_copy(update={"every": epochs}),
            "budget": BudgetConfig(**left),
        }
    )
    # copies are not checked; a file that is written has to load
    return validate(planned.model_dump(mode="json"), "the plan")


def _batch_sizes(config: Config, batches: Sequence[int], data: Data) -> tuple[int, ...]:
    own = config.train.batch_size
    if not batches:
        batches = [own * factor for factor in (_LARGER[:1] if _on_cpu() else _LARGER)]
    if min(batches) < 1:
        raise UserError(f"batches: {min(batches)} is no batch size; give 1 or more")
    fitting = sorted({one for one in batches if one <= data.num_train})
    if not fitting:
        build.check_fit(config, data)
        raise UserError(
            f"batches: {min(batches)} is more than the {data.num_train} training "
            f"examples of {data.name}; choose smaller ones"
        )
    return tuple(fitting)


def _anchor() -> Anchor:
    facts = device_facts()
    if facts["platform"] == "cpu":
        return Anchor(_VISIT_FLOPS, _CPU_CORE_S / (facts["cpu_cores"] or 1))
    return Anchor(_VISIT_FLOPS, _ACCELERATOR_S)


def num_parameters(network: Network) -> int:
    """Count the parameters of a network, running statistics aside."""
    return sum(
        math.prod(leaf.shape)
        for name, leaf in network.shapes().items()
        if name.startswith("params/")
    )


def _total(parts: Sequence[Spend]) -> Spend:
    joules = [part.joules for part in parts if part.joules is not None]
    known = len(joules) == len(parts)
    return Spend(sum(one.seconds for one in parts), sum(joules) if known else None)


def _unsteady(profile: Profile | None) -> tuple[str, ...]:
    if profile is None or profile.step_range_s[1] <= _STEADY * profile.step_range_s[0]:
        return ()
    low, high = (1e3 * each for each in profile.step_range_s)
    return (
        f"the machine did other work while a step was timed, {low:.3g} to {high:.3g} "
        "ms; measure it anew when it is quiet, with --anew",
    )


def _by_model(profile: Profile | None, budget: Budget) -> tuple[str, ...]:
    if profile is None or profile.assumed is None or budget.unit != "wh":
        return ()
    return (
        f"a model of the CPU tells the Wh; {budget} are counted by its middle, and may "
        "be anything between its least and its most",
    )


def recipe_rate(batch: int) -> float:
    """Return the peak rate of the recipe for batches of another size.

    The rate that is best for a batch grows with its root.
    """
    return RATE * math.sqrt(batch / BATCH)


def _other_recipe(config: Config, law: Law) -> tuple[str, ...]:
    """Say where the config trains otherwise than the runs behind the shipped law."""
    optimizer, batch = config.train.optimizer, config.train.batch_size
    if law.origin != shipped(config.model.kind).origin:
        return ()
    wanted = recipe_rate(batch)
    plain = isinstance(optimizer, Sgd) and optimizer.nesterov
    if plain and wanted / 2 <= optimizer.learning_rate <= 2 * wanted:
        return ()
    return (
        f"extrapolated: the law's runs were trained by Nesterov SGD at rate {RATE:g} "
        f"in batches of {BATCH}, which is {wanted:.3g} in batches of {batch}; here it "
        f"is {optimizer.kind} at {optimizer.learning_rate:g}",
    )


def plan_lines(planned: Planned) -> Iterator[str]:
    """Yield what `dpet plan` prints.

    Args:
        planned: The plan.
    """
    found, config, data = planned.plan, planned.config, planned.data
    chosen = config.model.describe(planned.network)
    method = config.method
    assert isinstance(method, DpetAnneal)
    yield (
        f"{found.budget} on {data.name} ({data.num_train:,} train): {chosen}, scale "
        f"{found.scale:g} of {config.model.kind}"
    )
    yield (
        f"  train     {found.epochs:.4g} epochs, {found.visits:,} examples in "
        f"{found.steps:,} steps of {found.batch_size}, {config.model.compute_dtype}; "
        f"drop {method.drop}"
        + (f" ({method.dropped:g} at most)" if method.drop == "auto" else "")
    )
    wh = "energy not measured" if found.wh is None else f"{found.wh:.4g} Wh"
    if planned.energy.quality == "modelled":
        wh = str(planned.energy)
    yield f"  expected  {found.seconds:.4g} s in all, {wh}; {_accuracy(found)}"
    yield ""
    yield from _table(found, planned.profiles)
    yield ""
    yield from (f"  {reason}" for reason in found.reasons)
    for text in (*found.warnings, *planned.notes):
        yield f"  {text if text.startswith('extrapolated') else 'warning: ' + text}"


def _accuracy(found: Plan) -> str:
    if found.accuracy is None:
        return "accuracy not known, for no run has fixed its level on this data"
    spread = 2 * found.law.deviation(found.accuracy)
    return f"accuracy {found.accuracy:.3f}, give or take {spread:.3f}"


def _table(found: Plan, profiles: Mapping[Key, Profile]) -> Iterator[str]:
    rows = [("scale", "batch", "parameters", "ms/step", "examples", "g", "s", "Wh", "")]
    rows += [_row(one, profiles) for one in found.table]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for *cells, why in rows:
        each = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {'  '.join(each)}  {why}".rstrip()


def _row(one: Candidate, profiles: Mapping[Key, Profile]) -> tuple[str, ...]:
    kept = profiles.get((one.scale, one.batch_size))
    # a model's have no room for their interval here
    modelled = any(held.assumed is not None for held in profiles.values())
    return (
        f"{one.scale:g}",
        f"{one.batch_size}",
        f"{one.parameters:,}",
        "-" if kept is None else _step_ms(kept),
        f"{one.visits:,}" if one.visits else "-",
        "-" if one.score is None else f"{one.score:.3f}",
        ("" if one.measured else "~") + f"{one.seconds:.4g}",
        "-" if one.wh is None or modelled else f"{one.wh:.3g}",
        one.why,
    )


def _step_ms(kept: Profile) -> str:
    low, high = kept.step_range_s
    return f"{1e3 * kept.step_s:.3g} ({1e3 * low:.3g} to {1e3 * high:.3g})"


def write_config(planned: Planned, path: Path) -> None:
    """Write the config that carries a plan out, with the plan as its comment.

    Args:
        planned: The plan.
        path: The YAML file.

    Raises:
        UserError: If it cannot be written.
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in plan_lines(planned))
    _write(path, comment + planned.config.to_yaml())


def read_law(path: Path) -> Law:
    """Read a law that `dpet plan --calibrate` has written.

    Raises:
        UserError: If it cannot be read, or is none.
    """
    try:
        plain = read_json(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the law ({error.strerror}); give a file that dpet "
            "plan --calibrate has written"
        ) from error
    return validate_as(Law, plain, str(path))


def write_law(law: Law, path: Path) -> None:
    """Write a law.

    Raises:
        UserError: If the file cannot be written.
    """
    _write(path, law.model_dump_json(indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write ({error.strerror}); choose another file"
        ) from error
