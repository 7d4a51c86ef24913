"""NVIDIA GPUs: find those that this process uses, and ask NVML for their energy."""

import importlib
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpet_jax.energy.probes.nvml.identity import gpu_uuids, identify, text
from dpet_jax.energy.probes.nvml.queries import Query, admit, ask, generation, reason
from dpet_jax.energy.probes.source import Found, Unavailable

_UNKNOWN_MAX_W = 2000.0
#: Where Linux lists processes.
PROC = Path("/proc")

_START_IN_CONTAINER = "in a container, start it with the GPUs, such as by --gpus all"
_INSTALL = "pip install nvidia-ml-py"
_REPLACE = "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py"
#: What nvidia-ml-py has and other packages with a module of that name have not.
_NEEDED = ("_nvmlGetFunctionPointer", "NVML_FI_DEV_POWER_AVERAGE", "nvmlInit")


def find(
    ordinals: Sequence[int] | None = None,
    *,
    nvml: Any = None,
    environ: Mapping[str, str] = os.environ,
    load_cuda: Callable[[], Any] | None = None,
) -> Found:
    """Find the GPUs of this process and what they answer.

    Args:
        ordinals: CUDA's numbers, JAX's `device.local_hardware_id`, of the GPUs in use;
            None for all that the process can see, which includes reserved ones that
            idle.
        nvml: The module `pynvml`; None imports it.
        environ: The process environment, for CUDA_VISIBLE_DEVICES.
        load_cuda: Returns libcuda or raises OSError; None loads the driver's.

    Returns:
        One probe for each physical GPU, however many of its MIG instances are in use,
        and why the others cannot be measured. Nothing is raised: where there is
        no GPU, no driver or no module, there is a reason instead.
    """
    nvml = start(nvml)
    if isinstance(nvml, Unavailable):
        return Found((), (nvml,))
    session = _Session(nvml)
    try:
        probes, unavailable = _open(session, ordinals, environ, load_cuda)
    except (KeyboardInterrupt, SystemExit):
        session.shut_down()
        raise
    except Exception as error:  # the meter never takes the run down
        remedy = "see whether nvidia-smi lists the GPUs"
        why = f"NVML cannot identify the GPUs: {reason(error)}"
        probes, unavailable = [], [Unavailable("gpu", why, remedy)]
    if not probes:
        session.shut_down()
    return Found(tuple(probes), tuple(unavailable))


def start(nvml: Any = None) -> Any:
    """Import and initialise NVML.

    Args:
        nvml: The module `pynvml`; None imports it.

    Returns:
        The module, which the caller shuts down; or `Unavailable`.
    """
    if nvml is None:
        nvml = _import()
        if isinstance(nvml, Unavailable):
            return nvml
    try:
        nvml.nvmlInit()
    except Exception as error:  # the driver is what users lack most often
        return _not_started(nvml, error)
    return nvml


def _import() -> Any:
    try:
        with warnings.catch_warnings():
            # The deprecated package `pynvml` says so, but hands on the right module.
            warnings.simplefilter("ignore")
            nvml = importlib.import_module("pynvml")
    except Exception as error:  # a broken package may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "pynvml":
            return Unavailable("gpu", "the Python module pynvml is missing", _INSTALL)
        return Unavailable(
            "gpu",
            f"pynvml cannot be imported: {type(error).__name__}: {error}",
            _REPLACE,
        )
    absent = [name for name in _NEEDED if not hasattr(nvml, name)]
    if absent:
        return Unavailable(
            "gpu",
            "the module pynvml is not that of nvidia-ml-py, or too old: it lacks "
            + ", ".join(absent),
            _REPLACE,
        )
    return nvml


def _not_started(nvml: Any, error: Exception) -> Unavailable:
    known = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
            "there is no NVIDIA driver here (libnvidia-ml was not found)",
            f"with an NVIDIA GPU, install its driver; {_START_IN_CONTAINER}",
        ),
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is not loaded",
            f"load it (modprobe nvidia); {_START_IN_CONTAINER}",
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver and its library are of different versions",
            "restart the machine, or load the driver anew, after an update",
        ),
    }
    plain = (f"NVML does not start: {error}", "see whether nvidia-smi works")
    why, remedy = known.get(getattr(error, "value", None), plain)
    return Unavailable("gpu", why, remedy)


