"""How unsure the model is about one example; the label is ignored.

A kernel maps the logits and label of ONE example to one float32; callers `jax.vmap`.
For every kernel larger means more informative. Arrays of any other rank raise
ValueError; the numbers are computed in float32, whatever the dtype of the logits.
"""

import jax.numpy as jnp

from dpet_jax.scores.arrays import Label, Logits, Score
from dpet_jax.scores.softmax import gaps_below_best, weights_beside


def margin(logits: Logits, label: Label | None = None) -> Score:
    """Score one example by how little its two likeliest classes differ.

    1 - (p_1 - p_2), where p_1 >= p_2 are the two largest softmax probabilities: 1 for a
    tie, 0 for certainty. The literature ranks p_1 - p_2 in ascending order; the
    complement is returned so that larger is more informative, as for every kernel. It
    is summed as p_2 and all probabilities but p_1, so that it keeps its digits near 0.

    Args:
        logits: Unnormalised log-probabilities of one example; minus infinity is a
            probability of 0.
        label: Ignored; all kernels share one signature.

    Returns:
        Complement of the probability margin, in [0, 1].

    Raises:
        ValueError: If there are fewer than two classes; raised while tracing.

    Source:
        Scheffer, Decomain & Wrobel (2001), "Active Hidden Markov Models for
        Information Extraction"; Settles (2009), "Active Learning Literature Survey".
    """
    del label
    gaps = gaps_below_best(logits)
    if gaps.shape[0] < 2:
        raise ValueError(f"margin needs at least 2 classes, got {gaps.shape[0]}")
    others, total = weights_beside(gaps, jnp.argmin(gaps))
    return (jnp.sum(others) + jnp.max(others)) / total


def entropy(logits: Logits, label: Label | None = None) -> Score:
    """Score one example by the entropy of its predicted class distribution.

    H(p) = -sum_k p_k log p_k with p = softmax(logits): 0 when the model is certain,
    log k when it is undecided between all k classes. Summed in float32 as
    log(1 + sum w) + sum p_k (z_1 - z_k) with w = exp(z_k - z_1) over all classes but
    the likeliest: no term is negative, so it keeps its digits near 0 and needs no
    epsilon.

    Args:
        logits: Unnormalised log-probabilities of one example; minus infinity is a
            probability of 0.
        label: Ignored; all kernels share one signature.

    Returns:
        Entropy in nats, in [0, log k].

    Source:
        Settles (2009), "Active Learning Literature Survey", section 3.1.
    """
    del label
    gaps = gaps_below_best(logits)
    others, total = weights_beside(gaps, jnp.argmin(gaps))
    # 0 log 0 is 0, also where a logit is minus infinity
    gaps = jnp.where(others > 0.0, gaps, 0.0)
    return jnp.log1p(jnp.sum(others)) + jnp.sum(others * gaps) / total


def least_confidence(logits: Logits, label: Label | None = None) -> Score:
    """Score one example by what its likeliest class leaves to all others.

    1 - max_k p_k with p = softmax(logits), summed over the other classes so that it
    keeps its digits near 0. Peers rank by the largest raw logit instead, which orders
    examples differently; see `dpet_jax.scores.artifact`.

    Args:
        logits: Unnormalised log-probabilities of one example; minus infinity is a
            probability of 0.
        label: Ignored; all kernels share one signature.

    Returns:
        Probability mass outside the likeliest class, in [0, 1 - 1/k].

    Source:
        Lewis & Gale (1994), "A Sequential Algorithm for Training Text Classifiers";
        Settles (2009), section 3.1.
    """
    del label
    gaps = gaps_below_best(logits)
    others, total = weights_beside(gaps, jnp.argmin(gaps))
    return jnp.sum(others) / total
