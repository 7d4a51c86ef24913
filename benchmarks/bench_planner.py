"""What does planning by the ranking law lose against the best scale in hindsight?

Nothing is trained: the table holds how 130 runs of the ResNet-20 family ended. On each
of its data sets, for 8 budgets in each of 4 time models, planners choose the scale; the
accuracy of their choice, from the smoothed table, is compared with that of the best
scale. The law is fitted on the other data set each time. Times are those measured on a
CPU, and three that reorder the scales: by FLOPs, by layers, and the same for all.

    g              the law with measured step times; half a percent of the budget to
                   measure them
    g, no warning  those of its plans that leave at least 150 steps
    g by FLOPs     the same with step times guessed from FLOPs
    fixed          the best single scale over all budgets, in hindsight
    default        scale 1
    random         the mean over all scales
    ridge          the tight-budget paper's: a quadratic ridge regression of accuracy on
                   scale and time, fitted to 8 short runs, for 15 % of the budget

With `--own`, the shipped law is judged on tables of runs of one's own, each with the
step times of its runs, and on each the law that is calibrated on the others, which saw
nothing of it. `--runs` makes a table of finished runs of the family, as of the suite
planner_table.

    python benchmarks/bench_planner.py --out=benchmarks/results/bench_planner_cpu.json
    python benchmarks/bench_planner.py --runs=runs/planner_table --name=NAME --own=FILE
    python benchmarks/bench_planner.py --family=resnet18 --own FILE OTHER
"""

import argparse
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from dpet_jax.models.network import ModelSection
from dpet_jax.planner.law import (
    LEAST_STEPS,
    SEED_NOISE,
    SHIPPED,
    Law,
    Observation,
    fit_level,
    refit,
    shipped,
)
from dpet_jax.planner.planner import Budget, Plan, Spend, StepCost, plan

TABLE = Path(__file__).parent.parent / "tests" / "data" / "planner_oracle.csv"
SETS = ("cifar100_10super", "cifar10_4class")
BATCH = 64
#: Microseconds of a visit on one CPU core, and layers of a network, by scale.
_CPU_US = {0.25: 62.0, 0.5: 80.0, 0.75: 179.0, 1.0: 322.0, 1.4: 935.0}
_LAYERS = {0.25: 8, 0.5: 8, 0.75: 14, 1.0: 20, 1.4: 26}
_NUM_TRAIN = 10_000
#: Of the kernel that smooths each scale's error over ln examples.
_BANDWIDTH = 0.5
#: Examples may lie so far from those of a run, as a factor, to count as measured.
_NEAR = 1.26
_OVERHEAD, _RIDGE_OVERHEAD = 0.005, 0.15


@dataclass(frozen=True)
class Table:
    """Runs of one data set on all of its data, in batches of 64, seeds averaged.

    Attributes:
        name: Of the data set.
        cells: Examples seen and accuracy of each run, by scale.
        parameters: By scale.
        train_flops: Of one example, by scale.
    """

    name: str
    cells: Mapping[float, Mapping[int, float]]
    parameters: Mapping[float, int]
    train_flops: Mapping[float, float]

    @classmethod
    def read(cls, path: Path, name: str) -> "Table":
        """Read the runs of one data set."""
        found: dict[float, dict[int, list[float]]] = {}
        parameters, flops = {}, {}
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["dataset"] != name or not _kept(row):
                    continue
                scale, visits = float(row["scale"]), int(row["visits"])
                by_visits = found.setdefault(scale, {})
                by_visits.setdefault(visits, []).append(float(row["accuracy"]))
                parameters[scale] = int(row["parameters"])
                flops[scale] = int(row["train_flops"]) / visits
        cells = {
            scale: {visits: float(np.mean(all_)) for visits, all_ in sorted(of.items())}
            for scale, of in sorted(found.items())
        }
        return cls(name, cells, parameters, flops)

    def observations(self) -> list[Observation]:
        """Return what a law is fitted to: runs of enough steps."""
        return [
            Observation(self.name, visits, self.parameters[scale], accuracy)
            for scale, of in self.cells.items()
            for visits, accuracy in of.items()
            if visits >= LEAST_STEPS * BATCH
        ]

    def accuracy(self, scale: float, visits: float) -> float:
        """Return the accuracy of a scale after some examples, smoothed.

        A straight line in ln error over ln examples, fitted to the runs near by; beyond
        the first and the last run it goes straight on.
        """
        return _smoothed(tuple(self.cells[scale].items()), visits)

    def measured(self, scale: float, visits: float) -> bool:
        """Return whether runs of a scale saw about so many examples, or both sides."""
        known = list(self.cells[scale])
        return known[0] / _NEAR <= visits <= known[-1] * _NEAR


