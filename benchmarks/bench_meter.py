"""What does the energy meter cost the training that it measures?

Demo-size training runs with and without a meter, in turns, in one process. The meter
reads real files in the layout of powercap (a machine without RAPL gets a folder of
them, whose counters stand still) and the CPU's utilisation, and keeps its journal. What
it costs is the ratio of the two throughputs, pair by pair; beside it the CPU seconds
that the sampler thread took, which noise does not touch.

    python benchmarks/bench_meter.py --out=benchmarks/results/bench_meter_cpu.json
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timing import ratios, report, spread

from dpet_jax import parts
from dpet_jax.config import load, validate
from dpet_jax.energy import CpuPowerModel, EnergyMeter, Found
from dpet_jax.energy.probes import rapl
from dpet_jax.learner import DeviceLearner
from dpet_jax.methods.base import Plan, Span

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=QUICKSTART)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument(
        "--periods", type=float, nargs="+", default=[0.1, 0.05], help="between readings"
    )
    parser.add_argument("--counters", type=int, default=4, help="files read each time")
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
    learner.begin(Plan(index_set, "bench"), 0)
    # the loop trains in chunks of about a second, with one more queued; so here
    chunk = learner.max_steps
    rows = np.resize(index_set, chunk * learner.batch_size)

    def train(chunks: int) -> None:
        before = None
        for _ in range(chunks):
            handle = learner.train(rows, chunk, Span(0, data.num_train), 0)
            if before is not None:
                learner.wait(before)
            before = handle
        learner.wait(before)

    train(1)
    start = time.perf_counter()
    train(2)
    one = (time.perf_counter() - start) / 2
    chunks = max(1, round(options.seconds / one))
    return lambda: train(chunks), chunks * chunk


def sensors(folder: Path, counters: int) -> Found:
    """Give RAPL where there is one, else files like its; and the CPU's utilisation."""
    found = rapl.find()
    if not found.probes:
        for number in range(counters):
            zone = folder / f"intel-rapl:{number}"
            zone.mkdir(exist_ok=True)
            (zone / "name").write_text(f"package-{number}\n")
            (zone / "energy_uj").write_text("1000000\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
        found = rapl.find(folder)
    model = CpuPowerModel(0.0, 1.0, "not a power: this measures the cost of reading")
    return Found((*found.probes, model), ())


def measure(train, num_steps: int, period: float, options: argparse.Namespace) -> dict:
    without, with_meter, shares, ticks = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for pair in range(options.pairs):
            # who comes first changes, so that a drift of the machine favours nobody
            for metered in (False, True) if pair % 2 else (True, False):
                if not metered:
                    without.append(timed(train))
                    continue
                found = sensors(folder, options.counters)
                with EnergyMeter(found, period_s=period) as meter:
                    meter.keep_journal(folder / f"{pair}.jsonl")
                    with meter.window("train"):
                        seconds = timed(train)
                    facts = meter.report().data["meter"]
                with_meter.append(seconds)
                shares.append(facts["cpu_s"] / seconds)
                ticks.append(facts["ticks"] / seconds)
    return {
        "period_s": period,
        "pairs": options.pairs,
        "counters": options.counters,
        "steps": num_steps,
        "seconds_without": spread(without),
        "seconds_with": spread(with_meter),
        "throughput_with_over_without": ratios(without, with_meter),
        "pair_by_pair": [a / b for a, b in zip(without, with_meter, strict=True)],
        "sampler_cpu_share": spread(shares),
        "ticks_per_s": spread(ticks),
    }


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
