"""What a run computes on and with, and what can be measured there."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import dpet_jax
from dpet_jax.energy import Probe, discover


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
    )
    ours = {"python": platform.python_version(), "dpet-jax": dpet_jax.__version__}
    return ours | {package: version(package) for package in packages}


def device_facts() -> dict[str, Any]:
    """Return what the run computes on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.local_device_count(),
        "cpu_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "machine": platform.machine(),
        "os": platform.system(),
    }


def findings(cache: Path | None) -> Iterator[tuple[str, str]]:
    """Yield a name and a finding each.

    Args:
        cache: Where compiled programs are kept, or None.
    """
    for device in jax.local_devices():
        yield "device", f"{device.platform} {device.id}: {device.device_kind}"
    yield "cpu cores", str(len(os.sched_getaffinity(0)))
    yield from versions().items()
    yield "compile cache", _cache(cache)
    yield "seconds", "measured: monotonic clock, by phase"
    found = discover(jax.local_devices())
    for probe in found.probes:
        yield _name(probe.component), _sources(probe)
        probe.close()
    for component, reason, remedy in found.unavailable:
        yield _name(component), f"not measurable: {reason}; {remedy}"
    yield "other meters", "none by itself; give a CallableProbe to experiment.run"


def _name(component: str) -> str:
    known = component in ("gpu", "cpu", "dram", "tpu")
    return f"{component.upper() if known else component} energy"


def _cache(cache: Path | None) -> str:
    if cache is None:
        return "off (JAX_COMPILATION_CACHE_DIR is empty)"
    parent = next(path for path in (cache, *cache.parents) if path.exists())
    state = "writable" if os.access(parent, os.W_OK) else "NOT writable"
    return f"{cache} ({state}; set JAX_COMPILATION_CACHE_DIR to move it)"


def _sources(probe: Probe) -> str:
    first, *others = probe.sources
    text = f"measured: {probe.id} by {first.method} ({first.kind})"
    if others:
        text += f", checked by {', '.join(other.method for other in others)}"
    facts = probe.facts()
    if facts.get("foreign_processes"):
        text += "; ANOTHER PROCESS computes on it"
    warnings = facts.get("warnings") or ()
    return "; ".join([text, *warnings])
