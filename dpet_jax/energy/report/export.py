"""An energy report in other forms: a row of a CSV table, and a BoAmps document.

Both are made from the report's dictionary alone; what it lacks stays empty.
"""

import csv
import fcntl
import io
import math
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dpet_jax.energy.accounts.ledger import PHASES
from dpet_jax.energy.probes.source import JOULES_PER_WH
from dpet_jax.files import csv_cell

Cell = str | float | int | None
InfraType = Literal["publicCloud", "privateCloud", "onPremise", "other"]

COMPONENTS = ("gpu", "cpu", "dram", "node")

_WH_PER_KWH = 1000.0
_J_PER_KWH = _WH_PER_KWH * JOULES_PER_WH
#: Highest relative half width of the k=2 interval, by BoAmps' grade.
_GRADES = {"high": 0.10, "medium": 0.25, "low": 0.50}

_BEFORE_ENERGY = {
    "run_id": "run_id",
    "complete": "complete",
    "valid": "valid",
    "reason_codes": "reason_codes",
    "start_utc": "time.start_utc",
    "end_utc": "time.end_utc",
    "wall_s": "time.wall_s",
    "segments": "time.segments",
    "included": "boundary.included",
    "excluded": "boundary.excluded",
    "exclusive": "boundary.exclusive",
}
_AFTER_ENERGY = {
    "g_co2e": "carbon.g_co2e",
    "intensity_g_per_kwh": "carbon.intensity_g_per_kwh",
    "intensity_source": "carbon.intensity_source",
    "visits": "proxies.visits",
    "scored_examples": "proxies.scored_examples",
    "updates": "proxies.updates",
    "epochs": "proxies.epochs",
    "flops": "proxies.flops",
}


def csv_row(report: Mapping[str, Any]) -> dict[str, Cell]:
    """Flatten a report into one row whose columns are the same for every report.

    Every column of energy, `…_wh`, is followed by `…_wh_quality`: "measured",
    "derived" (computed from measured energy), "modelled", "mixed" (parts of several
    qualities, which are never added), "unavailable", or "unlabelled" if the report
    gives a number and no quality. The interval of a phase is in columns beside it, and
    where there is none, as of a target, a model's number is left out. The target is the
    highest that the run was asked for. Numbers that are missing, NaN or infinite are
    None.

    Args:
        report: An energy report.

    Returns:
        The cells by column, in the order of the columns.
    """

    def cells(paths: Mapping[str, str]) -> dict[str, Cell]:
        return {column: _cell(_at(report, path)) for column, path in paths.items()}

    energy = _at(report, "energy") or {}
    quality = energy.get("quality")
    row = cells(_BEFORE_ENERGY)
    row |= _wh("measured", energy.get("measured_wh"), quality)
    row |= _interval_wh("measured", energy.get("measured_wh_k2"), quality)
    row |= _wh("modelled", energy.get("modelled_wh"), "modelled")
    row |= _interval_wh("modelled", energy.get("modelled_interval_wh"), "modelled")
    row |= _wh("net_of_idle", energy.get("net_of_idle_wh"), "derived")
    row |= cells({"idle_method": "energy.idle.method"})
    for component in COMPONENTS:
        row |= _wh(component, *_of_component(energy, component))
    for phase in PHASES:
        spent = _at(report, f"phases.{phase}") or {}
        row[f"{phase}_s"] = _number(spent.get("s"))
        of = spent.get("quality") or quality
        row |= _wh(phase, spent.get("wh"), of)
        row |= _interval_wh(phase, spent.get("wh_k2"), of)
    row |= _target(report, quality)
    row |= cells({"stopped_by": "budget.stopped_by", "pue": "carbon.pue"})
    if quality == "modelled":  # what is derived from a model has no interval here
        row |= _wh("facility", None, None)
    else:
        row |= _wh("facility", _at(report, "carbon.facility_wh"), "derived")
    row |= cells(_AFTER_ENERGY)
    gpus = _at(report, "system.gpus") or []
    row["gpus"] = _cell([gpu.get("name") for gpu in gpus])
    row["driver"] = _cell(list(dict.fromkeys(gpu.get("driver") for gpu in gpus)))
    return row | cells(
        {"cpu": "system.cpu", "jax": "system.jax", "meter_version": "meter.version"}
    )


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
        writer.writerow(map(csv_cell, row.values()))
        file.write(lines.getvalue())


