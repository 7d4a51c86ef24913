"""One NumPy `.npz` file with images and labels of both splits."""

from typing import Literal

from pydantic import Field

from dpet_jax.arrays import read_arrays
from dpet_jax.data.source import (
    DataSection,
    ImageSet,
    Source,
    check_images,
    check_labels,
    make_source,
)
from dpet_jax.errors import UserError
from dpet_jax.section import UserPath

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_KERAS_KEYS = ("x_train", "y_train", "x_test", "y_test")


class Npz(DataSection):
    """One .npz file with train_images, train_labels, test_images and test_labels.

    Keras' names x_train, y_train, x_test, y_test do as well. Images are uint8, or
    float in [0, 1], of shape [n h w] or [n h w c]; labels whole numbers, [n] or [n 1].
    """

    kind: Literal["npz"] = "npz"
    path: UserPath = Field(description="the .npz file")

    @property
    def label(self) -> str:
        """Name of the file, without .npz."""
        return self.path.stem

    def read(self) -> Source:
        """Read the four arrays; classes are numbered."""
        arrays, names = read_arrays(self.path, _KEYS + _KERAS_KEYS)
        keys = next((k for k in (_KEYS, _KERAS_KEYS) if set(k) <= set(arrays)), None)
        if keys is None:
            lacking = [key for key in _KEYS if key not in arrays]
            raise UserError(
                f"{self.path}: no {', '.join(lacking)}; the file has "
                f"{', '.join(names) or 'no arrays'}. Save it with numpy.savez(path, "
                f"{', '.join(f'{key}=...' for key in _KEYS)}), or with Keras' names "
                f"{', '.join(_KERAS_KEYS)}."
            )
        train, test = (
            ImageSet(
                check_images(arrays[images], f"{self.path}, {images}"),
                check_labels(arrays[labels], f"{self.path}, {labels}"),
            )
            for images, labels in (keys[:2], keys[2:])
        )
        places = [f"{self.path}, {keys[1]}", f"{self.path}, {keys[3]}"]
        return make_source(self.label, train, test, None, places)
