"""How close is the chunked training program to a loop of native single steps?

The chunked program is `train_steps`, a loop on the device; beside it a Python loop over
the same step compiled alone with XLA's own convolutions, and the chunked program with
those convolutions, which on the CPU shows why ours exist.

    python benchmarks/bench_epoch.py --out=benchmarks/results/bench_epoch_cpu.json
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, ratios, report, spread

from dpet_jax import parts
from dpet_jax.config import validate
from dpet_jax.data.device import DeviceData
from dpet_jax.learner import data_mesh
from dpet_jax.models import apply_train, forward_flops, resnet18
from dpet_jax.models.conv import native_convolution
from dpet_jax.models.spec import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.training import ChunkStats, StepSpec, init_state, train_steps
from dpet_jax.training import steps as program
from dpet_jax.training.steps import train_step


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 0.125])
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--native-loop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time XLA's convolutions in the loop",
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = [measure(width, options) for width in options.widths]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(width: float, options: argparse.Namespace) -> dict:
    model = resnet18(10, width_multiplier=width, depth_multiplier=options.depth)
    batch, steps, side = options.batch, options.steps, options.side
    spec = StepSpec(model, "sgd", batch, options.dtype, data_mesh())
    rng = np.random.default_rng(0)
    count = batch * steps
    data = jax.device_put(
        DeviceData(
            rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8),
            rng.integers(0, 10, count).astype(np.int32),
            np.full(3, 0.5, np.float32),
            np.full(3, 0.25, np.float32),
        )
    )
    hyper = jax.device_put(
        parts.build_hyper(validate({"train": {"augment": {"translate": 4}}}, "bench"))
    )
    rows, weights = jnp.arange(count, dtype=jnp.int32), jnp.ones(count)
    first = jnp.int32(0)
    state = jax.jit(init_state, static_argnums=(0, 1, 2))(
        model, "sgd", count, jax.random.key(0)
    )

    def chunk(train):
        def run():
            # the program takes its state's buffers, so each run needs a copy
            return train(
                spec,
                jax.tree.map(jnp.copy, state),
                data,
                rows,
                jnp.int32(steps),
                first,
                weights,
                hyper,
            )

        return run

    # a new function object, so that its traces are not ours
    single = jax.jit(lambda spec, *rest: train_step(spec, *rest), static_argnums=0)
    zero = ChunkStats(jnp.float32(0), jnp.int32(0), jnp.int32(0))
    batches = rows.reshape(steps, batch)

    def loop():
        carry = (state, zero)
        for batch_rows in batches:
            carry = single(spec, carry, data, batch_rows, first, weights, hyper)
        return carry

    candidates = {"chunked": chunk(train_steps)}
    native = partial(
        mock.patch.object,
        program,
        "apply_train",
        partial(apply_train, convolve=native_convolution),
    )
    with native():
        jax.block_until_ready(loop())
    candidates["native_steps"] = loop
    if options.native_loop:
        native_chunk = chunk(
            jax.jit(
                lambda spec, *rest: train_steps.__wrapped__(spec, *rest),
                static_argnums=0,
            )
        )
        with native():
            jax.block_until_ready(native_chunk())
    seconds = interleaved(candidates, options.repeats)
    if options.native_loop:
        # far slower, so once is enough
        seconds["native_chunked"] = interleaved({"it": native_chunk}, 1)["it"]
    images = {
        name: spread([count / s for s in taken]) for name, taken in seconds.items()
    }
    flops = TRAIN_FLOPS_PER_FORWARD * forward_flops(model, side, side)
    result = {
        "width": width,
        "depth": model.depth,
        "batch": batch,
        "side": side,
        "dtype": options.dtype,
        "images_per_s": images,
        "chunked_over_native_steps": ratios(
            seconds["native_steps"], seconds["chunked"]
        ),
        "gflop_per_s": images["chunked"]["median"] * flops / 1e9,
    }
    if options.native_loop:
        steps_s = spread(seconds["native_steps"])["median"]
        result["native_chunked_over_native_steps"] = (
            steps_s / seconds["native_chunked"][0]
        )
    return result


if __name__ == "__main__":
    main()
