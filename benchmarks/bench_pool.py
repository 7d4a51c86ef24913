"""Does the features' fit say which pre-trained network to start from, and does it pay?

A pool of networks of one shape, trained on other images at 16 x 16 pixels:

    objects       80 of the 100 classes of CIFAR-100
    few_objects   10 of those, for as many examples as there are few
    digits        the digits 0 to 4, in three equal channels
    clothes       the classes 0 to 4 of Fashion-MNIST, likewise
    wrong         the same 10 classes of CIFAR-100 with 9 of 10 labels wrong

For each target task and seed every network of the pool and a random one ("scratch") are
fine-tuned alike, and test accuracy gives the true order. Each measure of
transferability gives another; Kendall's tau says how far they agree. Then the network
that the default measure chooses is compared with scratch: the epochs to the first look
at validation at or above an accuracy, without and with pre-training, shared out over 1,
10 and 100 uses.

    python benchmarks/bench_pool.py --cifar10=DIR --cifar100=DIR --fashion=DIR \\
        --out=benchmarks/results/bench_pool_cpu.json
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from timing import report

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import validate
from dpet_jax.data import Data
from dpet_jax.data.source import Source
from dpet_jax.data.sources.digits import Digits
from dpet_jax.data.sources.idx import Idx
from dpet_jax.errors import UserError
from dpet_jax.pretrained.choice import SCRATCH, amortised
from dpet_jax.pretrained.external import Told
from dpet_jax.pretrained.pool import SUFFIX, ModelPool
from dpet_jax.run import build, experiment, pool_commands
from dpet_jax.run.folder import read_events
from dpet_jax.run.pretrained import rank
from dpet_jax.selection.transfer import MEASURES

_SIDE = 16
#: Classes of CIFAR-100 that a target has, which no network of the pool has seen.
_HELD_OUT = tuple(range(2, 100, 10))
#: Others, of which the small sources have some.
_FEW = tuple(range(5, 100, 10))


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", type=Path, help="a folder of parquet files")
    parser.add_argument("--cifar100", type=Path, help="likewise")
    parser.add_argument("--fashion", type=Path, help="a folder of four idx files")
    parser.add_argument("--targets", nargs="+", help="by default all four")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--width", type=float, default=0.25, help="of ResNet-10")
    parser.add_argument("--passes", type=int, default=6, help="of each fine-tuning")
    parser.add_argument("--examples", type=int, default=1000, help="of each target")
    parser.add_argument("--images", type=int, default=500, help="to choose by")
    parser.add_argument("--old-rate", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--start", default="finetune")
    parser.add_argument("--pretrain", type=int, default=5, help="passes of objects")
    parser.add_argument("--runs", type=Path, help="kept here, and the pool used again")
    parser.add_argument("--toy", action="store_true", help="the digits, one pass")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, options.runs or Path(name))
        bench.fill_pool()
        rows: list[dict] = []
        for target in options.targets or bench.targets:
            for seed in options.seeds:
                rows.append(bench.compared(target, seed))
                print(table([*rows, summary(rows)]), flush=True)
    rows.append(summary(rows))
    report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    return rows


class Bench:
    """The pool, the targets, and the runs on them.

    Args:
        options: Of the command line.
        folder: For the runs and the pool.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._read: dict[str, Data] = {}
        self.pool = ModelPool(folder / "pool")
        digits = _in_colour(folder, "digits", Digits().read(), zoom=2)
        if options.toy:
            other = digits | {"train_examples": 100}
            self._sources = {"digits": (digits, 1), "few": (other, 1)}
            self.targets = {"digits": other}
            return
        ten = {"kind": "parquet", "path": str(options.cifar10), "image_size": _SIDE}
        hundred = ten | {"path": str(options.cifar100), "label_column": "fine_label"}
        objects = [n for n in range(100) if n % 10 not in (2, 7)]
        few = hundred | {"classes": _names(_FEW)}
        wrong = few | {"label_noise": 0.9}
        fashion = Idx(path=options.fashion).read()
        clothes = _in_colour(folder, "clothes", fashion) | {"image_size": _SIDE}
        pretrain = options.pretrain
        self._sources = {
            "objects": (hundred | {"classes": _names(objects)}, pretrain),
            "few_objects": (few, 2 * pretrain),
            "digits": (digits | {"classes": _names(range(5))}, 4 * pretrain),
            "clothes": (clothes | {"classes": _names(range(5))}, pretrain),
            "wrong": (wrong, 2 * pretrain),
        }
        few_images = {
            "train_examples": options.examples,
            "validation_fraction": 0.2,
        }
        self.targets = {
            "cifar10": ten | few_images | {"validation_fraction": 0.02},
            "unseen objects": hundred | few_images | {"classes": _names(_HELD_OUT)},
            "digits 5 to 9": digits
            | {"classes": _names(range(5, 10)), "train_examples": 300},
            "clothes 5 to 9": clothes
            | few_images
            | {"classes": _names(range(5, 10)), "validation_fraction": 0.02},
        }

    def fill_pool(self) -> None:
        """Train the sources that are not there yet, and add them."""
        for name, (data, passes) in self._sources.items():
            if (self.pool.path / f"{name}{SUFFIX}").exists():
                continue
            config = self._config(f"source_{name}", data, passes, seed=100)
            done = self._run(config)
            told = Told(licence="for this benchmark alone")
            pool_commands.add(self.pool, str(done.folder), name, told)
            accuracy = done.summary["test_accuracy"]
            print(f"source {name}: test accuracy {accuracy:.3f}", flush=True)

    def compared(self, target: str, seed: int) -> dict[str, Any]:
        """Fine-tune every network on a target, and measure how each fits."""
        data = self.targets[target]
        plain = self._config("measured", data, self._options.passes, seed)
        read = self._data(plain)
        model = build.build_model(plain, read)
        scores: dict[str, dict[str, float]] = {}
        decision: dict[str, Any] = {}
        for measure in reversed(MEASURES):  # the default is the last to decide
            config = self._with_pool(plain, by=measure)
            assert config.pool is not None
            decision = rank(config, config.pool, read, model)
            scores[measure] = {r["name"]: r["score"] for r in decision["ranked"]}
        courses, accuracies = {}, {}
        for name in (SCRATCH, *self.pool.names()):
            config = plain
            if name != SCRATCH:
                config = self._with_pool(plain, network=name)
            done = self._run(config)
            courses[name] = _course(done.folder)
            accuracies[name] = done.summary["test_accuracy"]
            print(f"{target} {seed} {name}: {accuracies[name]:.4f}", flush=True)
        names = list(accuracies)
        taus = {
            measure: kendalltau(
                [scores[measure][n] for n in names], [accuracies[n] for n in names]
            ).statistic
            for measure in scores
        }
        return {
            "target": target,
            "seed": seed,
            "train": read.num_train,
            "test_accuracy": accuracies,
            "scores": scores,
            "kendall_tau": taus,
            "chosen": decision["chosen"],
            "best": max(accuracies, key=lambda n: accuracies[n]),
            "cost": self._cost(decision, courses, done.summary),
        }

    def _cost(
        self, decision: dict[str, Any], courses: dict[str, Any], summary: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the cost to each target over that of scratch, in FLOPs.

        The choice among all networks is in it: what the run of the chosen one alone has
        not paid is added.
        """
        chosen = decision["chosen"]
        if chosen == SCRATCH:
            return []
        training = self.pool.card(chosen).training
        full_pass = summary["flops"] / summary["epochs"]
        rest = decision["flops"] * (1 - 2 / len(decision["ranked"])) / full_pass
        rows = []
        for level in [percent / 100 for percent in range(20, 100, 5)]:
            own, scratch = (_cost(courses[name], level) for name in (chosen, SCRATCH))
            if own is None:
                break
            spent = amortised(own + rest, training.flops / full_pass)
            assert spent is not None
            row = {"accuracy": level, "scratch_epochs": scratch, "epochs": spent}
            if scratch is not None:
                row["over_scratch"] = {k: v / scratch for k, v in spent.items()}
            rows.append(row)
        return rows

    def _config(self, name: str, data: dict, passes: int, seed: int) -> Config:
        toy, options = self._options.toy, self._options
        model = {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]}
        if not toy:
            model = {
                "kind": "resnet18",
                "width_multiplier": options.width,
                "depth_multiplier": 0.5,
            }
        photos = data["kind"] == "parquet"
        return validate(
            {
                "name": name,
                "seed": seed,
                "data": data,
                "model": model,
                "train": {
                    "batch_size": 64,
                    "optimizer": {"kind": "sgd", "learning_rate": options.rate},
                    "schedule": {"kind": "triangular", "peak_at": 0.2},
                    "augment": {"translate": 2, "flip": photos},
                },
                "method": {"kind": "standard", "passes": 1 if toy else passes},
                "evaluate": {"every": 1 if name == "measured" else 100},
            },
            name,
        )

    def _with_pool(self, config: Config, **keys: Any) -> Config:
        options = self._options
        pool = {"path": str(self.pool.path), "start": options.start}
        pool |= {"old_rate": options.old_rate, "images": options.images}
        return validate(config.model_dump(mode="json") | {"pool": pool | keys}, "bench")

    def _data(self, config: Config) -> Data:
        key = config.data.model_dump_json()
        if key not in self._read:
            self._read[key] = build.build_data(config)
        return self._read[key]

    def _run(self, config: Config) -> experiment.Result:
        read = self._data(config)
        done = experiment.run(config, self._folder, overwrite=True, data=read)
        if done.summary is None:
            raise UserError(f"{config.name}: a run was interrupted; start again")
        return done


def _course(folder: Path) -> list[tuple[float, float]]:
    """Return epochs and validation accuracy of a run's evaluations."""
    events = read_events(folder / "events.jsonl")
    looks = [event for event in events if event["event"] == "evaluate"]
    return [(event["epochs"], event["accuracy"]) for event in looks]


def _cost(course: list[tuple[float, float]], level: float) -> float | None:
    return next((epochs for epochs, found in course if found >= level), None)


def _in_colour(
    folder: Path, name: str, source: Source, zoom: int = 1
) -> dict[str, Any]:
    """Write grey pictures in three equal channels; return what reads them."""
    arrays = {}
    for split in ("train", "test"):
        images, labels = getattr(source, split)
        large = images.repeat(zoom, axis=1).repeat(zoom, axis=2).repeat(3, axis=3)
        arrays |= {f"{split}_images": large, f"{split}_labels": labels}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return {"kind": "npz", "path": str(folder / f"{name}.npz")}


def _names(classes: Sequence[int]) -> list[str]:
    return [str(number) for number in classes]


def summary(rows: list[dict]) -> dict[str, Any]:
    """Return the mean tau of each measure, and how good its first choice was."""
    means = {
        measure: statistics.fmean(row["kendall_tau"][measure] for row in rows)
        for measure in rows[0]["kendall_tau"]
    }
    regret = {}
    for measure in means:
        lost = []
        for row in rows:
            scores, accuracy = row["scores"][measure], row["test_accuracy"]
            first = max(scores, key=lambda n: scores[n])
            lost.append(max(accuracy.values()) - accuracy[first])
        regret[measure] = statistics.fmean(lost)
    gain = [
        row["test_accuracy"][row["chosen"]] - row["test_accuracy"][SCRATCH]
        for row in rows
    ]
    return {
        "mean_kendall_tau": means,
        "mean_accuracy_lost_by_the_first": regret,
        "mean_accuracy_over_scratch": statistics.fmean(gain),
    }


def table(rows: list[dict]) -> str:
    """Lay the rows out in Markdown."""
    *runs, means = rows
    measures = list(means["mean_kendall_tau"])
    lines = [["target", "seed", "chosen", "best", "accuracy", "scratch", *measures]]
    lines.append(["---"] * len(lines[0]))
    for row in runs:
        accuracy = row["test_accuracy"]
        lines.append(
            [
                row["target"],
                str(row["seed"]),
                row["chosen"],
                row["best"],
                f"{100 * accuracy[row['chosen']]:.1f}",
                f"{100 * accuracy[SCRATCH]:.1f}",
                *(f"{row['kendall_tau'][m]:+.2f}" for m in measures),
            ]
        )
    mean = [f"{means['mean_kendall_tau'][m]:+.2f}" for m in measures]
    lines.append(["mean tau", "", "", "", "", "", *mean])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
