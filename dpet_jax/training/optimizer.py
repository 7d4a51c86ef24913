"""How gradients become steps: one class an optimizer, its keys and its optax chain.

The numbers of an optimizer are traced (see `traced`), so only the shape of its state is
compiled in. Nothing here imports JAX before it is needed.
"""

from abc import abstractmethod
from typing import Any, Literal

from pydantic import Field

from dpet_jax.section import Kind, NonNegative, Positive, Share
from dpet_jax.training.traced import with_numbers


class OptimizerSection(Kind):
    """How gradients become steps.

    An optimizer of your own is a subclass with keys and `transform`; a config names it
    by its import path.
    """

    learning_rate: Positive = Field(description="the schedule's peak")
    weight_decay: NonNegative = Field(0.0, description="of all parameters")

    @abstractmethod
    def transform(self) -> Any:
        """Return the optax.GradientTransformation of one step.

        It is built inside the compiled program, where every number of the section is a
        traced value, and `learning_rate` the schedule's for this step.
        """


class Sgd(OptimizerSection):
    """SGD with momentum; the decay is added to the gradient (L2), as PyTorch does."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = Field(0.1, description="the schedule's peak")
    momentum: Share = Field(0.9, description="share of the velocity that a step keeps")
    nesterov: bool = Field(True, description="look ahead by the momentum")
    weight_decay: NonNegative = Field(5e-4, description="of all parameters")

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

    learning_rate: Positive = Field(1e-3, description="the schedule's peak")
    b1: Share = Field(0.9, description="decay of the mean of gradients")
    b2: Share = Field(0.999, description="decay of the mean of their squares")
    eps: Positive = Field(1e-8, description="added to the root of the second moment")


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
    weight_decay: NonNegative = Field(1e-2, description="of all parameters")

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
    old_rate: Any = None,
    head: str | None = None,
) -> tuple[Any, Any]:
    """Take one optimizer step.

    Args:
        optimizer: Which, without its numbers.
        numbers: Those, traced.
        rate: Learning rate of this step.
        grads: Gradient of the loss, without decay.
        opt_state: State of `init_optimizer`.
        params: Parameters.
        old_rate: Learning rate of all layers but the last over that of the last; None
            leaves them alike.
        head: Name of the last layer's parameters.

    Returns:
        New parameters and new optimizer state.
    """
    import jax
    import optax

    transform = with_numbers(optimizer, numbers | {"learning_rate": rate}).transform()
    # optax raises a float to its int32 count, which strict promotion would refuse
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = transform.update(grads, opt_state, params)
    if old_rate is not None:
        updates = {
            name: layer if name == head else jax.tree.map(lambda u: old_rate * u, layer)
            for name, layer in updates.items()
        }
    return optax.apply_updates(params, updates), opt_state


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
