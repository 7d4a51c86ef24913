"""Rows of the GPU suite: one JSON line each, on disk as soon as it is measured."""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from dpet_jax.energy import EnergyMeter
from dpet_jax.energy.accounts.state import utc_now
from dpet_jax.errors import DamagedFileError
from dpet_jax.files import JsonLines, read_lines

#: Exit codes of a piece: rows are missing for want of time; it cannot run here.
CUT, LEFT_OUT = 75, 69

Row = dict[str, Any]

#: Of every row.
_KEYS = ("piece", "row", "toy", "when", "device", "command")


def append(path: Path, row: Row) -> None:
    """Append a row; opened anew, because a killed process may leave a torn line."""
    with closing(JsonLines(path)) as lines:
        lines.append(row)


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file, none if there is no such file yet.

    Raises:
        DamagedFileError: If it holds anything else.
    """
    rows = read_lines(path) if path.exists() else []
    for number, row in enumerate(rows, 1):
        if absent := [key for key in _KEYS if key not in row]:
            raise DamagedFileError(path, f"no {', '.join(absent)}", number)
    return rows


class Rows:
    """The rows of one piece.

    Args:
        options: Of `arguments`.
        device: Facts of the device, with its `kind`.
        versions: Of the packages that decide a figure.

    Attributes:
        cut: Whether a row was left out for want of time.
    """

    def __init__(
        self, options: argparse.Namespace, device: Row, versions: dict[str, str]
    ) -> None:
        self.cut = False
        self._path, self._piece, self._toy = options.rows, options.name, options.toy
        self._ends = time.monotonic() + options.seconds
        self._common = {"device": device, "versions": versions}
        script = Path(sys.argv[0]).name
        self._common |= {
            "command": " ".join(["python", f"benchmarks/{script}", *sys.argv[1:]])
        }
        self.known = {
            row["row"]: row
            for row in rows_of(self._path)
            if row["piece"] == self._piece
        }

    def missing(self, name: str, needs_s: float = 5.0) -> bool:
        """Return whether a row is to be measured now.

        Args:
            name: Which row.
            needs_s: Seconds below which beginning it is of no use.
        """
        if name in self.known:
            return False
        if self._ends - time.monotonic() < needs_s:
            self.cut = True
            return False
        return True

    def add(self, name: str, **values: Any) -> None:
        """Keep a row."""
        head = {"piece": self._piece, "row": name, "toy": self._toy, "when": utc_now()}
        row = head | values | self._common
        append(self._path, row)
        self.known[name] = row
        print(f"  {name}: {', '.join(f'{k} {v}' for k, v in values.items())}"[:300])


def arguments(names: tuple[str, ...]) -> argparse.Namespace:
    """Parse what the suite gives to every piece."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=names)
    parser.add_argument("--name", required=True, help="of the piece, in its rows")
    parser.add_argument("--rows", type=Path, required=True, help="file of the rows")
    parser.add_argument("--seconds", type=float, default=math.inf, help="time left")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--mode", help="of PyTorch's, this one alone")
    parser.add_argument("--data", type=Path, help="CIFAR-10, a parquet folder")
    parser.add_argument("--runs", type=Path, help="folder of the run folders")
    parser.add_argument("--toy", action="store_true", help="tiny, on any machine")
    return parser.parse_args()


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def timed(
    run: Callable[[], Any], images: int, least_s: float, meter: EnergyMeter
) -> Row:
    """Repeat what is warm, 3 times or for some seconds, and measure time and energy.

    Args:
        run: Does it once and waits for the device.
        images: What it goes through.
        least_s: Seconds in all; a counter that moves 10 times a second needs a few.
        meter: A meter that runs.
    """
    seconds: list[float] = []
    with meter.window("train") as window:
        ends = time.perf_counter() + least_s
        while len(seconds) < 3 or time.perf_counter() < ends:
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    energy = window.energy
    assert energy is not None
    per_wh = images * len(seconds) / energy.wh if energy.wh else None
    return {
        "images_per_s": spread([images / s for s in seconds]),
        "seconds": spread(seconds),
        "repeats": len(seconds),
        "wh": energy.wh,
        "wh_k2": energy.interval_wh,
        "measured_s": window.s,
        "energy_quality": energy.quality,
        "energy_of": energy.channels or energy.reasons,
        "images_per_wh": per_wh,
        "joules_per_1000_images": None if per_wh is None else 3.6e6 / per_wh,
    }
