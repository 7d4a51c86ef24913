"""A narrow network that scores in place of the main one, after the same training."""

from typing import Any

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import (
    MAIN,
    PROXY,
    Learner,
    ModelHandle,
    Plan,
    Selection,
    TrainResult,
)
from dpet_jax.section import Fraction, Section


class ProxyConfig(Section):
    """A narrow network, trained alongside, that scores in place of the model.

    Stem and stages have the model's channels times the multiplier, rounded to its
    channel_multiple (8 where channels are explicit), at least 8 and never more.
    """

    width_multiplier: Fraction = Field(
        0.25, description="channels of the proxy over those of the model"
    )


class ProxyLearner:
    """What a method asks where a proxy scores for the main model.

    The proxy is trained on every plan of the main model, but only once it is asked: the
    plans of a last round, after which nobody asks, cost nothing. What it then catches
    up on is part of the selection that asked. A method that names no model, or the main
    one, gets the proxy's scores; another model scores for itself.

    Args:
        learner: Keeps both models.
        pending: Plans that the main model was trained on and the proxy was not,
            schedules settled; emptied as the proxy catches up.
    """

    def __init__(self, learner: Learner, pending: list[Plan]) -> None:
        self._learner = learner
        self._pending = pending

    @property
    def batch_size(self) -> int:
        """Rows of a training step."""
        return self._learner.batch_size

    def score(
        self, names: tuple[str, ...], index_set: np.ndarray, model: ModelHandle = MAIN
    ) -> dict[str, np.ndarray]:
        """Score examples; see `Learner.score`."""
        return self._learner.score(names, index_set, self._stand_in(model))

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle = MAIN,
        **options: Any,
    ) -> Selection:
        """Run a selector over candidates; see `Learner.select`."""
        stand_in = self._stand_in(model)
        return self._learner.select(
            selector, index_set, num_select, stand_in, **options
        )

    def fresh(self, seed: int) -> ModelHandle:
        """Draw a network of the method's own; see `Learner.fresh`."""
        return self._learner.fresh(seed)

    def train(self, plan: Plan, model: ModelHandle) -> TrainResult:
        """Train a model of the method's own; see `Learner.train`.

        Raises:
            ValueError: If it is the proxy, which follows the main model.
        """
        if model == PROXY:
            raise ValueError("the proxy is trained on the main model's plans alone")
        return self._learner.train(plan, model)

    def _stand_in(self, model: ModelHandle) -> ModelHandle:
        if model not in (MAIN, PROXY):
            return model
        while self._pending:
            self._learner.train(self._pending[0], PROXY)
            del self._pending[0]
        return PROXY
