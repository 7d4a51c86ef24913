"""LaTeX tables for one column of a paper: booktabs, caption and label, nothing else.

Costs to reach a target are medians with their range, since a seed that never got there
has no cost that could enter a mean; results at the end are means with their standard
deviation over seeds.
"""

import math
import re
import statistics
import textwrap
from collections.abc import Iterator, Sequence

from dpet_jax.report.equal_accuracy import RANGE, EndTable, Ratio
from dpet_jax.report.formats import escape_latex
from dpet_jax.report.printed import NONE, significant, target_name
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES, Run
from dpet_jax.report.table import Cell, CostTable

#: The most columns of numbers beside the names; further targets follow below.
_BESIDE = 4
#: Characters of a name that stay on one line, at least.
_NAME = 18
#: Points of a narrow column of text, and of a character in the sizes of a table.
_COLUMN, _POINTS, _SMALL_POINTS = 240.0, 4.2, 3.1


def column_tables(
    comparison: Comparison, table: CostTable, ends: EndTable | None
) -> dict[str, str]:
    """Return the tables of a comparison by the name of their file.

    `cost.tex` has what each method spent to reach each target, or costs at equal
    accuracy where runs are read at their end; `results.tex` what the runs ended with.
    A comparison without targets has the second alone.

    Args:
        comparison: Which runs belong to which method.
        table: Of its rows that are read on the way.
        ends: Of its rows that are read at their end; None if there are none.
    """
    label = re.sub(r"[^A-Za-z0-9]+", "-", comparison.name).strip("-").lower() or "runs"
    found = {}
    if table.rows and table.targets:
        found["cost.tex"] = _cost(comparison, table, label)
    if ends is not None and ends.targets:
        found["equal.tex"] = _equal(comparison, ends, label)
    found["results.tex"] = _results(comparison, table, ends, label)
    return found


def _cost(comparison: Comparison, table: CostTable, label: str) -> str:
    seeds = sorted({len(c.costs) for r in table.rows for c in r.cells.values()})
    split = comparison.runs[0].summary["targets_on"]
    many = max(seeds, default=1) > 1
    what = (
        "median over seeds and, in brackets, the range of those that reached it, where "
        "they differ"
    )
    reached = [
        cell.reached < len(cell.costs)
        for line in table.rows
        for cell in line.cells.values()
    ]
    caption = [
        f"Cost to first reach {_an(split)} accuracy on {_data(comparison)}, in "
        f"{COST_NAMES[table.by]}{f': {what}' if many else ''}.",
        _seeds(seeds),
    ]
    if any(reached):
        caption.append(
            f"{NONE}: the median seed never did; k/n: so many of n seeds did."
            if many
            else f"{NONE}: never reached."
        )
    if any(cell.best for line in table.rows for cell in line.cells.values()):
        caption.append("Bold: every seed below every seed of all other methods.")
    rows = [
        (line.row.label, [_cost_cell(line.cells[t]) for t in table.targets])
        for line in table.rows
    ]
    return _float(_headers(table.targets), rows, caption, f"{label}-cost")


def _cost_cell(cell: Cell) -> tuple[str, str]:
    """Return what stands in a cell, and what stands below it."""
    if not cell.costs:
        return "", ""
    main = _plain(significant(cell.median))
    main = f"\\textbf{{{main}}}" if cell.best else main
    below = []
    if cell.spread is not None and cell.reached > 1:
        low, high = map(significant, cell.spread)
        # where no digit that is printed differs, the number says it all
        if low != high:
            below.append(f"[{_plain(low)}, {_plain(high)}]")
    if cell.reached < len(cell.costs) and len(cell.costs) > 1:
        below.append(f"{cell.reached}/{len(cell.costs)}")
    return main, " ".join(below)


def _equal(comparison: Comparison, ends: EndTable, label: str) -> str:
    baseline, random = comparison.row("tuned"), comparison.row("random")
    name = "the baseline" if baseline is None else baseline.label
    caption = [
        f"Cost over that of {name} at equal test accuracy on {_data(comparison)}, in "
        f"{COST_NAMES[ends.by]}; below 1 is a saving."
    ]
    ratios = [r for row in ends.rows for r in row.tuned.values() if r is not None]
    if any(r.low is not None for r in ratios):
        caption.append(f"In brackets {RANGE:.0%} of resamples of the seeds.")
    caption += [
        _seeds([len(ends.seeds)]),
        f"{NONE}: outside the accuracies that the fitted curves span.",
    ]
    if random is not None:
        caption.append(f"The control is {random.label}.")
    rows = [
        (row.row.label, [_ratio_cell(row.tuned[t]) for t in ends.targets])
        for row in ends.rows
    ]
    return _float(_headers(ends.targets), rows, caption, f"{label}-equal")


