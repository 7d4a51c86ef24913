"""Per-example scores: how much an example still has to teach the model."""

from dpet_jax.scores.adapters import from_linen as from_linen
from dpet_jax.scores.adapters import from_nnx as from_nnx
from dpet_jax.scores.error import cross_entropy as cross_entropy
from dpet_jax.scores.error import el2n as el2n
from dpet_jax.scores.error import zero_one as zero_one
from dpet_jax.scores.gradient.norms import gradient_norms as gradient_norms
from dpet_jax.scores.gradient.norms import gradient_path as gradient_path
from dpet_jax.scores.last_layer import grand_last_layer as grand_last_layer
from dpet_jax.scores.last_layer import last_layer_gram as last_layer_gram
from dpet_jax.scores.pool import FEATURE_SCORES as FEATURE_SCORES
from dpet_jax.scores.pool import SCORES as SCORES
from dpet_jax.scores.pool import score_pool as score_pool
from dpet_jax.scores.uncertainty import entropy as entropy
from dpet_jax.scores.uncertainty import least_confidence as least_confidence
from dpet_jax.scores.uncertainty import margin as margin
