"""The pictures of a report, each with its caption or the reason why it is missing."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.figure import Figure

from dpet_jax.report.equal_accuracy import EndTable
from dpet_jax.report.grid import grids, name_of
from dpet_jax.report.plots.coreset import class_balance, coreset_growth, gallery
from dpet_jax.report.plots.cost import cost_by_part, cost_to_accuracy, pareto
from dpet_jax.report.plots.course import accuracy_over_cost
from dpet_jax.report.plots.end import error_over_cost, gains_by_horizon
from dpet_jax.report.plots.grid import accuracy_over_seconds, heat_map, panels
from dpet_jax.report.plots.power import power_trace
from dpet_jax.report.plots.style import Looks, crowded, looks_of
from dpet_jax.report.rows import Comparison
from dpet_jax.report.table import CostTable
from dpet_jax.run.costs import By


class Picture(NamedTuple):
    """A picture of a report.

    Attributes:
        name: Of its files.
        title: What it shows.
        of: Label of the method, where there is one picture for each; else empty.
        caption: How to read it.
        figure: None where there is nothing to show.
        without: Why there may be nothing to show.
    """

    name: str
    title: str
    of: str
    caption: str
    figure: Figure | None
    without: str

    @property
    def heading(self) -> str:
        """What it shows, and of which method."""
        return f"{self.title}: {self.of}" if self.of else self.title


def missing(drawn: Iterable[Picture]) -> list[str]:
    """Return which pictures have nothing to show and why, a line for each reason."""
    found: dict[str, list[str]] = {}
    for picture in drawn:
        if picture.figure is None:
            owners = found.setdefault(f"{picture.title}: {picture.without}", [])
            owners += [picture.of] if picture.of else []
    return [f"{t} ({'; '.join(o)})" if o else t for t, o in found.items()]


def pictures(
    comparison: Comparison, table: CostTable, ends: EndTable | None
) -> list[Picture]:
    """Draw everything that the runs hold something for."""
    plain = comparison.gridless
    drawn = [row for row in comparison.rows if row.cell is None or row.by_horizon]
    looks = looks_of(drawn, comparison.row("tuned") or comparison.row("standard"))
    found = _of_grids(comparison) + ([] if ends is None else _of_ends(ends, looks))
    return found + (_of_methods(plain, table, looks) if plain.rows else [])


def _of_methods(
    comparison: Comparison, table: CostTable, looks: Looks
) -> list[Picture]:
    """Draw what tells methods apart; the rows of grids are too many for that."""
    by = table.by
    table = table._replace(rows=tuple(r for r in table.rows if r.row.cell is None))
    crossing = (
        [] if not table.rows else _of_crossings(comparison.crossing, table, looks)
    )
    return [
        *crossing,
        Picture(
            "parts",
            "What the cost was spent on",
            "",
            _PARTS_CAPTION[by],
            cost_by_part(comparison, by),
            "no method's runs all measured this cost",
        ),
        Picture(
            "growth",
            "Growth of the coreset",
            "",
            "Of the first seed of each method.",
            coreset_growth(comparison, looks),
            "no run selected a coreset",
        ),
        Picture(
            "balance",
            "Class balance of the coreset",
            "",
            "Of the first seed of each method, at its end.",
            class_balance(comparison, looks),
            "no run selected a coreset",
        ),
        *_of_rows(comparison),
    ]


def _of_grids(comparison: Comparison) -> list[Picture]:
    found = []
    for number, grid in enumerate(grids(comparison), 1):
        first, *others = map(name_of, grid.axes)
        over_both = f"Medians over seeds, then means over {' and '.join(others[1:])}; "
        over_both = over_both if others[1:] else "Medians over seeds; "
        over_both += "empty where nothing has run."
        too_few = "fewer than two keys of the grid have several values"
        both = f"{first} and {others[0] if others else 'another key'}"
        found += [
            Picture(
                f"grid{number}_front",
                f"Accuracy over seconds of training: {grid.label}",
                "",
                "Medians over seeds, evaluation and compilation excluded. On the "
                "dashed front are the rows that no other of this grid beats in both. "
                "Rows of a grid are in no picture of single methods.",
                accuracy_over_seconds(grid),
                "",
            ),
            Picture(
                f"grid{number}_panels",
                f"The same, by {first}: {grid.label}",
                "",
                "Medians and ranges over seeds; the dashed front is that of all.",
                panels(grid),
                f"the grid has one {first}",
            ),
            Picture(
                f"grid{number}_seconds",
                f"Seconds of training, by {both}: {grid.label}",
                "",
                over_both,
                heat_map(grid, "seconds"),
                too_few,
            ),
            Picture(
                f"grid{number}_accuracy",
                f"Test accuracy, by {both}: {grid.label}",
                "",
                over_both,
                heat_map(grid, "accuracy"),
                too_few,
            ),
        ]
    return found


def _of_ends(ends: EndTable, looks: Looks) -> list[Picture]:
    return [
        Picture(
            "error",
            "Error at the end, over cost",
            "",
            "Means and standard deviations over seeds, of runs of several lengths, and "
            "the power law fitted to each method's runs.",
            error_over_cost(ends, looks),
            "no run measured this cost",
        ),
        Picture(
            "gains",
            "Gain by length of the run",
            "",
            "Cost against what the baseline's curve takes to the same test accuracy, "
            "with its range; below the dashed line is cheaper.",
            gains_by_horizon(ends, looks),
            "no accuracy lies on the baseline's curve",
        ),
    ]


def _of_crossings(
    comparison: Comparison, table: CostTable, looks: Looks
) -> list[Picture]:
    by = table.by
    return [
        Picture(
            "accuracy",
            "Accuracy over cost",
            "",
            "Median and range over seeds. At each cost a seed counts with its latest "
            "evaluation up to there; one that has ended keeps its last. "
            + (
                "In each plot one method, over the others in grey and the baseline in "
                "ink."
                if crowded(looks)
                else "The axis starts a little below the lowest target."
            ),
            accuracy_over_cost(comparison, by, looks),
            "no run holds evaluations with this cost",
        ),
        Picture(
            "cost_to_accuracy",
            "Cost to reach an accuracy",
            "",
            "Median over seeds, and range of those that reached the target. Nothing "
            "where the median seed did not reach it.",
            cost_to_accuracy(table, looks),
            "no method's median seed reached a target",
        ),
        Picture(
            "pareto",
            "Final accuracy and cost",
            "",
            "Medians and ranges over seeds. On the dashed front are the methods that "
            "no other beats in both.",
            pareto(table, looks),
            "no method's runs all have cost and accuracy",
        ),
    ]


_PARTS_CAPTION: dict[By, str] = {
    "epochs": "Means over seeds. Training is divided by the names of the plans.",
    "visits": "Means over seeds, divided by the names of the plans; selection is not "
    "in it.",
    **dict.fromkeys(
        ("wh", "seconds"),
        "Means over seeds. Hatched: reported apart, and in no cost of the tables. "
        "Training is divided by the names of the plans.",
    ),
}


def _of_rows(comparison: Comparison) -> list[Picture]:
    found = []
    for number, row in enumerate(comparison.rows):
        for run in row.runs[:1]:
            name = f"{number + 1:02}_{re.sub(r'[^A-Za-z0-9]+', '_', row.key)[:40]}"
            found += [
                Picture(
                    f"gallery_{name}",
                    "First and last examples selected",
                    row.label,
                    f"Seed {run.seed}; class and score at which each entered.",
                    gallery(run),
                    "the run selected no coreset",
                ),
                Picture(
                    f"power_{name}",
                    "Power",
                    row.label,
                    f"Seed {run.seed}; shaded by the phase that took most of the time "
                    "between two events.",
                    power_trace(run),
                    "the run recorded no power",
                ),
            ]
    return found
