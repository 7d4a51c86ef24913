"""The 1,797 handwritten digits that come with scikit-learn: no file, no download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from dpet_jax.data.source import DataSection, ImageSet, Source, make_source
from dpet_jax.data.split import stratified_split
from dpet_jax.errors import UserError

_NUM_TEST = 180


class Digits(DataSection):
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels; nothing to download.

    Source:
        Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI.
    """

    kind: Literal["digits"] = "digits"

    def read(self) -> Source:
        """Read 1,617 training and 180 test examples of 10 classes, as greys.

        The levels 0..16 become 0..255. The test rows are drawn once and for all,
        stratified with seed 0, and depend on no key.
        """
        rows = _rows()
        images = rows[:, :-1].reshape(-1, 8, 8, 1)
        levels = np.rint(images * (255 / 16)).astype(np.uint8)
        labels = rows[:, -1].astype(np.int32)
        train, test = stratified_split(labels, _NUM_TEST / len(labels), seed=0)
        return make_source(
            "digits",
            ImageSet(levels[train], labels[train]),
            ImageSet(levels[test], labels[test]),
            [str(digit) for digit in range(10)],
            ("digits train", "digits test"),
        )


def _rows() -> np.ndarray:
    """Return the pixels of each digit, and what it is.

    To ask scikit-learn for them takes a hundred times as long as to read its file, for
    it brings in the whole of SciPy.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise UserError(
            "data.kind: digits come with scikit-learn, which is not installed; run pip "
            "install scikit-learn"
        )
    return np.loadtxt(
        Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
