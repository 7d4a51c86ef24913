"""The energy report: numbers with source, quality and interval, or why there are none.

Wh outside, joules inside.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpet_jax.energy.accounts import journal
from dpet_jax.energy.accounts.ledger import RESOLUTION_S, Row
from dpet_jax.energy.accounts.logbook import Trace
from dpet_jax.energy.accounts.quantity import Energy, measured, modelled
from dpet_jax.energy.accounts.state import State, active_source, counted, quality_of
from dpet_jax.energy.probes.source import JOULES_PER_WH, Quality
from dpet_jax.energy.sensing.channel import edge_j2
from dpet_jax.energy.sensing.curve import Totals

SCHEMA = "dpet-jax/energy-report/1"

_KNOWN_COMPONENTS = ("gpu", "cpu", "dram", "psu", "network")
_WELL_COVERED = 0.9
_AGREEING_REL = 0.1
_ENERGIES = ("measured_wh", "measured_wh_k2", "modelled_wh", "modelled_interval_wh")


@dataclass(frozen=True)
class Report:
    """An energy report.

    Attributes:
        data: As it is written; the README explains its keys.
    """

    data: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        temporary = path.with_name(f".{path.name}.part")
        try:
            text = json.dumps(self.data, indent=1, default=str)
            temporary.write_text(f"{text}\n", "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def __str__(self) -> str:
        """Return the energy, or why there is none, and each phase's share."""
        energy, phases = self.data["energy"], self.data["phases"]
        rows = [f"energy: {headline(self.data)}"]
        if self.data["run_id"] is not None and not self.data["complete"]:
            rows.append("  incomplete: the run was stopped, killed, or still goes on")
        for name, phase in phases.items():
            if phase["s"] or phase["count"]:
                wh = "" if phase["wh"] is None else f"{phase['wh']:12.5g} Wh"
                rows.append(f"  {name:<12}{phase['s']:10.2f} s{wh}")
        if energy["quality"] == "measured" and energy["modelled_wh"] is not None:
            low, high = energy["modelled_interval_wh"]
            rows.append(
                f"  and apart from it ≈ {energy['modelled_wh']:.4g} Wh "
                f"[{low:.4g}, {high:.4g}] MODELLED"
            )
        if energy["quality"] != "unavailable":
            rows += [
                f"  without {e['component']}: {e['reason']}"
                for e in energy["unavailable"]
            ]
        proxies = self.data["proxies"]
        if proxies is not None:
            rows.append(
                f"  {proxies['visits']:,} visits   {proxies['updates']:,} updates   "
                f"{proxies['scored_examples']:,} scored   {proxies['flops']:.3g} FLOPs"
                f"   {proxies['device_seconds']:.1f} device seconds"
            )
        return "\n".join(rows)


def headline(data: dict[str, Any]) -> str:
    """Return the energy of a report in one line."""
    energy = data["energy"]
    if energy["quality"] == "unavailable":
        reasons = "; ".join(
            f"{e['component']}: {e['reason']}" for e in energy["unavailable"]
        )
        return f"not measurable here ({reasons or 'no source is known'})"
    parts = " + ".join(data["boundary"]["included"])
    if energy["quality"] == "measured":
        low, high = energy["measured_wh_k2"]
        text = (
            f"{energy['measured_wh']:.4g} Wh [{low:.4g}, {high:.4g}] measured ({parts})"
        )
    else:
        low, high = energy["modelled_interval_wh"]
        text = f"≈ {energy['modelled_wh']:.4g} Wh [{low:.4g}, {high:.4g}]"
        text += f" MODELLED ({parts})"
    doubts = ", ".join(data["reason_codes"])
    return f"{text}; not valid: {doubts}" if doubts else text


def report_from_journal(path: Path, run: dict[str, Any] | None = None) -> Report:
    """Build the report of what a journal holds, also of a run that was killed.

    Args:
        path: The energy.jsonl of a run.
        run: Facts of the run to put into it; see `build_report`.

    Raises:
        ValueError: If the journal is missing or empty.
    """
    folded = journal.read(path)
    if folded.state is None:
        raise ValueError(f"{path}: holds no energy record")
    trace = Trace()
    for sample in folded.samples:
        trace.add(sample["start_s"], sample["end_s"], sample["joules"])
    return build_report(folded.state, trace, complete=folded.complete, run=run)


