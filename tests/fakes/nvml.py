"""NVML and libcuda without a GPU, in virtual time.

    clock = FakeClock()
    gpu = FakeGpu(power=lambda t: 300.0 if t > 110 else 100.0)
    nvml = FakeNVML([gpu, FakeGpu()], clock=clock)
    found = find(nvml=nvml, environ={}, load_cuda=nvml.libcuda)

`FakeNVML` stands in for the module `pynvml`: its constants, structures and exceptions
are the real ones, no function of it ever reaches a driver. Watts are functions of the
clock's time, whatever clock that is; `clock=time.monotonic` makes it run by itself.
"""

import itertools
import math
import sys
from bisect import bisect_right
from collections import Counter
from ctypes import c_uint
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml
from fakes.clock import FakeClock

ARCHITECTURES = {
    "kepler": (2, (3, 7)),
    "maxwell": (3, (5, 2)),
    "pascal": (4, (6, 0)),
    "volta": (5, (7, 0)),
    "turing": (6, (7, 5)),
    "ga100": (7, (8, 0)),
    "ampere": (7, (8, 6)),
    "ada": (8, (8, 9)),
    "hopper": (9, (9, 0)),
    "blackwell": (10, (10, 0)),
    "unknown": (0xFFFFFFFF, (99, 0)),
}
COUNTER, AVERAGE, INSTANT = 83, 185, 186
GPU, MODULE, MEMORY = 0, 1, 2

_numbers = itertools.count(1)


