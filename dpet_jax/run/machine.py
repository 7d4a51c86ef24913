"""What a run computes on and with."""

import os
import platform
from importlib.metadata import version
from typing import Any

import jax

import dpet_jax


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
