"""Axis letters and array types that every module uses.

`n` examples in the data set, `m` of them in an index set, `b` in a batch, `k` classes,
`h w c` image height, width and channels, `d` features.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import primitives as prim
from jaxtyping import Array, Float, Float32, Int, Int32

Logits: TypeAlias = Float[Array, " k"]
Label: TypeAlias = Int[Array, ""]
Features: TypeAlias = Float[Array, " d"]
Score: TypeAlias = Float32[Array, ""]
Scores: TypeAlias = Float32[Array, " n"]

ScoreFn: TypeAlias = Callable[[Logits, Label], Score]
FeatureScoreFn: TypeAlias = Callable[[Logits, Label, Features], Score]


def num_examples(inputs: Any, labels: Any) -> int:
    """Return the length that all inputs and the labels share.

    Args:
        inputs: An array with a row for each example, or a tree of them.
        labels: A class for each, or None.

    Raises:
        ValueError: If they share none, or if the labels are no vector of integers.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    if labels is not None:
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
            raise ValueError(
                "labels are one integer for each example, not an array of shape "
                f"{labels.shape} and dtype {labels.dtype}"
            )
        shapes.append(labels.shape)
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            "inputs and labels need one row for each example; their shapes are "
            f"{', '.join(map(str, shapes))}"
        )
    return lengths.pop()


def refuse_label_read(kernel: Callable[..., Any], name: str, *arrays: Any) -> None:
    """Refuse to call a kernel without labels if it reads them.

    Args:
        kernel: Called with logits, a label and, where there are any, features.
        name: What the message calls it.
        arrays: Logits and, where it takes them, features of a batch.

    Raises:
        ValueError: If its result depends on the label.
    """
    shapes = [jax.ShapeDtypeStruct(one.shape[1:], one.dtype) for one in arrays]
    label = jax.ShapeDtypeStruct((), jnp.int32)
    jaxpr = jax.make_jaxpr(kernel)(shapes[0], label, *shapes[1:]).jaxpr
    if _used(jaxpr, jaxpr.invars[1]):
        raise ValueError(f"score {name} reads labels, and labels is None")


def _used(jaxpr: Any, variable: Any) -> bool:
    for equation in jaxpr.eqns:
        for place, atom in enumerate(equation.invars):
            if atom is variable:
                if equation.primitive is not prim.jit_p:
                    return True
                inner = equation.params["jaxpr"].jaxpr
                if _used(inner, inner.invars[place]):
                    return True
    return any(atom is variable for atom in jaxpr.outvars)


def vector_of_one(values: Any, name: str) -> Float32[Array, " d"]:
    """Return the logits or features of ONE example in float32.

    Raises:
        ValueError: If they are those of a batch, or of nothing.
    """
    if jnp.ndim(values) != 1:
        raise ValueError(
            f"{name} of one example are a vector, not an array of shape "
            f"{jnp.shape(values)}; jax.vmap maps a kernel over the examples of a batch"
        )
    return jnp.asarray(values).astype(jnp.float32)


def known_class(label: Any, num_classes: int) -> tuple[Int32[Array, ""], Score]:
    """Return a label to index with, and what the score is multiplied by.

    That is 1, but NaN for a label outside [0, num_classes): an index would silently
    take another class in its place. As a factor it reaches derivatives too.

    Raises:
        ValueError: If it is no integer, or not that of one example.
    """
    label = jnp.asarray(label)
    if label.ndim or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f"the label of one example is an integer, not an array of shape "
            f"{label.shape} and dtype {label.dtype}; jax.vmap maps a kernel over the "
            "examples of a batch"
        )
    known = (label >= 0) & (label < num_classes)
    factor = jnp.where(known, 1.0, jnp.nan).astype(jnp.float32)
    return label.astype(jnp.int32), factor
