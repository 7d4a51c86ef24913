"""How wrong the model is about one example, given its label.

The signature and the direction are those of `dpet_jax.scores.uncertainty`.
"""

import jax
import jax.numpy as jnp

from dpet_jax.arrays import Label, Logits, Score


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
    return -jax.nn.log_softmax(logits.astype(jnp.float32))[label]


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
    p = jax.nn.softmax(logits.astype(jnp.float32))
    return jnp.linalg.norm(p - jax.nn.one_hot(label, logits.shape[-1]))


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
