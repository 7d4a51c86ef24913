"""How long do submodular selectors take, beside others given the same similarities?

Facility location and graph cut over one float32 matrix: ours, and lazy greedy of
submodlib-py, apricot-select (where they are installed) and, given a checkout, DeepCore.
All must reach the same value before a time is printed. Cold seconds and the largest
memory are those of a fresh process, compilation and the data included, for the largest
problem alone.

    python benchmarks/bench_submodular.py --deepcore=DeepCore \\
        --out=benchmarks/results/bench_submodular_cpu.json

`--classes` is CRAIG in ten classes of `--class-size`, `--global` facility location over
`--global-size` gradients whose similarities are never held, beside stochastic greedy.
"""

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, ratios, report, spread

from dpet_jax.scores.factors import (
    Gradients,
    last_layer_gradients,
    unit_gradients,
)
from dpet_jax.selection.coverage import similarity_matrix
from dpet_jax.selection.craig import craig
from dpet_jax.selection.submodular import (
    cosine_rows,
    facility_location,
    facility_location_of_gradients,
    graph_cut,
    graph_cut_of_gradients,
)

OURS = ("lazy", "exact", "stochastic")
Run = Callable[[], Sequence[int]]


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2500, 5000])
    parser.add_argument("--selects", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", nargs="+", default=["lazy"], choices=OURS)
    parser.add_argument("--deepcore", type=Path, help="a checkout of DeepCore")
    parser.add_argument("--classes", action="store_true", help="CRAIG in ten classes")
    parser.add_argument("--class-size", type=int, default=5000)
    parser.add_argument("--class-select", type=int, default=500)
    parser.add_argument(
        "--gradients", type=Path, help="npz of logits, labels and features for these"
    )
    parser.add_argument("--global", action="store_true", dest="whole")
    parser.add_argument("--global-size", type=int, default=50_000)
    parser.add_argument("--global-select", type=int, default=5000)
    parser.add_argument("--toy", action="store_true", help="seconds on any machine")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.toy:
        options.sizes, options.selects, options.features = [60], [6], 8
        options.class_size, options.class_select = 20, 3
        options.global_size, options.global_select = 200, 10
        options.repeats = 1
    rows = [
        row
        for size in options.sizes
        for select in options.selects
        for row in (location_row(size, select, options), cut_row(size, select, options))
    ]
    if options.classes:
        rows.append(alone(classes_row, options))
    if options.whole:
        found = [alone(whole_row, options, way) for way in ("lazy", "stochastic")]
        assert found[0]["value"] >= found[1]["value"], found
        rows.extend(found)
    report(__doc__.partition("\n")[0], rows, options.out)
    return rows


def location_row(size: int, select: int, options: argparse.Namespace) -> dict:
    ways = location_ways(size, select, options)
    similarity = np.asarray(similarities(size, options), np.float64)

    def value(picks):
        return similarity[:, np.asarray(picks)].max(1).sum()

    cold = partial(cold_location, size, select, options)
    return compared("facility_location", size, select, ways, value, cold, options)


def cut_row(size: int, select: int, options: argparse.Namespace) -> dict:
    ways = cut_ways(size, select, options)
    similarity = np.asarray(similarities(size, options), np.float64)

    def value(picks):
        chosen = np.asarray(picks)
        among = similarity[np.ix_(chosen, chosen)].sum()
        return similarity[:, chosen].sum() - among

    cold = partial(cold_cut, size, select, options)
    return compared("graph_cut", size, select, ways, value, cold, options)


def compared(function, size, select, ways, value, cold, options) -> dict:
    values = {name: float(value(run())) for name, run in ways.items()}
    best = max(values.values())
    for name, reached in values.items():
        # what is drawn need not reach what is searched
        assert "stochastic" in name or reached >= (1 - 1e-6) * best, values
    seconds = interleaved(ways, options.repeats)
    ours = next(name for name in ways if name.startswith("ours"))
    largest = (size, select) == (max(options.sizes), max(options.selects))
    fresh = {name: alone(cold, name) for name in ways if largest}
    return {
        "function": function,
        "size": size,
        "select": select,
        "value": values,
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "over_ours": {
            name: ratios(taken, seconds[ours])
            for name, taken in seconds.items()
            if name != ours
        },
        "cold_s": {name: found["seconds"] for name, found in fresh.items()},
        "peak_mib": {name: found["peak_mib"] for name, found in fresh.items()},
    }


def cold_location(size, select, options, name) -> dict:
    return first_call(location_ways(size, select, options)[name])


def cold_cut(size, select, options, name) -> dict:
    return first_call(cut_ways(size, select, options)[name])


def first_call(run: Run) -> dict:
    start = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib()}


