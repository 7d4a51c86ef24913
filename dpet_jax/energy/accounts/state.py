"""What a meter knows, as plain values: kept in checkpoints, journals and reports."""

import time
from dataclasses import fields
from typing import Any

from dpet_jax.energy.accounts.ledger import PHASES, Row
from dpet_jax.energy.probes.source import JOULES_PER_WH, Quality, Source
from dpet_jax.energy.sensing.curve import Totals

SCHEMA = "dpet-jax/meter-state/1"
State = dict[str, Any]


def utc_now() -> str:
    """Return the time of day in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def suspended_s() -> float:
    """Return how long this machine has slept since it was started, if it tells."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(
        time.CLOCK_MONOTONIC
    )


def empty_state() -> State:
    """Return the state of a run that has not begun."""
    return {
        "schema": SCHEMA,
        "segments": 0,
        "start_utc": None,
        "now_utc": None,
        "suspended_s": 0.0,
        "phases": {phase: Row().to_json() for phase in PHASES},
        "labels": {},
        "channels": {},
        "unavailable": [],
        "events": {},
        "event_counts": {},
        "idle": None,
        "meter": {},
        "lost": {"s": 0.0, "wh": None, "quality": "unavailable"},
    }


def combine(earlier: State, present: State) -> State:
    """Return the state of a run of which one part came before the other."""
    events = [*earlier["events"].values(), *present["events"].values()]
    return {
        "schema": SCHEMA,
        "segments": earlier["segments"] + present["segments"],
        "start_utc": earlier["start_utc"] or present["start_utc"],
        "now_utc": present["now_utc"],
        "suspended_s": earlier["suspended_s"] + present["suspended_s"],
        "phases": _add_rows(earlier["phases"], present["phases"]),
        "labels": _add_rows(earlier["labels"], present["labels"]),
        "channels": _add_channels(earlier, present),
        "unavailable": present["unavailable"],
        "events": {str(number): event for number, event in enumerate(events)},
        "event_counts": _add(earlier["event_counts"], present["event_counts"]),
        "idle": present["idle"] or earlier["idle"],
        "meter": present["meter"]
        | {
            key: earlier["meter"].get(key, 0) + present["meter"][key]
            for key in ("ticks", "missed_ticks", "cpu_s")
        },
        "lost": earlier["lost"],
    }


def quality_of(state: State) -> Quality:
    """Return the best quality that counts: measured, modelled or unavailable."""
    qualities = {
        channel["sources"][channel["active"]]["quality"]
        for channel in state["channels"].values()
        if channel["counted"]
    }
    if "measured" in qualities:
        return "measured"
    return "modelled" if "modelled" in qualities else "unavailable"


def counted(state: State, quality: Quality) -> list[str]:
    """Return the channels that add up to the energy of one quality."""
    return [
        name
        for name, channel in state["channels"].items()
        if channel["counted"]
        and channel["sources"][channel["active"]]["quality"] == quality
    ]


def active_source(channel: State) -> Source:
    """Return the source of a channel that counts."""
    plain = channel["sources"][channel["active"]]
    return Source(**{field.name: plain[field.name] for field in fields(Source)})


def seconds_by_phase(state: State) -> dict[str, float]:
    """Return the seconds of every phase."""
    return {name: row["s"] for name, row in state["phases"].items()}


def wh_of(phases: State, channels: list[str]) -> dict[str, float]:
    """Return the gross Wh of every phase, of some channels together."""
    return {
        name: sum(
            Totals(*row["totals"][channel]).energy_j
            for channel in channels
            if channel in row["totals"]
        )
        / JOULES_PER_WH
        for name, row in phases.items()
    }


def wh_by_phase(state: State) -> dict[str, float] | None:
    """Return the gross Wh of every phase in the best quality; None if unavailable."""
    quality = quality_of(state)
    if quality == "unavailable":
        return None
    return wh_of(state["phases"], counted(state, quality))


def losing(kept: State, crashed: State) -> State:
    """Return the kept state with all that came after it in a crashed one as lost.

    Args:
        kept: What a checkpoint held, or `empty_state()`.
        crashed: The last that is known of the segment that crashed.
    """
    quality = quality_of(crashed)
    names = counted(crashed, quality)
    lost_s = sum(seconds_by_phase(crashed).values())
    lost_s -= sum(seconds_by_phase(kept).values())
    lost_wh = None
    if quality != "unavailable":
        lost_wh = crashed["lost"]["wh"] or 0.0
        lost_wh += sum(wh_of(crashed["phases"], names).values())
        lost_wh -= sum(wh_of(kept["phases"], names).values())
    return kept | {
        "segments": crashed["segments"],
        "start_utc": crashed["start_utc"],
        "lost": {
            "s": crashed["lost"]["s"] + lost_s,
            "wh": lost_wh,
            "quality": quality,
        },
    }


def _add_rows(earlier: State, present: State) -> State:
    rows = {name: Row.from_json(row) for name, row in earlier.items()}
    for name, row in present.items():
        rows.setdefault(name, Row()).add(Row.from_json(row))
    return {name: row.to_json() for name, row in rows.items()}


def _add_channels(earlier: State, present: State) -> State:
    channels = {}
    for name in {**earlier["channels"], **present["channels"]}:
        before, now = earlier["channels"].get(name), present["channels"].get(name)
        if before is None:
            channels[name] = _without_readings(now, earlier)
        elif now is None:
            channels[name] = _without_readings(before, present)
        else:
            channels[name] = _add_channel(before, now)
    return channels


def _without_readings(channel: State, part: State) -> State:
    """Return a channel of which one part of the run had no readings at all."""
    silent_s = sum(seconds_by_phase(part).values())
    return channel | {"totals": _add(channel["totals"], {"unmeasured_s": silent_s})}


def _add_channel(before: State, now: State) -> State:
    # a driver that was changed in between may offer other sources
    same = [source["method"] for source in before["sources"]] == [
        source["method"] for source in now["sources"]
    ]
    sources = [
        new | {key: old[key] + new[key] for key in ("energy_j", "samples")}
        for old, new in zip(before["sources"], now["sources"], strict=False)
    ]
    first = before["facts"].get("first", now["facts"].get("first"))
    shared = before["facts"].get("shared") or now["facts"].get("shared")
    return now | {
        "sources": sources if same else now["sources"],
        "totals": _add(before["totals"], now["totals"]),
        "events": _add(before["events"], now["events"]),
        "max_w": max(before["max_w"] or 0.0, now["max_w"] or 0.0) or None,
        "facts": now["facts"] | {"first": first, "shared": shared},
    }


def _add(earlier: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    return {
        key: earlier.get(key, 0) + present.get(key, 0) for key in {**earlier, **present}
    }
