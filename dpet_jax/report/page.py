"""A report on disk: one self-contained page, and its parts for papers."""

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dpet_jax.errors import UserError
from dpet_jax.files import write_whole
from dpet_jax.report.anova import anova_sheets
from dpet_jax.report.column import column_tables
from dpet_jax.report.complexity import complexity_sheets
from dpet_jax.report.end_sheets import end_sheets, end_tuning_sheet
from dpet_jax.report.equal_accuracy import EndTable, end_table
from dpet_jax.report.facts import deviations, setting
from dpet_jax.report.formats import (
    escape_markdown,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)
from dpet_jax.report.glossary import glossary
from dpet_jax.report.grid import front_sheet, grids
from dpet_jax.report.paired import paired_differences
from dpet_jax.report.printed import fitted
from dpet_jax.report.pruning_sheet import pruning_sheet
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.sheets import (
    Sheet,
    accuracy_sheet,
    cost_sheet,
    not_run,
    paired_sheets,
    paper_sheet,
    results_sheet,
    savings_sheet,
    sources_sheet,
    start_sheet,
    tuning_sheet,
)
from dpet_jax.report.table import CostTable, cost_table
from dpet_jax.report.tidy import tidy_tables
from dpet_jax.report.verdict import verdict
from dpet_jax.run.costs import By

#: Folder of what is for a paper.
PAPER = "paper"

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_STYLE = Path(__file__).with_name("page.css")


class _Content(NamedTuple):
    """What page and Markdown both hold."""

    comparison: Comparison
    by: By
    results: list[Sheet]
    checks: list[Sheet]
    sources: Sheet
    setting: list[tuple[str, str]]
    deviations: list[str]
    missing: list[str]

    @property
    def texts(self) -> Iterator[str]:
        """Everything it says, but names of runs and numbers."""
        for sheet in (*self.results, *self.checks, self.sources):
            yield from (sheet.title, *sheet.header, *sheet.notes)
            yield from (s for row in sheet.rows for entry in row for s in entry.small)
        for name, text in self.setting:
            yield from (name, text)
        yield from self.deviations


def write_report(
    comparison: Comparison,
    by: By,
    out: Path,
    lead: Sequence[str] = (),
    *,
    paper: bool = False,
) -> list[Path]:
    """Write a report: page, Markdown, CSV, LaTeX and plots, each whole or not at all.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.
        out: The folder, made if missing; files of an earlier report are replaced.
        lead: What the page begins with, a line each; by default the verdict.
        paper: Whether to write tables and plots for one column of a paper too, into a
            folder of their own: LaTeX, and each plot as PDF, SVG and PNG.

    Returns:
        The files: the page first.

    Raises:
        UserError: If a package that draws is missing, or a file cannot be written.
    """
    jinja2, style, drawn = drawing()
    crossing, ends = cost_table(comparison.crossing, by), end_table(comparison, by)
    pictures = drawn.pictures(comparison, crossing, ends)
    shown = [picture for picture in pictures if picture.figure is not None]
    content = _content(comparison, crossing, ends, out, drawn.missing(pictures))
    for picture in shown:
        style.settle(picture.figure)
    svgs = {picture.name: style.to_svg(picture.figure) for picture in shown}
    inline = {
        picture.name: style.inline(
            svgs[picture.name], picture.name, html.escape(picture.heading)
        )
        for picture in shown
    }
    files: dict[str, str | bytes] = {
        "report.html": _page(jinja2, content, shown, inline, lead),
        "report.md": _markdown(content, shown),
        "table.csv": to_csv(comparison, out),
        "table.tex": to_latex(content.results[0]),
        **{f"plots/{name}.svg": svg for name, svg in svgs.items()},
        **{f"plots/{p.name}.png": style.to_png(p.figure) for p in shown},
        **tidy_tables(comparison, out),
    }
    if paper:
        files |= {
            f"{PAPER}/{name}": text
            for name, text in column_tables(comparison, crossing, ends).items()
        }
        for picture in shown:
            name = f"{PAPER}/{picture.name}"
            files[f"{name}.pdf"] = style.to_pdf(picture.figure)
            files[f"{name}.svg"] = svgs[picture.name]
            files[f"{name}.png"] = files[f"plots/{picture.name}.png"]
    try:
        return [_write(out / name, held) for name, held in files.items()]
    except OSError as error:
        raise UserError(
            f"{out}: cannot write the report ({error.strerror}: {error.filename}); "
            "choose another folder with --out=DIR"
        ) from error


