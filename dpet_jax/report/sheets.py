"""The tables of a report as text, before they become HTML, Markdown or LaTeX."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dpet_jax.report.paired import (
    SIGNIFICANT,
    TESTABLE_PAIRS,
    Difference,
    pairs_needed,
)
from dpet_jax.report.paper import paper_ratio
from dpet_jax.report.printed import (
    NONE,
    percent,
    points,
    signed,
    significant,
    span,
    target_name,
    times,
)
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import COST_NAMES, Run
from dpet_jax.report.table import Cell, CostTable, Spread, TableRow, spread
from dpet_jax.run.costs import By


class Entry(NamedTuple):
    """One cell of a table.

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


def cost_sheet(table: CostTable) -> Sheet | None:
    """Return the table of what each method spent to reach each accuracy.

    None where no run had an accuracy to reach.
    """
    if not table.targets:
        return None
    return Sheet(
        name="cost",
        title=f"Cost to reach an accuracy, in {COST_NAMES[table.by]}",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(
            (Entry(line.row.label), *(cost_entry(line.cells[t]) for t in table.targets))
            for line in table.rows
        ),
        notes=(
            "Each cell: median over seeds, where a seed that never reached the target "
            "counts as above all that did; then the range of those that reached it, "
            "how many of all seeds did, and the median test accuracy of their "
            f"parameters at that moment. {NONE} where the median seed never reached "
            "it; nothing is extrapolated.",
            "Bold: every seed reached the target, and the most expensive of them spent "
            "less than any seed of any other method.",
        ),
    )


def cost_entry(cell: Cell) -> Entry:
    """Return a cell of the cost table as text."""
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
    """Return what each method saves against both standards.

    None without either of them, or without a target.
    """
    labels = {
        role: row.label
        for role in ("standard", "tuned")
        if (row := comparison.row(role)) is not None
    }
    if not labels or not table.targets:
        return None
    rows = []
    for line in table.rows:
        entries = []
        for target in table.targets:
            first, *others = (times(line.savings[role][target]) for role in labels)
            entries.append(Entry(first, tuple(f"tuned {other}" for other in others)))
        rows.append((Entry(line.row.label), *entries))
    first, *others = labels.values()
    note = f"Each cell: median cost of {first} over that of the method"
    if others:
        note += f"; below it, marked tuned, that of {others[0]}"
    return Sheet(
        name="savings",
        title="Savings against standard training",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(rows),
        notes=(f"{note}. Above 1 is a saving.",),
    )


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
        theirs = significant(paper.get((line.row.key, target)))
        return Entry(significant(ours), (f"paper {theirs}",))

    return Sheet(
        name="paper",
        title="Beside the paper: cost over that of standard training",
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
    """Return the final results of each method."""
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
            "selection, of FLOPs",
            "compilation, s",
            "stopped by",
        ),
        rows=tuple(_results(line) for line in table.rows),
        notes=(
            "Medians, with the range below. Selection is scoring, selecting and "
            "training auxiliary networks. Compilation is in no other number here, nor "
            "is reading the data: it is the time that runs waited for their programs, "
            "and the first run of a process waits for what later runs, and runs with "
            "a cache, find ready.",
            f"A coreset with {NONE} pruned was left by runs that trained on all data.",
        ),
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
        _spread(spread(waits), significant),
        Entry(", ".join(reasons) or NONE),
    )


def _spread(of: Spread | None, number: Callable[[float], str]) -> Entry:
    if of is None:
        return Entry(NONE)
    small = () if of.low == of.high else (span(of.low, of.high, number),)
    return Entry(number(of.median), small)


def paired_sheets(differences: Sequence[Difference], by: By) -> list[Sheet]:
    """Return the paired differences, one table for each baseline."""
    roles = dict.fromkeys(one.role for one in differences)
    return [
        _paired(role, [one for one in differences if one.role == role], by)
        for role in roles
    ]


def _paired(role: str, differences: list[Difference], by: By) -> Sheet:
    columns = list(dict.fromkeys(one.target for one in differences))
    labels = {one.row.key: one.row.label for one in differences}
    found = {(one.row.key, one.target): one for one in differences}
    baseline = {"tuned": "tuned standard training", "random": "the random control"}
    cost = COST_NAMES[by].partition(" (")[0]
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
            (Entry(label), *(_difference(found[key, target]) for target in columns))
            for key, label in labels.items()
        ),
        notes=(
            "Each cell: method minus baseline, median and range over the seeds that "
            "both have (for a cost, with which both reached the target). Wilcoxon's "
            "signed-rank test, two-sided, with Holm's correction for all methods of a "
            f"column; not testable below {TESTABLE_PAIRS} pairs.",
            f"With {len(labels)} methods at least {pairs_needed(len(labels))} pairs "
            f"are needed for a p below {SIGNIFICANT:g}, however large the differences.",
            "Censored: seeds that both have, of which one or both never reached the "
            "target. They are in no difference and in no test, so that a cell with "
            "censored seeds compares the easier ones alone.",
        ),
    )


def _difference(one: Difference) -> Entry:
    if one.of is None:
        return Entry(NONE, ("no pair", *_censored(one)))
    number = points if one.target is None else signed
    pairs = len(one.differences)
    small = [f"{pairs} pair{'s' * (pairs > 1)}"]
    if pairs > 1:
        small.insert(0, span(one.of.low, one.of.high, number))
    small += _censored(one)
    small.append("not testable" if one.p is None else f"p = {significant(one.p)}")
    if one.least_p is not None and one.least_p >= SIGNIFICANT:
        small.append(f"too few pairs: p cannot be below {significant(one.least_p)}")
    return Entry(number(one.of.median), tuple(small))


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
    shares = [pool.get("with_pretraining") or {} for _, _, pool in runs]
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
