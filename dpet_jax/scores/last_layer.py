"""Gradients of one example's loss by the last layer, without forming them.

For logits z = W'h + b the cross-entropy's gradient by W is the outer product of the
features h and the error p - y, and by b the error itself. Lengths and inner products of
such gradients need only h and p - y: d + k numbers instead of (d + 1) k.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from dpet_jax.scores.arrays import Features, Label, Logits, Score, vector_of_one
from dpet_jax.scores.error import el2n
from dpet_jax.scores.factors import inner_products, last_layer_gradients, scaled
from dpet_jax.scores.scale import exponent, times_two_to, unordinary


def grand_last_layer(logits: Logits, label: Label, features: Features) -> Score:
    """Score one example by the length of its gradient by the last layer.

    ||p - y||_2 sqrt(1 + ||h||_2^2) with p = softmax(logits), y the one-hot label and h
    the features that the layer reads; the 1 is the bias. 0 when right with certainty,
    unbounded above. The paper takes the gradient by all parameters and averages it over
    about ten networks early in training; its common short cut, and this kernel, takes
    the last layer of one.

    Args:
        logits: Finite unnormalised log-probabilities of one example.
        label: Class in [0, k); any other scores NaN.
        features: Penultimate features of the example.

    Returns:
        Euclidean length, at least `el2n` of the same example.

    Source:
        Paul, Ganguli & Dziugaite (2021), "Deep Learning on a Data Diet", section 2.
    """
    features = vector_of_one(features, "features")
    power = unordinary(exponent(jnp.max(jnp.abs(features), initial=0.0)))
    power = jnp.maximum(power, 0)
    one = times_two_to(jnp.float32(1.0), -2 * power)
    large = jnp.sqrt(one + jnp.sum(times_two_to(features, -power) ** 2))
    ordinary = jnp.sqrt(1.0 + jnp.sum(features**2))
    lengths = jnp.where(power == 0, ordinary, large)
    return times_two_to(el2n(logits, label) * lengths, power)


def last_layer_gram(
    logits: Float[Array, "n k"],
    labels: Int[Array, " n"],
    features: Float[Array, "n d"],
) -> Float32[Array, "n n"]:
    """Compute all inner products of the examples' gradients by the last layer.

    (D D') * (1 + H H'), an elementwise product, where D holds the rows p - y and H the
    features: exactly the Gram matrix of the gradients by kernel and bias, each of them
    (d + 1) k long.

    Args:
        logits: Finite unnormalised log-probabilities.
        labels: Class of each, in [0, k).
        features: Penultimate features.

    Returns:
        Symmetric; its diagonal is `grand_last_layer` squared. It holds n^2 numbers.

    Source:
        Mirzasoleiman, Bilmes & Leskovec (2020), "Coresets for Data-efficient Training
        of Machine Learning Models", section 3.4, for the use of such gradients; the
        factors follow from their being outer products.
    """
    gradients, power = scaled(last_layer_gradients(logits, labels, features))
    products = inner_products(gradients, gradients)
    return times_two_to(times_two_to(products, power), power)
