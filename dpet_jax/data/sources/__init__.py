"""The kinds of data source, one class a file."""

from dpet_jax.data.sources.cifar import Cifar
from dpet_jax.data.sources.digits import Digits
from dpet_jax.data.sources.folder import Folder
from dpet_jax.data.sources.idx import Idx
from dpet_jax.data.sources.npz import Npz
from dpet_jax.data.sources.parquet import Parquet
from dpet_jax.data.sources.tfds import Tfds

#: What `data.kind` may name without an import path; the first is the default.
SOURCES = (Digits, Folder, Cifar, Parquet, Npz, Idx, Tfds)

__all__ = ["SOURCES", "Cifar", "Digits", "Folder", "Idx", "Npz", "Parquet", "Tfds"]