def answer(comparison: Comparison, by: By, width: int = 80) -> str:
    """Return the first table of the results, and the verdict, for a terminal.

    Args:
        comparison: Which runs belong to which method.
        by: What costs are compared in.
        width: Of the terminal, in characters.
    """
    ends = end_sheets(end_table(comparison, by), comparison)
    front = front_sheet(grids(comparison))
    table = cost_table(comparison.crossing, by)
    sheets = [*ends, front, cost_sheet(table), results_sheet(table)]
    table_text = to_text(present(sheets)[0], width)
    words = [
        fitted(line, width)
        for line in (*verdict(comparison, by), *not_run(comparison.gridless.rows))
    ]
    return "\n".join([table_text, *words])


def drawing() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import what draws, which no other command needs."""
    try:
        import jinja2

        from dpet_jax.report.plots import pictures, style
    except ModuleNotFoundError as error:
        raise UserError(
            f"a report needs the package {error.name}, which is not installed; run "
            "pip install 'dpet-jax[plot]'"
        ) from error
    return jinja2, style, pictures


def _content(
    comparison: Comparison,
    table: CostTable,
    ends: EndTable | None,
    out: Path,
    missing: list[str],
) -> _Content:
    by, crossing = table.by, comparison.crossing
    crossed = grids(comparison)
    results = (
        *end_sheets(ends, comparison),
        front_sheet(crossed),
        *complexity_sheets(crossed, by),
        *anova_sheets(crossed, by),
        cost_sheet(table),
        savings_sheet(table, crossing),
        accuracy_sheet(table),
        paper_sheet(table),
        results_sheet(table),
        start_sheet(crossing),
        pruning_sheet(comparison),
    )
    paired = paired_sheets(paired_differences(crossing, by), by)
    return _Content(
        comparison=comparison,
        by=by,
        results=present(results),
        checks=present(
            [*paired, tuning_sheet(crossing, by), end_tuning_sheet(comparison, by)]
        ),
        sources=sources_sheet(comparison, out),
        setting=setting(comparison, by),
        deviations=deviations(comparison),
        missing=[*_untold(comparison), *missing],
    )


def _untold(comparison: Comparison) -> list[str]:
    """Return which tables there are not, and what would give them."""
    if comparison.targets:
        return []
    return [
        "costs to reach an accuracy (no run had one to reach; list some in targets, "
        "such as targets: [0.8, 0.9])"
    ]


def present(sheets: Iterable[Sheet | None]) -> list[Sheet]:
    """Return the tables that there are and that have rows."""
    return [sheet for sheet in sheets if sheet is not None and sheet.rows]


def _page(
    jinja2: ModuleType,
    content: _Content,
    pictures: Sequence[Any],
    inline: dict[str, str],
    lead: Sequence[str],
) -> str:
    return rendered(
        jinja2,
        _TEMPLATE,
        content=content,
        comparison=content.comparison,
        cost_name=COST_NAMES[content.by],
        pictures=pictures,
        inline=inline,
        lead=lead or verdict(content.comparison, content.by),
        glossary=glossary(
            [
                *content.texts,
                *(text for p in pictures for text in (p.title, p.caption)),
                *(
                    text.get_text()
                    for picture in pictures
                    for legend in picture.figure.legends
                    for text in legend.get_texts()
                ),
            ]
        ),
    )


def rendered(jinja2: ModuleType, template: Path, **values: Any) -> str:
    """Return a page: a template in the one style of all pages.

    Args:
        jinja2: The package.
        template: Its file, beside the parts that pages share; it has the style as
            `css`.
        values: What it shows; text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name)
    return str(page.render(css=_STYLE.read_text(encoding="utf-8"), **values))


def _markdown(content: _Content, pictures: Sequence[Any]) -> str:
    comparison = content.comparison
    lines = [f"# {escape_markdown(comparison.name)}", ""]
    for title, sentences in (
        ("Problems", comparison.problems),
        ("Departures from the protocol", content.deviations),
        ("About this suite", comparison.statements),
    ):
        if sentences:
            lines += [f"## {title}", "", *_bullets(sentences), ""]
    lines += map(to_markdown, content.results)
    lines += ["## Setting", ""]
    lines += _bullets(f"{name}: {text}" for name, text in content.setting)
    lines += ["", "## Pictures", ""]
    lines += [
        f"![{escape_markdown(picture.heading)}](plots/{picture.name}.svg)\n"
        for picture in pictures
    ]
    lines += [*_bullets(f"not shown: {text}" for text in content.missing), ""]
    lines += map(to_markdown, [*content.checks, content.sources])
    return "\n".join(lines).rstrip() + "\n"


def _bullets(sentences: Iterable[str]) -> list[str]:
    return [f"- {escape_markdown(sentence)}" for sentence in sentences]


def _write(path: Path, held: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, held)
    return path
