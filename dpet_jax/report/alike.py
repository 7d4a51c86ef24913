"""What may stand beside what: runs that cannot be compared are left out, and told."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from dpet_jax.errors import UserError
from dpet_jax.report.rows import Row, data_of, device_of, energy_of, setting_of
from dpet_jax.report.runs import COST_NAMES, By, Run

Kind = Callable[[Run], tuple[str, ...]]


def comparable(rows: list[Row], by: By | None, problems: list[str]) -> list[Row]:
    """Leave out the runs that must not be mixed with most others.

    Those of another data set, split or evaluation grid; for a cost in seconds or Wh
    those of another device; for Wh those of another energy quality or boundary.

    Args:
        rows: As they were found.
        by: What costs will be told in; None if that is still to be chosen.
        problems: Gets a sentence for each run left out.

    Raises:
        UserError: If no run has measured the cost.
    """
    rows = _alike(rows, problems, data_of, "data set, split or evaluation grid")
    if by not in ("wh", "seconds"):
        kinds = sorted({", ".join(device_of(run)) for run in _runs(rows)})
        if len(kinds) > 1:
            problems.append(
                f"runs come from several devices ({'; '.join(kinds)}): costs in epochs "
                "and visits can be compared, seconds and Wh cannot"
            )
        return rows
    rows = _measured(rows, by, problems)
    rows = _alike(rows, problems, device_of, "device")
    if by == "wh":
        rows = _alike(rows, problems, energy_of, "energy quality or boundary")
    return rows


def mixed_settings(row: Row) -> list[str]:
    """Return the settings in which runs that answer for one target differ."""
    names: dict[str, None] = {}
    for runs in [*row.by_target.values(), row.runs]:
        settings = [setting_of(run) for run in runs]
        for name in dict.fromkeys(key for one in settings for key in one):
            if len({repr(one.get(name)) for one in settings}) > 1:
                names[name] = None
    return list(names)


def _measured(rows: list[Row], by: By, problems: list[str]) -> list[Row]:
    without = [run for run in _runs(rows) if run.spent(by) is None]
    if len(without) == len(_runs(rows)):
        raise UserError(
            f"no run has measured {COST_NAMES[by]}; choose another cost, such as "
            "--by=epochs"
        )
    problems += [
        f"{run.folder}: left out, it has not measured {COST_NAMES[by]}"
        for run in without
    ]
    return _keeping(rows, lambda run: run not in without)


def _alike(rows: list[Row], problems: list[str], kind: Kind, what: str) -> list[Row]:
    counts = Counter(kind(run) for run in _runs(rows))
    if len(counts) < 2:
        return rows
    (usual, _), *_ = counts.most_common()
    for run in _runs(rows):
        if kind(run) != usual:
            problems.append(
                f"{run.folder}: left out, it has another {what} than most runs "
                f"({', '.join(kind(run))} instead of {', '.join(usual)})"
            )
    return _keeping(rows, lambda run: kind(run) == usual)


def _keeping(rows: list[Row], keep: Callable[[Run], bool]) -> list[Row]:
    return [
        replace(
            row,
            by_target={t: tuple(filter(keep, r)) for t, r in row.by_target.items()},
            runs=tuple(filter(keep, row.runs)),
        )
        for row in rows
    ]


def _runs(rows: Sequence[Row]) -> list[Run]:
    found = {run.folder: run for row in rows for run in row.all_runs}
    return list(found.values())
