"""The energy report: numbers with source, quality and interval, or why there are none.

Energies in it are in Wh; the accounts that it is made of are in joules.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dpet_jax
from dpet_jax.energy.accounts import journal
from dpet_jax.energy.accounts.ledger import RESOLUTION_S, Row
from dpet_jax.energy.accounts.logbook import Trace
from dpet_jax.energy.accounts.quantity import Energy
from dpet_jax.energy.accounts.state import Accounts, Idle, Lost
from dpet_jax.energy.probes.source import JOULES_PER_WH, Quality, Source
from dpet_jax.energy.sensing.channel import CROSS_CHECK_S, ChannelRecord, edge_j2
from dpet_jax.energy.sensing.curve import Totals
from dpet_jax.errors import UserError
from dpet_jax.files import write_whole

SCHEMA = "dpet-jax/energy-report/1"

_KNOWN_COMPONENTS = ("gpu", "cpu", "dram", "psu", "network")
_WELL_COVERED = 0.9
_AGREEING_REL = 0.1


@dataclass(frozen=True)
class Report:
    """An energy report.

    Attributes:
        data: As it is written; docs/inside.md explains its keys.
    """

    data: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.data, indent=1, default=str) + "\n")

    def __str__(self) -> str:
        """Return the energy, or why there is none, and each phase's share."""
        energy, phases = self.data["energy"], self.data["phases"]
        rows = [f"energy: {headline(self.data)}"]
        if self.data["run_id"] is not None and not self.data["complete"]:
            rows.append("  incomplete: the run was stopped, killed, or still goes on")
        for name, phase in phases.items():
            if phase["s"] or phase["count"]:
                rows.append(f"  {name:<12}{phase['s']:10.2f} s{_phase_wh(phase)}")
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


def interval_text(interval: Sequence[float]) -> str:
    """Return an interval of Wh, as it stands behind every number of a model."""
    low, high = interval
    return f"[{low:.4g}, {high:.4g}]"


def _phase_wh(phase: dict[str, Any]) -> str:
    if phase["wh"] is None:
        return ""
    if phase["quality"] == "modelled":
        return f"   ≈ {phase['wh']:.5g} Wh {interval_text(phase['wh_k2'])}"
    return f"{phase['wh']:12.5g} Wh"


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


def report_from_journal(
    path: Path, joined: Callable[[Accounts], Accounts] = lambda own: own
) -> Report:
    """Build the report of what a journal holds, also of a run that was killed.

    Args:
        path: The energy.jsonl of a run.
        joined: Adds what others have measured at the same time.

    Raises:
        UserError: If the journal is missing, empty or damaged.
    """
    folded = journal.read(path)
    if folded.accounts is None:
        raise UserError(f"{path}: holds no energy record")
    trace = Trace()
    try:
        samples = journal.trace_of(folded)
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}; restore the file") from error
    for sample in samples:
        trace.add(*sample)
    return build_report(joined(folded.accounts), trace, complete=folded.complete)


def build_report(accounts: Accounts, trace: Trace, *, complete: bool) -> Report:
    """Turn a meter's accounts into a report.

    What only the program knows is None or empty in it: run_id, energy_to_accuracy,
    budget, proxies, carbon, and the system but for its GPUs.

    Args:
        accounts: What a meter or a journal knows.
        trace: The power over time.
        complete: Whether everything was measured to its end.
    """
    quality, seconds = accounts.quality, accounts.total_s
    # all inner edges cancel in the whole, only its own two are left
    whole = replace(sum(accounts.phases.values(), Row()), edge_j2={}, edges=0)
    real = accounts.energy(whole, "measured", edges=True, checked=True)
    guess = accounts.energy(whole, "modelled", edges=False)
    idle = _idle(accounts, trace)
    sources = [
        _source(name, channel, seconds, idle)
        for name, channel in accounts.channels.items()
    ]
    included = {accounts.channels[c].component for c in accounts.counted(quality)}
    reasons = doubts(accounts, quality, whole)
    data = {
        "schema": SCHEMA,
        "run_id": None,
        "complete": complete,
        "valid": not reasons,
        "reason_codes": reasons,
        "warnings": warnings(sources),
        "time": {
            "start_utc": accounts.start_utc,
            "end_utc": accounts.now_utc,
            "wall_s": seconds,
            "suspended_s": accounts.suspended_s,
            "segments": accounts.segments,
        },
        "boundary": {
            "included": sorted(included),
            "excluded": [c for c in _KNOWN_COMPONENTS if c not in included],
            "exclusive": exclusive(accounts),
        },
        "energy": {
            "measured_wh": real.wh,
            "measured_wh_k2": _ends(real),
            "modelled_wh": guess.wh,
            "modelled_interval_wh": _ends(guess),
            "quality": quality,
            "net_of_idle_wh": _net_wh(real, whole, idle),
            "idle": idle._asdict(),
            "lost": _lost(accounts)._asdict(),
            "by_source": sources,
            "unavailable": [entry._asdict() for entry in accounts.unavailable],
        },
        "phases": {n: _row(row, accounts, idle) for n, row in accounts.phases.items()},
        "labels": {n: _row(row, accounts, idle) for n, row in accounts.labels.items()},
        "compile_s_outside_window": sum(
            row.compile_s for name, row in accounts.phases.items() if name != "compile"
        ),
        "energy_to_accuracy": [],
        "budget": None,
        "proxies": None,
        "carbon": None,
        "system": {"gpus": _gpus(accounts)},
        "meter": {
            "version": dpet_jax.__version__,
            **({} if accounts.meter is None else accounts.meter._asdict()),
        },
        "events": list(accounts.events),
        "event_counts": accounts.event_counts,
        "power_trace": trace.bins(),
    }
    return Report(data)