@dataclass(eq=False)
class FakeGpu:
    """A board, its sensor and what is scripted to go wrong with it.

    Attributes:
        power: Watts; a number, or a function of the clock's time.
        energy: Joules up to a time, if `power` is a function whose integral is known;
            else it is integrated in steps of `resolution_s`, exactly if the power is
            a cubic or less within each.
        update_period_s: How often the sensor and the counter move; 0 for always.
        window_s: What one instant reading averages over, up to the last update.
        average_s: The same of POWER_AVERAGE, and of nvmlDeviceGetPowerUsage from
            Ampere on.
        gain, offset_w: Error of the power readings: gain * watts + offset_w.
        counter_gain: Error of the counter.
        quantum_mw: Step of the power readings.
        counter_resets: Times at which the counter starts at 0.
        counter_wrap_j: Joules at which it starts at 0 again.
        scopes: Share of `power` that each scope of the power fields shows; those
            absent are not supported.
        value_types: NVML_VALUE_TYPE_* by field.
        mig: UUIDs of MIG instances, None for an empty slot; None if MIG is off.
        processes: PIDs that compute on it.
        errors: What fails: by function name, field, (field, scope) or "*" for all,
            an NVML_ERROR_* or (NVML_ERROR_*, from time, to time), or a list of these.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    power: object = 100.0
    energy: object = None
    uuid: str = ""
    architecture: str = "hopper"
    update_period_s: float = 0.1
    window_s: float = 0.025
    average_s: float = 1.0
    gain: float = 1.0
    offset_w: float = 0.0
    counter_gain: float = 1.0
    quantum_mw: int = 1
    resolution_s: float = 0.001
    counter_resets: tuple = ()
    counter_wrap_j: float | None = None
    scopes: dict = field(default_factory=lambda: {GPU: 1.0})
    value_types: dict = field(default_factory=dict)
    mig: list | None = None
    processes: list = field(default_factory=list)
    limit_w: float = 700.0
    temperature_c: int = 40
    errors: dict = field(default_factory=dict)

    def __post_init__(self):
        # A real UUID has letters after "GPU-" that a careless strip takes for its own.
        self.uuid = self.uuid or f"GPU-4e1f00ab-0000-4000-8000-{next(_numbers):012x}"
        self.loaded_at = 0.0
        self._joules = [0.0]

    def fail(self, what, code, start=-math.inf, end=math.inf):
        """Let a function, field or "*" fail in a span of time."""
        scripted = self.errors.get(what, [])
        scripted = scripted if isinstance(scripted, list) else [scripted]
        self.errors[what] = [*scripted, (code, start, end)]

    def error(self, now, *names):
        """Return the code that is scripted for any of the names, or None."""
        for name in names:
            scripted = self.errors.get(name, [])
            for one in scripted if isinstance(scripted, list) else [scripted]:
                code, start, end = one if isinstance(one, tuple) else (one, now, now)
                if start <= now <= end:
                    return code
        return None

    def joules(self, start, end):
        """Integrate the true power."""
        if self.energy is not None:
            return self.energy(end) - self.energy(start)
        if not callable(self.power):
            return float(self.power) * (end - start)
        return self._joules_until(end) - self._joules_until(start)

    def _joules_until(self, time):
        steps, rest = divmod(time - self.loaded_at, self.resolution_s)
        steps = int(steps)
        while len(self._joules) <= steps:
            start = self.loaded_at + (len(self._joules) - 1) * self.resolution_s
            end = self.loaded_at + len(self._joules) * self.resolution_s
            self._joules.append(self._joules[-1] + self._step(start, end))
        start = self.loaded_at + steps * self.resolution_s
        return self._joules[steps] + (self._step(start, start + rest) if rest else 0.0)

    def _step(self, start, end):
        """Gauss' two points, which lie inside, where a jump at the edge is not."""
        middle, half = (start + end) / 2, (end - start) / 2
        near = half / math.sqrt(3)
        return half * (self.power(middle - near) + self.power(middle + near))

    def updated_at(self, now):
        """Return when the sensor last gave a new number."""
        if not self.update_period_s:
            return now
        updates = math.floor((now - self.loaded_at) / self.update_period_s + 1e-9)
        return self.loaded_at + updates * self.update_period_s

    def watts(self, now, window_s, share=1.0):
        """Return what the sensor shows: the mean over a window up to its update."""
        end = self.updated_at(now)
        start = max(end - window_s, self.loaded_at)
        if end > start:
            mean = self.joules(start, end) / (end - start)
        else:
            mean = self.power(end) if callable(self.power) else self.power
        return self.gain * share * mean + self.offset_w

    def power_mw(self, now, window_s, share=1.0):
        shown = self.watts(now, window_s, share) * 1000
        return max(round(shown / self.quantum_mw) * self.quantum_mw, 0)

    def counter_mj(self, now):
        resets = sorted(self.counter_resets)
        passed = bisect_right(resets, now)
        start = max(resets[passed - 1], self.loaded_at) if passed else self.loaded_at
        end = max(self.updated_at(now), start)
        joules = self.counter_gain * self.joules(start, end)
        if self.counter_wrap_j is not None:
            joules %= self.counter_wrap_j
        return int(joules * 1000 + 1e-6)

    @property
    def averages(self):
        """Whether nvmlDeviceGetPowerUsage is a mean over a second."""
        code, capability = ARCHITECTURES[self.architecture]
        return 7 <= code < 100 and capability != (8, 0)