def _kept(row: Mapping[str, str]) -> bool:
    """Return whether a run is one on all of its data, in batches of 64."""
    return float(row["drop"]) == 0 and int(row["batch"]) == BATCH


@cache
def _smoothed(cells: tuple[tuple[int, float], ...], visits: float) -> float:
    lengths, errors = np.log([[seen, 1 - accuracy] for seen, accuracy in cells]).T
    at = math.log(visits)
    near = float(np.clip(at, lengths[0], lengths[-1]))
    weights = np.exp(-0.25 * ((lengths - near) / _BANDWIDTH) ** 2)  # of residuals
    slope, there = np.polyfit(lengths - near, errors, 1, w=weights)
    return 1 - math.exp(min(0.0, there + slope * (at - near)))


@dataclass(frozen=True)
class Column:
    """Budgets on one data set, with what a visit takes.

    Attributes:
        times: Name of the time model.
        table: Of the data set.
        seconds: Of a visit, by scale.
        budgets: Seconds.
    """

    times: str
    table: Table
    seconds: Mapping[float, float]
    budgets: tuple[float, ...]

    def costs(self, seconds: Mapping[float, float]) -> dict:
        """Return what the planner is told, with some seconds of a visit."""
        return {
            (scale, BATCH): StepCost(BATCH * each, self.table.parameters[scale])
            for scale, each in seconds.items()
        }

    def plan(
        self, budget: float, law: Law, seconds: Mapping[float, float] | None = None
    ) -> Plan:
        """Plan with the law."""
        costs = self.costs(seconds or self.seconds)
        spent = Spend(_OVERHEAD * budget)
        return plan(
            Budget(seconds=budget), costs, law, num_train=_NUM_TRAIN, spent=spent
        )

    def points(self, budget: float, scale: float) -> float:
        """Return the accuracy of a scale at a budget, in points."""
        return 100 * self.table.accuracy(scale, budget / self.seconds[scale])

    def regret(self, budget: float, scale: float) -> float:
        """Return the points that a scale lacks to the best one."""
        return self.best(budget) - self.points(budget, scale)

    def best(self, budget: float) -> float:
        """Return the points of the best scale at a budget."""
        return max(self.points(budget, scale) for scale in self.seconds)

    def judged(self, budget: float, scale: float) -> bool:
        """Return whether neither a scale nor the best one is extrapolated there."""
        best = max(self.seconds, key=lambda one: self.points(budget, one))
        return all(
            self.table.measured(one, budget / self.seconds[one])
            for one in (scale, best)
        )


def columns(tables: Sequence[Table]) -> list[Column]:
    """Return every data set with every time model."""
    long = tuple(float(one) for one in np.geomspace(1, 56, 8))
    short = tuple(float(one) for one in np.geomspace(0.5, 9, 8))
    models = {
        "cpu": (_like(_CPU_US), long),
        "flops": (_like(tables[0].train_flops), long),
        "layers": (_like(_LAYERS), long),
        "flat": (dict.fromkeys(_CPU_US, 1e-4), short),
    }
    return [
        Column(name, table, seconds, budgets)
        for name, (seconds, budgets) in models.items()
        for table in tables
    ]


def _like(other: Mapping[float, float]) -> dict[float, float]:
    """Return seconds of a visit in the ratios of `other`, the same at scale 0.5."""
    return {s: 1e-6 * _CPU_US[0.5] * each / other[0.5] for s, each in other.items()}


