"""The runs that a suite is made of, and the choice of settings by its trials."""

import copy
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import (
    COMMAND_LINE,
    change,
    flat,
    parse_override,
    read_tree,
    validate,
    validate_as,
)
from dpet_jax.config.packaged import SUITES, file_of, names
from dpet_jax.errors import UserError
from dpet_jax.report.paper import PAPER_WH
from dpet_jax.report.runs import Run
from dpet_jax.section import shown
from dpet_jax.suite.schema import SuiteConfig, VariantConfig, WholeOrNot

#: The one setting of a variant that is not tuned.
AS_IT_IS = ""


class Job(NamedTuple):
    """One run of a suite.

    Attributes:
        variant: Key of the row.
        setting: Name of the setting, or `AS_IT_IS`.
        config: What to run.
        trial: Whether it is run for tuning alone.
    """

    variant: str
    setting: str
    config: Config
    trial: bool = False

    @property
    def folder(self) -> str:
        """Its folder, below the output folder."""
        return f"{self.config.name}/seed{self.config.seed}"


class Setting(NamedTuple):
    """One config of a variant.

    Attributes:
        config: Its seed is set by each job.
        values: Of the keys of the grid, in its order.
        horizon: How long a run is; None where the suite does not say.
        text: The values for people.
    """

    config: Config
    values: tuple[Any, ...]
    horizon: WholeOrNot | None
    text: str


#: By key of a grid, how many values it has grown by below and above those given.
Growth = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Variant:
    """A row of the table, resolved.

    Attributes:
        name: Of its section; the rows of a grid have it in common.
        section: As the suite has it.
        settings: By name, every setting that may come to be run.
        cell: Name of its combination in the grid of the section; empty without a grid.
        factors: Values of the grid's keys.
    """

    name: str
    section: VariantConfig
    settings: dict[str, Setting]
    cell: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name among the rows, and its folder in the suite's."""
        return "/".join(filter(None, (self.name, self.cell)))

    @property
    def family(self) -> str:
        """Name of its section for people."""
        return self.section.label or self.name.replace("_", " ")

    @property
    def label(self) -> str:
        """Its name for people."""
        return ", ".join(filter(None, (self.family, _in_words(self.factors))))

    @property
    def tuned(self) -> bool:
        """Whether a setting is chosen for each target."""
        return self.section.tune is not None

    @property
    def horizons(self) -> tuple[WholeOrNot, ...]:
        """How long its runs are; empty where the suite does not say."""
        return (
            ()
            if self.section.horizons is None
            else (*self.section.horizons.values(),)[0]
        )

    def tried(self, grown: Growth) -> Iterator[str]:
        """Yield the names of the settings that its trials run.

        Args:
            grown: How far the grid has grown.
        """
        tune = self.section.tune
        if tune is None:
            return
        windows = [
            axis.window(*grown.get(key, (0, 0))) for key, axis in tune.axes.items()
        ]
        for name, setting in self.settings.items():
            inside = all(v in w for v, w in zip(setting.values, windows, strict=True))
            if inside and setting.horizon == tune.at:
                yield name

    def trials(self, grown: Growth) -> Iterator[Job]:
        """Yield the runs that choose its setting.

        Args:
            grown: How far the grid has grown.
        """
        for seed in () if self.section.tune is None else self.section.tune.seeds:
            for name in self.tried(grown):
                config = self.settings[name].config
                suite, _, rest = config.name.partition("/")
                changed = {"name": f"{suite}/tuning/{rest}", "seed": seed}
                yield Job(self.key, name, config.model_copy(update=changed), trial=True)

    def edges(self, name: str, grown: Growth) -> Iterator[tuple[str, int]]:
        """Yield the keys of which a setting has the first or the last value tried.

        Args:
            name: Of the setting.
            grown: How far the grid has grown.

        Yields:
            Pairs of a key that can grow further there, and 0 for below or 1 for above.
        """
        tune = self.section.tune
        if tune is None:
            return
        values = self.settings[name].values
        for (key, axis), value in zip(tune.axes.items(), values, strict=True):
            window = axis.window(*grown.get(key, (0, 0)))
            if value == window[0] and window[0] != axis.values[0]:
                yield key, 0
            if value == window[-1] and window[-1] != axis.values[-1]:
                yield key, 1

    def named(self, values: tuple[Any, ...], horizon: WholeOrNot | None) -> str:
        """Return the name of the setting with some values of its grid at a horizon."""
        return next(
            name
            for name, setting in self.settings.items()
            if setting.values == values and setting.horizon == horizon
        )

    def jobs(self, names: Sequence[str], seed: int) -> Iterator[Job]:
        """Yield the runs of some settings with one seed, to be reported."""
        for name in dict.fromkeys(names):
            config = self.settings[name].config.model_copy(update={"seed": seed})
            yield Job(self.key, name, config)