def doubts(accounts: Accounts, quality: Quality, whole: Row) -> list[str]:
    """Return why the energy of a run must not be compared with that of others.

    Args:
        accounts: Those of the run.
        quality: Of its energy.
        whole: All its phases together.

    Returns:
        Codes: "modelled", "unavailable", "unmeasured" or "gap" (a tenth of the time
        was not read), "mig_parent" (of a GPU shared by instances), "foreign_process".
    """
    if quality != "measured":
        return [quality]
    found = set()
    uncovered_s = (1 - _WELL_COVERED) * whole.s
    for name in accounts.counted(quality):
        channel = accounts.channels[name]
        if channel.totals.unmeasured_s > uncovered_s:
            found.add("unmeasured")
        gap_s = whole.totals.get(name, Totals()).gap_s
        if channel.source.kind == "power" and gap_s > uncovered_s:
            found.add("gap")
        if channel.scope == "gpu_parent":
            found.add("mig_parent")
        if channel.facts.shared:
            found.add("foreign_process")
    return sorted(found)


def warnings(sources: list[dict[str, Any]]) -> list[str]:
    """Return what a reader should know of the sources of a report.

    That two of them differ, that another one had to take the place of the first, or
    that a sensor does not see all of the time and nothing that does confirms it.
    """
    found = []
    for source in sources:
        found += _aliasing(source)
        found += [
            f"{source['id']}: from {span['from_s']:.0f} s on the energy is that of "
            f"{span['method']}, since {span['why']}"
            for span in source.get("given_by", ())
            if span["why"]
        ]
        check = source["cross_check"]
        if check and abs(check["rel_diff"]) > _AGREEING_REL:
            found.append(
                f"{source['id']}: {source['method']} and {check['method']} differ by "
                f"{check['rel_diff']:+.0%}"
            )
    return found


def _aliasing(source: dict[str, Any]) -> list[str]:
    """Return a warning where fast changes of the load can be misjudged."""
    check, coverage = source["cross_check"], source.get("coverage", 1.0)
    if source["quality"] != "measured" or coverage == 1:
        return []
    if check and check["coverage"] == 1 and abs(check["rel_diff"]) <= _AGREEING_REL:
        return []
    seen = "moments of unknown length; give its sensor_window_s if you know it"
    if coverage is not None:
        seen = f"{coverage:.0%} of the time"
    return [
        f"{source['id']}: {source['method']} sees {seen}; a load that changes in step "
        "with the readings, or faster, is misjudged by more than the interval says"
    ]


def exclusive(accounts: Accounts) -> str:
    """Return whether only this program used the GPUs: "yes", "no" or "unknown"."""
    facts = [c.facts for c in accounts.channels.values() if c.component == "gpu"]
    if any(one.shared for one in facts):
        return "no"
    alone = [(one.last or {}).get("foreign_processes") is False for one in facts]
    return "yes" if alone and all(alone) else "unknown"


def _ends(energy: Energy) -> list[float] | None:
    interval = energy.interval_wh
    return None if interval is None else list(interval)


