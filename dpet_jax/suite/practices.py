"""A study of practices: which of them save, run part by part into one folder.

It is made of what there is: searches for settings, a factorial suite and the layers of
a network, suites of networks, and a suite that changes one practice at a time. A part
that has run is not repeated, and one that has begun goes on.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic import Field, model_validator
from rich.console import Console

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import (
    COMMAND_LINE,
    change,
    flat,
    load,
    parse_override,
    read_tree,
    validate_as,
)
from dpet_jax.errors import UserError
from dpet_jax.files import read_json
from dpet_jax.run.costs import By
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.section import Count, Positive, Section, UserPath
from dpet_jax.suite.schema import Name
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.variants import Suite, load_suite

#: Parts of a study, in the order in which they run and are read.
Part: TypeAlias = Literal["hpo", "layers", "complexity", "practices"]
PARTS: tuple[Part, ...] = get_args(Part)
#: Folders of what is no suite.
POOL, SEARCHES, LAYERS = "pool", "searches", "layers"


class OwnData(Section):
    """What every part may say of its data."""

    data: str | None = Field(
        None, description="which of the study's `data` it reads; null: its own path"
    )


class SuitePart(OwnData):
    """A suite of the study."""

    suite: UserPath = Field(description="a YAML file, relative to this one")


class ConfigPart(OwnData):
    """A config of the study."""

    config: UserPath = Field(description="a YAML file, relative to this one")
    set: dict[str, Any] = Field({}, description="keys of the config, dotted or nested")


class HpoPart(ConfigPart):
    """Searches for settings of a config, each at the same cost."""

    vary: tuple[str, ...] = Field(
        min_length=1, description="KEY=A,B,C or KEY=LOW..HIGH or KEY=LOW..HIGH log"
    )
    by: tuple[str | dict[str, Any], ...] = Field(
        min_length=1, description="searches: names, or keys as {kind: grid, values: 5}"
    )
    trials: Count | None = Field(None, description="of each search and repeat")
    epochs: Positive | None = Field(
        None, description="full-pass equivalents of each, likewise"
    )
    wh: Positive | None = Field(None, description="Wh of each, likewise")
    repeats: Count = Field(3, description="of each search, with other choices")


class LayersPart(SuitePart):
    """A factorial suite of layers, and a network whose step is taken apart."""

    network: ConfigPart | None = Field(
        None, description="keys name a config whose layers are timed one by one"
    )


class PracticesPart(SuitePart):
    """A suite that changes one practice at a time, and what its pool holds."""

    source: ConfigPart | None = Field(
        None, description="keys name a run whose network is put into the study's pool"
    )
    network: Name = Field("source", description="name of it in the pool")


class PracticesConfig(Section):
    """Every key of a study."""

    name: Name = Field(description="of its folder")
    data: dict[str, UserPath] = Field(
        {}, description="paths of data sets, by names that parts use"
    )
    hpo: HpoPart | None = Field(None, description="which search wastes least")
    layers: LayersPart | None = Field(None, description="which layers cost most")
    complexity: tuple[SuitePart, ...] = Field(
        (), description="suites of networks: where does a larger one stop paying"
    )
    practices: PracticesPart | None = Field(None, description="which practices save")
    statements: tuple[str, ...] = Field(
        (), description="what readers have to know, a sentence each"
    )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those that it has."""
        return tuple(part for part in PARTS if getattr(self, part))

    @model_validator(mode="after")
    def _data_are_named(self) -> "PracticesConfig":
        if not self.parts:
            raise ValueError(f"it has no part; give one of {', '.join(PARTS)}")
        for part, section in self._sections():
            if section.data is not None and section.data not in self.data:
                known = ", ".join(self.data) or "none"
                raise ValueError(
                    f"{part}.data: {section.data!r} is none of the study's data "
                    f"({known}); name it there with its path"
                )
        return self

    def _sections(self) -> Iterator[tuple[str, OwnData]]:
        for part in ("hpo", "layers", "practices"):
            if (section := getattr(self, part)) is not None:
                yield part, section
        for number, section in enumerate(self.complexity):
            yield f"complexity.{number}", section
        if self.layers is not None and self.layers.network is not None:
            yield "layers.network", self.layers.network
        if self.practices is not None and self.practices.source is not None:
            yield "practices.source", self.practices.source


