"""Images that a finished model has not seen: an .npz file, or a folder of them."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from dpet_jax.arrays import read_arrays
from dpet_jax.data.class_folders import class_folders, names_of
from dpet_jax.data.decode import Resize, decode_images, resize_images
from dpet_jax.data.source import check_images, check_labels
from dpet_jax.data.sources.idx import holds_idx, read_split
from dpet_jax.errors import UserError


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
    path: Path,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    resize: Resize = "stretch",
) -> NewImages:
    """Read images and bring them to the size a model was trained on.

    Args:
        path: An .npz with `images` and, if known, `labels`; or a folder of pictures,
            directly or in folders that are called like classes, which are the labels;
            or one of idx files, of which the test split is read.
        image_shape: Height, width and channels that the model takes.
        class_names: Names of the model's classes.
        resize: How the images that it was trained on were brought to that shape.

    Raises:
        UserError: If there is nothing to read or it does not fit the model.
    """
    if os.path.isdir(path) and holds_idx(path):
        images, labels = read_split(path, "test")
        names = [str(row) for row in range(len(images))]
        new = NewImages(names, np.asarray(images), labels)
    elif os.path.isdir(path):
        new = _read_folder(path, image_shape[:2], class_names, resize)
    elif path.suffix == ".npz" and os.path.isfile(path):
        new = _read_npz(path)
    else:
        raise UserError(
            f"--data: {path}: is neither an .npz file nor a folder of pictures"
        )
    images = resize_images(new.images, image_shape[:2], resize)
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
    arrays, names = read_arrays(path, ("images", "labels"))
    if "images" not in arrays:
        raise UserError(
            f"--data: {path}: has no array 'images'; it holds "
            f"{', '.join(names) or 'nothing'}"
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


def _read_folder(
    path: Path, size: tuple[int, int], class_names: tuple[str, ...], resize: Resize
) -> NewImages:
    listed = class_folders(path)
    if listed.deeper:
        raise UserError(
            f"--data: {path}: folders inside folders: {names_of(listed.deeper, path)}; "
            "give the folder that holds the pictures or the class folders"
        )
    files = [*listed.loose, *(f for inside in listed.classes.values() for f in inside)]
    if not files:
        raise UserError(f"--data: {path}: holds no pictures")
    labels = _labels(path, listed.classes, listed.loose, class_names)
    images = decode_images(files, lambda row: str(files[row]), size, resize)
    return NewImages([str(file.relative_to(path)) for file in files], images, labels)


def _labels(
    path: Path,
    classes: dict[str, list[Path]],
    loose: list[Path],
    class_names: tuple[str, ...],
) -> Int32[np.ndarray, " n"] | None:
    """Number the class folders as the model does; None if they are no classes."""
    known = [name for name in classes if name in class_names]
    if not known:
        if classes:
            logging.getLogger(__name__).warning(
                "%s: accuracy unknown, for none of the folders %s is called like a "
                "class of the model: %s",
                *(path, _names(classes), _names(class_names)),
            )
        return None
    unknown = [name for name in classes if name not in class_names]
    twice = [name for name in known if class_names.count(name) > 1]
    if unknown or loose or twice:
        reason = f"the model has several classes called {_names(twice)}"
        if loose:
            reason = f"pictures in no class folder: {names_of(loose, path)}"
        if unknown:
            reason = f"the model has no class {_names(unknown)}"
        raise UserError(
            f"--data: {path}: {reason}; its classes are {_names(class_names)}. Give "
            "all pictures in folders of its classes, or without any such folder"
        )
    return np.repeat(
        np.array([class_names.index(name) for name in classes], np.int32),
        [len(files) for files in classes.values()],
    )


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:10]) + (", …" if len(listed) > 10 else "")
