"""How do time and memory of choosing grow with the pool?

For each size, in a process of its own: images of 8 x 8 pixels, a hundred classes of
equal size, a small network; then each choice once to compile and some times to be
timed. Scores by the margin, the largest of them, what stale losses choose, a coreset of
them, and facility location by class, of the whole class and in shards. A growth
exponent is the slope of log seconds over log rows from the size before.

    python benchmarks/bench_pool_size.py --out=FILE.json
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from bench_placement import Watched
from timing import parsed, report, spread

from dpet_jax.config.load import validate
from dpet_jax.data import DataSection, ImageSet, Source, prepare
from dpet_jax.methods.base import MAIN, TrainResult
from dpet_jax.methods.dynamic import StaleSelectiveBackprop
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run import build as parts
from dpet_jax.training.learner import DeviceLearner
from dpet_jax.training.selection import importance, top_k_on_device

#: A first call that takes longer, compilation and all, is not repeated.
LONG_S = 60.0
CHOICES = (
    *("score", "top_k", "stale", "stale_coreset"),
    *("facility_location", "facility_location_shards"),
)


class Bright(DataSection):
    """Images of 8 x 8 pixels whose brightness tells their class."""

    kind: str = "bright"
    count: int
    classes_of: int

    def read(self) -> Source:
        rng = np.random.default_rng(0)
        sets = []
        for count in (self.count, 10 * self.classes_of):
            labels = (np.arange(count) % self.classes_of).astype(np.int32)
            noise = rng.integers(0, 56, (count, 8, 8, 1), np.uint8)
            level = (200 * labels / self.classes_of).astype(np.uint8)
            sets.append(ImageSet(noise + level[:, None, None, None], labels))
        return Source("bright", *sets, tuple(map(str, range(self.classes_of))))


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--fraction", type=float, default=0.01, help="chosen")
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, help="measure this size in this process")
    toy = {"sizes": [200, 400], "classes": 4, "repeats": 1, "shards": 2}
    options = parsed(parser, arguments, toy)
    if options.one:
        print(json.dumps(measure(options, options.one)))
        return []
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        row = in_its_own_process(size, options)
        for name in CHOICES if rows else ():
            before = rows[-1]
            grown = math.log(row["rows"] / before["rows"])
            slower = math.log(median(row, name) / median(before, name))
            row[name]["exponent"] = slower / grown
        rows.append(row)
        print(json.dumps(row), flush=True)
    report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    return rows


def median(row: dict[str, Any], name: str) -> float:
    return row[name]["seconds"]["median"]


def in_its_own_process(size: int, options: argparse.Namespace) -> dict[str, Any]:
    names = ("classes", "fraction", "shards", "repeats")
    arguments = [f"--{name}={getattr(options, name)}" for name in names]
    done = subprocess.run(
        [sys.executable, __file__, f"--one={size}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, size: int) -> dict[str, Any]:
    with Watched() as watched:
        section = Bright(count=size, classes_of=options.classes, validation_fraction=0)
        data = prepare(section.read(), section)
        learner = learner_of(data, options.classes)
        rows, few = data.train_rows, max(options.classes, int(options.fraction * size))
        row: dict[str, Any] = {"rows": size, "classes": options.classes, "chosen": few}
        covering = {"per_class": True, "seed": 0}
        choices: dict[str, Callable[[], Any]] = {
            "score": lambda: jax.block_until_ready(
                learner.main.score(rows, ("margin",))
            ),
            "top_k": ranking(learner, rows, few),
            **stale(data, few),
            "facility_location": lambda: learner.select(
                "facility_location", rows, few, MAIN, **covering
            ),
            "facility_location_shards": lambda: learner.select(
                *("facility_location", rows, few, MAIN),
                **covering,
                shards=options.shards,
            ),
        }
        found = {}
        for name in CHOICES:
            seconds: list[float] = []
            while len(seconds) <= options.repeats:
                began = time.perf_counter()
                found[name] = choices[name]()
                seconds.append(time.perf_counter() - began)
                if seconds[0] > LONG_S:
                    break
            row[name] = {"seconds": spread(seconds[1:] or seconds)}
            print(name, row[name], file=sys.stderr, flush=True)
    whole, parts_of = (
        float(found[name].gains.sum(dtype=np.float64))
        for name in ("facility_location", "facility_location_shards")
    )
    row["facility_location_shards"]["covered_over_whole"] = parts_of / whole
    return row | {"peak_mib": watched.peak}


def learner_of(data: Any, classes: int) -> DeviceLearner:
    """Return a small network; what it has learned decides nothing about time."""
    config = validate({"train": {"batch_size": 100}}, "bench")
    model = ResidualNetwork(8, (8, 16), (1, 1), num_classes=classes, in_channels=1)
    asked = ("margin", "logits", "features")
    spec = parts.build_learner_spec(config, model, asked)
    learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
    for _ in learner.compile():
        pass
    return learner


def ranking(learner: DeviceLearner, rows: np.ndarray, few: int) -> Callable[[], Any]:
    """Return what takes the largest of scores that are there already."""
    scores = learner.main.score(rows, ("margin",))
    sharding = scores["margin"].sharding

    def run() -> Any:
        ranked = importance(scores, ("margin",), 0.0, sharding)
        return top_k_on_device(ranked, few, stretch_size=500, sharding=sharding)

    return run


def stale(data: Any, few: int) -> dict[str, Callable[[], Any]]:
    """Return what chooses by the last losses, and what makes a coreset of them."""
    fraction = few / data.num_train
    method = StaleSelectiveBackprop(coreset_fraction=fraction)
    pool = parts.build_pool(data)
    losses = np.random.default_rng(0).exponential(size=data.num_train)
    seen = TrainResult(
        data.train_rows.astype(np.int64),
        losses.astype(np.float32),
        np.ones(data.num_train, bool),
        np.zeros(data.num_train, np.int32),
    )
    state, _ = method.plan(method.start(pool, 0), None)  # a first pass over all
    state = method.observe(state, seen)
    chosen, plan = method.plan(state, None)
    assert plan is not None
    assert plan.size < data.num_train
    return {
        "stale": lambda: method.plan(state, None),
        "stale_coreset": lambda: method.coreset(chosen),
    }


if __name__ == "__main__":
    main()
