"""Selectors: from scores or features of a pool to an index set."""

from dpet_jax.selection.ranking import blend as blend
from dpet_jax.selection.ranking import descending as descending
from dpet_jax.selection.ranking import top_k as top_k
