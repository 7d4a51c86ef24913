"""The networks of a run on the accelerator: what a method asks, and evaluation."""

import math
import resource
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dpet_jax.data import Data
from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import (
    FRESH,
    MAIN,
    ModelHandle,
    Plan,
    Selection,
    Span,
    TrainResult,
)
from dpet_jax.models.network import Network
from dpet_jax.scores.pool import OUTPUTS
from dpet_jax.selection.by_name import check_selector, run_selector
from dpet_jax.training.chunks import Chunk, Chunks, Pace
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.network import Compilation, DeviceNetwork, compilation
from dpet_jax.training.placement import HostData
from dpet_jax.training.resolution import Ladder
from dpet_jax.training.scoring import EVALUATION, ScoreSpec
from dpet_jax.training.selection import (
    finite_examples,
    importance,
    top_k_on_device,
    top_k_per_class,
)
from dpet_jax.training.state import DeviceData, StepSpec
from dpet_jax.training.steps import Hyper
from dpet_jax.training.transfer import get, put


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
        auxiliary: Handle and shape of the network that is trained to choose by; None
            if there is none.
        ladder: Sides of the images that all networks are trained on; None where it is
            one side.
        room: Bytes of each device that pixels may take, which stay on the host; None
            where they are on the device whole.
    """

    step: StepSpec
    score_batch_size: int
    scores: tuple[str, ...]
    auxiliary: tuple[ModelHandle, Network] | None = None
    ladder: Ladder | None = None
    room: int | None = None


class Start(NamedTuple):
    """What a network starts from that was trained before.

    Attributes:
        params: Parameters of its layers; those that are left out are drawn.
        stats: Running statistics.
        old_rate: float32, learning rate of all layers but the last over that of the
            last.
    """

    params: Any
    stats: Any
    old_rate: Any


#: Name of `DeviceLearner.unpruned` in a checkpoint.
UNPRUNED = "unpruned"

#: What this process has made the programs of, and called once.
_rehearsed: set[Hashable] = set()


def data_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
    """Put devices in a row that shares each batch; all of all hosts by default."""
    devices = jax.devices()[:num_devices]
    return jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


class DeviceLearner:
    """The networks of a run on the accelerator, with the data set beside them.

    Args:
        data: The data set; copied to the device once, or part by part where the spec
            gives room for a part alone.
        spec: How to compute.
        hyper: Traced numbers of training, the same for every network; each plan sets
            the schedule's horizon.
        seed: Decides parameters, augmentation and batches.
        start: What the main network starts from; drawn by default.

    Attributes:
        unpruned: Weights of the main network before it was pruned, as long as it may be
            put back; else None.
        scored_examples: Examples scored for selection.
        selection_visits: Visits of training other models than the main one.
        select_flops: FLOPs of both, fill rows included.
        between_chunks: Called while another model trains, with the plan, its visits
            done, the loss and the accuracy of the last chunk; it may raise.
        agree: Returns what the process that decides returns, where several share a run.
        compiling: Opens the window in which a selection is rehearsed that this process
            has not done yet, so that the first run does not pay for those after it.
    """

    def __init__(
        self,
        data: Data,
        spec: LearnerSpec,
        hyper: Hyper,
        seed: int,
        start: Start | None = None,
    ) -> None:
        self._data = data
        self._spec = spec
        self._seed = seed
        self._replicated = NamedSharding(spec.step.mesh, PartitionSpec())
        self._placed: DeviceData | HostData
        if spec.room is None:
            self._placed = DeviceData(
                *self._put((data.images, data.labels, data.mean, data.std))
            )
        else:
            batches = spec.step.batch_size, spec.score_batch_size
            self._placed = HostData(data, spec.room, *batches, spec.step.mesh)
        self._splits = {
            "train": data.train_rows,
            "validation": data.validation_rows,
            "test": data.test_rows,
        }
        self._start = start
        self._hyper = hyper
        if start is not None:
            self._hyper = hyper._replace(old_rate=start.old_rate)
        self._models = {MAIN: self.network(spec.step.model)}
        if spec.auxiliary is not None:
            handle, auxiliary = spec.auxiliary
            self._models[handle] = self.network(auxiliary, main=False)
        self.unpruned: dict[str, Any] | None = None
        self._peak_learning_rate = float(hyper.schedule.peak)
        self.scored_examples = 0
        self.selection_visits = 0
        self.select_flops = 0
        self.between_chunks: Callable[[Plan, int, float, float], None] = lambda *_: None
        self.agree: Callable[[Callable[[], Any]], Any] = lambda decide: decide()
        self.compiling: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def main(self) -> DeviceNetwork:
        """The network that the run is about; the loop alone trains it."""
        return self._models[MAIN]

    @main.setter
    def main(self, network: DeviceNetwork) -> None:
        self._models[MAIN] = network

    def network(self, model: Network, *, main: bool = True) -> DeviceNetwork:
        """Put a network beside the data, its programs still to be compiled.

        Args:
            model: The network. One of another shape than the run's own is drawn at
                random, whatever that one starts from.
            main: Whether it is, or is to be, the main one. Nobody evaluates others, so
                that they are neither averaged nor rounded nor pruned.
        """
        step, hyper, start = replace(self._spec.step, model=model), self._hyper, None
        if not main:
            step = replace(step, averaged=False, bits=None)
            hyper = hyper._replace(
                ema=None, quantize_from=None, old_rate=None, scale_penalty=None
            )
        elif self._start is not None and model == self._spec.step.model:
            start = self._start.params, self._start.stats
        batch = self._spec.score_batch_size
        names, view = self._compiled_scores, self._data.view
        score = ScoreSpec(model, names, batch, step.dtype, step.mesh, view)
        return DeviceNetwork(
            step,
            score,
            self._placed,
            self._data.num_train,
            hyper,
            self._seed,
            start,
            self._spec.ladder,
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what networks see of an image."""
        return self._data.input_shape

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        return self._spec.step.batch_size

    def compile(self) -> Iterator[Compilation]:
        """Draw the networks and make every program ready; yields each as it is done."""
        for handle, network in self._models.items():
            for done in network.compile():
                yield (
                    done
                    if handle == MAIN
                    else done._replace(what=f"{handle} {done.what}")
                )
        names = tuple(name for name in self._spec.scores if name not in OUTPUTS)
        if names:
            before = compile_counts()
            for network in self._models.values():
                # of an empty index set, to make the programs ready that rank it
                scores = network.score(np.zeros(0, np.int32), names)
                for some in (names[:1], names[:2]):
                    self._top_k(importance(scores, some, 0.0, self._replicated), 0)
            yield compilation("ranking", compile_counts().since(before))

    def barrier(self) -> None:
        """Wait until the device has nothing left to do for any network."""
        for network in self._models.values():
            network.barrier()

    # what a method asks

    def fresh(self, seed: int) -> ModelHandle:
        """Draw a network other than the main one anew; see `Learner.fresh`."""
        self._model(FRESH).redraw(seed)
        return FRESH

    def train(self, plan: Plan, model: ModelHandle) -> TrainResult:
        """Train a model other than the main one on a whole plan; see `Learner.train`.

        A plan without a place on a schedule has one to itself. What `between_chunks`
        raises leaves the model half-trained.

        Raises:
            ValueError: If the model is the main one, which the loop trains, or unknown.
            DivergedError: If its loss is no number.
        """
        if model == MAIN:
            raise ValueError("the loop alone trains the main model")
        network = self._model(model)
        plan = replace(plan, schedule=plan.schedule or Span(0, plan.visits))
        index = network.plans
        network.begin(plan, index)
        chunks = Chunks(
            network,
            plan,
            batch_size=self.batch_size,
            seed=network.seed,
            plan_index=index,
            pace=Pace(),
        )
        while chunks.left:
            num_steps = self.agree(lambda: chunks.next_steps(chunks.left))
            self.selection_visits += chunks.next_visits(num_steps)
            each = chunks.level.train_flops
            self.select_flops += num_steps * self.batch_size * each
            ended = chunks.start(num_steps)
            if ended is not None:
                self._check_finite(ended, model)
                self.between_chunks(plan, ended.visits, ended.loss, ended.accuracy)
        for ended in chunks.drain():
            self._check_finite(ended, model)
        return network.result(plan.index_set)

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Score examples of the training split; see `Learner.score`."""
        scores = self._count_and_score(names, index_set, model)
        read = get([scores[name] for name in names])
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

        "top_k" takes `scores`, one name or two to blend, and the blend's `weight`, or
        `values`, an importance for each candidate; the other selectors, names of
        `SELECTORS`, take a `seed`. With `per_class` each class gets its share.

        Raises:
            ValueError: If the selector is unknown, or takes more than there is.
            DivergedError: If a score or what a selector reads is not finite.
        """
        if selector == "top_k":
            chosen = self._select_top_k(index_set, num_select, model, **options)
        else:
            check_selector(selector)
            chosen = self._run_selector(
                selector, index_set, num_select, model, **options
            )
        return chosen._replace(indices=index_set[chosen.indices])

    def _select_top_k(
        self,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle,
        *,
        scores: tuple[str, ...] = (),
        weight: float = 0.0,
        values: np.ndarray | None = None,
        per_class: bool = False,
    ) -> Selection:
        if values is None:
            found = self._count_and_score(scores, index_set, model)
            ranked = importance(found, scores, weight, self._replicated)
        else:
            padded = np.full(self.main.score_capacity, -np.inf, np.float32)
            padded[: values.size] = values
            ranked = self._put(padded)
            self._rehearse(
                ("top_k", ranked.shape), lambda: self._top_k(ranked, num_select)
            )
        if not per_class:
            return self._top_k(ranked, num_select)
        everything = self._top_k(ranked, index_set.size)
        labels = self._data.labels[index_set]
        return top_k_per_class(everything, labels, self._data.num_classes, num_select)

    def _top_k(self, values: jax.Array, num_select: int) -> Selection:
        size = self._spec.score_batch_size
        return top_k_on_device(
            values, num_select, stretch_size=size, sharding=self._replicated
        )

    def _run_selector(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle,
        **options: Any,
    ) -> Selection:
        outputs = self._count_and_score(OUTPUTS, index_set, model)
        labels, num_classes = self._data.labels[index_set], self._data.num_classes

        def run() -> Selection:
            # glister lowers the candidates' own loss: the validation split decides
            # about targets, so that nothing may be chosen by it
            return run_selector(
                selector,
                finite_examples(outputs, labels, num_classes, self._replicated),
                num_select,
                learning_rate=self._peak_learning_rate,
                **options,
            )

        shapes = tuple(outputs[name].shape for name in OUTPUTS)
        largest_class = int(np.bincount(labels).max(initial=0))
        named = tuple((name, options[name]) for name in options if name != "seed")
        key = (selector, num_select, named, labels.size, largest_class, shapes)
        # the classes that stratified predicts are of other sizes each time
        self._rehearse(None if selector == "stratified" else key, run)
        return run()

    def _rehearse(self, key: Hashable, call: Callable[[], Any]) -> None:
        """Make a call apart, once in a process for a key; always without one."""
        key = None if key is None else (key, self._spec.step.mesh)
        if key in _rehearsed:
            return
        with self.compiling():
            call()
        if key is not None:
            _rehearsed.add(key)

    # looking at the main model

    def evaluate(self, split: Literal["train", "validation", "test"]) -> Evaluation:
        """Evaluate the model on a whole split, without augmentation.

        Its weights are the last ones, or what `train.ema` and `train.quantize` make.
        """
        rows = self._splits[split]
        scores = self.main.score(rows, EVALUATION, evaluated=True)
        read = get([scores[name] for name in EVALUATION])
        wrong, losses = (np.asarray(values, np.float64)[: rows.size] for values in read)
        labels = self._data.labels[rows]
        counts = np.bincount(labels, minlength=self._data.num_classes)
        errors = np.bincount(labels, wrong, minlength=self._data.num_classes)
        with np.errstate(invalid="ignore"):
            per_class = 1.0 - errors / counts
        return Evaluation(float(1.0 - wrong.mean()), float(losses.mean()), per_class)

    # surviving

    def snapshot(self) -> dict[ModelHandle, Any]:
        """Return everything on the device that a checkpoint needs, by model.

        A fresh network is not in it: a selection that is resumed draws it again.
        """
        models = {
            handle: model.snapshot()
            for handle, model in self._models.items()
            if handle != FRESH
        }
        return models if self.unpruned is None else models | {UNPRUNED: self.unpruned}

    def restore(self, snapshot: dict[ModelHandle, Any]) -> None:
        """Restore a snapshot, on this learner's devices."""
        for handle, saved in snapshot.items():
            if handle == UNPRUNED:
                self.unpruned = self._put(saved)
            else:
                self._models[handle].restore(saved)

    def memory(self) -> dict[str, float | None]:
        """Return the peak memory of process and device in MiB; None where unknown."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stats = self._spec.step.mesh.devices.flat[0].memory_stats() or {}
        peak = stats.get("peak_bytes_in_use")
        return {"host_mib": host, "device_mib": peak and peak / 2**20}

    @property
    def _compiled_scores(self) -> tuple[str, ...]:
        """What the scoring programs compute: what is asked for, and to evaluate."""
        return tuple(dict.fromkeys((*self._spec.scores, *EVALUATION)))

    def _put(self, tree: Any) -> Any:
        return put(tree, self._replicated)

    def _model(self, handle: ModelHandle) -> DeviceNetwork:
        if handle not in self._models:
            there = ", ".join(self._models)
            raise ValueError(f"no model called {handle!r}; there is {there}")
        return self._models[handle]

    @staticmethod
    def _check_finite(chunk: Chunk, model: ModelHandle) -> None:
        if not math.isfinite(chunk.loss):
            raise DivergedError(f"the loss of the {model} model is no number")

    def _count_and_score(
        self, names: tuple[str, ...], index_set: np.ndarray, handle: ModelHandle
    ) -> dict[str, jax.Array]:
        network = self._model(handle)
        unknown = [name for name in names if name not in self._compiled_scores]
        if unknown:
            raise ValueError(
                f"the method asks for {', '.join(unknown)} but does not name it in its "
                "`scores`, so it was not compiled"
            )
        self.scored_examples += index_set.size
        self.select_flops += network.score_flops(index_set.size, names)
        scores = network.score(index_set, names)
        return {name: scores[name] for name in names}
