"""What is saved by cutting channels out of a network, and is it the same function?

For each fraction the network loses that share of the channels inside its blocks. Then:

- FLOPs of a training step: counted from the layers' shapes by hand, by `forward_flops`,
  and by XLA for the compiled step;
- bytes: of the parameters, and those that XLA says the compiled step reads and writes;
- seconds of a training step, both networks in turn in one process, and what arithmetic
  makes of them: so many seconds a FLOP and so many a byte, from uncut networks of two
  widths, added up for those that were cut;
- the largest difference of a logit between the network that was cut and the one whose
  scales and biases are masked, evaluated, in training mode, and folded for scoring.

At last a run on the digits is killed with SIGKILL after the decision to prune and
before the cut, resumed, and compared with one that was left alone, bit by bit; what was
decided by time is repeated, not measured again.

    python benchmarks/bench_prune.py --out=benchmarks/results/bench_prune_cpu.json
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, network, ratios, report, spread

from dpet_jax.config.load import validate
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.models.pruning import PruneConfig, cut, masked, widths_of
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run import build as parts
from dpet_jax.run.folder import read_events
from dpet_jax.run.load import load_run
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.state import DeviceData, StepSpec, init_state
from dpet_jax.training.steps import train_steps
from dpet_jax.training.traced import without_numbers


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--depth", type=float, default=0.5, help="0.5 is ResNet-10")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--multiple", type=int, default=8)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument(
        "--by",
        nargs="+",
        default=["uniform"],
        choices=("uniform", "batch_norm"),
        help="the same share of every block, or by scales drawn at random",
    )
    parser.add_argument(
        "--kill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also kill a run between the decision and the cut",
    )
    parser.add_argument("--toy", action="store_true", help="a network of one block")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = [
        measure(width, by, fraction, options)
        for width in options.widths
        for fraction in options.fractions
        for by in options.by
    ]
    if len(options.widths) > 1:
        rows.append(arithmetic(rows))
    report(__doc__.partition("\n")[0], rows, options.out, quiet=options.kill)
    if options.kill:
        rows.append(killed_run())
        report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(
    width: float, by: Any, fraction: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Compare a network with what pruning leaves of it."""
    whole: Any = network(options, width)
    if options.toy:
        whole = ResidualNetwork(8, (16,), (1,), num_classes=10, in_channels=3)
    rng = np.random.default_rng(0)
    groups = whole.channel_groups
    values = tuple(rng.uniform(size=group.size) for group in groups)
    section = PruneConfig(by=by, fraction=fraction, multiple=options.multiple)
    masks = section.masks(values, options.multiple)
    less = whole.with_channels(widths_of(masks))
    pair = {"before": whole, "after": less}
    side = options.side
    programs = {name: Step(one, options) for name, one in pair.items()}
    seconds = interleaved(
        {name: step.run for name, step in programs.items()}, options.repeats
    )
    by_hand = {name: flops_by_hand(one, side) for name, one in pair.items()}
    counted = {name: one.forward_flops(side, side) for name, one in pair.items()}
    assert by_hand == counted, "two ways to count agree"
    step_images = options.batch * TRAIN_FLOPS_PER_FORWARD
    return {
        "by": by,
        "fraction": fraction,
        "network": whole.label,
        "channels": list(whole.channels),
        "batch": options.batch,
        "side": side,
        "dtype": options.dtype,
        "widths": {
            name: [g.size for g in n.channel_groups] for name, n in pair.items()
        },
        "step_flops": {name: step_images * n for name, n in counted.items()}
        | {"left": counted["after"] / counted["before"]},
        "xla_step_flops": kept(programs, "flops"),
        "xla_step_bytes": kept(programs, "bytes accessed"),
        "parameter_bytes": parameter_bytes(pair),
        "step_ms": {
            name: spread([1000 * s / options.steps for s in seconds[name]])
            for name in pair
        }
        | {"left": ratios(seconds["after"], seconds["before"])},
        "compile_s": {name: step.compile_s for name, step in programs.items()},
        "largest_difference": differences(whole, less, masks, side),
    }


