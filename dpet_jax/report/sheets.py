"""The tables of a report as text, before they become HTML, Markdown or LaTeX."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.report.paired import (
    SIGNIFICANT,
    TESTABLE_PAIRS,
    Difference,
    pairs_needed,
)
from dpet_jax.report.paper import paper_ratio
from dpet_jax.report.printed import (
    NONE,
    brief,
    dearer,
    percent,
    points,
    signed,
    significant,
    span,
    target_name,
)
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import COST_NAMES, Run
from dpet_jax.report.table import Cell, CostTable, Spread, TableRow, spread
from dpet_jax.run.costs import By

#: Of costs, for people.
UNITS: dict[By, str] = {
    "epochs": "epochs",
    "visits": "examples",
    "seconds": "s",
    "wh": "Wh",
}
#: What stands where a method would be compared with itself.
BASELINE = "baseline"

#: Columns of final results that every method has: name, seeds, accuracy, cost.
_ALWAYS = 4


class Entry(NamedTuple):
    """One cell of a table.

    Attributes:
        main: The number itself.
        small: What goes with it, a line each.
        strong: Whether it is set in bold.
        beside: What goes with it on the same line, such as its range.
    """

    main: str
    small: tuple[str, ...] = ()
    strong: bool = False
    beside: str = ""


class Sheet(NamedTuple):
    """A table.

    Attributes:
        name: Unique, for references.
        title: What it shows.
        header: Of each column.
        rows: One entry for each column.
        notes: How to read it; the first is all that most readers need.
        folded: Whether the whole table is for those who ask for it.
        ranged: Whether a terminal shows what is beside the numbers too.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False
    ranged: bool = False


def run_of(table: CostTable) -> list[TableRow]:
    """Return the lines of a table that have a run."""
    return [line for line in table.rows if line.row.all_runs]


def not_run(rows: Iterable[Row]) -> list[str]:
    """Return which methods have no run yet, a sentence or none."""
    absent = [row.label for row in rows if not row.all_runs]
    return [f"No run yet: {'; '.join(absent)}."] if absent else []


def cost_sheet(table: CostTable) -> Sheet | None:
    """Return the table of what each method spent to reach each accuracy.

    None where no run had an accuracy to reach.
    """
    if not table.targets:
        return None
    lines = run_of(table)
    cells = [cell for line in lines for cell in line.cells.values()]
    several = any(len(cell.costs) > 1 for cell in cells)
    missed = any(cell.reached < len(cell.costs) for cell in cells)
    return Sheet(
        name="cost",
        title=f"Cost to reach an accuracy, in {COST_NAMES[table.by]}",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(
            (Entry(line.row.label), *(cost_entry(line.cells[t]) for t in table.targets))
            for line in lines
        ),
        notes=(
            _how(several=several, missed=missed),
            *(
                (
                    "Bold: every seed reached the target, and the most expensive of "
                    "them spent less than any seed of any other method.",
                )
                if any(cell.best for cell in cells)
                else ()
            ),
            *not_run(line.row for line in table.rows),
        ),
    )


def _how(*, several: bool, missed: bool) -> str:
    """Return how costs are to be read: no more than these need."""
    if not several:
        never = f"; {NONE} where it never reached the target" if missed else ""
        return f"Of one seed, so that no spread is known{never}."
    if not missed:
        return "Median and range over seeds."
    return (
        "Median over seeds, where one that never reached the target counts as above "
        "all that did; then the range of those that did and below it how many. "
        f"{NONE} where the median seed never did; nothing is extrapolated."
    )


def cost_entry(cell: Cell) -> Entry:
    """Return a cell of the cost table as text."""
    if not cell.costs:
        return Entry("", ("no run",))
    small, seeds = [], len(cell.costs)
    if cell.reached and cell.spread is None:
        small.append("not measured")
    if cell.reached < seeds:
        small.append(f"{cell.reached} of {seeds} seeds" if seeds > 1 else "not reached")
    beside = _range(*cell.spread) if cell.spread is not None else ""
    return Entry(significant(cell.median), tuple(small), cell.best, beside)


def _range(
    low: float, high: float, number: Callable[[float], str] = significant
) -> str:
    """Return what stands beside a median: nothing where all seeds are equal."""
    return "" if low == high else span(low, high, number)


