"""What every benchmark shares: its arguments, fair timing, a table, one JSON file.

A score or a selector of one's own enters a comparison by its import path,
`package.module:function`; start where the package lies, or install it.

A score is a kernel of one example, `score(logits, label)` or
`score(logits, label, features)`, larger for what is more informative. A selector is
`selector(examples, num_select)`, its first argument called so: an `Examples` of
`dpet_jax.selection.by_name`, with `logits`, `features`, `labels` and `num_classes`. It
returns the positions of `num_select` different examples, the most important first, or a
`Selection`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from gpu_rows import spread
from jax import lax
from rich.console import Console
from rich.table import Table

from dpet_jax.config.load import flat
from dpet_jax.energy.accounts.state import utc_now
from dpet_jax.models.families import ResNet18
from dpet_jax.models.network import Network
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.report.printed import NONE, significant
from dpet_jax.run.machine import device_facts, versions
from dpet_jax.scores.registry import lookup
from dpet_jax.selection.by_name import own_selector

RESULTS = Path(__file__).parent / "results"
#: Of a run at toy size: the digits and the smallest network.
TOY_RUN = (
    *("data={kind: digits, validation_fraction: 0.2}", "evaluate.batch_size=100"),
    *("train.augment={translate: 1}", "train.optimizer.learning_rate=0.05"),
    *("targets=[]", "model={kind: resnet, stem: 8, channels: [8], blocks: [1]}"),
)


def parsed(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    toy: Mapping[str, Any],
) -> argparse.Namespace:
    """Parse a benchmark's arguments, with `--toy` and `--out`.

    Args:
        parser: With all other arguments.
        arguments: Of the command line; None for those of this process.
        toy: Defaults that `--toy` brings, so that all is done in seconds.
    """
    parser.add_argument(
        "--toy",
        action="store_true",
        help="the smallest of everything, to see it work: seconds on any machine",
    )
    parser.add_argument("--out", type=Path, help="keep the figures here, as JSON")
    if parser.parse_known_args(arguments)[0].toy:
        parser.set_defaults(**toy)
    return parser.parse_args(arguments)


def add_own(parser: argparse.ArgumentParser, *, selectors: bool, scores: bool) -> None:
    """Let a benchmark take scores or selectors of one's own."""
    for flag, wanted, check in (
        ("--selector", selectors, own_selector),
        ("--score", scores, lookup),
    ):
        if wanted:
            parser.add_argument(
                flag,
                action="append",
                default=[],
                type=_checked(check),
                metavar="package.module:function",
                help="one of your own, beside ours; may be given again",
            )


def _checked(check: Callable[[str], Any]) -> Callable[[str], str]:
    def import_path(path: str) -> str:
        if ":" not in path:
            text = f"{path!r} is no import path; write package.module:function"
            raise argparse.ArgumentTypeError(text)
        try:
            check(path)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return path

    return import_path


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


def flat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without rows inside: `seconds.median`, and `accuracies.0` of a list.

    Such rows are the columns of a table wherever they are read.
    """
    return dict(flat(_by_key(row)))


def _by_key(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        return {str(key): _by_key(item) for key, item in value.items()}
    return value


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print rows as a table, words wrapped and numbers to three digits.

    Args:
        rows: Flat ones.
        columns: Key of a row by header; a column that no row has is left out.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    held = {h: key for h, key in columns.items() if any(key in row for row in rows)}
    for header, key in held.items():
        number = all(not isinstance(row.get(key), str) for row in rows)
        justify = "right" if number else "left"
        table.add_column(header, justify=justify, no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in held.values()))
    Console(markup=False).print(table, highlight=False)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return NONE if value is None else value
    if isinstance(value, int):
        return f"{value:,}"
    return significant(value)


def report(
    question: str,
    rows: list[dict[str, Any]],
    out: Path | None,
    *,
    quiet: bool = False,
    columns: Mapping[str, str] | None = None,
) -> None:
    """Print the rows and, given a path, keep them with what explains them.

    Args:
        question: What the benchmark answers.
        rows: What it found.
        out: Where to write them as JSON.
        quiet: Print nothing.
        columns: Print them as `show` does, or not at all if there are none; by default
            each is a line of JSON.
    """
    if columns and not quiet:
        show(rows, columns)
    for row in rows if columns is None and not quiet else ():
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
