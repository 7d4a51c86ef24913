"""Turn picture files into pixels, and resize pixels, with Pillow.

Pillow is imported when the first picture is decoded, not with this module.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from dpet_jax.arrays import memory
from dpet_jax.errors import UserError

# Pillow lets go of the interpreter lock while it decodes. Below this mean size in
# bytes, handing pictures to threads costs more than they save (measured: 60,000 CIFAR
# JPEGs take 1.3 times as long with two threads as without).
_MIN_BYTES_FOR_THREADS = 8_192

#: What becomes of a picture of another shape than is wanted.
Resize = Literal["stretch", "crop"]

_GREY_MODES = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112  # EXIF: how the camera was held; 1 is upright
_SHOWN = 5


def decode_images(
    pictures: Sequence[bytes | Path],
    place: Callable[[int], str],
    size: tuple[int, int] | None = None,
    resize: Resize = "stretch",
) -> UInt8[np.ndarray, "n h w c"]:
    """Decode whatever picture files Pillow reads.

    Greys stay one channel unless some picture of the set has colours; everything else
    (palette, CMYK, alpha) becomes RGB, transparency dropped. A picture is turned
    upright as its EXIF orientation says; of an animation the first frame counts.

    Args:
        pictures: The bytes of each picture file, or where it lies; at least one.
        place: Names a row for messages, such as "a.parquet row 17".
        size: Height and width to which every picture is resized, or None to take them
            as they are; then all must have one size.
        resize: Whether a picture of another shape is stretched, or what is longer of it
            cropped so that the middle stays.

    Returns:
        Pixels, 0 to 255.

    Raises:
        UserError: If pictures cannot be decoded, or are of several sizes; it lists
            both.
    """
    images: np.ndarray | None = None
    first = 0
    damaged: list[str] = []
    of_other_size: list[str] = []
    for row, picture in enumerate(_decoded(pictures, size, resize)):
        if isinstance(picture, str):
            damaged.append(f"{place(row)}: the image cannot be decoded ({picture})")
            continue
        if images is None:
            first = row
            images = empty_images(len(pictures), *picture.shape)
        if picture.shape[:2] != images.shape[1:3]:
            of_other_size.append(f"{place(row)}: {_size(picture)} pixels")
            continue
        if picture.shape[2] > images.shape[3]:
            images = np.repeat(images, picture.shape[2], axis=3)
        images[row] = picture  # a grey spreads over three channels
    problems = []
    if damaged:
        them = "it" if len(damaged) == 1 else "them"
        problems.append(f"{some(damaged)}. Replace or remove {them}.")
    if of_other_size and images is not None:
        problems.append(
            f"{some(of_other_size)}, but {place(first)} is {_size(images[first])}; "
            "--data.image_size=N resizes all images to N x N."
        )
    if problems or images is None:
        raise UserError("\n".join(problems))
    return images


def _decoded(
    pictures: Sequence[bytes | Path], size: tuple[int, int] | None, resize: Resize
) -> Iterator[np.ndarray | str]:
    """Yield the pixels of each picture, or what is wrong with it."""
    from PIL import Image

    num_bytes = [_num_bytes(picture) for picture in pictures]

    def decode(row: int) -> np.ndarray | str:
        try:
            return _decode_one(pictures[row], size, resize)
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            return f"{num_bytes[row]} bytes; {_reason(error)}"

    if sum(num_bytes) < _MIN_BYTES_FOR_THREADS * len(pictures):
        yield from map(decode, range(len(pictures)))
        return
    Image.preinit()  # before there are threads that would all do it
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(decode, range(len(pictures)))


def empty_images(
    count: int, height: int, width: int, channels: int
) -> UInt8[np.ndarray, "n h w c"]:
    """Return room for images.

    Raises:
        UserError: If this machine has not so much memory.
    """
    wanted, there = count * height * width * channels, memory()
    if wanted > there:
        raise UserError(
            f"{count:,} images of {height} x {width} pixels take {wanted / 1e9:,.1f} "
            f"GB, but this machine has {there / 1e9:,.1f} GB of memory; set a smaller "
            "data.image_size, use fewer images, or set data.placement to host or "
            "stream."
        )
    return np.empty((count, height, width, channels), np.uint8)


def resize_images(
    images: UInt8[np.ndarray, "n h w c"],
    size: tuple[int, int] | None,
    resize: Resize = "stretch",
) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """Resize every image by averaging areas (Pillow's BOX filter).

    Args:
        images: Grey or RGB pixels.
        size: Height and width; None, or those that the images have, returns `images`
            itself.
        resize: As for `decode_images`.

    Returns:
        Pixels, each rounded to the nearest level.
    """
    if size is None or images.shape[1:3] == size:
        return images
    from PIL import Image

    resized = empty_images(len(images), *size, images.shape[3])
    for row, image in enumerate(images):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized[row] = _pixels(picture, size, resize)
    return resized


def is_picture(path: Path) -> bool:
    """Return whether Pillow knows the format of a file, by its first bytes."""
    from PIL import Image

    try:
        with Image.open(_checked(path)):
            return True
    except Exception:  # whatever Pillow raises about a damaged header
        return False


def is_grey(picture: bytes | Path) -> bool:
    """Return whether a picture file has no colours, by its header alone.

    One that cannot be read has none: decoding it says what is wrong.
    """
    from PIL import Image

    try:
        file = io.BytesIO(picture) if isinstance(picture, bytes) else _checked(picture)
        with Image.open(file) as opened:
            return opened.mode in _GREY_MODES
    except Exception:  # whatever Pillow raises about a damaged header
        return True


def picture_size(picture: bytes | Path) -> tuple[int, int]:
    """Return height and width of a picture file, by its header alone.

    Raises:
        UserError: If Pillow cannot read it.
    """
    from PIL import Image

    try:
        file = io.BytesIO(picture) if isinstance(picture, bytes) else _checked(picture)
        with Image.open(file) as opened:
            return opened.height, opened.width
    except Exception as error:  # whatever Pillow raises about a damaged header
        place = "a picture" if isinstance(picture, bytes) else picture
        raise UserError(
            f"{place}: cannot be read as a picture ({error}); correct it or move it "
            "away."
        ) from error


def some(lines: Sequence[str]) -> str:
    """Return the first few of many lines, and the number of the others."""
    more = len(lines) - _SHOWN
    shown = "\n".join(lines[:_SHOWN])
    return f"{shown}\nand {more} more like these" if more > 0 else shown


def _decode_one(
    picture: bytes | Path, size: tuple[int, int] | None, resize: Resize
) -> np.ndarray:
    from PIL import Image, ImageOps

    file = io.BytesIO(picture) if isinstance(picture, bytes) else _checked(picture)
    with Image.open(file) as opened:
        if opened.mode.startswith(("I", "F")):
            # Pillow would clip these to 255 without a word.
            raise ValueError(
                f"more than 8 bits a channel, mode {opened.mode}; bring it to 8 bits"
            )
        if opened.format == "EPS":
            raise ValueError("EPS is a program that Ghostscript would run")
        upright: Image.Image = opened
        # Asking takes a tenth of the time of decoding a small JPEG.
        tagged = opened.format != "JPEG" or {"exif", "xmp"} & opened.info.keys()
        if tagged and opened.getexif().get(_ORIENTATION, 1) != 1:
            upright = ImageOps.exif_transpose(opened)
        if upright.mode in _GREY_MODES:
            return _pixels(upright.convert("L"), size, resize)
        if "transparency" in upright.info:
            return _pixels(upright.convert("RGBA").convert("RGB"), size, resize)
        return _pixels(upright.convert("RGB"), size, resize)


def _checked(path: Path) -> Path:
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no regular file")  # a pipe would be waited for
    return path


def _pixels(picture: Any, size: tuple[int, int] | None, resize: Resize) -> np.ndarray:
    from PIL import Image

    if size is not None:
        box = None if resize == "stretch" else _middle(picture.size, size[::-1])
        picture = picture.resize(size[::-1], Image.Resampling.BOX, box)
    array = np.asarray(picture)
    return array if array.ndim == 3 else array[:, :, None]


def _middle(
    size: tuple[int, int], wanted: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the edges of the largest box of a shape in the middle of a picture.

    Args:
        size: Width and height of the picture.
        wanted: Width and height of which the box has the shape.
    """
    scale = min(have / want for have, want in zip(size, wanted, strict=True))
    left, top = (
        (have - scale * want) / 2 for have, want in zip(size, wanted, strict=True)
    )
    return left, top, size[0] - left, size[1] - top


def _num_bytes(picture: bytes | Path) -> int:
    if isinstance(picture, bytes):
        return len(picture)
    return picture.stat().st_size if os.path.isfile(picture) else 0


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "Pillow knows no picture format like it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
