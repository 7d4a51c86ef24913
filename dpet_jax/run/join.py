"""Joining the processes of a run: who they are, and JAX told of all their devices."""

import atexit
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax._src.clusters import ClusterEnv

from dpet_jax.errors import UserError
from dpet_jax.run.machine import versions
from dpet_jax.run.team import WITHIN_S, Member, Team, meet

#: In place of an address: what the cluster's scheduler says.
AUTO = "auto"
#: JAX aborts a process that loses its coordinator; by then this program has left.
_HEARTBEAT_S = 100
_SHUTDOWN_S = 60
_BYTES = 2**16


class _Place(NamedTuple):
    address: str
    size: int
    number: int
    devices: list[int] | None


def join(coordinator: str, processes: int | None, process: int | None) -> Team:
    """Join the other processes of a run; JAX must not have computed anything yet.

    Args:
        coordinator: HOST:PORT of process 0, or "auto" for what SLURM, Kubernetes, MPI
            or a Cloud TPU says, which then need not be given.
        processes: How many there are.
        process: Number of this one.

    Raises:
        UserError: If they cannot be joined; the message says what to change.
    """
    place = _place(coordinator, processes, process)
    me = Member(place.number, socket.gethostname(), _machine(), versions())
    meeting = meet(place.address, place.size, me)
    host = place.address.rpartition(":")[0]
    if place.number:
        port = _relayed((host, meeting.port))
        _initialise(f"127.0.0.1:{port}", place)
    else:
        _initialise(f"127.0.0.1:{meeting.port}", place)
    atexit.register(_leave_if_failed, meeting.team)  # before JAX's own, made earlier
    return meeting.team


def _leave_if_failed(team: Team) -> None:
    """Exit at once after a failure: at its end JAX waits for peers that have left."""
    if team.failed is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(team.failed)


def _initialise(address: str, place: _Place) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM
    jax.distributed.initialize(
        address,
        place.size,
        place.number,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=_HEARTBEAT_S,
        shutdown_timeout_seconds=_SHUTDOWN_S,
    )


def _place(coordinator: str, processes: int | None, process: int | None) -> _Place:
    address, devices = (None if coordinator == AUTO else coordinator), None
    if None in (address, processes, process):
        try:
            address, processes, process, found = (
                ClusterEnv.auto_detect_unset_distributed_params(
                    address, processes, process, None, None, int(WITHIN_S)
                )
            )
        except Exception as error:  # each scheduler has its own
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"--coordinator: {coordinator}: the cluster does not say who takes "
                f"part ({text}); give HOST:PORT, --processes and --process"
            ) from error
        devices = None if found is None else list(found)
    missing = {"--coordinator": address, "--processes": processes, "--process": process}
    names = [
        name
        for name, value in missing.items()
        if value is None and not (name == "--coordinator" and coordinator == AUTO)
    ]
    if address is None or processes is None or process is None:
        raise UserError(
            f"{' and '.join(names)}: not given, and no SLURM, Kubernetes, MPI or Cloud "
            "TPU is found here that says it; give HOST:PORT, --processes and --process"
        )
    return _Place(address, processes, process, devices)


def _machine() -> str:
    """Return what containers of one machine share, whose sensors are the same."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _relayed(place: tuple[str, int]) -> int:
    """Pass on what goes between this process and JAX's coordinator; return the port.

    JAX aborts a process, with a trace of its insides, in the moment in which its
    connection to the coordinator ends. This one does not end.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            inner, _ = server.accept()
            try:
                outer = socket.create_connection(place)
            except OSError:
                continue  # held open; that process 0 is gone is said elsewhere
            for source, sink in ((inner, outer), (outer, inner)):
                _started(_pass_on, source, sink)

    _started(accept)
    return int(server.getsockname()[1])


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(_BYTES):
            sink.sendall(data)
    except OSError:
        return


def _started(call: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=call, args=arguments, daemon=True).start()
