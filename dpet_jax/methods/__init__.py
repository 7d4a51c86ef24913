"""What papers call their algorithms, over index sets; no module here imports JAX."""

from dpet_jax.methods.base import Coreset as Coreset
from dpet_jax.methods.base import Learner as Learner
from dpet_jax.methods.base import Method as Method
from dpet_jax.methods.base import Plan as Plan
from dpet_jax.methods.base import Pool as Pool
from dpet_jax.methods.base import Selection as Selection
from dpet_jax.methods.base import Span as Span
from dpet_jax.methods.base import TrainResult as TrainResult
