"""How wrong the model is about one example, given its label.

The signature and the direction are those of `dpet_jax.scores.uncertainty`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from dpet_jax.scores.arrays import Label, Logits, Score
from dpet_jax.scores.softmax import gaps_below_best, weights_beside


def cross_entropy(logits: Logits, label: Label) -> Score:
    """Score one example by its loss.

    -log p_y with p = softmax(logits): 0 when the label is predicted with certainty,
    unbounded above. As a dissimilarity it is the Kullback-Leibler divergence of the
    prediction from the one-hot label.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k).

    Returns:
        Cross-entropy in nats, at least 0.
    """
    gaps = gaps_below_best(logits)
    others, _ = weights_beside(gaps, jnp.argmin(gaps))
    return gaps[label] + jnp.log1p(jnp.sum(others))


def error_vector(logits: Logits, label: Label) -> Float32[Array, " k"]:
    """Return p - y, the gradient of the cross-entropy by the logits.

    p = softmax(logits), y the one-hot label. The label's entry is summed from the other
    classes, so that a confident and right prediction keeps its digits.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k).

    Returns:
        Entries in [-1, 1] that add up to 0.
    """
    others, total = weights_beside(gaps_below_best(logits), label)
    p = others / total
    return jnp.where(jnp.arange(p.shape[-1]) == label, -jnp.sum(p), p)


def el2n(logits: Logits, label: Label) -> Score:
    """Score one example by the length of its error vector.

    ||p - y||_2 with p = softmax(logits) and y the one-hot label: 0 when right with
    certainty, sqrt(2) when wrong with certainty. The paper averages it over about ten
    networks early in training; this kernel scores one network.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k).

    Returns:
        Euclidean length, in [0, sqrt(2)].

    Source:
        Paul, Ganguli & Dziugaite (2021), "Deep Learning on a Data Diet", section 2.
    """
    error = error_vector(logits, label)
    largest = jnp.max(jnp.abs(error))
    # squares of errors under 1e-19 would vanish in float32
    return largest * jnp.linalg.norm(error / jnp.where(largest > 0.0, largest, 1.0))


def zero_one(logits: Logits, label: Label) -> Score:
    """Score one example by whether it is misclassified: 1 if so, else 0.

    Its mean is one minus the accuracy.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k).

    Returns:
        0 or 1; NaN where a logit is, so that a diverged model never counts as right.
    """
    wrong = (jnp.argmax(logits) != label).astype(jnp.float32)
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, wrong)
