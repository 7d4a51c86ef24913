"""Examples that are in one batch several times, of which only the last row counts."""

import jax.numpy as jnp
from jaxtyping import Array, Int32


def only_last(targets: Int32[Array, " b"], outside: int) -> Int32[Array, " b"]:
    """Return where each row is written: its target or, if a later one has it, outside.

    Which of two equal targets a scatter leaves is the back end's choice, table by
    table, so only the last one may stay. The largest row of each target is the same in
    whatever order they come. It takes a table of the examples while it lasts, and time
    that grows as the batch does; a sort would need no table, and longer.

    Args:
        targets: Where each row of a batch would be written, from 0 to `outside`.
        outside: Past the last place, and stands for nowhere.
    """
    rows = jnp.arange(targets.size)
    last = jnp.zeros(outside + 1, rows.dtype).at[targets].max(rows)
    return jnp.where(last[targets] == rows, targets, outside)
