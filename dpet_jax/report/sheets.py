"""The tables of a report as text, before they are HTML, Markdown or LaTeX."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dpet_jax.report.printed import (
    NONE,
    percent,
    significant,
    span,
    target_name,
    times,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.table import Cell, CostTable, Spread, TableRow, spread


class Entry(NamedTuple):
    """What stands in one place of a table.

    Attributes:
        main: The number itself.
        small: What goes with it, a line each.
        strong: Whether it is set in bold.
    """

    main: str
    small: tuple[str, ...] = ()
    strong: bool = False


class Sheet(NamedTuple):
    """A table.

    Attributes:
        name: Unique, for references.
        title: What it shows.
        header: Of each column.
        rows: One entry for each column.
        notes: How to read it, a sentence each.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


def cost_sheet(table: CostTable) -> Sheet:
    """Return the energy-to-accuracy table."""
    return Sheet(
        name="cost",
        title=f"Cost to reach an accuracy, in {COST_NAMES[table.by]}",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(
            (Entry(line.row.label), *(cost_entry(line.cells[t]) for t in table.targets))
            for line in table.rows
        ),
        notes=(
            "Each cell: median over seeds, one that never got there being above all "
            "that did; then smallest to largest of those that got there, seeds that "
            "got there of all, and the median test accuracy of the parameters that "
            f"did. {NONE} where the median seed never got there; nothing is "
            "extrapolated.",
            "Bold: every seed got there, and the dearest of them spent less than any "
            "seed of any other method.",
        ),
    )


def cost_entry(cell: Cell) -> Entry:
    """Return a cell of the table as text."""
    if not cell.costs:
        return Entry("", ("no run",))
    small = [f"{cell.reached} of {len(cell.costs)}"]
    if cell.reached and cell.spread is None:
        small.insert(0, "not measured")
    elif cell.spread is not None and cell.reached > 1:
        small.insert(0, span(*cell.spread))
    if cell.test_accuracy is not None:
        small.append(f"test {percent(cell.test_accuracy)}")
    return Entry(significant(cell.median), tuple(small), cell.best)


def savings_sheet(table: CostTable, comparison: Comparison) -> Sheet | None:
    """Return what each method saves against both standards; None without either."""
    roles = [role for role in ("standard", "tuned") if comparison.row(role)]
    if not roles:
        return None
    names = {role: _label(comparison, role) for role in roles}
    rows = []
    for line in table.rows:
        entries = []
        for target in table.targets:
            first, *others = (times(line.savings[r][target]) for r in roles)
            entries.append(Entry(first, tuple(f"tuned {other}" for other in others)))
        rows.append((Entry(line.row.label), *entries))
    told = f"median cost of {names[roles[0]]} over that of the method"
    if len(roles) > 1:
        told += f"; below it, marked tuned, that of {names['tuned']}"
    return Sheet(
        name="savings",
        title="Savings against standard training",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(rows),
        notes=(f"Each cell: {told}. Above 1 is a saving.",),
    )


def paper_sheet(table: CostTable) -> Sheet | None:
    """Return our ratios beside the paper's; None where no target coincides."""
    targets = [t for t in table.targets if any(r.paper[t] for r in table.rows)]
    lines = [line for line in table.rows if any(line.paper[t] for t in targets)]
    if not lines:
        return None
    return Sheet(
        name="paper",
        title="Beside the paper: cost over that of standard training",
        header=("method", *map(target_name, targets)),
        rows=tuple(
            (
                Entry(line.row.label),
                *(
                    Entry(
                        significant(line.ratios[t]),
                        (f"paper {significant(line.paper[t])}",),
                    )
                    for t in targets
                ),
            )
            for line in lines
        ),
        notes=(
            f"Ours in {COST_NAMES[table.by]}, medians. The paper's in Wh of a whole "
            "machine (CodeCarbon, one seed, ResNet-18 on CIFAR-10, accuracy on the "
            "test split); only ratios can be compared.",
        ),
    )


def ends_sheet(table: CostTable) -> Sheet:
    """Return what the runs of each method ended with."""
    return Sheet(
        name="ends",
        title="At the end of the runs",
        header=(
            "method",
            "seeds",
            "test accuracy",
            f"{COST_NAMES[table.by]}, in all",
            "coreset",
            "pruned",
            "choosing, of FLOPs",
            "compiling, s",
            "ended by",
        ),
        rows=tuple(_end(line) for line in table.rows),
        notes=(
            "Medians, smallest to largest below. Choosing is scoring, selecting and "
            "training only in order to choose. Compiling is in no other number here: "
            "it is the time the runs waited for their programs, the first run of a "
            "process waiting for what later ones and those with a cache find ready.",
        ),
    )


def _end(line: TableRow) -> tuple[Entry, ...]:
    runs = line.row.runs
    waits = [run.summary["phases"]["compile"]["s"] for run in runs]
    reasons = dict.fromkeys(run.summary["stopped_by"] for run in runs)
    size = line.coreset_size
    return (
        Entry(line.row.label),
        Entry(str(len(runs))),
        _spread(line.test_accuracy, percent),
        _spread(line.total, significant),
        Entry(NONE if size is None else f"{size:,.0f}"),
        Entry(percent(line.pruning_ratio)),
        Entry(percent(line.selection_share)),
        _spread(spread(waits), significant),
        Entry(", ".join(reasons) or NONE),
    )


def _spread(of: Spread | None, told: Callable[[float], str]) -> Entry:
    if of is None:
        return Entry(NONE)
    small = (f"{told(of.low)} to {told(of.high)}",) if of.low != of.high else ()
    return Entry(told(of.median), small)


def _label(comparison: Comparison, role: str) -> str:
    row = comparison.row(role)
    assert row is not None
    return row.label


def present(sheets: Sequence[Sheet | None]) -> list[Sheet]:
    """Return the tables that there are."""
    return [sheet for sheet in sheets if sheet is not None and sheet.rows]
