"""What a method may ask of the accelerator, and what the loop makes it do."""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dpet_jax.data import Data
from dpet_jax.data.device import DeviceData
from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import Plan, Selection, Span, TrainResult
from dpet_jax.models import forward_flops
from dpet_jax.models.spec import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.scores.pool import SCORES, ScoreSpec, score_data
from dpet_jax.selection import blend, descending
from dpet_jax.training import (
    ChunkStats,
    Hyper,
    StepSpec,
    TrainState,
    init_state,
    train_steps,
)
from dpet_jax.training.programs import CompileCounts, compile_counts, compiled


class Evaluation(NamedTuple):
    """How the model does on a split.

    Attributes:
        accuracy: Share predicted right, in [0, 1].
        loss: Mean cross-entropy in nats.
        per_class_accuracy: float64[k], NaN for a class without examples.
    """

    accuracy: float
    loss: float
    per_class_accuracy: np.ndarray


class Compilation(NamedTuple):
    """One program made ready.

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


@dataclass(frozen=True)
class LearnerSpec:
    """How a learner computes.

    Attributes:
        step: What the training program is specialised to.
        score_batch_size: Rows of one forward pass when scoring and evaluating.
        scores: Scores that the method will ask for.
    """

    step: StepSpec
    score_batch_size: int
    scores: tuple[str, ...]


def data_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
    """Put devices in a row that shares each batch; all local ones by default."""
    devices = jax.local_devices()[:num_devices]
    return jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


class DeviceLearner:
    """The main model on the accelerator, with the data set beside it.

    Args:
        data: The data set; copied to the device once.
        spec: How to compute.
        hyper: Traced numbers of training; each plan sets the schedule's horizon.
        seed: Decides the parameters and the augmentation.
    """

    def __init__(self, data: Data, spec: LearnerSpec, hyper: Hyper, seed: int) -> None:
        self._data = data
        self._spec = spec
        self._hyper = hyper
        self._key = jax.random.key(seed)
        self._replicated = NamedSharding(spec.step.mesh, PartitionSpec())
        self._device_data = DeviceData(
            *self._put((data.images, data.labels, data.mean, data.std))
        )
        self._splits = {
            "train": data.train_rows,
            "validation": data.validation_rows,
            "test": data.test_rows,
        }
        batch, score_batch = spec.step.batch_size, spec.score_batch_size
        self._row_capacity = -(-data.num_train // batch) * batch
        self._score_capacity = -(-data.labels.size // score_batch) * score_batch
        self._names = (*SCORES, *(name for name in spec.scores if name not in SCORES))
        self._weights = self._put(np.ones(data.num_train, np.float32))
        self._state: Any = None  # drawn when the programs are compiled
        self.scored_examples = 0
        self.scored_rows = 0

    # what the loop needs to know

    @property
    def max_steps(self) -> int:
        """Most steps of one chunk."""
        return self._row_capacity // self._spec.step.batch_size

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        return self._spec.step.batch_size

    @property
    def forward_flops(self) -> int:
        """FLOPs of one example's forward pass."""
        height, width = self._data.images.shape[1:3]
        return forward_flops(self._spec.step.model, height, width)

    @property
    def train_flops(self) -> int:
        """FLOPs of one example's training visit."""
        return TRAIN_FLOPS_PER_FORWARD * self.forward_flops

    def compile(self) -> Iterator[Compilation]:
        """Draw the network and make every program ready; yields each as it is done."""
        before = compile_counts()
        self._state = self._fresh(self._key)
        # used by every plan that starts anew, and small enough to be forgotten here
        jax.random.fold_in(self._key, 0)
        yield _compilation("init", compile_counts().since(before))
        rows = np.zeros(self._row_capacity, np.int32)
        program, counts = compiled(
            train_steps, self._spec.step, *self._train_arguments(rows, 0, 0)
        )
        self._train = program.run
        yield _compilation("train_steps", counts, program.flops)
        step = self._spec.step
        spec = ScoreSpec(
            step.model, self._names, self._spec.score_batch_size, step.dtype, step.mesh
        )
        rows = np.zeros(self._score_capacity, np.int32)
        program, counts = compiled(score_data, spec, *self._score_arguments(rows, 0))
        self._score = program.run
        yield _compilation("score_pool", counts, program.flops)
        if self._spec.scores:
            before = compile_counts()
            # of an empty index set, to make the programs ready that rank it
            scores = self._score_rows(np.zeros(0, np.int32))
            descending(self._ranked(scores, self._spec.scores, 0.0))
            yield _compilation("ranking", compile_counts().since(before))

    # training the main model

    def begin(self, plan: Plan, plan_index: int) -> None:
        """Get ready for a plan: its loss weights, and what starts anew."""
        self.set_weights(plan)
        if plan.reset == "none":
            return
        fresh = self._fresh(jax.random.fold_in(self._key, plan_index))
        if plan.reset == "optimizer":
            self._state = self._state._replace(opt_state=fresh.opt_state)
        else:
            self._state = self._state._replace(
                params=fresh.params,
                batch_stats=fresh.batch_stats,
                opt_state=fresh.opt_state,
            )

    def set_weights(self, plan: Plan) -> None:
        """Set the loss weights of a plan, scaled to mean 1."""
        table = np.ones(self._data.num_train, np.float32)
        if plan.weights is not None:
            table[plan.index_set] = plan.weights / np.mean(plan.weights)
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
        self._state, stats = self._train(
            *self._train_arguments(padded, num_steps, first_visit)
        )
        return stats

    def wait(self, handle: ChunkStats) -> tuple[float, int, int]:
        """Wait for a chunk; return its summed loss, correct predictions and visits."""
        loss, correct, visits = jax.device_get(handle)
        return float(loss), int(correct), int(visits)

    def barrier(self) -> None:
        """Wait until the device has nothing left to do for the model."""
        jax.block_until_ready((self._state, self._weights))

    def result(self, index_set: np.ndarray) -> TrainResult:
        """Read what training taught about the examples of a plan."""
        distinct = np.unique(index_set)
        losses, correct = jax.device_get((self._state.losses, self._state.correct))
        return TrainResult(distinct, losses[distinct], correct[distinct])

    # looking at the main model

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Score examples of the training split; see `Learner.score`."""
        scores = self._count_and_score(index_set)
        return {name: np.asarray(scores[name])[: index_set.size] for name in names}

    def select(
        self, selector: str, index_set: np.ndarray, num_select: int, **options: Any
    ) -> Selection:
        """Run a selector over candidates; see `Learner.select`.

        `top_k` takes `scores`, one name or two to blend, and the blend's `weight`.

        Raises:
            ValueError: If the selector is unknown.
            DivergedError: If a score is NaN.
        """
        if selector != "top_k":
            raise ValueError(f"no selector called {selector!r}; there is top_k")
        names, weight = options["scores"], options.get("weight", 0.0)
        scores = self._count_and_score(index_set)
        ranked = self._ranked(scores, names, weight)
        gains = np.asarray(ranked)
        if np.isnan(gains).any():
            raise DivergedError(f"{', '.join(names)} of the pool hold NaN")
        order, allowed = descending(ranked)
        if num_select > allowed:
            raise ValueError(f"cannot take {num_select} of {allowed} examples")
        chosen = np.asarray(order)[:num_select]
        return Selection(index_set[chosen], gains[chosen])

    def evaluate(self, split: Literal["train", "validation", "test"]) -> Evaluation:
        """Evaluate the model on a whole split, without augmentation."""
        rows = self._splits[split]
        scores = self._score_rows(rows)
        wrong = np.asarray(scores["zero_one"], np.float64)[: rows.size]
        losses = np.asarray(scores["cross_entropy"], np.float64)[: rows.size]
        labels = self._data.labels[rows]
        counts = np.bincount(labels, minlength=self._data.num_classes)
        errors = np.bincount(labels, wrong, minlength=self._data.num_classes)
        with np.errstate(invalid="ignore"):
            per_class = 1.0 - errors / counts
        return Evaluation(float(1.0 - wrong.mean()), float(losses.mean()), per_class)

    # surviving

    def snapshot(self) -> dict[str, Any]:
        """Return everything on the device that a checkpoint needs."""
        state = self._state._asdict()
        return state | {"key": jax.random.key_data(self._state.key)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Take up a snapshot, on this learner's devices."""
        placed = self._put(snapshot)
        key = jax.random.wrap_key_data(placed["key"])
        self._state = self._state._replace(**(placed | {"key": key}))
        # wrapping a key may leave it off the mesh, and then training compiles again
        self._state = self._put(self._state)

    def memory(self) -> dict[str, float | None]:
        """Return the peak memory of process and device in MiB; None where unknown."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stats = self._spec.step.mesh.devices.flat[0].memory_stats() or {}
        peak = stats.get("peak_bytes_in_use")
        return {"host_mib": host, "device_mib": peak and peak / 2**20}

    def _fresh(self, key: jax.Array) -> TrainState:
        step = self._spec.step
        return self._put(
            _init_state(step.model, step.family, self._data.num_train, key)
        )

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._replicated)

    def _train_arguments(self, rows, num_steps, first_visit):
        return (
            self._state,
            self._device_data,
            *self._put((rows, np.int32(num_steps), np.int32(first_visit))),
            self._weights,
            self._put(self._hyper),
        )

    def _score_arguments(self, rows, count):
        return (
            self._state.params,
            self._state.batch_stats,
            self._device_data,
            *self._put((rows, np.int32(count))),
        )

    def _score_rows(self, rows: np.ndarray) -> dict[str, jnp.ndarray]:
        padded = np.zeros(self._score_capacity, np.int32)
        padded[: rows.size] = rows
        return self._score(*self._score_arguments(padded, rows.size))

    def _ranked(self, scores, names, weight):
        if len(names) == 1:
            return scores[names[0]]
        return blend(scores[names[0]], scores[names[1]], np.float32(weight))

    def _count_and_score(self, index_set: np.ndarray) -> dict[str, jnp.ndarray]:
        batch = self._spec.score_batch_size
        self.scored_examples += index_set.size
        self.scored_rows += -(-index_set.size // batch) * batch
        return self._score_rows(index_set)


# one jitted function for all learners of a process, so that they share its programs
_init_state = jax.jit(init_state, static_argnums=(0, 1, 2))


def _compilation(
    what: str, counts: CompileCounts | None, xla_flops: float | None = None
) -> Compilation:
    counts = counts or CompileCounts()
    return Compilation(
        what, counts.seconds, counts.programs, counts.cache_hits, xla_flops
    )