class FakeNVML:
    """What `import pynvml` gives, over fake devices.

    Args:
        devices: `FakeGpu`s, by NVML's index.
        clock: Seconds.
        errors: Errors of functions without a device, such as nvmlInit: code by name.
        latency_s: Time that every call takes, passed by `clock.skip`.

    Attributes:
        calls: How often each function was called.
        inits, shutdowns: How often NVML was initialised and shut down.
    """

    def __init__(self, devices=(), *, clock=None, errors=None, latency_s=0.0):
        self.devices = list(devices)
        self.clock = FakeClock() if clock is None else clock
        self.errors = dict(errors or {})
        self.latency_s = latency_s
        self.driver = "580.65.06"
        self.calls = Counter()
        self.inits = self.shutdowns = 0
        for gpu in self.devices:
            gpu.loaded_at = self.clock()

    def __getattr__(self, name):
        if name == "_nvmlGetFunctionPointer" or not name.startswith(("_", "nvml")):
            return getattr(pynvml, name)
        if name.startswith("nvml"):

            def absent(*arguments):
                del arguments
                raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

            return absent
        raise AttributeError(name)

    def install(self, monkeypatch, visible=None):
        """Be the `pynvml` and the libcuda that this process finds."""
        monkeypatch.setitem(sys.modules, "pynvml", self)
        monkeypatch.setattr(
            "dpet_jax.energy.probes.nvml.identity.load_libcuda",
            lambda: self.libcuda(visible),
        )

    def libcuda(self, visible=None):
        """Return a libcuda that shows devices, by UUID or NVML's index; else all."""
        chosen = self.devices if visible is None else visible
        named = [self.devices[one] if isinstance(one, int) else one for one in chosen]
        return FakeCuda([getattr(one, "uuid", one) for one in named])

    @property
    def initialised(self):
        return self.inits > self.shutdowns

    def nvmlInit(self):
        self._enter("nvmlInit", needs_init=False)
        self.inits += 1

    def nvmlShutdown(self):
        self._enter("nvmlShutdown")
        self.shutdowns += 1

    def nvmlSystemGetDriverVersion(self):
        self._enter("nvmlSystemGetDriverVersion")
        return self.driver

    def nvmlDeviceGetCount(self):
        self._enter("nvmlDeviceGetCount")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._enter("nvmlDeviceGetHandleByIndex")
        if not 0 <= index < len(self.devices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._checked("nvmlDeviceGetHandleByIndex", self.devices[index])

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self._enter("nvmlDeviceGetHandleByUUID")
        for gpu in self.devices:
            if uuid == gpu.uuid:
                return self._checked("nvmlDeviceGetHandleByUUID", gpu)
            if uuid in (gpu.mig or []):
                return SimpleNamespace(mig_uuid=uuid, parent=gpu)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, handle):
        self._enter("nvmlDeviceGetUUID")
        if hasattr(handle, "mig_uuid"):
            return handle.mig_uuid
        return self._checked("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        self._enter("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
        if not hasattr(handle, "mig_uuid"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return handle.parent

    def nvmlDeviceIsMigDeviceHandle(self, handle):
        self._enter("nvmlDeviceIsMigDeviceHandle")
        return c_uint(hasattr(handle, "mig_uuid"))  # so does the real one

    def nvmlDeviceGetMigMode(self, handle):
        gpu = self._gpu("nvmlDeviceGetMigMode", handle)
        return [int(gpu.mig is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        gpu = self._gpu("nvmlDeviceGetMaxMigDeviceCount", handle)
        return 0 if gpu.mig is None else 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        gpu = self._gpu("nvmlDeviceGetMigDeviceHandleByIndex", handle)
        if index >= len(gpu.mig or []) or gpu.mig[index] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return SimpleNamespace(mig_uuid=gpu.mig[index], parent=gpu)

    def nvmlDeviceGetName(self, handle):
        return self._gpu("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetArchitecture(self, handle):
        gpu = self._gpu("nvmlDeviceGetArchitecture", handle)
        return ARCHITECTURES[gpu.architecture][0]

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        gpu = self._gpu("nvmlDeviceGetCudaComputeCapability", handle)
        return ARCHITECTURES[gpu.architecture][1]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        gpu = self._gpu("nvmlDeviceGetEnforcedPowerLimit", handle)
        return round(gpu.limit_w * 1000)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._gpu("nvmlDeviceGetTemperature", handle).temperature_c

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        gpu = self._gpu("nvmlDeviceGetComputeRunningProcesses", handle)
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in gpu.processes]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        gpu = self._gpu("nvmlDeviceGetTotalEnergyConsumption", handle)
        return gpu.counter_mj(self.clock())

    def nvmlDeviceGetPowerUsage(self, handle):
        gpu = self._gpu("nvmlDeviceGetPowerUsage", handle)
        return gpu.power_mw(
            self.clock(), gpu.average_s if gpu.averages else gpu.window_s
        )

    def nvmlDeviceGetFieldValues(self, handle, fields):
        gpu = self._gpu("nvmlDeviceGetFieldValues", handle)
        pairs = [one if isinstance(one, tuple) else (one, 0) for one in fields]
        entries = (pynvml.c_nvmlFieldValue_t * len(pairs))()
        for entry, (number, scope) in zip(entries, pairs, strict=True):
            self._fill(entry, gpu, number, scope)
        return entries

    def _fill(self, entry, gpu, number, scope):
        now = self.clock()
        entry.fieldId, entry.scopeId = number, scope
        entry.timestamp = int(gpu.updated_at(now) * 1e6)
        error = gpu.error(now, number, (number, scope), "*")
        value = None if error else _field_value(gpu, now, number, scope)
        if value is None:
            entry.nvmlReturn = error or pynvml.NVML_ERROR_NOT_SUPPORTED
            return
        entry.valueType = gpu.value_types.get(number, 3 if number == COUNTER else 1)
        members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        if entry.valueType < len(members):
            setattr(entry.value, members[entry.valueType], value)

    def _enter(self, name, *, needs_init=True):
        self.calls[name] += 1
        if self.latency_s:
            self.clock.skip(self.latency_s)
        if needs_init and not self.initialised:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if name in self.errors:
            raise pynvml.NVMLError(self.errors[name])

    def _gpu(self, name, handle):
        self._enter(name)
        if hasattr(handle, "mig_uuid"):  # instances have no sensors of their own
            if name == "nvmlDeviceGetName":
                return SimpleNamespace(name=f"{handle.parent.name} MIG 1g.10gb")
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self._checked(name, handle)

    def _checked(self, name, gpu):
        error = gpu.error(self.clock(), name, "*")
        if error:
            raise pynvml.NVMLError(error)
        return gpu


def _field_value(gpu, now, number, scope):
    if number == COUNTER and scope == GPU:
        return gpu.counter_mj(now)
    if number in (AVERAGE, INSTANT) and scope in gpu.scopes:
        window_s = gpu.average_s if number == AVERAGE else gpu.window_s
        return gpu.power_mw(now, window_s, gpu.scopes[scope])
    return None


class FakeCuda:
    """libcuda's four functions for a list of UUIDs, by ordinal.

    Args:
        uuids: "GPU-…" or "MIG-…".
        status: What each function returns, by its name, if not success.
        old: Whether cuDeviceGetUuid_v2 is missing.
    """

    def __init__(self, uuids, status=None, *, old=False):
        self._octets = [bytes.fromhex(uuid[4:].replace("-", "")) for uuid in uuids]
        self._status = dict(status or {})
        self.called = []
        if not old:
            self.cuDeviceGetUuid_v2 = self._uuid("cuDeviceGetUuid_v2")
        self.cuDeviceGetUuid = self._uuid("cuDeviceGetUuid")

    def _result(self, name):
        self.called.append(name)
        return self._status.get(name, 0)

    def _uuid(self, name):
        def get(buffer, device):
            buffer[:] = self._octets[device.value]
            return self._result(name)

        return get

    def cuInit(self, flags):
        assert flags == 0
        if not self._octets:
            return 100
        return self._result("cuInit")

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self._octets)
        return self._result("cuDeviceGetCount")

    def cuDeviceGet(self, device, ordinal):
        if not 0 <= ordinal < len(self._octets):
            return 101
        device._obj.value = ordinal
        return self._result("cuDeviceGet")


def no_libcuda():
    """Fail as the loader does where there is no CUDA driver."""
    raise OSError("libcuda.so.1: cannot open shared object file")
