"""How long do the programs of a run take to compile, and is that ever done twice?

A learner is made in a fresh process with an empty compilation cache (cold), in another
one with what that left (warm), and once more in the same process (again). Then sets
grow, pools shrink and queries change their size: the compilations that this causes are
counted, by JAX's own events.

    python benchmarks/bench_compile.py --out=benchmarks/results/bench_compile_cpu.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from timing import report


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--toy", action="store_true", help="the smallest of everything")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.toy:
        options.examples, options.batch, options.side = 64, 32, 8
    if options.child:
        print(json.dumps(measure(options)))
        return []
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            rows += [
                {"cache": state, **row} for row in in_fresh_process(cache, options)
            ]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def in_fresh_process(cache: str, options: argparse.Namespace) -> list[dict]:
    """Measure in a process that knows nothing but a cache folder."""
    command = [
        *(sys.executable, __file__, "--child", f"--width={options.width}"),
        *(f"--side={options.side}", f"--examples={options.examples}"),
        *(f"--batch={options.batch}", f"--dtype={options.dtype}"),
        *(["--toy"] if options.toy else []),
    ]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> list[dict]:
    """Make a learner twice and let it work on sets of many sizes."""
    # here, so that the process that only starts others needs no JAX of its own
    from bench_overhead import random_images

    from dpet_jax.config.load import validate
    from dpet_jax.run import build as parts
    from dpet_jax.training.compilation import compile_counts
    from dpet_jax.training.learner import DeviceLearner

    model = {"kind": "resnet18", "width_multiplier": options.width}
    if options.toy:
        model = {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]}
    config = validate(
        {
            "model": model | {"compute_dtype": options.dtype},
            "train": {"batch_size": options.batch},
            "evaluate": {"batch_size": min(500, options.examples)},
        },
        "bench_compile",
    )
    data = random_images(options.examples, options.side)
    spec = parts.build_learner_spec(
        config, parts.build_model(config, data), ("margin", "grand")
    )

    def made():
        learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
        began = time.perf_counter()
        programs = list(learner.compile())
        return learner, programs, time.perf_counter() - began

    learner, programs, first_s = made()
    _, again, again_s = made()
    before = compile_counts()
    sizes = work(learner, options)
    grown = compile_counts().since(before)
    rows = [
        {
            "what": program.what,
            "compile_s": program.seconds,
            "programs": program.programs,
            "cache_hits": program.cache_hits,
        }
        for program in programs
    ]
    return [
        *rows,
        {
            "what": "all, with tracing and lowering",
            "wall_s": first_s,
            "compile_s": sum(program.seconds for program in programs),
            "programs": sum(program.programs for program in programs),
            "cache_hits": sum(program.cache_hits for program in programs),
        },
        {
            "what": "all again, in the same process",
            "wall_s": again_s,
            "programs": sum(program.programs for program in again),
        },
        {"what": f"work on sets of {sizes} sizes", "programs": grown.programs},
    ]


def work(learner, options: argparse.Namespace) -> int:
    """Train on growing sets and query shrinking pools; return how many sizes."""
    import numpy as np

    from dpet_jax.methods.base import Plan, Span
    from dpet_jax.training.chunks import Batches

    sizes = [options.examples * share // 8 for share in range(1, 8)]
    for index, size in enumerate(sizes):
        chosen = np.arange(size, dtype=np.int32)
        plan = Plan(chosen, "bench", reset="optimizer")
        learner.main.begin(plan, index)
        batches = Batches(plan, options.batch, seed=0, plan_index=index)
        steps = batches.num_steps
        rows = batches.rows(0, steps)
        learner.main.wait(learner.main.train(rows, steps, Span(0, plan.visits), 0))
        pool = np.arange(size, options.examples, dtype=np.int32)
        for score in ("margin", "grand"):
            learner.select("top_k", pool, min(size, pool.size), scores=(score,))
        learner.evaluate("test")
    return len(sizes)


if __name__ == "__main__":
    main()
