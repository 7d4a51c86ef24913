"""What a method may ask of the accelerator, and what the loop makes it do."""

import math
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dpet_jax.batches import Batches
from dpet_jax.data import Data
from dpet_jax.data.device import DeviceData
from dpet_jax.device_model import Compilation, DeviceModel, compilation
from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import (
    MAIN,
    PROXY,
    ModelHandle,
    Plan,
    Selection,
    Span,
    TrainResult,
)
from dpet_jax.models import ResNetSpec
from dpet_jax.scores.pool import FEATURE_SCORES, SCORES, ScoreSpec
from dpet_jax.selection import blend
from dpet_jax.selection.ranking import rank, stretch
from dpet_jax.training import Hyper, StepSpec
from dpet_jax.training.programs import compile_counts


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


@dataclass(frozen=True)
class LearnerSpec:
    """How a learner computes.

    Attributes:
        step: What the main model's training program is specialised to.
        score_batch_size: Rows of one forward pass when scoring and evaluating.
        scores: Scores that the method will ask for.
        proxy: Shape of the narrow network that scores for the main one; None if it
            scores itself.
    """

    step: StepSpec
    score_batch_size: int
    scores: tuple[str, ...]
    proxy: ResNetSpec | None = None


def data_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
    """Put devices in a row that shares each batch; all local ones by default."""
    devices = jax.local_devices()[:num_devices]
    return jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


