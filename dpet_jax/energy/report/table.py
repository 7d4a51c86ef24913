"""An energy report for others: a row of a table, and a BoAmps document.

Both are made from the report's dictionary alone. What it does not say stays empty.
"""

import csv
import fcntl
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpet_jax.energy.accounts.ledger import PHASES
from dpet_jax.energy.report.boamps import boamps as boamps
from dpet_jax.energy.report.fields import ends, joined, number, part, parts, text

Cell = str | float | int | None

COMPONENTS = ("gpu", "cpu", "dram", "node")


def csv_row(report: Mapping[str, Any]) -> dict[str, Cell]:
    """Flatten a report into one row whose columns are the same for every report.

    Every column of energy, `…_wh`, is followed by `…_wh_quality`: "measured",
    "derived" (computed from measured energy), "modelled", "mixed" (parts of several
    qualities, which are never added), "unavailable", or "unlabelled" if the report
    gives a number and no quality. The target is the highest that the run was asked
    for. Numbers that are missing, NaN or infinite are None.

    Args:
        report: An energy report.

    Returns:
        The cells by column, in the order of the columns.
    """
    time, energy = part(report, "time"), part(report, "energy")
    quality = energy.get("quality")
    row: dict[str, Cell] = {
        "run_id": text(report.get("run_id")),
        "complete": text(report.get("complete")),
        "valid": text(report.get("valid")),
        "reason_codes": joined(report.get("reason_codes")),
        "start_utc": text(time.get("start_utc")),
        "end_utc": text(time.get("end_utc")),
        "wall_s": number(time.get("wall_s")),
        "segments": number(time.get("segments")),
    }
    row |= _boundary(part(report, "boundary"))
    row |= _wh("measured", energy.get("measured_wh"), quality)
    row |= _interval("measured", energy.get("measured_wh_k2"), quality)
    row |= _wh("modelled", energy.get("modelled_wh"), "modelled")
    row |= _interval("modelled", energy.get("modelled_interval_wh"), "modelled")
    row |= _wh("net_of_idle", energy.get("net_of_idle_wh"), "derived")
    row["idle_method"] = text(part(energy, "idle").get("method"))
    for component in COMPONENTS:
        row |= _wh(component, *_of_component(energy, component))
    for phase in PHASES:
        spent = part(part(report, "phases"), phase)
        row[f"{phase}_s"] = number(spent.get("s"))
        row |= _wh(phase, spent.get("wh"), spent.get("quality") or quality)
    row |= _target(report, quality)
    row["stopped_by"] = text(part(report, "budget").get("stopped_by"))
    row |= _carbon(part(report, "carbon"))
    proxies = part(report, "proxies")
    for key in ("visits", "scored_examples", "updates", "epochs", "flops"):
        row[key] = number(proxies.get(key))
    return row | _system(report)


def write_csv(report: Mapping[str, Any], path: Path) -> None:
    """Append a report's row to a table, with the header if the table is empty.

    Several processes may append to one table.

    Args:
        report: An energy report.
        path: The table; made if missing.

    Raises:
        ValueError: If the table has other columns.
    """
    row = csv_row(report)
    with path.open("a+", encoding="utf-8", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # or two would both write the header
        file.seek(0)
        whole = file.read().removeprefix("\ufeff")  # a spreadsheet's mark
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, lineterminator="\n")
        if whole.strip():
            _check_header(next(csv.reader(io.StringIO(whole))), list(row), path)
            if not whole.endswith("\n"):
                lines.write("\n")
        else:
            file.truncate(0)
            writer.writerow(row)
        writer.writerow(row.values())
        file.write(lines.getvalue())


def _boundary(boundary: Mapping[str, Any]) -> dict[str, Cell]:
    return {
        "included": joined(boundary.get("included")),
        "excluded": joined(boundary.get("excluded")),
        "exclusive": text(boundary.get("exclusive")),
    }


def _target(report: Mapping[str, Any], quality: Any) -> dict[str, Cell]:
    asked = [
        one
        for one in parts(report, "energy_to_accuracy")
        if number(one.get("target")) is not None
    ]
    highest = max(asked, key=lambda one: one["target"], default={})
    quality = highest.get("quality") or quality
    return {
        "target": number(highest.get("target")),
        "target_reached": text(highest.get("reached")),
        **_wh("target", highest.get("wh"), quality),
        **_wh("target_incl_eval", highest.get("wh_incl_eval"), quality),
        "target_epochs": number(highest.get("epochs")),
        "best_accuracy": number(highest.get("best_accuracy")),
    }


def _carbon(carbon: Mapping[str, Any]) -> dict[str, Cell]:
    return {
        "pue": number(carbon.get("pue")),
        **_wh("facility", carbon.get("facility_wh"), "derived"),
        "g_co2e": number(carbon.get("g_co2e")),
        "intensity_g_per_kwh": number(carbon.get("intensity_g_per_kwh")),
        "intensity_source": text(carbon.get("intensity_source")),
    }


def _system(report: Mapping[str, Any]) -> dict[str, Cell]:
    system = part(report, "system")
    gpus = parts(system, "gpus")
    return {
        "gpus": joined(gpu.get("name") for gpu in gpus),
        "driver": joined(dict.fromkeys(gpu.get("driver") for gpu in gpus)),
        "cpu": text(system.get("cpu")),
        "jax": text(system.get("jax")),
        "meter_version": text(part(report, "meter").get("version")),
    }


def _of_component(energy: Mapping[str, Any], component: str) -> tuple[Any, Any]:
    """Return the energy of all counted sources of a component, and its quality."""
    sources = [
        one
        for one in parts(energy, "by_source")
        if one.get("component") == component and one.get("counted") is not False
    ]
    qualities = {one.get("quality") for one in sources}
    if len(qualities) > 1:
        return None, "mixed"
    each = [number(one.get("wh")) for one in sources]
    known = [wh for wh in each if wh is not None]
    if not known or len(known) < len(each):  # some would pass for all
        return None, None
    return math.fsum(known), qualities.pop()


def _wh(name: str, value: Any, quality: Any) -> dict[str, Cell]:
    wh = number(value)
    if wh is None:
        label = "mixed" if quality == "mixed" else "unavailable"
    else:
        label = str(quality or "unlabelled")
    return {f"{name}_wh": wh, f"{name}_wh_quality": label}


def _interval(name: str, interval: Any, quality: Any) -> dict[str, Cell]:
    low, high = ends(interval)
    return _wh(f"{name}_low", low, quality) | _wh(f"{name}_high", high, quality)


def _check_header(found: list[str], wanted: list[str], path: Path) -> None:
    if found != wanted:
        differing = sorted(set(found) ^ set(wanted)) or ["their order"]
        raise ValueError(
            f"{path}: its columns are not those of this version (differing: "
            f"{', '.join(differing)}); write to another file"
        )
