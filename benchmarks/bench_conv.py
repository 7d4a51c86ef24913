"""How large must images be for XLA:CPU's convolution to beat products of matrices?

Decides `_NATIVE_PIXELS` of dpet_jax/models/conv.py, and shows what its two gradients
gain over the ones that autodiff emits. Rows with `pixels_at_once` say how many pixels
of a line to compute as channels of one, where channels are few. Everything runs
inside a loop body, as in training, and every element of a result is read, so that none
is left uncomputed.

    python benchmarks/bench_conv.py --out=benchmarks/results/bench_conv_cpu.json
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

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
    parser.add_argument(
        "--narrow",
        nargs="*",
        default=["1x8", "1x16", "3x8", "3x16", "3x32", "8x8", "8x16", "16x16", "16x32"],
        help="input x output channels of a 3x3 convolution of 16 x 16 pixels",
    )
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loops", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = [
        measure(*map(int, shape.split("x")), stride, options)
        for stride in options.strides
        for shape in options.shapes
    ]
    rows += [
        grouped(*map(int, pair.split("x")), stride, options)
        for stride in options.strides
        for pair in options.narrow
    ]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def looped(
    form: Callable[..., jax.Array], loops: int, *arrays: jax.Array
) -> Callable[[], jax.Array]:
    """Return a call of `form(tiny, *arrays)` several times over, in a loop body."""

    @jax.jit
    def run(*arrays):
        def body(_, last):
            # were it the same each time, the compiler would do it only once
            return jnp.max(form(1e-9 * last, *arrays))

        return lax.fori_loop(0, loops, body, jnp.float32(0))

    return lambda: run(*arrays)


def grouped(
    inputs: int, outputs: int, stride: int, options: argparse.Namespace
) -> dict:
    """Measure a convolution of 1, 2, 4 and 8 pixels of a line at once."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(options.batch, 16, 16, inputs)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, inputs, outputs)), jnp.float32)

    def convolve(size):
        def form(tiny, images, kernel):
            return conv.convolution_of_groups(
                images + tiny, kernel, stride, [(1, 1)] * 2, size
            )

        return looped(form, options.loops, images, kernel)

    seconds = interleaved(
        {str(size): convolve(size) for size in (1, 2, 4, 8)}, options.repeats
    )
    out = 16 // stride
    flops = 2 * options.batch * out * out * 9 * inputs * outputs * options.loops
    return {
        "pixels_at_once": conv.pixels_at_once(inputs, outputs),
        "inputs": inputs,
        "outputs": outputs,
        "stride": stride,
        "batch": options.batch,
        "gflop_per_s": {
            size: spread([flops / s / 1e9 for s in taken])
            for size, taken in seconds.items()
        },
    }


def measure(side: int, channels: int, stride: int, options: argparse.Namespace) -> dict:
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    out = -(-side // stride)
    arrays = (
        draw(options.batch, side, side, channels),
        draw(3, 3, channels, channels),
        draw(options.batch, out, out, channels),
    )

    def convolve(form):
        return looped(
            lambda tiny, images, kernel, _: form(images + tiny, kernel, stride),
            options.loops,
            *arrays,
        )

    def gradient(form, which):
        def one(tiny, images, kernel, cotangent):
            return form(stride, images + tiny, kernel, cotangent + tiny)[which]

        return looped(one, options.loops, *arrays)

    seconds = interleaved(
        {
            "native": convolve(conv.native_convolution),
            "products": convolve(conv.product_convolution),
            "image_gradient": gradient(conv.canonical_gradients, 0),
            "kernel_gradient": gradient(conv.canonical_gradients, 1),
        },
        options.repeats,
    )
    # can be a hundred times slower, so once is enough
    native_seconds = interleaved(
        {
            "image_gradient": gradient(conv.native_gradients, 0),
            "kernel_gradient": gradient(conv.native_gradients, 1),
        },
        1,
    )
    flops = 2 * options.batch * out * out * 9 * channels * channels * options.loops
    return {
        "side": side,
        "channels": channels,
        "stride": stride,
        "batch": options.batch,
        "gflop_per_s": {
            name: spread([flops / s / 1e9 for s in taken])
            for name, taken in seconds.items()
        },
        "products_over_native": ratios(seconds["native"], seconds["products"]),
        **{
            f"{name}_over_native": spread([taken[0] / s for s in seconds[name]])
            for name, taken in native_seconds.items()
        },
    }


if __name__ == "__main__":
    main()