def accuracy_sheet(table: CostTable) -> Sheet | None:
    """Return the test accuracy at the moments at which runs reached their targets.

    None where none did.
    """
    lines = run_of(table)
    held = [cell.test_accuracy for line in lines for cell in line.cells.values()]
    if all(accuracy is None for accuracy in held):
        return None
    return Sheet(
        name="at_targets",
        title="Test accuracy when an accuracy was reached",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(
            (
                Entry(line.row.label),
                *(Entry(percent(line.cells[t].test_accuracy)) for t in table.targets),
            )
            for line in lines
        ),
        notes=(
            "Median over the seeds that reached the target, of the same parameters. "
            "It was measured then, and decided nothing.",
        ),
        folded=True,
    )


def savings_sheet(table: CostTable, comparison: Comparison) -> Sheet | None:
    """Return what each method costs against both standards.

    None without either of them, a target, or a baseline that reached one.
    """
    labels = {
        role: row.label
        for role in ("standard", "tuned")
        if (row := comparison.row(role)) is not None
    }
    known = (of for line in table.rows for of in line.savings.values())
    if not labels or all(saving is None for of in known for saving in of.values()):
        return None
    rows = []
    for line in run_of(table):
        entries = []
        for target in table.targets:
            first, *others = (
                _against(line, role, label, target) for role, label in labels.items()
            )
            small = (f"tuned: {other}" for other in others if other != NONE)
            entries.append(Entry(first, tuple(small)))
        rows.append((Entry(line.row.label), *entries))
    first, *others = labels.values()
    note = f"Median cost of the method against that of {first}"
    if others:
        note += f"; below it, marked tuned, against that of {others[0]}"
    return Sheet(
        name="savings",
        title="Cost against standard training",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(rows),
        notes=(f"{note}.",),
    )


def _against(line: TableRow, role: str, label: str, target: float) -> str:
    """Return what a method costs against a baseline, which costs what it costs."""
    saving = line.savings[role][target]
    if saving is not None and line.row.label == label:
        return BASELINE
    return dearer(None if saving is None else 1 / saving)


def paper_sheet(table: CostTable) -> Sheet | None:
    """Return our ratios beside those of the paper; None where no target coincides."""
    paper = {
        (line.row.key, t): ratio
        for line in table.rows
        for t in table.targets
        if (ratio := paper_ratio(line.row.paper, t)) is not None
    }
    targets = [t for t in table.targets if any(t == target for _, target in paper)]
    lines = [r for r in table.rows if any(r.row.key == key for key, _ in paper)]
    if not lines:
        return None

    def entry(line: TableRow, target: float) -> Entry:
        saving = line.savings.get("standard", {}).get(target)
        ours = None if saving is None else 1 / saving
        if line.row.paper == "standard" and ours == 1:
            return Entry(BASELINE)
        theirs = dearer(paper.get((line.row.key, target)))
        return Entry(dearer(ours), (f"paper: {theirs}",))

    return Sheet(
        name="paper",
        title="Beside the paper: cost against standard training",
        header=("method", *map(target_name, targets)),
        rows=tuple(
            (Entry(line.row.label), *(entry(line, target) for target in targets))
            for line in lines
        ),
        notes=(
            f"Ours in {COST_NAMES[table.by]}, medians. The paper's in Wh of a whole "
            "machine (CodeCarbon, one seed, ResNet-18 on CIFAR-10, accuracy on the "
            "test split); only ratios can be compared.",
        ),
    )


def results_sheet(table: CostTable) -> Sheet:
    """Return the final results of each method.

    Columns in which there is nothing for any method are left out.
    """
    lines = run_of(table)
    header = (
        "method",
        "seeds",
        "test accuracy",
        f"cost in all, {UNITS[table.by]}",
        "coreset",
        "pruned",
        "selection, of FLOPs",
        "compilation, s",
        "stopped by",
    )
    rows = [_results(line) for line in lines]
    nothing = {NONE, percent(0.0), "finished"}
    names = {
        name
        for place, name in enumerate(header)
        if place < _ALWAYS or {row[place].main for row in rows} - nothing
    }
    if "coreset" in names:  # of which it is to be told whether it was trained on
        names.add("pruned")
    shown = [place for place, name in enumerate(header) if name in names]
    notes = ["Medians, with the range over seeds beside them."]
    if "selection, of FLOPs" in names:
        notes.append("Selection is scoring, selecting and training auxiliary networks.")
    if "compilation, s" in names:
        notes.append(
            "Compilation is in no other number here, nor is reading the data: it is "
            "the time that runs waited for their programs, and the first run of a "
            "process waits for what later runs, and runs with a cache, find ready."
        )
    of, pruned = header.index("coreset"), header.index("pruned")
    if any(row[of].main != NONE and row[pruned].main == NONE for row in rows):
        notes.append(
            f"A coreset with {NONE} pruned was left by runs that trained on all data."
        )
    if "stopped by" not in names and rows:
        notes.append("Every run went on to the end of its plan.")
    return Sheet(
        name="ends",
        title="At the end of the runs",
        header=tuple(header[place] for place in shown),
        rows=tuple(tuple(row[place] for place in shown) for row in rows),
        notes=(*notes, *not_run(line.row for line in table.rows)),
    )


