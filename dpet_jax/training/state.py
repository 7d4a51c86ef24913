"""What training carries from step to step, and what its program is made for."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt8

from dpet_jax.data.augment import on_each_device
from dpet_jax.models.network import Network
from dpet_jax.scores.forgetting import NEVER_LEARNED
from dpet_jax.training.average import Average, new_average
from dpet_jax.training.optimizer import OptimizerSection, init_optimizer
from dpet_jax.training.schedule import BUILT_IN, ScheduleSection


class DeviceData(NamedTuple):
    """The data set on the device: training, validation and test rows in one block.

    An argument of every compiled program. One block means one shape: a single scoring
    program serves the pool and both evaluation splits.

    Attributes:
        images: Raw pixels, of all examples or, with `places`, of some, of which each
            device has its own; normalised inside the compiled programs.
        labels: Class of each example, in [0, k).
        mean: Of the training split's pixels, in [0, 1].
        std: Of the training split's pixels, in [0, 1].
        places: Where some rows alone are on the devices: place of the image of each,
            among those of the device that has that row of its batch. None, which costs
            nothing, where all are, and the place of an image is its position.
    """

    images: UInt8[Array, "r h w c"]
    labels: Int32[Array, " n"]
    mean: Float32[Array, " c"]
    std: Float32[Array, " c"]
    places: Int32[Array, " capacity"] | None = None

    def of_batch(self, start: Int32[Array, ""], size: int) -> "DeviceData":
        """Return it with the places of one batch of a chunk.

        Args:
            start: Where the batch begins among the rows of the chunk.
            size: Rows of the batch.
        """
        if self.places is None:
            return self
        places = lax.dynamic_slice_in_dim(self.places, start, size)
        return self._replace(places=places)

    def apart(self, mesh: Mesh) -> Mesh | None:
        """Return the mesh, if each of its devices has images of its own, else None."""
        return None if self.places is None or mesh.size == 1 else mesh

    def pixels(self, rows: Int32[Array, " b"], mesh: Mesh) -> UInt8[Array, "b h w c"]:
        """Return the images of a batch that is shared among devices.

        Args:
            rows: Positions in the data set, or in `places` where there are any.
            mesh: The devices.
        """
        if self.places is None:
            return self.images[rows]
        places = self.places[rows]
        return on_each_device(self.apart(mesh), lambda images, at: images[at])(
            self.images, places
        )


class TrainState(NamedTuple):
    """Everything a training step changes, and the key it draws from.

    Attributes:
        params: Parameters, float32.
        batch_stats: Running statistics of the normalisation.
        opt_state: Optimizer state.
        step: Updates so far.
        key: Root of the augmentation's randomness; folded with `step`.
        losses: Last training loss of each example: unsmoothed, unweighted
            cross-entropy under its augmentation; infinite where never trained on.
        correct: Whether the last training prediction of each example was right.
        forgetting: How often each example was forgotten; -1 until it is predicted right
            for the first time.
        margins: `label_margin` of each example at its last training visit; infinite
            where never trained on. None, which costs nothing, where nobody asks.
        average: Of the weights; None where there is none.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: Int32[Array, ""]
    key: Key[Array, ""]
    losses: Float32[Array, " n"]
    correct: Bool[Array, " n"]
    forgetting: Int32[Array, " n"]
    margins: Float32[Array, " n"] | None = None
    average: Average | None = None


class Tables(NamedTuple):
    """What training notes of every example; `TrainState` documents each.

    On a mesh of several devices each has the part of its examples, all of one size, so
    that a few rows of the last may be nobody's.
    """

    losses: Float32[Array, " n"]
    correct: Bool[Array, " n"]
    forgetting: Int32[Array, " n"]
    margins: Float32[Array, " n"] | None


#: What of a state has the same shape whatever network it is of.
OF_ANY_NETWORK = ("step", "key", "losses", "correct", "forgetting", "margins")


@dataclass(frozen=True)
class StepSpec:
    """What a compiled training program is specialised to, beside the data's shape.

    Attributes:
        model: The network.
        optimizer: The optimizer, without its numbers.
        batch_size: Rows of a step, fill rows included.
        dtype: Name of the dtype that the network computes in.
        mesh: Devices that share a batch; its one axis is called "data".
        schedules: From `schedules_with`.
        margins: Whether there is a table of margins beside that of losses.
        averaged: Whether an average of the weights is evaluated.
        bits: Of the weights that are evaluated; None where they stay float32.
        input_size: Side of the images that the network is trained on; None where it is
            the stored one.
    """

    model: Network
    optimizer: OptimizerSection
    batch_size: int
    dtype: str
    mesh: Mesh
    schedules: tuple[ScheduleSection, ...] = BUILT_IN
    margins: bool = False
    averaged: bool = False
    bits: int | None = None
    input_size: int | None = None

    @property
    def transforms_weights(self) -> bool:
        """Whether other weights are evaluated than those after the last step."""
        return self.averaged or self.bits is not None


def init_state(
    model: Network,
    optimizer: OptimizerSection,
    num_examples: int,
    key: Key[Array, ""],
    *,
    margins: bool = False,
    averaged: bool = False,
    start: tuple[Any, Any] | None = None,
) -> TrainState:
    """Draw a fresh network with a zeroed optimizer and empty tables.

    Args:
        model: The network.
        optimizer: The optimizer, without its numbers.
        num_examples: Rows of the tables.
        key: Decides the parameters and the augmentation.
        margins: Whether there is a table of margins.
        averaged: Whether there is an average of the weights.
        start: Parameters, by the layers that are not drawn, and running statistics.
    """
    init_key, step_key = jax.random.split(key)
    params, batch_stats = model.init(init_key)
    if start is not None:
        params, batch_stats = {**params, **start[0]}, start[1]
    return TrainState(
        params=params,
        batch_stats=batch_stats,
        opt_state=init_optimizer(optimizer, params),
        step=jnp.zeros((), jnp.int32),
        key=step_key,
        losses=jnp.full(num_examples, jnp.inf, jnp.float32),
        correct=jnp.zeros(num_examples, bool),
        forgetting=jnp.full(num_examples, NEVER_LEARNED, jnp.int32),
        margins=jnp.full(num_examples, jnp.inf, jnp.float32) if margins else None,
        average=new_average({"params": params, "batch_stats": batch_stats})
        if averaged
        else None,
    )
