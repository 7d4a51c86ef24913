"""What each layer of a network takes: alone, and as a part of the training step.

Alone a layer runs again and again in one compiled loop, on inputs at its own shapes.
Within the step it is known by what is missing when it is left out: XLA fuses a ReLU
into its neighbours, so that its time alone is no part of the step's.

The kinds of layers are left out one after another, those that are fused into others
first, and the run's own training program is timed each time. What a step takes less
than the one before is the part of that kind, its optimizer's share included. So the
parts and what remains at last, which is reading and changing the images, the loss and
the tables, add up to the whole step; leaving out each kind from the whole network would
count twice what two kinds share.
"""

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.config.experiment import BudgetConfig, Config
from dpet_jax.data import Data
from dpet_jax.energy import EnergyMeter, Probe
from dpet_jax.errors import UserError
from dpet_jax.files import csv_cell, write_whole
from dpet_jax.models.network import Network
from dpet_jax.run import build
from dpet_jax.run.anatomy import (
    KINDS,
    Alone,
    Kind,
    Layer,
    Without,
    alone,
    layers_of,
    size_of,
)
from dpet_jax.run.machine import environment, pinned
from dpet_jax.run.profiling import joules_of
from dpet_jax.training.compilation import compiled
from dpet_jax.training.placement import rooms
from dpet_jax.training.state import DeviceData, StepSpec, init_state
from dpet_jax.training.steps import train_steps

JSON_FILE, CSV_FILE = "layers.json", "layers.csv"
#: Length of a window: as long as a sensor needs, or as short as a clock allows.
_MEASURED_S, _TIMED_S = 2.0, 0.2
#: Windows of one program on a quiet machine differ by no more than this factor.
_STEADY = 1.3
#: Calls of a compiled loop in a window, so that none of them runs far past its end.
_CALLS = 4
#: Steps that one call can take.
_MOST_STEPS = 64
#: Repeats of a layer alone in one call.
_MOST_REPEATS = 1_000_000


