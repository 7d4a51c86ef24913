"""How fast is training and inference, and how near to what the hardware allows?

The training program is `train_steps`, a loop on the device over batches of a data set
that lies there. Beside it, on the same network, images, precision and optimizer:

- a Python loop over the same step compiled alone with XLA's own convolutions, and, if
  asked for, the device's loop with those, which on a CPU shows why ours exist;
- where PyTorch is installed, its eager mode and, if asked for, `torch.compile`, with
  channels last and the images on the device. Both sides gather uint8 rows, run their
  augmentation, at strength 0, and normalise.

Inference is `apply_folded` in a loop on the device, against PyTorch in inference mode.
MFU is counted FLOPs (2 x multiply-adds of convolutions and the last layer; a training
visit is three forward passes) over a peak: that of a large product of random matrices
in the same dtype, measured in this process, or the one given.

    python benchmarks/bench_epoch.py --out=benchmarks/results/bench_epoch_cpu.json
"""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from timing import interleaved, matrix_peak, network, ratios, report, spread

from dpet_jax.config.load import validate
from dpet_jax.data.augment import normalise
from dpet_jax.models.conv import native_convolution
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run import build as parts
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.state import DeviceData, StepSpec, init_state
from dpet_jax.training.steps import ChunkStats, train_step, train_steps
from dpet_jax.training.traced import without_numbers

#: Side of the matrices whose product gives the peak.
PEAK_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 0.125])
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--peak-tflops", type=float, help="instead of measuring it")
    parser.add_argument(
        "--native-loop",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also time XLA's convolutions in the loop, which is slow on a CPU",
    )
    parser.add_argument(
        "--compile-torch",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also time torch.compile, which needs a C++ compiler on a CPU",
    )
    parser.add_argument("--toy", action="store_true", help="the smallest network")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    side = PEAK_SIDE[jax.default_backend()]
    peak = options.peak_tflops or matrix_peak(side, options.dtype)
    rows = [measure(width, peak, options) for width in options.widths]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(width: float, peak: float, options: argparse.Namespace) -> dict:
    model = network(options, width)
    count = options.batch * options.steps
    images, labels = random_images(count, options.side)
    candidates = ours(model, images, labels, options) | theirs(
        model, images, labels, options
    )
    slow = {name: candidates.pop(name) for name in SLOW if name in candidates}
    seconds = interleaved(candidates, options.repeats)
    for name, run in slow.items():
        seconds[name] = interleaved({name: run}, 1)[name]
    forward = model.forward_flops(options.side, options.side)

    def figures(name: str) -> dict[str, Any]:
        flops = forward * (1 if "forward" in name else TRAIN_FLOPS_PER_FORWARD)
        images_per_s = spread([count / s for s in seconds[name]])
        tflops = images_per_s["median"] * flops / 1e12
        return {"images_per_s": images_per_s, "mfu": tflops / peak}

    def ratio(fast: str, slow: str) -> dict[str, float] | None:
        return ratios(seconds[slow], seconds[fast]) if slow in seconds else None

    return {
        "width": width,
        "depth": model.depth,
        "batch": options.batch,
        "side": options.side,
        "dtype": options.dtype,
        "peak_tflops": peak,
        "peak": "given" if options.peak_tflops else "measured matrix product",
        **{name: figures(name) for name in seconds},
        "chunked_over_native_steps": ratio("chunked", "native_steps"),
        "chunked_over_native_chunked": ratio("chunked", "native_chunked"),
        "train_over_torch": ratio("chunked", "torch_train"),
        "train_over_torch_compiled": ratio("chunked", "torch_compiled_train"),
        "forward_over_torch": ratio("forward", "torch_forward"),
        "forward_over_torch_compiled": ratio("forward", "torch_compiled_forward"),
    }


SLOW = ("native_chunked",)


class Native(ResidualNetwork):
    """The same network with XLA's own convolutions."""

    def apply_train(self, *arguments: Any, **options: Any) -> Any:
        return super().apply_train(*arguments, convolve=native_convolution, **options)


def ours(
    model: ResidualNetwork, images: Any, labels: Any, options: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """Return functions that go over all images once."""
    half, quarter = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
    data = jax.device_put(DeviceData(images, labels, half, quarter))
    config = validate({"train": {"optimizer": {"learning_rate": 0.01}}}, "bench")
    hyper = jax.device_put(parts.build_hyper(config))
    static = without_numbers(config.train.optimizer)
    spec = StepSpec(model, static, options.batch, options.dtype, data_mesh())
    native = replace(spec, model=Native(*astuple(model)))
    rows, weights = jnp.arange(labels.size, dtype=jnp.int32), jnp.ones(labels.size)
    first, steps = jnp.int32(0), jnp.int32(options.steps)
    state = jax.jit(init_state, static_argnums=(0, 1, 2))(
        model, static, labels.size, jax.random.key(0)
    )

    def chunk(spec):
        def run():
            # the program takes its state's buffers, so each run needs a copy
            mine = jax.tree.map(jnp.copy, state)
            return train_steps(spec, mine, data, rows, steps, first, weights, hyper)

        return run

    single = jax.jit(train_step, static_argnums=0)
    zero = ChunkStats(jnp.float32(0), jnp.int32(0), jnp.int32(0))

    def loop():
        carry = (state, zero)
        for batch in rows.reshape(options.steps, options.batch):
            carry = single(native, carry, data, batch, first, weights, hyper)
        return carry

    @jax.jit
    def forward(params, stats, data):
        folded = model.fold(params, stats)

        def body(index, total):
            batch = lax.dynamic_slice_in_dim(rows, index * options.batch, options.batch)
            pixels = normalise(data.images[batch], data.mean, data.std)
            outputs = model.apply_folded(folded, pixels, dtype=options.dtype)
            return total + outputs.logits.sum()

        return lax.fori_loop(0, options.steps, body, jnp.float32(0))

    candidates = {
        "chunked": chunk(spec),
        "native_steps": loop,
        "forward": lambda: forward(state.params, state.batch_stats, data),
    }
    if options.native_loop:
        candidates["native_chunked"] = chunk(native)
    return candidates


def theirs(
    model: ResidualNetwork, images: Any, labels: Any, options: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """Return what PyTorch makes of the same; nothing where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch_resnet

    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert parameters == torch_resnet.num_parameters(model), "another network"
    modes = {"torch": False}
    if options.compile_torch:
        modes["torch_compiled"] = True
    return {
        f"{mode}_{what}": run
        for mode, compiled in modes.items()
        for what, run in torch_resnet.runs(
            model, images, labels, options.batch, options.dtype, compiled=compiled
        ).items()
    }


def random_images(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    return images, rng.integers(0, 10, count).astype(np.int32)


if __name__ == "__main__":
    main()