def build_report(
    state: State,
    trace: Trace,
    *,
    complete: bool,
    run: dict[str, Any] | None = None,
) -> Report:
    """Turn a meter's state into a report.

    Args:
        state: What a meter or a journal knows.
        trace: The power over time.
        complete: Whether everything was measured to its end.
        run: What only the program knows, by key of the report: run_id,
            energy_to_accuracy, budget, proxies, carbon, system.
    """
    run = run or {}
    quality = quality_of(state)
    rows = {name: Row.from_json(row) for name, row in state["phases"].items()}
    seconds = sum(row.s for row in rows.values())
    whole = Row()
    for row in rows.values():
        whole.add(row)
    # all inner edges cancel in the whole, only its own two are left
    real = row_energy(Row(seconds, whole.totals), state, "measured", edges=True)
    guess = row_energy(Row(seconds, whole.totals), state, "modelled", edges=False)
    idle = _idle(state, trace)
    sources = [
        _source(name, channel, seconds, idle)
        for name, channel in state["channels"].items()
    ]
    reasons = doubts(state, quality, whole, seconds)
    included = [
        state["channels"][name]["component"] for name in counted(state, quality)
    ]
    data = {
        "schema": SCHEMA,
        "run_id": run.get("run_id"),
        "complete": complete,
        "valid": not reasons,
        "reason_codes": reasons,
        "warnings": warnings(sources),
        "time": {
            "start_utc": state["start_utc"],
            "end_utc": state["now_utc"],
            "wall_s": seconds,
            "suspended_s": state["suspended_s"],
            "segments": state["segments"],
        },
        "boundary": {
            "included": sorted(set(included)),
            "excluded": [c for c in _KNOWN_COMPONENTS if c not in included],
            "exclusive": exclusive(state),
        },
        "energy": {
            **_energies(real, guess),
            "quality": quality,
            "net_of_idle_wh": _net_wh(real, whole.totals, seconds, idle),
            "idle": idle,
            "lost": _lost(state, quality),
            "by_source": sources,
            "unavailable": [
                dict(zip(("component", "reason", "remedy"), entry, strict=True))
                for entry in state["unavailable"]
            ],
        },
        "phases": _phases(rows, state, quality, idle),
        "labels": _phases(
            {name: Row.from_json(row) for name, row in state["labels"].items()},
            state,
            quality,
            idle,
        ),
        "compile_s_outside_window": sum(
            row.compile_s for name, row in rows.items() if name != "compile"
        ),
        "energy_to_accuracy": run.get("energy_to_accuracy", []),
        "budget": run.get("budget"),
        "proxies": run.get("proxies"),
        "carbon": run.get("carbon"),
        "system": {"gpus": _gpus(state), **run.get("system", {})},
        "meter": {"version": version("dpet-jax"), **state["meter"]},
        "events": list(state["events"].values()),
        "event_counts": state["event_counts"],
        "power_trace": trace.bins(),
    }
    return Report(data)


def row_energy(
    row: Row, state: State, quality: Quality | None = None, *, edges: bool
) -> Energy:
    """Turn what a phase, a label or a window used into an energy.

    Args:
        row: What was used.
        state: Describes the channels.
        quality: Which; by default the best there is.
        edges: Whether the row is one stretch whose two edges are still to be counted.
    """
    quality = quality or quality_of(state)
    names = counted(state, quality)
    if quality == "unavailable" or not names:
        reasons = tuple(f"{entry[0]}: {entry[1]}" for entry in state["unavailable"])
        return Energy(None, "unavailable", reasons=reasons)
    if quality == "modelled":
        return modelled([(name, row.totals.get(name, Totals())) for name in names])
    parts = []
    for name in names:
        source = active_source(state["channels"][name])
        totals = row.totals.get(name, Totals())
        variance_j2 = row.edge_j2.get(name, 0.0)
        if edges and row.s > 0:
            mean_w = totals.energy_j / row.s
            variance_j2 += 2 * edge_j2(source, mean_w, mean_w)
        parts.append((name, source, totals, row.s, variance_j2))
    return measured(parts)


def doubts(state: State, quality: Quality, whole: Row, seconds: float) -> list[str]:
    """Name what keeps the energy of a run from being compared with others."""
    if quality != "measured":
        return [quality]
    found = []
    for name in counted(state, quality):
        channel = state["channels"][name]
        totals = whole.totals.get(name, Totals())
        unmeasured_s = Totals(**channel["totals"]).unmeasured_s
        uncovered = (1 - _WELL_COVERED) * seconds
        if unmeasured_s > uncovered:
            found.append("unmeasured")
        if active_source(channel).kind == "power" and totals.gap_s > uncovered:
            found.append("gap")
        if channel["scope"] == "gpu_parent":
            found.append("mig_parent")
        if channel["facts"].get("shared"):
            found.append("foreign_process")
    return sorted(set(found))


def warnings(sources: list[dict[str, Any]]) -> list[str]:
    """Tell which sources of a report are contradicted by another sensor."""
    return [
        f"{source['id']}: {source['method']} and {check['method']} differ by "
        f"{check['rel_diff']:+.0%}"
        for source in sources
        if (check := source["cross_check"]) and abs(check["rel_diff"]) > _AGREEING_REL
    ]


