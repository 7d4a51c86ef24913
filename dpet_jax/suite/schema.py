"""Every key of a suite: which experiments are compared with each other."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from dpet_jax.section import Fraction, Section, Seed, UserPath, check_file_name

#: Names of folders and of rows.
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    AfterValidator(check_file_name),
]

#: Folders that `dpet compare` itself writes beside those of the variants.
_TAKEN = ("tuning", "plots")
_MAX_SETTINGS = 1000


class TuneConfig(Section):
    """Try every combination of some values, on seeds that are not reported.

    For each target the setting is chosen whose median cost to reach it is lowest; where
    none reaches it, the one that ends with the highest validation accuracy.
    """

    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        min_length=1, description="dotted keys of the config, and the values of each"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _grid_can_be_tried(self) -> "TuneConfig":
        settings = math.prod(map(len, self.grid.values()))
        if settings > _MAX_SETTINGS:
            raise ValueError(
                f"grid: {settings:,} combinations, of which nobody tries more than "
                f"{_MAX_SETTINGS:,}; give fewer values"
            )
        return self


class VariantConfig(Section):
    """One row of the table."""

    label: str | None = Field(None, description="for people; by default its name")
    set: dict[str, Any] = Field({}, description="keys of the config, dotted or nested")
    tune: TuneConfig | None = None
    role: Literal["standard", "tuned", "random"] | None = Field(
        None,
        description="full data as papers train it, full data with a tuned schedule, or "
        "the random control: what the others are compared with",
    )
    paper: str | None = Field(None, description="the paper's row that it repeats")


class SuiteConfig(Section):
    """Experiments that differ in a few keys, over the same seeds and targets."""

    name: Name
    base: UserPath = Field(description="a config, relative to this file")
    set: dict[str, Any] = Field({}, description="keys of the config, for all variants")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    targets: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    variants: dict[Name, VariantConfig] = Field(min_length=1)
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
