"""Data sets: read a source, then `prepare` the arrays that a run uses.

    from dpet_jax.data import prepare
    from dpet_jax.data.sources import digits

    data = prepare(digits.read(), validation_fraction=0.1)

A source is any module of `dpet_jax.data.sources`: `digits`, `npz`, `parquet`, `tfds`.
"""

from dpet_jax.data.dataset import Data, prepare
from dpet_jax.data.source import ImageSet, Source

__all__ = ["Data", "ImageSet", "Source", "prepare"]
