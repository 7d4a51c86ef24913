"""The tables of runs that are read at their end: costs at equal accuracy, gains."""

from collections.abc import Mapping

from dpet_jax.report.equal_accuracy import (
    LEAST_SEEDS,
    RANGE,
    EndRow,
    EndTable,
    Gain,
    Ratio,
)
from dpet_jax.report.printed import (
    NONE,
    dearer,
    percent,
    points,
    significant,
    target_name,
)
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import COST_NAMES
from dpet_jax.report.sheets import BASELINE, UNITS, Entry, Sheet, not_run
from dpet_jax.run.costs import By


def end_sheets(table: EndTable | None, comparison: Comparison) -> list[Sheet]:
    """Return the tables of the results: the answer first.

    Args:
        table: Of the comparison; None gives no sheet.
        comparison: Which runs belong to which method.
    """
    if table is None:
        return []
    return [
        ratio_sheet(table, comparison),
        *_validation_sheet(table),
        *_best_sheet(table),
        gain_sheet(table),
    ]


def ratio_sheet(table: EndTable, comparison: Comparison) -> Sheet:
    """Return what each method costs over the baseline at equal accuracy."""
    baseline, random = comparison.row("tuned"), comparison.row("random")
    name = "the baseline" if baseline is None else baseline.label
    notes = [
        f"Against {name} with the same network, at equal test accuracy; beside it "
        f"the range of {100 * RANGE:.0f} % of resamples, where a minus is cheaper.",
        "Below it the cost itself"
        + ("." if random is None else f", and what it is against {random.label}."),
        "The error of each method was fitted by a power law of the cost, over runs of "
        f"several lengths that were read once, at their end. {NONE} where a target is "
        "outside the accuracies that these curves span; nothing is extrapolated.",
        _ranges(table),
    ]
    if table.by == "epochs":
        notes.append(
            "An epoch is one full pass of the baseline's network, so that passes of a "
            "narrower one count for less."
        )
    notes += not_run(comparison.at_end.rows)
    worst = max((r.misfit for r in table.rows if r.misfit is not None), default=None)
    if worst is not None:
        notes.append(
            f"No mean accuracy is further from its curve than {100 * worst:.2g} points."
        )
    return Sheet(
        name="equal",
        title=f"Cost at equal accuracy, against {name}",
        header=("method", *map(target_name, table.targets)),
        rows=tuple(
            (
                Entry(row.row.label),
                *(_ratio_entry(row, t, table) for t in table.targets),
            )
            for row in table.rows
        ),
        notes=tuple(notes),
        ranged=True,
    )


def _ranges(table: EndTable) -> str:
    if len(table.seeds) < LEAST_SEEDS:
        return (
            f"No range: {len(table.seeds)} seeds are common to all runs, and it takes "
            f"{LEAST_SEEDS}."
        )
    return (
        f"The {len(table.seeds)} seeds that all methods have at all lengths were drawn "
        "with replacement, the same ones for all methods, and all curves fitted anew. "
        "A range that reaches 0 leaves open whether anything is saved."
    )


def _ratio_entry(row: EndRow, target: float, table: EndTable) -> Entry:
    cost, tuned = row.costs[target], row.tuned[target]
    small = []
    if cost is not None:
        small.append(f"{significant(cost)} {UNITS[table.by]}")
    if tuned is not None and tuned.value == 1 and tuned.low is None:
        return Entry(BASELINE, tuple(small))
    if (random := row.random[target]) is not None and random.low is not None:
        small.append(f"random: {ratio_text(random)}")
    saves = tuned is not None and tuned.high is not None and tuned.high < 1
    return _entry(tuned, tuple(small), strong=saves)


def _validation_sheet(table: EndTable) -> list[Sheet]:
    known = [
        row
        for row in table.rows
        if any(
            r is not None and r.low is not None for r in row.tuned_validation.values()
        )
    ]
    if not known:
        return []
    return [
        Sheet(
            name="equal_validation",
            title="The same at equal validation accuracy",
            header=("method", *map(target_name, table.targets)),
            rows=tuple(
                (
                    Entry(row.row.label),
                    *(_entry(row.tuned_validation[t]) for t in table.targets),
                )
                for row in known
            ),
            notes=(
                "On the split that settings were tuned on, so that it may flatter "
                "those that were tuned most.",
            ),
            folded=True,
            ranged=True,
        )
    ]