@dataclass(frozen=True)
class Suite:
    """A suite, resolved.

    Attributes:
        section: As its file has it.
        variants: Those that can be run.
        problems: Why others cannot.
    """

    section: SuiteConfig
    variants: tuple[Variant, ...]
    problems: tuple[str, ...]


#: Where some keys and values come from, for messages.
_Layer: TypeAlias = tuple[str, Sequence[tuple[str, Any]]]


class _Base(NamedTuple):
    """The config that all runs start from: what messages call it, and its keys."""

    name: str
    tree: dict[str, Any]


def load_suite(
    suite: Path | Mapping[str, Any],
    overrides: Sequence[str | tuple[str, Any]] = (),
    seeds: Sequence[int] | None = None,
    origin: str = COMMAND_LINE,
) -> Suite:
    """Read a suite and resolve the config of every setting of every variant.

    Layers, the later above the earlier: the base config, the suite's `set`, the
    variant's, a combination of its grid, a setting that is tried, the command line.

    Args:
        suite: A YAML file, the name of a packaged suite, or its keys as nested data.
            In these the base may be a config or its keys too, or the name of a
            packaged one.
        overrides: `--a.b=value` each, or a dotted key and its value, for all variants.
        seeds: Instead of the suite's.
        origin: Of overrides and seeds, for messages.

    Raises:
        UserError: If the suite or its base is wrong, or no variant is right. A variant
            that is wrong alone is a problem of the suite.
    """
    if isinstance(suite, Mapping):
        where, tree = "the suite", dict(suite)
        base = _given_base(tree.get("base"), where)
        if base is not None:
            tree["base"] = base.name
    else:
        where, tree, base = str(suite), read_tree(suite), None
    if seeds is not None:
        tree["seeds"] = [*seeds]
    origins = {} if seeds is None else {"seeds": origin}
    section = validate_as(SuiteConfig, tree, where, origins)
    if base is None:
        assert isinstance(suite, Path), "a suite without a base is not valid"
        path = file_of(suite).parent / section.base
        path = path if path.exists() else file_of(section.base)
        base = _Base(str(path), read_tree(path))
    changes = [parse_override(o) if isinstance(o, str) else o for o in overrides]
    layer = (origin, changes)
    variants, problems = [], []
    for key, variant in section.variants.items():
        try:
            variants += _resolved(where, base, section, key, variant, layer)
        except UserError as error:
            problems.append(str(error))
    if not variants:
        raise UserError("\n".join(problems))
    return Suite(section, tuple(variants), tuple(problems))


def _given_base(base: Any, where: str) -> _Base | None:
    """Return the base of a suite that was given as data; None if it has none."""
    match base:
        case None:
            return None
        case Config():
            return _Base("the base, a config", base.model_dump(mode="json"))
        case Mapping():
            return _Base("the base", copy.deepcopy(dict(base)))
        case str() | Path():
            known = {n: p for n, p in names() if p.parent.name != SUITES}
            path = Path(base)
            path = path if path.exists() else known.get(str(base), path)
            if path.exists():
                return _Base(str(path), read_tree(path))
            raise UserError(
                f"{where}: base: {shown(str(base))} is no file, and no packaged config "
                f"has this name; give a path, a config's keys, or one of "
                f"{', '.join(known)}"
            )
        case _:
            raise UserError(
                f"{where}: base: must be a config, its keys, the path of its file or "
                f"the name of a packaged one (got {shown(base)})"
            )


def _resolved(
    origin: str,
    base: _Base,
    suite: SuiteConfig,
    name: str,
    section: VariantConfig,
    changes: _Layer,
) -> list[Variant]:
    """Return the row of a variant, or those of its grid."""
    where = f"{origin}: variants.{name}"
    if section.paper is not None and section.paper not in PAPER_WH:
        raise UserError(
            f"{where}.paper: unknown {section.paper!r}; one of {', '.join(PAPER_WH)}"
        )
    variants = []
    for cell, values in setting_names(section.grid).items():
        factors = dict(zip(section.grid, values, strict=True))
        layers = [
            (f"{origin}: set", [*flat(suite.set)]),
            (f"{where}.set", [*flat(section.set)]),
            (f"{where}.grid", [*factors.items()]),
        ]
        variant = Variant(name, section, {}, cell, factors)
        variant.settings.update(_settings(where, base, suite, variant, layers, changes))
        variants.append(variant)
    return variants