@dataclass(frozen=True)
class Timing:
    """Seconds and joules of one execution, a value each window.

    Attributes:
        seconds: Of each window.
        joules: Measured; None where not all of them were.
    """

    seconds: tuple[float, ...]
    joules: tuple[float, ...] | None = None

    @property
    def median_s(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def range_s(self) -> tuple[float, float]:
        """The least and the largest."""
        return min(self.seconds), max(self.seconds)

    @property
    def median_j(self) -> float | None:
        """The median."""
        return None if self.joules is None else statistics.median(self.joules)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        low, high = self.range_s
        return {
            "s": self.median_s,
            "s_low": low,
            "s_high": high,
            "j": self.median_j,
            "s_each": list(self.seconds),
        }


class LayerCost(NamedTuple):
    """A layer alone.

    Attributes:
        layer: The first of those that are alike.
        times: How many are.
        forward: Its forward pass.
        both: Its forward and backward pass.
        flops: Of both by XLA's count, before optimisation; None if it gives none.
        forward_flops: Of the forward pass, likewise.
        bytes: Of the inputs and results of both, each once: the least that must move.
        forward_bytes: Of the forward pass, likewise.
    """

    layer: Layer
    times: int
    forward: Timing
    both: Timing
    flops: float | None
    forward_flops: float | None
    bytes: int
    forward_bytes: int

    @property
    def j_per_flop(self) -> float | None:
        """Joules of both over their FLOPs; None where either is not known."""
        joules = self.both.median_j
        return joules / self.flops if joules is not None and self.flops else None


class KindCost(NamedTuple):
    """All layers of a kind.

    Attributes:
        kind: Which.
        layers: How many.
        alone_s: Seconds of both passes of each alone, summed up.
        alone_j: Joules of them; None where not measured.
        before: A step with this kind, and without those that were left out before.
        after: One without it.
    """

    kind: Kind
    layers: int
    alone_s: float
    alone_j: float | None
    before: Timing
    after: Timing

    @property
    def within_s(self) -> float:
        """Its part of the step: what a step takes less without it."""
        return self.before.median_s - self.after.median_s

    @property
    def within_range_s(self) -> tuple[float, float]:
        """The least and the largest difference of two windows of a round."""
        pairs = zip(self.before.seconds, self.after.seconds, strict=True)
        differences = [before - after for before, after in pairs]
        return min(differences), max(differences)

    @property
    def within_j(self) -> float | None:
        """Joules of its part; None where not measured."""
        before, after = self.before.median_j, self.after.median_j
        return None if before is None or after is None else before - after


@dataclass(frozen=True)
class Layers:
    """What the layers of a network take.

    Attributes:
        config: Resolved.
        network: What people call it.
        data: Name of the data set.
        image_shape: Height, width and channels.
        dtype: In which it computes.
        step: A whole training step, timed apart from that which the parts begin with.
        rest: One with no layers: the images, the loss, the tables.
        layers: Each distinct layer alone.
        kinds: Each kind, in the order of being left out.
        window_s: Least length of a window.
        no_energy: Why no joules are given; empty where they are.
        environment: Versions and device.
    """

    config: Config
    network: str
    data: str
    image_shape: tuple[int, int, int]
    dtype: str
    step: Timing
    rest: Timing
    layers: tuple[LayerCost, ...]
    kinds: tuple[KindCost, ...]
    window_s: float
    no_energy: str
    environment: dict[str, Any]

    @cached_property
    def layers_s(self) -> float:
        """Sum of what all kinds take within the step."""
        return sum(one.within_s for one in self.kinds)

    @property
    def share(self) -> float:
        """That over the whole step."""
        return self.layers_s / self.step.median_s


def measure_layers(
    config: Config,
    *,
    seconds: float | None = None,
    repeats: int = 5,
    data: Data | None = None,
    meters: Sequence[Probe] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Layers:
    """Time each layer of a config's network, alone and within the training step.

    Steps are those of the run's own program, on its data, at a learning rate of 0, so
    that a network without its normalisation cannot diverge meanwhile. All programs take
    turns, window by window.

    Args:
        config: Names network, data, batch size, optimizer and precision.
        seconds: Least length of a window; by default 2 where energy is measured, for a
            sensor takes so long, and else 0.2.
        repeats: Windows of each program.
        data: What `build.build_data` made of an equal `config.data`; by default it is
            read.
        meters: Meters of the user's own.
        say: Gets a line on what will be timed.

    Raises:
        UserError: If the config does not fit the data, or nothing of the network is
            known to be a layer.
    """
    # neither pruning nor a budget is part of a step
    bare = config.model_copy(update={"prune": None, "budget": BudgetConfig()})
    with pinned(), build.build_meter(bare, meters) as meter:
        data = build.build_data(bare) if data is None else data
        network = build.build_model(bare, data)
        batch, shape = bare.train.batch_size, data.input_shape
        at = batch, shape, build.dtype_of(bare)
        found = layers_of(network, *at)
        if not found:
            raise UserError(
                f"model.kind: nothing of {network.label} is a convolution, a dense "
                "layer, a normalisation, a ReLU or a pooling; choose another network"
            )
        measured = meter.quality == "measured"
        if seconds is None:
            seconds = _MEASURED_S if measured else _TIMED_S
        alike = _alike(found)
        timer = _Timer(meter, seconds)
        kinds = [kind for kind in KINDS if any(one.kind == kind for one in found)]
        say(
            f"{network.label}: timing {len(alike)} distinct layers of {len(found)}, "
            f"and {len(kinds) + 1} networks in training"
        )
        steps = _Steps(bare, data)
        programs = [steps.program(network)]
        left_out: tuple[str, ...] = ()
        for kind in kinds:
            left_out += tuple(one.name for one in found if one.kind == kind)
            programs.append(steps.program(Without(network, left_out, *at)))
        # the whole step once more, for what adds up by itself would show nothing
        whole, *others, step = timer.in_turn([*programs, programs[0]], repeats)
        costs = [_cost(network, at, names, timer, repeats) for names in alike.values()]
        return Layers(
            config,
            bare.model.describe(network),
            data.name,
            shape,
            at[2],
            step,
            others[-1],
            tuple(costs),
            tuple(_kind_costs(kinds, costs, whole, others)),
            seconds,
            "" if step.joules is not None else _why_not(meter),
            environment(),
        )


def _alike(layers: Sequence[Layer]) -> dict[Any, list[Layer]]:
    """Return layers by all but their name."""
    found: dict[Any, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer[1:], []).append(layer)
    return found


def _kind_costs(
    kinds: Sequence[Kind],
    costs: Sequence[LayerCost],
    whole: Timing,
    others: Sequence[Timing],
) -> Iterator[KindCost]:
    for kind, before, after in zip(kinds, [whole, *others], others, strict=False):
        own = [cost for cost in costs if cost.layer.kind == kind]
        joules = [cost.both.median_j for cost in own]
        known = [
            cost.times * each
            for cost, each in zip(own, joules, strict=True)
            if each is not None
        ]
        yield KindCost(
            kind,
            sum(cost.times for cost in own),
            sum(cost.times * cost.both.median_s for cost in own),
            sum(known) if len(known) == len(own) else None,
            before,
            after,
        )


def _why_not(meter: EnergyMeter) -> str:
    if meter.quality == "modelled":
        return "only a model of the CPU is at hand, which is no measurement"
    if meter.quality == "measured":
        return "the windows were too short for the sensor; give more --seconds"
    reasons = [f"{one.component}: {one.reason}" for one in meter.sensors.unavailable]
    return "; ".join(reasons) or "no source of energy is known"


# timing

#: Runs a program so many times, and returns what has to be waited for.
_Run = Callable[[int], Any]


class _Program(NamedTuple):
    """Something to be timed, and how often one call can do it."""

    run: _Run
    most: int


class _Timer:
    """Windows of programs that take turns."""

    def __init__(self, meter: EnergyMeter, seconds: float) -> None:
        self._meter, self._seconds = meter, seconds

    def in_turn(self, programs: Sequence[_Program], repeats: int) -> list[Timing]:
        """Time programs in turn, every other round backwards."""
        counts = [self._per_call(program) for program in programs]
        windows: list[list[tuple[float, float | None]]] = [[] for _ in programs]
        order = range(len(programs))
        for number in range(repeats):
            for place in order if number % 2 == 0 else reversed(order):
                windows[place].append(self._window(programs[place], counts[place]))
        return [_timing(each) for each in windows]

    def _per_call(self, program: _Program) -> int:
        """Return how often a call does it that lasts a part of a window."""
        wanted_s, count = self._seconds / _CALLS, 1
        jax.block_until_ready(program.run(1))  # which the device has not seen yet
        while True:
            began = time.perf_counter()
            jax.block_until_ready(program.run(count))
            took = time.perf_counter() - began
            if took >= wanted_s / 2 or count == program.most:
                return count
            factor = min(10.0, max(2.0, wanted_s / max(took, 1e-9)))
            count = min(program.most, int(count * factor))

    def _window(self, program: _Program, count: int) -> tuple[float, float | None]:
        done, took = 0, 0.0
        with self._meter.window("layers") as window:
            began = time.perf_counter()
            while took < self._seconds:
                window.sync(program.run(count))
                done += count
                took = time.perf_counter() - began
        energy = window.energy
        measured = energy is not None and energy.quality == "measured"
        joules = joules_of(window) if measured else None
        return took / done, None if joules is None else joules / done


def _timing(windows: Sequence[tuple[float, float | None]]) -> Timing:
    joules = [each for _, each in windows if each is not None]
    whole = len(joules) == len(windows)
    return Timing(tuple(each for each, _ in windows), tuple(joules) if whole else None)


class _Steps:
    """Training steps of networks on one data set, by the run's own program."""

    def __init__(self, config: Config, data: Data) -> None:
        model = build.build_model(config, data)
        self._spec: StepSpec = build.build_learner_spec(config, model, ()).step
        self._place = NamedSharding(self._spec.mesh, PartitionSpec())
        images, rows = data.images, data.train_rows
        room = build.build_placement(config, data, model).room
        if room is not None:  # as much of them as a run has there for a chunk
            batches = config.train.batch_size, config.evaluate.batch_size
            chunk = rooms(room, math.prod(data.image_shape), *batches).trained
            rows = rows[: min(chunk, _MOST_STEPS * self._spec.batch_size)]
            images = np.asarray(images[: rows.size])
        self._data = DeviceData(*self._put((images, data.labels, data.mean, data.std)))
        self._num_train = data.num_train
        hyper = build.build_hyper(config)
        still = hyper.schedule._replace(
            peak=np.float32(0), horizon=np.float32(data.num_train)
        )
        self._hyper = self._put(hyper._replace(schedule=still))
        rows = np.resize(rows, _MOST_STEPS * self._spec.batch_size)
        self._rows, self._weights = self._put(
            (rows.astype(np.int32), np.ones(data.num_train, np.float32))
        )

    def program(self, network: Network) -> _Program:
        """Compile the training steps of a network."""
        spec = replace(self._spec, model=network)

        def drawn(key: Any) -> Any:
            return init_state(
                network,
                spec.optimizer,
                self._num_train,
                key,
                margins=spec.margins,
                averaged=spec.averaged,
            )

        state = self._put(jax.jit(drawn)(jax.random.key(0)))

        def arguments(count: int) -> tuple[Any, ...]:
            counts = self._put((np.int32(count), np.int32(0)))
            return (state, self._data, self._rows, *counts, self._weights, self._hyper)

        program, _ = compiled(train_steps, spec, *arguments(1))

        def run(count: int) -> Any:
            nonlocal state
            state, stats = program.run(*arguments(count))
            return state, stats

        return _Program(run, _MOST_STEPS)

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._place)


def _cost(
    network: Network,
    at: tuple[int, tuple[int, int, int], str],
    layers: Sequence[Layer],
    timer: _Timer,
    repeats: int,
) -> LayerCost:
    """Time a layer alone."""
    one: Alone = alone(network, *at, layers[0].name)
    shapes = (one.inputs, (one.cotangent, *one.inputs))
    functions = (one.forward, one.backward)
    forward, both = timer.in_turn(
        [_loop(f, inputs) for f, inputs in zip(functions, shapes, strict=True)],
        repeats,
    )
    flops, sizes = [], []
    for function, inputs in zip(functions, shapes, strict=True):
        flops.append(_xla_flops(function, inputs))
        results = jax.tree.leaves(jax.eval_shape(function, *inputs))
        sizes.append(size_of([*inputs, *results]))
    return LayerCost(
        layers[0], len(layers), forward, both, flops[1], flops[0], sizes[1], sizes[0]
    )


def _xla_flops(function: Callable[..., Any], inputs: Sequence[Any]) -> float | None:
    counted = jax.jit(function).lower(*inputs).cost_analysis() or {}
    return counted.get("flops") or None


def _loop(function: Callable[..., Any], shapes: Sequence[Any]) -> _Program:
    """Return a program that runs a function again and again on normal inputs.

    Each time one element of every input is overwritten by one of the result before, or
    XLA would run it once, before the loop; and all results are kept, or it would
    compute that element alone.
    """

    def inputs(key: Any) -> Any:
        keys = jax.random.split(key, len(shapes))
        return [
            jax.random.normal(k, shape.shape, shape.dtype)
            for k, shape in zip(keys, shapes, strict=True)
        ]

    def touched(array: Any, value: Any) -> Any:
        first = value.astype(array.dtype).reshape((1,) * array.ndim)
        return lax.dynamic_update_slice(array, first, (0,) * array.ndim)

    def body(_: Any, carry: Any) -> Any:
        arrays, _ = carry
        results = function(*arrays)
        # bounded, for it goes in again
        value = jnp.tanh(jax.tree.leaves(results)[-1].ravel()[0])
        return [touched(array, value) for array in arrays], results

    @jax.jit
    def run(arrays: Any, count: Any) -> Any:
        empty = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(function, *arrays),
        )
        return lax.fori_loop(0, count, body, (arrays, empty))

    arrays = jax.jit(inputs)(jax.random.key(0))
    return _Program(lambda count: run(arrays, np.int32(count)), _MOST_REPEATS)