class GpuProbe:
    """One physical GPU; the contract is `Probe`."""

    component = "gpu"

    def __init__(
        self,
        session: "_Session",
        handle: Any,
        uuid: str,
        *,
        mig: bool,
        cautions: Sequence[str],
    ) -> None:
        self._session = session
        self._nvml = nvml = session.nvml
        self._handle = handle
        self._closed = False
        self._errors: dict[str, str] = {}
        chip = generation(nvml, handle)
        limit_w = self._limit_w()
        name = self._ask("nvmlDeviceGetName", handle)
        admitted = admit(
            nvml,
            handle,
            name or "",
            chip,
            _UNKNOWN_MAX_W if limit_w is None else 2 * limit_w,
        )
        mig = mig or bool((self._ask("nvmlDeviceGetMigMode", handle) or [0])[0])
        self._queries: tuple[Query, ...] = admitted.queries
        self.refusals = admitted.refusals
        self.id = f"gpu:{uuid}"
        self.scope = "gpu_parent" if mig and admitted.scope == "gpu" else admitted.scope
        self.sources = tuple(query.source for query in admitted.queries)
        self._constant = {
            "name": name,
            "uuid": uuid,
            "architecture": chip,
            "mig": mig,
            # NVML measures the whole board, whoever uses the other instances.
            "attribution": "shared_upper_bound" if mig else "whole",
            "warnings": list(cautions),
        }

    def read(self) -> tuple[float | None, ...]:
        """Ask every source once; see `Probe`."""
        answers = ask(self._nvml, self._handle, self._queries)
        for source, answer in zip(self.sources, answers, strict=True):
            if isinstance(answer, str):
                self._errors[source.method] = answer
        return tuple(None if isinstance(answer, str) else answer for answer in answers)

    def facts(self) -> dict[str, Any]:
        """Return what changes slowly; None for each that NVML does not know.

        `errors` has the last failure of each source, by method.
        """
        nvml, handle = self._nvml, self._handle
        return {
            **self._constant,
            "driver": self._ask("nvmlSystemGetDriverVersion"),
            "power_limit_w": self._limit_w(),
            "temperature_c": self._ask(
                "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU
            ),
            "foreign_processes": self._foreign_processes(),
            "errors": dict(self._errors),
        }

    def close(self) -> None:
        """Release NVML; the last probe of a search shuts it down."""
        if not self._closed:
            self._closed = True
            self._session.leave()

    def _limit_w(self) -> float | None:
        limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit", self._handle)
        return limit_mw / 1000 if limit_mw else None

    def _foreign_processes(self) -> bool | None:
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        return None if found is None else foreign([process.pid for process in found])

    def _ask(self, call: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self._nvml, call)(*arguments)
        except Exception:  # a fact that the driver does not know is no fault
            return None
        return answer.decode() if isinstance(answer, bytes) else answer


def foreign(pids: Sequence[int]) -> bool | None:
    """Return whether processes other than ours and our children compute on a GPU.

    Args:
        pids: All that NVML lists for the GPU.

    Returns:
        None if it is not known: a container hides processes, or lists them by the
        numbers that they have outside, where we would not know our own.
    """
    others = [pid for pid in pids if not _is_ours(pid)]
    if not pids:
        return None  # we compute, so the list is not whole
    if not others:
        return False
    if len(others) < len(pids) or any(_parent(pid) is not None for pid in others):
        return True
    return None


def _is_ours(pid: int) -> bool:
    """Whether a process is this one or descends from it."""
    ancestor: int | None = pid
    while ancestor and ancestor != os.getpid():
        ancestor = _parent(ancestor)
    return bool(ancestor)


def _parent(pid: int) -> int | None:
    try:
        line = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name, in brackets, may itself hold spaces and brackets.
    return int(line.rpartition(")")[2].split()[1])


class _Session:
    """NVML as `find` initialised it, until the last probe leaves."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self._users = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.shut_down()

    def shut_down(self) -> None:
        try:
            self.nvml.nvmlShutdown()
        except Exception:  # nothing is left to lose
            return


def _open(
    session: _Session,
    ordinals: Sequence[int] | None,
    environ: Mapping[str, str],
    load_cuda: Callable[[], Any] | None,
) -> tuple[list[GpuProbe], list[Unavailable]]:
    nvml = session.nvml
    identity = identify(nvml, ordinals, environ=environ, load_cuda=load_cuda)
    unavailable = [
        Unavailable(
            "gpu",
            f"this process has no CUDA device {ordinal}",
            "pass a device's local_hardware_id; see CUDA_VISIBLE_DEVICES",
        )
        for ordinal in identity.missing
    ]
    if not identity.uuids and not unavailable:
        unavailable.append(_nothing_visible(nvml))
    physical: dict[str, tuple[Any, bool]] = {}
    for uuid in identity.uuids:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            mig = uuid.startswith("MIG-")
            if mig:
                handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
                uuid = text(nvml.nvmlDeviceGetUUID(handle))
            physical[uuid] = (handle, mig)
        except Exception as error:
            unavailable.append(
                Unavailable(
                    "gpu",
                    f"NVML does not give access to {uuid}: {reason(error)}",
                    "see whether nvidia-smi -L lists it",
                )
            )
    probes = []
    for uuid, (handle, mig) in physical.items():
        probe = GpuProbe(session, handle, uuid, mig=mig, cautions=identity.warnings)
        if probe.sources:
            session.enter()
            probes.append(probe)
        else:
            unavailable.append(_no_sensor(uuid, probe))
    return probes, unavailable


def _nothing_visible(nvml: Any) -> Unavailable:
    count = len(gpu_uuids(nvml))
    if not count:
        return Unavailable(
            "gpu", "the NVIDIA driver knows of no GPU", _START_IN_CONTAINER
        )
    return Unavailable(
        "gpu",
        f"CUDA shows this process none of {count} GPU(s)",
        "set CUDA_VISIBLE_DEVICES to the GPUs to use, or unset it",
    )


def _no_sensor(uuid: str, probe: GpuProbe) -> Unavailable:
    refusals = "; ".join(f"{call}: {why}" for call, why in probe.refusals.items())
    return Unavailable(
        "gpu",
        f"{uuid} reports neither energy nor power ({refusals})",
        "virtual and very old GPUs have no sensor; else update the NVIDIA driver",
    )