def ridge_regret(column: Column, budget: float, draw: np.random.Generator) -> float:
    """Return the regret of the quadratic ridge regression on 8 short runs."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    rest = (1 - _RIDGE_OVERHEAD) * budget
    points, seen = [], []
    for scale in (0.25, 0.5, 1.0, 1.4):
        for share in (1 / 80, 1 / 40):  # together 15 %
            points.append((scale, share * budget))
            exact = column.points(share * budget, scale)
            seen.append(exact + 100 * SEED_NOISE * draw.standard_normal())
    form = PolynomialFeatures(2, include_bias=False)
    scaler = StandardScaler()
    model = Ridge(alpha=1.0).fit(scaler.fit_transform(form.fit_transform(points)), seen)
    asked = [(scale, rest) for scale in column.seconds]
    expected = model.predict(scaler.transform(form.transform(asked)))
    chosen = asked[int(np.argmax(expected))][0]
    return column.best(budget) - column.points(rest, chosen)


def regrets(
    column: Column, law: Law, fixed: float, draws: int
) -> dict[str, list[float]]:
    """Return the regret of every planner at every budget.

    Args:
        column: Of one data set and time model.
        law: Fitted elsewhere.
        fixed: The scale of the one that never changes it.
        draws: Of the noise that the ridge regression sees, to average over.
    """
    draw = np.random.default_rng(0)
    flops = {
        scale: column.seconds[0.5] * each / column.table.train_flops[0.5]
        for scale, each in column.table.train_flops.items()
    }
    found: dict[str, list[float]] = {}
    for budget in column.budgets:
        rest = (1 - _OVERHEAD) * budget
        planned = column.plan(budget, law)
        chosen = {
            "g": planned.scale,
            "g by FLOPs": column.plan(budget, law, flops).scale,
        }
        for name, scale in chosen.items():
            lost = column.best(budget) - column.points(rest, scale)
            found.setdefault(name, []).append(lost)
        if planned.steps >= LEAST_STEPS:
            found.setdefault("g, no warning", []).append(found["g"][-1])
        drawn = [ridge_regret(column, budget, draw) for _ in range(draws)]
        found.setdefault("ridge", []).append(float(np.mean(drawn)))
    return found | without_law(column, fixed)


def own_regrets(
    column: Column, laws: Mapping[str, Sequence[Law]], fixed: float
) -> dict[str, list[float]]:
    """Return the regret of laws at every budget, and of the rules that need none.

    Args:
        column: Of one data set and time model.
        laws: By name of the planner, which stands for all of its laws together.
        fixed: The scale of the rule that never changes it.
    """
    found: dict[str, list[float]] = {}
    for planner, each in laws.items():
        for law in each:
            for budget in column.budgets:
                planned = column.plan(budget, law)
                lost = column.regret(budget, planned.scale)
                found.setdefault(planner, []).append(lost)
                if planned.steps >= LEAST_STEPS:
                    found.setdefault(f"{planner}, no warning", []).append(lost)
    return found | without_law(column, fixed)


def without_law(column: Column, fixed: float) -> dict[str, list[float]]:
    """Return the regret at every budget of the rules that look at nothing.

    Args:
        column: Of one data set and time model.
        fixed: The scale of the one that never changes it.
    """
    lost = {
        scale: [column.regret(budget, scale) for budget in column.budgets]
        for scale in column.seconds
    }
    default = {"default": lost[1.0]} if 1.0 in lost else {}
    random = np.mean([*lost.values()], axis=0).tolist()
    return {f"fixed {fixed:g}": lost[fixed], **default, "random": random}


def best_fixed(all_columns: Sequence[Column]) -> float:
    """Return the one scale that loses least over all budgets."""
    return min(
        all_columns[0].seconds,
        key=lambda scale: sum(
            column.regret(budget, scale)
            for column in all_columns
            for budget in column.budgets
        ),
    )


def cross_fitted(tables: Sequence[Table]) -> dict[str, Law]:
    """Return for each data set the law fitted on the other one alone."""
    one, other = tables
    return {
        one.name: refit(other.observations(), strength=0),
        other.name: refit(one.observations(), strength=0),
    }


def evaluate(path: Path = TABLE, draws: int = 5) -> list[dict]:
    """Return a row for each planner: mean and worst regret, and means by column."""
    tables = [Table.read(path, name) for name in SETS]
    every, laws = columns(tables), cross_fitted(tables)
    fixed = best_fixed(every)
    found: dict[str, dict[str, list[float]]] = {}
    for column in every:
        name = f"{column.times} {column.table.name}"
        lost = regrets(column, laws[column.table.name], fixed, draws)
        for planner, each in lost.items():
            found.setdefault(planner, {})[name] = each
    return [_row(planner, by) for planner, by in found.items()]


def own_table(path: Path) -> Table:
    """Return a table of one's own, which has one data set."""
    with path.open(encoding="utf-8") as file:
        names = {row["dataset"] for row in csv.DictReader(file)}
    if len(names) != 1:
        raise ValueError(f"{path}: has {len(names)} data sets; give each its own file")
    return Table.read(path, *names)


