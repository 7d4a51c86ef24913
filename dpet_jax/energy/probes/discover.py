"""Find what can be measured here for this process, and why the rest cannot."""

from collections.abc import Sequence
from typing import Any, Literal

from dpet_jax.energy.probes import amd, apple, rapl, zeusd
from dpet_jax.energy.probes.cpu_model import CpuPowerModel
from dpet_jax.energy.probes.nvml import probe as nvml
from dpet_jax.energy.probes.source import Found, Probe, Unavailable

_GPU_PLATFORMS = ("gpu", "cuda", "rocm")
_OWN_METER = "give a CallableProbe that reads the power some other way"


def discover(
    devices: Sequence[Any] | None = None,
    *,
    meters: Sequence[Probe] = (),
    cpu_model: CpuPowerModel | None = None,
    host: bool = True,
    include: Literal["used", "visible"] = "used",
) -> Found:
    """Look for sensors.

    Args:
        devices: The JAX devices that this process computes on; None for every GPU that
            CUDA shows to it.
        meters: Meters of the user's own.
        cpu_model: A model to use for the CPU where its counters cannot be read.
        host: Whether to measure CPU and memory, which processes of one machine share;
            exactly one of them should.
        include: "visible" adds GPUs that the process holds but does not compute on.

    Returns:
        The probes, and what is not available, each with reason and remedy.
    """
    found = [_gpus(devices, include), *_others(devices or ())]
    if host:
        try:
            cpu = _host()
        except BaseException:  # Ctrl-C: nobody else can release what was found
            for part in found:
                for probe in part.probes:
                    probe.close()
            raise
        if cpu_model is not None and not any(_is_measured(p) for p in cpu.probes):
            _close(cpu)
            cpu = Found((cpu_model,), cpu.unavailable)
        found.append(cpu)
    probes = [probe for part in found for probe in part.probes]
    probes += meters
    unavailable = [entry for part in found for entry in part.unavailable]
    return Found(tuple(probes), tuple(unavailable))


def absent_tools() -> tuple[str, ...]:
    """Return why the tools of others are not asked, one sentence each."""
    reasons = (tool.absent() for tool in (amd, apple, zeusd))
    return tuple(reason for reason in reasons if reason is not None)


def _gpus(devices: Sequence[Any] | None, include: str) -> Found:
    if devices is None or include == "visible":
        return _found_gpus(None)
    used = [d.local_hardware_id for d in devices if d.platform in _GPU_PLATFORMS]
    if used:
        return _found_gpus(used)
    present = nvml.find()
    drivers = [str(probe.facts().get("driver")) for probe in present.probes]
    _close(present)
    if not present.probes:
        return present
    reason = f"{len(present.probes)} found, but JAX does not compute on them"
    remedy = (
        f"install dpet-jax[{fitting_extra(drivers[0])}], or count them with "
        "energy.include: visible"
    )
    return Found((), (Unavailable("gpu", reason, remedy),))


def _found_gpus(used: list[int] | None) -> Found:
    """Ask NVIDIA's library first, and others only where that reads no GPU."""
    found = nvml.find(used)
    refused: tuple[Unavailable, ...] = ()
    if not found.probes and amd.absent() is None:
        theirs = amd.find(used)
        if theirs.probes:
            return theirs
        refused = theirs.unavailable
    if not found.probes and zeusd.absent() is None:
        theirs = zeusd.gpus(None if used is None else len(used))
        if theirs.probes:
            return theirs
        refused += theirs.unavailable
    return Found(found.probes, (*found.unavailable, *refused))


def _host() -> Found:
    """Ask for CPU and memory directly, and others only for what that cannot read."""
    found = rapl.find()
    if not found.probes and apple.absent() is None:
        return apple.find()
    missing = frozenset({"cpu", "dram"} - {p.component for p in found.probes})
    # psys holds the memory
    if "psys" in {probe.scope for probe in found.probes}:
        missing = frozenset()
    if not missing or zeusd.absent() is not None:
        return found
    try:
        theirs = zeusd.cpus(missing)
    except BaseException:  # Ctrl-C: nobody else can release what was found
        _close(found)
        raise
    told = {probe.component for probe in theirs.probes}
    refused = () if found.probes else theirs.unavailable
    return Found(
        (*found.probes, *theirs.probes),
        (*(e for e in found.unavailable if e.component not in told), *refused),
    )


def _is_measured(probe: Probe) -> bool:
    return probe.sources[0].quality == "measured"


def _close(found: Found) -> None:
    for probe in found.probes:
        probe.close()


def fitting_extra(driver: str) -> str:
    """Return the extra of this package that fits an NVIDIA driver.

    Args:
        driver: Its version, such as "580.65.06". CUDA 13 needs 580 or newer.
    """
    major = driver.partition(".")[0]
    return "cuda13" if major.isdigit() and int(major) >= 580 else "cuda12"


def _others(devices: Sequence[Any]) -> list[Found]:
    platforms = dict.fromkeys(d.platform for d in devices)
    known = ["cpu", *_GPU_PLATFORMS]
    if apple.absent() is None:  # its GPU is found with the rest of the chip
        known.append("metal")
    unknown = [p for p in platforms if p.lower() not in known]
    return [
        Found(
            (),
            (Unavailable(p, "it publishes neither power nor energy", _OWN_METER),),
        )
        for p in unknown
    ]
