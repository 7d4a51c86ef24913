"""The report of a study of practices: what holds, four figures, and all tables.

It is read from the folders of its parts alone. Costs are Wh where every run measured
them, and otherwise what the tables name; nothing that was modelled is in one column
with what was measured.
"""

import html
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.errors import UserError
from dpet_jax.files import read_json, write_whole
from dpet_jax.report.anova import anova_sheets, main_effects
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.complexity import (
    Complexity,
    complexities,
    complexity_sheets,
    complexity_words,
)
from dpet_jax.report.end_sheets import end_sheets, ratio_text
from dpet_jax.report.equal_accuracy import RANGE, EndRow, EndTable, end_table
from dpet_jax.report.formats import escape_markdown, to_markdown
from dpet_jax.report.grid import Grid, front_sheet, grids, name_of
from dpet_jax.report.page import drawing, present, rendered
from dpet_jax.report.printed import (
    dearer_than,
    fitted,
    percent,
    points,
    significant,
    span,
    target_name,
)
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import COST_NAMES, Run
from dpet_jax.report.searches import (
    SearchRecord,
    SearchRow,
    read_searches,
    search_sheet,
)
from dpet_jax.report.searches import answer as search_answer
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.run.costs import By

_TEMPLATE = Path(__file__).with_name("practices.html.jinja")
REPORT, MARKDOWN, RECORD = "report.html", "report.md", "record.json"

#: The study's order of searches, by the names that ours have.
_BAYESIAN, _ORDER = ("gp", "tpe"), ("random", "grid")
#: Keys of the study's factors, and what it says of them: each more than the next.
_LAYERS = ("n_conv", "n_linear", "relu")


class Claim(NamedTuple):
    """Something that the study says, held against what was measured here.

    Attributes:
        text: What it says.
        verdict: "holds", "does not hold" or "open".
        numbers: By which.
    """

    text: str
    verdict: str
    numbers: str


class Chapter(NamedTuple):
    """A part of a study, as far as it has run.

    Attributes:
        title: For people.
        answer: What came of it, in a sentence or two; the first is the headline.
        claims: What the study says of it.
        pictures: The first is its figure.
        sheets: Its tables.
        missing: What has not run.
        totals: What it took, by unit; None where that was not measured.
    """

    title: str
    answer: tuple[str, ...]
    claims: tuple[Claim, ...]
    pictures: tuple[Any, ...]
    sheets: tuple[Sheet, ...]
    missing: tuple[str, ...]
    totals: Mapping[str, float | None]


class Places(NamedTuple):
    """Where the parts of a study are; None, or nothing, for what it has not.

    Attributes:
        searches: Folder of the searches.
        factorial: Folder of the suite of layers.
        layers: File of the layers of a step.
        complexity: Folders of the suites of networks.
        practices: Folder of the suite of practices.
    """

    searches: Path | None = None
    factorial: Path | None = None
    layers: Path | None = None
    complexity: tuple[Path, ...] = ()
    practices: Path | None = None


def read_study(places: Places, by: By | None = None) -> list[Chapter]:
    """Read what has run of a study, a chapter a part.

    Args:
        places: Where its parts are.
        by: What costs are compared in; by default Wh where all runs of a part have
            measured them, and epochs otherwise.

    Raises:
        UserError: If what draws is not installed, or a folder is damaged.
    """
    return [
        chapter(places, by)
        for given, chapter in (
            (places.searches, _of_searches),
            (places.factorial or places.layers, _of_layers),
            (places.complexity, _of_complexity),
            (places.practices, _of_practices),
        )
        if given
    ]


# searches


