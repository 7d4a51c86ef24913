"""Per-example scores: how informative each example is for a model in training.

Kernels for any JAX code, on plain arrays and functions. Names are imported from their
modules when they are first used, so that `dpet_jax.scores.registry` can be imported
without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpet_jax.scores.adapters import from_equinox as from_equinox
    from dpet_jax.scores.adapters import from_haiku as from_haiku
    from dpet_jax.scores.adapters import from_linen as from_linen
    from dpet_jax.scores.adapters import from_nnx as from_nnx
    from dpet_jax.scores.error import cross_entropy as cross_entropy
    from dpet_jax.scores.error import el2n as el2n
    from dpet_jax.scores.error import zero_one as zero_one
    from dpet_jax.scores.gradient.norms import gradient_norms as gradient_norms
    from dpet_jax.scores.gradient.norms import gradient_path as gradient_path
    from dpet_jax.scores.last_layer import grand_last_layer as grand_last_layer
    from dpet_jax.scores.last_layer import last_layer_gram as last_layer_gram
    from dpet_jax.scores.pool import score_pool as score_pool
    from dpet_jax.scores.registry import known_scores as known_scores
    from dpet_jax.scores.registry import lookup as lookup
    from dpet_jax.scores.registry import selectable_scores as selectable_scores
    from dpet_jax.scores.uncertainty import entropy as entropy
    from dpet_jax.scores.uncertainty import least_confidence as least_confidence
    from dpet_jax.scores.uncertainty import margin as margin

_MODULES = {
    "from_equinox": "adapters",
    "from_haiku": "adapters",
    "from_linen": "adapters",
    "from_nnx": "adapters",
    "cross_entropy": "error",
    "el2n": "error",
    "zero_one": "error",
    "gradient_norms": "gradient.norms",
    "gradient_path": "gradient.norms",
    "grand_last_layer": "last_layer",
    "last_layer_gram": "last_layer",
    "score_pool": "pool",
    "known_scores": "registry",
    "lookup": "registry",
    "selectable_scores": "registry",
    "entropy": "uncertainty",
    "least_confidence": "uncertainty",
    "margin": "uncertainty",
}


def __getattr__(name: str) -> Any:
    """Import a name of this package from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the names, for completion."""
    return sorted(_MODULES)
