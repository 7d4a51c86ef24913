"""From what networks say about candidates to a selection on the host."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dpet_jax.errors import DivergedError
from dpet_jax.methods.base import ModelHandle, Selection
from dpet_jax.selection import blend
from dpet_jax.selection.by_name import SELECTORS, USES_VALIDATION, Examples, choose
from dpet_jax.selection.per_class import per_class as of_each_class
from dpet_jax.selection.ranking import rank, stretch

#: What the scoring program gives that is no score.
READ_OUT = ("logits", "features")

#: Scores named rows of the data set by a network: device arrays, aligned and longer.
Scorer: TypeAlias = Callable[
    [tuple[str, ...], np.ndarray, ModelHandle], dict[str, jax.Array]
]


class Chooser:
    """Rank candidates, or run a selector over them; one program for every set size.

    Args:
        score: Scores rows by a network, and counts what that costs.
        put: Puts host arrays on the device.
        labels: Class of every row of the data set.
        num_classes: k.
        validation_rows: Rows that glister lowers the loss of; where there are none, it
            is that of the candidates.
        capacity: Length of the arrays that `score` returns.
        stretch_size: Entries of a ranking read at once; divides the capacity.
        learning_rate: Step that glister takes for a pick.
    """

    def __init__(
        self,
        score: Scorer,
        put: Callable[[Any], Any],
        *,
        labels: np.ndarray,
        num_classes: int,
        validation_rows: np.ndarray,
        capacity: int,
        stretch_size: int,
        learning_rate: float,
    ) -> None:
        self._score = score
        self._put = put
        self._labels = labels
        self._num_classes = num_classes
        self._validation_rows = validation_rows
        self._capacity = capacity
        self._stretch_size = stretch_size
        self._learning_rate = learning_rate

    def select(
        self,
        selector: str,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle,
        **options: Any,
    ) -> Selection:
        """Select; `DeviceLearner.select` documents the arguments.

        Raises:
            ValueError: If the selector is unknown, or takes more than there is.
            DivergedError: If a score or what a selector reads is not finite.
        """
        if selector == "top_k":
            chosen = self._top_k(index_set, num_select, model, **options)
            return chosen._replace(indices=index_set[chosen.indices])
        if selector not in SELECTORS:
            there = ", ".join(("top_k", *SELECTORS))
            raise ValueError(f"no selector called {selector!r}; there is {there}")
        examples = self._examples(index_set, model)
        validation = None
        if selector in USES_VALIDATION:
            rows = self._validation_rows
            validation = self._examples(rows, model) if rows.size else examples
        chosen = choose(
            selector,
            examples,
            num_select,
            validation=validation,
            learning_rate=self._learning_rate,
            **options,
        )
        return chosen._replace(indices=index_set[chosen.indices])

    def importance(
        self, scores: dict[str, jax.Array], names: tuple[str, ...], weight: float
    ) -> jax.Array:
        """Return one score, or two blended."""
        if len(names) == 1:
            return scores[names[0]]
        share = self._put(np.float32(weight))
        return blend(scores[names[0]], scores[names[1]], share)

    def best(self, importance: jax.Array, num_select: int) -> Selection:
        """Rank on the device, and read the first in stretches that one program cuts."""
        ranking = rank(importance)
        size = self._stretch_size
        pieces = [
            stretch(ranking, self._put(np.int32(first)), size)
            for first in range(0, max(num_select, 1), size)
        ]
        flags = (ranking.has_nan, ranking.allowed)
        pieces, (has_nan, allowed) = jax.device_get((pieces, flags))
        if has_nan:
            raise DivergedError("scores of the pool hold NaN")
        if num_select > allowed:
            raise ValueError(f"cannot take {num_select} of {allowed} examples")
        order, gains = (
            np.concatenate(parts)[:num_select] for parts in zip(*pieces, strict=True)
        )
        return Selection(order, gains)

    def _top_k(
        self,
        index_set: np.ndarray,
        num_select: int,
        model: ModelHandle,
        *,
        scores: tuple[str, ...] = (),
        weight: float = 0.0,
        values: np.ndarray | None = None,
        per_class: bool = False,
    ) -> Selection:
        if values is None:
            found = self._score(scores, index_set, model)
            importance = self.importance(found, scores, weight)
        else:
            padded = np.full(self._capacity, -np.inf, np.float32)
            padded[: values.size] = values
            importance = self._put(padded)
        if not per_class:
            return self.best(importance, num_select)
        ranked = self.best(importance, index_set.size)
        place = np.argsort(ranked.indices)

        def best_of(positions: np.ndarray, count: int) -> Selection:
            first = np.argsort(place[positions])[:count].astype(np.int32)
            return Selection(first, ranked.gains[place[positions[first]]])

        labels = self._labels[index_set]
        return of_each_class(best_of, labels, self._num_classes, num_select)

    def _examples(self, rows: np.ndarray, model: ModelHandle) -> Examples:
        """Run rows of the data set through a network, for a selector to read."""
        scores = self._score(READ_OUT, rows, model)
        logits, features = scores["logits"], scores["features"]
        count = self._put(np.int32(rows.size))
        if not jax.device_get(_all_finite(logits, features, count)):
            raise DivergedError(f"what the {model} model says is not finite")
        labels = np.asarray(self._labels[rows], np.int32)
        return Examples(logits, features, labels, self._num_classes)


@jax.jit
def _all_finite(logits, features, count):
    finite = jnp.isfinite(logits).all(axis=1) & jnp.isfinite(features).all(axis=1)
    return jnp.all(finite | (jnp.arange(logits.shape[0]) >= count))