def _of_searches(places: Places, by: By | None) -> Chapter:
    title = "Which search for settings wastes least?"
    assert places.searches is not None, "that is why it is asked"
    try:
        record = read_searches(places.searches, None if by == "visits" else by)
    except UserError as error:
        return _nothing(title, str(error))
    from dpet_jax.report.plots.pictures import Picture
    from dpet_jax.report.plots.searches import best_over_cost

    picture = Picture(
        "searches",
        "Best validation accuracy so far, over what the search has spent",
        "",
        "Median of the repeats, and their range.",
        best_over_cost(record),
        "no search has an accuracy",
    )
    ends = [course.costs[-1] for row in record.rows for course in row.courses]
    spent: dict[str, float | None] = {record.unit: sum(ends)}
    return Chapter(
        title,
        (search_answer(record),),
        (*_search_claims(record),),
        (picture,),
        (search_sheet(record),),
        (),
        spent,
    )


def _search_claims(record: SearchRecord) -> Iterator[Claim]:
    bayesian = [row for name in _BAYESIAN if (row := _row_of(record, name))]
    others = [row for name in _ORDER if (row := _row_of(record, name))]
    chain = [*bayesian[:1], *others]
    if not bayesian or not others:
        return
    names = " \N{GREATER-THAN OR EQUAL TO} ".join(row.name for row in chain)
    yield Claim(
        f"Bayesian search finds no less for its cost than chance, and chance no less "
        f"than a grid ({names})",
        _in_order([[c.area for c in row.courses] for row in chain]),
        "; ".join(f"{row.name} {_area(row)}" for row in chain),
    )


def _row_of(record: SearchRecord, kind: str) -> SearchRow | None:
    """Return the search of a kind, that without keys of its own before others."""
    alike = [r for r in record.rows if r.name == kind or r.name.startswith(f"{kind}_")]
    return min(alike, key=lambda row: len(row.name), default=None)


def _area(row: SearchRow) -> str:
    return f"{row.area.text(lambda fraction: f'{100 * fraction:.1f}')} %"


def _in_order(chain: Sequence[Sequence[float | None]]) -> str:
    """Say whether each of some samples lies above the next, in no repeat below it."""
    verdicts = []
    for more, less in itertools.pairwise(chain):
        pairs = [
            (a, b)
            for a, b in zip(more, less, strict=False)
            if a is not None and b is not None
        ]
        ahead, behind = (sum(s * (a - b) > 0 for a, b in pairs) for s in (1, -1))
        if len(pairs) < 2 or bool(ahead) == bool(behind):
            verdicts.append("open")
        else:
            verdicts.append("holds" if ahead else "does not hold")
    return next((v for v in ("does not hold", "open") if v in verdicts), "holds")


# layers


def _of_layers(places: Places, by: By | None) -> Chapter:
    title = "Which layers cost most?"
    sentences: list[str] = []
    claims: list[Claim] = []
    pictures: list[Any] = []
    sheets: list[Sheet] = []
    missing: list[str] = []
    totals: Mapping[str, float | None] = {}
    if places.layers is not None and places.layers.exists():
        found = read_json(places.layers)
        sentences.append(_step_words(found))
        pictures.append(_step_picture(found))
        sheets.append(_step_sheet(found))
    elif places.layers is not None:
        missing.append("the layers of a step have not been timed")
    comparison = _comparison(places.factorial, by, missing)
    if comparison is not None:
        unit = by or comparison.natural_cost()
        for grid in grids(comparison):
            sentences += _effect_words(grid, unit)
            claims += _layer_claims(grid, unit)
        sheets += anova_sheets(grids(comparison), unit)
        totals = _totals(comparison.runs)
    return Chapter(
        *(title, (*sentences,), (*claims,), (*pictures,), (*sheets,), (*missing,)),
        totals=totals,
    )


def _step_words(found: Mapping[str, Any]) -> str:
    whole = found["step"]["s"]
    kinds = sorted(found["kinds"], key=lambda one: -one["within_s"])
    shares = ", ".join(
        f"{one['kind']} {100 * one['within_s'] / whole:.0f} %" for one in kinds[:4]
    )
    return (
        f"Of a training step of {found['network']} ({significant(1000 * whole)} ms): "
        f"{shares}; its parts add up to {100 * found['layers_share']:.0f} % of it."
    )


