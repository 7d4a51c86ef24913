"""What does it cost to keep the pixels on the host, or to decode them as they come?

One network, one data set of several times the device budget, one process; the
placements take turns. A pass over all rows is trained on in chunks as in a run, and
scored; then a tenth of the rows, which fit into one buffer, for three passes. Both
placements must come to the same weights and the same coreset. Peak memory is that of a
process of its own for each placement, anonymous memory apart from mapped pages of the
file, which the system takes back when it needs them.

    python benchmarks/bench_placement.py --out=FILE.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from timing import network, parsed, ratios, report, spread

from dpet_jax.config.load import validate
from dpet_jax.data import Data, DataSection, ImageSet, Source, prepare
from dpet_jax.data.stored import read_source
from dpet_jax.methods.base import MAIN, Plan, Span
from dpet_jax.run import build as parts
from dpet_jax.section import UserPath
from dpet_jax.training.chunks import Chunks, Pace
from dpet_jax.training.learner import DeviceLearner

ASKED = ("margin", "logits", "features")
SELECTED = 0.02


class Drawn(DataSection):
    """Images of ten classes that differ in brightness, drawn for a folder."""

    kind: str = "drawn"
    path: UserPath
    count: int
    side: int

    def read(self) -> Source:
        rng = np.random.default_rng(0)
        sets = []
        for count in (self.count, self.count // 10):
            labels = rng.integers(0, 10, count).astype(np.int32)
            images = rng.integers(0, 128, (count, self.side, self.side, 3), np.uint8)
            images += (12 * labels[:, None, None, None]).astype(np.uint8)
            sets.append(ImageSet(images, labels))
        return Source("drawn", *sets, tuple("0123456789"))


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--count", type=int, default=10_240, help="training images")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--times", type=float, default=3.0, help="pixels over budget")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-count", type=int, default=200_000)
    parser.add_argument("--peak", choices=("device", "host"), help="of this alone")
    toy = {"count": 600, "side": 8, "batch": 32, "repeats": 2, "memory_count": 1200}
    options = parsed(parser, arguments, toy)
    if options.peak:
        peak_of(options)
        return []
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, XDG_CACHE_HOME=folder),
    ):
        row = measure(options, Path(folder))
        row["peak_memory_mib"] = {
            where: in_its_own_process(where, options, folder)
            for where in ("device", "host")
        }
    report(__doc__.partition("\n")[0], [row], options.out)
    return [row]


def data_of(options: argparse.Namespace, folder: Path, where: str) -> Data:
    section = Drawn(
        path=folder,
        count=options.count,
        side=options.side,
        placement=where,
        validation_fraction=0.1,
    )
    return prepare(read_source(section), section)


def learner_of(
    options: argparse.Namespace, data: Data, room: int | None
) -> DeviceLearner:
    config = validate(
        {
            "train": {"batch_size": options.batch, "augment": {"translate": 2}},
            "evaluate": {"batch_size": options.batch},
        },
        "bench",
    )
    model = network(options, options.width)
    spec = parts.build_learner_spec(config, model, ASKED, room)
    learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
    for _ in learner.compile():
        pass
    return learner


def train(learner: DeviceLearner, rows: np.ndarray, passes: int) -> None:
    """Train on a plan, in chunks as long as a run's."""
    plan = Plan(index_set=rows, passes=passes, label="bench")
    plan = replace(plan, schedule=Span(0, plan.visits))
    main, index = learner.main, learner.main.plans
    main.begin(plan, index)
    chunks = Chunks(
        main,
        plan,
        batch_size=learner.batch_size,
        seed=0,
        plan_index=index,
        pace=learner.__dict__.setdefault("pace", Pace()),
    )
    while chunks.left:
        chunks.start(chunks.next_steps(chunks.left))
    for _ in chunks.drain():
        pass
    learner.barrier()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    file = folder / "source"
    file.mkdir()
    found = {where: data_of(options, file, where) for where in ("device", "host")}
    pixels = found["device"].images.nbytes
    room = int(pixels / options.times)
    rooms = {"device": None, "host": room}
    learners = {
        where: learner_of(options, data, rooms[where]) for where, data in found.items()
    }
    rows = found["device"].train_rows
    tenth = rows[::10].copy()
    work = {
        "train": (lambda one: train(one, rows, 1), rows.size),
        "train_tenth": (lambda one: train(one, tenth, 3), 3 * tenth.size),
        "score": (lambda one: one.score(("margin",), rows), rows.size),
    }
    row: dict[str, Any] = {
        "width": options.width,
        "images": rows.size,
        "side": options.side,
        "batch": options.batch,
        "pixels_mib": pixels / 2**20,
        "budget_mib": room / 2**20,
    }
    for name, (run, images) in work.items():
        turns = {
            where: (lambda run=run, one=one: run(one))
            for where, one in learners.items()
        }
        seconds, cpu = in_turn(turns, options.repeats)
        row[name] = {
            where: spread([images / s for s in each]) for where, each in seconds.items()
        } | {
            "host_over_device": ratios(seconds["device"], seconds["host"]),
            "host_over_device_by_cpu_time": ratios(cpu["device"], cpu["host"]),
        }
    row |= alike(learners, rows)
    return row


