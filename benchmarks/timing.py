"""What every benchmark shares: fair timing, device facts, one JSON file."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from gpu_rows import spread
from jax import lax

from dpet_jax.energy.accounts.state import utc_now
from dpet_jax.models.families import ResNet18
from dpet_jax.models.network import Network
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run.machine import device_facts, versions

RESULTS = Path(__file__).parent / "results"


def network(options: argparse.Namespace, width: float) -> Network:
    """Shape the network that a benchmark is asked for: `--toy`, or width and depth."""
    if options.toy:
        return ResidualNetwork(8, (8,), (1,), num_classes=10, in_channels=3)
    section = ResNet18(width_multiplier=width, depth_multiplier=options.depth)
    return section.build(10, (32, 32, 3))


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """Time each candidate in turn, `repeats` times over, after one warm-up each.

    Taking turns spreads the noise of a shared machine over all of them.

    Returns:
        Seconds of each repeat, by candidate.
    """
    for run in candidates.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return the spread of slow / fast, repeat by repeat."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def matrix_peak(side: int, dtype: str) -> float:
    """Return the TFLOP/s of a large product of random matrices, the best of several.

    Random, because constants draw less power and a GPU then runs them faster.
    """
    keys = jax.random.split(jax.random.key(0))
    factor, start = (
        jax.random.normal(key, (side, side), jnp.dtype(dtype)) for key in keys
    )
    # so that powers stay finite
    factor = factor / jnp.asarray(side**0.5, factor.dtype)
    product = jax.jit(
        lambda factor, start: lax.fori_loop(0, 8, lambda _, x: factor @ x, start)
    )
    jax.block_until_ready(product(factor, start))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(product(factor, start))
        seconds.append(time.perf_counter() - began)
    return 8 * 2 * side**3 / min(seconds) / 1e12


def report(
    question: str,
    rows: list[dict[str, Any]],
    out: Path | None,
    *,
    quiet: bool = False,
) -> None:
    """Print the rows and, given a path, keep them with what explains them."""
    for row in rows if not quiet else ():
        print(json.dumps(row))
    if out is not None:
        result = {
            "question": question,
            "command": "python " + " ".join(sys.argv),
            "when": utc_now(),
            "device": device_facts(),
            "versions": versions(),
            "rows": rows,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
        if not quiet:
            print(f"written to {out}")
