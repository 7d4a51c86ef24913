"""What the loop makes the accelerator and the disk do."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from dpet_jax.methods.base import Learner, Plan, Span, TrainResult


@runtime_checkable
class Trainer(Learner, Protocol):
    """What the loop makes the accelerator do; `DeviceLearner` documents each."""

    scored_examples: int
    scored_rows: int

    @property
    def max_steps(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def forward_flops(self) -> int: ...  # noqa: D102
    @property
    def train_flops(self) -> int: ...  # noqa: D102
    def begin(  # noqa: D102
        self, plan: Plan, plan_index: int
    ) -> None: ...
    def set_weights(self, plan: Plan) -> None: ...  # noqa: D102
    def train(  # noqa: D102
        self, rows: np.ndarray, num_steps: int, span: Span, visits: int
    ) -> Any: ...
    def wait(self, handle: Any) -> tuple[float, int, int]: ...  # noqa: D102
    def result(self, index_set: np.ndarray) -> TrainResult: ...  # noqa: D102
    def evaluate(self, split: Any) -> Any: ...  # noqa: D102
    def memory(self) -> dict[str, float | None]: ...  # noqa: D102
    def snapshot(self) -> Any: ...  # noqa: D102
    def restore(self, snapshot: Any) -> None: ...  # noqa: D102


@runtime_checkable
class Saver(Protocol):
    """Where checkpoints go; `Checkpoints` documents each."""

    def save(  # noqa: D102
        self, device: Any, host: dict[str, np.ndarray], meta: dict[str, Any]
    ) -> None: ...
    def restore(self, like: Any) -> Any: ...  # noqa: D102
