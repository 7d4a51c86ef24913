"""The 1,797 handwritten digits that come with scikit-learn: no file, no download."""

from typing import ClassVar, Literal

import numpy as np

from dpet_jax.data.source import DataSection, ImageSet, Source, make_source
from dpet_jax.data.split import stratified_split

_NUM_TEST = 180


class Digits(DataSection):
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels; nothing to download.

    Source:
        Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI.
    """

    kind: Literal["digits"] = "digits"
    libraries: ClassVar[tuple[str, ...]] = ("sklearn.datasets",)

    def read(self) -> Source:
        """Read 1,617 training and 180 test examples of 10 classes, as greys.

        The levels 0..16 become 0..255. The test rows are drawn once and for all,
        stratified with seed 0, and depend on no key.
        """
        from sklearn.datasets import load_digits

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