class Outcome(NamedTuple):
    """How a study ended.

    Attributes:
        interrupted: Whether it was asked to stop; it goes on when started again.
        problems: What went wrong, a sentence each.
    """

    interrupted: bool
    problems: tuple[str, ...]


def load_practices(path: Path, overrides: Sequence[str] = ()) -> PracticesConfig:
    """Read a study.

    Args:
        path: A YAML file.
        overrides: `--a.b=value` each, such as `--data.fashion=DIR`.

    Raises:
        UserError: If it is wrong.
    """
    tree = read_tree(path)
    changes = [parse_override(override) for override in overrides]
    change(tree, changes, COMMAND_LINE)
    origins = {key: COMMAND_LINE for key, _ in changes}
    return validate_as(PracticesConfig, tree, str(path), origins)


@dataclass(frozen=True)
class Study:
    """A study in its folder.

    Attributes:
        section: What it is made of.
        home: Folder of its file, to which paths of other files are relative.
        out: Its own.
        console: Where to show progress.
    """

    section: PracticesConfig
    home: Path
    out: Path
    console: Console

    # what there is to run

    def suites(self, only: Sequence[Part] = ()) -> Iterator[tuple[Part, Suite]]:
        """Yield the suites of some parts, resolved.

        Args:
            only: The parts; by default all.

        Raises:
            UserError: If a suite is wrong.
        """
        section = self.section
        asked = [part for part in section.parts if not only or part in only]
        held: list[tuple[Part, SuitePart]] = []
        if section.layers is not None:
            held.append(("layers", section.layers))
        held += [("complexity", one) for one in section.complexity]
        if section.practices is not None:
            held.append(("practices", section.practices))
        for part, one in held:
            if part in asked:
                yield part, self._suite(one)

    def config_of(self, part: ConfigPart, name: str) -> Config:
        """Return the config of a part, under a name of the study's."""
        changes = [*self._changes(part), f"--name={name}"]
        return load(self.home / part.config, changes)

    def _changes(self, part: ConfigPart) -> list[str]:
        keys = [*flat(part.set), *self._data_of(part)]
        return [f"--{key}={json.dumps(value)}" for key, value in keys]

    def _data_of(self, part: OwnData) -> list[tuple[str, Any]]:
        if part.data is None:
            return []
        return [("data.path", str(self.section.data[part.data]))]

    def _suite(self, part: SuitePart) -> Suite:
        suite = load_suite(self.home / part.suite, self._data_of(part))
        return replace(
            suite,
            variants=tuple(
                replace(
                    variant,
                    settings={
                        name: setting._replace(config=self._own_pool(setting.config))
                        for name, setting in variant.settings.items()
                    },
                )
                for variant in suite.variants
            ),
        )

    def _own_pool(self, config: Config) -> Config:
        """Let what starts from a pool start from the study's."""
        if config.pool is None:
            return config
        pool = config.pool.model_copy(update={"path": self.out / POOL})
        return config.model_copy(update={"pool": pool})

    # running

    def run(
        self, only: Sequence[Part] = (), *, minutes: int | float | None = None
    ) -> Outcome:
        """Run what is missing of some parts; started again it goes on.

        A suite whose runs fail is a problem, and the others are run all the same.

        Args:
            only: The parts; by default all.
            minutes: Stop after so long.

        Raises:
            UserError: If a part is wrong, before anything is run.
        """
        asked = [part for part in self.section.parts if not only or part in only]
        suites = [*self.suites(asked)]
        steps: list[tuple[str, Callable[[Interrupt], list[str]]]] = []
        hpo, layers = self.section.hpo, self.section.layers
        practices = self.section.practices
        if hpo is not None and "hpo" in asked:
            axes = tuple(Axis.of(text) for text in hpo.vary)
            steps.append(
                ("searches for settings", lambda i: self._search(hpo, axes, i))
            )
        if layers is not None and layers.network is not None and "layers" in asked:
            network = self.config_of(layers.network, LAYERS)
            steps.append(("layers of a step", lambda _: self._take_apart(network)))
        if practices is not None and practices.source and "practices" in asked:
            source, name = practices.source, practices.network
            before = self.config_of(source, f"{POOL}_{name}")
            steps.append(("the pool", lambda i: self._fill_pool(before, name, i)))
        for _, suite in suites:
            steps.append((suite.section.name, lambda i, s=suite: self._compare(s, i)))
        flag, problems = Interrupt(), []
        with flag.listening(), flag.after(minutes):
            for title, step in steps:
                self._say(f"{title}:")
                problems += step(flag)
                if flag.requested:
                    break
        return Outcome(flag.requested, tuple(problems))

    def report(self, by: By | None = None, width: int = 80) -> list[str]:
        """Write the page about what has run, and return it for a terminal.

        Args:
            by: What costs are compared in; by default Wh where they are measured.
            width: Of the terminal, in characters.
        """
        from dpet_jax.report.practices import Places, answer, read_study, write_study
        from dpet_jax.run.machine import environment

        section, held = self.section, [*self.suites()]
        layers = section.layers

        def of(part: Part) -> tuple[Path, ...]:
            return tuple(
                self.out / suite.section.name for name, suite in held if name == part
            )

        places = Places(
            None if section.hpo is None else self.out / SEARCHES,
            next(iter(of("layers")), None),
            self.out / LAYERS / "layers.json" if layers and layers.network else None,
            of("complexity"),
            next(iter(of("practices")), None),
        )
        chapters = read_study(places, by)
        facts = {"study": section.model_dump(mode="json"), **environment()}
        page = write_study(
            *(section.name, chapters, self.out),
            statements=section.statements,
            facts=facts,
        )
        return [*answer(chapters, width).splitlines(), "", f"report      {page}"]

    def _say(self, line: str) -> None:
        self.console.out(line, highlight=False)

    def _search(
        self, part: HpoPart, axes: tuple[Axis, ...], interrupt: Interrupt
    ) -> list[str]:
        from dpet_jax.suite.searchers.by_name import searches_from
        from dpet_jax.suite.searches import Searches, run_searches
        from dpet_jax.suite.tuning import Limits

        asked = Searches(
            self.home / part.config,
            (*self._changes(part), "--name=hpo"),
            axes,
            searches_from(part.by, f"{self.section.name}: hpo.by"),
            Limits(part.trials, part.epochs, part.wh),
            part.repeats,
        )
        run_searches(asked, self.out / SEARCHES, say=self._say, interrupt=interrupt)
        return []

    def _take_apart(self, config: Config) -> list[str]:
        from dpet_jax.run.layers import JSON_FILE, measure_layers, write_layers

        done = self.out / LAYERS / JSON_FILE
        wanted = config.model_dump(mode="json")
        if done.exists() and read_json(done)["config"] == wanted:
            return []
        write_layers(measure_layers(config, say=self._say), self.out / LAYERS)
        return []

    def _fill_pool(self, config: Config, name: str, interrupt: Interrupt) -> list[str]:
        from dpet_jax.pretrained.external import Told
        from dpet_jax.pretrained.pool import SUFFIX, ModelPool
        from dpet_jax.run import experiment, pool_commands

        pool = ModelPool(self.out / POOL)
        if (pool.path / f"{name}{SUFFIX}").exists():
            return []
        folder = experiment.run_folder(config, self.out)
        result = experiment.run(
            config, self.out, resume=folder.exists(), interrupt=interrupt
        )
        if result.stopped_by == "interrupted":
            return []
        pool_commands.add(pool, str(result.folder), name, Told())
        return []

    def _compare(self, suite: Suite, interrupt: Interrupt) -> list[str]:
        from dpet_jax.suite.compare import Comparing

        comparing = Comparing(suite, self.out, self.console, interrupt=interrupt)
        return [*comparing.run().problems]


def names_of_parts(text: str | None, section: PracticesConfig) -> tuple[Part, ...]:
    """Return the parts that `--only` names.

    Raises:
        UserError: If the study has no such part.
    """
    asked = [] if text is None else text.split(",")
    for name in asked:
        if name not in section.parts:
            raise UserError(
                f"command line: --only: {name!r} is no part of {section.name}; choose "
                f"from {', '.join(section.parts)}"
            )
    return tuple(part for part in section.parts if part in asked)
