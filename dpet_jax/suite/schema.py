"""Every key of a suite: which experiments are compared with each other."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from dpet_jax.section import (
    Count,
    Fraction,
    Number,
    Positive,
    Section,
    Seed,
    UserPath,
    check_file_name,
)

#: Names of folders and of rows.
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    AfterValidator(check_file_name),
]

#: Folders that `dpet compare` itself writes beside those of the variants.
_TAKEN = ("tuning", "plots")
_MAX_SETTINGS = 1000

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
#: A whole number stays one, for it may be a number of passes.
WholeOrNot: TypeAlias = int | float
Horizon = Count | Positive


class Axis(NamedTuple):
    """The values of a key that is tuned.

    Attributes:
        values: Those given, with those that it may come to before and after them.
        lower: How many come before.
        upper: How many come after.
    """

    values: tuple[Any, ...]
    lower: int
    upper: int

    @classmethod
    def of(cls, given: Sequence[Any], grow: int) -> "Axis":
        """Continue a row of positive numbers at both ends, in the ratios found there.

        Numbers are rounded to six digits, and kept whole where all that were given are.
        What is no such row stays as it is.
        """
        numbers = [v for v in given if type(v) in (int, float) and v > 0]
        rising = all(a < b for a, b in itertools.pairwise(numbers))
        if not grow or len(numbers) < max(2, len(given)) or not rising:
            return cls((*given,), 0, 0)
        whole = all(type(v) is int for v in numbers)

        def beyond(last: WholeOrNot, before: WholeOrNot) -> list[Any]:
            found: list[Any] = []
            for step in range(1, grow + 1):
                value = float(f"{last * (last / before) ** step:.6g}")
                value = round(value) if whole else value
                if value in (0, *found, last):
                    break
                found.append(value)
            return found

        below = beyond(numbers[0], numbers[1])[::-1]
        above = beyond(numbers[-1], numbers[-2])
        return cls((*below, *given, *above), len(below), len(above))

    def window(self, below: int, above: int) -> tuple[Any, ...]:
        """Return the values to try once it has grown so far at both ends."""
        first = self.lower - min(below, self.lower)
        last = len(self.values) - self.upper + min(above, self.upper)
        return self.values[first:last]


class TuneConfig(Section):
    """Try every combination of some values, on seeds that are not reported.

    For each target the setting is chosen whose median cost to reach it is lowest; where
    none reaches it, the one that ends with the highest validation accuracy. Where runs
    are read at their end, that one is chosen for all horizons.
    """

    grid: dict[str, Values] = Field(
        min_length=1, description="dotted keys of the config, and the values of each"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        description="of the trials; they are not reported"
    )
    at: Horizon | None = Field(
        None, description="the horizon that is tried; read: end needs it"
    )
    grow: Annotated[int, Field(ge=0, le=8), Number] = Field(
        0,
        description="how often a numeric key gets one more value, in the ratio of the "
        "last two, while the last one wins for any variant",
    )

    @property
    def axes(self) -> dict[str, "Axis"]:
        """The values of each key, those included that it may come to."""
        return {key: Axis.of(values, self.grow) for key, values in self.grid.items()}

    @model_validator(mode="after")
    def _grid_can_grow(self) -> "TuneConfig":
        if self.grow and not any(
            axis.lower or axis.upper for axis in self.axes.values()
        ):
            raise ValueError(
                "grow: no key of the grid has two or more positive numbers in rising "
                "order, whose ratio would give the next; give such values, or drop grow"
            )
        return self

    @model_validator(mode="after")
    def _grid_can_be_tried(self) -> "TuneConfig":
        settings = math.prod(len(axis.values) for axis in self.axes.values())
        if settings > _MAX_SETTINGS:
            raise ValueError(
                f"grid: {settings:,} combinations, of which nobody tries more than "
                f"{_MAX_SETTINGS:,}; give fewer values"
            )
        return self


class VariantConfig(Section):
    """One row of the table, or with a grid one for each combination of its values."""

    label: str | None = Field(None, description="for people; by default its name")
    set: dict[str, Any] = Field({}, description="keys of the config, dotted or nested")
    grid: dict[str, Values] = Field(
        {},
        description="dotted keys of the config, and the values of each: every "
        "combination is a row; pictures give the first key markers and panels, the "
        "second colours, the third sizes",
    )
    tune: TuneConfig | None = Field(
        None, description="choose settings by trials on other seeds"
    )
    horizons: dict[str, Annotated[tuple[Horizon, ...], Field(min_length=2)]] | None = (
        Field(
            None,
            description="read: end: the key of a run's length, and its values",
        )
    )
    arm: Name | None = Field(
        None,
        description="read: end: variants of one arm differ in their network alone; by "
        "default its own name",
    )
    role: Literal["standard", "tuned", "random"] | None = Field(
        None,
        description="full data as papers train it, full data with a tuned schedule, or "
        "the random control: what the others are compared with",
    )
    paper: str | None = Field(None, description="the paper's row that it repeats")

    @model_validator(mode="after")
    def _grid_is_of_rows(self) -> "VariantConfig":
        for key, values in self.grid.items():
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"grid.{key}: {[*values]} holds one twice")
            if self.tune is not None and key in self.tune.grid:
                raise ValueError(
                    f"tune.grid.{key}: grid reports a row for each of its values; take "
                    "it out of one of the two"
                )
        if not self.grid:
            return self
        if self.horizons is not None:
            raise ValueError(
                "grid: each of its rows has one length, and horizons gives several; "
                "drop one of the two, and read: end with the horizons"
            )
        if self.role is not None:
            raise ValueError(
                f"role: {self.role} is one row, but grid makes many; give it to a "
                "variant without a grid"
            )
        tried = self.tune.axes.values() if self.tune else ()
        rows = math.prod(map(len, self.grid.values()))
        settings = rows * math.prod(len(axis.values) for axis in tried)
        if settings > _MAX_SETTINGS:
            raise ValueError(
                f"grid: {settings:,} combinations, of which nobody runs more than "
                f"{_MAX_SETTINGS:,}; give fewer values"
            )
        return self

    @model_validator(mode="after")
    def _one_key_says_how_long(self) -> "VariantConfig":
        if self.horizons is None:
            return self
        if len(self.horizons) != 1:
            raise ValueError(
                f"horizons: {len(self.horizons)} keys, but one says how long a run is"
            )
        ((key, values),) = self.horizons.items()
        if len({*values}) < len(values):
            raise ValueError(f"horizons.{key}: {[*values]} holds one twice")
        if self.tune is not None and key in self.tune.grid:
            raise ValueError(
                f"tune.grid.{key}: horizons has it; take it out of the grid"
            )
        if self.tune is not None and self.tune.at not in values:
            raise ValueError(
                f"tune.at: {self.tune.at} is none of the horizons; choose one of "
                f"{', '.join(f'{value:g}' for value in values)}"
            )
        return self


class SuiteConfig(Section):
    """Experiments that differ in a few keys, over the same seeds and targets."""

    name: Name = Field(description="of the folder of all its runs")
    base: UserPath = Field(
        description="a config, relative to this file, or the name of a packaged one"
    )
    set: dict[str, Any] = Field({}, description="keys of the config, for all variants")
    read: Literal["crossing", "end"] = Field(
        "crossing",
        description="crossing: a target's cost is that of the first evaluation at or "
        "above it; end: runs of several horizons are read once, at their end",
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        description="of the runs that are reported; every variant has all"
    )
    targets: Annotated[tuple[Fraction, ...], Field(min_length=1)] = Field(
        description="accuracies at which costs are compared"
    )
    variants: dict[Name, VariantConfig] = Field(
        min_length=1, description="the rows of the table, by name"
    )
    statements: tuple[str, ...] = Field(
        (), description="what readers of the report have to know, a sentence each"
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> "SuiteConfig":
        taken = sorted(set(self.variants) & {*_TAKEN})
        if taken:
            raise ValueError(
                f"variants.{taken[0]}: the folder is compare's own; choose another name"
            )
        return self

    @model_validator(mode="after")
    def _roles_are_given_once(self) -> "SuiteConfig":
        given: dict[str, str] = {}
        for name, variant in self.variants.items():
            if variant.role in given:
                raise ValueError(
                    f"variants.{name}.role: {variant.role} is {given[variant.role]}'s "
                    "already; give it to one variant"
                )
            if variant.role is not None:
                given[variant.role] = name
        return self

    @model_validator(mode="after")
    def _runs_are_read_in_one_way(self) -> "SuiteConfig":
        at_end = self.read == "end"
        for name, variant in self.variants.items():
            if at_end and variant.horizons is None:
                raise ValueError(
                    f"variants.{name}.horizons: missing, but read is end; give the key "
                    "that says how long a run is and two values or more"
                )
            at = variant.tune is not None and variant.tune.at is not None
            given = {"horizons": variant.horizons, "arm": variant.arm, "tune.at": at}
            for key, value in given.items():
                if value and not at_end:
                    raise ValueError(
                        f"variants.{name}.{key}: it is for runs that are read at their "
                        "end; set read: end, or drop it"
                    )
        if at_end and all(
            variant.role != "tuned" for variant in self.variants.values()
        ):
            raise ValueError(
                "read is end, but no variant has role tuned, the baseline whose cost "
                "at equal accuracy the others are compared with; give it to one"
            )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "SuiteConfig":
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: {[*self.seeds]} holds one twice")
        for name, variant in self.variants.items():
            both = {*self.seeds} & {*(variant.tune.seeds if variant.tune else ())}
            if both:
                raise ValueError(
                    f"variants.{name}.tune.seeds: {min(both)} is reported as well; "
                    "tune on other seeds"
                )
        return self
