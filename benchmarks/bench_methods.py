"""What does every method reach with the same number of passes, and at what cost?

Runs every method of the framework from one config, as `dpet run` would: the one-shot
methods at each share of the data that they keep, beside a random coreset, RS2 of the
same share and full training; the dynamic methods as their papers have them. The costs
hold everything: pre-training and scoring are `epochs` too.

    python benchmarks/bench_methods.py configs/cifar10_small_one_shot.yaml \\
        --set data.path=DIR --out=benchmarks/results/bench_methods_cpu.json
    python benchmarks/bench_methods.py --toy --selector my_lab.selectors:mine

How a score or a selector of one's own is called: see `timing.py`.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from timing import TOY_RUN, add_own, flat_row, parsed, report, show

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
CONFIG = Path(__file__).parent.parent / "configs" / "cifar10_small_one_shot.yaml"
TOY = {"keep": [0.2], "passes": 2, "pretrain_passes": 1, "seeds": [0]}
TOY |= {"only": ["standard", "rs2", "random", "herding", "infobatch"]}
COLUMNS = {
    "method": "method",
    "keep": "keep_fraction",
    "test": "test_accuracy",
    "least": "least",
    "most": "most",
    "coreset": "coreset_size",
    "epochs": "epochs",
    "selection": "select_share",
    "seconds": "wall_s",
}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        *("config",), type=Path, nargs="?", default=CONFIG, help="data, model, training"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--passes", type=int, default=12, help="of every method")
    parser.add_argument("--pretrain-passes", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the methods")
    add_own(parser, selectors=True, scores=True)
    options = parsed(parser, arguments, TOY)
    rows: list[dict] = []
    own = [*options.selector, *options.score]
    small = TOY_RUN if options.toy else ()
    common = [f"--{assignment}" for assignment in (*small, *options.set)]
    data = parts.build_data(load(options.config, common))
    with tempfile.TemporaryDirectory() as folder:
        for name, keep, changes in methods(options):
            if options.only and name not in (*options.only, *own):
                continue
            results = [
                measure(
                    load(options.config, [*common, *changes, f"--seed={seed}"]),
                    Path(folder),
                    data,
                )
                for seed in options.seeds
            ]
            row = {"method": name, "keep_fraction": keep} | over_seeds(results)
            rows.append(flat_row(row))
            told = f"{row['test_accuracy']:.3f} in {row['wall_s']:.1f} s"
            print(f"{name} {keep:g}: {told}", flush=True)
            report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    show(rows, COLUMNS)
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
        for name in (*ONE_SHOT, *options.selector, *options.score):
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
        "least": min(accuracies),
        "most": max(accuracies),
        "coreset_size": results[0]["coreset_size"],
        **means,
        "stopped_by": ", ".join(sorted({one["stopped_by"] for one in results})),
    }


if __name__ == "__main__":
    main()
