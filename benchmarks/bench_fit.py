"""What does `dpet fit` make of some minutes, beside networks of a fixed size?

Each run is a process of its own, as a user starts it. For every budget and seed:

    fit        `dpet fit DATA --minutes=M`: reading, planning, compiling, training and
               the last evaluations are within the budget
    scale S    standard training of the family's network of that scale, on the same
               pictures by the recipe of fit, in one schedule that ends with the same
               seconds of reading, compiling and training; its evaluations, and the
               start of its process, come on top, which favours it

The default is scale 1. The best scale of a budget is known only afterwards. Runs are
kept in a folder, so that a benchmark that was cut goes on; programs are compiled by
whoever comes first, and kept for all after it.

    python benchmarks/bench_fit.py --data=DIR --name=cifar100_q90 --image-size=16 \\
        --work=runs/bench_fit --out=benchmarks/results/bench_fit_cpu.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timing import report

from dpet_jax.config import yaml12
from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.files import read_json, write_whole
from dpet_jax.run.folder import CONFIG, SUMMARY

DEFAULT = 1.0
_DPET = (sys.executable, "-m", "dpet_jax")


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="by default the digits")
    parser.add_argument("--name", default="digits", help="of the data, in the rows")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3])
    parser.add_argument("--scales", type=float, nargs="*", default=[0.5, 0.75, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, help="keep the runs here, and go on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        rows = []
        for minutes in options.minutes:
            for seed in options.seeds:
                for row in runs_within(minutes, seed, options, work):
                    print(json.dumps(row), flush=True)
                    rows.append(row)
    rows += compared(rows)
    report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    print(table(rows))
    if options.out is not None:
        print(f"written to {options.out}")
    return rows


def runs_within(
    minutes: float, seed: int, options: argparse.Namespace, work: Path
) -> list[dict]:
    """Run all arms of a budget and a seed; return a row each."""
    place = work / f"{minutes:g}min-seed{seed}"
    fitted = place / "fit"
    given = [str(options.data)] if options.data else []
    given += [f"--image-size={options.image_size}"] if options.image_size else []
    if not (fitted / SUMMARY).exists():
        _dpet("fit", *given, f"--minutes={minutes}", f"--seed={seed}", out=fitted)
    common = {"data": options.name, "minutes": minutes, "seed": seed}
    rows = [common | {"arm": "fit"} | _row(fitted)]
    # what came before the run, such as planning, was within the budget too
    rows[0]["seconds"] += read_json(fitted / "fit.json")["before_s"]
    for scale in options.scales:
        folder = place / f"scale{scale:g}"
        done = folder / "fixed" / f"seed{seed}"
        if not (done / SUMMARY).exists():
            config = fixed(load(fitted / CONFIG, []), scale, 60 * minutes)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "fixed.yaml", config.to_yaml())
            _dpet("run", str(folder / "fixed.yaml"), "--overwrite", out=folder)
        rows.append(common | {"arm": f"scale {scale:g}"} | _row(done))
    return rows


def fixed(fitted: Config, scale: float, seconds: float) -> Config:
    """Return standard training of a scale, by the recipe of a fit, for some seconds.

    It is `dpet_anneal` that drops nothing, which is standard training to the last bit,
    and whose schedule can end with a clock.
    """
    plain = fitted.model_dump(mode="json")
    # no more than where the clock is first looked at depends on the planned epochs
    kind = {"kind": "dpet_anneal", "drop": 0.0, "coreset_fraction": None}
    plain["method"] = kind | {"epochs": plain["method"]["epochs"]}
    plain["model"] = {**plain["model"], "scale": scale}
    plain["budget"]["seconds"] = seconds
    plain["name"] = "fixed"
    return Config.model_validate(plain)


def _dpet(command: str, *arguments: str, out: Path) -> None:
    done = subprocess.run(
        [*_DPET, command, *arguments, f"--out={out}"], capture_output=True, text=True
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise SystemExit(f"dpet {command} {' '.join(arguments)}: {said[-2000:]}")


def _row(folder: Path) -> dict:
    summary = read_json(folder / SUMMARY)
    model = yaml12.read((folder / CONFIG).read_text())["model"]
    names = ("test_accuracy", "validation_accuracy", "epochs", "visits")
    row = {name: summary[name] for name in names}
    return row | {"scale": model["scale"], "seconds": summary["wall_s"]}


def compared(rows: Sequence[dict]) -> list[dict]:
    """Return, for each budget, the mean accuracy of each arm and what fit gains."""
    found = []
    for minutes in sorted({row["minutes"] for row in rows}):
        within = [row for row in rows if row["minutes"] == minutes]
        mean = {
            arm: statistics.fmean(
                row["test_accuracy"] for row in within if row["arm"] == arm
            )
            for arm in dict.fromkeys(row["arm"] for row in within)
        }
        scales = {arm: value for arm, value in mean.items() if arm != "fit"}
        summary = {"minutes": minutes, "summary": mean}
        if scales:
            best = max(scales, key=lambda arm: scales[arm])
            summary |= {"best_fixed": best, "over_best": mean["fit"] - scales[best]}
        default = scales.get(f"scale {DEFAULT:g}")
        if default is not None:
            summary["over_default"] = mean["fit"] - default
        found.append(summary)
    return found


def table(rows: Sequence[dict]) -> str:
    """Lay out the means in points, a line a budget."""
    summaries = [row for row in rows if "summary" in row]
    arms = [*summaries[0]["summary"]]
    lines = [f"{'minutes':>8}" + "".join(f"{arm:>12}" for arm in arms)]
    lines += [
        f"{row['minutes']:>8g}"
        + "".join(f"{100 * row['summary'][arm]:>12.2f}" for arm in arms)
        for row in summaries
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
