"""How wrong the model is about one example, given its label.

The signature, the direction and what is refused are those of
`dpet_jax.scores.uncertainty`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from dpet_jax.scores.arrays import (
    Label,
    Logits,
    Score,
    known_class,
    vector_of_one,
)
from dpet_jax.scores.softmax import gaps_below_best, weights_beside


def cross_entropy(logits: Logits, label: Label) -> Score:
    """Score one example by its loss.

    -log p_y with p = softmax(logits): 0 when the label is predicted with certainty,
    unbounded above. As a dissimilarity it is the Kullback-Leibler divergence of the
    prediction from the one-hot label.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k); any other scores NaN.

    Returns:
        Cross-entropy in nats, at least 0.
    """
    gaps = gaps_below_best(logits)
    label, one = known_class(label, gaps.shape[0])
    others, _ = weights_beside(gaps, jnp.argmin(gaps))
    return (gaps[label] + jnp.log1p(jnp.sum(others))) * one


def error_vector(logits: Logits, label: Label) -> Float32[Array, " k"]:
    """Return p - y, the gradient of the cross-entropy by the logits.

    p = softmax(logits), y the one-hot label. The label's entry is summed from the other
    classes, so that a confident and right prediction keeps its digits.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k); any other scores NaN.

    Returns:
        Entries in [-1, 1] that add up to 0.
    """
    error, one = _error_of_class(gaps_below_best(logits), label)
    return error * one


def _error_of_class(gaps, label):
    """Return the error vector and the factor of `known_class`, for the end result."""
    label, one = known_class(label, gaps.shape[0])
    others, total = weights_beside(gaps, label)
    p = others / total
    mine = jnp.arange(p.shape[0], dtype=jnp.int32) == label
    return jnp.where(mine, -jnp.sum(p), p), one


def el2n(logits: Logits, label: Label) -> Score:
    """Score one example by the length of its error vector.

    ||p - y||_2 with p = softmax(logits) and y the one-hot label: 0 when right with
    certainty, sqrt(2) when wrong with certainty. The paper averages it over about ten
    networks early in training; this kernel scores one network.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k); any other scores NaN.

    Returns:
        Euclidean length, in [0, sqrt(2)].

    Source:
        Paul, Ganguli & Dziugaite (2021), "Deep Learning on a Data Diet", section 2.
    """
    error, one = _error_of_class(gaps_below_best(logits), label)
    largest = jnp.max(jnp.abs(error))
    # squares of errors under 1e-19 would vanish in float32
    length = largest * jnp.linalg.norm(error / jnp.where(largest > 0.0, largest, 1.0))
    return length * one


def label_margin(logits: Logits, label: Label) -> Score:
    """Score one example by how little its label stands out from the other classes.

    1 - (p_y - max_{j != y} p_j) with p = softmax(logits): 0 when the label is predicted
    with certainty, 1 where the likeliest other class is as likely, 2 when another class
    is predicted with certainty. It is summed from the other classes, so that it keeps
    its digits near 0.

    Args:
        logits: Unnormalised log-probabilities of one example; minus infinity is a
            probability of 0.
        label: Class in [0, k); any other scores NaN.

    Returns:
        Complement of the label's margin, in [0, 2].
    """
    gaps = gaps_below_best(logits)
    label, one = known_class(label, gaps.shape[0])
    others, total = weights_beside(gaps, label)
    return (jnp.sum(others) + jnp.max(others)) / total * one


def zero_one(logits: Logits, label: Label) -> Score:
    """Score one example by whether it is misclassified: 1 if so, else 0.

    Its mean is one minus the accuracy.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k); any other scores NaN.

    Returns:
        0 or 1; NaN where a logit is, so that a diverged model never counts as right.
    """
    logits = vector_of_one(logits, "logits")
    label, one = known_class(label, logits.shape[0])
    wrong = (jnp.argmax(logits).astype(jnp.int32) != label).astype(jnp.float32)
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, wrong * one)
