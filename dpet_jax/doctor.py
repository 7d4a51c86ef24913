"""What this machine has: devices, versions, caches, and what can be measured on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pynvml

from dpet_jax.machine import versions

_POWERCAP = Path("/sys/class/powercap")


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
    yield "GPU energy", _nvml()
    yield "CPU energy", _powercap()


def _cache(cache: Path | None) -> str:
    if cache is None:
        return "off (JAX_COMPILATION_CACHE_DIR is empty)"
    parent = next(path for path in (cache, *cache.parents) if path.exists())
    state = "writable" if os.access(parent, os.W_OK) else "NOT writable"
    return f"{cache} ({state}; set JAX_COMPILATION_CACHE_DIR to move it)"


def _nvml() -> str:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"not found: {error}; install the NVIDIA driver to measure GPUs"
    try:
        return f"found: NVML sees {pynvml.nvmlDeviceGetCount()} device(s)"
    finally:
        pynvml.nvmlShutdown()


def _powercap() -> str:
    counters = sorted(_POWERCAP.glob("*/energy_uj"))
    if not counters:
        return f"not found: {_POWERCAP} has no energy counters on this machine"
    if not os.access(counters[0], os.R_OK):
        return f"found but not readable: {counters[0]}; run chmod a+r on it as root"
    return f"found: {len(counters)} RAPL counter(s)"
