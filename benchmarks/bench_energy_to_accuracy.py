"""What does it take to reach an accuracy: Wh, epochs, seconds?

Runs each config as `dpet run` would and gathers what its energy report says of every
target. Without a source of energy the Wh are null and the other costs remain.

    python benchmarks/bench_energy_to_accuracy.py configs/cifar10_resnet18_*.yaml \\
        --set data.path=DIR --out=benchmarks/results/energy_to_accuracy.json
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timing import report

from dpet_jax.config.load import load
from dpet_jax.files import read_json
from dpet_jax.run import experiment
from dpet_jax.run.folder import ENERGY_REPORT

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.yaml"


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path, nargs="*", default=[QUICKSTART])
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every config"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, help="keep the run folders here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    overrides = [f"--{assignment}" for assignment in options.set]
    with tempfile.TemporaryDirectory() as forgotten:
        folder = options.runs or Path(forgotten)
        rows = [
            row
            for path in options.configs
            for seed in options.seeds
            for row in measure(path, [*overrides, f"--seed={seed}"], folder)
        ]
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def measure(path: Path, overrides: list[str], folder: Path) -> list[dict]:
    config = load(path, overrides)
    result = experiment.run(config, folder, overwrite=True)
    energy = read_json(result.folder / ENERGY_REPORT)
    assert result.summary is not None
    common = {
        "config": config.name,
        "seed": config.seed,
        "stopped_by": result.stopped_by,
        "test_accuracy": result.summary["test_accuracy"],
        "phase_s": {name: phase["s"] for name, phase in energy["phases"].items()},
        "phase_wh": {name: phase["wh"] for name, phase in energy["phases"].items()},
        "quality": energy["energy"]["quality"],
    }
    kept = ("target", "reached", "wh_warm", "wh_cold", "bracket_wh", "epochs", "wall_s")
    return [
        common | {name: target.get(name) for name in kept}
        for target in energy["energy_to_accuracy"]
    ]


if __name__ == "__main__":
    main()