def boamps(
    report: Mapping[str, Any], *, infra_type: InfraType = "other"
) -> dict[str, Any]:
    """Turn a report into a document of Boavizta's BoAmps format (April 2026).

    Only measured energy goes in, never a model's. What the report does not know is
    left out, for the schema has no null; that the task is the supervised training of an
    image classifier in JAX is known of every run. The idle baseline is the
    calibration, if one was measured. `quality` follows the k=2 interval: up to ±10 %
    is high, ±25 % medium, ±50 % low; it is left out beyond that, without an interval,
    and for a run that is not valid.

    Args:
        report: An energy report.
        infra_type: Where the machine is, which no machine knows of itself; "other"
            claims nothing.

    Returns:
        The document, ready for `json.dump`.

    Raises:
        ValueError: If the run has no measured energy, which the format demands.
    """
    measured_wh = _number(_at(report, "energy.measured_wh"))
    if measured_wh is None:
        entries = _at(report, "energy.unavailable") or []
        reasons = [str(entry.get("reason")) for entry in entries]
        raise ValueError(
            "BoAmps needs measured energy, and this run has none "
            f"({'; '.join(reasons) or 'no reason given'}); write a table row instead"
        )
    sources = [
        source
        for source in _at(report, "energy.by_source") or []
        if source.get("quality") == "measured" and source.get("counted") is not False
    ]
    header = {
        "reportId": _cell(report.get("run_id")),
        "reportDatetime": _day_and_time(_at(report, "time.end_utc")),
    }
    algorithm = _known(
        trainingType="supervisedLearning",
        algorithmType="neural network",
        framework="jax",
        frameworkVersion=_cell(_at(report, "system.jax")),
    )
    os_name = _cell(_at(report, "system.os"))
    return _known(
        # the schema demands a date in a header, but no header
        header=_known(**header) if header["reportDatetime"] else None,
        task=_known(
            taskStage="training",
            taskFamily="image classification",
            algorithms=[algorithm],
            dataset=[{"dataUsage": "input", "dataType": "image"}],
            taskDescription=_description(report),
        ),
        measures=[_measure(report, sources, measured_wh)],
        system={"os": os_name} if os_name else None,
        software=_known(language="python", version=_cell(_at(report, "system.python"))),
        infrastructure=_known(
            infraType=infra_type, components=_hardware(report, sources) or None
        ),
        quality=_grade(report, measured_wh),
    )


# reading a report


def _at(report: Mapping[str, Any], path: str) -> Any:
    """Return what is at a dotted path; None if anything on the way is missing."""
    value: Any = report
    for key in path.split("."):
        value = (value or {}).get(key)
    return value


