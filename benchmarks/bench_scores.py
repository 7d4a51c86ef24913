"""What do scores cost beyond the forward pass that they are read from?

For each width and dtype, on the same images on the device: a bare forward pass (logits
summed, nothing kept), the same with the normalisation as a step of its own (unfolded),
`score_data` with each score alone, with all at once, with logits and features as well,
and with the best of the pool taken on the device. A row for each of these ways.

    python benchmarks/bench_scores.py --out=benchmarks/results/bench_scores_cpu.json
    python benchmarks/bench_scores.py --score my_lab.scores:mine

How a score of one's own is called: see `timing.py`.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from timing import (
    add_own,
    flat_row,
    interleaved,
    network,
    parsed,
    ratios,
    report,
    spread,
)

from dpet_jax.data.augment import normalise
from dpet_jax.scores import known_scores, lookup
from dpet_jax.selection import top_k
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.scoring import ScoreSpec, score_data
from dpet_jax.training.state import DeviceData

ALL = tuple(
    name
    for name in known_scores()
    if lookup(name).reads in ("logits", "features") and not name.startswith("artifact_")
)

TOY = {"widths": [1.0], "side": 8, "examples": 10, "batch": 4, "select": 3}
TOY |= {"repeats": 1}
COLUMNS = {
    "way": "way",
    "width": "width",
    "dtype": "dtype",
    "examples/s": "examples_per_s.median",
    "over bare": "cost_over_bare.median",
    "best over best": "best_over_best_bare",
}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 0.125])
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--select", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32"], choices=("float32", "bfloat16")
    )
    add_own(parser, selectors=False, scores=True)
    options = parsed(parser, arguments, TOY)
    rows = [
        row
        for width in options.widths
        for dtype in options.dtypes
        for row in measure(width, dtype, options)
    ]
    report(__doc__.partition("\n")[0], rows, options.out, columns=COLUMNS)
    return rows


def measure(width: float, dtype: str, options: argparse.Namespace) -> list[dict]:
    model = network(options, width)
    examples, batch, side = options.examples, options.batch, options.side
    rng = np.random.default_rng(0)
    mesh = data_mesh(1)
    data = jax.device_put(
        DeviceData(
            rng.integers(0, 256, (examples, side, side, 3)).astype(np.uint8),
            rng.integers(0, 10, examples).astype(np.int32),
            np.full(3, 0.5, np.float32),
            np.full(3, 0.25, np.float32),
        )
    )
    variables = jax.jit(model.init)(jax.random.key(0))
    capacity = -(-examples // batch) * batch
    rows = jnp.asarray(np.resize(np.arange(examples), capacity), jnp.int32)
    count = jnp.int32(examples)

    def bare(run, variables):
        @jax.jit
        def summed(variables, data, rows, count):
            outputs_of = run(variables)

            def body(index, total):
                chosen = lax.dynamic_slice_in_dim(rows, index * batch, batch)
                images = normalise(data.images[chosen], data.mean, data.std)
                return total + jnp.sum(outputs_of(images).logits, axis=0)

            steps = -(-count // batch)
            return lax.fori_loop(0, steps, body, jnp.zeros(10))

        return partial(summed, variables, data, rows, count)

    def folded(variables):
        return partial(model.apply_folded, model.fold(*variables), dtype=dtype)

    def unfolded(variables):
        return partial(model.apply, *variables, dtype=dtype)

    def scored(*names):
        spec = ScoreSpec(model, names, batch, dtype, mesh)
        return partial(score_data, spec, *variables, data, rows, count)

    every = (*ALL, *options.score)
    everything = scored(*every)
    candidates = {
        "bare": bare(folded, variables),
        "bare_unfolded": bare(unfolded, variables),
        **{name: scored(name) for name in every},
        "all": everything,
        "all_logits_features": scored(*every, "logits", "features"),
        "all_and_top_k": lambda: top_k(everything()["margin"], options.select),
    }
    seconds = interleaved(candidates, options.repeats)
    facts = {
        "width": width,
        "depth": model.depth,
        "side": side,
        "examples": examples,
        "batch": batch,
        "dtype": dtype,
        "select": options.select,
    }
    best = min(seconds["bare"])
    return [
        flat_row(
            facts
            | {
                "way": name,
                "examples_per_s": spread([examples / s for s in taken]),
                "cost_over_bare": ratios(taken, seconds["bare"]),
                # on a noisy machine the fastest repeats say more than the pairs
                "best_over_best_bare": min(taken) / best,
            }
        )
        for name, taken in seconds.items()
    ]


if __name__ == "__main__":
    main()
