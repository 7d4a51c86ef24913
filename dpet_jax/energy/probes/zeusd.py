"""Zeus' daemon, asked over its socket where GPU or CPU cannot be read directly.

It runs as root and hands on the counters of NVML, AMD SMI and RAPL to everybody, which
is what a container or a user without rights lacks. The requests are those of its HTTP
reference (docs/zeusd/api.md of ml-energy/zeus).
"""

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from dpet_jax.energy.probes.source import Found, Kind, Source, Unavailable

#: Where the daemon listens unless it is told otherwise.
SOCKET = Path("/run/zeusd/zeusd.sock")
#: What Zeus itself reads to know where its daemon is, and who asks.
VARIABLE, TOKEN = "ZEUSD_SOCK_PATH", "ZEUSD_TOKEN"
POWERCAP = Path("/sys/class/powercap")

# those of the counters that the daemon hands on; see rapl.py
_REL_UNCERTAINTY = {"package": 0.05, "dram": 0.10}
_MAX_W = {"package": 1000.0, "dram": 500.0}
_TIMEOUT_S = 0.5


def place(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the daemon's socket is, if there is one."""
    return Path(environ.get(VARIABLE) or SOCKET)


def absent(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why there is nothing to ask; None if there is a socket."""
    path = place(environ)
    return None if path.exists() else f"zeusd: no socket at {path}"


def gpus(count: int | None, environ: Mapping[str, str] = os.environ) -> Found:
    """Find the GPUs that the daemon reads; nothing is raised.

    It numbers them in its own way, so that they serve only where all of them are meant.

    Args:
        count: How many this process computes on; None for all that there are.
        environ: The process environment.
    """
    daemon = _Daemon(place(environ), environ.get(TOKEN))
    try:
        known = daemon.listed("gpus", "gpu-read")
    except (OSError, ValueError) as error:
        return _none("gpu", daemon, error)
    if count is not None and count != len(known):
        why = (
            f"it reads {len(known)} GPUs, of which {count} are used here, and does not "
            "tell which"
        )
        return Found((), (_missing("gpu", why),))
    probes = [
        ZeusdProbe(
            daemon,
            f"gpu:zeusd-{gpu['id']}",
            ("gpu", "gpu"),
            _gpu_requests(gpu),
            name=str(gpu.get("name")),
        )
        for gpu in known
    ]
    if not probes:
        return Found((), (_missing("gpu", "it reads no GPU"),))
    return Found(tuple(probes), ())


def cpus(
    wanted: frozenset[str],
    environ: Mapping[str, str] = os.environ,
    powercap: Path = POWERCAP,
) -> Found:
    """Find the CPU packages and memories that the daemon reads; nothing is raised.

    Args:
        wanted: Of "cpu" and "dram" those that cannot be read directly.
        environ: The process environment.
        powercap: Where Linux names the domains, which everybody may read.
    """
    daemon = _Daemon(place(environ), environ.get(TOKEN))
    try:
        known = daemon.listed("cpus", "cpu-read")
    except (OSError, ValueError) as error:
        return _none("cpu", daemon, error)
    names = {int(cpu["id"]): _name(int(cpu["id"]), powercap) for cpu in known}
    # the daemon counts every domain of the first level, and psys holds the packages
    warnings = []
    if len(names) > 1 and None in names.values():
        warnings = ["one of the CPUs may be psys, which holds the others"]
    probes = []
    for cpu in known:
        number = int(cpu["id"])
        if (names[number] or "").startswith("psys"):
            continue
        parts = [("cpu", "package")]
        parts += [("dram", "dram")] * bool(cpu.get("dram_available"))
        probes += [
            ZeusdProbe(
                daemon,
                f"{component}:zeusd-{number}",
                (component, scope),
                (_cpu_request(number, component),),
                name=names[number] or f"package {number}",
                warnings=tuple(warnings),
            )
            for component, scope in parts
            if component in wanted
        ]
    if not probes:
        return Found((), (_missing("cpu", "it reads no CPU"),))
    return Found(tuple(probes), ())


class ZeusdProbe:
    """A component that the daemon reads; the contract is `Probe`.

    Args:
        daemon: Whom to ask.
        identity: The id of the probe.
        part: Its component and scope.
        requests: One for each source.
        name: What the daemon calls it.
        warnings: What a reader should know.
    """

    def __init__(
        self,
        daemon: "_Daemon",
        identity: str,
        part: tuple[str, str],
        requests: tuple["_Request", ...],
        *,
        name: str,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.id = identity
        self.component, self.scope = part
        self._daemon = _Daemon(daemon.path, daemon.token)
        self._requests = requests
        self._facts = {"name": name, "warnings": list(warnings)}
        self.sources: tuple[Source, ...] = tuple(
            Source(
                f"zeusd {request.path.partition('?')[0]}",
                request.kind,
                rel_uncertainty=_REL_UNCERTAINTY.get(self.scope, 0.05),
                max_w=_MAX_W.get(self.scope, 2000.0),
            )
            for request in requests
        )

    def read(self) -> tuple[float | None, ...]:
        """Ask for every source once; see `Probe`."""
        return tuple(request.answer(self._daemon) for request in self._requests)

    def facts(self) -> dict[str, Any]:
        """Return the name; who else uses it the daemon does not tell."""
        return {**self._facts, "shared": self.scope, "foreign_processes": None}

    def close(self) -> None:
        """Hang up."""
        self._daemon.close()


class _Request:
    """What to ask for, and where the number stands in the answer."""

    def __init__(
        self, path: str, kind: Kind, keys: tuple[str, ...], factor: float
    ) -> None:
        self.path, self.kind = path, kind
        self._keys, self._factor = keys, factor

    def answer(self, daemon: "_Daemon") -> float | None:
        """Return joules or watts; None where the daemon gives no such number."""
        try:
            found = daemon.get(self.path)
            for key in self._keys:
                found = found[key]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or found < 0:
            return None
        return found * self._factor


def _gpu_requests(gpu: Mapping[str, Any]) -> tuple[_Request, ...]:
    number = str(gpu["id"])
    power = _Request(
        f"/gpu/get_power?gpu_ids={number}", "power", ("power_mw", number), 1e-3
    )
    if not gpu.get("cumulative_energy_available", True):
        return (power,)
    path = f"/gpu/get_cumulative_energy?gpu_ids={number}"
    return (_Request(path, "counter", (number, "energy_mj"), 1e-3), power)


def _cpu_request(number: int, component: str) -> _Request:
    of_cpu = str(component == "cpu").lower()
    of_dram = str(component == "dram").lower()
    path = f"/cpu/get_cumulative_energy?cpu_ids={number}&cpu={of_cpu}&dram={of_dram}"
    return _Request(path, "counter", (str(number), f"{component}_energy_uj"), 1e-6)


def _name(number: int, powercap: Path) -> str | None:
    try:
        path = powercap / f"intel-rapl:{number}" / "name"
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


class _Daemon:
    """A connection to the daemon, opened when something is asked for."""

    def __init__(self, path: Path, token: str | None) -> None:
        self.path, self.token = path, token
        self._connection: Any = None

    def get(self, path: str) -> Any:
        """Return the answer to a request.

        Raises:
            OSError: If nobody answers, or not in time.
            ValueError: If the answer is a refusal, or no JSON.
        """
        # imported by those who have a daemon alone
        from http.client import HTTPConnection, HTTPException

        try:
            if self._connection is None:
                self._connection = HTTPConnection("localhost", timeout=_TIMEOUT_S)
                self._connection.sock = self._socket()
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            self._connection.request("GET", path, headers=headers)
            response = self._connection.getresponse()
            body = response.read()
            if response.will_close:
                self.close()
        except (OSError, HTTPException) as error:
            self.close()
            if isinstance(error, OSError):
                raise
            raise ValueError(f"it breaks off: {error!r}") from error
        if response.status != HTTPStatus.OK:
            text = body.decode(errors="replace").strip()
            raise ValueError(f"it refuses {path}: {response.status} {text}".strip())
        return json.loads(body)

    def listed(self, what: str, group: str) -> list[dict[str, Any]]:
        """Return the devices that the daemon reads and lets us read.

        Raises:
            OSError: If nobody answers.
            ValueError: If it does not let us, or answers something else.
        """
        try:
            found = self.get("/discover")
            if group not in found["enabled_api_groups"]:
                raise ValueError(f"it was started without --enable {group}")
            if found.get("auth_required") and not self.token:
                raise ValueError(f"it asks who we are: set {TOKEN}")
            return [dict(one) for one in found[what] if int(one["id"]) >= 0]
        except (KeyError, TypeError) as error:
            raise ValueError(f"its answer to /discover lacks {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Hang up; the next request connects again."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _socket(self) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(_TIMEOUT_S)
            opened.connect(str(self.path))
        except BaseException:
            opened.close()
            raise
        return opened


def _none(component: str, daemon: _Daemon, error: OSError | ValueError) -> Found:
    why = str(error)
    if isinstance(error, OSError):
        why = f"{error.strerror or error} ({daemon.path})".lower()
    return Found((), (_missing(component, why),))


def _missing(component: str, why: str) -> Unavailable:
    remedy = "see zeusd's log; its socket needs --socket-permissions 666"
    return Unavailable(component, f"zeusd: {why}", remedy)