# what is shown and written


def layer_lines(found: Layers) -> Iterator[str]:
    """Yield the tables of `dpet layers`, at most 80 columns wide."""
    shape = " x ".join(map(str, found.image_shape))
    device = found.environment["device"]
    yield (
        f"{found.network} on {found.data}, {shape}, {found.dtype}, batches of "
        f"{found.config.train.batch_size}"
    )
    windows = len(found.step.seconds)
    yield f"{device['kind']}; medians of {windows} windows of {found.window_s:g} s"
    yield ""
    yield from _table(_layer_rows(found))
    yield "ms of one layer alone; + back: forward and backward pass. FLOPs of both by"
    yield "XLA's count before optimisation; bytes of inputs and results, each once"
    yield ""
    yield from _table(_kind_rows(found))
    yield "ms of all layers of a kind; alone: each by itself, forward and backward; in"
    yield "the step: what a step takes less without them, those above left out as well"


def answer_lines(found: Layers) -> Iterator[str]:
    """Yield what most of a step goes to, and whether the parts add up to it."""
    most = max(found.kinds, key=lambda one: one.within_s)
    step_s, gap = found.step.median_s, 100 * (1 - found.share)
    yield (
        f"Of a step of {_short(1e3 * step_s)} ms, {most.kind} takes most, "
        f"{100 * most.within_s / step_s:.0f} %. The parts of all layers"
    )
    yield (
        f"add up to {_short(1e3 * found.layers_s)} ms, {abs(gap):.0f} % "
        f"{'less' if gap >= 0 else 'more'} than the step, which was timed apart;"
    )
    yield (
        f"the images, the loss and the tables take {_short(1e3 * found.rest.median_s)} "
        "ms."
    )
    low, high = found.step.range_s
    if high > _STEADY * low:
        yield (
            "Warning: the machine did other work, for the step took "
            f"{_short(1e3 * low)} to {_short(1e3 * high)} ms;"
        )
        yield "measure again when it is quiet, or with more --repeats."
    if found.no_energy:
        yield "No joules, for no energy was measured here (see dpet doctor)."


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = sum(cell != "" and not cell[-1].isdigit() for cell in rows[1][:2])
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _layer_rows(found: Layers) -> list[tuple[str, ...]]:
    measured = not found.no_energy
    head = ("layer", "reads", "gives", "of", "forward", "+ back", "MFLOP", "MB")
    rows: list[tuple[str, ...]] = [(*head, "mJ", "pJ/FLOP") if measured else head]
    for cost in found.layers:
        flops = "-" if cost.flops is None else _short(cost.flops / 1e6)
        row: tuple[str, ...] = (
            cost.layer.kind,
            _sides(cost.layer.reads),
            _sides(cost.layer.gives),
            str(cost.times),
            _short(1e3 * cost.forward.median_s),
            _short(1e3 * cost.both.median_s),
            flops,
            _short(cost.bytes / 1e6),
        )
        if measured:
            each = cost.j_per_flop
            row += (
                _millis(cost.both.median_j),
                "-" if each is None else _short(1e12 * each),
            )
        rows.append(row)
    return rows


