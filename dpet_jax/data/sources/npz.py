"""One NumPy `.npz` file with images and labels of both splits."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

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


def read_arrays(
    path: Path, wanted: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read some arrays of an .npz file.

    Args:
        path: The file.
        wanted: Names of the arrays to read, where they are there.

    Returns:
        The arrays by name, and the names of all arrays in the file, in order.

    Raises:
        UserError: If it is no such file, or an array in it is damaged or of objects.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of an .npz file.")
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: is no .npz file; save images and labels together with "
                "numpy.savez."
            )
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in wanted}, sorted(
                file.files
            )
    except UserError:
        raise
    except Exception as error:  # each layer of a damaged file has its own exceptions
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: holds an array of Python objects; save plain arrays of "
                "numbers with numpy.savez."
            ) from error
        raise UserError(
            f"{path}: cannot be read as an .npz file ({error}); save it again with "
            "numpy.savez."
        ) from error