def _step_picture(found: Mapping[str, Any]) -> Any:
    from dpet_jax.report.plots.pictures import Picture
    from dpet_jax.report.plots.practices import parts_of_a_step

    return Picture(
        "layers",
        "What a training step goes to: each kind of layer alone, and within the step",
        "",
        "Alone: each layer again and again in a loop of its own. Within the step: what "
        "it takes less when the kind is left out, which a compiler that fuses layers "
        "makes another number. Bars from the least to the most of all windows.",
        parts_of_a_step(found),
        "",
    )


def _step_sheet(found: Mapping[str, Any]) -> Sheet:
    measured = found["step"]["j"] is not None
    whole = found["step"]["s"]

    def millis(value: float | None) -> str:
        return significant(None if value is None else 1000 * value)

    def row(name: str, layers: str, alone: Any, within: Any) -> tuple[Entry, ...]:
        entries = (
            Entry(name),
            Entry(layers),
            Entry(millis(alone[0])),
            Entry(millis(within[0])),
            Entry(percent(within[0] / whole)),
        )
        joules = (Entry(millis(alone[1])), Entry(millis(within[1])))
        return (*entries, *joules) if measured else entries

    rows = [
        row(
            *(one["kind"], str(one["layers"])),
            (one["alone_s"], one["alone_j"]),
            (one["within_s"], one["within_j"]),
        )
        for one in sorted(found["kinds"], key=lambda one: -one["within_s"])
    ]
    none = (None, None)
    for name, of in (("no layer", "no_layer"), ("whole step", "step")):
        rows.append(row(name, "", none, (found[of]["s"], found[of]["j"])))
    return Sheet(
        name="layers",
        title=f"The layers of {found['network']}",
        header=(
            *("kind", "layers", "alone, ms", "in the step, ms", "share of the step"),
            *(("alone, mJ", "in the step, mJ") if measured else ()),
        ),
        rows=tuple(rows),
        notes=(
            f"Batches of {found['batch_size']} images of "
            f"{' x '.join(map(str, found['image_shape']))} in {found['dtype']}."
            + ("" if measured else " No joules: nothing here measures energy."),
        ),
    )


def _effect_words(grid: Grid, by: By) -> Iterator[str]:
    unit, effects = main_effects(grid, by)
    if effects:
        ranked = sorted(effects, key=lambda one: -one.cost.share)
        told = ", ".join(f"{name_of(e.key)} {percent(e.cost.share)}" for e in ranked)
        yield f"Of the variance of {COST_NAMES[unit]}: {told}."


def _layer_claims(grid: Grid, by: By) -> Iterator[Claim]:
    unit, effects = main_effects(grid, by)
    known = {one.key.rpartition(".")[2]: one.cost for one in effects}
    if not {*_LAYERS} <= known.keys():
        return
    shares = [known[name].share for name in _LAYERS]
    ordered = shares[0] > shares[1] > shares[2]
    told = "; ".join(
        f"{name.replace('_', ' ')} {percent(known[name].share)}"
        + ("" if known[name].p is None else f" (p = {known[name].p:.2g})")
        for name in _LAYERS
    )
    yield Claim(
        "Convolutions cost much more than dense layers, and those more than ReLU "
        f"(shares of the variance of {COST_NAMES[unit]})",
        "holds" if ordered else "does not hold",
        told,
    )


# complexity


def _of_complexity(places: Places, by: By | None) -> Chapter:
    title = "Where does a larger network stop paying?"
    from dpet_jax.report.plots.grid import accuracy_over_seconds
    from dpet_jax.report.plots.pictures import Picture

    missing: list[str] = []
    pictures: list[Any] = []
    sheets: list[Sheet] = []
    found: list[Complexity] = []
    runs: list[Run] = []
    for number, folder in enumerate(places.complexity, 1):
        comparison = _comparison(folder, by, missing)
        if comparison is None:
            continue
        unit = by or comparison.natural_cost()
        runs += comparison.runs
        crossed = grids(comparison)
        found += complexities(crossed, unit)
        pictures += [
            Picture(
                f"complexity{number}_{place}",
                f"Accuracy over seconds of training: {grid.label}, {comparison.name}",
                "",
                "Medians over seeds. On the dashed front are the networks that no "
                "other beats in both.",
                accuracy_over_seconds(grid),
                "",
            )
            for place, grid in enumerate(crossed, 1)
        ]
        for sheet in (*complexity_sheets(crossed, unit), front_sheet(crossed)):
            if sheet is not None:
                sheets.append(
                    sheet._replace(
                        name=f"{sheet.name}{number}",
                        title=f"{sheet.title} ({comparison.name})",
                    )
                )
    return Chapter(
        title,
        tuple(map(complexity_words, found)),
        (*_complexity_claims(found),),
        (*pictures,),
        (*sheets,),
        (*missing,),
        _totals(runs),
    )