def _kind_rows(found: Layers) -> list[tuple[str, ...]]:
    measured = not found.no_energy
    head = ("kind", "layers", "alone", "in the step", "least to most", "share")
    rows: list[tuple[str, ...]] = [(*head, "mJ alone", "mJ") if measured else head]

    step_s = found.step.median_s

    def row(
        name: str,
        count: str,
        alone: tuple[float, float | None] | None,
        within: tuple[float, float | None],
        spread: tuple[float, float],
    ) -> None:
        low, high = (_short(1e3 * each) for each in spread)
        cells: tuple[str, ...] = (
            name,
            count,
            "" if alone is None else _short(1e3 * alone[0]),
            _short(1e3 * within[0]),
            f"{low} to {high}",
            f"{100 * within[0] / step_s:.0f} %",
        )
        if measured:
            cells += ("" if alone is None else _millis(alone[1]), _millis(within[1]))
        rows.append(cells)

    for one in found.kinds:
        row(
            one.kind,
            str(one.layers),
            (one.alone_s, one.alone_j),
            (one.within_s, one.within_j),
            one.within_range_s,
        )
    for name, timing in (("no layer", found.rest), ("whole step", found.step)):
        spent = timing.median_s, timing.median_j
        row(name, "", None, spent, timing.range_s)
    return rows


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _millis(joules: float | None) -> str:
    return "-" if joules is None else _short(1e3 * joules)


