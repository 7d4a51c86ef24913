"""Apple's chips, through the package zeus-apple-silicon where that is installed.

What macOS counts are estimates from load, clock and voltage, and nobody has published
how far they are off: the makers of the package and Apple's own manual both say that
they may be inaccurate. So they are a model's numbers here, and never measured ones.
"""

import importlib
import importlib.util
import sys
from typing import Any

from dpet_jax.energy.probes.source import Found, Source, Unavailable

MODULE = "zeus_apple_silicon"
METHOD = "IOReport energy model"

#: An assumption, for want of any figure: from nothing to twice as much.
_REL_ASSUMED = 1.0
_REMEDY = "see what the package's examples/python/check_compatibility.py says"
#: The key of a number in mJ, what it counts, and its scope. That of the memory of a
#: GPU is left out, for it is not told whether the GPU's holds it.
_PARTS = (
    ("cpu_total_mj", "cpu", "package"),
    ("gpu_mj", "gpu", "gpu"),
    ("dram_mj", "dram", "dram"),
    ("ane_mj", "ane", "ane"),
)


def absent() -> str | None:
    """Return why there is nothing to ask, without importing it; None if there is."""
    if sys.platform != "darwin":
        return "apple: this is not macOS"
    if importlib.util.find_spec(MODULE) is None:
        return "apple: the Python module is missing (pip install zeus-apple-silicon)"
    return None


def find(package: Any = None) -> Found:
    """Find what the chip counts; nothing is raised.

    Args:
        package: The module `zeus_apple_silicon`; None imports it.
    """
    try:
        package = importlib.import_module(MODULE) if package is None else package
        monitor = package.AppleEnergyMonitor()
        counts = monitor.get_cumulative_energy()
    except Exception as error:  # of a chip that the package does not know
        why = f"apple: nothing can be read ({type(error).__name__}: {error})"
        return Found((), (Unavailable("cpu", why, _REMEDY),))
    known = [part for part in _PARTS if getattr(counts, part[0], None) is not None]
    if not known:
        why = "apple: this chip counts neither its CPU nor its GPU"
        return Found((), (Unavailable("cpu", why, _REMEDY),))
    return Found(tuple(AppleProbe(monitor, *part) for part in known), ())


class AppleProbe:
    """A part of an Apple chip, whose energy macOS estimates.

    Args:
        monitor: An AppleEnergyMonitor, which all parts share.
        key: Of its number, in mJ.
        component: What it is.
        scope: What its number covers.
    """

    def __init__(self, monitor: Any, key: str, component: str, scope: str) -> None:
        self.id = f"{component}:apple"
        self.component = component
        self.scope = scope
        self._monitor, self._key = monitor, key
        self.sources: tuple[Source, ...] = (
            Source(METHOD, "counter", rel_uncertainty=_REL_ASSUMED, quality="modelled"),
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the joules since some moment; None where the chip tells none."""
        millijoules = getattr(self._monitor.get_cumulative_energy(), self._key)
        return (None if millijoules is None else millijoules / 1000,)

    def facts(self) -> dict[str, Any]:
        """Return what the part is; who else uses it is not known."""
        return {"name": self._key, "shared": self.scope, "foreign_processes": None}

    def close(self) -> None:
        """Do nothing: the monitor ends with its last reader."""
