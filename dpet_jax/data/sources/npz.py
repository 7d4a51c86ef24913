"""One NumPy `.npz` file with images and labels of both splits."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from dpet_jax.data.source import (
    ImageSet,
    Source,
    check_images,
    check_labels,
    make_source,
)
from dpet_jax.errors import UserError

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_KERAS_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read(path: str | Path) -> Source:
    """Read `train_images`, `train_labels`, `test_images`, `test_labels` from a file.

    Keras' names `x_train`, `y_train`, `x_test`, `y_test` do as well.

    Args:
        path: The file. Images are uint8, or float in [0, 1], of shape [n h w] or
            [n h w c]; labels are whole numbers, [n] or [n 1].

    Returns:
        The data set, named after the file.

    Raises:
        UserError: If the file is missing, no such archive, or holds something else.
    """
    path = Path(path)
    arrays = _load(path)
    keys = next(
        (keys for keys in (_KEYS, _KERAS_KEYS) if set(keys) <= set(arrays)), None
    )
    if keys is None:
        lacking = [key for key in _KEYS if key not in arrays]
        raise UserError(
            f"{path}: no {', '.join(lacking)}; the file has "
            f"{', '.join(sorted(arrays)) or 'no arrays'}. Save it with "
            f"numpy.savez(path, {', '.join(f'{key}=...' for key in _KEYS)}), or with "
            f"Keras' names {', '.join(_KERAS_KEYS)}."
        )
    train, test = (
        ImageSet(
            check_images(arrays[images], f"{path}, {images}"),
            check_labels(arrays[labels], f"{path}, {labels}"),
        )
        for images, labels in (keys[:2], keys[2:])
    )
    places = (f"{path}, {keys[1]}", f"{path}, {keys[3]}")
    return make_source(path.stem, train, test, None, places)


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; set data.path to an .npz file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                wanted = [key for key in loaded.files if key in _KEYS + _KERAS_KEYS]
                return {key: loaded[key] for key in wanted}
        reason = "it holds one array"
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error)
    raise UserError(
        f"{path}: cannot be read as an .npz file of plain arrays ({reason}); save it "
        "again with numpy.savez, without object arrays."
    )