def _settings(
    where: str,
    base: _Base,
    suite: SuiteConfig,
    variant: Variant,
    layers: Sequence[_Layer],
    changes: _Layer,
) -> Iterator[tuple[str, Setting]]:
    """Yield every setting of a row, by its name.

    Args:
        where: What messages call the variant.
        base: The config that all settings start from.
        suite: The whole suite.
        variant: The row.
        layers: Above the base, the later above the earlier.
        changes: Above all others.
    """
    section = variant.section
    axes = section.tune.axes if section.tune else {}
    grid = {key: axis.values for key, axis in axes.items()} | (section.horizons or {})
    for name, values in setting_names(grid).items():
        tree = copy.deepcopy(base.tree)
        origins: dict[str, str] = {}
        for origin, layer in (
            *layers,
            (f"{where}.tune.grid", [*zip(axes, values, strict=False)]),
            (f"{where}.horizons", [*zip(grid, values, strict=True)][len(axes) :]),
            changes,
        ):
            for dotted, _ in layer:
                if dotted in ("name", "seed", "targets"):
                    raise UserError(
                        f"{origin}: {dotted}: the suite says it for all runs; give it "
                        "at the top of the suite"
                    )
                origins[dotted] = origin
            change(tree, layer, origin)
        tree |= {
            "name": "/".join(filter(None, (suite.name, variant.key, name))),
            "targets": [*suite.targets],
        }
        yield (
            name,
            Setting(
                config=validate(tree, f"{where} (with {base.name})", origins),
                values=values[: len(axes)],
                horizon=values[-1] if section.horizons else None,
                text=_in_words(dict(zip(axes, values, strict=False))),
            ),
        )


def _in_words(values: Mapping[str, Any]) -> str:
    """Return some keys and their values for people."""
    return ", ".join(
        f"{dotted.rpartition('.')[2].replace('_', ' ')} {value}"
        for dotted, value in values.items()
    )


def setting_names(grid: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Name every combination of a grid's values, as folders can be called."""
    named = {}
    for values in itertools.product(*grid.values()):
        parts = (
            f"{dotted.rpartition('.')[2]}_{json.dumps(value)}"
            for dotted, value in zip(grid, values, strict=True)
        )
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts)).strip("_")
        while name in named:
            name += "_"
        named[name] = values
    return named


class Answer(NamedTuple):
    """The setting that is chosen for a target or a horizon.

    Attributes:
        setting: Its name.
        reached: Whether the median of its trials reached the target; if not, it is the
            one that ended with the highest validation accuracy. At a horizon it is
            always that one, and there is nothing to be reached.
    """

    setting: str
    reached: bool


def answers(
    trials: Mapping[str, Sequence[Run]], targets: Sequence[float]
) -> dict[float, Answer]:
    """Choose a setting for each target by the trials alone.

    The one whose median cost to reach it is lowest, in full-pass equivalents. Of
    one-cycle schedules that is most often the shortest one whose median reaches it.

    Args:
        trials: The finished runs of each setting.
        targets: Accuracies.
    """
    best = best_at_end(trials)
    chosen = {}
    for target in targets:
        costs = {name: _median_epochs(runs, target) for name, runs in trials.items()}
        cheapest = min(costs, key=costs.__getitem__)
        reached = math.isfinite(costs[cheapest])
        chosen[target] = Answer(cheapest if reached else best, reached)
    return chosen


def best_at_end(trials: Mapping[str, Sequence[Run]]) -> str:
    """Return the setting that ends with the highest median validation accuracy.

    Args:
        trials: The finished runs of each setting.
    """
    return max(trials, key=lambda name: _median_accuracy(trials[name]))


def _median_epochs(runs: Sequence[Run], target: float) -> float:
    found = [run.target_cost(target) for run in runs]
    costs = [math.inf if cost is None else cost.spent.epochs for cost in found]
    return statistics.median(costs) if costs else math.inf


def _median_accuracy(runs: Sequence[Run]) -> float:
    ends = [run.summary["validation_accuracy"] or 0.0 for run in runs]
    return statistics.median(ends) if ends else -1.0
