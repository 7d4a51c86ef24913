"""Data sets: a section reads its source, `prepare` makes the arrays of a run.

    from dpet_jax.data import prepare
    from dpet_jax.data.sources import Digits

    section = Digits(validation_fraction=0.1)
    data = prepare(section.read(), section)

Every kind of source is one class of `dpet_jax.data.sources`. Libraries that a source
needs (TFDS, pyarrow, scikit-learn, Pillow) are imported when it is read.
"""

from dpet_jax.data.dataset import Data, prepare
from dpet_jax.data.source import DataSection, ImageSet, Source, make_source

__all__ = ["Data", "DataSection", "ImageSet", "Source", "make_source", "prepare"]
