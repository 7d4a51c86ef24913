"""AMD GPUs, asked through AMD SMI's Python package where that is installed.

The calls are those of its documentation: an energy counter in steps of micro-joules,
and the power of the socket in watts.
"""

import contextlib
import importlib
import importlib.util
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dpet_jax.energy.probes.source import Found, Source, Unavailable

MODULE = "amdsmi"

_REMEDY = "see whether amd-smi lists the GPUs and their energy"
_POWERS = ("average_socket_power", "current_socket_power")
#: What hides GPUs from HIP, or numbers them anew, in another way than by a list.
_OTHER_NUMBERS = ("ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_OURS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def absent() -> str | None:
    """Return why there is nothing to ask, without importing it; None if there is."""
    if importlib.util.find_spec(MODULE) is None:
        return "amd: the Python module amdsmi, which comes with ROCm, is missing"
    return None


def find(
    ordinals: Sequence[int] | None = None,
    *,
    smi: Any = None,
    environ: Mapping[str, str] = os.environ,
) -> Found:
    """Find the AMD GPUs of this process and what they answer; nothing is raised.

    Args:
        ordinals: HIP's numbers, JAX's `device.local_hardware_id`, of the GPUs in use;
            None for all that HIP shows.
        smi: The module `amdsmi`; None imports it.
        environ: The process environment, which may number GPUs anew.
    """
    try:
        smi = _import() if smi is None else smi
        smi.amdsmi_init()
    except Exception as error:  # of a library that is missing, or of another version
        return _none(f"AMD SMI does not start ({_said(error)})")
    session = _Session(smi)
    try:
        handles = _used(smi, ordinals, environ)
        opened = [AmdGpuProbe(session, handle) for handle in handles]
    except (KeyboardInterrupt, SystemExit):
        session.shut_down()
        raise
    except Exception as error:  # the meter never takes the run down
        session.shut_down()
        return _none(f"the GPUs cannot be told apart ({_said(error)})")
    probes = tuple(probe for probe in opened if probe.sources)
    session.users = len(probes)
    if not probes:
        session.shut_down()
    missing = tuple(
        _absent(f"{probe.id} reports neither energy nor power")
        for probe in opened
        if not probe.sources
    )
    if not opened:
        return _none("AMD SMI knows of no GPU")
    return Found(probes, missing)


class AmdGpuProbe:
    """One AMD GPU; the contract is `Probe`."""

    component = "gpu"
    scope = "gpu"

    def __init__(self, session: "_Session", handle: Any) -> None:
        self._session, self._smi, self._handle = session, session.smi, handle
        self._closed = False
        self.id = f"gpu:{self._smi.amdsmi_get_gpu_device_bdf(handle)}"
        name = self._ask("amdsmi_get_gpu_asic_info").get("market_name")
        self._name = None if name is None else str(name)
        readings = (("amdsmi_get_energy_count", "counter"), *_power_kinds())
        known = [
            (method, kind)
            for method, kind in readings
            if self._value(method) is not None
        ]
        # one power is enough: some chips have the average, others that of the moment
        powers = [method for method, kind in known if kind == "power"][:1]
        counters = [method for method, kind in known if kind == "counter"]
        self.sources: tuple[Source, ...] = (
            *(Source(method, "counter") for method in counters),
            *(Source(method, "power") for method in powers),
        )

    def read(self) -> tuple[float | None, ...]:
        """Ask every source once; see `Probe`."""
        if self._closed:
            return (None,) * len(self.sources)
        return tuple(self._value(source.method) for source in self.sources)

    def facts(self) -> dict[str, Any]:
        """Return the name, and that of what else its number covers."""
        both = "MI250" in (self._name or "")
        warnings = (
            ["an MI250 counts both of its chips in the first one"] if both else []
        )
        return {
            "name": self._name,
            "warnings": warnings,
            "foreign_processes": None,  # AMD SMI lists processes, but not whose
        }

    def close(self) -> None:
        """Release AMD SMI; the last probe of a search shuts it down."""
        if not self._closed:
            self._closed = True
            self._session.leave()

    def _value(self, method: str) -> float | None:
        call, _, key = method.partition(":")
        answer = self._ask(call)
        if key:
            return _number(answer.get(key))
        # it was called power before ROCm 6.2
        steps = _number(answer.get("energy_accumulator", answer.get("power")))
        step_uj = _number(answer.get("counter_resolution"))
        return None if steps is None or step_uj is None else steps * step_uj / 1e6

    def _ask(self, call: str) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = getattr(self._smi, call)(self._handle)
        except Exception:  # what a chip does not know is no fault, and never a zero
            return {}
        return answer


class _Session:
    """AMD SMI as `find` initialised it, until the last probe leaves."""

    def __init__(self, smi: Any) -> None:
        self.smi = smi
        self.users = 0

    def leave(self) -> None:
        self.users -= 1
        if self.users == 0:
            self.shut_down()

    def shut_down(self) -> None:
        with contextlib.suppress(Exception):  # nothing is left to lose
            self.smi.amdsmi_shut_down()


def _import() -> Any:
    # it prints where it does not find its library
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(MODULE)


def _power_kinds() -> tuple[tuple[str, str], ...]:
    return tuple((f"amdsmi_get_power_info:{key}", "power") for key in _POWERS)


def _used(
    smi: Any, ordinals: Sequence[int] | None, environ: Mapping[str, str]
) -> list[Any]:
    """Return the handles of GPUs by HIP's numbers.

    Raises:
        ValueError: If it is not known which are meant.
    """
    handles = list(smi.amdsmi_get_processor_handles())
    renamed = [name for name in (*_OTHER_NUMBERS, *_OURS) if environ.get(name)]
    if not renamed and ordinals is None:
        return handles
    if ordinals is not None and len(set(ordinals)) == len(handles):
        return handles  # all of them, whatever their numbers
    others = [name for name in renamed if name in _OTHER_NUMBERS]
    if others:
        raise ValueError(f"{others[0]} is set")
    by_number = {
        smi.amdsmi_get_gpu_enumeration_info(handle)["hip_id"]: handle
        for handle in handles
    }
    visible = sorted(by_number)
    if renamed:
        visible = [int(number) for number in environ[renamed[0]].split(",")]
    wanted = range(len(visible)) if ordinals is None else sorted(set(ordinals))
    return [by_number[visible[ordinal]] for ordinal in wanted]


def _number(value: Any) -> float | None:
    """Return a reading; None for "N/A", which is what chips without one answer."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ")


def _absent(why: str) -> Unavailable:
    return Unavailable("gpu", f"amd: {why}", _REMEDY)


def _none(why: str) -> Found:
    return Found((), (_absent(why),))
