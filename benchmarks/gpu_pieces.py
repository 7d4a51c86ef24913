"""The pieces of the GPU suite that run this project's own programs, one a process.

    python benchmarks/gpu_pieces.py scores --name=scores --rows=rows.jsonl --toy

`gpu_suite.py` calls them; the rows say what was measured.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import nvml_probe
from bench_gradient_norms import gradient_forms
from bench_scores import ALL
from bench_submodular import drawn
from gpu_rows import CUT, LEFT_OUT, Rows, arguments, timed
from gpu_torch import TOY_TRAIN, TRAIN
from scipy.stats import spearmanr
from timing import matrix_peak

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load, validate
from dpet_jax.data import Data, prepare
from dpet_jax.data.augment import normalise
from dpet_jax.data.source import ImageSet, make_source
from dpet_jax.data.sources import Digits
from dpet_jax.energy import EnergyMeter, discover
from dpet_jax.files import read_json
from dpet_jax.methods.base import Plan, Span
from dpet_jax.models.network import Network
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.run.folder import ENERGY_REPORT
from dpet_jax.run.machine import device_facts, findings, versions
from dpet_jax.scores.factors import Gradients
from dpet_jax.selection import top_k
from dpet_jax.selection.craig import craig
from dpet_jax.selection.submodular import (
    facility_location_of_gradients,
    graph_cut_of_gradients,
)
from dpet_jax.training.chunks import Batches
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import DeviceLearner, data_mesh
from dpet_jax.training.scoring import ScoreSpec, gradient_norms_of_data, score_data
from dpet_jax.training.state import DeviceData

CONFIGS = Path(__file__).parent.parent / "configs"
TINY = {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]}


def main() -> int:
    options = arguments(tuple(PIECES))
    platform = jax.default_backend()
    if platform != "gpu" and not options.toy:
        print(f"JAX has no GPU here, only {platform}; see dpet doctor")
        return LEFT_OUT
    rows = Rows(options, device_facts(), versions())
    PIECES[options.what](rows, options)
    return CUT if rows.cut else 0


# what can be measured


def sensors(rows: Rows, options: argparse.Namespace) -> None:
    """Report what is there, what the meter costs and whether it adds up."""
    load_s = 0.3 if options.toy else 3.0
    if rows.missing("found"):
        found = dict(findings(None))
        del found["compile cache"]  # which is not the suite's
        rows.add("found", findings=found)
    if rows.missing("meter"):
        work = nvml_probe.MatmulLoad(
            jax.local_devices()[0], 64 if options.toy else 8192
        )
        with energy_meter() as meter:
            meter.measure_idle(load_s)
            with meter.window("train"):
                work.start(None)
                time.sleep(load_s)
                work.stop()
            data = meter.report().data
        whole = data["energy"]["measured_wh"]
        in_phases = [phase["wh"] for phase in data["phases"].values()]
        rows.add(
            "meter",
            quality=data["energy"]["quality"],
            wh=whole,
            wh_k2=data["energy"]["measured_wh_k2"],
            wh_of_phases=None if whole is None else sum(w or 0.0 for w in in_phases),
            idle=data["energy"]["idle"],
            reason_codes=data["reason_codes"],
            by_source=data["energy"]["by_source"],
            tick_s=data["meter"]["cpu_s"] / max(data["meter"]["ticks"], 1),
            meter=data["meter"],
        )
    if jax.default_backend() != "gpu":
        return
    wanted = argparse.Namespace(
        gpu=jax.local_devices()[0].local_hardware_id, seconds=3.0, settle=0.5, poll=2e-3
    )
    for name, period_s in nvml_probe.LOADS.items():
        if rows.missing(f"nvml, {name}", 6.0):
            found = list(nvml_probe.measure(wanted, {name: period_s}))
            rows.add(f"nvml, {name}", found=found)


# training


def train(rows: Rows, options: argparse.Namespace) -> None:
    """Time epochs of a run's own training program, with crop and flip."""
    if not rows.missing("train", 0 if options.toy else 20.0):
        return
    num_train = TOY_TRAIN if options.toy else TRAIN
    before = compile_counts()
    with energy_meter() as meter:
        with meter.window("compile") as ready:
            learner = learner_of(options)
        cache_hits = compile_counts().since(before).cache_hits
        peak = matrix_peak(128 if options.toy else 8192, "bfloat16")
        epoch = epoch_of(learner, np.arange(num_train, dtype=np.int32), 0)
        epoch()
        images = -(-num_train // learner.batch_size) * learner.batch_size
        figures = timed(epoch, images, 0.05 if options.toy else 6.0, meter)
    tflops = figures["images_per_s"]["median"] * learner.main.train_flops / 1e12
    leaves = jax.tree.leaves(learner.main.snapshot()["params"])
    rows.add(
        "train",
        mode="ours",
        batch=learner.batch_size,
        dtype="bfloat16",
        parameters=sum(leaf.size for leaf in leaves),
        **figures,
        ready_s=ready.s,
        ready_wh=ready.energy.wh if ready.energy else None,
        ready_cache_hits=cache_hits,
        peak_tflops=peak,
        tflops=tflops,
        mfu=tflops / peak,
        memory=learner.memory(),
    )


def profile(rows: Rows, options: argparse.Namespace) -> None:
    """Say where the device's time goes in a step of the training program."""
    if not rows.missing("kernels", 0 if options.toy else 15.0):
        return
    learner = learner_of(options)
    steps = 2 if options.toy else 40
    images = np.arange(steps * learner.batch_size, dtype=np.int32)
    epoch = epoch_of(learner, images, 0)
    epoch()
    bare_s = min(once(epoch) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            traced_s = once(epoch)
        kernels = kernels_of(Path(folder))
    busy_s = sum(kernel["s"] for kernel in kernels)
    for kernel in kernels:
        kernel["us_a_step"] = 1e6 * kernel.pop("s") / steps
        kernel["launches_a_step"] = kernel.pop("launches") / steps
    rows.add(
        "kernels",
        mode="ours",
        batch=learner.batch_size,
        steps=steps,
        ms_a_step=1e3 * bare_s / steps,
        ms_a_step_traced=1e3 * traced_s / steps,
        ms_busy_a_step=1e3 * busy_s / steps,
        launches_a_step=sum(kernel["launches_a_step"] for kernel in kernels),
        kernels=kernels[:_SHOWN],
    )


#: Kernels of a step that a row holds, the longest.
_SHOWN = 100


def kernels_of(folder: Path) -> list[dict[str, Any]]:
    """Return what a trace holds of a device's kernels, the longest first.

    Kernels count as one where they do the same operation of the program. On a CPU its
    threads' operations take the place of kernels.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            on_gpu = plane.name.startswith("/device:GPU")
            for line in plane.lines:
                if not line.name.startswith("Stream" if on_gpu else "tf_XLA"):
                    continue
                for event in line.events:
                    operation = str(dict(event.stats).get("hlo_op", ""))
                    if not on_gpu and not operation:
                        continue
                    key = event.name, operation
                    empty = {"kernel": event.name[:160], "operation": operation}
                    kernel = found.setdefault(key, empty | {"s": 0.0, "launches": 0})
                    kernel["s"] += event.duration_ns / 1e9
                    kernel["launches"] += 1
    return sorted(found.values(), key=lambda kernel: -kernel["s"])


def growth(rows: Rows, options: argparse.Namespace) -> None:
    """Train on a growing set and query the shrinking rest; nothing compiles again."""
    shares = [s for s in (0.1, 0.25, 0.5, 0.75, 0.95) if rows.missing(f"{s:.0%}", 0)]
    if not shares:
        return
    learner = learner_of(options)
    num_train = TOY_TRAIN if options.toy else TRAIN
    query = 4 if options.toy else 1000
    order = np.random.default_rng(0).permutation(num_train).astype(np.int32)
    warm = False
    for share in shares:
        if not rows.missing(f"{share:.0%}"):
            continue
        size = round(share * num_train)
        chosen, rest = np.sort(order[:size]), np.sort(order[size:])
        epoch = epoch_of(learner, chosen, 1)
        select = partial(learner.select, "top_k", rest, query, scores=("margin",))
        if not warm:  # what a device does when it first sees a program
            epoch()
            select()
            warm = True
        before = compile_counts()
        train_s, select_s = once(epoch), once(select)
        rows.add(
            f"{share:.0%}",
            labelled=size,
            train_s=train_s,
            images_per_s=size / train_s,
            select_s=select_s,
            scored_per_s=rest.size / select_s,
            programs_compiled=compile_counts().since(before).programs,
        )


def learner_of(options: argparse.Namespace) -> DeviceLearner:
    """Return a learner over random images, compiled, as a run on CIFAR-10 makes it."""
    config = training_config(options)
    data = random_data(*((108, 12, 8) if options.toy else (50_000, 10_000, 32)))
    assert data.num_train == (TOY_TRAIN if options.toy else TRAIN)
    spec = parts.build_learner_spec(
        config, parts.build_model(config, data), ("margin",)
    )
    learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
    for _ in learner.compile():
        pass
    return learner


def training_config(options: argparse.Namespace) -> Config:
    """Return what the arms train with, so that they find the program compiled."""
    toy = options.toy
    model = TINY if toy else {"kind": "resnet18"}
    return validate(
        {
            "model": model | {"compute_dtype": "bfloat16"},
            "train": {
                "batch_size": 32 if toy else options.batch,
                "augment": {"translate": 1 if toy else 4, "flip": True},
            },
            "evaluate": {"batch_size": 12 if toy else 2000},
        },
        "gpu suite",
    )


def random_data(num_train: int, num_test: int, side: int) -> Data:
    """Return random images, of which the last ninth or tenth validates."""
    rng = np.random.default_rng(0)

    def some(count: int) -> ImageSet:
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        return ImageSet(images, np.arange(count, dtype=np.int32) % 10)

    names = [str(label) for label in range(10)]
    splits = ("train", "test")
    source = make_source("random", some(num_train), some(num_test), names, splits)
    held = 12 / 108 if num_train == 108 else 0.1
    return prepare(source, Digits(validation_fraction=held))


def epoch_of(
    learner: DeviceLearner, index_set: np.ndarray, plan_index: int
) -> Callable[[], Any]:
    """Return what trains on every example of a set once, waited for as a run does."""
    plan = Plan(index_set, "suite")
    batches = Batches(plan, learner.batch_size, seed=0, plan_index=plan_index)
    steps = batches.num_steps
    rows = batches.rows(0, steps)
    learner.main.begin(plan, plan_index)

    def run() -> Any:
        handle = learner.main.train(rows, steps, Span(0, plan.visits), 0)
        return learner.main.wait(handle)

    return run


# energy to accuracy

_STANDARD = "cifar10_resnet18_standard.yaml"
_DPET = "cifar10_resnet18_dpet_margin.yaml"
_ANNEAL = "method={kind: dpet_anneal, epochs: 10}"
#: Config and overrides of each arm; the costs of all but DPET's are about 10 epochs.
ARMS = {
    "standard": (_STANDARD, ()),
    "dpet_anneal": (_STANDARD, (_ANNEAL,)),
    "dpet_anneal_random": (_STANDARD, (_ANNEAL, "method.by=random")),
    "rs2_10": (
        _STANDARD,
        ("method.kind=rs2", "method.keep_fraction=0.1", "method.passes=100"),
    ),
    "dpet_margin": (_DPET, ()),
    "dpet_random": (_DPET, ("method.score=random",)),
}
_TOY = (
    *("data={kind: digits}", "evaluate.batch_size=100", "train.batch_size=64"),
    *("train.augment={translate: 1}", "train.optimizer.learning_rate=0.05"),
    "targets=[0.05, 0.1]",
    "model={kind: resnet, stem: 8, channels: [8], blocks: [1]}",
)
_TOY_PASSES = {
    _STANDARD: ("method.passes=2",),
    _ANNEAL: ("method.epochs=4",),
    _DPET: ("method.warmup_passes=1", "method.max_rounds=1", "method.query_size=50"),
}


def energy(rows: Rows, options: argparse.Namespace) -> None:
    """Run every arm in this one process; the data are read once."""
    if options.data is None and not options.toy:
        print("energy to accuracy needs CIFAR-10: give --data=DIR, a parquet folder")
        sys.exit(LEFT_OUT)
    configs = {name: config_of(name, options) for name in ARMS}
    data, longest = None, 0.0
    for name, config in configs.items():
        if not rows.missing(name, longest or (0.0 if options.toy else 25.0)):
            continue
        data = parts.build_data(config) if data is None else data
        began = time.perf_counter()
        result = experiment.run(config, options.runs, overwrite=True, data=data)
        seconds = time.perf_counter() - began
        if result.summary is None:
            sys.exit(CUT)
        longest = max(longest, seconds)
        report = read_json(result.folder / ENERGY_REPORT)
        kept = ("target", "reached", "wh_warm", "wh_cold", "wh", "bracket_wh", "epochs")
        kept = (*kept, "wall_s", "seconds_warm", "compile_cached", "best_accuracy")
        rows.add(
            name,
            data=data.name,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            stopped_by=result.stopped_by,
            **{
                key: result.summary[key]
                for key in ("validation_accuracy", "test_accuracy", "epochs", "visits")
            },
            wall_s=seconds,
            phases={
                phase: {key: entry[key] for key in ("s", "wh")}
                for phase, entry in report["phases"].items()
            },
            energy=report["energy"],
            targets=[
                {key: target.get(key) for key in kept}
                for target in report["energy_to_accuracy"]
            ],
        )


def config_of(name: str, options: argparse.Namespace) -> Config:
    """Return an arm's config."""
    file, changes = ARMS[name]
    overrides = [*changes, f"name={name}"]
    if options.toy:
        anneals = _ANNEAL in changes
        overrides += (*_TOY, *_TOY_PASSES[_ANNEAL if anneals else file])
    else:
        overrides.append(f"data.path={options.data}")
    return load(CONFIGS / file, [f"--{each}" for each in overrides])


# scores and selection


def scores(rows: Rows, options: argparse.Namespace) -> None:
    """Time scores of 50,000 images beyond one of them, and the best of the pool."""
    count, batch, query = (24, 8, 3) if options.toy else (50_000, 2000, 1000)
    model, data, variables = network_and_data(options, count)
    indices, number = jnp.arange(count, dtype=jnp.int32), jnp.int32(count)

    def scored(dtype: str, *names: str) -> Callable[[], Any]:
        spec = ScoreSpec(model, names, batch, dtype, data_mesh(1))
        return partial(score_data, spec, *variables, data, indices, number)

    everything = scored("bfloat16", *ALL)
    candidates = {
        "one score, bfloat16": scored("bfloat16", "margin"),
        "all, bfloat16": everything,
        "all and top-k, bfloat16": lambda: top_k(everything()["margin"], query),
        "all, logits, features, bfloat16": scored(
            "bfloat16", *ALL, "logits", "features"
        ),
        "one score, float32": scored("float32", "margin"),
        "all, float32": scored("float32", *ALL),
    }
    measure_calls(rows, candidates, count, options)


def norms(rows: Rows, options: argparse.Namespace) -> None:
    """Time exact gradient norms of 50,000, and of fewer by vmap(grad); compare them."""
    count, batch, some = (12, 4, 4) if options.toy else (50_000, 256, 1024)
    model, data, variables = network_and_data(options, count)
    indices, number = jnp.arange(count, dtype=jnp.int32), jnp.int32(count)

    def one_pass(dtype: str) -> Callable[[], Any]:
        spec = ScoreSpec(model, (), batch, dtype, data_mesh(1))
        return partial(gradient_norms_of_data, spec, *variables, data, indices, number)

    measure_calls(rows, {"one pass, float32": one_pass("float32")}, count, options)
    params, stats = variables
    images = normalise(data.images[:some], data.mean, data.std)
    labels = data.labels[:some]
    forms = gradient_forms(model, stats, min(batch, some), 0)

    def formed(name: str) -> Callable[[], Any]:
        program = jax.jit(forms[name][0])
        # only what the piece library forms in one go is cut to its batch
        size = some if name == "vmap_grad" else min(batch, some)
        return partial(program, params, images[:size], labels[:size])

    measure_calls(rows, {"vmap(grad), float32": formed("vmap_grad")}, some, options)
    if rows.missing("agreement"):
        exact = np.asarray(formed("vmap_grad")(), np.float64)
        ours = np.asarray(one_pass("float32")(), np.float64)[:some]
        apart = np.abs(ours / exact - 1)
        rows.add(
            "agreement",
            largest_relative_difference=float(apart.max()),
            median_relative_difference=float(np.median(apart)),
        )
    measure_calls(rows, {"one pass, bfloat16": one_pass("bfloat16")}, count, options)
    native = {"vmap(grad), XLA's convolutions, float32": formed("vmap_grad_native")}
    measure_calls(rows, native, min(batch, some), options)
    with jax.default_matmul_precision("highest"):
        whole = {"one pass, float32, highest": one_pass("float32")}
        measure_calls(rows, whole, count, options)
        if not rows.missing("rounding", 0 if options.toy else 15.0):
            return
        exact = np.asarray(one_pass("float32")(), np.float64)
    rows.add(
        "rounding",
        of={
            dtype: differences(np.asarray(one_pass(dtype)(), np.float64), exact)
            for dtype in ("float32", "bfloat16")
        },
    )


def differences(found: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Return how far norms are from exact ones, and how far their order is."""
    apart = np.abs(found / exact - 1)
    some = max(1, exact.size // 50)
    best = np.intersect1d(np.argsort(found)[-some:], np.argsort(exact)[-some:])
    return {
        "largest": float(apart.max()),
        "median": float(np.median(apart)),
        "rank_correlation": float(spearmanr(found, exact).statistic),
        "of_the_largest_2_percent": best.size / some,
    }


def subsets(rows: Rows, options: argparse.Namespace) -> None:
    """Time facility location and graph cut inside ten classes of 5,000."""
    size, select, width = (200, 3, 8) if options.toy else (50_000, 500, 512)
    given, labels = drawn(size, width)
    classes = [jnp.asarray(np.flatnonzero(labels == c)) for c in range(10)]

    def in_classes(selector: Callable[..., Any]) -> Callable[[], list]:
        def run() -> list:
            return [
                selector(Gradients(*(factor[some] for factor in given)), select)
                for some in classes
            ]

        return run

    def facility(greedy: str) -> Callable[..., Any]:
        return partial(facility_location_of_gradients, greedy=greedy)

    candidates = {
        "facility location, exact": in_classes(facility("exact")),
        "graph cut": in_classes(graph_cut_of_gradients),
        "CRAIG, exact, classes side by side": lambda: [
            craig(given, labels, 10 * select, greedy="exact")
        ],
        # as many turns as the data want, each of which a GPU has to report to the host
        "facility location, lazy": in_classes(facility("lazy")),
    }
    for name, run in candidates.items():
        if not rows.missing(name, 0 if options.toy else 10.0):
            continue
        cold_s, seconds = once(run), []
        while len(seconds) < 3 and sum(seconds) < 5:
            began = time.perf_counter()
            picked = run()
            seconds.append(time.perf_counter() - began)
        rows.add(
            name,
            examples=size,
            selected=sum(np.unique(found.indices).size for found in picked),
            features=width,
            seconds=min(seconds),
            seconds_most=max(seconds),
            cold_s=cold_s,
            gain=float(sum(np.asarray(found.gains).sum() for found in picked)),
        )


# helpers


def network_and_data(
    options: argparse.Namespace, count: int
) -> tuple[Network, DeviceData, Any]:
    """Return the network, random images on the device, and parameters."""
    section = {"model": TINY if options.toy else {"kind": "resnet18"}}
    side = 8 if options.toy else 32
    model = validate(section, "gpu suite").model.build(10, (side, side, 3))
    rng = np.random.default_rng(0)
    data = DeviceData(
        rng.integers(0, 256, (count, side, side, 3), np.uint8),
        rng.integers(0, 10, count).astype(np.int32),
        np.full(3, 0.5, np.float32),
        np.full(3, 0.25, np.float32),
    )
    variables = jax.jit(model.init)(jax.random.key(0))
    return model, jax.device_put(data), variables


def measure_calls(
    rows: Rows,
    candidates: dict[str, Callable[[], Any]],
    count: int,
    options: argparse.Namespace,
) -> None:
    """Add a row of each call: what it costs cold and warm, in seconds and Wh."""
    with energy_meter() as meter:
        for name, run in candidates.items():
            if not rows.missing(name, 0 if options.toy else 8.0):
                continue
            cold_s = once(run)
            figures = timed(
                lambda run=run: jax.block_until_ready(run()),
                count,
                0.02 if options.toy else 2.0,
                meter,
            )
            rows.add(name, examples=count, **figures, cold_s=cold_s)


def once(run: Callable[[], Any]) -> float:
    """Return the seconds of a call, until the device is done."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def energy_meter() -> EnergyMeter:
    return EnergyMeter(discover(jax.local_devices()))


PIECES = {
    function.__name__: function
    for function in (
        *(sensors, train, profile, energy, scores, norms, subsets, growth),
    )
}

if __name__ == "__main__":
    sys.exit(main())