def _results(line: TableRow) -> tuple[Entry, ...]:
    runs = line.row.runs
    waits = [run.summary["phases"]["compile"]["s"] for run in runs]
    reasons = dict.fromkeys(run.stopped_by for run in runs)
    size = line.coreset_size
    return (
        Entry(line.row.label),
        Entry(str(len(runs))),
        _spread(line.test_accuracy, percent),
        _spread(line.total, significant),
        Entry(NONE if size is None else f"{size:,.0f}"),
        Entry(percent(line.pruning_ratio)),
        Entry(percent(line.selection_share)),
        _spread(spread(waits), brief),
        Entry(", ".join(reasons) or NONE),
    )


def _spread(of: Spread | None, number: Callable[[float], str]) -> Entry:
    if of is None:
        return Entry(NONE)
    return Entry(number(of.median), beside=_range(of.low, of.high, number))


def paired_sheets(differences: Sequence[Difference], by: By) -> list[Sheet]:
    """Return the paired differences, one table for each baseline that has a run."""
    held: dict[str, dict[str, list[Difference]]] = {}
    for one in differences:
        held.setdefault(one.role, {}).setdefault(one.row.key, []).append(one)
    found = []
    for role, by_row in held.items():
        # without any pair, and none that was censored, there is nothing to compare
        kept = [d for d in by_row.values() if any(_told(one) for one in d)]
        if kept:
            found.append(_paired(role, [one for d in kept for one in d], by))
    return found


def _told(one: Difference) -> bool:
    return one.of is not None or any(one.censored.values())


def _paired(role: str, differences: list[Difference], by: By) -> Sheet:
    columns = list(dict.fromkeys(one.target for one in differences))
    labels = {one.row.key: one.row.label for one in differences}
    found = {(one.row.key, one.target): one for one in differences}
    baseline = {"tuned": "tuned standard training", "random": "the random control"}
    cost = COST_NAMES[by].partition(" (")[0]
    pairs = Counter(len(one.differences) for one in differences if one.differences)
    usual = max(pairs, key=lambda n: (pairs[n], n), default=0)
    testable = any(one.p is not None for one in differences)
    return Sheet(
        name=f"against_{role}",
        title=f"Paired differences from {baseline.get(role, role)}",
        header=(
            "method",
            *(
                "test accuracy, points" if t is None else f"{target_name(t)}, {cost}"
                for t in columns
            ),
        ),
        rows=tuple(
            (
                Entry(label),
                *(_difference(found[key, t], usual, testable) for t in columns),
            )
            for key, label in labels.items()
        ),
        notes=(
            "Method minus baseline: median and range over the seeds that both have "
            "(for a cost, with which both reached the target), "
            f"{_pairs(usual)} where nothing else is said.",
            "Wilcoxon's signed-rank test, two-sided, with Holm's correction for all "
            f"methods of a column; not testable below {TESTABLE_PAIRS} pairs"
            + ("." if testable else ", so that nothing is tested here."),
            f"With {len(labels)} methods at least {pairs_needed(len(labels))} pairs "
            f"are needed for a p below {SIGNIFICANT:g}, however large the differences.",
            *(
                (
                    "Censored: seeds that both have, of which one or both never "
                    "reached the target. They are in no difference and in no test, so "
                    "that a cell with censored seeds compares the easier ones alone.",
                )
                if any(any(one.censored.values()) for one in differences)
                else ()
            ),
        ),
    )


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


def _difference(one: Difference, usual: int, testable: bool) -> Entry:
    """Return a cell; what all cells have in common is said below the table."""
    if one.of is None:
        return Entry(NONE, ("no pair", *_censored(one)))
    number = points if one.target is None else signed
    pairs = len(one.differences)
    small = [] if pairs == usual else [_pairs(pairs)]
    small += _censored(one)
    if testable:
        small.append("not testable" if one.p is None else f"p = {significant(one.p)}")
    if one.least_p is not None and one.least_p >= SIGNIFICANT:
        small.append(f"too few pairs: p cannot be below {significant(one.least_p)}")
    beside = _range(one.of.low, one.of.high, number)
    return Entry(number(one.of.median), tuple(small), beside=beside)


