"""Forgetting events of an example during training, and mean scores of several runs.

Losses, hits and counts of all examples are tables that the training step fills as it
goes; nothing here needs a forward pass of its own.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpet_jax.scores.arrays import Score, Scores
from dpet_jax.scores.scale import exponent, times_two_to, unordinary

#: Count of an example that was never predicted right.
NEVER_LEARNED = -1


def count_forgetting(
    count: Int[Array, ""], was_correct: Bool[Array, ""], correct: Bool[Array, ""]
) -> Int[Array, ""]:
    """Count what one more training visit of an example shows.

    An example is forgotten when it was predicted right at a visit and wrong at its next
    one, each time by the parameters before that visit's update. Visits of other
    examples in between do not matter.

    Args:
        count: Times it was forgotten so far, or `NEVER_LEARNED`.
        was_correct: Whether its last visit predicted it right; False before the first.
        correct: Whether this visit does.

    Returns:
        The count after the visit.

    Source:
        Toneva et al. (2019), "An Empirical Study of Example Forgetting during Deep
        Neural Network Learning", section 3.
    """
    learned = jnp.maximum(count, 0)
    return jnp.where(correct, learned, count + was_correct.astype(count.dtype))


def forgetting(count: Int[Array, ""]) -> Score:
    """Score one example by how often training forgot it.

    An example that was never learned scores infinity: it still has everything to teach.
    Peers that begin at 0 rank it with those that are never forgotten, and drop it
    first.

    Args:
        count: What `count_forgetting` has counted.

    Returns:
        Forgetting events, at least 0; infinity if never learned.

    Source:
        Toneva et al. (2019), "An Empirical Study of Example Forgetting during Deep
        Neural Network Learning", section 4.
    """
    return jnp.where(count == NEVER_LEARNED, jnp.inf, count.astype(jnp.float32))


def ensemble_mean(scores: Float[Array, "r n"]) -> Scores:
    """Average the scores of several runs over seeds, example by example.

    The mean is over the runs in which the score is finite, so that one seed which never
    learned an example does not outweigh all others.

    Args:
        scores: One row for each of r runs, at least one.

    Returns:
        The mean of each example; infinity only where it is infinite in every run, and
        NaN where any run has NaN.

    Raises:
        ValueError: If there is no run.
    """
    if jnp.ndim(scores) != 2 or not len(scores):
        raise ValueError(
            f"scores are those of some runs, [r, n], not of shape {jnp.shape(scores)}"
        )
    scores = jnp.asarray(scores).astype(jnp.float32)
    finite = jnp.isfinite(scores)
    runs = jnp.sum(finite, axis=0)
    kept = jnp.where(finite, scores, 0.0)
    # a sum may overflow where a mean does not
    power = unordinary(exponent(jnp.max(jnp.abs(kept), axis=0)))
    total = jnp.sum(times_two_to(kept, -power[None]), axis=0)
    mean = times_two_to(total / jnp.maximum(runs, 1).astype(jnp.float32), power)
    averaged = (runs > 0) & ~jnp.isnan(scores).any(axis=0)
    # the largest of what has no mean: NaN before anything, else the one infinity
    return jnp.where(averaged, mean, jnp.max(scores, axis=0))
