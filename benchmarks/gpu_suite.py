"""Everything there is to measure on a GPU, in pieces, in less than nine minutes.

Each piece is one benchmark in a process of its own. Its result is on disk before the
next begins, so that a suite that was cut short goes on where it stopped: run the same
command again. A piece that failed or ran out of time says so and is tried again.

    python benchmarks/gpu_suite.py --out=OUT --data=data/cifar10     # a parquet folder
    python benchmarks/gpu_suite.py --out=OUT --toy                   # any machine

writes OUT/gpu_suite.json and, for reading, OUT/gpu_suite.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.energy.accounts.state import utc_now
from dpet_jax.run.machine import device_facts, versions

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"


class Piece(NamedTuple):
    """One benchmark of the suite.

    Attributes:
        script: Its file.
        full: Arguments on a GPU.
        toy: Arguments that take seconds on a CPU; None where there is nothing to do.
        limit_s: Seconds after which it is given up.
    """

    script: str
    full: tuple[str, ...]
    toy: tuple[str, ...] | None
    limit_s: float


_TINY = ("--toy", "--side=8", "--repeats=1")
_TINY_MODEL = ("kind=resnet", "stem=8", "channels=[8]", "blocks=[1]")

PIECES = {
    "nvml_probe": Piece("nvml_probe.py", ("--seconds=5", "--settle=1"), None, 60),
    "epoch": Piece(
        "bench_epoch.py",
        (
            *("--widths=1", "--batch=512", "--steps=32", "--dtype=bfloat16"),
            "--compile-torch",
        ),
        (*_TINY, "--widths=1", "--batch=4", "--steps=2"),
        120,
    ),
    "scores": Piece(
        "bench_scores.py",
        (
            *("--widths=1", "--examples=50000", "--batch=2000", "--select=1000"),
            *("--dtypes", "bfloat16", "float32"),
        ),
        (*_TINY, "--widths=1", "--examples=10", "--batch=4", "--select=3"),
        90,
    ),
    "gradient_norms": Piece(
        "bench_gradient_norms.py",
        ("--shapes", "1.0x256", "--jacrev-batch=16"),
        (*(*_TINY, "--shapes", "1.0x4", "--steps=2", "--jacrev-batch=2"),),
        120,
    ),
    "compile": Piece("bench_compile.py", ("--width=1",), ("--toy",), 120),
    "overhead": Piece(
        "bench_overhead.py",
        ("--model=resnet18", "--dtype=bfloat16", "--seconds=10"),
        ("--toy",),
        150,
    ),
    "selection": Piece(
        "bench_selection.py",
        (),
        (
            *("--toy", "--per-class=40", "--select=6", "--passes=0.1", "--repeats=1"),
            *("--selectors", "k_center", "grad_match"),
        ),
        90,
    ),
    "energy_to_accuracy": Piece(
        "bench_energy_to_accuracy.py",
        (
            str(CONFIGS / "cifar10_resnet18_standard.yaml"),
            str(CONFIGS / "cifar10_resnet18_dpet_margin.yaml"),
        ),
        (
            str(CONFIGS / "quickstart.yaml"),
            *("--set", *(f"model.{key}" for key in _TINY_MODEL)),
            *("method.max_rounds=1", "method.warmup_passes=2"),
        ),
        120,
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--data", type=Path, help="CIFAR-10, a parquet folder")
    parser.add_argument("--toy", action="store_true", help="seconds, on any machine")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--only", nargs="+", choices=PIECES, default=list(PIECES))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu_suite.json"
    ends = time.monotonic() + 60 * options.minutes
    suite = json.loads(path.read_text()) if path.exists() else {"pieces": {}}
    suite |= {"device": device_facts(), "versions": versions()}
    suite |= {"command": "python " + " ".join(sys.argv), "when": utc_now()}
    for name in options.only:
        command = command_of(PIECES[name], options)
        if command is None:
            continue
        done = suite["pieces"].get(name, {})
        if "rows" in done and done["command"] == command:
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: {' '.join(command)}", flush=True)
        left = ends - time.monotonic()
        suite["pieces"][name] = run(command, min(left, PIECES[name].limit_s))
        keep(suite, path)
        keep_text(markdown(suite), path.with_suffix(".md"))
    print(f"written to {path} and {path.with_suffix('.md')}")
    return suite


def command_of(piece: Piece, options: argparse.Namespace) -> list[str] | None:
    """Return what runs a piece; None if it has nothing to do here."""
    arguments = piece.toy if options.toy else piece.full
    if arguments is None:
        return None
    if piece.script == "bench_energy_to_accuracy.py" and not options.toy:
        if options.data is None:
            print("energy_to_accuracy: left out, for it needs --data=DIR", flush=True)
            return None
        arguments = (*arguments, "--set", f"data.path={options.data}")
    if piece.script == "bench_selection.py" and not options.toy and options.data:
        arguments = (*arguments, f"--data={options.data}")
    return ["python", f"benchmarks/{piece.script}", *arguments]


def run(command: list[str], limit_s: float) -> dict[str, Any]:
    """Run one piece and return its result, or why there is none."""
    failed = {"command": command, "when": utc_now()}
    if limit_s <= 0:
        return failed | {"failed": "no time was left"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "piece.json"
        script = HERE / Path(command[1]).name
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, str(script), *command[2:], f"--out={out}"],
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        except subprocess.TimeoutExpired as expired:
            tail = (expired.stdout or b"").decode(errors="replace")[-2000:]
            return failed | {"failed": f"gave up after {limit_s:.0f} s", "tail": tail}
        if done.returncode or not out.exists():
            tail = (done.stdout + done.stderr)[-2000:]
            return failed | {"failed": f"exit code {done.returncode}", "tail": tail}
        result = json.loads(out.read_text())
    seconds = time.monotonic() - began
    return result | {"command": command, "seconds": seconds}


def keep(suite: dict[str, Any], path: Path) -> None:
    """Write the suite whole or not at all."""
    keep_text(json.dumps(suite, indent=2) + "\n", path)


def keep_text(text: str, path: Path) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def markdown(suite: dict[str, Any]) -> str:
    """Set every piece as a table, spreads as median (least to most)."""
    device = suite["device"]
    lines = [f"# {device['count']} x {device['kind']}", ""]
    for name, piece in suite["pieces"].items():
        lines += [f"## {piece.get('question', name)}", ""]
        if "rows" not in piece:
            lines += [f"No result: {piece['failed']}.", ""]
            continue
        rows = [flat(row) for row in piece["rows"]]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines.append(f"| {' | '.join(columns)} |")
        lines.append("|" + " --- |" * len(columns))
        lines += [
            f"| {' | '.join(row.get(column, '') for column in columns)} |"
            for row in rows
        ]
        lines += ["", f"`{' '.join(piece['command'])}`, {piece['seconds']:.0f} s", ""]
    return "\n".join(lines)


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Name nested values by their path, and set each as text."""
    cells: dict[str, str] = {}
    for key, value in row.items():
        if isinstance(value, dict) and value.keys() == {"median", "min", "max"}:
            cells[prefix + key] = (
                f"{value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})"
            )
        elif isinstance(value, dict):
            cells |= flat(value, f"{prefix}{key} ")
        elif isinstance(value, float):
            cells[prefix + key] = f"{value:.4g}"
        else:
            cells[prefix + key] = "" if value is None else str(value).replace("|", "/")
    return cells


if __name__ == "__main__":
    main()
