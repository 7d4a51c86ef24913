"""The runs that a suite is made of, and the choice of settings by its trials."""

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from dpet_jax.errors import UserError
from dpet_jax.report.paper import PAPER_WH
from dpet_jax.report.runs import Run
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
        key: Its name.
        section: As the suite has it.
        settings: By name, every setting that may come to be run.
    """

    key: str
    section: VariantConfig
    settings: dict[str, Setting]

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.section.label or self.key.replace("_", " ")

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


def load_suite(
    path: Path, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> Suite:
    """Read a suite and resolve the config of every setting of every variant.

    Layers, the later above the earlier: the base config, the suite's `set`, the
    variant's, a setting of its grid, the command line.

    Args:
        path: A YAML file.
        overrides: `--a.b=value` each, for all variants.
        seeds: Instead of the suite's.

    Raises:
        UserError: If the suite or its base is wrong, or no variant is right. A variant
            that is wrong alone is a problem of the suite.
    """
    tree = read_tree(path)
    if seeds is not None:
        tree["seeds"] = [*seeds]
    origins = {} if seeds is None else {"seeds": COMMAND_LINE}
    section = validate_as(SuiteConfig, tree, str(path), origins)
    base = path.parent / section.base
    read_tree(base)
    changes = [parse_override(override) for override in overrides]
    variants, problems = [], []
    for key, variant in section.variants.items():
        try:
            variants.append(_resolved(path, base, section, key, variant, changes))
        except UserError as error:
            problems.append(str(error))
    if not variants:
        raise UserError("\n".join(problems))
    return Suite(section, tuple(variants), tuple(problems))


def _resolved(
    path: Path,
    base: Path,
    suite: SuiteConfig,
    key: str,
    variant: VariantConfig,
    changes: Sequence[tuple[str, Any]],
) -> Variant:
    where = f"{path}: variants.{key}"
    if variant.paper is not None and variant.paper not in PAPER_WH:
        raise UserError(
            f"{where}.paper: unknown {variant.paper!r}; one of {', '.join(PAPER_WH)}"
        )
    axes = variant.tune.axes if variant.tune else {}
    grid = {key: axis.values for key, axis in axes.items()} | (variant.horizons or {})
    names, settings = setting_names(grid), {}
    for name, values in names.items():
        layers = [
            (f"{path}: set", [*flat(suite.set)]),
            (f"{where}.set", [*flat(variant.set)]),
            (f"{where}.tune.grid", [*zip(axes, values, strict=False)]),
            (f"{where}.horizons", [*zip(grid, values, strict=True)][len(axes) :]),
            (COMMAND_LINE, [*changes]),
        ]
        tree = read_tree(base)
        origins: dict[str, str] = {}
        for origin, layer in layers:
            for dotted, _ in layer:
                if dotted in ("name", "seed", "targets"):
                    raise UserError(
                        f"{origin}: {dotted}: the suite says it for all runs; give it "
                        "at the top of the suite"
                    )
                origins[dotted] = origin
            change(tree, layer, origin)
        tree |= {
            "name": "/".join(part for part in (suite.name, key, name) if part),
            "targets": [*suite.targets],
        }
        text = ", ".join(
            f"{dotted.rpartition('.')[2].replace('_', ' ')} {value}"
            for dotted, value in zip(axes, values, strict=False)
        )
        settings[name] = Setting(
            config=validate(tree, f"{where} (with {base})", origins),
            values=values[: len(axes)],
            horizon=values[-1] if variant.horizons else None,
            text=text,
        )
    return Variant(key, variant, settings)


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