def _entry(
    ratio: Ratio | None, small: tuple[str, ...] = (), *, strong: bool = False
) -> Entry:
    if ratio is not None and ratio.value == 1 and ratio.low in (None, 1):
        return Entry(BASELINE, small)
    main = dearer(None if ratio is None else ratio.value)
    beside = ratio_text(ratio).removeprefix(main).strip(" ()")
    return Entry(main, small, strong, beside)


def ratio_text(ratio: Ratio | None) -> str:
    """Return a ratio of costs with its range, in words."""
    return NONE if ratio is None else dearer(*ratio)


def _best_sheet(table: EndTable) -> list[Sheet]:
    if not table.best:
        return []

    def entry(
        chosen: Row | None, cost: float | None, ratio: Ratio | None, label: str
    ) -> Entry:
        small = [] if cost is None else [f"{significant(cost)} {UNITS[table.by]}"]
        if chosen is not None and chosen.label != label:
            small.append(chosen.label)
        return _entry(ratio, tuple(small))

    return [
        Sheet(
            name="best",
            title="Each method at its own best network",
            header=("method", *map(target_name, table.targets)),
            rows=tuple(
                (
                    Entry(arm.label),
                    *(
                        entry(arm.chosen[t], arm.costs[t], arm.ratios[t], arm.label)
                        for t in table.targets
                    ),
                )
                for arm in table.best
            ),
            notes=(
                "The least cost of a method's rows, which differ in their network, "
                "against the least cost of the baseline's, at equal test accuracy; "
                "below it that cost, and the row where it is not the first. "
                f"{NONE} where the curve of one of these does not span the target.",
            ),
            ranged=True,
        )
    ]


def gain_sheet(table: EndTable) -> Sheet:
    """Return what the runs of each length reached."""
    unit = UNITS[table.by]
    return Sheet(
        name="gains",
        title="At the end of the runs of each length",
        header=(
            "method",
            f"cost, {unit}",
            "seeds",
            "test accuracy",
            "validation accuracy",
            "over the baseline at this cost, points",
            "cost against the baseline's at this accuracy",
        ),
        rows=tuple(
            _gain_row(row.row.label, gain) for row in table.rows for gain in row.gains
        ),
        notes=(
            "Means over seeds, standard deviations with plus or minus. Points over the "
            "baseline with its standard error, the seeds unpaired, where the baseline "
            "has runs of the same cost; the last column where its curve spans the "
            "accuracy.",
        ),
        ranged=True,
    )


def _gain_row(label: str, gain: Gain) -> tuple[Entry, ...]:
    test = percent(gain.accuracy["test"])
    if gain.deviation is not None:
        test += f" \N{PLUS-MINUS SIGN} {100 * gain.deviation:.1f}"
    over = points(gain.points)
    if gain.standard_error is not None:
        over += f" \N{PLUS-MINUS SIGN} {100 * gain.standard_error:.1f}"
    return (
        Entry(label),
        Entry(significant(gain.cost)),
        Entry(str(gain.seeds)),
        Entry(test),
        Entry(percent(gain.accuracy.get("validation"))),
        Entry(over),
        _entry(gain.ratio),
    )


def end_tuning_sheet(comparison: Comparison, by: By) -> Sheet | None:
    """Return what tuning at one length took and chose; None where nothing was tuned."""
    rows = [row for row in comparison.at_end.rows if row.tuning and row.all_runs]
    if not rows:
        return None
    return Sheet(
        name="end_tuning",
        title="Tuning, of runs that are read at their end",
        header=("method", "settings tried", "seeds", COST_NAMES[by], "chosen"),
        rows=tuple(_tuning_row(row, by) for row in rows),
        notes=(
            "The setting with the highest median validation accuracy at one length was "
            "run at all lengths. The cost is that of all trials, and is in no other "
            "number here; their seeds are not reported.",
        ),
    )


def _tuning_row(row: Row, by: By) -> tuple[Entry, ...]:
    tuning = row.tuning
    if tuning is None:
        raise ValueError(f"{row.key} was not tuned")
    chosen: Mapping[float, str | None] = tuning.chosen
    return (
        Entry(row.label),
        Entry(str(tuning.trials)),
        Entry(", ".join(map(str, tuning.seeds))),
        Entry(significant(tuning.cost.get(by))),
        Entry("; ".join(dict.fromkeys(filter(None, chosen.values()))) or NONE),
    )