class DeviceLearner:
    """The networks of a run on the accelerator, with the data set beside them.

    Args:
        data: The data set; copied to the device once.
        spec: How to compute.
        hyper: Traced numbers of training, the same for every network; each plan sets
            the schedule's horizon.
        seed: Decides parameters, augmentation and batches.

    Attributes:
        scored_examples: Examples scored for selection.
        proxy_visits: Visits of training other models than the main one.
        select_flops: FLOPs of both, fill rows included.
    """

    def __init__(self, data: Data, spec: LearnerSpec, hyper: Hyper, seed: int) -> None:
        self._data = data
        self._spec = spec
        self._seed = seed
        self._replicated = NamedSharding(spec.step.mesh, PartitionSpec())
        self._device_data = DeviceData(
            *self._put((data.images, data.labels, data.mean, data.std))
        )
        self._splits = {
            "train": data.train_rows,
            "validation": data.validation_rows,
            "test": data.test_rows,
        }
        self._models = {MAIN: self._network(spec.step.model, hyper)}
        if spec.proxy is not None:
            self._models[PROXY] = self._network(spec.proxy, hyper)
        self._main = self._models[MAIN]
        self.scored_examples = 0
        self.proxy_visits = 0
        self.select_flops = 0

    def _network(self, model: ResNetSpec, hyper: Hyper) -> DeviceModel:
        step = replace(self._spec.step, model=model)
        # every score at once costs nothing more, and one program serves all methods
        names = tuple(dict.fromkeys((*SCORES, *FEATURE_SCORES, *self._spec.scores)))
        batch = self._spec.score_batch_size
        score = ScoreSpec(model, names, batch, step.dtype, step.mesh)
        return DeviceModel(
            step, score, self._device_data, self._data.num_train, hyper, self._seed
        )

    # what the loop needs to know

    @property
    def max_steps(self) -> int:
        """Most steps of one chunk."""
        return self._main.max_steps

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        return self._spec.step.batch_size

    @property
    def train_flops(self) -> int:
        """FLOPs of one example's training visit by the main model."""
        return self._main.train_flops

    def compile(self) -> Iterator[Compilation]:
        """Draw the networks and make every program ready; yields each as it is done."""
        for handle, network in self._models.items():
            for done in network.compile():
                yield (
                    done
                    if handle == MAIN
                    else done._replace(what=f"{handle} {done.what}")
                )
        if self._spec.scores:
            before = compile_counts()
            for network in self._models.values():
                # of an empty index set, to make the programs ready that rank it
                scores = network.score(np.zeros(0, np.int32), self._spec.scores)
                for names in (self._spec.scores[:1], self._spec.scores):
                    self._best(scores, names, 0.0, 0)
            yield compilation("ranking", compile_counts().since(before))

    # training the main model

    def begin(self, plan: Plan, plan_index: int) -> None:
        """Get ready for a plan: its loss weights, and what starts anew."""
        self._main.begin(plan, plan_index)

    def set_weights(self, plan: Plan) -> None:
        """Set the loss weights of a plan, scaled to mean 1."""
        self._main.set_weights(plan)

    def train_chunk(
        self, rows: np.ndarray, num_steps: int, span: Span, visits: int
    ) -> Any:
        """Start a chunk of training; see `DeviceModel.train`."""
        return self._main.train(rows, num_steps, span, visits)

    def wait(self, handle: Any) -> tuple[float, int, int]:
        """Wait for a chunk; return its summed loss, correct predictions and visits."""
        return self._main.wait(handle)

    def barrier(self) -> None:
        """Wait until the device has nothing left to do for any network."""
        for network in self._models.values():
            network.barrier()

    def result(self, index_set: np.ndarray) -> TrainResult:
        """Read what training taught about the examples of a plan."""
        return self._main.result(index_set)

    # what a method asks

    def train(self, plan: Plan, model: ModelHandle) -> TrainResult:
        """Train a model other than the main one on a whole plan; see `Learner.train`.

        A plan without a place on a schedule has one to itself.

        Raises:
            ValueError: If the model is the main one, which the loop trains, or unknown.
            DivergedError: If its loss is no number.
        """
        if model == MAIN:
            raise ValueError("the loop alone trains the main model")
        network = self._model(model)
        index = network.plans
        network.begin(plan, index)
        batches = Batches(plan, self.batch_size, self._seed, index)
        span = plan.schedule or Span(0, plan.visits)
        queued: Any = None
        for first in range(0, batches.num_steps, network.max_steps):
            num_steps = min(network.max_steps, batches.num_steps - first)
            rows = batches.rows(first, num_steps)
            visits = batches.visits_before(first)
            chunk = network.train(rows, num_steps, span, visits)
            # one chunk runs while the next one queues, as in the loop
            self._check(queued, network, model)
            queued = chunk
        self._check(queued, network, model)
        self.proxy_visits += plan.visits
        executed = batches.num_steps * self.batch_size
        self.select_flops += executed * network.train_flops
        return network.result(plan.index_set)

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Score examples of the training split; see `Learner.score`."""
        scores = self._count_and_score(names, index_set, model)
        read = jax.device_get([scores[name] for name in names])
        cut = (values[: index_set.size] for values in read)
        return dict(zip(names, cut, strict=True))

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle = MAIN,
        **options: Any,
    ) -> Selection:
        """Run a selector over candidates; see `Learner.select`.

        `top_k` takes `scores`, one name or two to blend, and the blend's `weight`.

        Raises:
            ValueError: If the selector is unknown, or takes more than there is.
            DivergedError: If a score is NaN.
        """
        if selector != "top_k":
            raise ValueError(f"no selector called {selector!r}; there is top_k")
        names, weight = options["scores"], options.get("weight", 0.0)
        scores = self._count_and_score(names, index_set, model)
        best = self._best(scores, names, weight, num_select)
        return Selection(index_set[best.indices], best.gains)

    # looking at the main model

    def evaluate(self, split: Literal["train", "validation", "test"]) -> Evaluation:
        """Evaluate the model on a whole split, without augmentation."""
        rows = self._splits[split]
        names = ("zero_one", "cross_entropy")
        scores = self._main.score(rows, names)
        read = jax.device_get([scores[name] for name in names])
        wrong, losses = (np.asarray(values, np.float64)[: rows.size] for values in read)
        labels = self._data.labels[rows]
        counts = np.bincount(labels, minlength=self._data.num_classes)
        errors = np.bincount(labels, wrong, minlength=self._data.num_classes)
        with np.errstate(invalid="ignore"):
            per_class = 1.0 - errors / counts
        return Evaluation(float(1.0 - wrong.mean()), float(losses.mean()), per_class)

    # surviving

    def snapshot(self) -> dict[ModelHandle, Any]:
        """Return everything on the device that a checkpoint needs, by model."""
        return {handle: model.snapshot() for handle, model in self._models.items()}

    def restore(self, snapshot: dict[ModelHandle, Any]) -> None:
        """Take up a snapshot, on this learner's devices."""
        for handle, model in self._models.items():
            model.restore(snapshot[handle])

    def memory(self) -> dict[str, float | None]:
        """Return the peak memory of process and device in MiB; None where unknown."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stats = self._spec.step.mesh.devices.flat[0].memory_stats() or {}
        peak = stats.get("peak_bytes_in_use")
        return {"host_mib": host, "device_mib": peak and peak / 2**20}

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._replicated)

    def _model(self, handle: ModelHandle) -> DeviceModel:
        if handle not in self._models:
            there = ", ".join(self._models)
            raise ValueError(f"no model called {handle!r}; there is {there}")
        return self._models[handle]

    def _check(self, chunk: Any, network: DeviceModel, model: ModelHandle) -> None:
        if chunk is not None and not math.isfinite(network.wait(chunk)[0]):
            raise DivergedError(f"the loss of the {model} model is no number")

    def _count_and_score(
        self, names: tuple[str, ...], index_set: np.ndarray, handle: ModelHandle
    ) -> dict[str, jnp.ndarray]:
        network = self._model(handle)
        self.scored_examples += index_set.size
        self.select_flops += network.score_flops(index_set.size, names)
        return network.score(index_set, names)

    def _best(
        self,
        scores: dict[str, jnp.ndarray],
        names: tuple[str, ...],
        weight: float,
        num_select: int,
    ) -> Selection:
        """Rank on the device, and read the first in stretches that one program cuts."""
        importance = scores[names[0]]
        if len(names) > 1:
            share = self._put(np.float32(weight))
            importance = blend(importance, scores[names[1]], share)
        ranking = rank(importance)
        size = self._spec.score_batch_size  # divides a ranking's length
        pieces = [
            stretch(ranking, self._put(np.int32(first)), size)
            for first in range(0, max(num_select, 1), size)
        ]
        flags = (ranking.has_nan, ranking.allowed)
        pieces, (has_nan, allowed) = jax.device_get((pieces, flags))
        if has_nan:
            raise DivergedError(f"{', '.join(names)} of the pool hold NaN")
        if num_select > allowed:
            raise ValueError(f"cannot take {num_select} of {allowed} examples")
        order, gains = (
            np.concatenate(parts)[:num_select] for parts in zip(*pieces, strict=True)
        )
        return Selection(order, gains)