def _row(row: Row, accounts: Accounts, idle: Idle) -> dict[str, Any]:
    quality = accounts.quality
    long = 0 < row.count * CROSS_CHECK_S <= row.s
    energy = accounts.energy(row, quality, edges=False, checked=long)
    names = accounts.counted(quality)
    inclusive_j = [row.inclusive_j[c] for c in names if c in row.inclusive_j]
    return {
        "wh": energy.wh,
        "wh_k2": _ends(energy),
        "quality": energy.quality,
        "net_of_idle_wh": _net_wh(energy, row, idle),
        "s": row.s,
        "inclusive_wh": sum(inclusive_j) / JOULES_PER_WH if inclusive_j else None,
        "inclusive_s": row.inclusive_s,
        "count": row.count,
        "sync": "+".join(sorted(row.sync)) or None,
        "resolution_limited": bool(row.count and row.short_s > row.s / 2)
        or 0 < row.s < RESOLUTION_S,
        "compile_s": row.compile_s,
    }


def _source(
    name: str, channel: ChannelRecord, seconds: float, idle: Idle
) -> dict[str, Any]:
    source, totals = channel.source, channel.totals
    mean_w = totals.energy_j / seconds if seconds else 0.0
    edge = edge_j2(source, mean_w, mean_w, channel.step_j)
    known = channel.quality != "unavailable"
    return {
        "id": name,
        "component": channel.component,
        "scope": channel.scope,
        "counted": channel.counted,
        "kind": source.kind,
        "method": source.method,
        "given_by": [span._asdict() for span in channel.spans],
        "quality": channel.quality,
        "wh": totals.energy_j / JOULES_PER_WH if known else None,
        "mean_w": mean_w if known else None,
        "max_w": channel.max_w,
        "idle_w": idle.watts.get(name),
        "samples": totals.samples,
        "gap_s": totals.gap_s,
        "unmeasured_s": totals.unmeasured_s,
        "update_period_s": source.update_period_s,
        "sensor_window_s": source.sensor_window_s,
        "coverage": _coverage(source, totals.samples, seconds),
        "cross_check": _cross_check(channel, seconds),
        "events": channel.events,
        "u_gain_rel": source.rel_uncertainty,
        "u_edge_wh": 2 * math.sqrt(2 * edge) / JOULES_PER_WH,
        "step_wh": channel.step_j / JOULES_PER_WH,
        "others": [
            other.source.method
            for other in channel.sources
            if other.source.method != source.method
        ],
    }


def _coverage(source: Source, samples: int | float, seconds: float) -> float | None:
    """Return the share of the time that a sensor sees; None if that is not known."""
    if source.kind == "power" and source.sensor_window_s is None:
        return None
    return source.coverage(seconds / samples if samples else 0.0)


def _cross_check(channel: ChannelRecord, seconds: float) -> dict[str, Any] | None:
    """Compare the source that counts with the first other one that can check it."""
    energy_j = channel.totals.energy_j
    for number, (other, other_j, samples, alive, *_) in enumerate(channel.sources):
        if (
            number != channel.active
            and channel.source.quality == other.quality == "measured"
            and other.kind == "power"
            and alive
            and other_j
        ):
            return {
                "method": other.method,
                "quality": other.quality,
                "coverage": _coverage(other, samples, seconds),
                "wh": other_j / JOULES_PER_WH,
                "rel_diff": (energy_j - other_j) / other_j,
            }
    return None


def _idle(accounts: Accounts, trace: Trace) -> Idle:
    """Return the idle power; without a measurement, the least that was seen."""
    if accounts.idle is not None:
        return accounts.idle
    low = {name: trace.low_w(name) for name in accounts.channels}
    watts = {name: w for name, w in low.items() if w is not None}
    return Idle("min_observed" if watts else "none", watts)


def _net_wh(energy: Energy, row: Row, idle: Idle) -> float | None:
    if energy.wh is None or any(name not in idle.watts for name in energy.channels):
        return None
    idle_j = sum(
        idle.watts[name] * (row.s - row.totals.get(name, Totals()).unmeasured_s)
        for name in energy.channels
    )
    return energy.wh - idle_j / JOULES_PER_WH


def _lost(accounts: Accounts) -> Lost:
    if accounts.lost.s:
        return accounts.lost
    quality = accounts.quality
    return Lost(0.0, None if quality == "unavailable" else 0.0, quality)


def _gpus(accounts: Accounts) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            **(channel.facts.last or {}),
            "temperature_start_c": (channel.facts.first or {}).get("temperature_c"),
        }
        for name, channel in accounts.channels.items()
        if channel.component == "gpu"
    ]
