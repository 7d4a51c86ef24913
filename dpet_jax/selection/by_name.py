"""Selectors by name, all called alike with what a network gives for examples.

One of your own has its import path for a name, `package.module:function`; see
`own_selector` for what it takes and gives.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Key

from dpet_jax.errors import UserError
from dpet_jax.methods.base import Selection, takes_examples
from dpet_jax.scores.factors import Gradients, last_layer_gradients
from dpet_jax.section import import_from
from dpet_jax.selection.badge import badge
from dpet_jax.selection.craig import craig
from dpet_jax.selection.geometry import herding, k_center
from dpet_jax.selection.glister import Validation, glister
from dpet_jax.selection.grad_match import grad_match
from dpet_jax.selection.per_class import per_class as of_each_class
from dpet_jax.selection.picks import on_the_host, rows_in_range, times_two_to_on_host
from dpet_jax.selection.shards import facility_location_in_shards
from dpet_jax.selection.submodular import graph_cut_of_gradients

_PROJECTED = 32


class Examples(NamedTuple):
    """What a network gives for some examples, and their labels.

    Attributes:
        logits: Padded past the examples with rows of any content.
        features: Penultimate features, padded alike.
        labels: Class of each, in [0, num_classes); its length is that of the examples.
        num_classes: k.
    """

    logits: Float32[Array, "c k"]
    features: Float32[Array, "c d"]
    labels: Int32[np.ndarray, " n"]
    num_classes: int


class Problem(NamedTuple):
    """The examples of one class, or all of them, as a selector reads them.

    Attributes:
        gradients: By the last layer, of the true labels.
        logits: Padded as the gradients are.
        allowed: Which rows are examples.
        validation: Whose loss glister lowers, and which rows of it count.
        key: Randomness, for selectors that draw.
        learning_rate: Step that glister takes for a pick.
        shards: That facility location deals the examples out to.
    """

    gradients: Gradients
    logits: Float32[Array, "c k"]
    allowed: Bool[Array, " c"]
    validation: tuple[Validation, Bool[Array, " v"]] | None
    key: Key[Array, ""]
    learning_rate: float
    shards: int = 1


Solve: TypeAlias = Callable[[Problem, int], Selection]


@on_the_host
def run_selector(
    name: str,
    examples: Examples,
    num_select: int,
    *,
    per_class: bool = False,
    seed: int = 0,
    validation: Examples | None = None,
    learning_rate: float = 0.1,
    shards: int = 1,
) -> Selection:
    """Run a selector, over all examples or inside each class.

    Classes are padded to one length, so that one program serves them all.

    Args:
        name: A key of `SELECTORS`, or the import path of one of your own;
            "stratified" is k-center inside each predicted class, on a random
            projection of the features.
        examples: The candidates.
        num_select: How many to pick.
        per_class: Solve one problem for each class, with a budget in proportion to its
            size; the picks are interleaved.
        seed: Decides what is drawn.
        validation: Examples whose loss glister lowers, within a class those of that
            class; the candidates themselves by default.
        learning_rate: Step that glister takes for a pick.
        shards: Of the examples, or of each class, that "facility_location" picks from
            one by one before it picks among the picks.

    Returns:
        Positions among the examples.

    Raises:
        ValueError: If the name is unknown, if more are asked for than there are, if
            a label is no class, or if a selector cannot pick in shards.
        UserError: If a selector of your own picks anything but as many different
            examples as it was asked for.
    """
    check_selector(name)
    _check_labels(examples)
    if shards > 1 and name not in IN_SHARDS:
        raise ValueError(f"{name} does not pick in shards; {', '.join(IN_SHARDS)} does")
    if ":" in name:
        return _run_own(name, examples, num_select, per_class=per_class)
    key, power = jax.random.key(seed), 0
    if name == "stratified":
        key, draw = jax.random.split(key)
        (examples, power), per_class = _by_predicted_class(examples, draw), True
    every = np.arange(examples.labels.size, dtype=np.int32)
    seen = None
    if name in USES_VALIDATION:
        validation = examples if validation is None else validation
        _check_labels(validation)
        seen = _validation(validation, np.arange(validation.labels.size))
    if name == "craig":  # weighs each class's picks, so it knows of classes itself
        problem = _problem(examples, every, every.size, key, seen)
        return craig(
            problem.gradients, examples.labels, num_select, per_class=per_class
        )
    if not per_class:
        problem = _problem(examples, every, len(examples.logits), key, seen)
        problem = problem._replace(learning_rate=learning_rate, shards=shards)
        return _SOLVERS[name](problem, num_select)
    capacity = _capacity(examples.labels)

    def of_class(rows: np.ndarray, count: int) -> Selection:
        label, beside = int(examples.labels[rows[0]]), seen
        if seen is not None and validation is not None:
            same = np.flatnonzero(validation.labels == label)
            # a class without validation examples is judged by all others'
            beside = _validation(validation, same) if same.size else seen
        one = jax.random.fold_in(key, label)
        problem = _problem(examples, rows, capacity, one, beside)
        problem = problem._replace(learning_rate=learning_rate, shards=shards)
        return _SOLVERS[name](problem, count)

    labels, num_classes = examples.labels, examples.num_classes
    chosen = of_each_class(of_class, labels, num_classes, num_select)
    return chosen._replace(gains=times_two_to_on_host(chosen.gains, power))


def _check_labels(examples: Examples) -> None:
    labels, k, rows = examples.labels, examples.num_classes, len(examples.logits)
    if labels.size > rows or rows != len(examples.features):
        raise ValueError(
            f"{labels.size} labels, {rows} rows of logits and {len(examples.features)} "
            "of features are not those of one set of examples"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(f"a label is none of the {k} classes")


def _problem(examples, rows, capacity, key, validation) -> Problem:
    padded = np.zeros(capacity, np.int32)
    padded[: rows.size] = rows
    labels = examples.labels[padded].astype(np.int32)
    arrays = (examples.logits, examples.features)
    logits, gradients = _gathered(*arrays, jnp.asarray(padded), jnp.asarray(labels))
    allowed = jnp.asarray(np.arange(capacity) < rows.size)
    return Problem(gradients, logits, allowed, validation, key, 0.0)


@jax.jit
def _gathered(logits, features, rows, labels):
    logits = logits[rows]
    return logits, last_layer_gradients(logits, labels, features[rows])


def _validation(examples: Examples, rows: np.ndarray):
    """Mask all but some rows: subsets of one length share a program."""
    allowed = np.zeros(len(examples.logits), np.bool_)
    allowed[rows] = True
    labels = np.zeros(len(examples.logits), np.int32)
    labels[: examples.labels.size] = examples.labels
    kept = jnp.asarray(allowed)
    logits, features = _zeroed(examples.logits, examples.features, kept)
    return Validation(logits, jnp.asarray(labels), features), kept


@jax.jit
def _zeroed(logits, features, kept):
    column = kept[:, None]
    return jnp.where(column, logits, 0.0), jnp.where(column, features, 0.0)


def _capacity(labels: np.ndarray) -> int:
    return -(-int(np.bincount(labels, minlength=1).max()) // 128) * 128


# one function for each name; its first line is what `dpet list` shows


def _facility_location(problem: Problem, num_select: int) -> Selection:
    """Cover all gradients by similar ones: facility location."""
    return facility_location_in_shards(
        problem.gradients,
        num_select,
        shards=problem.shards,
        key=problem.key,
        allowed=problem.allowed,
    )


def _graph_cut(problem: Problem, num_select: int) -> Selection:
    """Resemble everything, but not one another: graph cut."""
    return graph_cut_of_gradients(
        problem.gradients, num_select, allowed=problem.allowed
    )


def _glister(problem: Problem, num_select: int) -> Selection:
    """Lower the loss of all candidates step by step: GLISTER."""
    assert problem.validation is not None, "run_selector gives validation examples"
    validation, counted = problem.validation
    return glister(
        problem.gradients,
        validation,
        num_select,
        learning_rate=problem.learning_rate,
        allowed=problem.allowed,
        validation_allowed=counted,
    )


def _grad_match(problem: Problem, num_select: int) -> Selection:
    """Add up, weighted, to the gradient of all data: GradMatch."""
    return grad_match(problem.gradients, num_select, allowed=problem.allowed)


def _k_center(problem: Problem, num_select: int) -> Selection:
    """Leave no example far away: k-center, farthest first."""
    return k_center(
        problem.gradients.features,
        num_select,
        key=problem.key,
        allowed=problem.allowed,
    )


def _stratified(problem: Problem, num_select: int) -> Selection:
    """Spread out within each predicted class, on a random projection."""
    return _k_center(problem, num_select)


def _herding(problem: Problem, num_select: int) -> Selection:
    """Stay close to the mean of the features: herding."""
    return herding(problem.gradients.features, num_select, allowed=problem.allowed)


def _badge(problem: Problem, num_select: int) -> Selection:
    """Draw long and different gradients: BADGE."""
    pseudo = jnp.argmax(problem.logits, axis=1).astype(jnp.int32)
    features = problem.gradients.features
    gradients = last_layer_gradients(problem.logits, pseudo, features)
    return badge(gradients, num_select, key=problem.key, allowed=problem.allowed)


def _by_predicted_class(examples: Examples, key: jax.Array) -> tuple[Examples, int]:
    """Replace true classes by predicted ones, and features by a random projection.

    The projection keeps distances roughly, at a fraction of the cost. It comes divided
    by 2^power, with the power, so that no sum in it overflows.
    """
    count = examples.labels.size
    predicted = jax.device_get(jnp.argmax(examples.logits, axis=1))[:count]
    shape = (examples.features.shape[1], _PROJECTED)
    matrix = jax.random.normal(key, shape, jnp.float32)
    known = jnp.asarray(np.arange(len(examples.features)) < count)
    features, power = rows_in_range(examples.features, known)
    projected = _project(features, matrix)
    examples = examples._replace(labels=predicted.astype(np.int32), features=projected)
    return examples, power


@jax.jit
def _project(features, matrix):
    return jnp.matmul(features, matrix, precision="highest")


_SOLVERS: dict[str, Solve] = {
    "facility_location": _facility_location,
    "graph_cut": _graph_cut,
    "glister": _glister,
    "grad_match": _grad_match,
    "k_center": _k_center,
    "herding": _herding,
    "badge": _badge,
    "stratified": _stratified,
}
#: The selectors by name; the first line of a docstring says what one looks for.
SELECTORS: dict[str, Callable[..., Selection]] = {**_SOLVERS, "craig": craig}
#: Selectors that can pick shard by shard.
IN_SHARDS = ("facility_location",)
#: Selectors that read validation examples too.
USES_VALIDATION = ("glister",)


def check_selector(name: str) -> None:
    """Refuse a name that is none of `SELECTORS`, nor the import path of another.

    Raises:
        ValueError: If it is none.
    """
    if ":" in name:
        own_selector(name)
    elif name not in SELECTORS:
        there = ", ".join(("top_k", *SELECTORS))
        raise ValueError(f"no selector called {name!r}; there is {there}")


def own_selector(path: str) -> Callable[[Examples, int], Any]:
    """Import a selector of your own.

    It is a function `selector(examples, num_select)`. The first argument is called
    `examples`, which tells it from a score: an `Examples` whose rows are all examples,
    of one class where it is asked inside each. It returns the positions of `num_select`
    different rows, the most important first, or a `Selection` of them.

    Args:
        path: `package.module:function`.

    Raises:
        ValueError: If it cannot be imported, or takes other arguments.
    """
    found = import_from(path)
    if not takes_examples(found):
        told = inspect.signature(found) if inspect.isfunction(found) else repr(found)
        raise ValueError(
            f"{path!r} is no selector: a selector is a function of (examples, "
            f"num_select), the first argument called so, but this is {told}"
        )
    return found


def _run_own(
    path: str, examples: Examples, num_select: int, *, per_class: bool
) -> Selection:
    select, k = own_selector(path), examples.num_classes
    logits, features = (
        np.asarray(rows)[: examples.labels.size]
        for rows in (examples.logits, examples.features)
    )

    def of_rows(rows: np.ndarray, count: int) -> Selection:
        some = (jnp.asarray(logits[rows]), jnp.asarray(features[rows]))
        picks = select(Examples(*some, examples.labels[rows], k), count)
        return checked_picks(path, picks, rows.size, count)

    if per_class:
        return of_each_class(of_rows, examples.labels, k, num_select)
    return of_rows(np.arange(examples.labels.size, dtype=np.int32), num_select)


def checked_picks(path: str, picks: Any, count: int, num_select: int) -> Selection:
    """Return what a selector of your own picked as a `Selection` on the host.

    Args:
        path: Its import path, for messages.
        picks: Positions, or a `Selection`.
        count: How many examples there were.
        num_select: How many were asked for.

    Raises:
        UserError: If they are not as many different positions as were asked for.
    """
    whole = isinstance(picks, Selection)
    indices = np.asarray(picks.indices if whole else picks)
    integers = np.issubdtype(indices.dtype, np.integer) or indices.size == 0
    if indices.shape != (num_select,) or not integers:
        raise UserError(
            f"{path} returned {indices.dtype}{list(indices.shape)}; it was asked for "
            f"{num_select} positions, whole numbers in one row"
        )
    different = np.unique(indices)
    if different.size < num_select:
        raise UserError(
            f"{path} picked {num_select - different.size} of {num_select} examples "
            "again; each may be picked once"
        )
    if num_select and not 0 <= different[0] <= different[-1] < count:
        raise UserError(
            f"{path} picked positions from {different[0]} to {different[-1]} of "
            f"{count} examples; they begin at 0"
        )
    if not whole:
        nothing = np.full(num_select, np.nan, np.float32)
        return Selection(indices.astype(np.int32), nothing)
    weights = picks.weights
    return Selection(
        indices.astype(np.int32),
        np.asarray(picks.gains, np.float32),
        None if weights is None else np.asarray(weights, np.float32),
    )
