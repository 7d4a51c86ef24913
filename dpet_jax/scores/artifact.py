"""The importance score exactly as the DPET authors' code computes it.

For `compat: artifact`. That code adds to a quantity that is small for uncertain
examples the distance between one-hot label and raw LOGITS, and takes the smallest sums;
so it prefers examples that are uncertain yet close to their label, and the length of
the logits decides most of the ranking. Here the sum is negated: larger means selected
first.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dpet_jax.scores.arrays import (
    Label,
    Logits,
    Score,
    ScoreFn,
    known_class,
    vector_of_one,
)
from dpet_jax.scores.scale import length


def artifact_importance(
    logits: Logits, label: Label, *, score: str, dissimilarity: str
) -> Score:
    """Score one example by the negated sum of the authors' two quantities.

    Uncertainty: p_1 - p_2 (margin), sum p log(p + 1e-6) (entropy) or the largest logit
    (least confidence). Dissimilarity: 0 (none), ||y - logits||_2 (euclidean), or what
    PyTorch's kl_div returns when it is given logits where log-probabilities belong,
    which is -logit_y (kl).

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k); any other scores NaN where a dissimilarity reads it.
        score: "margin", "entropy" or "least_confidence".
        dissimilarity: "none", "euclidean" or "kl".

    Returns:
        Unbounded; comparable only within one choice of score and dissimilarity.

    Source:
        Scala, Flesca & Pontieri (2024), code of "Play it straight".
    """
    logits = vector_of_one(logits, "logits")
    p = jax.nn.softmax(logits)
    if score == "margin":
        likeliest = jnp.arange(p.shape[-1]) == jnp.argmax(p)
        certainty = jnp.max(p) - jnp.max(jnp.where(likeliest, -1.0, p))
    elif score == "entropy":
        certainty = jnp.sum(p * jnp.log(p + 1e-6))
    else:
        certainty = jnp.max(logits)
    if dissimilarity == "none":
        return -certainty
    label, one = known_class(label, logits.shape[0])
    if dissimilarity == "euclidean":
        one_hot = jax.nn.one_hot(label, logits.shape[0], dtype=jnp.float32)
        return -(certainty + length(one_hot - logits)) * one
    return -(certainty - logits[label]) * one


def _kernel(score: str, dissimilarity: str) -> ScoreFn:
    kernel = partial(artifact_importance, score=score, dissimilarity=dissimilarity)
    beside = "" if dissimilarity == "none" else f" and {dissimilarity} distance"
    kernel.__doc__ = (
        f"The DPET authors' formula: {score.replace('_', ' ')}{beside}."  # dpet list
    )
    return kernel


artifact_margin_none = _kernel("margin", "none")
artifact_margin_euclidean = _kernel("margin", "euclidean")
artifact_margin_kl = _kernel("margin", "kl")
artifact_entropy_none = _kernel("entropy", "none")
artifact_entropy_euclidean = _kernel("entropy", "euclidean")
artifact_entropy_kl = _kernel("entropy", "kl")
artifact_least_confidence_none = _kernel("least_confidence", "none")
artifact_least_confidence_euclidean = _kernel("least_confidence", "euclidean")
artifact_least_confidence_kl = _kernel("least_confidence", "kl")
