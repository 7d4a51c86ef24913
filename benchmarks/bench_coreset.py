"""Is the coreset that a run of dpet_anneal leaves worth more than a random one?

For each seed, one run says how often it kept each example, and its mean loss. Networks
of the same seed are then trained from scratch on coresets of equal size and class
shares, all on as many examples as full passes would see, with one learning rate:

    default    what the run leaves by default: the hardest of each class but the 30 %
               hardest, and from 40 % of the data on, chance
    random     chance within each class
    el2n       the highest EL2N of each class, by a network trained for 2 passes
    top_count  the examples of each class that the run kept most often

and on all data. Of the rules, those pass whose mean is not below that of random by more
than two standard errors of the difference, from the s.d. pooled over all rows.

    python benchmarks/bench_coreset.py --set data.path=DIR \\
        --out=benchmarks/results/bench_coreset_cpu.json
    python benchmarks/bench_coreset.py --toy --selector my_lab.selectors:mine

A score or a selector of one's own chooses by a network trained for 2 passes, as EL2N
does, the selector from all classes at once; how they are called: see `timing.py`.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timing import TOY_RUN, add_own, flat_row, parsed, report, show

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.methods.base import Coreset
from dpet_jax.methods.coreset import coreset_arrays
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.methods.dynamic import DynamicState
from dpet_jax.quotas import largest_remainder
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.run.load import load_run

CONFIGS = Path(__file__).parent.parent / "configs"
RULES = ("random", "default", "el2n", "top_count")
TOY = {"keep": [0.3], "epochs": 1, "anneal_epochs": 4, "seeds": [0]}
COLUMNS = {
    "rule": "rule",
    "keep": "keep",
    "validation": "validation_accuracy",
    "validation\ns.d.": "validation_sd",
    "validation\nover random": "validation_over_random",
    "test": "test_accuracy",
    "test\ns.d.": "test_sd",
    "test over\nrandom": "test_over_random",
    "standard\nerror": "test_standard_error",
}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "cifar10_easy4_standard.yaml"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--epochs", type=int, default=4, help="full passes' examples")
    parser.add_argument("--anneal-epochs", type=int, default=8, help="of the first run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add_own(parser, selectors=True, scores=True)
    options = parsed(parser, arguments, TOY)
    small = TOY_RUN if options.toy else ()
    common = [f"--{one}" for one in (*small, *options.set)]
    rules = (*RULES, *options.selector, *options.score)
    data = parts.build_data(load(options.config, common))
    results: dict[tuple[str, float], list[dict]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in options.seeds:
            bench = OneSeed(options, [*common, f"--seed={seed}"], data, Path(name))
            state = bench.anneal()
            for keep, rule in [
                (1.0, "full"),
                *((k, r) for k in options.keep for r in rules),
            ]:
                result = bench.trained(rule, keep, state)
                results.setdefault((rule, keep), []).append(result)
                told = f"test accuracy {result['test_accuracy']:.4f}"
                print(f"seed {seed} {rule} {keep:g}: {told}", flush=True)
    rows = [flat_row(row) for row in compared(results)]
    report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    show(rows, COLUMNS)
    if options.out is not None:
        print(f"written to {options.out}")
    return rows


class OneSeed:
    """The runs of one seed.

    Args:
        options: Of the command line.
        overrides: Of the config.
        data: What the config reads.
        folder: For the runs, each of which replaces the one before.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        overrides: list[str],
        data: Data,
        folder: Path,
    ) -> None:
        self._options = options
        self._overrides = overrides
        self._data = data
        self._folder = folder
        self._pool = parts.build_pool(data)
        self._seed = self._config().seed

    def anneal(self) -> DynamicState:
        """Run dpet_anneal, and return what it knows of every example at its end."""
        # a coreset of everything holds the columns of everything
        epochs = self._options.anneal_epochs
        keys = f"kind: dpet_anneal, epochs: {epochs}, coreset_fraction: 1.0"
        result = self._run(self._config(f"method={{{keys}}}"))
        columns = load_run(result.folder).coreset
        assert columns is not None, "a coreset was asked for"
        order = np.argsort(columns["source_rows"])
        place = np.argsort(self._pool.source_rows)
        state = DpetAnneal().start(self._pool, self._seed)
        names = {"kept": "kept", "entered": "round", "loss_sum": "mean_loss"}
        for field, column in names.items():
            values = getattr(state, field).copy()
            values[place] = columns[column][order]
            state = state._replace(**{field: values})
        return state._replace(plans=np.ones_like(state.plans))

    def trained(self, rule: str, keep: float, state: DynamicState) -> dict:
        """Train from scratch on what a rule keeps; return what came of it."""
        n, epochs = self._data.num_train, self._options.epochs
        # the budget ends the last pass where as many examples as in full ones are seen
        passes = math.ceil(epochs * n / max(1, math.floor(keep * n)))
        keys = {
            "full": "kind: standard",
            "random": f"kind: one_shot, by: random, keep_fraction: {keep}, "
            "per_class: true",
            "el2n": f"kind: one_shot, by: el2n, keep_fraction: {keep}, "
            "per_class: true, pretrain_passes: 2",
        }.get(rule)
        if ":" in rule:
            per_class = "false" if rule in self._options.selector else "true"
            keys = (
                f"kind: one_shot, by: '{rule}', keep_fraction: {keep}, "
                f"per_class: {per_class}, pretrain_passes: 2"
            )
        if keys is None:
            path = self._folder / "coreset.npz"
            chosen = self._chosen(rule, keep, state)
            np.savez(path, **coreset_arrays(chosen, self._pool))
            keys = f"kind: coreset, path: {path}"
        config = self._config(
            f"method={{{keys}, passes: {passes}}}",
            f"train.schedule.horizon={epochs}",
            f"budget.visits={epochs * n}",
        )
        summary = self._run(config).summary
        assert summary is not None
        names = ("test_accuracy", "test_loss", "validation_accuracy", "visits")
        sizes = {"coreset_size": summary["coreset_size"] or n}
        return {name: summary[name] for name in (*names, "epochs")} | sizes

    def _chosen(self, rule: str, keep: float, state: DynamicState) -> Coreset:
        if rule == "default":
            chosen = DpetAnneal(coreset_fraction=keep).coreset(state)
            assert chosen is not None
            return chosen
        size = round(keep * state.num_examples)
        rows = most_kept(state.labels, size, state.kept, state.loss_sum)
        nothing = np.full(rows.size, np.nan, np.float32)
        return Coreset(rows, np.zeros(rows.size, np.int32), nothing)

    def _config(self, *changes: str) -> Config:
        overrides = [*self._overrides, *(f"--{change}" for change in changes)]
        return load(self._options.config, overrides)

    def _run(self, config: Config) -> experiment.Result:
        run = experiment.run(config, self._folder, overwrite=True, data=self._data)
        if run.summary is None:
            raise UserError(f"{config.name}: a run was interrupted; start again")
        return run


