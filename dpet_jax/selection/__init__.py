"""Selectors: from scores or features of a pool to an index set."""

from dpet_jax.selection.badge import badge as badge
from dpet_jax.selection.craig import craig as craig
from dpet_jax.selection.geometry import herding as herding
from dpet_jax.selection.geometry import k_center as k_center
from dpet_jax.selection.glister import Validation as Validation
from dpet_jax.selection.glister import glister as glister
from dpet_jax.selection.grad_match import grad_match as grad_match
from dpet_jax.selection.grad_match import grad_match_batches as grad_match_batches
from dpet_jax.selection.ranking import blend as blend
from dpet_jax.selection.ranking import descending as descending
from dpet_jax.selection.ranking import top_k as top_k
from dpet_jax.selection.shards import (
    facility_location_in_shards as facility_location_in_shards,
)
from dpet_jax.selection.submodular import facility_location as facility_location
from dpet_jax.selection.submodular import (
    facility_location_of_gradients as facility_location_of_gradients,
)
from dpet_jax.selection.submodular import graph_cut as graph_cut
from dpet_jax.selection.submodular import (
    graph_cut_of_gradients as graph_cut_of_gradients,
)
