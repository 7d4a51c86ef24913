"""Every score by its name: where its kernel is, and what it reads.

This table is the one list of scores: configs, the command line and `score_pool` look
names up here. To add a score, write its kernel and add a line. A kernel of your own
needs no line; its name is its import path, `package.module:function`.

Importing this module does not import JAX; `Score.kernel` does.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

#: What a score is computed from, beside the label: the logits of an example; the
#: features that the last layer reads, with the logits; the gradient of its loss by all
#: parameters; or nothing, for the control that picks at random.
Reads: TypeAlias = Literal["logits", "features", "gradient", "nothing"]


class Score(NamedTuple):
    """A score: larger means more informative.

    Attributes:
        name: The name that configs use.
        reads: What it is computed from.
        path: Import path of the kernel; None where there is nothing to compute.
        selectable: Whether a config may name it as the score of a method. "zero_one"
            only evaluates, and the artifact's formulas come with `compat: artifact`.
    """

    name: str
    reads: Reads
    path: str | None
    selectable: bool = True

    def kernel(self) -> Callable[..., Any]:
        """Import the function that computes it.

        Of a score that reads logits it is `kernel(logits, label)`, of one that reads
        features `kernel(logits, label, features)`, both for one example; "grand" is
        `dpet_jax.scores.gradient_norms`.

        Raises:
            ValueError: If there is nothing to compute.
        """
        if self.path is None:
            raise ValueError(f"score {self.name} reads nothing, so it has no kernel")
        module, _, name = self.path.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    @property
    def summary(self) -> str:
        """What it measures, in one line: the first of its kernel's docstring."""
        if self.path is None:
            return "No score: the control that picks at random."
        return (inspect.getdoc(self.kernel()) or "").partition("\n")[0]


_TABLE = (
    Score("margin", "logits", "dpet_jax.scores.uncertainty:margin"),
    Score("entropy", "logits", "dpet_jax.scores.uncertainty:entropy"),
    Score("least_confidence", "logits", "dpet_jax.scores.uncertainty:least_confidence"),
    Score("cross_entropy", "logits", "dpet_jax.scores.error:cross_entropy"),
    Score("el2n", "logits", "dpet_jax.scores.error:el2n"),
    Score("zero_one", "logits", "dpet_jax.scores.error:zero_one", selectable=False),
    Score(
        "grand_last_layer", "features", "dpet_jax.scores.last_layer:grand_last_layer"
    ),
    Score("grand", "gradient", "dpet_jax.scores.gradient.norms:gradient_norms"),
    Score("random", "nothing", None),
    # the DPET authors' own formulas, for `compat: artifact`
    *(
        Score(name, "logits", f"dpet_jax.scores.artifact:{name}", selectable=False)
        for name in (
            "artifact_margin_none",
            "artifact_margin_euclidean",
            "artifact_margin_kl",
            "artifact_entropy_none",
            "artifact_entropy_euclidean",
            "artifact_entropy_kl",
            "artifact_least_confidence_none",
            "artifact_least_confidence_euclidean",
            "artifact_least_confidence_kl",
        )
    ),
)
_BY_NAME = {score.name: score for score in _TABLE}


def known_scores() -> tuple[str, ...]:
    """Return the names of all scores of the table, in its order."""
    return tuple(_BY_NAME)


def selectable_scores() -> tuple[str, ...]:
    """Return the names that a config may give as the score of a method."""
    return tuple(score.name for score in _TABLE if score.selectable)


def lookup(name: str) -> Score:
    """Find a score by its name.

    Args:
        name: One of the table, or `package.module:function`, the import path of
            a kernel of your own, as `kernel_reads` takes it.

    Raises:
        ValueError: If there is no such score, or if what the import path names cannot
            be imported or takes other arguments.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    if ":" in name:
        # pydantic, which it needs, takes longer to import than all kernels
        from dpet_jax.section import import_from

        return Score(name, kernel_reads(import_from(name), name), name)
    close = difflib.get_close_matches(name, selectable_scores(), 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(
        f"no score called {name!r}{hint}; there are {', '.join(selectable_scores())}, "
        "and package.module:function of a kernel of your own"
    )


def kernel_reads(kernel: Any, name: str) -> Literal["logits", "features"]:
    """Return what a kernel reads, by the arguments that it takes.

    Args:
        kernel: `kernel(logits, label)` or `kernel(logits, label, features)`. Further
            arguments need defaults; a third one with a default is taken for the
            features only if it is called so.
        name: What messages call it.

    Raises:
        ValueError: If it takes other arguments.
    """
    found = f"is {kernel!r}"
    if callable(kernel) and not inspect.isclass(kernel):
        signature = inspect.signature(kernel)
        found = f"takes {signature}"
        third = [*signature.parameters][2:3]
        if _takes(signature, 2) and third != ["features"]:
            return "logits"
        if _takes(signature, 3):
            return "features"
    raise ValueError(
        f"{name!r} is no score: a score is a function of one example's (logits, label) "
        f"or (logits, label, features), but this {found}"
    )


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
