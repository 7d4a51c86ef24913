"""Everything there is to measure on a GPU, most wanted first, in the minutes at hand.

Each piece runs in a process of its own, with a limit of its own, and puts every row on
disk as it is measured; none is begun when too little time is left for it. All share one
cache of compiled programs and one of XLA's searches for the fastest kernels. Run the
same command again and it goes on: pieces that are done are left out, a piece that was
cut adds its missing rows. The folder is for one machine and one state of the code.

    python benchmarks/gpu_suite.py --out=runs/gpu_suite --data=data/cifar10
    python benchmarks/gpu_suite.py --out=runs/gpu_toy --toy          # any machine

leaves in the folder rows.jsonl, summary.md (which is printed last, too), results.json
(the rows with what explains them, to be kept) and log.txt.
"""

import argparse
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gpu_rows import CUT, LEFT_OUT, Row, append, rows_of
from gpu_summary import results, summary

from dpet_jax.energy import discover
from dpet_jax.energy.accounts.state import utc_now
from dpet_jax.errors import UserError, system_failure
from dpet_jax.files import write_whole

HERE = Path(__file__).parent
GRACE_S = 5.0
#: Runs the script that follows it, in a process that the system ends where the suite is
#: killed, for the GPU must be free for the next call. A process of many threads, which
#: JAX makes, must not ask for that between fork and exec, so the piece does so itself.
_START = """
import ctypes, os, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Piece(NamedTuple):
    """One process of the suite.

    Attributes:
        arguments: The script and its arguments.
        limit_s: Seconds after which it is ended.
        least_s: Seconds below which beginning it is of no use.
    """

    arguments: tuple[str, ...]
    limit_s: float
    least_s: float


OURS, TORCH = "gpu_pieces.py", "gpu_torch.py"

#: In the order of their value. Limits leave room above what an H100 took.
PIECES = {
    "sensors": Piece((OURS, "sensors"), 50, 15),
    "train_512": Piece((OURS, "train", "--batch=512"), 110, 35),
    "energy": Piece((OURS, "energy"), 200, 45),
    "profile_512": Piece((OURS, "profile", "--batch=512"), 60, 30),
    "torch_512": Piece((TORCH, "torch", "--batch=512"), 130, 25),
    "train_128": Piece((OURS, "train", "--batch=128"), 70, 30),
    "profile_128": Piece((OURS, "profile", "--batch=128"), 60, 30),
    "torch_128": Piece((TORCH, "torch", "--batch=128"), 80, 25),
    "scores": Piece((OURS, "scores"), 75, 25),
    "norms": Piece((OURS, "norms"), 160, 25),
    "subsets": Piece((OURS, "subsets"), 60, 20),
    "growth": Piece((OURS, "growth"), 60, 25),
    "train_1024": Piece((OURS, "train", "--batch=1024"), 70, 30),
    "torch_1024": Piece((TORCH, "torch", "--batch=1024"), 90, 25),
    "torch_autotuned_512": Piece(
        (TORCH, "torch", "--batch=512", "--mode=max-autotune"), 400, 150
    ),
}


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--cache", type=Path, help="by default OUT/cache")
    parser.add_argument("--data", type=Path, help="CIFAR-10, a parquet folder")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--only", nargs="+", choices=PIECES, help="these pieces alone")
    parser.add_argument("--toy", action="store_true", help="tiny, on any machine")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes: {options.minutes} is no number above 0")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data: {options.data} is no folder")
    try:
        return measure(options, parser)
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(system_failure(error, options.out))


def measure(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Run the pieces that are missing and return the table."""
    ends = time.monotonic() + 60 * options.minutes
    kind = device_kind()
    if kind == "cpu" and not options.toy:
        parser.error("there is no GPU here; see dpet doctor, or give --toy")
    options.out.mkdir(parents=True, exist_ok=True)
    with alone_in(options.out), ending_on_signals():
        begin(kind, options)
        try:
            for name in options.only or PIECES:
                step(name, kind, ends, options)
        finally:
            text = publish(options.out)
            print(f"\n{text}", flush=True)
    return text


