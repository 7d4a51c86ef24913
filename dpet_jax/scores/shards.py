"""What `jax.shard_map` asks of arrays that meet in a loop or in a derivative.

It knows of each array over which mesh axes its values vary. A loop's carry must vary
alike before and after, and the derivative by what does not vary is summed over all
devices: an example's gradient by replicated parameters would be that of all.
"""

from typing import Any

import jax
from jax import lax


def axes_of(tree: Any) -> frozenset[str]:
    """Return the manual mesh axes over which any leaf varies; shapes will do."""
    axes: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(tree):
        is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
        kind = (leaf if is_shape else jax.typeof(leaf)).manual_axis_type
        axes |= frozenset() if kind is None else kind.varying
    return axes


def varying(tree: Any, axes: frozenset[str]) -> Any:
    """Let all leaves vary over these axes: nothing is computed, or sent."""

    def cast(leaf):
        missing = tuple(sorted(axes - axes_of(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def alike(*trees: Any) -> tuple[Any, ...]:
    """Let all leaves of all trees vary over the same axes."""
    return varying(trees, axes_of(trees))
