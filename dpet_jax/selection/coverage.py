"""Coverage of all examples by picks: the state of greedy facility location.

f(S) = sum_i max_{j in S} s_ij over symmetric similarities s >= 0. The level of an
example is its similarity to the nearest pick, 0 at first; a pick gains what it adds to
the levels. The similarities are rows of a matrix, or computed from factors when they
are asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32

from dpet_jax.selection.picks import Picks, added, no_picks

#: Returns the similarities [b, n] of b examples to all, from what they are read from.
Rows: TypeAlias = Callable[[Any, Int32[Array, " b"]], Float32[Array, "b n"]]

_BUILT_AT_ONCE = 256
_PARTS = 8


class Coverage(NamedTuple):
    """The picks, and which of them is nearest to each example.

    Attributes:
        picks: In greedy order.
        level: Similarity of each example to the nearest pick; infinite for those that
            do not count.
        nearest: The turn of that pick; a pick is nearest to itself.
    """

    picks: Picks
    level: Float32[Array, " n"]
    nearest: Int32[Array, " n"]


def uncovered(allowed: Bool[Array, " n"]) -> Coverage:
    """Return the state before the first pick.

    An infinite level is never raised, so an example that has it counts for nothing.
    """
    n = allowed.shape[0]
    level = jnp.where(allowed, 0.0, jnp.inf)
    return Coverage(no_picks(n), level, jnp.zeros(n, jnp.int32))


def taken(
    covered: Coverage,
    turn: Int32[Array, ""],
    pick: Int32[Array, ""],
    gain: Float32[Array, ""],
    similar: Float32[Array, " n"],
) -> Coverage:
    """Add a pick, given its similarities to all."""
    raised = similar > covered.level
    nearest = jnp.where(raised, turn, covered.nearest).at[pick].set(turn)
    level = jnp.maximum(covered.level, similar)
    return Coverage(added(covered.picks, turn, pick, gain), level, nearest)


def gains_of(
    similar: Float32[Array, "b n"], level: Float32[Array, " n"]
) -> Float32[Array, " b"]:
    """Compute what picks with these similarities would add to the levels."""
    # in parts side by side, for XLA:CPU adds up one number after another
    raised = jnp.maximum(similar - level[None], 0.0)
    width = raised.shape[1] // _PARTS
    parts = [raised[:, part * width : (part + 1) * width] for part in range(_PARTS)]
    rest = raised[:, _PARTS * width :]
    return jnp.sum(sum(parts), axis=1) + jnp.sum(rest, axis=1)


def rows_of_matrix(
    similarity: Float32[Array, "n n"], which: Int32[Array, " b"]
) -> Float32[Array, "b n"]:
    """Read rows of a matrix of similarities."""
    # a gather would be written out before it is used; slices are fused
    return jnp.concatenate(
        [lax.dynamic_slice_in_dim(similarity, one, 1) for one in which]
    )


@partial(jax.jit, static_argnames=("rows", "n"))
def similarity_matrix(rows: Rows, source: Any, n: int) -> Float32[Array, "n n"]:
    """Write all similarities down, a block of rows at a time."""
    block = min(_BUILT_AT_ONCE, n)

    def add(index, matrix):
        start, which = stretch_of(index, block, n)
        return lax.dynamic_update_slice(matrix, rows(source, which), (start, 0))

    return lax.fori_loop(0, -(-n // block), add, jnp.zeros((n, n)))


def stretch_of(
    index: Int32[Array, ""], block: int, n: int
) -> tuple[Int32[Array, ""], Int32[Array, " b"]]:
    """Place blocks one after another; the last one overlaps rather than end short."""
    start = jnp.minimum(index * block, n - block)
    return start, start + jnp.arange(block, dtype=jnp.int32)
