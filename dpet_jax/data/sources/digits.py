"""The 1,797 handwritten digits that come with scikit-learn: no file, no download."""

import numpy as np
from sklearn.datasets import load_digits

from dpet_jax.data.source import ImageSet, Source, make_source
from dpet_jax.data.split import stratified_split

_NUM_TEST = 180


def read() -> Source:
    """Read scikit-learn's digits, 8 x 8 greys.

    The levels 0..16 become 0..255. The 180 test rows are drawn once and for all,
    stratified with seed 0, and never depend on the run.

    Returns:
        1,617 training and 180 test examples of 10 classes.

    Source:
        Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI.
    """
    digits = load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, test = stratified_split(labels, _NUM_TEST / len(labels), seed=0)
    return make_source(
        "digits",
        ImageSet(levels[train], labels[train]),
        ImageSet(levels[test], labels[test]),
        [str(name) for name in digits.target_names],
        ("digits train", "digits test"),
    )