def arithmetic(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what step times should be, were each FLOP and each byte to take its time.

    The two prices are those that give uncut networks their measured times, by least
    squares of the relative error; no time of a network that was cut is used.
    """

    def priced(row: dict[str, Any], when: str) -> np.ndarray:
        return np.array([row["xla_step_flops"][when], row["xla_step_bytes"][when]])

    uncut = [(priced(r, "before"), r["step_ms"]["before"]["median"]) for r in rows]
    scaled = np.array([work / ms for work, ms in uncut])
    prices, *_ = np.linalg.lstsq(scaled, np.ones(len(uncut)))
    left = []
    for row in rows:
        before, after = (priced(row, when) @ prices for when in ("before", "after"))
        found = row["step_ms"]["left"]["median"]
        said = float(after / before)
        left.append(
            {
                "channels": row["channels"],
                "by": row["by"],
                "fraction": row["fraction"],
                "said": said,
                "measured": found,
                "measured_over_said": found / said,
            }
        )
    flops, moved = (float(price) for price in prices)
    return {
        "question": "step time as the sum of what FLOPs and bytes take",
        "gflops_a_second": 1e-6 / flops,
        "gigabytes_a_second": 1e-6 / moved,
        "step_time_left": left,
    }


class Step:
    """The training program of a network, compiled alone.

    Attributes:
        compile_s: Seconds of compiling it.
        cost: What XLA counts in it.
        text: The compiled program, as XLA prints it.
        run: Goes over all images once.
    """

    def __init__(self, model: Any, options: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        count = options.batch * options.steps
        shape = (count, options.side, options.side, 3)
        images = rng.integers(0, 256, shape, np.uint8)
        labels = rng.integers(0, 10, count).astype(np.int32)
        half, quarter = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
        data = jax.device_put(DeviceData(images, labels, half, quarter))
        config = validate({"train": {"optimizer": {"learning_rate": 0.01}}}, "bench")
        hyper = jax.device_put(parts.build_hyper(config))
        static = without_numbers(config.train.optimizer)
        spec = StepSpec(model, static, options.batch, options.dtype, data_mesh())
        rows, weights = jnp.arange(count, dtype=jnp.int32), jnp.ones(count)
        first, steps = jnp.int32(0), jnp.int32(options.steps)
        self.state = jax.jit(init_state, static_argnums=(0, 1, 2))(
            model, static, count, jax.random.key(0)
        )
        arguments = (data, rows, steps, first, weights, hyper)
        began = compile_counts()
        program = train_steps.lower(spec, self.state, *arguments).compile()
        self.compile_s = compile_counts().since(began).seconds
        self.cost = program.cost_analysis()
        self.text = program.as_text()
        # the program takes its state's buffers, so each run needs a copy
        self.run = lambda: program(jax.tree.map(jnp.copy, self.state), *arguments)


def kept(programs: dict[str, Step], what: str) -> dict[str, float]:
    """Return what XLA says of a step before and after, and the share that is left.

    XLA counts the body of a loop once.
    """
    found = {name: step.cost[what] for name, step in programs.items()}
    return found | {"left": found["after"] / found["before"]}


def parameter_bytes(pair: dict[str, Any]) -> dict[str, float]:
    sizes = {}
    for name, model in pair.items():
        params, _ = jax.eval_shape(model.init, jax.random.key(0))
        sizes[name] = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    return sizes | {"left": sizes["after"] / sizes["before"]}


def flops_by_hand(model: Any, side: int) -> int:
    """Count two operations for each multiply-add of every layer, from its shape."""
    total, incoming = side * side * 9 * model.in_channels * model.stem, model.stem
    for block in model.shape_of_blocks:
        side = -(-side // block.stride)
        places = side * side
        total += places * 9 * block.inner[0] * (incoming + block.channels)
        total += places * incoming * block.channels * block.projection
        incoming = block.channels
    return 2 * (total + incoming * model.num_classes)


def differences(whole: Any, less: Any, masks: Any, side: int) -> dict[str, float]:
    """Return the largest difference of a logit, with parameters drawn at random."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        values = scale * rng.normal(size=leaf.shape)
        values = values if leaf.ndim > 1 else rng.uniform(0.5, 1.5, leaf.shape)
        return values.astype(np.float32)

    key, groups = jax.random.key(0), whole.channel_groups
    params, stats = jax.tree.map(fill, jax.eval_shape(whole.init, key))
    images = jnp.asarray(rng.normal(size=(32, side, side, 3)), jnp.float32)

    def run(model, params, stats):
        return {
            "evaluated": model.apply(params, stats, images).logits,
            "training": model.apply_train(key, params, stats, images)[0].logits,
            "folded": model.apply_folded(model.fold(params, stats), images).logits,
        }

    run = jax.jit(run, static_argnums=0)
    before = run(whole, *jax.device_put((masked(params, groups, masks), stats)))
    after = run(less, *jax.device_put(cut((params, stats), groups, masks)))
    return {name: float(jnp.abs(before[name] - after[name]).max()) for name in before}


CONFIG = """
name: killed
model: {kind: resnet, stem: 8, channels: [16], blocks: [1]}
train: {batch_size: 32}
method: {kind: standard, passes: 2}
evaluate: {every: 0.5}
checkpoint: {every_s: 0}
prune: {every: 0.25, looks: 2, distance: 1.0, fraction: 0.5, trial: 0.5, tolerance: 0.9,
        min_saving: 0, min_speedup: 0}
"""

#: What a process does that a test would not: it dies where it hurts.
KILLED = """
import os, signal, sys
from dpet_jax.training.prune import Shears
Shears.cut = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from dpet_jax.cli import main
main(sys.argv[1:])
"""

#: A resumed process that may measure no time any more.
RESUMED = """
import sys
from dpet_jax.training.prune import Shears
def never(*_):
    sys.exit("measured again")
Shears.time_step = Shears.compare_steps = never
from dpet_jax.cli import main
main(sys.argv[1:])
"""


def killed_run() -> dict[str, Any]:
    """Kill a run between the decision and the cut, resume it, and compare."""
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "killed.yaml"
        config.write_text(CONFIG)

        def run(code: str, out: str, *more: str) -> int:
            command = ["run", str(config), f"--out={Path(place) / out}", *more]
            done = subprocess.run(
                [sys.executable, "-c", code, *command], capture_output=True, text=True
            )
            if done.returncode not in (0, -signal.SIGKILL):
                raise RuntimeError(done.stderr)
            return done.returncode

        plain = "import sys; from dpet_jax.cli import main; main(sys.argv[1:])"
        codes = [
            run(plain, "whole"),
            run(KILLED, "killed"),
            run(RESUMED, "killed", "--resume"),
        ]
        folders = [
            Path(place) / out / "killed" / "seed0" for out in ("whole", "killed")
        ]
        whole, resumed = (load_run(folder) for folder in folders)
        events = read_events(folders[1] / "events.jsonl", superseded=True)
        decisions = [e for e in events if e.get("step") == "decision"]
        return {
            "run": "killed with SIGKILL between the decision and the cut, then resumed",
            "exit_codes": codes,
            "killed_by_signal": codes[1] == -signal.SIGKILL,
            "decisions": [
                {key: e[key] for key in ("decision", "repeated", "step_s_after")}
                for e in decisions
            ],
            "widths": [list(run.model.inner) for run in (whole, resumed)],
            "same_bits": all(
                np.array_equal(a, b)
                for a, b in zip(
                    jax.tree.leaves((whole.params, whole.batch_stats)),
                    jax.tree.leaves((resumed.params, resumed.batch_stats)),
                    strict=True,
                )
            ),
        }


if __name__ == "__main__":
    main()