def exclusive(state: State) -> str:
    """Tell whether the GPUs were this program's alone: "yes", "no" or "unknown"."""
    facts = [c["facts"] for c in state["channels"].values() if c["component"] == "gpu"]
    if any(known.get("shared") for known in facts):
        return "no"
    alone = [known.get("last", {}).get("foreign_processes") is False for known in facts]
    return "yes" if alone and all(alone) else "unknown"


def _energies(real: Energy, guess: Energy) -> dict[str, Any]:
    ends = [real.interval_wh, guess.interval_wh]
    intervals = [None if end is None else list(end) for end in ends]
    return dict(
        zip(_ENERGIES, (real.wh, intervals[0], guess.wh, intervals[1]), strict=True)
    )


def _phases(
    rows: dict[str, Row], state: State, quality: Quality, idle: dict[str, Any]
) -> dict[str, Any]:
    names = counted(state, quality)
    told = {}
    for name, row in rows.items():
        energy = row_energy(row, state, quality, edges=False)
        inclusive_j = [row.inclusive_j[c] for c in names if c in row.inclusive_j]
        interval = energy.interval_wh
        told[name] = {
            "wh": energy.wh,
            "wh_k2": None if interval is None else list(interval),
            "quality": energy.quality,
            "net_of_idle_wh": _net_wh(energy, row.totals, row.s, idle),
            "s": row.s,
            "inclusive_wh": sum(inclusive_j) / JOULES_PER_WH if inclusive_j else None,
            "inclusive_s": row.inclusive_s,
            "count": row.count,
            "sync": "+".join(sorted(row.sync)) or None,
            "resolution_limited": bool(row.count and row.short_s > row.s / 2)
            or 0 < row.s < RESOLUTION_S,
            "compile_s": row.compile_s,
        }
    return told


def _source(
    name: str, channel: State, seconds: float, idle: dict[str, Any]
) -> dict[str, Any]:
    active, totals = active_source(channel), Totals(**channel["totals"])
    check = next(
        (
            {
                "method": other["method"],
                "quality": other["quality"],
                "wh": other["energy_j"] / JOULES_PER_WH,
                "rel_diff": (totals.energy_j - other["energy_j"]) / other["energy_j"],
            }
            for number, other in enumerate(channel["sources"])
            if number != channel["active"]
            and active.quality == other["quality"] == "measured"
            and other["kind"] == "power"
            and other["alive"]
            and other["energy_j"]
        ),
        None,
    )
    edge_wh = 2 * (2 * edge_j2(active, *[_mean_w(totals, seconds)] * 2)) ** 0.5
    return {
        "id": name,
        "component": channel["component"],
        "scope": channel["scope"],
        "counted": channel["counted"],
        "kind": active.kind,
        "method": active.method,
        "quality": active.quality,
        "wh": totals.energy_j / JOULES_PER_WH,
        "mean_w": _mean_w(totals, seconds),
        "max_w": channel["max_w"],
        "idle_w": idle["watts"].get(name),
        "samples": totals.samples,
        "gap_s": totals.gap_s,
        "unmeasured_s": totals.unmeasured_s,
        "update_period_s": active.update_period_s,
        "sensor_window_s": active.sensor_window_s,
        "cross_check": check,
        "events": channel["events"],
        "u_gain_rel": active.rel_uncertainty,
        "u_edge_wh": edge_wh / JOULES_PER_WH,
        "others": [
            s["method"] for s in channel["sources"] if s["method"] != active.method
        ],
    }


def _mean_w(totals: Totals, seconds: float) -> float:
    return totals.energy_j / seconds if seconds else 0.0


def _idle(state: State, trace: Trace) -> dict[str, Any]:
    if state["idle"] is not None:
        return state["idle"]
    low = {name: trace.low_w(name) for name in state["channels"]}
    watts = {name: w for name, w in low.items() if w is not None}
    return {
        "method": "min_observed" if watts else "none",
        "watts": watts,
        "seconds": None,
    }


def _net_wh(
    energy: Energy, totals: dict[str, Totals], seconds: float, idle: dict[str, Any]
) -> float | None:
    if energy.wh is None or any(name not in idle["watts"] for name in energy.channels):
        return None
    idle_j = sum(
        idle["watts"][name] * (seconds - totals.get(name, Totals()).unmeasured_s)
        for name in energy.channels
    )
    return energy.wh - idle_j / JOULES_PER_WH


def _lost(state: State, quality: Quality) -> dict[str, Any]:
    lost = state["lost"]
    if lost["s"]:
        return lost
    nothing_wh = None if quality == "unavailable" else 0.0
    return {"s": 0.0, "wh": nothing_wh, "quality": quality}


def _gpus(state: State) -> list[dict[str, Any]]:
    return [
        {"id": name}
        | channel["facts"].get("last", {})
        | {
            "temperature_start_c": channel["facts"]
            .get("first", {})
            .get("temperature_c")
        }
        for name, channel in state["channels"].items()
        if channel["component"] == "gpu"
    ]
