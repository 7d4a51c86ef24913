"""A report as a document of Boavizta's BoAmps format, for public collections."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from dpet_jax.energy.probes.source import JOULES_PER_WH
from dpet_jax.energy.report.fields import ends, joined, known, number, part, parts, text

InfraType = Literal["publicCloud", "privateCloud", "onPremise", "other"]

_WH_PER_KWH = 1000.0
_J_PER_KWH = _WH_PER_KWH * JOULES_PER_WH
_QUALITY_LIMITS = (("high", 0.10), ("medium", 0.25), ("low", 0.50))


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
        infra_type: Where the machine stands, which no machine knows of itself; "other"
            claims nothing.

    Returns:
        The document, ready for `json.dump`.

    Raises:
        ValueError: If the run has no measured energy, which the format demands.
    """
    energy = part(report, "energy")
    measured_wh = number(energy.get("measured_wh"))
    if measured_wh is None:
        reasons = [str(one.get("reason")) for one in parts(energy, "unavailable")]
        raise ValueError(
            "BoAmps needs measured energy, and this run has none "
            f"({'; '.join(reasons) or 'no reason given'}); write a table row instead"
        )
    system = part(report, "system")
    time = part(report, "time")
    header = {
        "reportId": text(report.get("run_id")),
        "reportDatetime": _day_and_time(time.get("end_utc")),
    }
    task = known(
        taskStage="training",
        taskFamily="image classification",
        algorithms=[
            known(
                trainingType="supervisedLearning",
                algorithmType="neural network",
                framework="jax",
                frameworkVersion=text(system.get("jax")),
            )
        ],
        dataset=[{"dataUsage": "input", "dataType": "image"}],
        taskDescription=_described(report),
    )
    os_name = text(system.get("os"))
    return known(
        # The schema wants a date in a header, and the header not at all.
        header=known(**header) if header["reportDatetime"] else None,
        task=task,
        measures=[_measure(report, energy, measured_wh)],
        system={"os": os_name} if os_name else None,
        software=known(language="python", version=text(system.get("python"))),
        infrastructure=known(
            infraType=infra_type, components=_hardware(energy, system) or None
        ),
        quality=_grade(report, energy, measured_wh),
    )


def _measure(
    report: Mapping[str, Any], energy: Mapping[str, Any], measured_wh: float
) -> dict[str, Any]:
    idle, time = part(energy, "idle"), part(report, "time")
    idle_w = [
        number(watts)
        for key, watts in part(idle, "watts").items()
        if not _stands_apart(energy, key)
    ]
    idle_s = number(idle.get("seconds"))
    calibrated = idle.get("method") == "measured" and idle_w and idle_s
    known_w = [watts for watts in idle_w if watts is not None]
    # Some of the components would pass for all of them.
    whole = calibrated and len(known_w) == len(idle_w)
    return known(
        measurementMethod="dpet_jax",
        version=text(part(report, "meter").get("version")),
        cpuTrackingMode=_methods(energy, "cpu"),
        gpuTrackingMode=_methods(energy, "gpu"),
        powerCalibrationMeasurement=(
            sum(known_w) * (idle_s or 0.0) / _J_PER_KWH if whole else None
        ),
        durationCalibrationMeasurement=idle_s if whole else None,
        powerConsumption=measured_wh / _WH_PER_KWH,
        measurementDuration=number(time.get("wall_s")),
        measurementDateTime=_day_and_time(time.get("start_utc")),
    )


def _grade(
    report: Mapping[str, Any], energy: Mapping[str, Any], measured_wh: float
) -> str | None:
    low, high = ends(energy.get("measured_wh_k2"))
    if low is None or high is None or report.get("valid") is False or not measured_wh:
        return None
    relative = max(high - measured_wh, measured_wh - low) / measured_wh
    limits = (grade for grade, limit in _QUALITY_LIMITS if relative <= limit)
    return next(limits, None)


def _described(report: Mapping[str, Any]) -> str | None:
    boundary = part(report, "boundary")
    included, excluded = (joined(boundary.get(k)) for k in ("included", "excluded"))
    sentences = [
        f"Energy of: {included}." if included else "",
        f"Not in it: {excluded}." if excluded else "",
        "The run did not come to its end." if report.get("complete") is False else "",
    ]
    if report.get("valid") is False:
        reasons = joined(report.get("reason_codes")) or "no reason given"
        sentences.append(f"The measurement is not valid: {reasons}.")
    return " ".join(sentence for sentence in sentences if sentence) or None


def _hardware(
    energy: Mapping[str, Any], system: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """List what the system names, and what was measured without a name."""
    names = Counter(text(gpu.get("name")) for gpu in parts(system, "gpus"))
    components = [
        known(componentName=name, componentType="gpu", nbComponent=many)
        for name, many in names.items()
    ]
    measured = Counter(
        text(source.get("component")) for source in _measured_sources(energy)
    )
    cpu = text(system.get("cpu"))
    for component, many in measured.items():
        if component is None or (component == "gpu" and names):
            continue
        name = cpu if component == "cpu" else None
        components.append(
            known(componentName=name, componentType=component, nbComponent=many)
        )
    if cpu and "cpu" not in measured:  # named, and there is at least one
        components.append(
            {"componentName": cpu, "componentType": "cpu", "nbComponent": 1}
        )
    return components


def _counts(source: Mapping[str, Any]) -> bool:
    """Whether the source's energy is a part of the measured total."""
    return source.get("quality") == "measured" and source.get("counted") is not False


def _measured_sources(energy: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [source for source in parts(energy, "by_source") if _counts(source)]


def _methods(energy: Mapping[str, Any], component: str) -> str | None:
    return joined(
        dict.fromkeys(
            source.get("method")
            for source in _measured_sources(energy)
            if source.get("component") == component
        )
    )


def _stands_apart(energy: Mapping[str, Any], key: str) -> bool:
    """Whether an idle power, listed by id or by its end, is no part of the total."""
    return any(
        f":{source.get('id')}".endswith(f":{key}") and not _counts(source)
        for source in parts(energy, "by_source")
    )


def _day_and_time(told: Any) -> str | None:
    if not isinstance(told, str):
        return None
    moment = datetime.fromisoformat(told)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
