"""Gradients of examples by the last layer, kept as factors.

The gradient of one example by the last layer is the outer product of its error p - y
(k numbers) and its features with a 1 for the bias (d + 1). Selectors need its inner
products alone, so the (d + 1) k numbers are never formed: n k + n d instead.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from dpet_jax.scores.error import error_vector
from dpet_jax.scores.scale import (
    ORDINARY,
    ZERO,
    exponent,
    times_two_to,
    unordinary,
)


class Gradients(NamedTuple):
    """Gradients by the last layer of n examples.

    Attributes:
        errors: Rows p - y; the gradient by the bias.
        features: Rows h, that the last layer reads.
    """

    errors: Float32[Array, "n k"]
    features: Float32[Array, "n d"]


class ScaledGradients(NamedTuple):
    """Gradients whose squares fit float32.

    Attributes:
        errors: As in `Gradients`, by powers of two larger or smaller.
        features: The same.
        bias: What stands beside the features in place of the 1 for the bias.
    """

    errors: Float32[Array, "n k"]
    features: Float32[Array, "n d"]
    bias: Float32[Array, " n"]


Factors: TypeAlias = Gradients | ScaledGradients


def last_layer_gradients(
    logits: Float[Array, "n k"],
    labels: Int[Array, " n"],
    features: Float[Array, "n d"],
) -> Gradients:
    """Return the gradients of the cross-entropy by the last layer, as factors.

    Args:
        logits: Finite unnormalised log-probabilities.
        labels: Class of each, in [0, k); any other gives a row of NaN.
        features: Penultimate features.

    Raises:
        ValueError: If these are not n rows each.
    """
    shapes = jnp.shape(logits), jnp.shape(labels), jnp.shape(features)
    if [len(shape) for shape in shapes] != [2, 1, 2] or len({s[0] for s in shapes}) > 1:
        raise ValueError(
            "last_layer_gradients takes logits [n, k], labels [n] and features "
            f"[n, d], not {', '.join(map(str, shapes))}"
        )
    errors = jax.vmap(error_vector)(logits, labels)
    return Gradients(errors, features.astype(jnp.float32))


def without(gradients: Any, allowed: Bool[Array, " n"]) -> Any:
    """Blank the rows that do not count, which may hold anything."""

    def blank(leaf):
        return jnp.where(allowed.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    return jax.tree.map(blank, gradients)


def with_bias(gradients: Gradients) -> ScaledGradients:
    """Write down the 1 beside the features, where the rest is scaled."""
    ones = jnp.ones(gradients.errors.shape[0], jnp.float32)
    return ScaledGradients(*gradients, ones)


def scaled(gradients: Gradients) -> tuple[ScaledGradients, Int32[Array, ""]]:
    """Scale gradients by one power of two such that their squares fit float32.

    Features of a row, and the 1 beside them, are divided by a power of two where they
    are large, and the errors multiplied by it.

    Returns:
        The gradients divided by 2^power, and the power; 0 where all are ordinary.
    """
    errors, features = gradients
    of_errors, of_features = exponents(gradients)
    balance = jnp.where(of_features > ORDINARY, of_features, 0)
    lengths = of_errors + jnp.maximum(of_features, 0)
    power = unordinary(jnp.max(jnp.where(of_errors > ZERO, lengths, ZERO)))
    errors = times_two_to(errors, (balance - power)[:, None])
    return _balanced(errors, features, balance), power


def scaled_rows(gradients: Gradients) -> ScaledGradients:
    """Scale each gradient by a power of two of its own, for what asks directions alone.

    Lengths come near 1 where they were not ordinary; those of length 0 stay 0.
    """
    errors, features = gradients
    of_errors, of_features = exponents(gradients)
    balance = jnp.where(of_features > ORDINARY, of_features, 0)
    errors = times_two_to(errors, -unordinary(of_errors)[:, None])
    return _balanced(errors, features, balance)


def _balanced(errors, features, balance) -> ScaledGradients:
    bias = times_two_to(jnp.ones_like(balance, jnp.float32), -balance)
    return ScaledGradients(errors, times_two_to(features, -balance[:, None]), bias)


def exponents(gradients: Gradients) -> tuple[Int32[Array, " n"], Int32[Array, " n"]]:
    """Return the exponents of the largest error and the largest feature of each row."""
    errors, features = (
        exponent(jnp.max(jnp.abs(rows), axis=1, initial=0.0)) for rows in gradients
    )
    return errors, features


def inner_products(left: Factors, right: Factors) -> Float32[Array, "n m"]:
    """Compute all inner products of two sets: (D D') * (1 + H H'), elementwise."""
    ones: Any = 1.0
    if isinstance(left, ScaledGradients) and isinstance(right, ScaledGradients):
        ones = left.bias[:, None] * right.bias[None]
    similar = ones + _matmul(left.features, right.features.T)
    return _matmul(left.errors, right.errors.T) * similar


def squared_lengths(gradients: Factors) -> Float32[Array, " n"]:
    """Compute ||p - y||^2 (1 + ||h||^2) for each."""
    of_errors = jnp.sum(jnp.square(gradients.errors), axis=1)
    ones: Any = 1.0
    if isinstance(gradients, ScaledGradients):
        ones = jnp.square(gradients.bias)
    return of_errors * (ones + jnp.sum(jnp.square(gradients.features), axis=1))


def unit_gradients(gradients: Factors) -> Factors:
    """Scale each gradient to length 1; those of length 0 stay 0."""
    squared = squared_lengths(gradients)[:, None]
    safe = jnp.where(squared > 0, squared, 1.0)
    return gradients._replace(errors=gradients.errors / jnp.sqrt(safe))


def cosine_similarity(left: Gradients, right: Gradients) -> Float32[Array, "n m"]:
    """Compute 1/2 + 1/2 cos of all pairs, in [0, 1]."""
    units = (unit_gradients(scaled_rows(each)) for each in (left, right))
    cosines = inner_products(*units)
    return 0.5 + 0.5 * jnp.clip(cosines, -1.0, 1.0)


def distances(left: Factors, right: Factors) -> Float32[Array, "n m"]:
    """Compute all Euclidean distances."""
    products = inner_products(left, right)
    squared = squared_lengths(left)[:, None] + squared_lengths(right)[None]
    return jnp.sqrt(jnp.maximum(squared - 2.0 * products, 0.0))


def weighted_sum(
    gradients: Factors, weights: Float32[Array, " n"]
) -> Float32[Array, "k e"]:
    """Add gradients up: a matrix [k, d + 1], the bias in its first column."""
    weighted = gradients.errors * weights[:, None]
    of_bias = weighted
    if isinstance(gradients, ScaledGradients):
        of_bias = weighted * gradients.bias[:, None]
    summed = jnp.sum(of_bias, axis=0)[:, None]
    return jnp.concatenate([summed, _matmul(weighted.T, gradients.features)], axis=1)


def products_with(
    gradients: Factors, matrix: Float32[Array, "k e"]
) -> Float32[Array, " n"]:
    """Compute the inner product of each gradient with one, as `weighted_sum` gives."""
    projected = _matmul(gradients.errors, matrix)
    of_bias = projected[:, 0]
    if isinstance(gradients, ScaledGradients):
        of_bias = of_bias * gradients.bias
    return of_bias + jnp.sum(projected[:, 1:] * gradients.features, axis=1)


def _matmul(left, right):
    # accelerators would multiply float32 matrices with 10 bits of mantissa
    return jnp.matmul(left, right, precision="highest")
