"""Examples that are in one batch several times, of which only the last row counts."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int32


def only_last(targets: Int32[Array, " b"], outside: int) -> Int32[Array, " b"]:
    """Return where each row is written, its target or, if a later one has it, nowhere.

    Which of two equal targets a scatter leaves is the back end's choice, table by
    table, so only the last one may stay. A stable sort puts equal targets next to each
    other in the order of their rows: b log b comparisons, and no table of all examples.

    Args:
        targets: Where each row of a batch would be written.
        outside: Stands for nowhere.
    """
    ordered, rows = lax.sort_key_val(targets, jnp.arange(targets.size), is_stable=True)
    again = jnp.append(ordered[:-1] == ordered[1:], False)
    kept = jnp.where(again, outside, ordered)
    return targets.at[rows].set(kept, unique_indices=True)
