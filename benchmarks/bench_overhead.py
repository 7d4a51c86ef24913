"""What does choosing the examples cost, as a share of training on them?

For every ranking, one query over the whole training split (score, rank, and bring the
chosen to the host), beside one training epoch of the same network on the same data.
Every figure is repeated until it has lasted as long as asked for; the rankings and
training take turns, so that drift of the machine meets all of them. Wh come from the
energy meter, and are null where nothing can be measured. Of the proxy, which is a
quarter as wide, this is the scoring alone; it is trained besides.

    python benchmarks/bench_overhead.py --model=resnet18 --width=0.25 \\
        --out=benchmarks/results/bench_overhead_cpu.json
    python benchmarks/bench_overhead.py --device=gpu --model=resnet18 --dtype=bfloat16
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import report, spread

from dpet_jax.config.load import validate
from dpet_jax.data import Data, prepare
from dpet_jax.data.source import ImageSet, make_source
from dpet_jax.data.sources import Digits
from dpet_jax.energy import EnergyMeter, discover
from dpet_jax.methods.base import PROXY, Plan, Span
from dpet_jax.methods.dpet import Dpet
from dpet_jax.run import build as parts
from dpet_jax.scores.registry import selectable_scores
from dpet_jax.training.chunks import Batches
from dpet_jax.training.learner import DeviceLearner

SCORES = tuple(name for name in selectable_scores() if name != "random")
RANKINGS = ("random", *SCORES, "margin and el2n", "margin by a proxy")
TURNS = 5
NOBODY = np.zeros(0, np.int32)


@dataclass
class Figure:
    """One thing to be measured.

    Attributes:
        run: Does it once, to its end.
        flops: FLOPs of once.
        seconds: How long each time took.
        wh: Gross Wh of each turn; None where unavailable.
    """

    run: Callable[[], Any]
    flops: int = 0
    seconds: list[float] = field(default_factory=list)
    wh: list[float | None] = field(default_factory=list)

    @property
    def wh_once(self) -> float | None:
        """Mean gross Wh of doing it once."""
        known = [wh for wh in self.wh if wh is not None]
        return sum(known) / len(self.seconds) if len(known) == len(self.wh) else None


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="JAX's default")
    parser.add_argument("--model", default="resnet18", choices=("resnet18", "resnet20"))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--select", type=int, default=1000)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each figure")
    parser.add_argument("--toy", action="store_true", help="the smallest of everything")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.device:
        platforms = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
        jax.config.update("jax_platforms", platforms[options.device])
    if options.toy:
        options.examples, options.batch, options.select = 64, 32, 4
        options.side, options.seconds = 8, 0.05
    rows = measure(options)
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(options: argparse.Namespace) -> list[dict]:
    learner = build(options)
    figures = {"training epoch": epoch_of(learner, options)}
    for name in RANKINGS:
        figures[name] = query_of(learner, name, options)
    with EnergyMeter(discover(jax.local_devices())) as meter:
        for _ in range(TURNS):
            for name, figure in figures.items():
                phase = "train" if name == "training epoch" else "select"
                with meter.window(phase, name) as window:
                    ends = time.perf_counter() + options.seconds / TURNS
                    while time.perf_counter() < ends:
                        began = time.perf_counter()
                        figure.run()
                        figure.seconds.append(time.perf_counter() - began)
                figure.wh.append(window.energy.wh if window.energy else None)
    epoch = figures["training epoch"]
    epoch_s, epoch_wh = spread(epoch.seconds)["median"], epoch.wh_once
    return [
        {
            "what": name,
            "model": options.model,
            "width": options.width,
            "side": options.side,
            "dtype": options.dtype,
            "examples": options.examples,
            "seconds": spread(figure.seconds),
            "share_of_epoch": spread([s / epoch_s for s in figure.seconds]),
            "flops_share_of_epoch": figure.flops / epoch.flops,
            "wh": figure.wh_once,
            "share_of_epoch_wh": figure.wh_once / epoch_wh if epoch_wh else None,
            "times": len(figure.seconds),
            "measured_s": sum(figure.seconds),
        }
        for name, figure in figures.items()
    ] + [{"what": "peak memory", **learner.memory()}]


def build(options: argparse.Namespace) -> DeviceLearner:
    """Return a learner over random images: what they show costs nothing."""
    model = {"kind": options.model, "width_multiplier": options.width}
    if options.toy:
        model = {"kind": "resnet", "stem": 32, "channels": [32], "blocks": [1]}
    config = validate(
        {
            "model": model | {"compute_dtype": options.dtype},
            "train": {"batch_size": options.batch, "augment": {"translate": 4}},
            "method": {"proxy": {"width_multiplier": 0.25}},
            "evaluate": {"batch_size": min(2000, options.examples)},
        },
        "bench_overhead",
    )
    data = random_images(options.examples, options.side)
    shape = parts.build_model(config, data)
    spec = parts.build_learner_spec(config, shape, SCORES)
    learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
    for _ in learner.compile():
        pass
    return learner


def random_images(examples: int, side: int) -> Data:
    rng = np.random.default_rng(0)

    def drawn(count):
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        return ImageSet(images, np.arange(count, dtype=np.int32) % 10)

    names = [str(label) for label in range(10)]
    source = make_source("random", drawn(examples), drawn(10), names, ("train", "test"))
    return prepare(source, Digits(validation_fraction=0.0))


def epoch_of(learner: DeviceLearner, options: argparse.Namespace) -> Figure:
    """Train on every example once, waited for as the loop does."""
    plan = Plan(np.arange(options.examples, dtype=np.int32), "bench")
    learner.main.begin(plan, 0)
    batches = Batches(plan, options.batch, seed=0, plan_index=0)
    rows, steps = batches.rows(0, batches.num_steps), batches.num_steps

    def run():
        learner.main.wait(learner.main.train(rows, steps, Span(0, plan.visits), 0))

    run()
    return Figure(run, steps * options.batch * learner.main.train_flops)


def query_of(learner: DeviceLearner, name: str, options: argparse.Namespace) -> Figure:
    """Choose examples from the whole training split, as a round does."""
    if name == "margin by a proxy":
        everybody = np.arange(options.examples, dtype=np.int32)

        def run():
            learner.select(
                "top_k", everybody, options.select, PROXY, scores=("margin",)
            )

    else:
        blended = name == "margin and el2n"
        method = Dpet(
            score="margin" if blended else name,
            query_size=options.select,
            dissimilarity={"kind": "euclidean" if blended else "none"},
        )

        def run():
            method.query(learner, options.examples, NOBODY, seed=0, round_index=1)

    before = learner.select_flops
    run()
    return Figure(run, learner.select_flops - before)


if __name__ == "__main__":
    main()
