"""The table of what pruning made of networks."""

from collections.abc import Sequence
from typing import Any

from dpet_jax.report.printed import NONE, percent, significant
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import Run
from dpet_jax.report.sheets import Entry, Sheet


def pruning_sheet(comparison: Comparison) -> Sheet | None:
    """Return what each run that was to be pruned came to; None if there is none."""
    rows = [
        _row(row.label, run, found)
        for row in comparison.rows
        for run in row.all_runs
        if (found := run.summary.get("pruning")) is not None
    ]
    if not rows:
        return None
    return Sheet(
        name="pruning",
        title="Networks before and after pruning",
        header=(
            "method",
            "seed",
            "outcome",
            "after epochs",
            "channels inside blocks",
            "FLOPs of an image",
            "step, ms",
            "step, Wh",
            "validation accuracy",
        ),
        rows=tuple(rows),
        notes=(
            "Each cell: before the cut, then after it. The time and the energy of a "
            "step are those of the whole training phase before and after; below them, "
            "timed in turn, what the decision went by. Accuracy: just before the cut, "
            "and at the end of the trial. Networks that are not kept go on as they "
            "were; what trying took is in the costs of their runs.",
        ),
    )


def _row(label: str, run: Run, found: dict[str, Any]) -> tuple[Entry, ...]:
    widths = found["widths_before"], found["widths_after"]
    totals = tuple(None if each is None else sum(each) for each in widths)
    timed = [None if s is None else 1000 * s for s in found["timed_step_s"] or ()]
    lists = [", ".join(map(str, each)) for each in widths if each]
    judged = found["accuracy_before"], found["accuracy_after"]
    return (
        Entry(label),
        Entry(str(run.seed)),
        Entry(found["outcome"]),
        Entry(significant(found["at_epochs"])),
        Entry(_change(totals), tuple(lists)),
        Entry(_change([found[f"forward_flops_{when}"] for when in _WHEN])),
        Entry(
            _change([s and 1000 * s for s in found["step_s"] or ()]),
            (f"timed {_change(timed)}",) if any(timed) else (),
        ),
        Entry(_change(() if run.quality == "modelled" else found["step_wh"] or ())),
        Entry(" to ".join(NONE if a is None else percent(a) for a in judged)),
    )


_WHEN = ("before", "after")


def _change(pair: Sequence[int | float | None]) -> str:
    known = [
        f"{value:,}" if isinstance(value, int) else significant(value)
        for value in pair
        if value is not None
    ]
    return " to ".join(known) or NONE
