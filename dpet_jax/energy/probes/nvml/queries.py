"""Queries that NVML answers about the energy of one GPU, and what they mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dpet_jax.energy.probes.source import Kind, Source

#: Members of the union that holds a field's value, by NVML_VALUE_TYPE_*.
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

#: Names of NVML_DEVICE_ARCH_*; Ampere's GA100 is recognised below.
_ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}

#: Documented: from Ampere on, but for GA100, both POWER_AVERAGE and
#: nvmlDeviceGetPowerUsage are means over one second.
_ONE_SECOND_MEAN = {"ampere", "ada", "hopper", "blackwell", "rubin"}

#: Update period and averaging window in seconds of the unaveraged sensor, as measured
#: by Yang et al. (arXiv 2312.02741). Of Hopper they had the H100 PCIe.
_INSTANT_S = {
    "pascal": (0.02, 0.01),
    "volta": (0.02, 0.01),
    "turing": (0.1, 0.1),
    "ga100": (0.1, 0.025),
    "ampere": (0.1, 0.1),
    "ada": (0.1, 0.1),
    "hopper": (0.1, 0.025),
}
_COUNTER_UPDATE_S = 0.1  # 0.01 was seen as well; the longer one errs on the safe side

#: Boards whose energy counter takes in the CPU and the memory beside the GPU.
_SUPERCHIPS = ("GH200",)


@dataclass(frozen=True)
class Query:
    """One question to NVML, which answers in thousandths of the source's unit.

    Attributes:
        source: What the answer means.
        field: Field and scope for nvmlDeviceGetFieldValues, or
        call: the function to call with the handle.
    """

    source: Source
    field: tuple[int, int] | None = None
    call: str = ""


class Admitted(NamedTuple):
    """What a GPU answers.

    Attributes:
        queries: Best first.
        scope: "gpu", or "module" if the numbers take in a CPU as well.
        refusals: Why the others were left out, by method.
    """

    queries: tuple[Query, ...]
    scope: str
    refusals: dict[str, str]


def generation(nvml: Any, handle: Any) -> str | None:
    """Return the architecture as a lower-case word, "ga100" for that chip, or None."""
    try:
        name = _ARCHITECTURES.get(nvml.nvmlDeviceGetArchitecture(handle))
        # GA100 also goes by A30, A800 and others; only it has capability 8.0.
        if name == "ampere":
            capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
            return "ga100" if capability == (8, 0) else name
    except Exception:  # an old driver knows no architectures
        return None
    return name


def admit(
    nvml: Any, handle: Any, name: str, chip: str | None, max_w: float
) -> Admitted:
    """Ask everything once and keep what answers, best first.

    The counter comes first, as it does not depend on when we look. Then comes
    POWER_AVERAGE where it is a mean over one second; POWER_INSTANT sees a quarter of
    the time on some GPUs, and a load in step with it is misjudged whatever the polling.
    Elsewhere POWER_INSTANT leads, as nobody says what POWER_AVERAGE is there.
    nvmlDeviceGetPowerUsage comes last, because it costs a call of its own, and stays
    because it is what is left if nvmlDeviceGetFieldValues stops working.

    Args:
        nvml: The initialised module `pynvml`.
        handle: The GPU's.
        name: The GPU's.
        chip: Its generation.
        max_w: Power that is not believed.

    Returns:
        The queries that all cover the same scope, and why others were left out.
    """
    refusals: dict[str, str] = {}

    def answering(queries: Sequence[Query]) -> list[Query]:
        # One at a time: an old driver may refuse a whole call for one unknown field.
        found = []
        for query in queries:
            (answer,) = ask(nvml, handle, [query])
            if isinstance(answer, str):
                refusals[query.source.method] = answer
            else:
                found.append(query)
        return found

    # One counter, asked in two ways: the field shares its call with the power.
    counter = answering(_counters(nvml, chip, max_w))[:1]
    gpu = answering(_power_fields(nvml, chip, nvml.NVML_POWER_SCOPE_GPU, max_w))
    module = answering(_power_fields(nvml, chip, nvml.NVML_POWER_SCOPE_MODULE, max_w))
    superchip = any(chip_name in name for chip_name in _SUPERCHIPS)
    if (superchip and (counter or module)) or (module and not gpu):
        # The counter is the module's, and the GPU's own power would not check it.
        return Admitted((*counter, *module), "module", refusals)
    usage = answering([_usage(chip, max_w)])
    return Admitted((*counter, *gpu, *usage), "gpu", refusals)


def ask(nvml: Any, handle: Any, queries: Sequence[Query]) -> list[float | str]:
    """Ask all queries, those for fields in one call.

    Args:
        nvml: The initialised module `pynvml`.
        handle: The GPU's.
        queries: What to ask.

    Returns:
        Joules or watts of each query, or the reason why there is no number.
    """
    fields = [query.field for query in queries if query.field is not None]
    values: dict[tuple[int, int], Any] = {}
    refusal = ""
    if fields:
        try:
            answer = nvml.nvmlDeviceGetFieldValues(handle, fields)
            values = dict(zip(fields, answer, strict=True))
        except Exception as error:  # whatever goes wrong is no number, and no more
            refusal = reason(error)
    answers: list[float | str] = []
    for query in queries:
        try:
            if query.field is None:
                number = float(getattr(nvml, query.call)(handle))
            elif query.field in values:
                number = field_number(nvml, values[query.field])
            else:
                answers.append(refusal)
                continue
        except Exception as error:
            answers.append(reason(error))
            continue
        answers.append(_believed(number / 1000, query.source.kind))
    return answers


def field_number(nvml: Any, entry: Any) -> float:
    """Return the number in one answer of nvmlDeviceGetFieldValues.

    The call as a whole succeeds even where a field of it fails.

    Raises:
        NVMLError: If the field failed.
        ValueError: If the number is of an unknown type.
    """
    if entry.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(entry.nvmlReturn)
    if not 0 <= entry.valueType < len(_MEMBERS):
        raise ValueError(f"unknown value type {entry.valueType}")
    return float(getattr(entry.value, _MEMBERS[entry.valueType]))


def reason(error: Exception) -> str:
    """Return an error's text, or its name if it has none."""
    return str(error) or type(error).__name__


