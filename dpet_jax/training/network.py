"""One network on the device: its training state and its compiled programs."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.stages import Compiled
from jaxtyping import Array, Float32, Int32

from dpet_jax.data.augment import normalise
from dpet_jax.data.view import View
from dpet_jax.methods.base import Plan, Span, TrainResult
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD, Network
from dpet_jax.models.pruning import scales, with_scales
from dpet_jax.models.quantize import quantized_params
from dpet_jax.scores.error import cross_entropy
from dpet_jax.scores.forgetting import forgetting
from dpet_jax.training.chunks import Batches
from dpet_jax.training.compilation import CompileCounts, compile_counts, compiled
from dpet_jax.training.placement import Course, HostData
from dpet_jax.training.resolution import Ladder, Level, level_at
from dpet_jax.training.scoring import (
    GRAND,
    ScoreSpec,
    gradient_norms_of_data,
    score_data,
    scoring_flops,
)
from dpet_jax.training.state import (
    OF_ANY_NETWORK,
    DeviceData,
    StepSpec,
    Tables,
    TrainState,
    init_state,
)
from dpet_jax.training.steps import ChunkStats, Hyper, train_steps
from dpet_jax.training.transfer import get, put


class Compilation(NamedTuple):
    """What compiling one program took.

    Attributes:
        what: Its name.
        seconds: Time the compiler took; 0 when it was there already.
        programs: Backend compilations, persistent-cache hits included.
        cache_hits: Of those, how many the persistent cache answered.
        xla_flops: FLOPs of one batch by XLA's own count; None if not known.
    """

    what: str
    seconds: float
    programs: int
    cache_hits: int
    xla_flops: float | None = None


class DeviceNetwork:
    """One network with everything that training and scoring it needs.

    Several share one data set. Every array goes to the device and comes back by an
    explicit transfer, so that `jax.transfer_guard("disallow")` finds nothing to refuse.

    Args:
        step: What its training program is specialised to.
        score: What its scoring program is specialised to; with "grand" among the names
            there is a second one, which goes through the network in training batches.
        data: The data set, on the device or with its pixels on the host.
        num_train: Rows of the training split, which come first in the data.
        hyper: Traced numbers of training; each plan sets the schedule's horizon, and
            may set its peak.
        seed: Decides the parameters and the augmentation.
        ladder: Sides of the images that it is trained on, which its training program is
            compiled for one after the other; by default that of `step` alone.
        start: What it starts from in place of drawn parameters, now and when a plan
            starts it anew: parameters, without those layers that are drawn, and running
            statistics.

    Attributes:
        plans: Plans begun so far.
        seed: As given, or as last redrawn.
        compile_s: Seconds that its programs took to compile, when they were.
    """

    def __init__(
        self,
        step: StepSpec,
        score: ScoreSpec,
        data: DeviceData | HostData,
        num_train: int,
        hyper: Hyper,
        seed: int,
        start: tuple[Any, Any] | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        self.plans, self.seed = 0, seed
        self.compile_s = 0.0
        self._step = step
        self._ladder = ladder or Ladder((step.input_size,))
        forward = tuple(name for name in score.names if name != GRAND)
        self._score_spec = replace(score, names=forward)
        self._grand_spec = None
        self._score_names = score.names
        if GRAND in score.names:
            self._grand_spec = replace(score, names=(), batch_size=step.batch_size)
        self._data = data
        self._num_train = num_train
        self._hyper = hyper
        self._peak = float(hyper.schedule.peak)
        self._replicated = NamedSharding(step.mesh, PartitionSpec())
        parts = step.mesh.size
        self._by_example = NamedSharding(step.mesh, PartitionSpec("data"))
        self._table_rows = -(-num_train // parts) * parts
        self._start = None if start is None else self._put(start)
        self._key = self._put(jax.random.key(seed))
        self._row_capacity = -(-num_train // step.batch_size) * step.batch_size
        if isinstance(data, HostData):
            self._row_capacity = data.chunk_rows
        self._course: Course | None = None  # of the plan, where pixels are on the host
        rows = data.labels.shape[0]
        self._score_capacity = -(-rows // score.batch_size) * score.batch_size
        self._weights = self._put(np.ones(num_train, np.float32))
        self._state: Any = None  # drawn when the programs are compiled
        self._train: dict[int | None, Compiled] = {}  # by the side of images

    @property
    def model(self) -> Network:
        """The network itself."""
        return self._step.model

    @property
    def max_steps(self) -> int:
        """Most steps of one chunk."""
        return self._row_capacity // self._step.batch_size

    @property
    def score_capacity(self) -> int:
        """Length of the arrays that `score` returns."""
        return self._score_capacity

    @property
    def transforms_weights(self) -> bool:
        """Whether other weights are evaluated than those after the last step."""
        return self._step.transforms_weights

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what it sees when it is evaluated."""
        height, width, channels = self._data.images.shape[1:]
        return self._score_spec.view.shape((height, width, channels))

    @property
    def forward_flops(self) -> int:
        """FLOPs of one example's forward pass, as it is evaluated."""
        return self._step.model.forward_flops(*self.input_shape[:2])

    @property
    def train_flops(self) -> int:
        """FLOPs of one example's training visit, at the last side of its images."""
        return TRAIN_FLOPS_PER_FORWARD * self.forward_flops

    def level(self, span: Span, visits: int) -> Level:
        """Return how it is trained at a place of the schedule.

        Args:
            span: Where the plan lies on the schedule.
            visits: Of the plan so far.
        """
        return level_at(self._ladder, self._step.model, self.input_shape, span, visits)

    def score_flops(self, num_examples: int, names: tuple[str, ...]) -> int:
        """Count the FLOPs of `score`, fill rows included.

        All scores but "grand" come from one forward pass.
        """
        batches = (self._score_spec.batch_size, self._step.batch_size)
        return scoring_flops(
            self._step.model, self.input_shape, batches, num_examples, names
        )

    def compile(self) -> Iterator[Compilation]:
        """Draw the parameters and compile every program; yield each as it is done.

        At last each is called once, for what a device does when it first sees one.
        """
        before = compile_counts()
        self._state = self._fresh(self._key)
        # small programs, of plans that start anew and of results
        self._plan_key(0)
        self._evaluated()
        _forgetting(self._state.forgetting)
        yield compilation("init", compile_counts().since(before))
        rows = np.zeros(self._row_capacity, np.int32)
        self.compile_s = 0.0
        for side in self._ladder.sides:
            program, counts = compiled(
                train_steps,
                replace(self._step, input_size=side),
                *self._train_arguments(rows, 0, 0, 0),
            )
            self._train[side] = program.run
            self.compile_s += program.seconds
            one = len(self._ladder.sides) == 1
            what = "train_steps" if one else f"train_steps of {side} pixels"
            yield compilation(what, counts, program.flops)
        nothing, weights = np.zeros(0, np.int32), self._weights_of()
        spec = self._score_spec
        program, counts = compiled(
            score_data, spec, *weights, *self._of_rows(nothing, spec)
        )
        self._score = program.run
        self.compile_s += program.seconds
        yield compilation("score_pool", counts, program.flops)
        if self._grand_spec is not None:
            program, counts = compiled(
                gradient_norms_of_data,
                self._grand_spec,
                *weights,
                *self._of_rows(nothing, self._grand_spec),
            )
            self._grand = program.run
            self.compile_s += program.seconds
            yield compilation("gradient_norms", counts, program.flops)
        before = compile_counts()
        if isinstance(self._data, HostData):
            self._data.compile()
        step = np.zeros(self._step.batch_size, np.int32)
        # every side begins at a visit of its own, and the last one stays
        for visits in (math.ceil(1000 * share) for share in self._ladder.starts):
            self.wait(self.train(step, 1, Span(0, 1000), visits))
        jax.block_until_ready(self.score(step[:1], self._score_names))
        self.score_flops(1, self._score_names)
        self._state = self._fresh(self._key)
        yield compilation("first calls", compile_counts().since(before))

    def redraw(self, seed: int) -> None:
        """Draw the parameters of another seed, before the first plan."""
        self.plans, self.seed = 0, seed
        self._key = self._put(jax.random.key(seed))
        self._state = self._fresh(self._key)

    # training

    def begin(self, plan: Plan, plan_index: int) -> None:
        """Begin a plan: set what it trains with, and reset what it wants reset."""
        self.plans = plan_index + 1
        self.set_up(plan)
        if plan.reset == "none":
            return
        fresh = self._fresh(self._plan_key(plan_index))
        if plan.reset == "optimizer":
            self._state = self._state._replace(opt_state=fresh.opt_state)
        else:
            # the augmentation goes on; the tables were those of the old parameters
            self._state = fresh._replace(step=self._state.step, key=self._state.key)

    def set_up(self, plan: Plan) -> None:
        """Set what a plan trains with: its loss weights and its peak learning rate."""
        rate = self._peak if plan.learning_rate is None else plan.learning_rate
        peak: Any = np.float32(rate * plan.learning_rate_factor)
        schedule = self._hyper.schedule._replace(peak=peak)
        self._hyper = self._hyper._replace(schedule=schedule)
        if isinstance(self._data, HostData):
            size, index = self._step.batch_size, self.plans - 1
            batches = Batches(plan, size, self.seed, index)
            self._course = Course(self._distinct(plan.index_set), batches)
        table = np.ones(self._num_train, np.float32)
        if plan.weights is not None:
            table[plan.index_set] = plan.weights
        self._weights = self._put(table)

    def train(self, rows: np.ndarray, num_steps: int, span: Span, visits: int) -> Any:
        """Start a chunk of training and return a handle to wait for.

        Args:
            rows: int32[num_steps * batch size], fill rows as their complement.
            num_steps: Steps of the chunk.
            span: Where the plan lies on the schedule.
            visits: Visits of the plan before the chunk.
        """
        padded = np.zeros(self._row_capacity, np.int32)
        padded[: rows.size] = rows
        horizon, cyclic = self._put((np.float32(span.horizon), np.bool_(span.cyclic)))
        schedule = self._hyper.schedule._replace(horizon=horizon, cyclic=cyclic)
        self._hyper = self._hyper._replace(schedule=schedule)
        first_visit = span.start + visits
        side, _ = self._ladder.at(span, visits)
        self._state, stats = self._train[side](
            *self._train_arguments(padded, rows.size, num_steps, first_visit, visits)
        )
        return stats

    @staticmethod
    def wait(handle: ChunkStats) -> tuple[float, int, int]:
        """Wait for a chunk; return its summed loss, correct predictions and visits."""
        loss, correct, visits = get(handle)
        return float(loss), int(correct), int(visits)

    def barrier(self) -> None:
        """Wait until the device has nothing left to do for the network."""
        jax.block_until_ready((self._state, self._weights))

    def result(self, index_set: np.ndarray) -> TrainResult:
        """Return last losses and predictions of a plan's examples, and forgetting."""
        distinct = self._distinct(index_set)
        state = self._state
        counts = _forgetting(state.forgetting)
        losses, correct, counts, margins = get(
            (state.losses, state.correct, counts, state.margins)
        )
        return TrainResult(
            distinct,
            losses[distinct],
            correct[distinct],
            counts[distinct],
            None if margins is None else margins[distinct],
        )

    def time_steps(self, num_steps: int) -> float:
        """Return the seconds of one step of several, on parameters drawn for it.

        At the last side of its images.
        """
        size = num_steps * self._step.batch_size
        rows = np.zeros(self._row_capacity, np.int32)
        rows[:size] = np.resize(np.arange(self._num_train), size)
        _, *others = self._train_arguments(rows, size, num_steps, 0)
        state = jax.block_until_ready(self._fresh(self._key))
        began = time.perf_counter()
        jax.block_until_ready(self._train[self._ladder.sides[-1]](state, *others))
        return (time.perf_counter() - began) / num_steps

    # pruning

    def weights(self) -> dict[str, Any]:
        """Return the parts of the state whose shapes are the network's, by name."""
        return {
            name: part
            for name, part in self._state._asdict().items()
            if part is not None and name not in OF_ANY_NETWORK
        }

    def take_over(self, other: "DeviceNetwork", weights: dict[str, Any]) -> None:
        """Go on where another network is, with weights of this one's shapes.

        Args:
            other: On the same data, with the same batches; it can train no more, for
                its tables are this one's now.
            weights: As `weights` returns them.
        """
        self.plans, self.seed = other.plans, other.seed
        self._key, self._hyper, self._peak = other._key, other._hyper, other._peak
        self._weights = other._weights
        self._state = self._placed(other._state._replace(**self._put(weights)))

    def end_penalty(self) -> None:
        """Penalise scales no longer."""
        if self._hyper.scale_penalty is not None:
            none: Any = np.float32(0)
            self._hyper = self._hyper._replace(scale_penalty=none)

    def scales(self) -> tuple[np.ndarray, ...]:
        """Return the scales of each of the network's `channel_groups`."""
        found = scales(self._state.params, self.model.channel_groups)
        return get(found)

    def taylor(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what each scale is worth on the batches of rows[batches, b].

        The mean over batches of |scale * d loss / d scale|, in evaluation mode: how
        much the loss would change, to first order, if the scale were 0.
        """
        view = self._score_spec.view
        fixed = self.model, self._step.dtype, view, *self._weights_of()
        of_each = get(
            [taylor_importance(*fixed, *self._everywhere(batch)) for batch in rows]
        )
        return tuple(np.mean(group, axis=0) for group in zip(*of_each, strict=True))

    # scoring

    def score(
        self, rows: np.ndarray, names: tuple[str, ...], *, evaluated: bool = False
    ) -> dict[str, jax.Array]:
        """Score rows of the data set.

        Args:
            rows: Which.
            names: Of the scores.
            evaluated: By the weights that are evaluated, which may be an average or
                rounded, and not by the last ones.

        Returns:
            At least the scores named, on the device, aligned with `rows` and longer:
            minus infinity past their end.
        """
        weights = self._weights_of(evaluated=evaluated)
        scores: dict[str, jax.Array] = {}
        if set(names) != {GRAND}:
            scores = self._scored(self._score, self._score_spec, weights, rows)
        if GRAND in names and self._grand_spec is not None:
            norms = self._scored(self._grand, self._grand_spec, weights, rows)
            scores = scores | {GRAND: norms}
        return scores

    def _scored(self, program: Any, spec: ScoreSpec, weights: Any, rows: Any) -> Any:
        """Score rows by one program, piece by piece where that is made for pieces."""
        size, whole, last = self._score_rows(spec), None, None
        if size == self._score_capacity:
            return program(*weights, *self._of_rows(rows, spec))
        for first in range(0, max(rows.size, 1), size):
            some = self._of_rows(rows[first : first + size], spec)
            # one piece is scored while the next is gathered, and none waits beside it
            jax.block_until_ready(last)
            last = program(*weights, *some)
            if whole is None:
                whole = _begun(last, self._score_capacity)
            else:
                whole = _added(whole, last, self._put(np.int32(first)))
        return whole

    def _score_rows(self, spec: ScoreSpec) -> int:
        """Return how many rows a scoring program is made for."""
        if isinstance(self._data, HostData):
            return self._data.piece_rows(spec.batch_size)
        return self._score_capacity

    def _of_rows(
        self, rows: np.ndarray, spec: ScoreSpec
    ) -> tuple[DeviceData, Any, Any]:
        """Return a data set with some rows, their positions in it, and their number.

        Args:
            rows: Positions in the whole data set.
            spec: What the program is specialised to that scores them.
        """
        size, data = self._score_rows(spec), self._data
        padded = np.zeros(size, np.int32)
        padded[: rows.size] = rows
        if isinstance(data, HostData):
            data = data.some(rows, size, spec.batch_size)
            padded = np.arange(size, dtype=np.int32)
        return data, *self._put((padded, np.int32(rows.size)))

    def _everywhere(self, rows: np.ndarray) -> tuple[DeviceData, Any]:
        """Return a data set with some rows on every device, and their positions."""
        data = self._data
        if isinstance(data, HostData):
            data, rows = data.everywhere(rows), np.arange(rows.size, dtype=np.int32)
        return data, self._put(rows)

    # checkpoints

    def snapshot(self) -> dict[str, Any]:
        """Return everything on the device that a checkpoint needs.

        Where weights are evaluated that are not the last ones, they are in it too.
        """
        fields = self._state._asdict() | self._whole_tables()
        state = {name: part for name, part in fields.items() if part is not None}
        if self.transforms_weights:
            state["evaluated"] = self._evaluated()
        key = jax.random.key_data(self._state.key)
        return state | {"key": key, "plans": self._put(np.int32(self.plans))}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot, on this network's devices."""
        placed = self._put(snapshot)
        self.plans = int(get(placed.pop("plans")))
        placed.pop("evaluated", None)
        key = jax.random.wrap_key_data(placed["key"])
        self._state = self._state._replace(**(placed | {"key": key}))
        # wrapping a key may leave it off the mesh, and then training compiles again
        self._state = self._placed(self._state)

    def _plan_key(self, plan_index: int) -> jax.Array:
        return jax.random.fold_in(self._key, self._put(np.uint32(plan_index)))

    def _fresh(self, key: jax.Array) -> TrainState:
        step = self._step
        drawn = _init_state(
            step.model,
            step.optimizer,
            self._table_rows,
            key,
            margins=step.margins,
            averaged=step.averaged,
            start=self._start,
        )
        return self._placed(drawn)

    def _whole_tables(self) -> dict[str, Any]:
        """Return the tables of all examples, on every device."""
        tables = {name: getattr(self._state, name) for name in Tables._fields}
        if self._step.mesh.size == 1:
            return tables
        return self._put(_cut(self._put(tables), self._num_train))

    def _placed(self, state: TrainState) -> TrainState:
        """Put a state where training wants it: of the tables each device has a part."""
        if self._step.mesh.size == 1:
            return self._put(state)
        tables = {name: getattr(state, name) for name in Tables._fields}
        padded = _padded(self._put(tables), self._table_rows)
        none: dict[str, Any] = dict.fromkeys(tables)
        return self._put(state._replace(**none))._replace(
            **put(padded, self._by_example)
        )

    def _evaluated(self) -> dict[str, Any]:
        """Return the weights that are evaluated."""
        state, step = self._state, self._step
        weights = {"params": state.params, "batch_stats": state.batch_stats}
        if state.average is not None:
            weights = state.average.mean
        if step.bits is not None:
            rounded = self._put(_quantized(weights["params"], step.bits))
            weights = weights | {"params": rounded}
        return weights

    def _put(self, tree: Any) -> Any:
        return put(tree, self._replicated)

    def _train_arguments(self, rows, size, num_steps, first_visit, visits=None):
        data = self._data
        if isinstance(data, HostData):
            course = None if visits is None else self._course
            first_step = (visits or 0) // self._step.batch_size
            data = data.chunk(rows, size, course, first_step)
        return (
            self._state,
            data,
            *self._put((rows, np.int32(num_steps), np.int32(first_visit))),
            self._weights,
            self._put(self._hyper),
        )

    def _distinct(self, index_set: np.ndarray) -> np.ndarray:
        there = np.zeros(self._num_train, bool)
        there[index_set] = True
        return np.flatnonzero(there)  # np.unique takes 20 times as long

    def _weights_of(self, *, evaluated: bool = False) -> tuple[Any, Any]:
        """Return parameters and running statistics, the last ones by default."""
        weights = self._evaluated() if evaluated else self._state._asdict()
        return weights["params"], weights["batch_stats"]


@partial(jax.jit, static_argnums=(0, 1, 2))
def taylor_importance(
    model: Network,
    dtype: str,
    view: View,
    params: Any,
    batch_stats: Any,
    data: DeviceData,
    rows: Int32[Array, " b"],
) -> tuple[Float32[Array, " c"], ...]:
    """Return |scale * d loss / d scale| of every channel that can be cut out.

    Args:
        model: The network.
        dtype: Name of the dtype that it computes in.
        view: What of each image it sees.
        params: Parameters.
        batch_stats: Running statistics.
        data: The data set.
        rows: The batch that the loss is the mean over, without augmentation.

    Source:
        Molchanov et al. (2019), "Importance Estimation for Neural Network Pruning".
    """
    groups = model.channel_groups
    images = normalise(view.of(data.images[rows]), data.mean, data.std)

    def loss(values):
        weights = with_scales(params, groups, values)
        outputs = model.apply(weights, batch_stats, images, dtype=dtype)
        return jnp.mean(jax.vmap(cross_entropy)(outputs.logits, data.labels[rows]))

    present = scales(params, groups)
    slopes = jax.grad(loss)(present)
    return tuple(
        jnp.abs(scale * slope) for scale, slope in zip(present, slopes, strict=True)
    )


# one jitted function each for all networks of a process, so that they share programs
_init_state = jax.jit(
    init_state, static_argnums=(0, 1, 2), static_argnames=("margins", "averaged")
)
_quantized = jax.jit(quantized_params, static_argnums=1)
_forgetting = jax.jit(jax.vmap(forgetting))


@partial(jax.jit, static_argnames="capacity")
def _begun(piece: Any, capacity: int) -> Any:
    """Return scores that begin with a piece; minus infinity past it."""

    def begun(values):
        whole = jnp.full((capacity, *values.shape[1:]), -jnp.inf, values.dtype)
        return whole.at[: len(values)].set(values[:capacity])

    return jax.tree.map(begun, piece)


@partial(jax.jit, donate_argnames="whole")
def _added(whole: Any, piece: Any, first: Int32[Array, ""]) -> Any:
    """Write a piece of scores into the whole; what is past its end is left out."""

    def added(values, new):
        # a slice that reached past the end would be written further to the front
        size, capacity = len(new), len(values)
        past = jnp.maximum(first + size - capacity, 0)
        old = lax.dynamic_slice_in_dim(values, first - past, size)
        shape = -1, *[1] * (new.ndim - 1)
        new = jnp.where(
            (jnp.arange(size) >= past).reshape(shape), jnp.roll(new, past, 0), old
        )
        return lax.dynamic_update_slice_in_dim(values, new, first - past, 0)

    return jax.tree.map(added, whole, piece)


@partial(jax.jit, static_argnums=1)
def _cut(tables, count):
    return jax.tree.map(lambda table: table[:count], tables)


@partial(jax.jit, static_argnums=1)
def _padded(tables, count):
    return jax.tree.map(lambda t: jnp.pad(t, (0, count - t.shape[0])), tables)


def compilation(
    what: str, counts: CompileCounts | None, xla_flops: float | None = None
) -> Compilation:
    """Describe a compiled program; without counts it was there already."""
    counts = counts or CompileCounts()
    return Compilation(
        what, counts.seconds, counts.programs, counts.cache_hits, xla_flops
    )
