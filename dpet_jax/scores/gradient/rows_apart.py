"""Check that a function does not mix the examples of a batch, by its jaxpr."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal
from jax.extend.core import primitives as prim

#: No shape of a network is a multiple of it by accident.
_ROWS = 1021

_INNER = {
    prim.jit_p: "jaxpr",
    prim.closed_call_p: "call_jaxpr",
    prim.remat_p: "jaxpr",
    prim.custom_jvp_call_p: "call_jaxpr",
    prim.custom_vjp_call_p: "call_jaxpr",
}


def refuse_mixed_rows(
    apply_fn: Callable[[Any, Any], Any], params: Any, image: Any
) -> None:
    """Refuse a function in which examples of a batch influence each other.

    It is traced with a prime number of examples. An intermediate value that depends on
    the images, reaches the result, and has no axis of that length (or a multiple: axes
    may be merged) is a sum, mean or choice over examples. Nothing is computed. A
    function that moves examples around without such a value is not caught.

    Args:
        apply_fn: `apply_fn(params, images)`, result of any shape.
        params: Parameters, or their shapes.
        image: Shape and dtype of one example; one or a tree of them.

    Raises:
        ValueError: If they do.
    """
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((_ROWS, *leaf.shape), leaf.dtype), image
    )
    jaxpr = jax.make_jaxpr(apply_fn)(params, batch).jaxpr
    on_images = jaxpr.invars[len(jaxpr.invars) - len(jax.tree.leaves(batch)) :]
    mixed = _mixing(jaxpr, {*on_images}, set(jaxpr.outvars))
    if mixed is not None:
        raise ValueError(
            f"examples of a batch influence each other: {mixed} reduces over them, so "
            "that the gradient of one example is not defined. Batch normalisation in "
            "training mode does that: use its running statistics, as in evaluation "
            "mode (from_linen with train=False or use_running_average=True, from_nnx)"
        )


def _mixing(jaxpr: Any, on_images: set[Any], wanted: set[Any]) -> str | None:
    """Name the first operation that loses the batch; None if there is none.

    Args:
        jaxpr: To be searched, inner ones included.
        on_images: Variables that depend on the images; completed here.
        wanted: Variables that the result needs.
    """
    live = set(wanted)
    needed = []
    for equation in reversed(jaxpr.eqns):
        if live & set(equation.outvars):
            live |= {v for v in equation.invars if not isinstance(v, Literal)}
            needed.append(equation)
    for equation in reversed(needed):
        depends = [
            not isinstance(atom, Literal) and atom in on_images
            for atom in equation.invars
        ]
        if not any(depends):
            continue
        name = _INNER.get(equation.primitive)
        if name is not None:
            inner = equation.params[name]
            inner = getattr(inner, "jaxpr", inner)
            begun = {
                variable
                for variable, on in zip(inner.invars, depends, strict=True)
                if on
            }
            reached = {
                inside
                for inside, outside in zip(inner.outvars, equation.outvars, strict=True)
                if outside in live and not isinstance(inside, Literal)
            }
            found = _mixing(inner, begun, reached)
            if found is not None:
                return found
            on_images |= {
                outside
                for inside, outside in zip(inner.outvars, equation.outvars, strict=True)
                if not isinstance(inside, Literal) and inside in begun
            }
            continue
        for variable in equation.outvars:
            on_images.add(variable)
            sides = variable.aval.shape
            if variable in live and not any(s and s % _ROWS == 0 for s in sides):
                return equation.primitive.name
    return None
