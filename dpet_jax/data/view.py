"""What of a stored picture a network sees, and at which size.

JAX is imported by the functions, so that a config can be read without it.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

from jaxtyping import Float32, UInt8

from dpet_jax.section import Fraction, Section, Side

Array: TypeAlias = Any  # of JAX, or while nothing is on the device of NumPy


class Box(NamedTuple):
    """A part of a picture, or one part of each picture of a batch, in pixels.

    Attributes:
        top: Of its first row, from 0; need not be whole.
        left: Of its first column.
        height: Rows.
        width: Columns.
    """

    top: Float32[Array, " *b"]
    left: Float32[Array, " *b"]
    height: Float32[Array, " *b"]
    width: Float32[Array, " *b"]


class View(Section):
    """What of each stored picture a network sees where nothing is random.

    Hashable, because evaluation is compiled for it.

    Attributes:
        input_size: Side in pixels; None where pictures keep their stored size.
        evaluation_crop: Share of each side that is seen, in the middle.
        resize: How pictures of other shapes came to the stored one, which is done while
            they are decoded.
    """

    input_size: Side | None = None
    evaluation_crop: Fraction = 1.0
    resize: Literal["stretch", "crop"] = "stretch"

    def shape(self, stored: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return height, width and channels that the network sees.

        Args:
            stored: Those of a stored picture.
        """
        size = self.input_size
        return stored if size is None else (size, size, stored[2])

    def of(
        self, pixels: UInt8[Array, "b h w c"]
    ) -> UInt8[Array, "b h w c"] | Float32[Array, "b h2 w2 c"]:
        """Return what is seen of pictures: themselves, where that is all of them."""
        height, width, channels = pixels.shape[1:]
        size = self.shape((height, width, channels))[:2]
        share = self.evaluation_crop
        if share == 1:
            return resized(pixels, size)
        margin = (1 - share) / 2
        box = Box(margin * height, margin * width, share * height, share * width)
        return resampled(pixels, _single(box), size)


#: Whole images, as they are stored.
WHOLE = View()


def resized(
    pixels: UInt8[Array, "b h w c"], size: tuple[int, int]
) -> UInt8[Array, "b h w c"] | Float32[Array, "b h2 w2 c"]:
    """Return pictures resized as a whole; themselves, where they have the size."""
    height, width = pixels.shape[1:3]
    if (height, width) == size:
        return pixels
    return resampled(pixels, _single(Box(0, 0, height, width)), size)


def resampled(
    pixels: UInt8[Array, "b h w c"], box: Box, size: tuple[int, int]
) -> Float32[Array, "b h2 w2 c"]:
    """Resize a part of each picture, linearly, averaging where it shrinks.

    A pixel of the result is a mean of stored ones, weighted by a triangle that is as
    wide as two of its own pixels, or two stored ones where those are larger. So each
    picture is multiplied by two small matrices, which every platform is good at; a
    gather of four neighbours takes a CPU 2 to 12 times as long, and aliases, and JAX's
    function, example by example, 1.4 to 2 times as long.

    Args:
        pixels: Stored pictures.
        box: What is seen of all of them, or of each; inside the picture.
        size: Height and width of the result.

    Returns:
        Pixels, 0 to 255, not rounded.

    Source:
        The weights of `jax.image.scale_and_translate` with antialiasing, and of
        Pillow's BILINEAR filter.
    """
    import jax.numpy as jnp

    height, width = pixels.shape[1:3]
    rows = _weights(height, size[0], box.top, box.height)
    columns = _weights(width, size[1], box.left, box.width)
    each = "b" if rows.ndim == 3 else ""
    exact: Any = {"precision": "highest"}
    # rows first: they multiply pixels as they lie
    seen = jnp.einsum(f"{each}ih,bhwc->biwc", rows, pixels.astype(jnp.float32), **exact)
    return jnp.einsum(f"{each}jw,biwc->bijc", columns, seen, **exact)


def _weights(stored: int, seen: int, start: Any, extent: Any) -> Any:
    """Return what each pixel along an axis of the result takes of each stored one."""
    import jax.numpy as jnp

    scale = jnp.asarray(extent, jnp.float32)[..., None] / seen
    middle = jnp.arange(seen, dtype=jnp.float32) + 0.5
    middle = jnp.expand_dims(middle, range(scale.ndim - 1))
    centre = jnp.asarray(start, jnp.float32)[..., None] + middle * scale
    pixel = jnp.arange(stored, dtype=jnp.float32) + 0.5
    pixel = jnp.expand_dims(pixel, range(centre.ndim))
    distance = jnp.abs(pixel - centre[..., None]) / jnp.maximum(scale, 1.0)[..., None]
    weights = jnp.maximum(1.0 - distance, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _single(box: Any) -> Box:
    import numpy as np

    return Box(*map(np.float32, box))