def _number(value: Any) -> int | float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _cell(value: Any) -> Any:
    """Return a number or a text, a list joined, truth as in JSON; None if empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return "; ".join(str(one) for one in value if one is not None) or None
    return None if value is None or value == "" else str(value)


def _ends(interval: Any) -> tuple[int | float | None, int | float | None]:
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return None, None
    return _number(interval[0]), _number(interval[1])


def _known(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


# the row


def _wh(name: str, value: Any, quality: Any) -> dict[str, Cell]:
    wh = _number(value)
    if wh is None:
        label = "mixed" if quality == "mixed" else "unavailable"
    else:
        label = str(quality or "unlabelled")
    return {f"{name}_wh": wh, f"{name}_wh_quality": label}


def _interval_wh(name: str, interval: Any, quality: Any) -> dict[str, Cell]:
    low, high = _ends(interval)
    return _wh(f"{name}_low", low, quality) | _wh(f"{name}_high", high, quality)


def _of_component(energy: Mapping[str, Any], component: str) -> tuple[Any, Any]:
    """Return the energy of all counted sources of a component, and its quality."""
    sources = [
        source
        for source in energy.get("by_source") or []
        if source.get("component") == component and source.get("counted") is not False
    ]
    qualities = {source.get("quality") for source in sources}
    if len(qualities) > 1:
        return None, "mixed"
    each = [_number(source.get("wh")) for source in sources]
    known = [wh for wh in each if wh is not None]
    if not known or len(known) < len(each):  # some would pass for all
        return None, None
    return math.fsum(known), qualities.pop()


def _target(report: Mapping[str, Any], quality: Any) -> dict[str, Cell]:
    asked = [
        entry
        for entry in report.get("energy_to_accuracy") or []
        if _number(entry.get("target")) is not None
    ]
    highest: Mapping[str, Any] = max(
        asked, key=lambda entry: entry["target"], default={}
    )
    quality = highest.get("quality") or quality
    if quality == "modelled":  # of a moment on the way no interval is kept
        highest = {**highest, "wh": None, "wh_incl_eval": None}
    return {
        "target": _number(highest.get("target")),
        "target_reached": _cell(highest.get("reached")),
        **_wh("target", highest.get("wh"), quality),
        **_wh("target_incl_eval", highest.get("wh_incl_eval"), quality),
        "target_epochs": _number(highest.get("epochs")),
        "best_accuracy": _number(highest.get("best_accuracy")),
    }


def _check_header(found: list[str], wanted: list[str], path: Path) -> None:
    if found != wanted:
        differing = sorted(set(found) ^ set(wanted)) or ["their order"]
        raise ValueError(
            f"{path}: its columns are not those of this version (differing: "
            f"{', '.join(differing)}); write to another file"
        )


# the document


def _measure(
    report: Mapping[str, Any], sources: list[Mapping[str, Any]], measured_wh: float
) -> dict[str, Any]:
    idle = _at(report, "energy.idle") or {}
    watts = idle.get("watts") or {}
    idle_w = [_number(watts.get(source.get("id"))) for source in sources]
    known_w = [one for one in idle_w if one is not None]
    idle_s = _number(idle.get("seconds"))
    calibrated = idle.get("method") == "measured" and idle_s and known_w
    if not calibrated or len(known_w) < len(idle_w):  # some would pass for all
        idle_s = None

    def methods(component: str) -> str | None:
        named = (s.get("method") for s in sources if s.get("component") == component)
        return _cell(list(dict.fromkeys(named)))

    return _known(
        measurementMethod="dpet_jax",
        version=_cell(_at(report, "meter.version")),
        cpuTrackingMode=methods("cpu"),
        gpuTrackingMode=methods("gpu"),
        powerCalibrationMeasurement=(
            None if idle_s is None else sum(known_w) * idle_s / _J_PER_KWH
        ),
        durationCalibrationMeasurement=idle_s,
        powerConsumption=measured_wh / _WH_PER_KWH,
        measurementDuration=_number(_at(report, "time.wall_s")),
        measurementDateTime=_day_and_time(_at(report, "time.start_utc")),
    )


def _grade(report: Mapping[str, Any], measured_wh: float) -> str | None:
    low, high = _ends(_at(report, "energy.measured_wh_k2"))
    if low is None or high is None or report.get("valid") is False or not measured_wh:
        return None
    relative = max(high - measured_wh, measured_wh - low) / measured_wh
    return next((grade for grade, most in _GRADES.items() if relative <= most), None)


def _description(report: Mapping[str, Any]) -> str | None:
    included = _cell(_at(report, "boundary.included"))
    excluded = _cell(_at(report, "boundary.excluded"))
    sentences = [
        f"Energy of: {included}." if included else "",
        f"Not in it: {excluded}." if excluded else "",
        "The run did not come to its end." if report.get("complete") is False else "",
    ]
    if report.get("valid") is False:
        reasons = _cell(report.get("reason_codes")) or "no reason given"
        sentences.append(f"The measurement is not valid: {reasons}.")
    return " ".join(sentence for sentence in sentences if sentence) or None


def _hardware(
    report: Mapping[str, Any], sources: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """List what the system names, and what was measured without a name."""
    gpus = _at(report, "system.gpus") or []
    names = Counter(_cell(gpu.get("name")) for gpu in gpus)
    components = [
        _known(componentName=name, componentType="gpu", nbComponent=many)
        for name, many in names.items()
    ]
    measured = Counter(_cell(source.get("component")) for source in sources)
    cpu = _cell(_at(report, "system.cpu"))
    for component, many in measured.items():
        if component is None or (component == "gpu" and names):
            continue
        name = cpu if component == "cpu" else None
        components.append(
            _known(componentName=name, componentType=component, nbComponent=many)
        )
    if cpu and "cpu" not in measured:  # named, and there is at least one
        components.append(
            {"componentName": cpu, "componentType": "cpu", "nbComponent": 1}
        )
    return components


def _day_and_time(stamp: Any) -> str | None:
    """Return an ISO time as BoAmps writes it, in UTC."""
    if not isinstance(stamp, str):
        return None
    moment = datetime.fromisoformat(stamp)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
