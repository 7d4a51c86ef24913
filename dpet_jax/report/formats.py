"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dpet_jax.files import csv_cell
from dpet_jax.report.printed import NONE
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import COMPARED, Run
from dpet_jax.report.sheets import Entry, Sheet, relative

#: Costs go by the names that summary.json has for them.
COLUMNS = (
    *("key", "method", "target", "horizon", "seed", "reached"),
    *("epochs", "visits", "seconds_warm", "wh_warm"),
    *("accuracy", "test_accuracy", "final_test_accuracy", "stopped_by"),
    *("energy_quality", "folder"),
)

#: Before and between the columns of a table on a terminal, and the least width of its
#: names.
_MARGIN, _GAP, _NAME = "  ", "  ", 16

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "_%&$#{}"},
    NONE: "--",
    "\N{MINUS SIGN}": "$-$",
}


def to_markdown(sheet: Sheet) -> str:
    """Return a table as Markdown, its notes below."""

    def line(entries: Iterable[str]) -> str:
        return f"| {' | '.join(entries)} |"

    lines = [
        f"## {escape_markdown(sheet.title)}",
        "",
        line(map(escape_markdown, sheet.header)),
        line("---" for _ in sheet.header),
        *(line(map(_entry_markdown, row)) for row in sheet.rows),
        "",
        *(f"{escape_markdown(note)}\n" for note in sheet.notes),
    ]
    return "\n".join(lines)


def to_text(sheet: Sheet, width: int = 80) -> str:
    """Return a table for a terminal: its numbers, without what is below them.

    Nothing is wider than the terminal: names are wrapped at words, and columns that do
    not fit beside each other follow below, with the names again.

    Args:
        sheet: The table.
        width: Of the terminal, in characters.
    """
    names, *columns = zip(
        *[tuple(_on_terminal(entry, sheet) for entry in row) for row in sheet.rows],
        strict=True,
    )
    name, *headers = sheet.header
    room = width - len(_MARGIN)
    pairs = [*zip(headers, columns, strict=True)]
    widths = [max(map(len, (header, *cells))) for header, cells in pairs]
    if max(map(len, names)) + sum(len(_GAP) + w for w in widths) > room:
        widths = [max(map(len, (*h.split(), *cells))) for h, cells in pairs]
    # the names give way before the numbers do
    left = max(_NAME, room - sum(len(_GAP) + w for w in widths))
    above = [
        textwrap.wrap(h, w, break_on_hyphens=False)
        for h, w in zip(headers, widths, strict=True)
    ]
    wrapped = [textwrap.wrap(n, min(left, room)) or [""] for n in (name, *names)]
    first = max(len(part) for parts in wrapped for part in parts)

    text = textwrap.wrap(sheet.title, width)
    for block in _blocks(widths, room - first):
        depth = max([len(above[k]) for k in block] or [1])
        for line in range(depth):
            place = line - depth
            cells = [
                (above[k][place] if -place <= len(above[k]) else "").rjust(widths[k])
                for k in block
            ]
            head = name if line == depth - 1 else ""
            text.append(_row(head.ljust(first), cells))
        for number, parts in enumerate(wrapped[1:]):
            cells = [columns[k][number].rjust(widths[k]) for k in block]
            text += [_row(part, []) for part in parts[:-1]]
            text.append(_row(parts[-1].ljust(first), cells))
    return "\n".join(text)


def _on_terminal(entry: Entry, sheet: Sheet) -> str:
    beside = f" ({entry.beside})" if sheet.ranged and entry.beside else ""
    return f"{entry.main}{beside}"


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yield the columns that fit beside each other, at least one at a time."""
    block: list[int] = []
    used = 0
    for k, width in enumerate(widths):
        if block and used + len(_GAP) + width > room:
            yield block
            block, used = [], 0
        block.append(k)
        used += len(_GAP) + width
    yield block


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{_MARGIN}{_GAP.join([name, *cells])}".rstrip()


def to_latex(sheet: Sheet) -> str:
    """Return a table as LaTeX for the package booktabs."""

    def line(entries: Iterable[str]) -> str:
        return f"{' & '.join(entries)} \\\\"

    lines = [
        *(f"% {line}" for note in sheet.notes for line in note.splitlines()),
        f"\\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
        "\\toprule",
        line(map(escape_latex, sheet.header)),
        "\\midrule",
        *(line(map(_entry_latex, row)) for row in sheet.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison, out: Path) -> str:
    """Return the numbers of every method, target and seed, not rounded.

    Runs that are read at their end have a line each, with what they cost in all, and
    no target; so have those of a grid, beside the lines of their targets. The values of
    a grid's keys are in the last columns.

    Args:
        comparison: Which runs belong to which method.
        out: The folder of the file, which the paths of run folders start from.
    """
    text = io.StringIO()
    cells = [row.cell for row in comparison.rows if row.cell is not None]
    factors = dict.fromkeys(key for cell in cells for key in cell.factors)
    writer = csv.DictWriter(text, (*COLUMNS, *factors), lineterminator="\n")
    writer.writeheader()

    def write(row: Row, numbers: dict[str, object]) -> None:
        named = {"key": row.key, "method": row.label} | numbers
        named |= {} if row.cell is None else row.cell.factors
        writer.writerow({name: csv_cell(cell) for name, cell in named.items()})

    for row in comparison.rows:
        for target in comparison.targets:
            for run in row.by_target.get(target, ()):
                write(row, {"target": target} | _numbers(run, target, out))
        for run in row.runs if row.cell is not None else ():
            write(row, _numbers_at_end(run, out))
        for horizon, runs in sorted(row.by_horizon.items()):
            for run in runs:
                write(row, {"horizon": horizon} | _numbers_at_end(run, out))
    return text.getvalue()


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Return text that Markdown prints as it is, also inside a table."""
    for character in "\\`*_|[]":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split())


def _numbers(run: Run, target: float, out: Path) -> dict[str, object]:
    cost = run.target_cost(target)
    return _of_run(run, out) | {
        "reached": int(cost is not None),
        **{name: cost and run.cost(cost.spent, by) for by, name in COMPARED.items()},
        "accuracy": cost and cost.accuracy,
        "test_accuracy": cost and cost.test_accuracy,
    }


def _numbers_at_end(run: Run, out: Path) -> dict[str, object]:
    return _of_run(run, out) | {
        **{name: run.spent(by) for by, name in COMPARED.items()},
        "accuracy": run.summary.get("validation_accuracy"),
        "test_accuracy": run.summary["test_accuracy"],
    }


def _of_run(run: Run, out: Path) -> dict[str, object]:
    return {
        "seed": run.seed,
        "final_test_accuracy": run.summary["test_accuracy"],
        "stopped_by": run.stopped_by,
        "energy_quality": run.quality,
        "folder": relative(run.folder, out),
    }


def _entry_markdown(entry: Entry) -> str:
    main = escape_markdown(entry.main)
    main = f"**{main}**" if entry.strong else main
    small = "; ".join(map(escape_markdown, filter(None, (entry.beside, *entry.small))))
    return f"{main} ({small})".strip() if small else main


def _entry_latex(entry: Entry) -> str:
    main = escape_latex(entry.main)
    main = f"\\textbf{{{main}}}" if entry.strong else main
    small = escape_latex("; ".join(filter(None, (entry.beside, *entry.small))))
    return f"{main} {{\\scriptsize ({small})}}" if small else main
