"""What the loop works with: the accelerator and the disk as it sees them, and more."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from dpet_jax.energy import EnergyMeter
from dpet_jax.methods.base import Learner, Method, Plan, Pool, TrainResult
from dpet_jax.run.callbacks import Callbacks
from dpet_jax.run.folder import Recorder
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.limits import Limits
from dpet_jax.run.progress import Display
from dpet_jax.run.prune import Pruner
from dpet_jax.run.team import Team
from dpet_jax.training.chunks import Trainable


@runtime_checkable
class MainNetwork(Trainable, Protocol):
    """The network that the run is about; `DeviceNetwork` documents each."""

    @property
    def train_flops(self) -> int: ...  # noqa: D102
    def begin(self, plan: Plan, plan_index: int) -> None: ...  # noqa: D102
    def set_up(self, plan: Plan) -> None: ...  # noqa: D102
    def result(self, index_set: np.ndarray) -> TrainResult: ...  # noqa: D102


@runtime_checkable
class Trainer(Learner, Protocol):
    """What the loop needs of the accelerator; `DeviceLearner` documents each."""

    scored_examples: int
    selection_visits: int
    select_flops: int
    between_chunks: Callable[[Plan, int, float, float], None]
    compiling: Callable[[], AbstractContextManager[Any]]

    @property
    def main(self) -> MainNetwork: ...  # noqa: D102
    def evaluate(self, split: Any) -> Any: ...  # noqa: D102
    def memory(self) -> dict[str, float | None]: ...  # noqa: D102
    def snapshot(self) -> Any: ...  # noqa: D102
    def restore(self, snapshot: Any) -> None: ...  # noqa: D102


@runtime_checkable
class Saver(Protocol):
    """Where checkpoints go; `Checkpoints` documents each."""

    def save(  # noqa: D102
        self, models: Any, host: dict[str, np.ndarray], meta: dict[str, Any]
    ) -> None: ...
    def restore(self, like: Any) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class Parts:
    """Everything the loop works with.

    Attributes:
        method: Decides.
        pool: The training split as the method sees it.
        trainer: The accelerator.
        limits: Targets, budgets and the evaluation grid.
        horizon: "plan", "method" or a number of epochs: how long a schedule runs.
        meter: Attributes seconds and energy to phases.
        recorder: Writes events.
        display: Shows them.
        saver: Keeps checkpoints.
        checkpoint_every_s: Least seconds between two of them.
        facts: What a checkpoint holds about the run beside its position.
        interrupt: Whether someone asked the run to stop.
        seed: The run's seed.
        untrained: Whether the network stays as it starts, and the method plans nothing.
        pruner: Prunes the network; None where nobody does.
        callbacks: Are told of events, and may have asked the run to end.
        team: The processes that the run is shared by.
    """

    method: Method
    pool: Pool
    trainer: Trainer
    limits: Limits
    horizon: Literal["plan", "method"] | float
    meter: EnergyMeter
    recorder: Recorder
    display: Display
    saver: Saver
    checkpoint_every_s: float
    facts: dict[str, Any]
    interrupt: Interrupt
    seed: int
    untrained: bool = False
    pruner: Pruner | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    team: Team = field(default_factory=Team)