def most_kept(
    labels: np.ndarray, size: int, kept: np.ndarray, mean_loss: np.ndarray
) -> np.ndarray:
    """Return each class's share of what was kept most often, equals by mean loss."""
    classes, counts = np.unique(labels, return_counts=True)
    shares = largest_remainder(size * counts / labels.size, size)
    order = np.lexsort((-mean_loss, -kept))
    chosen = [
        order[labels[order] == label][:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.concatenate(chosen).astype(np.int32)


def compared(results: dict[tuple[str, float], list[dict]]) -> list[dict]:
    """Bring the seeds together, and compare each rule with chance at its size."""
    rows = []
    for (rule, keep), seeds in results.items():
        row: dict = {
            "rule": rule,
            "keep": keep,
            "coreset_size": seeds[0]["coreset_size"],
        }
        for split in ("test", "validation"):
            found = [one[f"{split}_accuracy"] for one in seeds]
            row[f"{split}_accuracies"] = found
            row[f"{split}_accuracy"] = statistics.fmean(found)
            row[f"{split}_sd"] = statistics.stdev(found) if len(found) > 1 else None
        for name in ("test_loss", "epochs", "visits"):
            row[name] = statistics.fmean(one[name] for one in seeds)
        rows.append(row)
    for split in ("test", "validation"):
        error = standard_error([row[f"{split}_accuracies"] for row in rows])
        random = {
            r["keep"]: r[f"{split}_accuracy"] for r in rows if r["rule"] == "random"
        }
        for row in rows:
            if row["keep"] in random and row["rule"] != "random":
                over = row[f"{split}_accuracy"] - random[row["keep"]]
                row[f"{split}_over_random"] = over
                row[f"{split}_standard_error"] = error
                row[f"{split}_passes"] = None if error is None else over >= -2 * error
    return rows


def standard_error(groups: Sequence[Sequence[float]]) -> float | None:
    """Return that of the difference of two groups' means, by the pooled s.d."""
    if any(len(group) < 2 for group in groups):
        return None
    pooled = statistics.fmean(statistics.variance(group) for group in groups)
    return math.sqrt(pooled * 2 / len(groups[0]))


if __name__ == "__main__":
    main()
