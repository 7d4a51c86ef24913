"""The compiled training program and what it carries."""

from dpet_jax.training.optimizer import SCHEDULES as SCHEDULES
from dpet_jax.training.optimizer import Family as Family
from dpet_jax.training.optimizer import Hyper as Hyper
from dpet_jax.training.optimizer import Schedule as Schedule
from dpet_jax.training.state import StepSpec as StepSpec
from dpet_jax.training.state import TrainState as TrainState
from dpet_jax.training.state import init_state as init_state
from dpet_jax.training.steps import ChunkStats as ChunkStats
from dpet_jax.training.steps import train_steps as train_steps