def own_columns(path: Path, law: Law) -> list[Column]:
    """Return a table of one's own by its runs' times and by others.

    Those budgets count at which neither the best scale nor the law's choice is
    extrapolated.
    """
    table = own_table(path)
    spent: dict[float, list[float]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if _kept(row):
                each = float(row["wall_seconds"]) / int(row["visits"])
                spent.setdefault(float(row["scale"]), []).append(each)
    seconds = {scale: float(np.median(all_)) for scale, all_ in spent.items()}
    models = {
        "measured": seconds,
        "flops": _like(table.train_flops),
        "flat": dict.fromkeys(seconds, 1e-4),
    }
    if seconds.keys() <= _LAYERS.keys():  # else all have as many
        models["layers"] = _like({scale: _LAYERS[scale] for scale in seconds})
    found = [Column(times, table, each, ()) for times, each in models.items()]
    return [replace(one, budgets=_judged_budgets(one, law)) for one in found]


def _judged_budgets(column: Column, law: Law) -> tuple[float, ...]:
    runs = [
        visits * column.seconds[scale]
        for scale, of in column.table.cells.items()
        for visits in of
    ]
    budgets = np.geomspace(min(runs), max(runs), 24).tolist()
    return tuple(
        budget
        for budget in budgets
        if column.judged(budget, column.plan(budget, law).scale)
    )


def calibrated(paths: Sequence[Path], family: str, without: float | None = None) -> Law:
    """Return what `dpet plan --calibrate` makes of tables.

    Args:
        paths: Of the tables.
        family: Of their networks.
        without: A scale the runs of which are left out.
    """
    seen = []
    for table in map(own_table, paths):
        unseen = table.parameters.get(without)
        seen += [one for one in table.observations() if one.parameters != unseen]
    return refit(seen, family=family)


def evaluate_own(
    path: Path, family: str = "resnet20", others: Sequence[Path] = ()
) -> list[dict]:
    """Return a row for each planner on a table of one's own, by the shipped law.

    Scales that are too large for a budget are judged by runs of fewer examples than
    there are, that is, by a line that goes on. Of a family with a law of its own, the
    law of ResNet-20, which saw none of it, is judged as well, and laws that were
    calibrated on all tables but for the runs of one scale.

    Args:
        path: Of the table.
        family: Of its networks.
        others: More tables; the law that is calibrated on them alone is judged too.
    """
    law = shipped(family)
    every = own_columns(path, law)
    fixed = best_fixed(every)
    laws = {"g": [law]}
    if law is not SHIPPED:
        laws["g, a scale left out"] = [
            calibrated((path, *others), family, scale) for scale in every[0].seconds
        ]
        laws["g of ResNet-20"] = [SHIPPED]
    if others:
        laws["g, other data"] = [calibrated(others, family)]
    found: dict[str, dict[str, list[float]]] = {}
    for column in every:
        for planner, lost in own_regrets(column, laws, fixed).items():
            found.setdefault(planner, {})[column.times] = lost
    return [_row(planner, by) for planner, by in found.items()]


def fixed_runs(*paths: Path) -> list[Observation]:
    """Return the standard runs of fixed scales in results of bench_fit.py."""
    from dpet_jax.models.families import ResNet20
    from dpet_jax.run.planning import num_parameters

    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    found = []
    for row in rows:
        if (
            row.get("arm", "").startswith("scale")
            and row["visits"] >= LEAST_STEPS * BATCH
        ):
            section = ResNet20(channel_multiple=8).scaled(row["scale"])
            size = num_parameters(section.build(100, (16, 16, 3)))
            found.append(
                Observation(row["data"], row["visits"], size, row["test_accuracy"])
            )
    return found


def late_residual(runs: Sequence[Observation], late: float) -> float:
    """Return the root mean square error of accuracies, all but `late` as shipped."""
    law = SHIPPED.model_copy(update={"late": float(late)})
    level = fit_level(runs, law)
    scores = [law.score(one.visits, one.parameters) for one in runs]
    wrong = [
        level.accuracy(score) - one.accuracy
        for score, one in zip(scores, runs, strict=True)
    ]
    return float(np.sqrt(np.mean(np.square(wrong))))


def fitted_late(runs: Sequence[Observation]) -> float:
    """Fit how much less small networks learn late, the other constants as shipped."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda late: late_residual(runs, late), bounds=(0, 10), method="bounded"
    )
    return float(found.x)


def _row(planner: str, by: Mapping[str, Sequence[float]]) -> dict:
    every = np.concatenate([*by.values()])
    return {
        "planner": planner,
        "mean": round(float(every.mean()), 3),
        "worst": round(float(every.max()), 2),
        **{name: round(float(np.mean(each)), 2) for name, each in by.items()},
    }


def write_own(runs: Path, name: str, path: Path) -> None:
    """Write the table of finished runs of the family, as the shipped one is."""
    from dpet_jax.config.load import load
    from dpet_jax.files import read_json, write_whole
    from dpet_jax.run.folder import CONFIG, SUMMARY
    from dpet_jax.run.load import load_run
    from dpet_jax.run.planning import num_parameters

    with TABLE.open(encoding="utf-8") as file:
        fields = next(csv.reader(file))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for mark in sorted(runs.rglob(SUMMARY)):
        summary, config = read_json(mark), load(mark.parent / CONFIG)
        spent = summary["phases"]["train"]["s"]
        writer.writerow(
            {
                "dataset": name,
                "scale": _scale(config.model),
                "drop": getattr(config.method, "drop", 0),
                "batch": config.train.batch_size,
                "visits": summary["visits"],
                "seed": summary["seed"],
                "accuracy": round(summary["test_accuracy"], 4),
                "cross_entropy": round(summary["test_loss"], 4),
                "wall_seconds": round(spent, 2),
                "parameters": num_parameters(load_run(mark.parent).model),
                "train_flops": summary["flops"],
                "lr": config.train.optimizer.learning_rate,
            }
        )
    write_whole(path, text.getvalue())


def _scale(section: ModelSection) -> float:
    """Return which of a family's scales a section is."""
    for scale in section.scales:
        if section.scaled(scale).model_dump() == section.model_dump():
            return scale
    raise ValueError(f"{section!r} has none of the scales {section.scales}")


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    """Print regrets in points, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument(
        "--own", type=Path, nargs="+", default=[], help="tables of one's own"
    )
    parser.add_argument("--family", default="resnet20", help="of their networks")
    parser.add_argument("--runs", type=Path, help="make it of these runs")
    parser.add_argument("--name", default="own", help="of their data set")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.runs is not None:
        write_own(options.runs, options.name, *options.own)
    rows = [] if options.own else evaluate(options.table)
    for path in options.own:
        others = [other for other in options.own if other != path]
        judged = evaluate_own(path, options.family, others)
        rows += [{"data": own_table(path).name, **row} for row in judged]
    for row in rows:
        shown = dict(row)
        name = " ".join(shown.pop(k) for k in ("data", "planner") if k in shown)
        mean, worst, *means = shown.values()
        each = "".join(f"{value:7.2f}" for value in means)
        print(f"{name:<60}mean {mean:5.2f}  worst {worst:5.1f}   by column{each}")
    from timing import report  # brings JAX, which planning does without

    report(__doc__.partition("\n")[0], rows, options.out, quiet=True)
    print(f"written to {options.out}" if options.out else "")
    return rows


if __name__ == "__main__":
    main()
