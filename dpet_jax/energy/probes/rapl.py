"""CPU packages and their memory, from the counters that Linux shows in powercap.

Intel and AMD both appear as `intel-rapl`. `core` and `uncore` lie inside a package and
are never added to it; `dram` lies beside it.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Found, Source, Unavailable

ROOT = Path("/sys/class/powercap")
METHOD = "RAPL powercap energy_uj"

# DRAM is modelled on desktop parts, and nothing in sysfs shows which part this is.
_REL_UNCERTAINTY = {"package": 0.05, "psys": 0.05, "dram": 0.10}
# Above what one socket, its memory or one machine without accelerators can draw.
_MAX_W = {"package": 1000.0, "psys": 2000.0, "dram": 500.0}
_UPDATE_PERIOD_S = 0.001
_ZONE = re.compile(r"(intel-rapl(?:-mmio)?):(\d+)(?::(\d+))?")

_ABSENT_REMEDY = (
    "run on the host itself, load the driver (as root: modprobe intel_rapl_msr), or "
    "name a meter or a model of the CPU"
)
_DENIED_REMEDY = (
    "as root, give your group the counters: chgrp -L GROUP {root}/*/energy_uj and "
    "chmod g+r {root}/*/energy_uj (until the next boot; a udev rule keeps it)"
)
_NO_DRAM = Unavailable(
    "dram",
    "powercap: this CPU counts no energy of its memory",
    "name a meter of the whole node",
)


class _Zone(NamedTuple):
    path: Path
    control: str
    number: int
    sub_number: int | None
    name: str

    def lies_in(self, other: "_Zone") -> bool:
        within = (self.control, self.number) == (other.control, other.number)
        return within and self.sub_number is not None


class RaplProbe:
    """One RAPL domain: joules since an unknown moment, starting again at its range.

    A package is always shared with the system and with other people's processes, and
    RAPL does not separate them: `facts` says so under "shared", and leaves open who
    they are.

    Args:
        path: The zone's folder, holding `energy_uj`.
        name: The domain's, such as "package-0".
        scope: "package", "dram" or "psys".
        identity: The id of the probe.

    Raises:
        OSError: If the counter cannot be read.
        ValueError: If it holds no number.
    """

    def __init__(self, path: Path, name: str, scope: str, identity: str) -> None:
        self.id = identity
        self.component = "dram" if scope == "dram" else "cpu"
        self.scope = scope
        self._name = name
        self._path = path / "energy_uj"
        self._file: int | None = None
        self._closed = False
        self.sources: tuple[Source, ...] = (
            Source(
                METHOD,
                "counter",
                rel_uncertainty=_REL_UNCERTAINTY[scope],
                update_period_s=_UPDATE_PERIOD_S,
                wrap_j=_range_j(path / "max_energy_range_uj"),
                max_w=_MAX_W[scope],
            ),
        )
        try:
            self._ask()
        except BaseException:
            self._let_go()
            raise

    def read(self) -> tuple[float | None, ...]:
        """Return the joules counted so far, or None if the file holds no number."""
        for _ in range(2):
            try:
                return (self._ask(),)
            except (OSError, ValueError):
                self._let_go()
        return (None,)

    def facts(self) -> dict[str, Any]:
        """Return the domain's name, where it is, its range, and who shares it."""
        return {
            "name": self._name,
            "path": str(self._path),
            "max_range_j": self.sources[0].wrap_j,
            "shared": self.scope,
            "foreign_processes": None,
        }

    def close(self) -> None:
        """Close the file; readings after that are None."""
        self._closed = True
        self._let_go()

    def _ask(self) -> float:
        if self._closed:
            raise ValueError(f"{self.id} is closed")
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        microjoules = int(os.pread(self._file, 32, 0))
        if microjoules < 0:
            raise ValueError(f"{self._path} holds {microjoules}")
        return microjoules / 1e6

    def _let_go(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def find(root: Path = ROOT) -> Found:
    """Look for the domains that together make up the CPUs, each counted once.

    Every package counts, with every `dram` inside. The MMIO nodes repeat the counters
    of the MSR nodes, so they count only where there is no MSR package. `psys` contains
    the packages, so it counts only where there is none at all.

    Args:
        root: The folder with a link to every zone.

    Returns:
        A probe per domain, and what is missing or forbidden with the reason.
    """
    zones = _zones(root)
    packages = _packages(zones)
    chosen: list[tuple[_Zone, str, str]] = []
    for package in packages:
        chosen.append((package, "package", f"cpu:{package.name}"))
        chosen += [
            (zone, "dram", f"dram:{package.name}")
            for zone in zones
            if zone.name == "dram" and zone.lies_in(package)
        ]
    if not packages:
        chosen = [(zone, "psys", f"cpu:{zone.name}") for zone in _psys(zones)]
    if not chosen:
        reason = (
            f"powercap: no RAPL domain under {root}; a virtual machine or container "
            "hides it, or its driver is not loaded"
        )
        return Found((), (Unavailable("cpu", reason, _ABSENT_REMEDY),))

    probes: list[RaplProbe] = []
    missing: dict[str, Unavailable] = {}
    taken: set[str] = set()
    for zone, scope, wanted in chosen:
        identity = wanted if wanted not in taken else f"{wanted}@{zone.path.name}"
        taken.add(identity)
        try:
            probes.append(RaplProbe(zone.path, zone.name, scope, identity))
        except (OSError, ValueError) as error:
            component = "dram" if scope == "dram" else "cpu"
            problem = _problem(component, zone.path / "energy_uj", error, root)
            missing.setdefault(component, problem)
    unavailable = list(missing.values())
    if packages and all(scope != "dram" for _, scope, _ in chosen):
        unavailable.append(_NO_DRAM)
    return Found(tuple(probes), tuple(unavailable))


def _zones(root: Path) -> list[_Zone]:
    zones = []
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            match = _ZONE.fullmatch(path.name)
            if match is None:
                continue
            with contextlib.suppress(OSError):
                name = (path / "name").read_text(encoding="utf-8").strip()
                control, number, sub = match.groups()
                sub_number = None if sub is None else int(sub)
                zones.append(_Zone(path, control, int(number), sub_number, name))
    return sorted(zones, key=lambda zone: (zone.control, zone.number, str(zone.path)))


def _packages(zones: list[_Zone]) -> list[_Zone]:
    for control in ("intel-rapl", "intel-rapl-mmio"):
        packages = [
            zone
            for zone in zones
            if zone.control == control
            and zone.sub_number is None
            and not zone.name.startswith("psys")
        ]
        if packages:
            return packages
    return []


def _psys(zones: list[_Zone]) -> list[_Zone]:
    # On several sockets the kernel calls them "psys", "psys-1" and so on.
    return [
        zone
        for zone in zones
        if zone.control == "intel-rapl" and zone.name.startswith("psys")
    ]


def _problem(
    component: str, path: Path, error: OSError | ValueError, root: Path
) -> Unavailable:
    if isinstance(error, PermissionError):
        return Unavailable(
            component,
            f"powercap: permission denied ({path})",
            _DENIED_REMEDY.format(root=root),
        )
    why = error.strerror if isinstance(error, OSError) else "it holds no number"
    return Unavailable(
        component,
        f"powercap: cannot read {path} ({why})",
        f"see what `cat {path}` says as root",
    )


def _range_j(path: Path) -> float | None:
    try:
        microjoules = int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return microjoules / 1e6 if microjoules > 0 else None
