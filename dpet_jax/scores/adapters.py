"""From a model to the `apply_fn(params, images)` that every kernel takes.

Flax is there; Equinox and Haiku are imported when a model of theirs is given.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import flax.linen as nn
import jax
from flax import errors, nnx
from jaxtyping import Array, Float

from dpet_jax.errors import UserError

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


def from_equinox(
    model: Any, state: Any = None, *args: Any, **kwargs: Any
) -> tuple[ApplyFn, Any]:
    """Put an Equinox model in inference mode and map it over a batch.

    Args:
        model: Maps one example to its logits, or to logits and features. Its arrays of
            floating type are the parameters; all else is closed over.
        state: Of `equinox.nn.make_with_state`, if the model has one, such as running
            statistics; it is handed to the model after the example.
        args: Handed to the model after these.
        kwargs: Handed to the model.

    Returns:
        `apply_fn(params, images)` and the parameters.

    Raises:
        UserError: If Equinox is not installed.
    """
    eqx = _library("equinox", "from_equinox")
    # training changes arrays; a model also holds functions and whole numbers
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_inexact_array)

    def apply_fn(params, images):
        whole = eqx.combine(params, static)

        def one(image):
            if state is None:
                return whole(image, *args, **kwargs)
            return whole(image, state, *args, **kwargs)[0]

        return jax.vmap(one)(images)

    return apply_fn, params


def from_haiku(
    transformed: Any, params: Any, state: Any = None, *args: Any, **kwargs: Any
) -> tuple[ApplyFn, Any]:
    """Close over everything of a Haiku function but its parameters.

    Args:
        transformed: What `haiku.transform`, `transform_with_state` or
            `without_apply_rng` returned.
        params: What its `init` returned, or later ones.
        state: Of `transform_with_state`, such as running statistics.
        args: Handed to the function after the images.
        kwargs: Handed to the function, such as `is_training=False`.

    Returns:
        `apply_fn(params, images)` and the parameters. The function raises ValueError if
        it is in training mode: if it would update its state, or asks for random
        numbers.

    Raises:
        UserError: If Haiku is not installed.
        ValueError: If the function has a state and none is given.
    """
    hk = _library("haiku", "from_haiku")
    with_state = isinstance(transformed, hk.TransformedWithState)
    if with_state and state is None:
        raise ValueError(
            "the function has a state; give what its init returned beside the "
            "parameters, as state"
        )
    # without_apply_rng has taken the argument away
    no_key = [None] * ("rng" in inspect.signature(transformed.apply).parameters)

    def apply_fn(params, images):
        if not with_state:
            return transformed.apply(params, *no_key, images, *args, **kwargs)
        outputs, after = transformed.apply(
            params, state, *no_key, images, *args, **kwargs
        )
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
        if any(old is not new for old, new in pairs):
            raise ValueError(
                "the function is in training mode: it updates its state. There an "
                "example's output depends on its batch; put it in evaluation mode, "
                "with is_training=False or whichever argument it takes"
            )
        return outputs

    return apply_fn, params


def _library(module: str, asked_by: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{asked_by} needs {module}, which is not installed; run pip install "
            "'dpet-jax[adapters]'"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(" (http")[0].rstrip(".")
