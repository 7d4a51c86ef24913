"""What does each selector cost, class by class, on gradients of a trained network?

A network is trained for some passes over the data set given (or scikit-learn's digits,
a far smaller problem: the rows say which); its logits and features give last-layer
gradients as factors. Then each selector picks from every class in turn: the first time
with compilation (cold), then warm. Rows of a class are padded to one capacity, so that
one program serves all classes; craig takes them as they are. Peak memory is that of the
whole process while the selector ran, JAX and the gradients included, and what it was
above the memory before.

Three objectives tell how good a selection is, in the space of the features, the mean of
the classes; less is better. `radius`: the largest distance of an example to its nearest
pick (k-center's). `mean_error`: the distance of the mean of the picks to that of all
(herding's). `mmd`: maximum mean discrepancy of the picks to all, by a Gaussian kernel
as wide as the median distance (kernel herding's). Beside ours are coreax' kernel
herding, randomly pivoted Cholesky and kernel thinning, and submodlib-py's dispersion,
where they are installed (extra `peers`), and with --selector one's own, by its import
path: see `timing.py` for what it takes and gives.

Given a checkout of DeepCore and an environment with PyTorch, its functions select from
the first class, beside ours on that class: k-center, herding (which takes the farthest
instead of the nearest point) and matching pursuit (on gradients formed before, outside
the time, at the ridge of ours). Its Glister never applies its update, so that it has
less to do: no figure.

    python benchmarks/bench_selection.py --data=data/cifar10 \\
        --out=benchmarks/results/bench_selection_cpu.json
    python benchmarks/bench_selection.py --select=30 --selector my_lab.selectors:mine
"""

import argparse
import importlib
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bench_gradient_norms import enlarged_digits, trained
from selection_peers import Select, peers, width_of
from sklearn.metrics import pairwise_distances
from timing import (
    add_own,
    flat_row,
    interleaved,
    network,
    parsed,
    ratios,
    report,
    spread,
)

from dpet_jax.data.sources import Parquet
from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import Gradients, last_layer_gradients
from dpet_jax.selection.badge import badge
from dpet_jax.selection.by_name import Examples, checked_picks, own_selector
from dpet_jax.selection.craig import craig
from dpet_jax.selection.geometry import herding, k_center
from dpet_jax.selection.glister import Validation, glister
from dpet_jax.selection.grad_match import grad_match, grad_match_batches
from dpet_jax.selection.submodular import (
    facility_location_of_gradients,
    graph_cut_of_gradients,
)
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.scoring import ScoreSpec, score_data
from dpet_jax.training.state import DeviceData

MIB = 2**20
BATCH = 64


class Pool(NamedTuple):
    """One class, padded to the capacity of all."""

    gradients: Gradients
    logits: jax.Array
    labels: jax.Array
    allowed: jax.Array
    size: int


