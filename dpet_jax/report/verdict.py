"""What a comparison comes to, in words: a sentence or two, no more than it shows.

It speaks of one target, the highest at which there is anything to compare; the tables
have the others. A method is said to have saved something only where its range, or every
one of its seeds, lies apart.
"""

from collections.abc import Iterator

from dpet_jax.report.complexity import complexities, complexity_words
from dpet_jax.report.end_sheets import ratio_text
from dpet_jax.report.equal_accuracy import EndTable, Ratio, end_table
from dpet_jax.report.grid import grids
from dpet_jax.report.printed import dearer, dearer_than, significant, target_name
from dpet_jax.report.rows import Comparison
from dpet_jax.report.sheets import UNITS
from dpet_jax.report.table import CostTable, TableRow, cost_table
from dpet_jax.run.costs import By


def verdict(comparison: Comparison, by: By) -> tuple[str, ...]:
    """Return what a comparison comes to, a sentence each.

    Without a baseline only networks of a grid are compared, with each other.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.
    """
    crossing = cost_table(comparison.crossing, by)
    ends = end_table(comparison, by)
    return (
        *(() if ends is None else _of_ends(ends, comparison)),
        *_of_crossings(crossing, comparison),
        *map(complexity_words, complexities(grids(comparison), by)),
    )


def _of_ends(table: EndTable, comparison: Comparison) -> Iterator[str]:
    baseline, random = comparison.row("tuned"), comparison.row("random")
    if baseline is None:
        return
    apart = {baseline.key} | (set() if random is None else {random.key})
    rivals = [row for row in table.rows if row.row.key not in apart]
    for target in reversed(table.targets):
        known = [(r, row) for row in rivals if (r := row.tuned[target]) is not None]
        if not known:
            continue
        best, row = min(known, key=lambda one: one[0].value)
        control = _control(table, comparison, target)
        told = "" if control is None else f"; {control[1]} {ratio_text(control[0])}"
        network = " with the same network" if table.best else ""
        yield (
            f"At {target_name(target)}: {row.row.label} is "
            f"{dearer_than(best.value, baseline.label)}{network}"
            f"{ratio_text(best).removeprefix(dearer(best.value))}{told}."
        )
        yield _paid(best, None if control is None else control[0])
        return
    if rivals and table.targets:
        yield (
            "No target lies within the accuracies that both a method's runs and the "
            "baseline's span, so that nothing can be compared."
        )


def _control(
    table: EndTable, comparison: Comparison, target: float
) -> tuple[Ratio, str] | None:
    """Return the ratio of the random control, and its name; None where it has none."""
    random = comparison.row("random")
    for row in table.rows:
        ratio = row.tuned[target]
        if random is not None and row.row.key == random.key and ratio is not None:
            return ratio, row.row.label
    return None


def _paid(best: Ratio, control: Ratio | None) -> str:
    if best.high is None:
        return "There are too few seeds for a range, so that nothing is decided."
    if best.low is not None and best.low > 1:
        return "It saves nothing: its whole range is dearer."
    if best.high >= 1:
        return "Its range reaches 0, so that it is open whether it saves anything."
    if control is None:
        return "It saves; without a random control it is open whether by choosing."
    if control.low is not None and best.high < control.low:
        return "It saves, and by choosing: the random control costs more."
    return "It saves; its range meets the control's, so that it may be by dropping."


def _of_crossings(table: CostTable, comparison: Comparison) -> Iterator[str]:
    rows = {line.row.key: line for line in table.rows}
    named = (comparison.row("tuned"), comparison.row("standard"))
    baseline = next((rows[r.key] for r in named if r and r.key in rows), None)
    if baseline is None:
        return
    control = comparison.row("random")
    roles = {*comparison.roles.values()}
    rivals = [line for line in table.rows if line.row.key not in roles]
    for target in reversed(table.targets):
        cost = baseline.cells[target].median
        known = [line for line in rivals if line.cells[target].median is not None]
        if cost is None or not known:
            continue
        best = min(known, key=lambda line: line.cells[target].median or 0.0)
        mine = best.cells[target]
        assert mine.median is not None, "it is one of those known"
        seeds = len(mine.costs)
        yield (
            f"To {target_name(target)}: {best.row.label} was "
            f"{dearer_than(mine.median / cost, baseline.row.label)} "
            f"({significant(mine.median)} against {significant(cost)} "
            f"{UNITS[table.by]}, "
            + ("one seed)" if seeds == 1 else f"medians of {seeds} seeds)")
            + _beside(None if control is None else rows.get(control.key), target, cost)
            + "."
        )
        if mine.best:
            yield "Every seed of it took less than every seed of any other method."
        elif seeds == 1:
            yield "With one seed nothing is decided."
        else:
            yield "Its seeds and those of others overlap, so that nothing is decided."
        return


def _beside(control: TableRow | None, target: float, cost: float) -> str:
    if control is None or not control.cells[target].costs:
        return ""
    median = control.cells[target].median
    told = "never got there" if median is None else dearer(median / cost)
    return f"; {control.row.label} {told}"
