"""The energy report of a run, from its folder alone, finished or killed."""

from pathlib import Path
from typing import Any

from dpet_jax.energy import Accounts, Report, report_from_journal
from dpet_jax.errors import UserError
from dpet_jax.files import read_yaml
from dpet_jax.run.costs import Event, target_costs
from dpet_jax.run.folder import CONFIG, ENERGY, EVENTS, SUMMARY, read_events, reading
from dpet_jax.run.hosts import all_together, read_hosts
from dpet_jax.run.limits import StopReason


def run_report(folder: Path, *, finished: bool | None = None) -> Report:
    """Build the energy report of a run from what its folder holds.

    A run that was killed, or is still running, has a report too; it is marked
    incomplete.

    Args:
        folder: The run's.
        finished: Whether the run came to its end; by default what the folder says.

    Raises:
        UserError: If the folder holds no run, or none that began to measure.
    """
    try:
        events = read_events(folder / EVENTS)
        config = read_yaml(folder / CONFIG)
    except OSError as error:
        raise UserError(
            f"{folder}: holds no run ({error.strerror}: {error.filename}); give the "
            "folder of one, such as runs/quickstart/seed0"
        ) from error
    with reading(folder):
        report = _report(folder, events, config, finished)
        str(report)  # events of another form show themselves here at the latest
        return report


def _report(
    folder: Path, events: list[Event], config: dict[str, Any], finished: bool | None
) -> Report:
    begun = next((e for e in reversed(events) if e["event"] == "start"), None)
    if begun is None or not (folder / ENERGY).exists():
        raise UserError(f"{folder}: this run was ended before it began to measure")
    hosts = read_hosts(folder)
    rows: list[dict[str, Any]] = []

    def joined(own: Accounts) -> Accounts:
        whole, rows[:] = all_together(own, hosts)
        return whole

    report = report_from_journal(folder / ENERGY, joined)
    data = report.data
    if hosts:
        data["hosts"] = rows
        _mark_unmeasured(data)
    stopped = [e for e in events if e["event"] == "stop"]
    reason: StopReason | None = stopped[-1]["reason"] if stopped else None
    quality = data["energy"]["quality"]
    data["run_id"] = f"{config['name']}/seed{config['seed']}"
    ended = (folder / SUMMARY).exists() if finished is None else finished
    data["complete"] = data["complete"] and ended
    data["energy_to_accuracy"] = [
        cost | {"quality": quality, "stopped_by": reason}
        for cost in target_costs(events, _targets(config))
    ]
    data["budget"] = budget(config["budget"], data, reason)
    data["proxies"] = proxies(events, begun, data["phases"])
    data["carbon"] = carbon(config["energy"]["carbon"], data["energy"])
    device, versions = begun["device"], begun["versions"]
    data["system"] |= {
        "device": device,
        "os": device["os"],
        **{name: versions[name] for name in ("python", "jax", "jaxlib")},
        "versions": versions,
    }
    _mark_aliasing(data)
    return report


def _mark_unmeasured(data: dict[str, Any]) -> None:
    """Say where a host is missing in the energy, for the sum is then too small."""
    quality = data["energy"]["quality"]
    if any(row["quality"] != quality for row in data["hosts"]):
        data["valid"] = False
        data["reason_codes"] = sorted({*data["reason_codes"], "host_unmeasured"})


def budget(
    limits: dict[str, Any], data: dict[str, Any], stopped_by: StopReason | None
) -> dict[str, Any]:
    """Return the budgets, which of them ended the run, and the overshoot in Wh.

    Args:
        limits: The config's budgets.
        data: The energy report.
        stopped_by: What ended the run; None if it has not ended.
    """
    phases = data["phases"]
    wh = [phase["wh"] for name, phase in phases.items() if name != "eval"]
    known = data["energy"]["quality"] != "unavailable"
    spent = sum(w for w in wh if w is not None) if known else None
    over = limits["wh"] is not None and spent is not None
    return limits | {
        "stopped_by": stopped_by,
        "spent_wh": spent,
        "quality": data["energy"]["quality"],
        "overshoot_wh": max(0.0, spent - limits["wh"]) if over else None,
    }


def proxies(
    events: list[Event], begun: Event, phases: dict[str, Any]
) -> dict[str, Any]:
    """Return the costs that do not depend on a power sensor.

    Args:
        events: A run's events without superseded ones.
        begun: The latest start event.
        phases: Of the energy report.
    """
    last = next((e for e in reversed(events) if "executed_visits" in e), {})
    selections = [e for e in events if e["event"] == "select"]
    step = next(
        (e for e in reversed(events) if e.get("what") == "train_steps"), {}
    ).get("xla_flops")
    analytic = begun["flops_per_step"]
    computing = {"select", "tuner", "train", "eval", "prune"} & phases.keys()
    return {
        "visits": last.get("visits", 0),
        "executed_visits": last.get("executed_visits", 0),
        "scored_examples": last.get("scored_examples", 0),
        "selection_visits": sum(e["selection_visits"] for e in selections),
        "select_flops": sum(e["select_flops"] for e in selections),
        "updates": last.get("executed_visits", 0) // begun["batch_size"],
        "epochs": last.get("epochs", 0.0),
        "flops": last.get("flops", 0),
        "flops_method": "analytic: 2 x multiply-adds of convolutions and the last "
        "layer; a training visit is three forward passes",
        "flops_check": {
            "analytic_step": analytic,
            "xla_step": step,
            "rel_diff": None if step is None else analytic / step - 1,
        },
        "device_seconds": begun["device"]["count"]
        * sum(phases[name]["s"] for name in computing),
        "bytes_loaded": begun["data_bytes"],
    }


def carbon(
    config: dict[str, Any] | None, energy: dict[str, Any]
) -> dict[str, Any] | None:
    """Turn energy into CO2-equivalents by what the user has given; None without it.

    Args:
        config: The config's carbon section.
        energy: Of the energy report.
    """
    if config is None:
        return None
    wh = energy["measured_wh"] if energy["quality"] == "measured" else None
    if energy["quality"] == "modelled":
        wh = energy["modelled_wh"]
    facility_wh = None if wh is None else wh * config["pue"]
    operational = (
        None
        if facility_wh is None
        else facility_wh / 1000 * config["intensity_g_per_kwh"]
    )
    embodied = config["embodied_g"]
    return config | {
        "quality": energy["quality"],
        "facility_wh": facility_wh,
        "g_co2e": operational,
        "sci_g_per_run": None
        if operational is None or embodied is None
        else operational + embodied,
        "functional_unit": "one run",
    }


def _targets(config: dict[str, Any]) -> list[float]:
    goal = config["stop"]["target"]
    return sorted({*config["targets"], *([] if goal is None else [goal])})


def _mark_aliasing(data: dict[str, Any]) -> None:
    """Mark sensors that read now and then, in step with training.

    Such a sensor may meet the same part of every step, and miss the others.
    """
    updates = data["proxies"]["updates"]
    step_s = data["phases"]["train"]["s"] / updates if updates else 0.0
    for source in data["energy"]["by_source"]:
        period_s, window_s = source["update_period_s"], source["sensor_window_s"]
        has_gaps = source["kind"] == "power" and window_s and period_s
        source["aliasing_risk"] = bool(
            has_gaps and window_s < period_s and step_s and _locked(step_s / period_s)
        )


def _locked(ratio: float) -> bool:
    """Return whether two periods are within 5 % of a small whole ratio."""
    larger = max(ratio, 1 / ratio)
    return abs(larger / max(1, round(larger)) - 1) < 0.05