def plain(found: Layers) -> dict[str, Any]:
    """Return all that was found as plain data."""
    return {
        "network": found.network,
        "data": found.data,
        "image_shape": list(found.image_shape),
        "batch_size": found.config.train.batch_size,
        "dtype": found.dtype,
        "window_s": found.window_s,
        "flops": "XLA's count before optimisation",
        "bytes": "inputs and results, each once",
        "no_energy": found.no_energy or None,
        "step": found.step.plain(),
        "no_layer": found.rest.plain(),
        "layers_s": found.layers_s,
        "layers_share": found.share,
        "kinds": [
            {
                "kind": one.kind,
                "layers": one.layers,
                "alone_s": one.alone_s,
                "alone_j": one.alone_j,
                "within_s": one.within_s,
                "within_s_low": one.within_range_s[0],
                "within_s_high": one.within_range_s[1],
                "within_j": one.within_j,
                "before": one.before.plain(),
                "after": one.after.plain(),
            }
            for one in found.kinds
        ],
        "layers": [_layer_row(cost) for cost in found.layers],
        "config": found.config.model_dump(mode="json"),
        **found.environment,
    }


def _layer_row(cost: LayerCost) -> dict[str, Any]:
    forward, both = cost.forward, cost.both
    return {
        "layer": cost.layer.name,
        "kind": cost.layer.kind,
        "count": cost.times,
        "reads": _sides(cost.layer.reads),
        "gives": _sides(cost.layer.gives),
        "forward_s": forward.median_s,
        "forward_s_low": forward.range_s[0],
        "forward_s_high": forward.range_s[1],
        "both_s": both.median_s,
        "both_s_low": both.range_s[0],
        "both_s_high": both.range_s[1],
        "forward_j": forward.median_j,
        "both_j": both.median_j,
        "forward_flops": cost.forward_flops,
        "both_flops": cost.flops,
        "forward_bytes": cost.forward_bytes,
        "both_bytes": cost.bytes,
        "j_per_flop": cost.j_per_flop,
    }


def write_layers(found: Layers, folder: Path) -> tuple[Path, Path]:
    """Write all numbers as JSON, and a row for each distinct layer as CSV.

    Args:
        found: What was measured.
        folder: Made if there is none.

    Returns:
        The two files.

    Raises:
        UserError: If they cannot be written.
    """
    text = io.StringIO()
    rows = [_layer_row(cost) for cost in found.layers]
    table = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
    table.writeheader()
    table.writerows({k: csv_cell(v) for k, v in row.items()} for row in rows)
    files = folder / JSON_FILE, folder / CSV_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(files[0], json.dumps(plain(found), indent=1) + "\n")
        write_whole(files[1], text.getvalue())
    except OSError as error:
        raise UserError(
            f"--out: {error.filename or folder}: cannot write ({error.strerror}); "
            "choose another folder"
        ) from error
    return files
