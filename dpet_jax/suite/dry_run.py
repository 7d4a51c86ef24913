"""What a run will cost, found by playing it without a network."""

from typing import Any, NamedTuple

import numpy as np

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.methods.base import (
    FRESH,
    MAIN,
    PROXY,
    ModelHandle,
    Plan,
    Pool,
    Selection,
    TrainResult,
)
from dpet_jax.methods.proxy import ProxyLearner
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD
from dpet_jax.run import build as parts
from dpet_jax.run.folder import Counters
from dpet_jax.run.method_parts import build_method
from dpet_jax.scores.pool import OUTPUTS
from dpet_jax.selection.by_name import USES_VALIDATION
from dpet_jax.training.batches import Batches
from dpet_jax.training.learner import LearnerSpec
from dpet_jax.training.scoring import scoring_flops


class Foresight(NamedTuple):
    """What a run will have cost at its end, if no target ends it earlier.

    Attributes:
        epochs: Full-pass equivalents, scoring and pre-training included.
        visits: Examples that the main model will be trained on.
    """

    epochs: float
    visits: int


def foresee(config: Config, data: Data) -> Foresight:
    """Play a run with a learner that only counts.

    Exact for methods whose plans do not depend on what training says, and for others an
    estimate: losses are drawn at random.

    Args:
        config: The run's.
        data: What `parts.build_data` made of it.

    Raises:
        UserError: If the config does not fit the data.
    """
    parts.check_fit(config, data)
    method = build_method(config, data)
    model = parts.build_model(config, data)
    spec = parts.build_learner_spec(config, model, method.scores)
    counting = Counting(spec, data, config.seed)
    pending: list[Plan] = []
    learner = ProxyLearner(counting, pending) if spec.proxy is not None else counting
    pool = Pool(data.num_train, data.labels[: data.num_train], data.num_classes)
    limits, batch = parts.build_limits(config), spec.step.batch_size
    step_flops = batch * counting.train_flops(MAIN)
    counters = Counters(-(-data.num_train // batch) * step_flops)
    state, plan = method.plan(method.start(pool, config.seed), learner)
    while plan is not None:
        batches, step = Batches(plan, batch, config.seed, 0), 0
        before, chosen = counters.visits, counting.flops - counters.flops
        counters.flops += chosen
        while step < batches.num_steps and limits.exhausted(counters, 0.0) is None:
            budget = limits.steps_to_budget(counters, step_flops, batch)
            taken = min(budget, batches.num_steps - step)
            step += taken
            counters.visits = before + batches.visits_before(step)
            counters.flops += taken * step_flops
        if limits.exhausted(counters, 0.0) is not None:
            break
        counting.flops = counters.flops
        state = method.observe(state, counting.learnt(plan))
        pending.append(plan)
        state, plan = method.plan(state, learner)
    flops = max(counters.flops, counting.flops)
    return Foresight(flops / counters.full_pass_flops, counters.visits)


class Counting:
    """A learner without networks: it counts FLOPs and answers at random.

    Args:
        spec: How the real one would compute.
        data: The data set.
        seed: Of the answers.

    Attributes:
        flops: Of everything it was asked to do so far.
    """

    def __init__(self, spec: LearnerSpec, data: Data, seed: int) -> None:
        self.flops = 0
        self._spec = spec
        self._shape = data.image_shape
        self._validation = data.num_validation
        self._models = {MAIN: spec.step.model, PROXY: spec.proxy, FRESH: spec.fresh}
        self._draw = np.random.default_rng(seed)

    def train_flops(self, model: ModelHandle) -> int:
        """Return the FLOPs of one example's training visit."""
        network = self._shape_of(model)
        return TRAIN_FLOPS_PER_FORWARD * network.forward_flops(*self._shape[:2])

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Count; see `Learner.score`."""
        batches = (self._spec.score_batch_size, self._spec.step.batch_size)
        self.flops += scoring_flops(
            self._shape_of(model), self._shape, batches, index_set.size, names
        )
        return {name: self._random(index_set.size) for name in names}

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle = MAIN,
        **options: Any,
    ) -> Selection:
        """Count what the selector reads; see `Learner.select`."""
        if selector != "top_k":
            self.score(OUTPUTS, index_set, model)
            if selector in USES_VALIDATION:
                self.score(OUTPUTS, np.zeros(self._validation, np.int32), model)
        elif "values" not in options or options["values"] is None:
            self.score(options["scores"], index_set, model)
        chosen = self._draw.permutation(index_set)[:num_select].astype(np.int32)
        gains = self._random(num_select)
        return Selection(chosen, gains, np.ones(num_select, np.float32))

    def fresh(self, seed: int) -> ModelHandle:
        """Return the handle; see `Learner.fresh`."""
        del seed
        return FRESH

    def train(self, plan: Plan, model: ModelHandle) -> TrainResult:
        """Count; see `Learner.train`."""
        batch = self._spec.step.batch_size
        steps = Batches(plan, batch, 0, 0).num_steps
        self.flops += steps * batch * self.train_flops(model)
        return self.learnt(plan)

    def learnt(self, plan: Plan) -> TrainResult:
        """Draw what training a plan might teach."""
        rows = np.unique(plan.index_set)
        losses = self._draw.gamma(2.0, size=rows.size).astype(np.float32)
        return TrainResult(rows, losses, losses < 1, self._random(rows.size))

    def _shape_of(self, model: ModelHandle) -> Any:
        shape = self._models[model]
        if shape is None:
            raise ValueError(f"this run has no {model} model")
        return shape

    def _random(self, size: int) -> np.ndarray:
        return self._draw.random(size, np.float32)
