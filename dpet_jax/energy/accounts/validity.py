"""What keeps a measured energy from being compared with others."""

from typing import Any

from dpet_jax.energy.accounts.ledger import Row
from dpet_jax.energy.accounts.state import State, active_source, counted
from dpet_jax.energy.probes.source import Quality
from dpet_jax.energy.sensing.curve import Totals

_WELL_COVERED = 0.9
_AGREEING_REL = 0.1


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
