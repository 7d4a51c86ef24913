"""Gradients of examples by the last layer, kept as factors.

The gradient of one example by the last layer is the outer product of its error p - y
(k numbers) and its features with a 1 for the bias (d + 1). Selectors need its inner
products alone, so the (d + 1) k numbers are never formed: n k + n d instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from dpet_jax.scores.error import error_vector


class Gradients(NamedTuple):
    """Gradients by the last layer of n examples.

    Attributes:
        errors: Rows p - y; the gradient by the bias.
        features: Rows h, that the last layer reads.
    """

    errors: Float32[Array, "n k"]
    features: Float32[Array, "n d"]


def last_layer_gradients(
    logits: Float[Array, "n k"],
    labels: Int32[Array, " n"],
    features: Float[Array, "n d"],
) -> Gradients:
    """Return the gradients of the cross-entropy by the last layer, as factors.

    Args:
        logits: Finite unnormalised log-probabilities.
        labels: Class of each, in [0, k).
        features: Penultimate features.
    """
    errors = jax.vmap(error_vector)(logits, labels)
    return Gradients(errors, features.astype(jnp.float32))


def inner_products(left: Gradients, right: Gradients) -> Float32[Array, "n m"]:
    """Compute all inner products of two sets: (D D') * (1 + H H'), elementwise."""
    similar = 1.0 + _matmul(left.features, right.features.T)
    return _matmul(left.errors, right.errors.T) * similar


def squared_lengths(gradients: Gradients) -> Float32[Array, " n"]:
    """Compute ||p - y||^2 (1 + ||h||^2) for each."""
    of_errors = jnp.sum(jnp.square(gradients.errors), axis=1)
    return of_errors * (1.0 + jnp.sum(jnp.square(gradients.features), axis=1))


def unit_gradients(gradients: Gradients) -> Gradients:
    """Scale each gradient to length 1; those of length 0 stay 0."""
    squared = squared_lengths(gradients)[:, None]
    safe = jnp.where(squared > 0, squared, 1.0)
    return gradients._replace(errors=gradients.errors / jnp.sqrt(safe))


def cosine_similarity(left: Gradients, right: Gradients) -> Float32[Array, "n m"]:
    """Compute 1/2 + 1/2 cos of all pairs, in [0, 1]."""
    cosines = inner_products(unit_gradients(left), unit_gradients(right))
    return 0.5 + 0.5 * jnp.clip(cosines, -1.0, 1.0)


def distances(left: Gradients, right: Gradients) -> Float32[Array, "n m"]:
    """Compute all Euclidean distances."""
    products = inner_products(left, right)
    squared = squared_lengths(left)[:, None] + squared_lengths(right)[None]
    return jnp.sqrt(jnp.maximum(squared - 2.0 * products, 0.0))


def weighted_sum(
    gradients: Gradients, weights: Float32[Array, " n"]
) -> Float32[Array, "k e"]:
    """Add gradients up: a matrix [k, d + 1], the bias in its first column."""
    weighted = gradients.errors * weights[:, None]
    of_bias = jnp.sum(weighted, axis=0)[:, None]
    return jnp.concatenate([of_bias, _matmul(weighted.T, gradients.features)], axis=1)


def products_with(
    gradients: Gradients, matrix: Float32[Array, "k e"]
) -> Float32[Array, " n"]:
    """Compute the inner product of each gradient with one, as `weighted_sum` gives."""
    projected = _matmul(gradients.errors, matrix)
    return projected[:, 0] + jnp.sum(projected[:, 1:] * gradients.features, axis=1)


def _matmul(left, right):
    # accelerators would multiply float32 matrices with 10 bits of mantissa
    return jnp.matmul(left, right, precision="highest")
