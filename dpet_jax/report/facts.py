"""What a report says about how its numbers came about."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dpet_jax.report.paired import TESTABLE_PAIRS, Difference
from dpet_jax.report.printed import NONE, points, signed, significant, target_name
from dpet_jax.report.rows import Comparison, Row
from dpet_jax.report.runs import COST_NAMES, By, Run
from dpet_jax.report.sheets import Entry, Sheet

_COST_TOLD: dict[By, str] = {
    "wh": "Wh of preparing data, choosing and training; compiling and evaluating apart",
    "seconds": "seconds of preparing data, choosing and training; compiling and "
    "evaluating apart",
    "epochs": "full-pass equivalents: FLOPs of training, scoring and pre-training over "
    "those of one training pass over all training examples; evaluating apart",
    "visits": "rows that the main model was trained on; scoring, pre-training and "
    "evaluating are not in it",
}


def setting(comparison: Comparison, by: By) -> list[tuple[str, str]]:
    """Return names and texts of what all runs have in common, or differ in."""
    runs = comparison.runs
    facts = [
        ("cost", _COST_TOLD[by]),
        ("data set", _each(runs, _data)),
        ("examples", _each(runs, _sizes)),
        ("evaluation grid", _each(runs, _grid)),
        *[
            (f"{role} here", row.label)
            for role in ("standard", "tuned", "random")
            if (row := comparison.row(role)) is not None
        ],
        ("device", _each(runs, _device)),
        ("versions", _each(runs, _versions)),
        ("energy", _each(runs, _energy)),
        ("compiling", _compiling(runs)),
    ]
    return [(name, text) for name, text in facts if text]


def deviations(comparison: Comparison) -> list[str]:
    """Return in what runs depart from an honest protocol, a sentence each."""
    runs = comparison.runs

    def those(told: Callable[[Run], str | None]) -> list[str]:
        found: dict[str, int] = {}
        for run in runs:
            text = told(run)
            if text is not None:
                found[text] = found.get(text, 0) + 1
        return [f"{text} ({n} of {len(runs)} runs)" for text, n in found.items()]

    return [
        *those(_on_test),
        *those(_compat),
        *those(_noise),
        *those(_doubts),
        *filter(None, map(_lost, runs)),
    ]


def tuning_sheet(comparison: Comparison, by: By) -> Sheet | None:
    """Return what tuning took and chose; None where nothing was tuned."""
    rows = [row for row in comparison.rows if row.tuning is not None]
    if not rows:
        return None
    return Sheet(
        name="tuning",
        title="Tuning",
        header=(
            "method",
            "trials",
            "seeds",
            COST_NAMES[by],
            *(f"for {target_name(t)}" for t in comparison.targets),
        ),
        rows=tuple(_tuned(row, comparison.targets, by) for row in rows),
        notes=(
            "The cost is that of all trials together, and is in no other number here; "
            "their seeds are not reported. The chosen settings, for each target "
            f"({NONE} where no trial reached it), were then run with the reported "
            "seeds.",
        ),
    )


def statistics_sheets(differences: Iterable[Difference], by: By) -> list[Sheet]:
    """Return the paired differences, one table for each baseline."""
    by_role: dict[str, list[Difference]] = {}
    for one in differences:
        by_role.setdefault(one.role, []).append(one)
    return [_paired(role, ones, by) for role, ones in by_role.items()]


def sources_sheet(comparison: Comparison, out: Path) -> Sheet:
    """Return which run folders each line is made of.

    Args:
        comparison: Which runs stand for which method.
        out: The report's folder, which the paths start from.
    """
    rows = []
    for row in comparison.rows:
        for run in row.all_runs:
            targets = [
                target_name(t) for t in comparison.targets if run in _answering(row, t)
            ]
            if run in row.runs:
                targets.append("the end")
            rows.append(
                (
                    Entry(row.label),
                    Entry(str(run.seed)),
                    Entry(", ".join(targets)),
                    Entry(str(run.summary["stopped_by"])),
                    Entry(relative(run.folder, out)),
                )
            )
    return Sheet(
        name="sources",
        title="Where the numbers come from",
        header=("method", "seed", "answers for", "ended by", "run folder"),
        rows=tuple(rows),
        notes=("Paths start from the folder of this report.",),
    )


def relative(folder: Path, out: Path) -> str:
    """Return a folder's path as seen from another."""
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _answering(row: Row, target: float) -> tuple[Run, ...]:
    return row.by_target.get(target, ())


def _tuned(row: Row, targets: tuple[float, ...], by: By) -> tuple[Entry, ...]:
    tuning = row.tuning
    assert tuning is not None
    return (
        Entry(row.label),
        Entry(str(tuning.trials)),
        Entry(", ".join(map(str, tuning.seeds))),
        Entry(significant(tuning.cost.get(by))),
        *(Entry(tuning.chosen.get(t) or NONE) for t in targets),
    )


