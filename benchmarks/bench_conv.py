"""From how many channels does a product over patches beat XLA:CPU's convolution?

Decides `_MIN_PRODUCT_CHANNELS` of dpet_jax/models/conv.py. Both forms run inside a loop
body, as in training; the kernel gradient is timed the same way.

    python benchmarks/bench_conv.py --out=benchmarks/results/bench_conv_cpu.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from timing import interleaved, ratios, report, spread

from dpet_jax.models import conv


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=[
            "32x8",
            "32x16",
            "16x16",
            "16x32",
            "8x32",
            "8x64",
            "4x64",
            "4x128",
            "2x128",
        ],
        help="image side x channels",
    )
    parser.add_argument("--loops", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for shape in options.shapes:
        side, channels = map(int, shape.split("x"))
        rows.append(measure(side, channels, options))
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(side: int, channels: int, options: argparse.Namespace) -> dict:
    rng = np.random.default_rng(0)
    images = jnp.asarray(
        rng.normal(size=(options.batch, side, side, channels)), jnp.float32
    )
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)), jnp.float32)

    def looped(form):
        def body(_, x):
            # feeding the result back keeps the compiler from dropping an iteration
            return images + 1e-9 * form(x).ravel()[0]

        run = jax.jit(lambda x: lax.fori_loop(0, options.loops, body, x))
        return lambda: run(images)

    def products(x):
        with mock.patch.object(conv, "_MIN_PRODUCT_CHANNELS", 0):
            return conv.canonical_convolution(x, kernel, 1)

    forms = {
        "native": lambda x: conv.native_convolution(x, kernel, 1),
        "products": products,
        "kernel_gradient": lambda x: conv.canonical_gradients(1, x, kernel, images)[1],
        "native_kernel_gradient": lambda x: conv.native_gradients(1, x, kernel, images)[
            1
        ],
    }
    seconds = interleaved(
        {name: looped(form) for name, form in forms.items()}, options.repeats
    )
    flops = 2 * options.batch * side * side * 9 * channels * channels * options.loops
    return {
        "side": side,
        "channels": channels,
        "batch": options.batch,
        "gflop_per_s": {
            name: spread([flops / s / 1e9 for s in taken])["median"]
            for name, taken in seconds.items()
        },
        "products_over_native": ratios(seconds["native"], seconds["products"]),
        "kernel_gradient_over_native": ratios(
            seconds["native_kernel_gradient"], seconds["kernel_gradient"]
        ),
    }


if __name__ == "__main__":
    main()