def _believed(number: float, kind: Kind) -> float | str:
    if not math.isfinite(number) or number < 0:
        return f"not a quantity: {number}"
    # A driver that is asked too often, or has no sensor, may say 0 W.
    if kind == "power" and number == 0:
        return "0 W"
    return number


def _counters(nvml: Any, chip: str | None, max_w: float) -> list[Query]:
    update_s = None if chip is None else _COUNTER_UPDATE_S
    field = nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
    by_field = _method("TOTAL_ENERGY_CONSUMPTION", field, "gpu")
    call = "nvmlDeviceGetTotalEnergyConsumption"
    return [
        Query(
            Source(by_field, "counter", update_period_s=update_s, max_w=max_w),
            field=(field, nvml.NVML_POWER_SCOPE_GPU),
        ),
        Query(
            Source(call, "counter", update_period_s=update_s, max_w=max_w),
            call=call,
        ),
    ]


def _power_fields(nvml: Any, chip: str | None, scope: int, max_w: float) -> list[Query]:
    scope_name = "gpu" if scope == nvml.NVML_POWER_SCOPE_GPU else "module"
    # Nothing is known of the timing of the module's sensor but what is documented.
    instant = _INSTANT_S.get(chip or "") if scope_name == "gpu" else None
    mean = (None, 1.0) if chip in _ONE_SECOND_MEAN else None

    def query(
        name: str, field: int, timing: tuple[float | None, float] | None
    ) -> Query:
        return Query(
            _power(_method(name, field, scope_name), timing, max_w),
            field=(field, scope),
        )

    average_query = query("POWER_AVERAGE", nvml.NVML_FI_DEV_POWER_AVERAGE, mean)
    instant_query = query("POWER_INSTANT", nvml.NVML_FI_DEV_POWER_INSTANT, instant)
    both = [average_query, instant_query]
    return both if mean else both[::-1]


def _usage(chip: str | None, max_w: float) -> Query:
    call = "nvmlDeviceGetPowerUsage"
    mean = chip in _ONE_SECOND_MEAN
    timing = (None, 1.0) if mean else _INSTANT_S.get(chip or "")
    return Query(_power(call, timing, max_w), call=call)


def _power(
    method: str, timing: tuple[float | None, float] | None, max_w: float
) -> Source:
    update_s, window_s = timing or (None, None)
    return Source(
        method,
        "power",
        update_period_s=update_s,
        sensor_window_s=window_s,
        max_w=max_w,
    )


def _method(name: str, field: int, scope: str) -> str:
    return f"NVML_FI_DEV_{name} (field {field}, scope {scope})"
