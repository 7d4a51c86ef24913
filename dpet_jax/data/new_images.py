"""Images that a finished model has not seen: an .npz file or a folder of pictures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from dpet_jax.data.decode import decode_images, resize_images
from dpet_jax.data.source import check_images, check_labels
from dpet_jax.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class NewImages(NamedTuple):
    """Images to classify.

    Attributes:
        names: The file of each, or its row.
        images: Pixels, of the model's shape.
        labels: Class of each, or None where unknown.
    """

    names: list[str]
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"] | None


def read_new_images(
    path: Path, image_shape: tuple[int, int, int], class_names: tuple[str, ...]
) -> NewImages:
    """Read images and bring them to the size a model was trained on.

    Args:
        path: An .npz with `images` and, if known, `labels`; or a folder of pictures,
            directly or in sub-folders that are all called like classes.
        image_shape: Height, width and channels that the model takes.
        class_names: Names of the model's classes.

    Raises:
        UserError: If there is nothing to read or it does not fit the model.
    """
    if path.is_dir():
        new = _read_folder(path, image_shape[0], class_names)
    elif path.suffix == ".npz" and path.is_file():
        new = _read_npz(path)
    else:
        raise UserError(
            f"--data: {path}: is neither an .npz file nor a folder of pictures"
        )
    images = new.images
    if images.shape[1:3] != image_shape[:2]:
        images = resize_images(images, image_shape[0])
    if images.shape[3] == 1 < image_shape[2]:
        images = np.repeat(images, image_shape[2], axis=3)
    if images.shape[1:] != image_shape:
        raise UserError(
            f"--data: {path}: images of shape {images.shape[1:]} do not fit the "
            f"model, which takes {image_shape} (height, width, channels)"
        )
    if new.labels is not None and new.labels.max() >= len(class_names):
        raise UserError(
            f"--data: {path}: label {new.labels.max()} is none of the model's "
            f"{len(class_names)} classes, 0 to {len(class_names) - 1}"
        )
    return new._replace(images=images)


def _read_npz(path: Path) -> NewImages:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"--data: {path}: cannot be read as .npz ({error})") from error
    if "images" not in arrays:
        raise UserError(
            f"--data: {path}: has no array 'images'; it holds "
            f"{', '.join(arrays) or 'nothing'}"
        )
    images = check_images(arrays["images"], f"{path}, images")
    labels = None
    if "labels" in arrays:
        labels = check_labels(arrays["labels"], f"{path}, labels")
        if len(labels) != len(images):
            raise UserError(
                f"--data: {path}: {len(images)} images but {len(labels)} labels"
            )
    return NewImages([str(row) for row in range(len(images))], images, labels)


def _read_folder(path: Path, side: int, class_names: tuple[str, ...]) -> NewImages:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise UserError(f"--data: {path}: holds no pictures ({', '.join(_SUFFIXES)})")
    images = decode_images(
        [file.read_bytes() for file in files], lambda row: str(files[row]), side
    )
    names = [str(file.relative_to(path)) for file in files]
    labels = None
    if all(file.parent.name in class_names for file in files):
        labels = np.array(
            [class_names.index(file.parent.name) for file in files], np.int32
        )
    return NewImages(names, images, labels)