def pick_batches(pool: Pool, num_select: int) -> Selection:
    """Match whole mini-batches of the class, as they come."""
    batch = min(BATCH, pool.size)
    rows = jnp.arange(pool.size // batch * batch, dtype=jnp.int32)
    batches = rows.reshape(-1, batch)
    return grad_match_batches(
        pool.gradients, batches, min(-(-num_select // batch), len(batches))
    )


SELECTORS: dict[str, Callable[[Pool, int], Selection]] = {
    "k_center": lambda pool, m: k_center(
        pool.gradients.features, m, allowed=pool.allowed
    ),
    "herding": lambda pool, m: herding(
        pool.gradients.features, m, allowed=pool.allowed
    ),
    "badge": lambda pool, m: badge(
        pool.gradients, m, key=jax.random.key(0), allowed=pool.allowed
    ),
    "glister": lambda pool, m: glister(
        pool.gradients,
        Validation(pool.logits, pool.labels, pool.gradients.features),
        m,
        learning_rate=0.1,
        allowed=pool.allowed,
        validation_allowed=pool.allowed,
    ),
    "grad_match": lambda pool, m: grad_match(pool.gradients, m, allowed=pool.allowed),
    "grad_match_batches": pick_batches,
    "facility_location": lambda pool, m: facility_location_of_gradients(
        pool.gradients, m, allowed=pool.allowed
    ),
    "graph_cut": lambda pool, m: graph_cut_of_gradients(
        pool.gradients, m, allowed=pool.allowed
    ),
    "craig": lambda pool, m: craig(
        Gradients(*(leaf[: pool.size] for leaf in pool.gradients)),
        np.zeros(pool.size, np.int32),
        m,
        per_class=False,
    ),
}


TOY = {"per_class": 40, "select": 6, "passes": 0.1, "repeats": 1}
TOY |= {"selectors": ["k_center", "herding", "grad_match"]}
COLUMNS = {
    "selector": "selector",
    "cold s": "cold_s",
    "warm s": "warm_s.median",
    "radius": "radius",
    "mean error": "mean_error",
    "mmd": "mmd",
    "MiB": "peak_over_before_mib",
    "beside s": "deepcore_s.median",
}


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a parquet folder; else digits")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--depth", type=float, default=1.0, help="0.5 is ResNet-10")
    parser.add_argument("--passes", type=float, default=2.0, help="of training before")
    parser.add_argument("--select", type=int, default=500, help="of each class")
    parser.add_argument("--per-class", type=int, default=5000, help="at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--selectors", nargs="+", choices=SELECTORS, default=list(SELECTORS)
    )
    parser.add_argument("--deepcore", type=Path, help="a checkout of DeepCore")
    parser.add_argument(
        *("--no-peers",), action="store_true", help="leave out what others select"
    )
    add_own(parser, selectors=True, scores=False)
    options = parsed(parser, arguments, TOY)
    pools = pools_of(options)
    num_select = min(options.select, min(pool.size for pool in pools))
    facts = {
        "data": options.data.resolve().name if options.data else "digits",
        "classes": len(pools),
        "per_class": max(pool.size for pool in pools),
        "select": num_select,
        "features": pools[0].gradients.features.shape[1],
    }
    others, reasons = ({}, []) if options.no_peers else peers()
    others |= {path: own_selector(path) for path in options.selector}
    selectors = {name: SELECTORS[name] for name in options.selectors}
    selectors |= {name: alone(name, select) for name, select in others.items()}
    for reason in reasons:
        print(reason, flush=True)
    rows = [
        facts | measure(name, select, pools, num_select, options)
        for name, select in selectors.items()
    ]
    if options.deepcore is not None:
        rows += [facts | row for row in beside_deepcore(pools[0], num_select, options)]
    rows = [flat_row(row) for row in rows]
    report(__doc__.partition("\n")[0], rows, options.out, columns=COLUMNS)
    return rows


def alone(name: str, select: Select) -> Callable[[Pool, int], Selection]:
    """Give a selector that is not ours the rows of a class, without the padding."""

    def of_class(pool: Pool, num_select: int) -> Selection:
        some = slice(pool.size)
        examples = Examples(
            pool.logits[some],
            pool.gradients.features[some],
            np.asarray(pool.labels[some], np.int32),
            pool.logits.shape[1],
        )
        picks = select(examples, num_select)
        return checked_picks(name, picks, pool.size, num_select)

    return of_class


def measure(
    name: str,
    select: Callable[[Pool, int], Selection],
    pools: list[Pool],
    num_select: int,
    options: argparse.Namespace,
) -> dict[str, Any]:

    def all_classes() -> list[Selection]:
        return [select(pool, num_select) for pool in pools]

    before = forget_peak()
    start = time.perf_counter()
    chosen = all_classes()
    cold = time.perf_counter() - start
    peak = peak_mib()
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        again = all_classes()
        seconds.append(time.perf_counter() - start)
    for first, second, pool in zip(chosen, again, pools, strict=True):
        np.testing.assert_array_equal(first.indices, second.indices)
        assert len(set(first.indices.tolist())) == first.indices.size
        assert first.indices.max() < pool.size
    row: dict[str, Any] = {
        "selector": name,
        "picked": sum(one.indices.size for one in chosen),
        "cold_s": cold,
        "warm_s": spread(seconds),
        "peak_mib": peak,
        "peak_over_before_mib": None if peak is None else peak - before,
        **objectives(pools, chosen),
    }
    if chosen[0].weights is not None:
        row["share_of_weight_0"] = float(
            np.mean(np.concatenate([one.weights for one in chosen]) == 0)
        )
    return row


def objectives(pools: list[Pool], chosen: list[Selection]) -> dict[str, float]:
    """Return how well picks stand for their classes; see the top."""
    found = []
    for pool, selection in zip(pools, chosen, strict=True):
        rows = np.asarray(pool.gradients.features[: pool.size], np.float64)
        picks = rows[selection.indices]
        width = width_of(rows)

        def mean_of_kernel(one, other, width=width):
            return np.exp(
                -(pairwise_distances(one, other) ** 2) / (2 * width**2)
            ).mean()

        discrepancy = (
            mean_of_kernel(rows, rows)
            + mean_of_kernel(picks, picks)
            - 2 * mean_of_kernel(rows, picks)
        )
        found.append(
            (
                pairwise_distances(rows, picks).min(axis=1).max(),
                np.linalg.norm(rows.mean(axis=0) - picks.mean(axis=0)),
                max(0.0, discrepancy) ** 0.5,
            )
        )
    names = ("radius", "mean_error", "mmd")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def pools_of(options: argparse.Namespace) -> list[Pool]:
    """Train a network and return what its last layer says of each class."""
    data = real(options.data) if options.data else enlarged_digits(8)
    n = data.labels.size
    spec = network(options, options.width)
    steps = max(round(options.passes * n / 64), 1)
    params, stats = trained(spec, data, steps)
    batch = min(500, n)
    capacity = -(-n // batch) * batch
    rows = jnp.asarray(np.resize(np.arange(n), capacity), jnp.int32)
    score = ScoreSpec(spec, ("logits", "features"), batch, "float32", data_mesh(1))
    read = score_data(score, params, stats, data, rows, jnp.int32(n))
    logits, features = (np.asarray(read[name])[:n] for name in score.names)
    labels = np.asarray(data.labels)
    accuracy = np.mean(logits.argmax(1) == labels)
    print(f"trained for {steps} steps: training accuracy {accuracy:.3f}", flush=True)
    places = [np.flatnonzero(labels == one)[: options.per_class] for one in range(10)]
    capacity = max(len(positions) for positions in places)
    return [padded(logits, labels, features, p, capacity) for p in places]


def padded(logits, labels, features, positions, capacity) -> Pool:
    rows = np.resize(positions, capacity)
    logits, labels = jnp.asarray(logits[rows]), jnp.asarray(labels[rows])
    gradients = last_layer_gradients(logits, labels, jnp.asarray(features[rows]))
    allowed = jnp.arange(capacity) < len(positions)
    return Pool(gradients, logits, labels, allowed, len(positions))


def real(folder: Path) -> DeviceData:
    source = Parquet(path=folder).read()
    pixels = source.train.images[:5000].astype(np.float32).reshape(-1, 3) / 255
    return jax.device_put(
        DeviceData(
            source.train.images, source.train.labels, pixels.mean(0), pixels.std(0)
        )
    )


def forget_peak() -> float:
    """Let the peak of memory begin anew where the kernel can; return what is in use."""
    if not STATUS.exists():
        return 0.0
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib() or 0.0


def peak_mib() -> float | None:
    """Return the peak of this process's memory; None where there is no telling."""
    if not STATUS.exists():
        return None
    lines = STATUS.read_text().splitlines()
    return int(next(s for s in lines if s.startswith("VmHWM")).split()[1]) / 1024


STATUS = Path("/proc/self/status")


def beside_deepcore(
    pool: Pool, num_select: int, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Time DeepCore's functions and ours in turn, on one class."""
    peers = deepcore(options.deepcore, pool, num_select)
    for name in options.selectors:
        if name in peers:
            ours = partial(SELECTORS[name], pool, num_select)
            seconds = interleaved({"ours": ours, "deepcore": peers[name]}, 1)
            yield {
                "selector": name,
                "beside": "deepcore",
                "warm_s": spread(seconds["ours"]),
                "deepcore_s": spread(seconds["deepcore"]),
                "deepcore_over_ours": ratios(seconds["deepcore"], seconds["ours"]),
            }


def deepcore(checkout: Path, pool: Pool, num_select: int) -> dict[str, Callable]:
    """Import what selects, without the networks and data sets around it."""
    import torch

    for package in ("deepcore", "deepcore.methods", "deepcore.nets"):
        module = types.ModuleType(package)
        module.__path__ = [str(checkout / package.replace(".", "/"))]
        sys.modules[package] = module
    training = types.ModuleType("deepcore.methods.earlytrain")
    training.EarlyTrain = object
    sys.modules[training.__name__] = training
    parallel = types.ModuleType("deepcore.nets.nets_utils")
    parallel.MyDataParallel = object
    sys.modules[parallel.__name__] = parallel
    of = {
        name: importlib.import_module(f"deepcore.methods.{name}")
        for name in ("kcentergreedy", "herding", "gradmatch")
    }
    utils = importlib.import_module("deepcore.methods.methods_utils")
    metric = utils.euclidean_dist
    itself = types.SimpleNamespace(
        metric=metric, args=types.SimpleNamespace(print_freq=10**9, device="cpu")
    )
    errors, features = (np.array(leaf)[: pool.size] for leaf in pool.gradients)
    matrix = torch.from_numpy(features)
    with_bias = np.concatenate([np.ones((pool.size, 1), np.float32), features], axis=1)
    formed = (errors[:, :, None] * with_bias[:, None]).reshape(pool.size, -1)
    return {
        "k_center": lambda: of["kcentergreedy"].k_center_greedy(
            matrix,
            num_select,
            metric,
            "cpu",
            random_seed=0,
            already_selected=[],
            print_freq=10**9,
        ),
        "herding": lambda: of["herding"].Herding.herding(itself, matrix, num_select),
        "grad_match": lambda: of["gradmatch"].GradMatch.orthogonal_matching_pursuit_np(
            itself, formed.T, formed.mean(0), num_select, lam=0.5
        ),
    }


if __name__ == "__main__":
    main()
