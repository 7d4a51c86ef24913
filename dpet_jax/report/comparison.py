"""From folders to a comparison: which runs belong to which method."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpet_jax.errors import UserError
from dpet_jax.files import read_json
from dpet_jax.report.paper import PAPER_WH
from dpet_jax.report.rows import (
    ROLES,
    Comparison,
    GridCell,
    Row,
    Tuning,
    comparable,
    mixed_settings,
)
from dpet_jax.report.runs import COMPARED, Run, find_runs, read_run
from dpet_jax.run.costs import By

SUITE = "suite.json"


def read_comparison(paths: Sequence[Path], by: By | None = None) -> Comparison:
    """Read the runs below some folders.

    The folder of a suite says which runs belong together; anywhere else runs with one
    parent folder, such as seeds, are one row. Runs that cannot be compared with most
    others are left out, and a problem says so: those of another data set or split, and
    for a cost in seconds or Wh those of another device or energy quality.

    Args:
        paths: Folders of suites or runs, or above such.
        by: What costs will be compared in; by default `Comparison.natural_cost`.

    Raises:
        UserError: If there is no finished run, the record of a suite is broken, or no
            run has measured the cost.
    """
    rows: list[Row] = []
    problems: list[str] = []
    names: list[str] = []
    statements: list[str] = []
    roles: dict[str, str] = {}
    suites = sorted({file.parent for path in paths for file in path.rglob(SUITE)})
    for folder in suites:
        suite = _read_suite(folder, problems)
        # two suites may both have a row of this key
        taken = {row.key for row in rows}
        new = {r.key: f"{suite.name}: {r.key}" for r in suite.rows if r.key in taken}
        # arms are a suite's own
        rows += [
            replace(row, key=new.get(row.key, row.key), arm=f"{folder}/{row.arm}")
            for row in suite.rows
        ]
        names.append(suite.name)
        statements += suite.statements
        roles = {r: new.get(k, k) for r, k in suite.roles.items()} | roles
    loose = [
        (path, run)
        for path in paths
        for run in find_runs(path)
        if not any(run.is_relative_to(folder) for folder in suites)
    ]
    rows += _loose_rows(loose, rows, problems)
    names += [
        (path.parent if run == path else path).resolve().name for path, run in loose
    ]
    if not any(row.all_runs for row in rows):
        places = ", ".join(map(str, paths))
        reasons = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"{places}: no finished run to report on; give a folder that `dpet run` or "
            f"`dpet compare` has written{reasons}"
        )
    rows = comparable(rows, by, problems)
    for row in rows:
        if mixed := mixed_settings(row):
            problems.append(
                f"{row.label}: its runs differ in more than the seed "
                f"({', '.join(mixed)}), so that their median mixes settings"
            )
    comparison = Comparison(
        name=", ".join(dict.fromkeys(names)),
        rows=tuple(rows),
        targets=tuple(sorted({t for row in rows for r in row.runs for t in r.targets})),
        roles={role: key for role, key in roles.items() if role in ROLES},
        statements=tuple(dict.fromkeys(statements)),
    )
    problems += [
        f"{run.folder}: diverged; it counts as a run that reached no further target"
        for run in comparison.runs
        if run.stopped_by == "diverged"
    ]
    return replace(comparison, problems=tuple(dict.fromkeys(problems)))


def _read_suite(folder: Path, problems: list[str]) -> Comparison:
    try:
        record = read_json(folder / SUITE)
        rows = [_suite_row(folder, v, problems) for v in record["variants"]]
        problems += map(str, record.get("problems", []))
        return Comparison(
            name=str(record["name"]),
            rows=tuple(rows),
            targets=(),
            roles=dict(record["roles"]),
            statements=tuple(map(str, record["statements"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / SUITE}: cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); run dpet compare again, which writes it "
            "anew"
        ) from error


def _suite_row(folder: Path, variant: dict[str, Any], problems: list[str]) -> Row:
    found: dict[str, Run] = {}
    # an earlier version knew no horizons
    groups = [variant["by_target"], variant.get("by_horizon", {})]
    held_names = [names for group in groups for names in group.values()]
    for name in dict.fromkeys(name for names in held_names for name in names):
        try:
            found[name] = read_run(folder / name)
        except UserError as error:
            problems.append(str(error))
    by_target, by_horizon = (
        {
            float(key): tuple(found[name] for name in names if name in found)
            for key, names in group.items()
        }
        for group in groups
    )
    held = [runs for _, runs in sorted((by_target | by_horizon).items()) if runs]
    paper, cell = variant["paper"], variant.get("cell")
    return Row(
        key=str(variant["key"]),
        label=str(variant["label"]),
        by_target=by_target,
        runs=held[-1] if held else (),
        tuning=_tuning(variant["tuning"]),
        paper=paper if paper in PAPER_WH else None,
        by_horizon=by_horizon,
        arm=str(variant.get("arm", variant["key"])),
        cell=None if cell is None else GridCell(str(cell["of"]), dict(cell["factors"])),
    )


def _tuning(record: dict[str, Any] | None) -> Tuning | None:
    if record is None:
        return None
    chosen = {float(target): name for target, name in record["chosen"].items()}
    cost: dict[By, float | None] = {}
    for by, name in COMPARED.items():
        # an earlier version called wh_warm wh, and seconds_warm seconds
        spent = record["cost"].get(name, record["cost"].get(by))
        cost[by] = None if spent is None else float(spent)
    return Tuning(record["trials"], tuple(record["seeds"]), cost, chosen)


def _loose_rows(
    folders: Sequence[tuple[Path, Path]], others: Sequence[Row], problems: list[str]
) -> list[Row]:
    """Make a row of the runs of each parent folder.

    It is called by its method, and by its folder too where another row has that label.

    Args:
        folders: Pairs of a path that was given and the folder of a run below it.
        others: Rows whose keys and labels are taken.
        problems: Gets a sentence for each run that cannot be read.
    """
    groups: dict[Path, dict[Path, Run]] = {}
    names: dict[Path, str] = {}
    for path, folder in folders:
        place = folder.resolve()
        parent = place.parent
        try:
            groups.setdefault(parent, {}).setdefault(place, read_run(folder))
        except UserError as error:
            problems.append(str(error))
        inside = parent.is_relative_to(path.resolve())
        name = parent.relative_to(path.resolve()).as_posix() if inside else "."
        names.setdefault(parent, parent.name if name == "." else name)
    taken = {row.key for row in others}
    rows: list[Row] = []
    for parent, held in groups.items():
        key = names[parent] if names[parent] not in taken else parent.as_posix()
        taken.add(key)
        runs = tuple(sorted(held.values(), key=lambda run: run.seed))
        targets = {target for run in runs for target in run.targets}
        if runs:
            rows.append(Row(key, runs[0].method, dict.fromkeys(targets, runs), runs))
    labels = Counter(row.label for row in (*others, *rows))
    return [
        row if labels[row.label] == 1 else replace(row, label=f"{row.label}, {row.key}")
        for row in rows
    ]
