"""Trackers that follow a run while it goes on; each is a kind of the key `track`."""

from dpet_jax.trackers.base import Tracker as Tracker
from dpet_jax.trackers.mlflow import Mlflow as Mlflow
from dpet_jax.trackers.tensorboard import Tensorboard as Tensorboard
from dpet_jax.trackers.wandb import Wandb as Wandb

#: What `track` may name without an import path.
TRACKERS = (Tensorboard, Wandb, Mlflow)
