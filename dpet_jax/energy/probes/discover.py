"""Find what can be measured here for this process, and why the rest cannot."""

from collections.abc import Sequence
from typing import Any, Literal

from dpet_jax.energy.probes import rapl
from dpet_jax.energy.probes.cpu_model import CpuPowerModel
from dpet_jax.energy.probes.nvml import probe as nvml
from dpet_jax.energy.probes.source import Found, Probe, Unavailable

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
            cpu = rapl.find()
        except BaseException:  # Ctrl-C: nobody else can release what was found
            for part in found:
                for probe in part.probes:
                    probe.close()
            raise
        if cpu_model is not None and not cpu.probes:
            cpu = Found((cpu_model,), cpu.unavailable)
        found.append(cpu)
    probes = [probe for part in found for probe in part.probes]
    probes += meters
    unavailable = [entry for part in found for entry in part.unavailable]
    return Found(tuple(probes), tuple(unavailable))


def _gpus(devices: Sequence[Any] | None, include: str) -> Found:
    if devices is None or include == "visible":
        return nvml.find()
    used = [d.local_hardware_id for d in devices if d.platform in ("gpu", "cuda")]
    if used:
        return nvml.find(used)
    present = nvml.find()
    drivers = [str(probe.facts().get("driver")) for probe in present.probes]
    for probe in present.probes:
        probe.close()
    if not present.probes:
        return present
    reason = f"{len(present.probes)} found, but JAX does not compute on them"
    remedy = (
        f"install dpet-jax[{fitting_extra(drivers[0])}], or count them with "
        "energy.include: visible"
    )
    return Found((), (Unavailable("gpu", reason, remedy),))


def fitting_extra(driver: str) -> str:
    """Return the extra of this package that fits an NVIDIA driver.

    Args:
        driver: Its version, such as "580.65.06". CUDA 13 needs 580 or newer.
    """
    major = driver.partition(".")[0]
    return "cuda13" if major.isdigit() and int(major) >= 580 else "cuda12"


def _others(devices: Sequence[Any]) -> list[Found]:
    platforms = dict.fromkeys(d.platform for d in devices)
    unknown = [p for p in platforms if p not in ("cpu", "gpu", "cuda")]
    return [
        Found(
            (),
            (Unavailable(p, "it publishes neither power nor energy", _OWN_METER),),
        )
        for p in unknown
    ]