def _complexity_claims(found: Sequence[Complexity]) -> Iterator[Claim]:
    for one in found:
        if one.before is None or one.after is None:
            verdict, told = "does not hold", "the front has no knee"
        else:
            apart = one.before.low > one.after.high
            verdict = "holds" if apart else "open"
            told = " then ".join(
                f"{points(of.median)} points ({span(of.low, of.high, points)})"
                for of in (one.before, one.after)
            )
        yield Claim(
            f"Returns diminish: a tenfold cost buys less accuracy from larger networks "
            f"({one.label})",
            verdict,
            told,
        )
        if one.halved is None:
            continue
        half = one.halved
        lost = half.accuracy
        yield Claim(
            f"A simpler network halves the cost at the same accuracy ({one.label})",
            "holds" if lost.low >= 0 else "does not hold" if lost.high < 0 else "open",
            f"{half.half.row.label}, "
            f"{dearer_than(half.cost.median, half.whole.row.label)}: "
            f"{points(lost.median)} points "
            f"({span(lost.low, lost.high, points)})",
        )


# practices


def _of_practices(places: Places, by: By | None) -> Chapter:
    title = "Which practices save at equal accuracy, and what composes?"
    missing: list[str] = []
    comparison = _comparison(places.practices, by, missing)
    if comparison is None:
        return Chapter(title, (), (), (), (), (*missing,), {})
    from dpet_jax.report.plots.pictures import Picture
    from dpet_jax.report.plots.practices import costs_at_equal_accuracy

    unit = by or comparison.natural_cost()
    table = end_table(comparison, unit)
    sheets = [] if table is None else [_saving_sheet(table, comparison)]
    in_seconds = end_table(comparison, "seconds")
    if unit != "seconds" and in_seconds is not None:
        # what a narrower type or a larger batch saves is time, and no epochs
        sheets.append(_saving_sheet(in_seconds, comparison))
    sheets += end_sheets(table, comparison)[1:]
    target = None if table is None else widest_target(table)
    sentences: list[str] = []
    figure = None
    if table is not None and target is not None:
        sentences = [*_saving_words(table, comparison, target)]
        figure = costs_at_equal_accuracy(table, comparison, target)
    picture = Picture(
        "practices",
        "What each practice costs against the baseline at equal test accuracy",
        "",
        f"Left of the line it saves; the range is that of {100 * RANGE:.0f} % of "
        "resamples of seeds. Filled: it lies on one side of the line. Where a row is "
        "missing, its runs do not span the accuracy.",
        figure,
        "no accuracy is spanned by the baseline and another",
    )
    return Chapter(
        title,
        (*sentences,),
        (),
        (picture,),
        (*present(sheets),),
        (*missing,),
        _totals(comparison.runs),
    )


