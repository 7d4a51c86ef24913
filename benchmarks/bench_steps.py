"""Do the steps of a run take what a profile said that they would?

For each scale of a family, a profile is measured as `dpet plan` and `dpet fit` measure
theirs, and right after it a standard run trains for about so many seconds; again and
again, for machines differ from themselves. What the run took is the seconds of its
training over its steps.

    python benchmarks/bench_steps.py --data=DIR \\
        --out=benchmarks/results/bench_steps_cpu.json
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timing import TOY_RUN, flat_row, parsed, report, spread

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.data import Data
from dpet_jax.files import read_json
from dpet_jax.run import experiment
from dpet_jax.run.build import build_data, build_meter
from dpet_jax.run.folder import SUMMARY
from dpet_jax.run.machine import pinned, use_compilation_cache
from dpet_jax.run.profiling import measure, profile_key

_CONFIG = Path(__file__).parents[1] / "configs" / "cifar10_small_standard.yaml"
_COLUMNS = {
    "scale": "scale",
    "said, ms": "said_ms",
    "took, ms": "took_ms",
    "said/took": "said_over_took",
    "median of all": "all_said_over_took.median",
    "min": "all_said_over_took.min",
    "max": "all_said_over_took.max",
}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    """Profile and train each scale, some times over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of parquet files")
    parser.add_argument("--family", default="resnet20")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 0.75, 1, 1.4])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--repeats", type=int, default=4)
    toy = {"scales": [0.25], "seconds": 0.1, "repeats": 1}
    options = parsed(parser, arguments, toy)
    use_compilation_cache()
    config = load(_CONFIG, _changes(options))
    data = build_data(config)
    rows = [
        pair(config, data, scale, options.seconds)
        for _ in range(options.repeats)
        for scale in options.scales
    ]
    errors = [row["said_over_took"] for row in rows]
    rows.append(flat_row({"all_said_over_took": spread(errors)}))
    report(__doc__.partition("\n")[0], rows, options.out, columns=_COLUMNS)
    return rows


def pair(config: Config, data: Data, scale: float, seconds: float) -> dict:
    """Profile a scale, and train it right after."""
    scaled = config.model.scaled(scale)  # type: ignore[attr-defined]
    config = config.model_copy(update={"model": scaled})
    with pinned(), build_meter(config) as meter:
        profile = measure(config, data, meter, profile_key(config, data, meter))
    visits = math.ceil(seconds / profile.step_s) * config.train.batch_size
    parts = {
        "method": {"passes": math.ceil(visits / data.num_train)},
        "budget": {"visits": visits},
    }
    for name, changes in parts.items():
        part = getattr(config, name).model_copy(update=changes)
        config = config.model_copy(update={name: part})
    with tempfile.TemporaryDirectory() as folder:
        experiment.run(config, folder, data=data)
        summary = read_json(experiment.run_folder(config, folder) / SUMMARY)
    steps = math.ceil(summary["visits"] / config.train.batch_size)
    took_s = summary["phases"]["train"]["s"] / steps
    return {
        "scale": scale,
        "steps": steps,
        "said_ms": 1e3 * profile.step_s,
        "took_ms": 1e3 * took_s,
        "measuring_s": profile.measuring_s - profile.compile_s,
        "said_over_took": profile.step_s / took_s,
    }


def _changes(options: argparse.Namespace) -> list[str]:
    """Return what makes the config that of a planned run."""
    if options.toy:
        toy = "{kind: resnet20, scale: 0.25}"
        changes = [*TOY_RUN, f"model={toy}", "train.batch_size=16"]
    else:
        changes = [
            f"data.path={options.data}",
            f"model={{kind: {options.family}}}",
            f"train.batch_size={options.batch}",
        ]
    return [f"--{change}" for change in (*changes, "evaluate.every=100", "targets=[]")]


if __name__ == "__main__":
    main()
