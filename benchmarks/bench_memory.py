"""What does it cost that a program gets its memory anew at every call, page by page?

XLA on a CPU asks for the memory that a program works in at each call and returns it
after; glibc returns it to the system. Calls of the training program are timed in
processes in turns: in pages as they come, and in large ones, which the command line
asks for. What differs is paid once a call, whatever number of steps it makes; a run's
calls last about a second, so that those of slow steps make one.

    python benchmarks/bench_memory.py --out=benchmarks/results/bench_memory_cpu.json
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence

import jax
from bench_epoch import ours, random_images
from timing import flat_row, network, parsed, ratios, report, spread

_VARIABLE, _LARGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
#: Width, batch size and steps of a call, one by default.
_CALLS = ("0.25x64", "0.25x128", "0.25x128x8", "0.5x512", "1x128")
_COLUMNS = {
    "width": "width",
    "batch": "batch",
    "steps": "steps",
    "as they come, ms": "common_ms.median",
    "large, ms": "large_ms.median",
    "common/large": "common_over_large.median",
    "min": "common_over_large.min",
    "max": "common_over_large.max",
}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    """Time calls of several shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", nargs="+", default=_CALLS, metavar="WIDTHxBATCH")
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3, help="processes of each")
    parser.add_argument("--child", metavar="CALL", help=argparse.SUPPRESS)
    options = parsed(parser, arguments, {"calls": ["1x8x2"], "side": 8, "turns": 1})
    if options.child:
        print(json.dumps(timed(options.child, options)))
        return []
    rows = [flat_row(measure(call, options)) for call in options.calls]
    report(__doc__.partition("\n")[0], rows, options.out, columns=_COLUMNS)
    return rows


def measure(call: str, options: Namespace) -> dict:
    """Time one shape of a call, both ways in turns."""
    found: dict[str, list[dict]] = {"common": [], "large": []}
    for _ in range(options.turns):
        for name, variables in (("common", {}), ("large", {_VARIABLE: _LARGE})):
            found[name].append(_in_a_process(call, variables, options))
    common, large = ([one["ms"] for one in rows] for rows in found.values())
    width, asked = _shape(call)
    return {
        "width": width,
        "batch": asked.batch,
        "steps": asked.steps,
        "side": options.side,
        "common_ms": spread(common),
        "large_ms": spread(large),
        "common_over_large": ratios(common, large),
        "common_faults": found["common"][-1]["faults"],
        "large_faults": found["large"][-1]["faults"],
    }


def _shape(call: str) -> tuple[float, Namespace]:
    """Return the width of a call, and what `bench_epoch` is asked for."""
    width, batch, *steps = call.split("x")
    asked = {"batch": int(batch), "steps": int(*steps or [1])}
    return float(width), Namespace(**asked, dtype="float32", native_loop=False)


def _in_a_process(call: str, variables: dict[str, str], options: Namespace) -> dict:
    command = [
        *(sys.executable, __file__, f"--child={call}"),
        *(f"--depth={options.depth}", f"--side={options.side}"),
        *(["--toy"] if options.toy else []),
    ]
    plain = {name: value for name, value in os.environ.items() if name != _VARIABLE}
    done = subprocess.run(
        command, env=plain | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def timed(call: str, options: Namespace) -> dict:
    """Return what the median of seven calls takes, and the last one's page faults."""
    width, asked = _shape(call)
    images, labels = random_images(asked.batch * asked.steps, options.side)
    run = ours(network(options, width), images, labels, asked)["chunked"]
    _once(run)
    seconds, faults = zip(*(_once(run) for _ in range(7)), strict=True)
    return {"ms": 1e3 * statistics.median(seconds), "faults": faults[-1]}


def _once(run: Callable[[], object]) -> tuple[float, int]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began = time.perf_counter()
    jax.block_until_ready(run())
    taken = time.perf_counter() - began
    return taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


if __name__ == "__main__":
    main()