def _ratio_cell(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return _plain(NONE), ""
    below = ""
    if ratio.low is not None and ratio.high is not None:
        below = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    main = f"{ratio.value:.2f}"
    saves = ratio.high is not None and ratio.high < 1
    return (f"\\textbf{{{main}}}" if saves else main), below


def _results(
    comparison: Comparison, table: CostTable, ends: EndTable | None, label: str
) -> str:
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    counts: set[int] = set()
    for line in table.rows:
        runs = line.row.runs
        counts.add(len(runs))
        rows.append((line.row.label, [*_result_cells(runs, table)]))
    for row in () if ends is None else ends.rows:
        for horizon, held in sorted(row.row.by_horizon.items()):
            if held:
                counts.add(len(held))
                name = f"{row.row.label}, {horizon:g}"
                rows.append((name, [*_result_cells(held, table)]))
    many = max(counts, default=1) > 1
    spread = ": means and standard deviations over seeds" if many else ""
    caption = [
        f"What runs end with on {_data(comparison)}, and what they cost in all, in "
        f"{COST_NAMES[table.by]}{spread}.",
        _seeds(sorted(counts)),
    ]
    if ends is not None:
        caption.append("The number behind a method is the length of its runs.")
    headers = ["test accuracy (\\%)", "cost", "coreset"]
    return _float(headers, rows, caption, f"{label}-results")


def _result_cells(runs: Sequence[Run], table: CostTable) -> Iterator[tuple[str, str]]:
    accuracies = [run.summary["test_accuracy"] for run in runs]
    yield _mean([None if a is None else 100 * a for a in accuracies], 1), ""
    yield _mean([run.spent(table.by) for run in runs], None), ""
    sizes = {run.summary["coreset_size"] for run in runs}
    size = sizes.pop() if len(sizes) == 1 else None
    yield _plain(NONE if size is None else f"{size:,}"), ""


def _mean(values: Sequence[float | None], decimals: int | None) -> str:
    """Return mean and standard deviation; a dash where a value is missing."""
    known = [float(value) for value in values if value is not None]
    if not known or len(known) < len(values):
        return _plain(NONE)
    mean = statistics.fmean(known)

    def number(value: float) -> str:
        return significant(value) if decimals is None else f"{value:.{decimals}f}"

    if len(known) == 1:
        return f"${number(mean)}$".replace(",", "{,}")
    told = f"{number(mean)} \\pm {number(statistics.stdev(known))}"
    return f"${told}$".replace(",", "{,}")


def _headers(targets: Sequence[float]) -> list[str]:
    return [escape_latex(target_name(target)) for target in targets]


def _plain(text: str) -> str:
    return escape_latex(text)


def _an(split: str | None) -> str:
    return "a test" if split == "test" else "a validation"


def _data(comparison: Comparison) -> str:
    return " and ".join(dict.fromkeys(r.started["dataset"] for r in comparison.runs))


def _seeds(counts: Sequence[int]) -> str:
    if list(counts) == [1]:
        return "One seed, so that no spread is known."
    told = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{told} seeds."


def _float(
    headers: Sequence[str],
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    caption: Sequence[str],
    label: str,
) -> str:
    """Return a table as a float, its columns in blocks that fit beside each other.

    Args:
        headers: Of the numbers, escaped.
        rows: Name, not escaped, and for each column what stands in its cell and below.
        caption: Sentences, not escaped.
        label: Behind `tab:`.
    """
    beside, characters = _room(headers, rows)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[tp]",
        "\\centering",
        f"\\caption{{{escape_latex(' '.join(caption))}}}",
        f"\\label{{tab:{label}}}",
        "\\smallskip",  # where a class puts captions below, it leaves none above
        "\\footnotesize",
        "\\setlength{\\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{@{{}}l{'r' * beside}@{{}}}}",
        "\\toprule",
    ]
    for first in range(0, len(headers), beside):
        if first:
            lines.append("\\midrule")
        block = range(first, min(first + beside, len(headers)))
        lines += [_line("method", [headers[k] for k in block], beside), "\\midrule"]
        for number, (name, cells) in enumerate(rows):
            # a long name goes on beside the ranges
            told, *others = map(escape_latex, textwrap.wrap(name, characters))
            below = [cells[k][1] for k in block]
            tall = others or any(below)
            if tall and number:
                lines.append("\\addlinespace[2pt]")
            lines.append(_line(told, [cells[k][0] for k in block], beside))
            small = [f"\\scriptsize {text}" if text else "" for text in below]
            if tall:
                next_one = f"\\enspace {others[0]}" if others else ""
                lines.append(_line(next_one, small, beside))
            lines += [_line(f"\\enspace {more}", [], beside) for more in others[1:]]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _room(
    headers: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]
) -> tuple[int, int]:
    """Return how many columns of numbers fit, and characters of the names beside."""
    widths = [_POINTS * len(_as_seen(header)) for header in headers]
    for _, cells in rows:
        for k, (main, below) in enumerate(cells):
            both = _POINTS * len(_as_seen(main)), _SMALL_POINTS * len(below)
            widths[k] = max(widths[k], *both)
    least = min(_NAME, max(len(name) for name, _ in rows))
    for most in range(min(_BESIDE, len(headers)), 0, -1):
        # blocks as long as one another
        beside = math.ceil(len(headers) / math.ceil(len(headers) / most))
        starts = range(0, len(headers), beside)
        taken = max(sum(widths[k : k + beside]) + 6 * beside for k in starts)
        characters = math.floor((_COLUMN - taken) / _POINTS)
        if characters >= least:
            break
    return beside, max(_NAME, characters)


def _as_seen(text: str) -> str:
    """Return LaTeX without most of what is not printed."""
    return re.sub(r"\\(textbf|pm)|[${}\\]", lambda m: "+" if m[1] == "pm" else "", text)


def _line(name: str, cells: Sequence[str], beside: int) -> str:
    padded = [*cells, *[""] * (beside - len(cells))]
    return f"{' & '.join([name, *padded])} \\\\"
