"""Do odd channel counts make a training step slower than its FLOPs, and why?

The tight-budget paper found its ResNet-20 of scale 1.1 slower than that of 1.2: cuDNN
had chosen another convolution, in many more kernels, for 17 and 35 channels. Here the
family is built at widths 1.0, 1.05 and so on to 1.4, with the paper's channel counts
and with multiples of 8, its depth left alone, and for each network are given:

- seconds of a step of the program that runs train with, all networks in turn;
- that time over what width 1 takes for as many FLOPs, with the same multiple;
- the kernels of the loop's body in the compiled program, by operation. On a GPU a call
  into cuDNN is one of them, whatever it launches: `gpu_suite.py` traces those.

The last row holds every network that is slower than a wider one by more than
`--margin`, with the kernels that it has and the wider one has not. Is it empty, nothing
has to be explained; has it no more kernels, the same kernels took longer.

    python benchmarks/bench_widths.py --out=benchmarks/results/bench_widths_cpu.json
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_prune import Step
from gpu_program import kernels_of_loop
from timing import interleaved, report, spread

from dpet_jax.models.families import ResNet20, scaled_channels
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.models.resnet import ResidualNetwork

WIDTHS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=float, nargs="+", default=[*WIDTHS])
    parser.add_argument("--multiples", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--toy", action="store_true", help="networks of one block")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    networks = {
        (multiple, width): network(width, multiple, options)
        for multiple in options.multiples
        for width in options.widths
    }
    # widths that are rounded to the same channels share their program
    steps = {one: Step(one, options) for one in dict.fromkeys(networks.values())}
    seconds = interleaved(
        {one: step.run for one, step in steps.items()}, options.repeats
    )
    rows = []
    for (multiple, width), one in networks.items():
        operations = Counter(k.operation for k in kernels_of_loop(steps[one].text))
        forward = one.forward_flops(options.side, options.side)
        rows.append(
            {
                "width": width,
                "multiple": multiple,
                "channels": list(one.channels),
                "batch": options.batch,
                "side": options.side,
                "dtype": options.dtype,
                "step_flops": options.batch * TRAIN_FLOPS_PER_FORWARD * forward,
                "step_ms": spread([1000 * s / options.steps for s in seconds[one]]),
                "kernels": operations.total(),
                "operations": dict(operations.most_common()),
                "compile_s": steps[one].compile_s,
            }
        )
    over = time_over_flops(rows)
    rows = [row | {"over_flops": o} for row, o in zip(rows, over, strict=True)]
    slow = slower_than_wider(rows, options.margin)
    rows.append({"margin": options.margin, "slower_than_a_wider_one": slow})
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def network(width: float, multiple: int, options: argparse.Namespace) -> Any:
    """Build the network of a width, as deep as that of width 1."""
    if options.toy:
        channels = scaled_channels(16, width, multiple)
        return ResidualNetwork(8, (channels,), (1,), num_classes=10, in_channels=3)
    section = ResNet20(width_multiplier=width, channel_multiple=multiple)
    return section.build(10, (options.side, options.side, 3))


def time_over_flops(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return time for a FLOP over that of the first width of the same multiple."""
    paces = [row["step_ms"]["median"] / row["step_flops"] for row in rows]
    first: dict[int, float] = {}
    for row, pace in zip(rows, paces, strict=True):
        first.setdefault(row["multiple"], pace)
    return [
        pace / first[row["multiple"]] for row, pace in zip(rows, paces, strict=True)
    ]


def slower_than_wider(
    rows: Sequence[dict[str, Any]], margin: float
) -> list[dict[str, Any]]:
    """Return each network that takes longer than a wider one, beside the fastest such.

    Args:
        rows: As `main` reports them.
        margin: Share by which it has to be slower, for noise is not explained.
    """
    found = []
    for row in rows:
        wider = [
            other
            for other in rows
            if other["multiple"] == row["multiple"]
            and other["step_flops"] > row["step_flops"]
        ]
        fastest = min(wider, key=lambda one: one["step_ms"]["median"], default=row)
        ratio = row["step_ms"]["median"] / fastest["step_ms"]["median"]
        if ratio > 1 + margin:
            more = Counter(row["operations"]) - Counter(fastest["operations"])
            found.append(
                {
                    "width": row["width"],
                    "multiple": row["multiple"],
                    "than": fastest["width"],
                    "times_its_time": ratio,
                    "more_kernels": dict(more),
                }
            )
    return found


if __name__ == "__main__":
    main()
