"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from dpet_jax.report.facts import relative
from dpet_jax.report.printed import NONE, TIMES
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COMPARED, Run, compared
from dpet_jax.report.sheets import Entry, Sheet

COLUMNS = (
    *("key", "method", "target", "seed", "reached"),
    *("epochs", "visits", "seconds_warm", "wh_warm"),
    *("accuracy", "test_accuracy", "final_test_accuracy", "stopped_by"),
    *("energy_quality", "folder"),
)

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "_%&$#{}"},
    NONE: "--",
    TIMES: r"$\times$",
}


def to_markdown(sheet: Sheet) -> str:
    """Return a table as Markdown, its notes below."""
    lines = [
        f"## {_markdown(sheet.title)}",
        "",
        _line(map(_markdown, sheet.header)),
        _line("---" for _ in sheet.header),
        *(_line(map(_entry_markdown, row)) for row in sheet.rows),
        "",
        *(f"{_markdown(note)}\n" for note in sheet.notes),
    ]
    return "\n".join(lines)


def to_latex(sheet: Sheet) -> str:
    """Return a table as LaTeX for the package booktabs."""
    lines = [
        *(f"% {line}" for note in sheet.notes for line in note.splitlines()),
        f"\\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
        "\\toprule",
        f"{' & '.join(map(escape_latex, sheet.header))} \\\\",
        "\\midrule",
        *(f"{' & '.join(map(_entry_latex, row))} \\\\" for row in sheet.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison, out: Path) -> str:
    """Return the numbers of every method, target and seed, not rounded.

    Args:
        comparison: Which runs stand for which method.
        out: The folder of the file, which the run folders' paths start from.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        for target in comparison.targets:
            for run in row.by_target.get(target, ()):
                writer.writerow(
                    {"key": row.key, "method": row.label, "target": target}
                    | _raw(run, target, out)
                )
    return text.getvalue()


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """Return text that Markdown prints as it is, also inside a table."""
    return _markdown(text)


def _raw(run: Run, target: float, out: Path) -> dict[str, object]:
    cost = run.target_cost(target)
    return {
        "seed": run.seed,
        "reached": int(cost is not None),
        **{name: cost and compared(cost.spent, by) for by, name in COMPARED.items()},
        "accuracy": cost and cost.accuracy,
        "test_accuracy": cost and cost.test_accuracy,
        "final_test_accuracy": run.summary["test_accuracy"],
        "stopped_by": run.summary["stopped_by"],
        "energy_quality": run.quality,
        "folder": relative(run.folder, out),
    }


def _line(entries: Iterable[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _entry_markdown(entry: Entry) -> str:
    main = _markdown(entry.main)
    main = f"**{main}**" if entry.strong else main
    small = "; ".join(map(_markdown, entry.small))
    return f"{main} ({small})".strip() if small else main


def _markdown(text: str) -> str:
    for character in "\\`*_|[]":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split())


def _entry_latex(entry: Entry) -> str:
    main = escape_latex(entry.main)
    main = f"\\textbf{{{main}}}" if entry.strong else main
    small = escape_latex("; ".join(entry.small))
    return f"{main} {{\\scriptsize ({small})}}" if small else main
