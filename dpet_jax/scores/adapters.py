"""From a Flax model to the `apply_fn(params, images)` that every kernel takes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import errors, nnx
from jaxtyping import Array, Float

ApplyFn = Callable[[Any, Float[Array, "b ..."]], Any]


def from_linen(
    module: nn.Module, variables: Any, *args: Any, **kwargs: Any
) -> tuple[ApplyFn, Any]:
    """Close over everything of a linen module but its parameters.

    Args:
        module: The module, unbound.
        variables: What `module.init` returned, or later ones; other collections than
            "params", such as running statistics, are closed over.
        args: Handed to the module after the images.
        kwargs: Handed to the module, such as `train=False`.

    Returns:
        `apply_fn(params, images)` and the parameters. The function raises ValueError if
        the module is in training mode: if it would update running statistics, or asks
        for random numbers.
    """
    if "params" not in variables:
        raise ValueError(
            'variables hold no "params"; give what module.init returned, not the '
            "parameters alone"
        )
    others = {name: tree for name, tree in variables.items() if name != "params"}

    def apply_fn(params, images):
        try:
            return module.apply({"params": params, **others}, images, *args, **kwargs)
        except (errors.ModifyScopeVariableError, errors.InvalidRngError) as error:
            raise ValueError(
                f"{type(module).__name__} is in training mode: {_first_line(error)}. "
                "There an example's output depends on its batch or on chance; put it "
                "in evaluation mode, with train=False, use_running_average=True or "
                "deterministic=True, whichever its __call__ takes"
            ) from error

    return apply_fn, variables["params"]


def from_nnx(model: nnx.Module) -> tuple[ApplyFn, Any]:
    """Put a copy of an nnx model in evaluation mode and close over all but parameters.

    Args:
        model: The model; it is left as it is. Its `nnx.Param` variables are the
            parameters; running statistics and random states are closed over.

    Returns:
        `apply_fn(params, images)` and the parameters.
    """
    copy = nnx.clone(model)
    copy.eval()
    graph, params, others = nnx.split(copy, nnx.Param, ...)

    def apply_fn(params, images):
        # a copy, so that a model which updates itself changes no one else's
        return nnx.merge(graph, params, others, copy=True)(images)

    return apply_fn, params


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(" (http")[0].rstrip(".")
