"""How gradients become steps: one class an optimizer, its keys and its optax chain.

The numbers of an optimizer are traced (see `traced`), so only the shape of its state is
compiled in. Nothing here imports JAX before it is needed.
"""

from abc import abstractmethod
from typing import Any, Literal, TypeAlias

from pydantic import Field

from dpet_jax.section import Kind, NonNegative, Positive, Share
from dpet_jax.training.traced import with_numbers

#: Places of parameters in their tree, as `jax.tree_util` gives them.
Paths: TypeAlias = frozenset[tuple[Any, ...]]


class OptimizerSection(Kind):
    """How gradients become steps.

    An optimizer of your own is a subclass with keys and `transform`; a config names it
    by its import path.
    """

    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    bias_rate: Positive | None = Field(
        None,
        description="of biases of batch normalisation, their learning rate over that "
        "of all else, and their decay under it; null for as all else",
    )

    @abstractmethod
    def transform(self) -> Any:
        """Return the optax.GradientTransformation of one step.

        It is built inside the compiled program, where every number of the section is a
        traced value, and `learning_rate` the schedule's for this step.
        """


class Sgd(OptimizerSection):
    """SGD with momentum; the decay is added to the gradient (L2), as PyTorch does."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4

    def transform(self) -> Any:
        """Return decay, momentum and the step."""
        import optax

        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            _momentum(self.momentum, self.nesterov),
            optax.scale_by_learning_rate(self.learning_rate),
        )


class _Adam(OptimizerSection):
    """What Adam and AdamW share."""

    learning_rate: Positive = 1e-3
    b1: Share = 0.9
    b2: Share = 0.999
    eps: Positive = 1e-8


class Adam(_Adam):
    """Adam; the decay is added to the gradient (L2), as PyTorch does."""

    kind: Literal["adam"] = "adam"

    def transform(self) -> Any:
        """Return decay, the moments and the step."""
        import optax

        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.scale_by_learning_rate(self.learning_rate),
        )


class AdamW(_Adam):
    """Adam with decoupled decay (scaled by the learning rate)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: NonNegative = 1e-2

    def transform(self) -> Any:
        """Return the moments, decay and the step."""
        import optax

        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )


#: What `optimizer.kind` may name without an import path; the first is the default.
OPTIMIZERS = (Sgd, Adam, AdamW)


def init_optimizer(optimizer: OptimizerSection, params: Any) -> Any:
    """Return the optimizer's state before the first step."""
    return optimizer.transform().init(params)


def update(
    optimizer: OptimizerSection,
    numbers: dict[str, Any],
    rate: Any,
    grads: Any,
    opt_state: Any,
    params: Any,
    biases: Paths = frozenset(),
) -> tuple[Any, Any]:
    """Take one optimizer step.

    Args:
        optimizer: Which, without its numbers.
        numbers: Those, traced.
        rate: Learning rate of this step.
        grads: Gradient of the loss, without decay.
        opt_state: State of `init_optimizer`.
        params: Parameters.
        biases: Of them, those that `bias_rate` is about, from `norm_biases`.

    Returns:
        New parameters and new optimizer state.
    """
    import jax
    import optax

    def step(**changes: Any) -> tuple[Any, Any]:
        transform = with_numbers(optimizer, numbers | changes).transform()
        # optax raises a float to its int32 count, which strict promotion would refuse
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(grads, opt_state, params)

    updates, state = step(learning_rate=rate)
    if optimizer.bias_rate is not None:
        times = numbers["bias_rate"]
        decay = numbers["weight_decay"] / times
        # XLA leaves out what is computed here of all other parameters
        others = step(learning_rate=rate * times, weight_decay=decay)
        updates, state = jax.tree_util.tree_map_with_path(
            lambda path, plain, other: other if _among(path, biases) else plain,
            (updates, state),
            others,
        )
    return optax.apply_updates(params, updates), state


def norm_biases(params: Any, batch_stats: Any) -> Paths:
    """Return the paths of the biases of batch normalisation, told by its statistics.

    Args:
        params: Parameters; their values do not matter.
        batch_stats: Running statistics, in the same places.
    """
    import jax

    def paths(tree: Any) -> list[tuple[Any, ...]]:
        return [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]

    layers = {path[:-1] for path in paths(batch_stats)}
    return frozenset(
        path
        for path in paths(params)
        if path[:-1] in layers and getattr(path[-1], "key", None) == "bias"
    )


def _among(path: tuple[Any, ...], biases: Paths) -> bool:
    """Return whether a leaf of the optimizer's state or of updates is of a bias."""
    return any(path[-len(bias) :] == bias for bias in biases)


def _momentum(decay: Any, nesterov: Any) -> Any:
    """Return optax.trace with a switch that may be traced."""
    import jax
    import jax.numpy as jnp
    import optax

    trace = optax.trace(decay)

    def update(grads, state, params=None):
        velocity, state = trace.update(grads, state, params)
        ahead = jax.tree.map(lambda g, v: g + decay * v, grads, velocity)
        return jax.tree.map(
            lambda a, v: jnp.where(nesterov, a, v), ahead, velocity
        ), state

    return optax.GradientTransformation(trace.init, update)