def begin(kind: str, options: argparse.Namespace) -> None:
    """Note this call; refuse a folder of another device, or of other sizes."""
    path = options.out / "rows.jsonl"
    for row in rows_of(path):
        if row["row"] == "call" and (row["device"]["kind"], row["toy"]) != (
            kind,
            options.toy,
        ):
            sizes = "toy" if row["toy"] else "full"
            raise UserError(
                f"{path}: holds {sizes} sizes on {row['device']['kind']}; give another "
                "folder to --out"
            )
    row = {"piece": "suite", "row": "call", "toy": options.toy, "when": utc_now()}
    row |= {"device": {"kind": kind}, "minutes": options.minutes}
    shown = ["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]
    append(path, row | {"command": " ".join(shown)})


def step(name: str, kind: str, ends: float, options: argparse.Namespace) -> None:
    """Run a piece, unless it is done or there is no time; keep how it ended."""
    path, piece = options.out / "rows.jsonl", PIECES[name]
    known = (row for row in rows_of(path) if row["piece"] == name)
    if any(row["row"] == "state" and row["state"] == "done" for row in known):
        print(f"{name}: done before", flush=True)
        return
    command = command_of(name, options)
    left = ends - time.monotonic()
    began, at_its_limit = time.monotonic(), False
    if left < (0 if options.toy else piece.least_s):
        state, why = "left out", f"{left:.0f} s were left, {piece.least_s:g} are needed"
    else:
        limit_s = min(left, piece.limit_s)
        print(f"{name}: at most {limit_s:.0f} s", flush=True)
        environment = environment_of(piece, options)
        state, why = run(command, limit_s, environment, options.out / "log.txt")
        at_its_limit = state == "cut" and limit_s == piece.limit_s
    seconds = time.monotonic() - began
    print(f"{name}: {state}, {seconds:.0f} s. {why[-500:]}", flush=True)
    row = {"piece": name, "row": "state", "toy": options.toy, "when": utc_now()}
    row |= {"state": state, "seconds": seconds, "why": why[-2000:]}
    shown = ["python", f"benchmarks/{piece.arguments[0]}", *command[2:]]
    row |= {"device": {"kind": kind}, "command": " ".join(shown)}
    row |= {"at_its_limit": at_its_limit}
    append(path, row)
    publish(options.out)


def command_of(name: str, options: argparse.Namespace) -> list[str]:
    script, *rest = PIECES[name].arguments
    return [
        *(sys.executable, str(HERE / script), *rest, f"--name={name}"),
        f"--rows={options.out / 'rows.jsonl'}",
        f"--runs={options.out / 'runs'}",
        *([f"--data={options.data}"] if options.data else ()),
        *(["--toy"] if options.toy else ()),
    ]


def environment_of(piece: Piece, options: argparse.Namespace) -> dict[str, str]:
    """Return the environment of a piece: its flags, and the caches that all share.

    JAX keeps XLA's searches for the fastest kernels beside its compiled programs.
    """
    cache = (options.cache or options.out / "cache").absolute()
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    # the network's FLOPs are counted by JAX, which would take the GPU's memory
    apart = {"JAX_PLATFORMS": "cpu"} if TORCH in piece.arguments else {}
    return (
        os.environ
        | apart
        | {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
        }
    )


def run(
    command: list[str], limit_s: float, environment: dict[str, str], log: Path
) -> tuple[str, str]:
    """Run a piece until its end or its limit; return how it ended and why."""
    with log.open("a+b") as output:
        output.write(f"\n== {utc_now()} {' '.join(command)}\n".encode())
        output.flush()
        start = output.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            # so that it can end by itself, with its last row whole
            [command[0], "-c", _START, *command[1:], f"--seconds={limit_s}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        output.seek(start)
        tail = output.read()[-2000:].decode(errors="replace").strip()
    if code is None:
        return "cut", f"ended after {limit_s:.3g} s\n{tail}"
    states = {0: "done", CUT: "cut", LEFT_OUT: "left out"}
    state = states.get(code, "failed")
    return state, "" if code == 0 else f"exit code {code}\n{tail}"


def _end(process: subprocess.Popen) -> None:
    """End a process with all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the suite as Ctrl-C does: in order."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Refuse a folder that another suite writes into."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another suite writes into it; wait for it, or give another "
                "folder to --out"
            ) from None
        yield


def device_kind() -> str:
    """Return the name of the first GPU, "cpu" without one; JAX is not asked.

    This process would keep the GPU's memory from its pieces.
    """
    found = discover(host=False)
    names = [probe.facts().get("name") for probe in found.probes]
    for probe in found.probes:
        probe.close()
    if names or shutil.which("nvidia-smi") is None:
        return str(names[0]) if names else "cpu"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.strip().partition("\n")[0] if not answer.returncode else "cpu"


def publish(out: Path) -> str:
    """Write the table and the results of all rows; return the table."""
    rows: list[Row] = rows_of(out / "rows.jsonl")
    text = summary(rows)
    write_whole(out / "summary.md", text + "\n")
    write_whole(out / "results.json", json.dumps(results(rows), indent=1) + "\n")
    return text


if __name__ == "__main__":
    main()
