"""CRAIG: a weighted coreset whose gradient sum approximates that of all examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, Key

from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import (
    Factors,
    Gradients,
    distances,
    squared_lengths,
    without,
)
from dpet_jax.selection.coverage import similarity_matrix
from dpet_jax.selection.greedy import (
    Greedy,
    check_greedy,
    cover,
    exact_cover,
    settled,
)
from dpet_jax.selection.per_class import class_quotas, interleaved
from dpet_jax.selection.per_class import per_class as of_each_class
from dpet_jax.selection.picks import (
    candidates,
    in_range,
    on_the_host,
    selection,
    times_two_to_on_host,
)

# classes whose sizes differ by few share a program
_CAPACITY_STEP = 256


class Closeness(NamedTuple):
    """Gradients, and a length that no distance between two of them exceeds."""

    gradients: Factors
    reach: Float32[Array, ""]


@on_the_host
def craig(
    gradients: Gradients,
    labels: Int[np.ndarray, " n"],
    num_select: int,
    *,
    per_class: bool = True,
    greedy: Greedy = "auto",
    epsilon: float = 0.01,
    key: Key[Array, ""] | None = None,
    memory_limit: int = 2**30,
) -> Selection:
    """Pick medoids of the last-layer gradients, each weighted by its cluster's size.

    Greedy facility location on s_ij = r - ||g_i - g_j||, which makes the sum over i of
    min_{j in S} ||g_i - g_j|| small: an upper bound of the error of the weighted
    gradient sum. r is twice the length of the longest gradient; any r from the largest
    distance up gives the same picks and changes the first gain of a class alone. A
    weight counts the examples nearest to a pick, the pick itself among them and each
    example once, ties to the earlier pick: the weights add up to the number of examples
    in the classes that have a place in the budget.

    Args:
        gradients: As factors; classes are the columns of the errors.
        labels: Class of each example.
        num_select: How many to pick in all.
        per_class: Run inside each class, with places in proportion to class sizes and
            prefixes near these proportions; otherwise over all examples at once, and
            the labels are not looked at.
        greedy: As in `facility_location`. "exact" runs all classes side by side; the
            others go class by class.
        epsilon: As in `facility_location`.
        key: As in `facility_location`; each class draws on its own.
        memory_limit: Bytes that the similarities held at one time may take. Where a
            matrix of them needs more, blocks of rows are computed anew whenever they
            are read; nothing is approximated.

    Returns:
        Picks, each class in greedy order; gains; weights of the whole selection, which
        are not those of a prefix.

    Raises:
        ValueError: If more are asked for than there are, if a factor is not finite, if
            a label is no class, or if an option is unknown or does not fit another.

    Source:
        Mirzasoleiman, Bilmes & Leskovec (2020), "Coresets for Data-efficient Training
        of Machine Learning Models", algorithm 1 and section 3.4.
    """
    n, num_classes = gradients.errors.shape
    check_greedy(greedy, epsilon, key)
    candidates(num_select, None, *gradients)
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"{labels.size} labels of {n} gradients")
    own, power = in_range(gradients, jnp.ones(n, jnp.bool_))
    if not per_class:
        labels, num_classes = np.zeros(n, np.int32), 1
    quotas = class_quotas(labels, num_classes, num_select)
    largest = int(np.bincount(labels, minlength=1).max())
    capacity = -(-largest // _CAPACITY_STEP) * _CAPACITY_STEP
    needed = 4 * len(quotas) * capacity**2
    greedy = settled(greedy, needed, memory_limit)
    if greedy == "exact":
        chosen = _side_by_side(own, labels, quotas, capacity)
        return chosen._replace(gains=times_two_to_on_host(chosen.gains, power))

    def select(positions: np.ndarray, quota: int) -> Selection:
        source, allowed = _problem(own, _filled(positions, capacity))
        covered = cover(
            closeness_rows,
            source,
            allowed,
            quota,
            greedy=greedy,
            epsilon=epsilon,
            key=None if key is None else jax.random.fold_in(key, int(positions[0])),
            memory_limit=memory_limit,
        )
        return _weighted(jax.device_get(covered), quota, positions.size)

    chosen = of_each_class(select, labels, num_classes, num_select)
    return chosen._replace(gains=times_two_to_on_host(chosen.gains, power))


def closeness_rows(
    source: Closeness, which: Int32[Array, " b"]
) -> Float32[Array, "b n"]:
    """Compute r minus the distances of some gradients to all."""
    some = jax.tree.map(lambda factor: factor[which], source.gradients)
    apart = distances(some, source.gradients)
    # rounding would set an example apart from itself
    every = jnp.arange(apart.shape[1], dtype=jnp.int32)
    itself = which[:, None] == every[None]
    apart = jnp.where(itself, 0.0, apart)
    return jnp.maximum(source.reach - apart, 0.0)


@jax.jit
def _problem(gradients, positions):
    """Gather the rows of a class; negative positions are padding."""
    allowed = positions >= 0
    rows = jax.tree.map(lambda factor: factor[positions], gradients)
    gathered = without(rows, allowed)
    longest = jnp.sqrt(jnp.max(squared_lengths(gathered), initial=0.0))
    return Closeness(gathered, 2.0 * longest), allowed


def _filled(positions, capacity):
    filled = np.full(capacity, -1, np.int32)
    filled[: positions.size] = positions
    return filled


def _side_by_side(gradients, labels, quotas, capacity):
    """Run exact greedy over all classes at once."""
    members = [
        np.flatnonzero(labels == one).astype(np.int32) for one in range(len(quotas))
    ]
    filled = np.stack([_filled(positions, capacity) for positions in members])
    covered = jax.device_get(
        _all_classes(gradients, filled, jnp.asarray(quotas, jnp.int32))
    )
    chosen, sizes = [], []
    for one, positions in enumerate(members):
        quota = int(quotas[one])
        if quota:
            picked = _weighted(_one_of(covered, one), quota, positions.size)
            chosen.append(picked._replace(indices=positions[picked.indices]))
            sizes.append(positions.size)
    return interleaved(chosen, sizes)


@jax.jit
def _all_classes(gradients, positions, quotas):
    def of_class(mine, quota):
        source, allowed = _problem(gradients, mine)
        matrix = similarity_matrix(closeness_rows, source, mine.shape[0])
        return exact_cover(matrix, allowed, quota)

    return jax.vmap(of_class)(positions, quotas)


def _one_of(covered, one):
    return jax.tree.map(lambda values: values[one], covered)


def _weighted(covered, quota, size):
    """Weight each pick by the number of examples that it is nearest to."""
    counts = np.bincount(covered.nearest[:size], minlength=quota)
    chosen = selection(covered.picks, quota, size)
    return chosen._replace(weights=counts.astype(np.float32))
