"""Which physical GPUs this process uses, by the names that CUDA gives them."""

import ctypes
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_ORDER_WARNING = (
    "the GPUs differ, CUDA numbers them by speed and NVML by bus, so the wrong one may "
    "be measured; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID"
)


class CudaError(Exception):
    """libcuda refused a call."""


class Identity(NamedTuple):
    """The GPUs behind CUDA's ordinals.

    Attributes:
        uuids: As NVML names them, "GPU-…" or "MIG-…", in the order asked for.
        missing: Ordinals that this process does not have.
        warnings: What may be wrong about it.
    """

    uuids: tuple[str, ...]
    missing: tuple[int, ...]
    warnings: tuple[str, ...]


def identify(
    nvml: Any,
    ordinals: Sequence[int] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    load_cuda: Callable[[], Any] | None = None,
) -> Identity:
    """Find the NVML name of CUDA devices.

    libcuda is asked where there is one, for it alone knows what it made of
    CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER and MIG; else the variables are read as it
    would read them.

    Args:
        nvml: The initialised module `pynvml`.
        ordinals: CUDA's numbers, which JAX calls `local_hardware_id`; None for all
            that this process can see.
        environ: The process environment; looked at only without libcuda.
        load_cuda: Returns libcuda or raises OSError.

    Returns:
        The names, the ordinals without one, and warnings.
    """
    warnings: list[str] = []
    plain = None
    try:
        plain = cuda_uuids((load_cuda or load_libcuda)())
    except (CudaError, AttributeError) as error:  # refused, or not the real libcuda
        warnings.append(f"{error}; CUDA_VISIBLE_DEVICES was read instead")
    except OSError:
        pass  # not there: the variables say as much
    if plain is None:
        visible, certain = _from_environment(nvml, environ)
    else:
        visible, certain = [_known_to_nvml(nvml, uuid) for uuid in plain], True
    chosen = range(len(visible)) if ordinals is None else ordinals
    found = tuple(visible[i] for i in chosen if 0 <= i < len(visible))
    missing = tuple(i for i in chosen if not 0 <= i < len(visible))
    # Where all are measured it does not matter which is which.
    if not certain and len(set(found)) < nvml.nvmlDeviceGetCount():
        warnings.append(_ORDER_WARNING)
    return Identity(found, missing, tuple(warnings))


def load_libcuda() -> Any:
    """Load the CUDA driver's library.

    Raises:
        OSError: If there is none.
    """
    return ctypes.CDLL("libcuda.so.1")


def cuda_uuids(cuda: Any) -> list[str]:
    """Ask libcuda for the UUIDs of its devices, by ordinal; no context is made.

    Args:
        cuda: libcuda.

    Returns:
        UUIDs as 8-4-4-4-12 hexadecimal digits, without "GPU-" or "MIG-".

    Raises:
        CudaError: If a call fails, other than for want of visible devices.
    """
    status = cuda.cuInit(0)
    if status == _NO_DEVICE:
        return []
    _check("cuInit", status)
    count = ctypes.c_int()
    _check("cuDeviceGetCount", cuda.cuDeviceGetCount(ctypes.byref(count)))
    # The second version names MIG instances, the first their parent.
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
    uuids = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        _check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), ordinal))
        octets = (ctypes.c_ubyte * 16)()
        _check("cuDeviceGetUuid", get_uuid(octets, device))
        digits = bytes(octets).hex()
        cuts = (0, 8, 12, 16, 20, 32)
        uuids.append("-".join(digits[a:b] for a, b in itertools.pairwise(cuts)))
    return uuids


def parse_visible(
    variable: str | None, gpus: Sequence[str], migs: Callable[[], Sequence[str]]
) -> list[str]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does.

    The first entry decides whether all are integers, GPUs or MIG instances; the list
    ends before the first that is of another sort, negative, out of range, unknown or
    ambiguous. A device named twice leaves none at all.

    Args:
        variable: The value; None if it is not set, which shows all GPUs.
        gpus: UUIDs of the GPUs by NVML's index, taken for CUDA's as well.
        migs: Returns the UUIDs of all MIG instances.

    Returns:
        UUIDs by CUDA's ordinal.
    """
    if variable is None:
        return list(gpus)
    # CUDA documents the end at the first invalid entry, prefixes of UUIDs and nothing
    # else. Sorts that do not mix, numbers read as strtoul reads them ("1gpu" is 1) and
    # duplicates that leave nothing are what PyTorch found CUDA to do.
    if variable.startswith("GPU-"):
        found = (_by_prefix(entry, "GPU-", gpus) for entry in variable.split(","))
    elif variable.startswith("MIG-"):
        instances = migs()
        found = (_by_prefix(entry, "MIG-", instances) for entry in variable.split(","))
    else:
        found = (_by_number(entry, gpus) for entry in variable.split(","))
    visible: list[str] = []
    for uuid in found:
        if uuid is None:
            break
        if uuid in visible:
            return []
        visible.append(uuid)
    return visible


def gpu_uuids(nvml: Any) -> list[str]:
    """Return the UUIDs of all GPUs, by NVML's index."""
    return [
        text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))
        for index in range(nvml.nvmlDeviceGetCount())
    ]


def text(value: str | bytes) -> str:
    """Return a string of NVML's, which some versions of `pynvml` give as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _check(call: str, status: int) -> None:
    if status:
        raise CudaError(f"libcuda: {call} returned {status}")


def _known_to_nvml(nvml: Any, uuid: str) -> str:
    for name in (f"GPU-{uuid}", f"MIG-{uuid}"):
        try:
            nvml.nvmlDeviceGetHandleByUUID(name)
        except nvml.NVMLError:
            continue
        return name
    return f"GPU-{uuid}"


def _by_prefix(entry: str, sort: str, uuids: Sequence[str]) -> str | None:
    matching = [uuid for uuid in uuids if uuid.startswith(entry)]
    return matching[0] if entry.startswith(sort) and len(matching) == 1 else None


def _by_number(entry: str, uuids: Sequence[str]) -> str | None:
    digits = re.match(r"\s*\+?([0-9]+)", entry)
    index = int(digits[1]) if digits else -1
    return uuids[index] if 0 <= index < len(uuids) else None


def _from_environment(nvml: Any, environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """Return the visible UUIDs, and whether their order is certain."""
    variable = environ.get("CUDA_VISIBLE_DEVICES")
    visible = parse_visible(variable, gpu_uuids(nvml), lambda: _mig_uuids(nvml))
    by_name = (variable or "").startswith(("GPU-", "MIG-"))
    return visible, by_name or not visible or _same_order(nvml, environ)


def _same_order(nvml: Any, environ: Mapping[str, str]) -> bool:
    """Whether CUDA numbers the GPUs as NVML does: by bus, or by speed if all equal."""
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return True
    names = set()
    for index in range(nvml.nvmlDeviceGetCount()):
        names.add(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)))
    return len(names) <= 1


def _mig_uuids(nvml: Any) -> list[str]:
    uuids = []
    for index in range(nvml.nvmlDeviceGetCount()):
        parent = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            most = nvml.nvmlDeviceGetMaxMigDeviceCount(parent)
        except nvml.NVMLError:
            continue
        for number in range(most):
            try:
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, number)
            except nvml.NVMLError:
                continue  # a slot without an instance
            uuids.append(text(nvml.nvmlDeviceGetUUID(instance)))
    return uuids