def _saving_sheet(table: EndTable, comparison: Comparison) -> Sheet:
    """Return the cost of each practice against the baseline's, at each target."""
    baseline = comparison.row("tuned")
    name = COST_NAMES[table.by]

    def entry(row: EndRow, target: float) -> Entry:
        ratio = row.overall[target]
        saves = ratio is not None and ratio.high is not None and ratio.high < 1
        return Entry(ratio_text(ratio), strong=saves)

    return Sheet(
        name=f"saving_{table.by}",
        title=f"Cost at equal test accuracy against the baseline, in {name}",
        header=("practice", *(target_name(t) for t in table.targets)),
        rows=tuple(
            (Entry(row.row.label), *(entry(row, t) for t in table.targets))
            for row in table.rows
            if baseline is None or row.row.key != baseline.key
        ),
        notes=(
            "Curves of the error over cost are compared, of runs of several lengths "
            f"that were read once; in brackets the range of {100 * RANGE:.0f} % of "
            "resamples of seeds. A practice with another network is held against the "
            "baseline as it is. Nothing is said where one of the two curves does not "
            "come to the accuracy.",
        ),
    )


def widest_target(table: EndTable) -> float | None:
    """Return the target at which most rows can be compared, of equals the highest."""
    counts = {
        t: sum(row.overall[t] is not None for row in table.rows) for t in table.targets
    }
    known = [target for target, count in counts.items() if count > 1]
    return max(known, key=lambda target: (counts[target], target), default=None)


def rivals(table: EndTable, comparison: Comparison, target: float) -> list[EndRow]:
    """Return the rows that are known at a target, the cheapest first, no baseline."""
    baseline = comparison.row("tuned")
    known = [
        row
        for row in table.rows
        if row.overall[target] is not None
        and (baseline is None or row.row.key != baseline.key)
    ]
    return sorted(known, key=lambda row: _value(row, target))


def _value(row: EndRow, target: float) -> float:
    ratio = row.overall[target]
    assert ratio is not None, "those alone are asked"
    return ratio.value


def _saving_words(
    table: EndTable, comparison: Comparison, target: float
) -> Iterator[str]:
    saving, costing, open_ = [], [], []
    for row in rivals(table, comparison, target):
        ratio = row.overall[target]
        assert ratio is not None, "those alone are asked"
        told = f"{row.row.label} {ratio_text(ratio)}"
        if ratio.high is not None and ratio.high < 1:
            saving.append(told)
        elif ratio.low is not None and ratio.low > 1:
            costing.append(told)
        else:
            open_.append(told)
    name = COST_NAMES[table.by]
    yield (
        f"At {100 * target:g} % test accuracy, in {name} against the baseline: "
        + ("; ".join(saving) if saving else "nothing saves beyond its range")
        + "."
    )
    if costing:
        yield f"These cost more: {'; '.join(costing)}."
    if open_:
        yield f"Open, for the range reaches 0: {'; '.join(open_)}."


# all of them


def _nothing(title: str, why: str) -> Chapter:
    return Chapter(title, (), (), (), (), (why,), {})


def _comparison(
    folder: Path | None, by: By | None, missing: list[str]
) -> Comparison | None:
    """Read the suite in a folder; what is wrong with it is added to what is missing."""
    if folder is None:
        return None
    try:
        comparison = read_comparison([folder], by)
    except UserError as error:
        missing.append(str(error).partition("\n")[0])
        return None
    missing += comparison.problems
    return comparison


def _totals(runs: Iterable[Run]) -> dict[str, float | None]:
    """Return what some runs took together; None for what one has not measured."""
    held = [*runs]
    found: dict[str, float | None] = {"runs": float(len(held))}
    for unit in ("epochs", "seconds", "wh"):
        spent = [run.spent(unit) for run in held]
        known = [value for value in spent if value is not None]
        found[unit] = sum(known) if len(known) == len(spent) else None
    found["flops"] = float(sum(run.summary["flops"] for run in held))
    return found


def claims_sheet(chapters: Sequence[Chapter]) -> Sheet | None:
    """Return what the study says, and whether it holds here; None without a claim."""
    claims = [claim for chapter in chapters for claim in chapter.claims]
    if not claims:
        return None
    return Sheet(
        name="claims",
        title="What the energy-practices study says, and what is true here",
        header=("it says", "here it", "by"),
        rows=tuple(
            (Entry(claim.text), Entry(claim.verdict, strong=True), Entry(claim.numbers))
            for claim in claims
        ),
        notes=(
            "Holds: in every seed or repeat. Open: in some of them alone, or there are "
            "fewer than two.",
        ),
    )


