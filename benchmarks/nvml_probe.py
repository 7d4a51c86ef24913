"""What does NVML report of this GPU's energy, how often, and is it right?

Every source and scope is asked as fast as is reasonable while the GPU idles, computes
all the time, and computes half of every 100 ms and of every 130 ms. A sensor that looks
at a part of each 100 ms misjudges a load in step with it and no other. So a bias of one
source at 100 ms that is not there at 130 ms is its blind spot; where its period is not
quite 100 ms, the bias comes and goes, and shows in the spread of its one-second means.

    python benchmarks/nvml_probe.py --seconds=20 --out=benchmarks/results/probe.json
"""

import argparse
import importlib
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from timing import report

from dpet_jax.energy.probes.nvml.probe import find
from dpet_jax.energy.probes.nvml.queries import field_number, reason

QUESTION = "What does NVML report of this GPU's energy, how often, and does it agree?"
SCOPES = {
    "gpu": "NVML_POWER_SCOPE_GPU",
    "module": "NVML_POWER_SCOPE_MODULE",
    "memory": "NVML_POWER_SCOPE_MEMORY",
}
FIELDS = {
    "average": "NVML_FI_DEV_POWER_AVERAGE",
    "instant": "NVML_FI_DEV_POWER_INSTANT",
    "energy_191": "NVML_FI_DEV_ENERGY",
}
#: Period of each load in seconds; None computes all the time, 0 never.
LOADS = {"idle": 0.0, "constant": None, "square 100 ms": 0.1, "square 130 ms": 0.13}
REFERENCE = "counter"


class Reading(NamedTuple):
    time_s: float  # middle of the call
    call_s: float
    value: float  # joules or watts


class MatmulLoad:
    """Multiply bfloat16 matrices on one device, always or half of every period."""

    def __init__(self, device, size=8192, burst_s=0.002):
        keys = jax.random.split(jax.random.key(0))
        # Random, for constants cost less; scaled, so that powers stay finite.
        self._factor, self._start = (
            jax.device_put(jax.random.normal(key, (size, size), jnp.bfloat16), device)
            for key in keys
        )
        self._factor /= size**0.5
        self._multiply = jax.jit(
            lambda factor, start, times: jax.lax.fori_loop(
                0, times, lambda _, product: factor @ product, start
            )
        )
        self._times = 1
        self._burst()
        while self._burst() < burst_s:
            self._times *= 2
        self._thread = ThreadPoolExecutor(1)

    def start(self, period_s):
        self._stopping = threading.Event()
        self._running = self._thread.submit(work, self._burst, period_s, self._stopping)

    def stop(self):
        """Stop, and return how well the plan was kept."""
        self._stopping.set()
        return self._running.result()

    def _burst(self):
        before = time.monotonic()
        self._multiply(self._factor, self._start, self._times).block_until_ready()
        return time.monotonic() - before


def work(burst, period_s, stopping, clock=time.monotonic):
    """Compute half of every period until stopped; all the time if it is None.

    Args:
        burst: Computes for a moment and returns its seconds.
        period_s: Seconds from one beginning to the next, or None.
        stopping: A `threading.Event`.
        clock: Seconds.

    Returns:
        The share of the time that went to bursts, and the mean period.
    """
    began = edge = clock()
    on_s, periods = 0.0, 0
    while not stopping.is_set():
        if period_s is None:
            on_s += burst()
            continue
        while clock() < edge + period_s / 2:
            on_s += burst()
        periods += 1
        edge = began + periods * period_s
        stopping.wait(max(edge - clock(), 0.0))
    ran_s = clock() - began
    return {
        "duty": on_s / ran_s if ran_s else 0.0,
        "period_s": ran_s / periods if periods else None,
    }


