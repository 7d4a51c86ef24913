"""One forward pass of a network over some images: its features, a head in closed form.

Networks of one body share one compiled program, whatever their classes: the last layer
is left out of it, since it is a small product on the host.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float32, Float64, Int, UInt8

from dpet_jax.data.augment import normalise
from dpet_jax.data.rows import Rows
from dpet_jax.data.view import WHOLE, View
from dpet_jax.models.network import Network
from dpet_jax.models.weights import nest
from dpet_jax.quotas import largest_remainder
from dpet_jax.selection.transfer import MEASURES, PROBABILISTIC
from dpet_jax.training.compilation import compiled

#: Ridge of the closed-form head, over the mean variance of a feature.
RIDGE = 1e-2
#: Streams of randomness, so that draws of one seed are independent of each other.
_STREAM = 21

Head = dict[str, np.ndarray]


class Normalisation(NamedTuple):
    """How pixels in [0, 1] become inputs.

    Attributes:
        mean: Subtracted, by channel.
        std: Divided by, by channel.
    """

    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]


@dataclass(frozen=True)
class _Body:
    """What the program of a forward pass is specialised to."""

    network: Network
    dtype: str
    view: View


@partial(jax.jit, static_argnames="body")
def _features(
    body: _Body,
    params: Any,
    stats: Any,
    images: UInt8[Array, "b h w c"],
    mean: Float32[Array, " c"],
    std: Float32[Array, " c"],
) -> Float32[Array, "b d"]:
    network = body.network
    folded = network.fold(params, stats)
    inputs = normalise(body.view.of(images), mean, std)
    features = network.apply_folded(folded, inputs, dtype=body.dtype).features
    assert features is not None, "a network with a head reads features"
    return features


class Probe:
    """A network, ready to give the features of images.

    Args:
        network: One that says which parameters are its last layer's.
        arrays: Its arrays by flat names.
        normalisation: Of its inputs.
        dtype: Name of the dtype to compute in.
        batch_size: Images of one pass; the last is filled up.
        compiling: Opens the window in which the program is made.
        view: What of each image it sees.

    Attributes:
        images_done: Images passed through, fill rows included.
    """

    def __init__(
        self,
        network: Network,
        arrays: dict[str, np.ndarray],
        normalisation: Normalisation,
        dtype: str,
        batch_size: int,
        compiling: Callable[[], AbstractContextManager[Any]] = nullcontext,
        view: View = WHOLE,
    ) -> None:
        assert network.head is not None
        tree = nest(arrays)
        params = dict(tree["params"])
        self.head: Head = params.pop(network.head)
        width = self.head["kernel"].shape[0]
        # the same for all of one body, and the features do not hang on it
        params[network.head] = {
            "kernel": np.zeros((width, 2), np.float32),
            "bias": np.zeros(2, np.float32),
        }
        self._body = _Body(network.with_classes(2), dtype, view)
        self._arguments = jax.device_put(
            (params, tree.get("batch_stats", {})), jax.devices()[0]
        )
        self._normalisation = jax.device_put(normalisation, jax.devices()[0])
        self._batch = batch_size
        self._compiling = compiling
        self.images_done = 0

    def features(
        self, images: UInt8[np.ndarray, "n h w c"] | Rows
    ) -> Iterator[Float32[np.ndarray, "b d"]]:
        """Yield the features of images, batch by batch, in order."""
        for start in range(0, len(images), self._batch):
            batch = np.asarray(images[start : start + self._batch])
            padded = np.resize(batch, (self._batch, *batch.shape[1:]))
            arguments = (
                *self._arguments,
                jax.device_put(padded, jax.devices()[0]),
                *self._normalisation,
            )
            if start == 0:
                with self._compiling():
                    program, _ = compiled(_features, self._body, *arguments)
            self.images_done += self._batch
            yield np.asarray(jax.device_get(program.run(*arguments)))[: len(batch)]

    def probabilities(
        self, features: Float32[np.ndarray, "n d"]
    ) -> Float64[np.ndarray, "n s"]:
        """Return what its own last layer makes of features."""
        return _softmax(_logits(features, self.head))

    def score(
        self,
        measure: str,
        features: Float32[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"],
    ) -> float | None:
        """Return how well features fit labels; None where they are not finite."""
        read = self.probabilities(features) if measure in PROBABILISTIC else features
        if not np.isfinite(read).all():
            return None
        return float(MEASURES[measure](read, labels))


def stratified(
    labels: Int[np.ndarray, " n"], size: int, seed: int
) -> Int[np.ndarray, " m"]:
    """Draw rows from every class in proportion to its size, ascending.

    Args:
        labels: Class of each row.
        size: Rows to draw; all of them where there are no more.
        seed: Equal seeds draw equal rows.
    """
    if size >= labels.size:
        return np.arange(labels.size)
    classes, counts = np.unique(labels, return_counts=True)
    quotas = largest_remainder(counts * size / labels.size, size)
    rng = np.random.default_rng([seed, _STREAM])
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(rows))


def ridge_head(
    batches: Iterator[Float32[np.ndarray, "_ d"]],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
) -> Head:
    """Return the last layer that regresses the classes' indicators on features.

    W = (F'F + r tr(F'F) / d I)^-1 F'Y of centred features and indicators, the bias not
    shrunk. Features are read once, a batch at a time. A regression's outputs lie
    between 0 and 1, where a softmax hardly tells them apart, so they are divided by the
    mean squared residual: if outputs lie round the indicators as Gaussians of that
    variance, their softmax is then the posterior.

    Args:
        batches: Features in the order of the labels.
        labels: Class of each row.
        num_classes: k.

    Returns:
        A kernel [d k] and a bias [k], float32.
    """
    count, first = 0, next(batches)
    width = first.shape[1]
    gram, sums = np.zeros((width, width)), np.zeros(width)
    by_class = np.zeros((width, num_classes))
    for batch in _with(first, batches):
        wide = np.asarray(batch, np.float64)
        own = labels[count : count + len(wide)]
        count += len(wide)
        gram += wide.T @ wide
        sums += wide.sum(axis=0)
        np.add.at(by_class.T, own, wide)
    mean = sums / count
    shares = np.bincount(labels[:count], minlength=num_classes) / count
    gram -= count * np.outer(mean, mean)
    by_class -= count * np.outer(mean, shares)
    ridge = RIDGE * np.trace(gram) / width
    # features without variance say nothing, and then only the bias does
    kernel = np.linalg.solve(gram + max(ridge, 1e-12) * np.eye(width), by_class)
    bias = shares - mean @ kernel
    # sum of squared residuals, from the sums alone
    total = count * float(np.sum(shares * (1 - shares)))
    explained = 2 * np.sum(kernel * by_class) - np.sum(kernel * (gram @ kernel))
    scale = 1 / max((total - float(explained)) / (count * num_classes), 1e-3)
    return {
        "kernel": (scale * kernel).astype(np.float32),
        "bias": (scale * bias).astype(np.float32),
    }


def softened(head: Head) -> Head:
    """Return a head of the same decisions that is not steeper than one drawn anew.

    A regression's head is as steep as it is sure, and gradients grow with it: at a rate
    at which a new network learns, features that were good would be thrown away at once.
    So the kernel gets at most the norm that LeCun's rule gives to k outputs, the square
    root of k, and the bias goes with it.
    """
    norm, outputs = float(np.linalg.norm(head["kernel"])), head["bias"].size
    factor = np.float32(min(1.0, outputs**0.5 / max(norm, 1e-12)))
    return {name: factor * values for name, values in head.items()}


def ridge_flops(count: int, width: int, num_classes: int) -> int:
    """Count the FLOPs of the products and the solution of `ridge_head`."""
    products = 2 * count * width * (width + num_classes)
    return products + 2 * width**3 // 3 + 2 * width**2 * num_classes


def _with(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _logits(features: np.ndarray, head: Head) -> np.ndarray:
    kernel = np.asarray(head["kernel"], np.float64)
    return np.asarray(features, np.float64) @ kernel + head["bias"]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)
