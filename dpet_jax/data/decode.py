"""Turn encoded pictures into pixels, and resize pixels, with Pillow."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dpet_jax.errors import UserError

# Pillow lets go of the interpreter lock while it decodes. Below this mean size in
# bytes, handing pictures to threads costs more than they save (measured: 60,000 CIFAR
# JPEGs take 1.3 times as long with two threads as without).
_MIN_BYTES_FOR_THREADS = 8_192

_GREY_MODES = ("1", "L", "LA", "La")


def decode_images(
    blobs: Sequence[bytes],
    place: Callable[[int], str],
    image_size: int | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Decode PNG, JPEG and other picture files that lie in memory.

    Greys stay one channel unless some picture of the set has colours; everything else
    (palette, CMYK, alpha) becomes RGB, transparency dropped.

    Args:
        blobs: The bytes of each picture file, at least one.
        place: Names a row for messages, such as "a.parquet row 17".
        image_size: Side in pixels to which every picture is resized, or None to take
            them as they are; then all must have one size.

    Returns:
        Pixels, 0 to 255.

    Raises:
        UserError: If a picture cannot be decoded or has another size than the first.
    """
    check_image_size(image_size)

    def decode(row: int) -> np.ndarray:
        try:
            return _decode_one(blobs[row], image_size)
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise UserError(
                f"{place(row)}: the image cannot be decoded "
                f"({len(blobs[row])} bytes; {error}). Replace or remove it."
            ) from error

    first = decode(0)
    images = np.empty((len(blobs), *first.shape), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        small = sum(map(len, blobs)) < _MIN_BYTES_FOR_THREADS * len(blobs)
        pictures = (map if small else pool.map)(decode, range(len(blobs)))
        for row, picture in enumerate(pictures):
            if picture.shape[:2] != first.shape[:2]:
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(
                    f"{place(row)}: the image is {_size(picture)} pixels, but "
                    f"{place(0)} is {_size(first)}; --data.image_size=N resizes all "
                    "images to N x N."
                )
            if picture.shape[2] > images.shape[3]:
                images = np.repeat(images, picture.shape[2], axis=3)
            images[row] = picture  # a grey spreads over three channels
    return images


def resize_images(
    images: UInt8[np.ndarray, "n h w c"], image_size: int | None
) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """Resize every image to a square by averaging areas (Pillow's BOX filter).

    Args:
        images: Grey or RGB pixels.
        image_size: Side in pixels; None, or the side that the images have, returns
            `images` itself.

    Returns:
        Pixels, each rounded to the nearest level.
    """
    check_image_size(image_size)
    if image_size is None or images.shape[1:3] == (image_size, image_size):
        return images
    num_images, channels = len(images), images.shape[3]
    resized = np.empty((num_images, image_size, image_size, channels), np.uint8)
    for row, image in enumerate(images):
        picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
        resized[row] = _pixels(picture, image_size)
    return resized


def check_image_size(image_size: int | None) -> None:
    """Refuse an image side below one pixel.

    Raises:
        UserError: If `image_size` is zero or negative.
    """
    if image_size is not None and image_size < 1:
        raise UserError(
            f"data.image_size is {image_size}; give a side of at least 1 pixel, or "
            "null to keep the images as they are."
        )


def _decode_one(blob: bytes, image_size: int | None) -> np.ndarray:
    with Image.open(io.BytesIO(blob)) as picture:
        if picture.mode.startswith(("I", "F")):
            # Pillow would clip these to 255 without a word.
            raise ValueError(f"more than 8 bits a channel, mode {picture.mode}")
        if picture.mode in _GREY_MODES:
            return _pixels(picture.convert("L"), image_size)
        if "transparency" in picture.info:
            return _pixels(picture.convert("RGBA").convert("RGB"), image_size)
        return _pixels(picture.convert("RGB"), image_size)


def _pixels(picture: Image.Image, image_size: int | None) -> np.ndarray:
    if image_size is not None:
        picture = picture.resize((image_size, image_size), Image.Resampling.BOX)
    array = np.asarray(picture)
    return array if array.ndim == 3 else array[:, :, None]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