def _censored(one: Difference) -> list[str]:
    who = {"baseline": "baseline alone", "method": "method alone", "neither": "neither"}
    counts = [f"{who[key]} {n}" for key, n in one.censored.items() if n]
    return [f"censored; reached by {', '.join(counts)}"] if counts else []


def tuning_sheet(comparison: Comparison, by: By) -> Sheet | None:
    """Return what tuning took and chose; None where nothing was tuned."""
    rows = []
    for row in comparison.rows:
        if row.tuning is not None:
            trials, seeds, cost, chosen = row.tuning
            rows.append(
                (
                    Entry(row.label),
                    Entry(str(trials)),
                    Entry(", ".join(map(str, seeds))),
                    Entry(significant(cost.get(by))),
                    *(Entry(chosen.get(t) or NONE) for t in comparison.targets),
                )
            )
    if not rows:
        return None
    targets = (f"for {target_name(target)}" for target in comparison.targets)
    return Sheet(
        name="tuning",
        title="Tuning",
        header=("method", "trials", "seeds", COST_NAMES[by], *targets),
        rows=tuple(rows),
        notes=(
            "The cost is that of all trials together, and is in no other number here; "
            "their seeds are not reported. The chosen settings, for each target "
            f"({NONE} where no trial reached it), were then run with the reported "
            "seeds.",
        ),
    )


def start_sheet(comparison: Comparison) -> Sheet | None:
    """Return which networks runs started from, and their cost with pre-training.

    None where no run chose from a pool.
    """
    runs = [
        (row, run, run.summary["pool"])
        for row in comparison.rows
        for run in row.all_runs
        if run.summary.get("pool") is not None
    ]
    if not runs:
        return None
    shares = [_shares(run, pool) for _, run, pool in runs]
    measured = any(share.get("wh") for share in shares)
    unit, name, scale = ("wh", "Wh", 1.0) if measured else ("flops", "TFLOPs", 1e12)
    rows = []
    for (row, run, pool), share in zip(runs, shares, strict=True):
        first, spent = pool["ranked"][0], share.get(unit) or {}
        costs = [spent.get(key) for key in ("without", "1", "10", "100")]
        rows.append(
            (
                Entry(row.label),
                Entry(str(run.seed)),
                Entry(pool["chosen"], (pool["start"],)),
                Entry(significant(first["score"]), (signed(first["gain"]),)),
                Entry(significant(pool["cost"]["seconds"])),
                *(Entry(significant(c and c / scale)) for c in costs),
            )
        )
    uses = (f"{name}, {n} use{'s' * (n > 1)}" for n in (1, 10, 100))
    header = ("method", "seed", "started from", "score", "seconds of choosing")
    return Sheet(
        name="start",
        title="Where runs started",
        header=(*header, f"{name} of the run", *uses),
        rows=tuple(rows),
        notes=(
            "Score: how well the chosen network's features fit the data, and its gain "
            "over those of a random network. The cost of a whole run, evaluation "
            "excluded from FLOPs, without what pre-training the network has cost, and "
            f"with its share of that if it is used so often; {NONE} where nobody knows "
            "what pre-training has cost, or not in the same quality.",
        ),
    )


def _shares(run: Run, pool: dict[str, Any]) -> dict[str, Any]:
    """Return costs with pre-training; a model's Wh have no interval and are no cost."""
    shares = dict(pool.get("with_pretraining") or {})
    if run.quality == "modelled":
        shares["wh"] = None
    return shares


def sources_sheet(comparison: Comparison, out: Path) -> Sheet:
    """Return which run folders each line is made of.

    Args:
        comparison: Which runs belong to which method.
        out: The folder of the report, which the paths start from.
    """
    return Sheet(
        name="sources",
        title="Where the numbers come from",
        header=("method", "seed", "used for", "stopped by", "run folder"),
        rows=tuple(
            (
                Entry(row.label),
                Entry(str(run.seed)),
                Entry(_used_for(row, run, comparison.targets)),
                Entry(run.stopped_by),
                Entry(relative(run.folder, out)),
            )
            for row in comparison.rows
            for run in row.all_runs
        ),
        notes=("Paths start from the folder of this report.",),
        folded=True,
    )


def _used_for(row: Row, run: Run, targets: Sequence[float]) -> str:
    uses = {target_name(target): row.by_target.get(target, ()) for target in targets}
    uses["the end"] = row.runs
    return ", ".join(
        use
        for use, runs in uses.items()
        if run.folder in [other.folder for other in runs]
    )


def relative(folder: Path, out: Path) -> str:
    """Return the path of a folder as seen from another."""
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()