def in_turn(
    turns: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of each turn by the clock, and of all cores of this process.

    The second say what a placement costs where others keep the cores busy.
    """
    seconds, cpu = ({name: [] for name in turns} for _ in range(2))
    for repeat in range(repeats + 1):
        for name, run in turns.items():
            began, before = time.perf_counter(), time.process_time()
            run()
            if repeat:  # the first is to warm up
                seconds[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - before)
    return seconds, cpu


def alike(learners: dict[str, DeviceLearner], rows: np.ndarray) -> dict[str, bool]:
    """Say whether weights, tables and coresets are the same to the bit."""
    states = [jax.device_get(one.snapshot()) for one in learners.values()]
    few = max(1, int(SELECTED * rows.size))
    top, covering = (
        [
            one.select(name, rows, few, MAIN, **options).indices
            for one in learners.values()
        ]
        for name, options in (
            ("top_k", {"scores": ("margin",)}),
            ("facility_location", {"per_class": True}),
        )
    )
    leaves = [jax.tree.leaves(state) for state in states]
    return {
        "same_state": all(map(np.array_equal, *leaves)),
        "same_top_k": bool(np.array_equal(*top)),
        "same_facility_location": bool(np.array_equal(*covering)),
    }


def in_its_own_process(
    where: str, options: argparse.Namespace, folder: str
) -> dict[str, float]:
    arguments = [f"--{key}={getattr(options, key)}" for key in ("side", "batch")]
    done = subprocess.run(
        [
            *(sys.executable, __file__, f"--peak={where}", *arguments),
            *(f"--count={options.memory_count}", f"--width={options.width}"),
            *(f"--times={options.times}", *["--toy"] * options.toy),
        ],
        env=os.environ | {"XDG_CACHE_HOME": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(options: argparse.Namespace) -> None:
    """Print the most memory that reading, and then training and scoring, took."""
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "source"
    data = data_of(options, folder, "host")  # so that both read what is made
    if options.peak == "device":
        data = replace(data, images=np.asarray(data.images))
    pixels = data.images.nbytes
    with Watched() as watched:
        room = None if options.peak == "device" else int(pixels / options.times)
        learner = learner_of(options, data, room)
        rows = data.train_rows[: 16 * options.batch]
        train(learner, rows, 1)
        train(learner, data.train_rows[:: max(1, data.num_train // rows.size)], 1)
        learner.score(("margin",), rows)
    print(json.dumps({"pixels": pixels / 2**20, **watched.peak}))


class Watched:
    """The most memory of this process, looked at every hundredth of a second."""

    def __init__(self) -> None:
        self.peak = {"anonymous": 0.0, "mapped": 0.0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        names = {"RssAnon": "anonymous", "RssFile": "mapped"}
        while not self._over.wait(0.01):
            for line in Path("/proc/self/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in names:
                    mib = int(value.split()[0]) / 1024
                    name = names[key]
                    self.peak[name] = max(self.peak[name], mib)


if __name__ == "__main__":
    main()
