"""Which pre-trained network starts a run, from how well the features of each fit.

The rule alone: numbers in, a ranked table out. It never imports JAX.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from dpet_jax.errors import UserError
from dpet_jax.section import (
    Fraction,
    NonNegative,
    Number,
    Positive,
    Section,
    UserPath,
)

#: The network of the run's own section with random parameters, which is a candidate.
SCRATCH = "scratch"
#: Predictions so close to the least are taken for equal, and FLOPs decide.
_TIE = 0.02

Measure = Literal["knn", "logme", "leep", "nleep", "h_score"]
Start = Literal["head", "finetune", "linear_probe_then_finetune"]


class PoolConfig(Section):
    """Starts the run from a network of a pool, if one fits the data."""

    path: UserPath = Field(Path("pool"), description="folder of `dpet pool`")
    network: str | None = Field(
        None, description="name of the one to start from; null lets the data choose"
    )
    by: Measure = Field("knn", description="how well features fit is measured")
    # neighbours are looked for among all pairs
    images: Annotated[int, Field(ge=1, le=20_000), Number] = Field(
        2000, description="of the training split, stratified, to measure it on"
    )
    min_gain: NonNegative = Field(
        0.05, description="over random features, in units of the measure; less is none"
    )
    slope: Positive = Field(
        4.0, description="a unit of the measure divides the predicted energy by exp of"
    )
    start: Start = Field(
        "finetune",
        description="finetune: all, with a new last layer; head: the last layer in "
        "closed form, and no training; linear_probe_then_finetune: first that, then "
        "all",
    )
    old_rate: Fraction = Field(
        1.0, description="learning rate of the layers taken over, over that of the last"
    )


class Candidate(NamedTuple):
    """A network that a run may start from.

    Attributes:
        name: In the pool, or `SCRATCH`.
        label: What people call it.
        score: By the measure; None if it cannot be had.
        flops_per_visit: Of training on one image of the run.
        problem: Why it cannot start the run; None if it can.
        note: What the user should know of it.
        joules_per_image: Where it was trained, for the table; None if unknown.
    """

    name: str
    label: str
    score: float | None
    flops_per_visit: int
    problem: str | None = None
    note: str | None = None
    joules_per_image: float | None = None


def choose(candidates: Sequence[Candidate], section: PoolConfig) -> dict[str, Any]:
    """Rank candidates by the energy to a target that is predicted from their scores.

    Over that of scratch it is predicted as (FLOPs of a visit over scratch's) x
    exp(-slope x gain), where the gain is the score less that of scratch. A candidate
    whose gain is less than `min_gain` is rejected. The least prediction wins; among
    those within 2 % of it, the fewest FLOPs.

    Args:
        candidates: With `SCRATCH` among them, which has a score.
        section: The rule's numbers; a network that it names is chosen whatever they
            say.

    Returns:
        Plain data: "chosen", "rule", and "ranked", a row for each candidate with its
        score, gain, prediction and verdict, the chosen one first.

    Source:
        The form of the prediction is this project's own, and so is the slope; neither
        is fitted to runs.
    """
    scratch = next(one for one in candidates if one.name == SCRATCH)
    assert scratch.score is not None
    rows = [_row(one, scratch, section) for one in candidates]
    able = [row for row in rows if row["verdict"] is None]
    least = min(row["predicted_energy"] for row in able)
    close = [row for row in able if row["predicted_energy"] <= (1 + _TIE) * least]
    # scratch first among what is equal in all else: it takes nothing over
    best = min(
        close, key=lambda r: (r["flops_per_visit"], r["name"] != SCRATCH, r["name"])
    )
    for row in able:
        row["verdict"] = "predicted to need more energy"
        if row in close:
            row["verdict"] = "within 2 % of the least, with more FLOPs"
    best["verdict"] = "chosen: the least predicted energy"
    if best["name"] == SCRATCH:
        best["verdict"] = "chosen: nothing in the pool is predicted to save energy"
    if section.network is not None:
        best = _named(rows, section.network)
    rows.sort(key=lambda row: _place(row, best))
    return {
        "chosen": best["name"],
        "by": section.by,
        "start": section.start,
        "rule": f"predicted energy over scratch's = FLOPs of a visit over scratch's x "
        f"exp(-{section.slope:g} x gain in {section.by} over scratch); rejected below "
        f"a gain of {section.min_gain:g}; the least wins",
        "ranked": rows,
    }


def _row(one: Candidate, scratch: Candidate, section: PoolConfig) -> dict[str, Any]:
    row = one._asdict()
    verdict, gain, predicted = one.problem, None, None
    del row["problem"]
    if one.score is not None and verdict is None:
        assert scratch.score is not None
        gain = one.score - scratch.score
        cost = one.flops_per_visit / scratch.flops_per_visit
        # far beyond what any run could tell apart
        predicted = cost * math.exp(min(700.0, -section.slope * gain))
        if one.name != SCRATCH and gain < section.min_gain:
            verdict = (
                f"rejected: gains {gain:.3f} over random features, less than "
                f"{section.min_gain:g}"
            )
    return row | {"gain": gain, "predicted_energy": predicted, "verdict": verdict}


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Choose the row of a name, whatever the rule says.

    Raises:
        UserError: If that network cannot start the run.
    """
    named = next(row for row in rows if row["name"] == name)
    if named["predicted_energy"] is None:
        raise UserError(
            f"pool.network: {name!r} {named['verdict']}; choose another, or null"
        )
    for row in rows:
        if row["name"] == SCRATCH:
            row["verdict"] = "for comparison"
    named["verdict"] = "chosen: named in the config"
    return named


def _place(row: dict[str, Any], best: dict[str, Any]) -> tuple[Any, ...]:
    predicted = row["predicted_energy"]
    known = math.inf if predicted is None else predicted
    return row is not best, known, row["name"]


def table_lines(decision: dict[str, Any]) -> list[str]:
    """Return the ranked table as text, a line a candidate; none without a decision."""
    if not decision:
        return []
    columns = ("network", decision["by"], "gain", "MFLOPs/visit", "energy", "verdict")
    lines = [[*columns]]
    for row in decision["ranked"]:
        cells = [
            row["name"],
            _number(row["score"], ".3f"),
            _number(row["gain"], "+.3f"),
            f"{row['flops_per_visit'] / 1e6:,.2f}",
            _number(row["predicted_energy"], ".3g"),
        ]
        note = "" if row["note"] is None else f" ({row['note']})"
        lines.append([*cells, f"{row['verdict']}{note}"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) - 1)]
    return [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(line[i].rjust(widths[i]) for i in range(1, len(widths))),
                line[-1],
            ]
        ).rstrip()
        for line in lines
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


#: Over how many uses pre-training is shared out in summaries.
USES = (1, 10, 100)


def amortised(
    spent: int | float | None, pretraining: int | float | None
) -> dict[str, Any] | None:
    """Return what a run has cost with its share of pre-training, by number of uses.

    Args:
        spent: By the run itself, in any unit; None if it is not known.
        pretraining: What pre-training cost, in the same unit; None likewise.

    Returns:
        "without", and for each number of `USES`; None if either is unknown.
    """
    if spent is None or pretraining is None:
        return None
    return {"without": spent} | {str(n): spent + pretraining / n for n in USES}
