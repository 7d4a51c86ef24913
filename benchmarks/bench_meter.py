"""What does the energy meter cost the training that it measures?

Demo-size training runs with and without a meter, in turns, in one process: many short
pairs, since a shared machine drifts by more than a meter costs. The meter reads real
files in the layout of powercap (a machine without RAPL gets a folder of them, whose
counters stand still) and keeps its journal. What it costs is the ratio of the two
throughputs, pair by pair, with a bootstrap interval of its median; beside it the ratio
of the process' CPU seconds for the same work, and the share of one core that the
sampler thread took, both of which other processes touch less.

    python benchmarks/bench_meter.py --out=benchmarks/results/bench_meter_cpu.json
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timing import report, spread

from dpet_jax.config.load import load, validate
from dpet_jax.energy import EnergyMeter, Found
from dpet_jax.energy.probes import rapl
from dpet_jax.methods.base import Plan, Span
from dpet_jax.run import build as parts
from dpet_jax.training.learner import DeviceLearner

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=QUICKSTART)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each run")
    parser.add_argument(
        "--periods", type=float, nargs="+", default=[0.1, 0.05], help="between readings"
    )
    parser.add_argument("--counters", type=int, default=6, help="files read each time")
    parser.add_argument("--tiny", action="store_true", help="the smallest network")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    train, num_steps = prepare(options)
    rows = [measure(train, num_steps, period, options) for period in options.periods]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def prepare(options: argparse.Namespace):
    """Return a function that trains for so many steps and waits, and how many."""
    config = load(options.config)
    if options.tiny:
        net = {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]}
        config = validate(config.model_dump(mode="json") | {"model": net}, "bench")
    data = parts.build_data(config)
    model = parts.build_model(config, data)
    learner = DeviceLearner(
        data,
        parts.build_learner_spec(config, model, ()),
        parts.build_hyper(config),
        config.seed,
    )
    for _ in learner.compile():
        pass
    index_set = np.arange(data.num_train, dtype=np.int32)
    learner.main.begin(Plan(index_set, "bench"), 0)
    # the loop trains in chunks of about a second, with one more queued; so here
    chunk = learner.main.max_steps
    rows = np.resize(index_set, chunk * learner.batch_size)

    def train(chunks: int) -> None:
        before = None
        for _ in range(chunks):
            handle = learner.main.train(rows, chunk, Span(0, data.num_train), 0)
            if before is not None:
                learner.main.wait(before)
            before = handle
        learner.main.wait(before)

    train(1)
    start = time.perf_counter()
    train(2)
    one = (time.perf_counter() - start) / 2
    chunks = max(1, round(options.seconds / one))
    return lambda: train(chunks), chunks * chunk


def sensors(folder: Path, counters: int) -> Found:
    """Return the sensors of RAPL where there is one, else of files like its own."""
    found = rapl.find()
    if not found.probes:
        for number in range(counters):
            zone = folder / f"intel-rapl:{number}"
            zone.mkdir(exist_ok=True)
            (zone / "name").write_text(f"package-{number}\n")
            (zone / "energy_uj").write_text("1000000\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
        found = rapl.find(folder)
    return Found(found.probes, ())


def measure(train, num_steps: int, period: float, options: argparse.Namespace) -> dict:
    runs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shares, ticks = [], []
        for pair in range(options.pairs):
            # the order changes, so that a drift of the machine favours neither
            for metered in (False, True) if pair % 2 else (True, False):
                # both begin in the same way
                found = sensors(folder, options.counters)
                with EnergyMeter(found, period_s=period) as meter:
                    if not metered:
                        meter.stop()
                        runs[False].append(timed(train))
                        continue
                    meter.keep_journal(folder / f"{pair}.jsonl")
                    with meter.window("train"):
                        runs[True].append(timed(train))
                    facts = meter.report().data["meter"]
                seconds = runs[True][-1][0]
                shares.append(facts["cpu_s"] / seconds)
                ticks.append(facts["ticks"] / seconds)
    wall, cpu = (
        [a[part] / b[part] for a, b in zip(runs[False], runs[True], strict=True)]
        for part in (0, 1)
    )
    return {
        "period_s": period,
        "pairs": options.pairs,
        "counters": options.counters,
        "steps": num_steps,
        "seconds_without": spread([seconds for seconds, _ in runs[False]]),
        "seconds_with": spread([seconds for seconds, _ in runs[True]]),
        "throughput_with_over_without": spread(wall) | {"ci95": bootstrap(wall)},
        "cpu_seconds_without_over_with": spread(cpu) | {"ci95": bootstrap(cpu)},
        "sampler_share_of_a_core": spread(shares),
        "ticks_per_s": spread(ticks),
    }


def bootstrap(values: list[float]) -> list[float]:
    """Return the 95 % interval of the median."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    return np.quantile(np.median(drawn, axis=1), (0.025, 0.975)).tolist()


def timed(run) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
