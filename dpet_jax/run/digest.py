"""The end of a run in a few lines, for a terminal."""

from typing import Any


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the table that ends a run, a name and a value a line."""
    size, validation = summary["coreset_size"], summary["validation_accuracy"]
    phases = {name: phase["s"] for name, phase in summary["phases"].items()}
    rows = {
        "test accuracy": _accuracy(summary["test_accuracy"])
        + (f"   (validation {_accuracy(validation)})" if validation else ""),
        "coreset": "none (this method trains on all data)"
        if size is None
        else f"{size:,} of {summary['num_train']:,} "
        f"(pruned {100 * summary['pruning_ratio']:.0f} %)",
        "epochs": f"{summary['epochs']:.2f} full-pass equivalents",
        "examples": f"{summary['visits']:,} visited   "
        f"{summary['scored_examples']:,} scored",
        "seconds": "   ".join(f"{name} {took:.1f}" for name, took in phases.items()),
        "": f"{summary['wall_s']:.1f} in all, "
        f"{summary['wall_s_without_eval']:.1f} without evaluation",
    } | _energy_rows(summary)
    rows["stopped by"] = summary["stopped_by"]
    for target in summary["targets"]:
        cost = "not reached"
        if target["reached"]:
            cost = f"{target['epochs']:.2f} epochs"
            if target["wh"] is not None:
                cost += f", {target['wh']:.4g} Wh"
        rows[f"to {target['target']:g}"] = f"{cost} ({summary['targets_on']})"
    lost = summary["lost"]
    if lost["seconds"]:
        wh = "" if lost["wh"] is None else f", {lost['wh']:.4g} Wh"
        rows["lost to crashes"] = f"{lost['seconds']:.1f} s{wh}"
    return [f"{name:<18}{text}" for name, text in rows.items()]


def _energy_rows(summary: dict[str, Any]) -> dict[str, str]:
    energy, budget = summary["energy"], summary["budget"]
    rows = {"energy": energy["headline"]}
    if energy["wh"] is None:
        rows["energy"] += " - see dpet doctor"
        return rows
    phases = {name: phase["wh"] for name, phase in summary["phases"].items()}
    rows["Wh"] = "   ".join(f"{name} {wh:.4g}" for name, wh in phases.items() if wh)
    if budget["wh"] is not None:
        rows["Wh budget"] = (
            f"{budget['spent_wh']:.4g} of {budget['wh']:g} Wh, evaluation excluded; "
            f"overshot by {budget['overshoot_wh']:.4g}"
        )
    return rows


def _accuracy(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