def _paired(role: str, differences: list[Difference], by: By) -> Sheet:
    columns = list(dict.fromkeys(one.target for one in differences))
    labels = {one.row.key: one.row.label for one in differences}
    found = {(one.row.key, one.target): one for one in differences}
    baseline = {"tuned": "tuned standard training", "random": "the random control"}
    return Sheet(
        name=f"against_{role}",
        title=f"Seed by seed against {baseline.get(role, role)}",
        header=(
            "method",
            *(
                "test accuracy, points"
                if target is None
                else f"{target_name(target)}, {COST_NAMES[by].partition(' (')[0]}"
                for target in columns
            ),
        ),
        rows=tuple(
            (
                Entry(label),
                *(_difference_entry(found[key, target]) for target in columns),
            )
            for key, label in labels.items()
        ),
        notes=(
            "Each cell: the method less the baseline, median and range over seeds that "
            "both have (for a cost, that both got there with). Wilcoxon's signed-rank "
            "test, two-sided, with Holm's correction for all methods of a column; not "
            f"testable below {TESTABLE_PAIRS} pairs.",
        ),
    )


def _difference_entry(one: Difference) -> Entry:
    if one.of is None:
        return Entry(NONE, ("no pair",))
    told = points if one.target is None else signed
    pairs = len(one.differences)
    small = [f"{pairs} pair{'s' * (pairs > 1)}"]
    if pairs > 1:
        alike = one.of.low == one.of.high
        between = f"{told(one.of.low)} to {told(one.of.high)}"
        small.insert(0, "no spread" if alike else between)
    small.append("not testable" if one.p is None else f"p = {significant(one.p)}")
    return Entry(told(one.of.median), tuple(small))


def _each(runs: Iterable[Run], told: Callable[[Run], str]) -> str:
    """Return what is true of all runs, or each variety."""
    return "; or ".join(dict.fromkeys(map(told, runs)))


def _data(run: Run) -> str:
    start = run.started
    seed = run.config["data"]["split_seed"]
    return f"{start['dataset']}, fingerprint {start['fingerprint']}, split seed {seed}"


def _sizes(run: Run) -> str:
    start = run.started
    sizes = ("train", "validation", "test")
    return ", ".join(f"{start[name]:,} {name}" for name in sizes)


def _grid(run: Run) -> str:
    split = run.summary["targets_on"]
    size = "" if split is None else f" on {run.started[split]:,} {split} examples"
    every = run.config["evaluate"]["every"]
    return (
        f"every {every:g} full-pass equivalents{size}, and where a schedule ends; a "
        "target counts as reached at the first evaluation at or above it"
    )


def _device(run: Run) -> str:
    device = run.started["device"]
    return (
        f"{device['count']} x {device['kind']} ({device['platform']}), "
        f"{device['cpu_cores']} CPU cores, {device['machine']}, {device['os']}"
    )


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {v}" for name, v in run.started["versions"].items())


def _energy(run: Run) -> str:
    energy = run.summary["energy"]
    missing = [f"{e['component']}: {e['reason']}" for e in energy["unavailable"]]
    without = f"; without {'; '.join(missing)}" if missing else ""
    if energy["quality"] == "unavailable":
        return f"not measured{without}"
    included = " + ".join(energy["included"])
    return f"{energy['quality']}, {included} included{without}"


def _compiling(runs: Iterable[Run]) -> str:
    waits, cached = [], 0
    for run in runs:
        programs = run.summary["compilations"].values()
        cached += any(program["cache_hits"] for program in programs)
        waits.append(run.summary["phases"]["compile"]["s"])
    if not waits:
        return ""
    return (
        f"{significant(sum(waits))} s over all {len(waits)} runs, at most "
        f"{significant(max(waits))} s in one; {cached} of them found programs in a "
        "cache. Costs in the tables are warm, which is without it; cold they would be "
        "higher by a run's own compiling"
    )


def _on_test(run: Run) -> str | None:
    if run.summary["targets_on"] != "test":
        return None
    return "targets were looked for on the test split, which flatters every method"


def _compat(run: Run) -> str | None:
    kind: Any = run.summary.get("compat", "none")
    return None if kind == "none" else f"compat: {kind}, not the method as published"


def _noise(run: Run) -> str | None:
    share = run.summary.get("label_noise", 0.0)
    return f"{100 * share:g} % of the training labels are noise" if share else None


def _doubts(run: Run) -> str | None:
    energy = run.summary["energy"]
    if energy["quality"] == "unavailable" or energy["valid"]:
        return None
    return f"the energy is not valid: {', '.join(energy['reason_codes'])}"


def _lost(run: Run) -> str | None:
    lost = run.summary["lost"]
    if not (lost["seconds"] or lost["visits"]):
        return None
    wh = "" if not lost["wh"] else f" and {significant(float(lost['wh']))} Wh"
    name = f"{run.summary['name']}, seed {run.seed}"
    return (
        f"{name}: a crash lost {significant(float(lost['seconds']))} s{wh}, "
        f"{lost['visits']:,} visits, which are in none of its costs"
    )
