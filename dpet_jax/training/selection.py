"""From scores and outputs on the device to a selection on the host."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import Selection
from dpet_jax.selection.by_name import Examples
from dpet_jax.selection.per_class import per_class
from dpet_jax.selection.ranking import blend, rank, stretch
from dpet_jax.training.transfer import alone, get, put


def importance(
    scores: dict[str, Float32[Array, "capacity ..."]],
    names: tuple[str, ...],
    weight: float,
    sharding: jax.sharding.Sharding,
) -> Float32[Array, " capacity"]:
    """Return one score, or two blended by `blend`.

    Args:
        scores: By name, on the device.
        names: Of the score, or of the score and of the one to blend in.
        weight: Share of the second.
        sharding: Where the weight goes, so that no transfer is implicit.
    """
    if len(names) == 1:
        return scores[names[0]]
    first, second = names
    share = put(np.float32(weight), sharding)
    return blend(scores[first], scores[second], share)


def top_k_on_device(
    values: Float32[Array, " capacity"],
    num_select: int,
    *,
    stretch_size: int,
    sharding: jax.sharding.Sharding,
) -> Selection:
    """Take the largest values; one program for every number of them.

    The ranking stays on the device; only its beginning is read, in stretches of one
    size, so that no number of picks is a program of its own.

    Args:
        values: An importance for each candidate; minus infinity past the last.
        num_select: How many to take.
        stretch_size: Entries of the ranking read at once; divides the capacity.
        sharding: Where positions go, so that no transfer is implicit.

    Returns:
        Positions in `values`, most important first, and their values.

    Raises:
        ValueError: If more are asked for than there are.
        DivergedError: If a value is NaN.
    """
    ranking = rank(values)
    pieces = [
        stretch(ranking, put(np.int32(first), sharding), stretch_size)
        for first in range(0, max(num_select, 1), stretch_size)
    ]
    flags = (ranking.has_nan, ranking.allowed)
    pieces, (has_nan, allowed) = get((pieces, flags))
    if has_nan:
        raise DivergedError("scores of the pool hold NaN")
    if num_select > allowed:
        raise ValueError(f"cannot take {num_select} of {allowed} examples")
    order, gains = (
        np.concatenate(parts)[:num_select] for parts in zip(*pieces, strict=True)
    )
    return Selection(order, gains)


def top_k_per_class(
    ranked: Selection, labels: np.ndarray, num_classes: int, num_select: int
) -> Selection:
    """Take the first of each class, in proportion to the sizes of the classes.

    Args:
        ranked: All candidates, most important first.
        labels: Class of each candidate.
        num_classes: k.
        num_select: How many to take in all.

    Returns:
        Positions of candidates, interleaved so that prefixes keep the proportions.

    Raises:
        ValueError: If more are asked for than there are.
    """
    turn = np.argsort(ranked.indices)

    def first_of(positions: np.ndarray, count: int) -> Selection:
        first = np.argsort(turn[positions])[:count].astype(np.int32)
        return Selection(first, ranked.gains[turn[positions[first]]])

    return per_class(first_of, labels, num_classes, num_select)


def finite_examples(
    outputs: dict[str, Float32[Array, "capacity ..."]],
    labels: np.ndarray,
    num_classes: int,
    sharding: jax.sharding.Sharding,
) -> Examples:
    """Make what selectors read from the outputs of a network.

    Args:
        outputs: Its "logits" and "features", padded past the examples.
        labels: Class of each example.
        num_classes: k.
        sharding: Where counts go, so that no transfer is implicit.

    Raises:
        DivergedError: If an example's output is not finite.
    """
    logits, features = outputs["logits"], outputs["features"]
    if sharding.num_devices > 1:
        # a selector has no batch to share; XLA cannot part all that some are made of
        logits, features = alone(logits), alone(features)
        sharding = logits.sharding
    count = put(np.int32(labels.size), sharding)
    if not get(_all_finite(logits, features, count)):
        raise DivergedError("logits or features of the pool are not finite")
    return Examples(logits, features, np.asarray(labels, np.int32), num_classes)


@jax.jit
def _all_finite(logits, features, count):
    finite = jnp.isfinite(logits).all(axis=1) & jnp.isfinite(features).all(axis=1)
    return jnp.all(finite | (jnp.arange(logits.shape[0]) >= count))