def alone(work: Callable[..., dict], *arguments) -> dict:
    """Run in a process of its own, so that nothing is warm and the peak is its own."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(work, *arguments).result()


def peak_mib() -> float:
    # ru_maxrss would begin with the peak of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 1024


# the selectors


def location_ways(size, select, options) -> dict[str, Run]:
    similarity = similarities(size, options)
    ways = {}
    for greedy in options.ours:
        key = jax.random.key(0) if greedy == "stochastic" else None
        ways[f"ours {greedy}"] = partial(
            _indices, facility_location, similarity, select, greedy=greedy, key=key
        )
    given = np.asarray(similarity)
    if installed("submodlib"):
        import submodlib

        # the copy into its own matrix is not timed
        function = submodlib.FacilityLocationFunction(
            n=size, mode="dense", sijs=given, separate_rep=False
        )
        ways["submodlib"] = partial(of_submodlib, function, select)
    if installed("apricot"):
        import apricot

        def of_apricot():
            model = apricot.FacilityLocationSelection(
                select, metric="precomputed", optimizer="lazy"
            )
            return model.fit(given).ranking

        ways["apricot"] = of_apricot
    if options.deepcore is not None:
        ways["DeepCore"] = partial(
            of_deepcore, options.deepcore, "FacilityLocation", given, select
        )
    return ways


def cut_ways(size, select, options) -> dict[str, Run]:
    similarity = similarities(size, options)
    given = np.asarray(similarity)
    ways: dict[str, Run] = {
        "ours": partial(_indices, graph_cut, similarity, select),
        "ours linear": partial(
            _indices, graph_cut_of_gradients, gradients(size, options.features), select
        ),
    }
    if installed("submodlib"):
        import submodlib

        function = submodlib.GraphCutFunction(
            n=size, mode="dense", lambdaVal=1.0, ggsijs=given, separate_rep=False
        )
        ways["submodlib"] = partial(of_submodlib, function, select)
    if options.deepcore is not None:
        ways["DeepCore"] = partial(
            of_deepcore, options.deepcore, "GraphCut", given, select
        )
    return ways


def _indices(selector, *arguments, **given):
    return selector(*arguments, **given).indices


def of_submodlib(function, select) -> list[int]:
    chosen = function.maximize(
        budget=select,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        verbose=False,
        show_progress=False,
    )
    return [index for index, _ in chosen]


def of_deepcore(checkout: Path, name: str, similarity, select) -> np.ndarray:
    folder = checkout / "deepcore" / "methods" / "methods_utils"
    index = np.arange(len(similarity))
    functions = load(folder / "submodular_function.py")
    function = getattr(functions, name)(index=index, similarity_matrix=similarity)
    silent = SimpleNamespace(print_freq=10**9)
    greedy = load(folder / "submodular_optimizer.py").LazyGreedy(silent, index, select)
    with contextlib.redirect_stdout(io.StringIO()):
        return greedy.select(function.calc_gain, function.update_state)


def load(path: Path) -> ModuleType:
    """Import one file; the package around it would want a deep-learning framework."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# the two large problems


def classes_row(options: argparse.Namespace) -> dict:
    size, select = 10 * options.class_size, 10 * options.class_select
    given, labels = labelled(size, options)
    start = time.perf_counter()
    picked = craig(given, labels, select)
    cold = time.perf_counter() - start
    seconds = interleaved({"ours": lambda: craig(given, labels, select)}, 3)["ours"]
    assert picked.weights is not None
    assert picked.weights.sum() == len(labels)
    return {
        "function": "craig",
        "size": len(labels),
        "select": select,
        "features": int(given.features.shape[1]),
        "seconds": spread(seconds),
        "cold_s": cold,
        "peak_mib": peak_mib(),
    }


def whole_row(options: argparse.Namespace, greedy: str) -> dict:
    given, _ = labelled(options.global_size, options)
    start = time.perf_counter()
    picked = facility_location_of_gradients(
        given,
        options.global_select,
        greedy=greedy,
        key=jax.random.key(0) if greedy == "stochastic" else None,
        memory_limit=0,
    )
    seconds = time.perf_counter() - start
    return {
        "function": f"facility_location, all, {greedy}",
        "size": int(given.features.shape[0]),
        "select": options.global_select,
        "features": int(given.features.shape[1]),
        "cold_s": seconds,
        "peak_mib": peak_mib(),
        "value": blockwise_value(given, picked.indices),
    }


def blockwise_value(given: Gradients, picks: np.ndarray) -> float:
    """Evaluate facility location anew, some picks at a time."""
    units = unit_gradients(given)

    @jax.jit
    def raised(units, level, which):
        return jnp.maximum(level, jnp.max(cosine_rows(units, which), axis=0))

    level = jnp.zeros(given.features.shape[0])
    for part in np.array_split(picks, -(-len(picks) // 64)):
        # two lengths at most, hence two programs
        level = raised(units, level, jnp.asarray(part))
    return float(np.asarray(level, np.float64).sum())


# the data


def gradients(size: int, features: int) -> Gradients:
    return drawn(size, features)[0]


def labelled(size: int, options) -> tuple[Gradients, np.ndarray]:
    if options.gradients is None:
        return drawn(size, options.features)
    with np.load(options.gradients) as saved:
        logits, labels, found = (
            saved[name][:size] for name in ("logits", "labels", "features")
        )
    labels = labels.astype(np.int32)
    arrays = jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(found)
    return last_layer_gradients(*arrays), labels


def drawn(size: int, features: int) -> tuple[Gradients, np.ndarray]:
    """Draw features around ten class means, cut off at 0, under a random last layer."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(size) % 10).astype(np.int32)
    means = rng.normal(size=(10, features))
    rows = np.maximum(means[labels] + rng.normal(size=(size, features)), 0.0)
    logits = rows @ (rng.normal(size=(features, 10)) * 0.3 / features**0.25)
    given = last_layer_gradients(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(labels),
        jnp.asarray(rows, jnp.float32),
    )
    return given, labels


def similarities(size: int, options) -> jax.Array:
    given = gradients(size, options.features)
    return similarity_matrix(cosine_rows, unit_gradients(given), size)


if __name__ == "__main__":
    main()
