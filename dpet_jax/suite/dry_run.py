"""A dry run: what a run will cost, found by playing its method without a network."""

from typing import Any, NamedTuple

import numpy as np

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.methods.base import (
    FRESH,
    MAIN,
    Cost,
    ModelHandle,
    Plan,
    Selection,
    Span,
    TrainResult,
    span_of,
)
from dpet_jax.methods.proxy import ProxyLearner
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD, Network
from dpet_jax.run import build as parts
from dpet_jax.run.counters import Counters
from dpet_jax.scores.pool import OUTPUTS
from dpet_jax.training.chunks import Batches
from dpet_jax.training.learner import LearnerSpec
from dpet_jax.training.resolution import Ladder, Level, level_at
from dpet_jax.training.scoring import scoring_flops


class Estimate(NamedTuple):
    """What a run will have cost at its end, if no target ends it earlier.

    Attributes:
        epochs: Full-pass equivalents, scoring and auxiliary networks included.
        visits: Examples that the main model will see in training.
        train_flops: FLOPs of training all networks.
        score_flops: FLOPs of scoring what is chosen from.
    """

    epochs: float
    visits: int
    train_flops: int
    score_flops: int

    @property
    def flops(self) -> int:
        """Of both."""
        return self.train_flops + self.score_flops


def estimate(config: Config, data: Data) -> Estimate:
    """Estimate the cost of a run by playing its method with a learner that only counts.

    It is exact for methods whose plans do not depend on the results of training; for
    the others losses are drawn at random.

    Args:
        config: The run's.
        data: What `parts.build_data` made of it.

    Raises:
        UserError: If the config does not fit the data.
    """
    parts.check_fit(config, data)
    method = config.method
    model = parts.build_model(config, data)
    spec = parts.build_learner_spec(config, model)
    counting = CountingLearner(spec, data, config.seed)
    pending: list[Plan] = []
    learner = ProxyLearner(counting, pending) if method.proxied else counting
    pool = parts.build_pool(data)
    limits, batch = parts.build_limits(config), counting.batch_size
    horizon: Any = getattr(config.train.schedule, "horizon", "plan")
    counters = Counters(data.num_train * counting.train_flops(MAIN))
    state, paid = method.start(pool, config.seed), 0.0
    while True:
        state = method.tune(state, learner) if method.tunes else state
        state, plan = method.plan(state, learner)
        if plan is None:
            break
        counters.flops = counting.flops
        batches, step, before = Batches(plan, batch, config.seed, 0), 0, counters.visits
        span = span_of(plan, horizon, before, method, pool)
        while step < batches.num_steps and limits.exhausted(counters, 0.0) is None:
            level = counting.level(MAIN, span, counters.visits - before)
            step_flops = batch * level.train_flops
            steps = min(
                limits.steps_to_budget(counters, step_flops, batch),
                batches.num_steps - step,
                level.steps(batch),
            )
            step += steps
            counters.visits = before + batches.visits_before(step)
            counters.flops += steps * step_flops
        counting.flops = counters.flops
        if limits.exhausted(counters, 0.0) is not None:
            break
        # a second an epoch: nobody knows yet what this machine takes
        spent = counters.epochs - paid
        cost, paid = Cost(spent, spent, None), counters.epochs
        state = method.observe(state, counting.result(plan)._replace(cost=cost))
        pending.append(plan)
    return Estimate(
        counting.flops / counters.full_pass_flops,
        counters.visits,
        counting.flops - counting.score_flops,
        counting.score_flops,
    )


class CountingLearner:
    """A learner without networks: it counts FLOPs and answers at random.

    Args:
        spec: How the real learner would compute.
        data: The data set.
        seed: Decides the answers.

    Attributes:
        flops: Of everything it was asked to do so far.
        score_flops: Those of scoring.
        batch_size: Rows of a training step.
    """

    def __init__(self, spec: LearnerSpec, data: Data, seed: int) -> None:
        self.flops = self.score_flops = 0
        self.batch_size = spec.step.batch_size
        self._score_batch_size = spec.score_batch_size
        self._gives_margins = spec.step.margins
        self._shape, self._num_classes = data.input_shape, data.num_classes
        self._models = dict([(MAIN, spec.step.model), *filter(None, [spec.auxiliary])])
        self._ladder = spec.ladder or Ladder((spec.step.input_size,))
        self._draw = np.random.default_rng(seed)

    def train_flops(self, model: ModelHandle) -> int:
        """Return the FLOPs of one example in training, at the last side."""
        network = self._network(model)
        return TRAIN_FLOPS_PER_FORWARD * network.forward_flops(*self._shape[:2])

    def level(self, model: ModelHandle, span: Span, visits: int) -> Level:
        """Return how a model is trained at a place of the schedule."""
        return level_at(self._ladder, self._network(model), self._shape, span, visits)

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Count; see `Learner.score`."""
        batches = (self._score_batch_size, self.batch_size)
        flops = scoring_flops(
            self._network(model), self._shape, batches, index_set.size, names
        )
        self.flops += flops
        self.score_flops += flops
        size, columns = index_set.size, self._num_classes
        return {
            # features of whatever width: nobody trains on what is chosen by them
            name: self._random(size, columns) if name in OUTPUTS else self._random(size)
            for name in names
        }

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
        elif options.get("values") is None:
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
        batches, step = Batches(plan, self.batch_size, 0, 0), 0
        span = plan.schedule or Span(0, plan.visits)
        while step < batches.num_steps:
            level = self.level(model, span, batches.visits_before(step))
            steps = min(batches.num_steps - step, level.steps(self.batch_size))
            self.flops += steps * self.batch_size * level.train_flops
            step += steps
        return self.result(plan)

    def result(self, plan: Plan) -> TrainResult:
        """Return random losses of the examples of a plan, and margins where asked."""
        rows = np.unique(plan.index_set)
        losses = self._draw.gamma(2.0, size=rows.size).astype(np.float32)
        counts = self._random(rows.size)
        margins = 2 * self._random(rows.size) if self._gives_margins else None
        return TrainResult(rows, losses, losses < 1, counts, margins)

    def _network(self, model: ModelHandle) -> Network:
        if model not in self._models:
            raise ValueError(f"this run has no {model} model")
        return self._models[model]

    def _random(self, *shape: int) -> np.ndarray:
        return self._draw.random(shape, np.float32)
