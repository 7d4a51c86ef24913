"""Suspicious examples of a run: a gallery, two tables, and a summary in words."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dpet_jax.errors import UserError
from dpet_jax.files import csv_cell, write_whole
from dpet_jax.report.page import rendered
from dpet_jax.report.printed import percent
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.run.suspects import Duplicates, Suspects

#: Examples and groups on the page, examples of a group, and rows on a terminal.
_CARDS, _GROUPS, _OF_GROUP, _PRINTED = 120, 30, 12, 15

_TEMPLATE = Path(__file__).with_name("suspects.html.jinja")


def write_suspects(found: Suspects, out: Path) -> list[Path]:
    """Write the gallery and both tables, each whole or not at all.

    Args:
        found: What is suspicious.
        out: The folder, made if missing.

    Returns:
        The files: the page first.

    Raises:
        UserError: If a package is missing, or a file cannot be written.
    """
    files = {
        "suspects.html": _page(found),
        "suspects.csv": _table(_label_rows(found)),
        "duplicates.csv": _table(_duplicate_rows(found)),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_whole(out / name, text)
    except OSError as error:
        raise UserError(
            f"{out}: cannot write ({error.strerror}: {error.filename}); choose another "
            "folder with --out=DIR"
        ) from error
    return [out / name for name in files]


def summary(found: Suspects) -> list[str]:
    """Return what was found, in words, a sentence a line."""
    ranked = found.ranked
    disagree = int((found.predicted != ranked.labels).sum())
    lines = [
        f"{ranked.rows.size:,} of {found.num_ranked:,} training examples listed, by "
        f"{ranked.by}; the model disagrees with the label of {disagree:,} of them"
    ]
    if found.precision is not None:
        caught = int(found.flipped.sum())  # type: ignore[union-attr]
        lines.append(
            f"{percent(found.precision)} of those listed have a label that "
            f"data.label_noise has changed, {caught:,} of {found.num_flipped:,}"
        )
    groups, kind = found.duplicates, "exact duplicate"
    if found.near is not None:
        kind = f"duplicate of a likeness of {found.near:g}"
    if not groups:
        return [*lines, f"no {kind}"]
    labels = [found.data.labels[group.positions] for group in groups]
    differ = sum(bool((each != each[0]).any()) for each in labels)
    splits = [{*map(found.split_of, group.positions.tolist())} for group in groups]
    leaks = sum("train" in names and len(names) > 1 for names in splits)
    extra = sum(group.positions.size - 1 for group in groups)
    kinds = kind if extra == 1 else kind.replace("duplicate", "duplicates")
    return [
        *lines,
        f"{extra:,} {kinds} in {len(groups):,} "
        f"{'group' if len(groups) == 1 else 'groups'}; labels differ in {differ:,}, "
        f"{leaks:,} have a training example and one of another split",
    ]


def suspects_sheet(found: Suspects) -> Sheet:
    """Return the first of the ranked as a table."""
    rows = [
        tuple(Entry(str(cell)) for cell in cells)
        for cells in zip(
            found.ranked.rows[:_PRINTED].tolist(),
            _names(found, found.ranked.labels[:_PRINTED]),
            _names(found, found.predicted[:_PRINTED]),
            [f"{score:.3f}" for score in found.ranked.scores[:_PRINTED].tolist()],
            strict=True,
        )
    ]
    return Sheet(
        name="suspects",
        title="Likely label errors",
        header=("row", "given", "predicted", "score"),
        rows=tuple(rows),
    )


def _names(found: Suspects, labels: np.ndarray) -> list[str]:
    return [found.class_names[label] for label in labels.tolist()]


def _label_rows(found: Suspects) -> Iterator[list[Any]]:
    ranked = found.ranked
    header = ["rank", "row", "given", "predicted", "score"]
    columns: list[list[Any]] = [
        [*range(1, ranked.rows.size + 1)],
        ranked.rows.tolist(),
        _names(found, ranked.labels),
        _names(found, found.predicted),
        ranked.scores.tolist(),
    ]
    if found.flipped is not None:
        header.append("changed")
        columns.append([str(each).lower() for each in found.flipped.tolist()])
    yield header
    yield from map(list, zip(*columns, strict=True))


def _duplicate_rows(found: Suspects) -> Iterator[list[Any]]:
    yield ["group", "split", "row", "label", "likeness"]
    for number, group in enumerate(found.duplicates, 1):
        for position in group.positions.tolist():
            yield [
                number,
                found.split_of(position),
                int(found.data.source_rows[position]),
                found.class_names[found.data.labels[position]],
                group.likeness,
            ]


def _table(rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([*map(csv_cell, row)] for row in rows)
    return text.getvalue()


def _page(found: Suspects) -> str:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise UserError(
            "a gallery needs the package jinja2, which is not installed; run pip "
            "install 'dpet-jax[plot]'"
        ) from error
    ranked = found.ranked
    shown = ranked.rows[:_CARDS].size
    cards = [
        {
            "image": _inline(found.images[place]),
            "row": int(ranked.rows[place]),
            "given": found.class_names[ranked.labels[place]],
            "predicted": found.class_names[found.predicted[place]],
            "score": f"{ranked.scores[place]:.2f}",
            "flipped": found.flipped is not None and bool(found.flipped[place]),
        }
        for place in range(shown)
    ]
    groups = found.duplicates[:_GROUPS]
    return rendered(
        jinja2,
        _TEMPLATE,
        title=str(found.folder),
        lead=summary(found),
        note=f"The first {shown:,} of those listed in suspects.csv, by {ranked.by}: "
        "what training found hardest to fit. A hard example with a right label looks "
        "the same; only a look tells them apart.",
        cards=cards,
        duplicates_note=f"{len(groups):,} of {len(found.duplicates):,} groups; all are "
        "in duplicates.csv. Those whose labels differ come first.",
        groups=[[*_cards_of(found, group)] for group in groups],
    )


def _cards_of(found: Suspects, group: Duplicates) -> Iterator[dict[str, Any]]:
    for position in group.positions[:_OF_GROUP].tolist():
        yield {
            "image": _inline(found.data.images[position]),
            "row": int(found.data.source_rows[position]),
            "split": found.split_of(position),
            "given": found.class_names[found.data.labels[position]],
        }


def _inline(image: np.ndarray) -> str:
    """Return an image as a data URI."""
    from PIL import Image

    content = io.BytesIO()
    grey = image.shape[-1] == 1
    Image.fromarray(image[..., 0] if grey else image).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