def sources_of(nvml, handle):
    """Return what can be asked, by name, as functions that give joules or watts."""

    def by_field(field, scope):
        def ask():
            (entry,) = nvml.nvmlDeviceGetFieldValues(handle, [(field, scope)])
            return field_number(nvml, entry) / 1000

        return ask

    sources = {
        REFERENCE: lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
        "counter field": by_field(nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0),
        "power_usage": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    for name, field in FIELDS.items():
        for scope, number in SCOPES.items():
            sources[f"{name} {scope}"] = by_field(
                getattr(nvml, field), getattr(nvml, number)
            )
    return sources


def answering(sources):
    """Split the sources into those that answer and the reasons why others do not."""
    answer, refuse = {}, {}
    for name, ask in sources.items():
        try:
            ask()
            answer[name] = ask
        except Exception as error:  # to find out is what this script is for
            refuse[name] = reason(error)
    return answer, refuse


def watch(sources, seconds, poll_s, clock, wait):
    """Ask all sources in turn for a while; failed readings are left out."""
    traces = {name: [] for name in sources}
    failures = dict.fromkeys(sources, 0)
    end = clock() + seconds
    while clock() < end:
        for name, ask in sources.items():
            before = clock()
            try:
                value = ask()
            except Exception:
                failures[name] += 1
                continue
            after = clock()
            traces[name].append(Reading((before + after) / 2, after - before, value))
        wait(poll_s)
    return traces, failures


def changes(trace):
    """Return the readings that differ from the one before."""
    return [later for earlier, later in pairwise(trace) if later.value != earlier.value]


def mean_w(name, trace):
    """Return mean watts of a counter, from change to change, or of a power trace."""
    if is_energy(name):
        trace = changes(trace)
    if len(trace) < 2:
        return None
    span_s = trace[-1].time_s - trace[0].time_s
    if is_energy(name):
        return (trace[-1].value - trace[0].value) / span_s
    pairs = pairwise(trace)
    joules = sum((b.time_s - a.time_s) * (a.value + b.value) / 2 for a, b in pairs)
    return joules / span_s


def one_second_w(name, trace):
    """Return the smallest and largest mean watts of any whole second."""
    seconds = {}
    for reading in trace:
        seconds.setdefault(int(reading.time_s - trace[0].time_s), []).append(reading)
    means = [mean_w(name, part) for part in list(seconds.values())[:-1]]
    means = [mean for mean in means if mean is not None]
    return {"min": min(means), "max": max(means)} if means else None


def is_energy(name):
    return name.startswith(("counter", "energy"))


def source_row(load, name, trace, failures):
    """Return how fast a source answers and how often its number changes."""
    calls_us = [reading.call_s * 1e6 for reading in trace]
    gaps_ms = [(b.time_s - a.time_s) * 1e3 for a, b in pairwise(changes(trace))]
    return {
        "row": "source",
        "load": load,
        "source": name,
        "readings": len(trace),
        "failures": failures,
        "call_us": {"median": statistics.median(calls_us), "max": max(calls_us)}
        if calls_us
        else None,
        "update_ms": {"median": statistics.median(gaps_ms), "min": min(gaps_ms)}
        if gaps_ms
        else None,
    }


def load_row(load, traces, realised):
    """Compare the mean watts of the sources."""
    watts = {name: mean_w(name, trace) for name, trace in traces.items()}
    reference_w = watts.get(REFERENCE)
    return {
        "row": "load",
        "load": load,
        "mean_w": watts,
        "over_counter": {
            name: value / reference_w
            for name, value in watts.items()
            if value is not None and reference_w and name != REFERENCE
        },
        "one_second_w": {
            name: one_second_w(name, trace) for name, trace in traces.items()
        },
        "realised": realised,
    }


def main(arguments=None, *, clock=time.monotonic, wait=time.sleep, load=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", type=int, default=0, help="CUDA's number")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds before it")
    parser.add_argument(
        "--poll", type=float, default=0.002, help="seconds between asks"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = list(measure(options, LOADS, clock=clock, wait=wait, load=load))
    report(QUESTION, rows, options.out)
    return rows


def measure(options, loads, *, clock=time.monotonic, wait=time.sleep, load=None):
    """Yield the rows of one GPU, those of each load when it has been measured.

    Args:
        options: The GPU's number, and seconds: `gpu`, `seconds`, `settle`, `poll`.
        loads: Names and periods, some of `LOADS`.
        clock: Seconds.
        wait: Sleeps for some seconds.
        load: Computes; by default a `MatmulLoad`.
    """
    found = find([options.gpu])
    if not found.probes:
        absence = found.unavailable[0]
        print(f"nothing to probe: {absence.reason}; {absence.remedy}", file=sys.stderr)
        raise SystemExit(2)
    (probe,) = found.probes
    nvml = importlib.import_module("pynvml")
    facts = probe.facts()
    try:
        load = load or MatmulLoad(_device(options.gpu))
        handle = nvml.nvmlDeviceGetHandleByUUID(facts["uuid"])
        sources, refusals = answering(sources_of(nvml, handle))
        yield {
            "row": "gpu",
            **facts,
            "nvidia_ml_py": version("nvidia-ml-py"),
            "refusals": refusals,
            "chosen": [source.method for source in probe.sources],
        }
        for name, period_s in loads.items():
            if period_s != 0.0:
                load.start(period_s)
            try:
                wait(options.settle)
                traces, failures = watch(
                    sources, options.seconds, options.poll, clock, wait
                )
            finally:
                realised = load.stop() if period_s != 0.0 else None
            for source in sources:
                yield source_row(name, source, traces[source], failures[source])
            yield load_row(name, traces, realised)
    finally:
        probe.close()


def _device(ordinal):
    for device in jax.local_devices():
        if device.platform == "gpu" and device.local_hardware_id == ordinal:
            return device
    message = f"nothing to load: JAX has no GPU {ordinal}; see dpet doctor"
    print(message, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
