"""What does every method reach with the same number of passes, and at what cost?

Runs every method of the framework from one config, as `dpet run` would: the one-shot
methods at each share of the data that they keep, beside a random coreset, RS2 of the
same share and full training; the dynamic methods as their papers have them. The costs
hold everything: pre-training and scoring are `epochs` too.

    python benchmarks/bench_methods.py configs/cifar10_small_one_shot.yaml \\
        --set data.path=DIR --out=benchmarks/results/bench_methods_cpu.json
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from timing import report

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.methods.one_shot import FORGETTING, SELECTORS
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.scores.registry import selectable_scores

ONE_SHOT = (*selectable_scores(), FORGETTING, *SELECTORS)
DYNAMIC = (
    *("infobatch", "loss_threshold", "stale_selective_backprop"),
    *("selective_backprop", "epsilon_greedy"),
)


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="data, model and training")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--passes", type=int, default=12, help="of every method")
    parser.add_argument("--pretrain-passes", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the methods")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows: list[dict] = []
    common = [f"--{assignment}" for assignment in options.set]
    data = parts.build_data(load(options.config, common))
    with tempfile.TemporaryDirectory() as folder:
        for name, keep, changes in methods(options):
            if options.only and name not in options.only:
                continue
            results = [
                measure(
                    load(options.config, [*common, *changes, f"--seed={seed}"]),
                    Path(folder),
                    data,
                )
                for seed in options.seeds
            ]
            rows.append({"method": name, "keep_fraction": keep, **over_seeds(results)})
            print(line(rows[-1]), flush=True)
            report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    print(table(rows))
    if options.out is not None:
        print(f"written to {options.out}")
    return rows


def methods(options: argparse.Namespace) -> Iterator[tuple[str, float, list[str]]]:
    """Yield each method's name, the share that it keeps, and its overrides."""
    passes = f"--method.passes={options.passes}"
    yield "standard", 1.0, ["--method.kind=standard", passes]
    for name in DYNAMIC:
        yield name, 1.0, [f"--method.kind={name}", passes]
    for keep in options.keep:
        share = f"--method.keep_fraction={keep}"
        yield "rs2", keep, ["--method.kind=rs2", passes, share]
        for name in ONE_SHOT:
            pretraining = f"--method.pretrain_passes={options.pretrain_passes}"
            one_shot = ["--method.kind=one_shot", f"--method.by={name}"]
            yield name, keep, [*one_shot, passes, share, pretraining]


def measure(config: Config, folder: Path, data: Data) -> dict:
    result = experiment.run(config, folder, overwrite=True, data=data)
    summary = result.summary
    if summary is None:
        raise UserError(f"{config.name}: a run was interrupted; start again")
    return {
        "test_accuracy": summary["test_accuracy"],
        "coreset_size": summary["coreset_size"],
        "epochs": summary["epochs"],
        "visits": summary["visits"],
        "select_share": summary["select_flops"] / summary["flops"],
        "wall_s": summary["wall_s"],
        "stopped_by": result.stopped_by,
    }


def over_seeds(results: list[dict]) -> dict:
    """Bring the seeds' results together, each accuracy kept."""
    accuracies = [result["test_accuracy"] for result in results]
    means = {
        name: statistics.fmean(result[name] for result in results)
        for name in ("epochs", "visits", "select_share", "wall_s")
    }
    return {
        "test_accuracies": accuracies,
        "test_accuracy": statistics.fmean(accuracies),
        "coreset_size": results[0]["coreset_size"],
        **means,
        "stopped_by": sorted({result["stopped_by"] for result in results}),
    }


def line(row: dict) -> str:
    accuracies = row["test_accuracies"]
    size = "-" if row["coreset_size"] is None else f"{row['coreset_size']:,}"
    return (
        f"| {row['method']:<25} | {row['keep_fraction']:<4g} "
        f"| {row['test_accuracy']:.3f} ({min(accuracies):.3f}-{max(accuracies):.3f}) "
        f"| {size:>7} | {row['epochs']:6.2f} | {row['visits']:>9,.0f} "
        f"| {row['select_share']:6.1%} | {row['wall_s']:6.1f} |"
    )


def table(rows: list[dict]) -> str:
    """Lay the rows out in Markdown."""
    head = (
        "| method | keep | test accuracy (range) | coreset | epochs | visits "
        "| selection | seconds |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *map(line, rows)])


if __name__ == "__main__":
    main()
