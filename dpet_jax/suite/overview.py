"""What a suite would run, by variant: roles, keys, axes, counts and planned epochs."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dpet_jax.config.load import flat
from dpet_jax.errors import UserError
from dpet_jax.report.printed import significant, target_name
from dpet_jax.suite.compare import Comparing, Planned
from dpet_jax.suite.variants import Variant


class _Count(NamedTuple):
    """Runs of one variant, of one sort, and what they cost together."""

    runs: int
    epochs: float
    problem: str | None

    @classmethod
    def of(cls, planned: list[Planned]) -> "_Count":
        problems = [one.problem for one in planned if one.problem]
        epochs = sum(one.epochs or 0.0 for one in planned)
        return cls(len(planned), epochs, problems[0] if problems else None)

    def __str__(self) -> str:
        what = f"{self.runs} run{'s' * (self.runs != 1)}"
        return self.problem or f"{what}, {significant(self.epochs)} epochs"


def overview_lines(comparing: Comparing) -> Iterator[str]:
    """Yield what `dpet show SUITE` prints: a few lines for each variant.

    Epochs are full-pass equivalents, found by playing each method without a network.
    Where the data cannot be read there is none, and a line says why.

    Args:
        comparing: The suite, in the folder that its runs would have.
    """
    section = comparing.suite.section
    yield f"{section.name}: {len(comparing.suite.variants)} rows"
    yield f"  base      {section.base}"
    yield f"  read      {_READ[section.read]}"
    yield f"  seeds     {_listed(section.seeds)}"
    yield f"  targets   {', '.join(map(target_name, section.targets))}"
    yield from _keys("set", dict(flat(section.set)))
    planned: list[Planned] = []
    unreadable = ""
    try:
        planned = [*comparing.planned()]
    except UserError as error:
        unreadable = str(error).partition("\n")[0]
    if planned and all(one.problem for one in planned):
        unreadable = str(planned[0].problem).partition("\n")[0]
    for variant in comparing.suite.variants:
        yield ""
        role = variant.section.role
        name = variant.label if variant.label == variant.key else f"({variant.label})"
        yield (
            f"{variant.key}"
            + ("" if name == variant.key else f" {name}")
            + (f", role {role}" if role else "")
        )
        yield from _keys("set", dict(flat(variant.section.set)) | {**variant.factors})
        yield from _axes(variant)
        if not unreadable:
            yield from _counts(variant, planned)
    yield ""
    yield from comparing.suite.problems
    if unreadable:
        yield f"epochs are not known: {unreadable}"
    else:
        whole = _Count.of([one for one in planned if not one.problem])
        left_out = len(planned) - whole.runs
        yield f"in all {whole} of full-pass equivalents" + (
            f", without {left_out} that cannot be run" if left_out else ""
        )


_READ = {
    "crossing": "crossing: costs at the first evaluation at or above a target",
    "end": "end: runs of several lengths, each read once, at its end",
}


def _keys(name: str, keys: Mapping[str, Any]) -> Iterator[str]:
    for number, (key, value) in enumerate(keys.items()):
        told = value if isinstance(value, str) else json.dumps(value)
        yield f"  {'' if number else name:<10}{key}: {told}"


def _axes(variant: Variant) -> Iterator[str]:
    for key, values in (variant.section.horizons or {}).items():
        yield f"  lengths   {key}: {_listed(values)}"
    tune = variant.section.tune
    if tune is None:
        return
    for key, values in tune.grid.items():
        more = f", up to {tune.grow} more at either end" if tune.grow else ""
        yield f"  tuned     {key}: {_listed(values)}{more}"
    yield f"  {'':<10}on seeds {_listed(tune.seeds)}, which are not reported"


def _counts(variant: Variant, planned: list[Planned]) -> Iterator[str]:
    mine = [one for one in planned if one.job.variant == variant.key]
    trials = [one for one in mine if one.job.trial]
    if trials:
        yield f"  trials    {_Count.of(trials)}"
    yield f"  reported  {_Count.of([one for one in mine if not one.job.trial])}"


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))