def answer(chapters: Sequence[Chapter], width: int = 80) -> str:
    """Return the claims, and what came of each part, for a terminal."""
    sheet = claims_sheet(chapters)
    lines: list[str] = []
    for chapter in chapters:
        lines += ["", chapter.title]
        lines += [f"  {line}" for line in (*chapter.answer, *chapter.missing)]
    if sheet is not None:
        lines += ["", sheet.title]
        for text, verdict, numbers in sheet.rows:
            lines.append(f"  {verdict.main:<14}{text.main}: {numbers.main}")
    return "\n".join(fitted(line, width) for line in lines[1:])


def write_study(
    name: str,
    chapters: Sequence[Chapter],
    out: Path,
    *,
    statements: Sequence[str] = (),
    facts: Mapping[str, Any],
) -> Path:
    """Write the page of a study, its text, its plots and its record; return the page.

    Args:
        name: Of the study.
        chapters: Its parts.
        out: The folder; files of an earlier report are replaced.
        statements: What readers have to know, a sentence each.
        facts: What the record says beside: config, device, versions.

    Raises:
        UserError: If a package that draws is missing, or a file cannot be written.
    """
    jinja2, style, _ = drawing()
    shown = [
        p for chapter in chapters for p in chapter.pictures if p.figure is not None
    ]
    for picture in shown:
        style.settle(picture.figure)
    svgs = {picture.name: style.to_svg(picture.figure) for picture in shown}
    inline = {
        p.name: style.inline(svgs[p.name], p.name, html.escape(p.heading))
        for p in shown
    }
    claims = claims_sheet(chapters)
    page = rendered(
        jinja2,
        _TEMPLATE,
        name=name,
        lead=[sentence for chapter in chapters for sentence in chapter.answer[:1]],
        chapters=chapters,
        claims=claims,
        pictures=[p for c in chapters for p in c.pictures[:1] if p.figure is not None],
        more=[p for c in chapters for p in c.pictures[1:] if p.figure is not None],
        inline=inline,
        statements=statements,
    )
    record = {
        "name": name,
        "parts": [
            {
                "title": chapter.title,
                "answer": chapter.answer,
                "claims": [claim._asdict() for claim in chapter.claims],
                "missing": chapter.missing,
                "totals": dict(chapter.totals),
            }
            for chapter in chapters
        ],
        **facts,
    }
    files: dict[str, str | bytes] = {
        RECORD: json.dumps(record, indent=1) + "\n",
        MARKDOWN: _markdown(name, chapters, claims, shown, statements),
        **{f"plots/{key}.svg": svg for key, svg in svgs.items()},
        **{f"plots/{p.name}.png": style.to_png(p.figure) for p in shown},
        REPORT: page,
    }
    try:
        for key, held in files.items():
            (out / key).parent.mkdir(parents=True, exist_ok=True)
            write_whole(out / key, held)
    except OSError as error:
        raise UserError(
            f"{out}: cannot write the report ({error.strerror}: {error.filename}); "
            "choose another folder with --out=DIR"
        ) from error
    return out / REPORT


def _markdown(
    name: str,
    chapters: Sequence[Chapter],
    claims: Sheet | None,
    pictures: Sequence[Any],
    statements: Sequence[str],
) -> str:
    lines = [f"# {escape_markdown(name)}", ""]
    lines += [f"- {escape_markdown(s)}" for s in statements]
    if claims is not None:
        lines += ["", to_markdown(claims)]
    for chapter in chapters:
        lines += [f"## {chapter.title}", ""]
        lines += [f"- {escape_markdown(s)}" for s in chapter.answer]
        lines += [f"- not shown: {escape_markdown(s)}" for s in chapter.missing]
        lines += [
            f"\n![{escape_markdown(p.heading)}](plots/{p.name}.svg)"
            for p in chapter.pictures
            if p in pictures
        ]
        lines += ["", *map(to_markdown, chapter.sheets)]
    return "\n".join(lines).rstrip() + "\n"
