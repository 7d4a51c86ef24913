"""The kinds of data source, one class a file."""

from dpet_jax.data.sources.cifar import Cifar
from dpet_jax.data.sources.digits import Digits
from dpet_jax.data.sources.folder import Folder
from dpet_jax.data.sources.npz import Npz
from dpet_jax.data.sources.parquet import Parquet
from dpet_jax.data.sources.tfds import Tfds

__all__ = ["Cifar", "Digits", "Folder", "Npz", "Parquet", "Tfds"]
