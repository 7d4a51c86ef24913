"""Which weights are evaluated: the last ones, or an average of those on the way.

One class an average: its keys and its arithmetic. Parameters and running statistics of
the normalisation are averaged together, beside training, which never reads the average.
Nothing here imports JAX before it is needed.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field

from dpet_jax.section import BatchSize, Count, Kind, Share


class AverageSection(Kind):
    """Which weights are evaluated, and in the end the model of the run.

    An average of your own is a subclass with keys and these methods; a config names it
    by its import path. Its numbers are traced (see `traced`), except those that shape
    its state.

    Attributes:
        shaping: Keys of numbers that are compiled in.
    """

    shaping: ClassVar[tuple[str, ...]] = ()

    @property
    def copies(self) -> int:
        """How many copies of the weights its state holds."""
        return 1

    @abstractmethod
    def init(self, weights: Any) -> Any:
        """Return the state before the first step: a tree of arrays, None for none.

        Args:
            weights: Tree of float32 arrays, as the network was drawn.
        """

    @abstractmethod
    def update(self, state: Any, weights: Any) -> Any:
        """Return the state after a step that led to `weights`."""

    @abstractmethod
    def read(self, state: Any) -> Any:
        """Return the averaged weights, a tree like those of `init`.

        Not called where there is no state: then it is the last weights.
        """


class Last(AverageSection):
    """The weights after the last step, as they are."""

    kind: Literal["last"] = "last"

    @property
    def copies(self) -> int:
        """None."""
        return 0

    def init(self, weights: Any) -> Any:
        """Return none."""
        del weights

    def update(self, state: Any, weights: Any) -> Any:
        """Return none."""
        del state, weights

    def read(self, state: Any) -> Any:
        """Return nothing: the weights themselves are evaluated."""
        del state


class Ema(AverageSection):
    """Exponential moving average over the steps.

    At first, while 1 / (1 - decay) steps have not passed, it is the plain mean of the
    weights after each step, so that the weights as drawn have no part in it.
    """

    kind: Literal["ema"] = "ema"
    decay: Share = Field(0.99, description="share that stays from step to step")

    def init(self, weights: Any) -> Any:
        """Return the weights as drawn, after no step."""
        import jax.numpy as jnp

        return {"steps": jnp.zeros((), jnp.int32), "mean": weights}

    def update(self, state: Any, weights: Any) -> Any:
        """Move towards the new weights."""
        import jax
        import jax.numpy as jnp

        steps = state["steps"] + 1
        share = jnp.maximum(1.0 - self.decay, 1.0 / steps.astype(jnp.float32))
        mean = jax.tree.map(
            lambda old, new: old + share * (new - old), state["mean"], weights
        )
        return {"steps": steps, "mean": mean}

    def read(self, state: Any) -> Any:
        """Return the average."""
        return state["mean"]


class Lawa(AverageSection):
    """Mean of the latest snapshots, of which one is taken every so many steps.

    The latest one is of the last step, so that between two snapshots it moves on.

    Source:
        Kaddour (2022), "Stop Wasting My Time! Saving Days of ImageNet and BERT Training
        with Latest Weight Averaging".
    """

    kind: Literal["lawa"] = "lawa"
    shaping: ClassVar[tuple[str, ...]] = ("snapshots",)
    snapshots: BatchSize = 5
    every: Count = Field(100, description="steps from snapshot to snapshot")

    @property
    def copies(self) -> int:
        """Every snapshot is one."""
        return self.snapshots

    def init(self, weights: Any) -> Any:
        """Return the weights as drawn in every place, after no step."""
        import jax
        import jax.numpy as jnp

        places = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (self.snapshots, *leaf.shape)), weights
        )
        return {"steps": jnp.zeros((), jnp.int32), "snapshots": places}

    def update(self, state: Any, weights: Any) -> Any:
        """Write the weights into the place of the snapshot that is growing.

        It is written at every step, for at a branch an accelerator would wait.
        """
        import jax
        import jax.numpy as jnp

        place = state["steps"] // _whole(self.every) % self.snapshots
        snapshots = jax.tree.map(
            lambda places, new: jax.lax.dynamic_update_index_in_dim(
                places, new, place, 0
            ),
            state["snapshots"],
            weights,
        )
        return {"steps": state["steps"] + jnp.int32(1), "snapshots": snapshots}

    def read(self, state: Any) -> Any:
        """Return the mean of the snapshots that there are; as drawn before a step."""
        import jax
        import jax.numpy as jnp

        # rounded up, without a sum that might be too large
        steps = state["steps"]
        begun = steps // _whole(self.every) + jnp.sign(steps % _whole(self.every))
        taken = jnp.clip(begun, 1, self.snapshots)
        there = jnp.arange(self.snapshots) < taken

        def mean(places: Any) -> Any:
            apart = there.reshape(-1, *[1] * (places.ndim - 1))
            total = jnp.sum(jnp.where(apart, places, 0.0), axis=0)
            return total / taken.astype(jnp.float32)

        return jax.tree.map(mean, state["snapshots"])


#: The default.
LAST = Last()
#: What `train.average.kind` may name without an import path; the first is the default.
AVERAGES = (Last, Ema, Lawa)


def _whole(number: Any) -> Any:
    """Return a number, which may be traced as float32, as int32."""
    import jax.numpy as jnp

    return jnp.asarray(number).astype(jnp.int32)
