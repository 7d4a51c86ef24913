"""What a run computes on and with, and what can be measured there."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import dpet_jax
from dpet_jax.config.load import changed
from dpet_jax.energy import Probe, absent_tools, discover

#: What JAX and its compilers are told outside a config, and results may depend on.
_SETTINGS = (
    "jax_default_matmul_precision",
    "jax_random_seed_offset",
    "jax_exec_time_optimization_effort",
)
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "NPROC")

#: The shortest compilation whose program JAX keeps, in seconds, and its default.
_KEPT_FROM, _JAX_KEEPS_FROM_S = "jax_persistent_cache_min_compile_time_secs", 1.0
#: Lines for a config, which is refused until their blanks are filled.
_CPU_MODEL = """energy:
  allow_modelled: true
  cpu_model: {idle_w: , max_w: , source: }"""


@contextmanager
def pinned() -> Iterator[None]:
    """Let JAX compute with one set of types and random numbers, whatever is set.

    Environment variables such as JAX_ENABLE_X64, and a user's program, set them for the
    process; the same config would mean another run.
    """
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def use_compilation_cache() -> Path | None:
    """Let JAX keep compiled programs between processes, unless a place is set already.

    Those that take a tenth of a second to compile are kept, unless the shortest time is
    set, too.

    Returns:
        The folder, or None if the cache is switched off.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is None:
        chosen = jax.config.values.get("jax_compilation_cache_dir")
    if chosen is None:
        base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        chosen = str(Path(base) / "dpet_jax" / "xla")
        jax.config.update("jax_compilation_cache_dir", chosen)
    if jax.config.values[_KEPT_FROM] == _JAX_KEEPS_FROM_S:
        jax.config.update(_KEPT_FROM, 0.1)
    return Path(chosen) if chosen else None


def environment() -> dict[str, dict[str, Any]]:
    """Return versions, device and settings, on which a result depends too."""
    settings = {
        name: value
        for name, value in jax.config.values.items()
        if name in _SETTINGS and value
    } | {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {"versions": versions(), "device": device_facts(), "settings": settings}


def differences(before: dict[str, Any], now: dict[str, dict[str, Any]]) -> list[str]:
    """Return what differs between two environments, a text each.

    Args:
        before: An environment; parts that it lacks are not compared.
        now: Another.
    """
    parts = [part for part in now if isinstance(before.get(part), dict)]
    old, new = ({part: one[part] for part in parts} for one in (before, now))
    return [f"{key} was {was}, is now {now}" for key, was, now in changed(old, new)]


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
        "count": jax.device_count(),
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
    yield "cpu cores", str(device_facts()["cpu_cores"])
    yield from versions().items()
    yield "compile cache", _cache(cache)
    yield "seconds", "measured: monotonic clock, by phase"
    found = discover(jax.local_devices())
    for probe in found.probes:
        yield _name(probe.component), _sources(probe)
        probe.close()
    for component, reason, remedy in found.unavailable:
        yield _name(component), f"not measurable: {reason}; {remedy}"
    if not any(_tells_cpu(probe) for probe in found.probes):
        yield (
            "CPU model",
            f"with your watts and their source, in a config:\n{_CPU_MODEL}",
        )
    if absent := absent_tools():
        yield "not asked", "; ".join(absent)
    yield "other meters", "none by itself; give a CallableProbe to experiment.run"


def _name(component: str) -> str:
    known = component in ("gpu", "cpu", "dram", "tpu")
    return f"{component.upper() if known else component} energy"


def _tells_cpu(probe: Probe) -> bool:
    """Whether a sensor's energy is that of the CPU, or holds it."""
    of_cpu = probe.component == "cpu" or probe.scope in ("node", "module", "psys")
    return of_cpu and probe.sources[0].quality == "measured"


def _cache(cache: Path | None) -> str:
    if cache is None:
        return "off (JAX_COMPILATION_CACHE_DIR is empty)"
    parent = next(path for path in (cache, *cache.parents) if path.exists())
    state = "writable" if os.access(parent, os.W_OK) else "NOT writable"
    return f"{cache} ({state}; set JAX_COMPILATION_CACHE_DIR to move it)"


def _sources(probe: Probe) -> str:
    first, *others = probe.sources
    text = f"{first.quality}: {probe.id} by {first.method} ({first.kind})"
    if first.quality == "modelled":
        text += f", give or take {first.rel_uncertainty:.0%}"
    if others:
        text += f", checked by {', '.join(other.method for other in others)}"
    facts = probe.facts()
    if facts.get("foreign_processes"):
        text += "; ANOTHER PROCESS computes on it"
    warnings = facts.get("warnings") or ()
    return "; ".join([text, *warnings])
