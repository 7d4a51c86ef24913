"""Augmentation inside the training step, as a choice of source coordinates.

Translating with a reflected border and mirroring only decide which pixel of the stored
image each output pixel reads, so both are one gather and no padded copy of the data
exists. What the network sees at another size, or of a random box alone, is resampled
from that. All strengths are traced: changing them never compiles again. JAX is imported
by the functions, so that a config can be read without it.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

from jaxtyping import Bool, Float32, Int32, Key, UInt8
from pydantic import Field, field_validator

from dpet_jax.data.view import Box, resampled, resized
from dpet_jax.section import CountFromZero, Fraction, Number, PositiveShare, Section

Array: TypeAlias = Any  # of JAX, or while nothing is on the device of NumPy

_Aspect = Annotated[float, Field(ge=0.01, le=100), Number]
#: How many boxes are drawn, of which the first that fits is taken.
_TRIES = 10


class CropConfig(Section):
    """Train on a random box of each image, resized to what the network sees.

    Area and aspect are drawn independently, the aspect so that wide and high ones are
    equally likely. Of ten draws the first that fits into the image is taken, at a
    random place; where none does, the largest box of an allowed aspect in the middle.

    Source:
        Szegedy et al. (2015), "Going Deeper with Convolutions", section 6, in the form
        of torchvision's RandomResizedCrop, but that boxes need not be whole pixels.
    """

    area: tuple[Fraction, Fraction] = Field(
        (0.08, 1.0), description="least and largest share of the image"
    )
    aspect: tuple[_Aspect, _Aspect] = Field(
        (3 / 4, 4 / 3), description="least and largest width over height"
    )

    @field_validator("area", "aspect")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(
                f"must be the least and then the largest (got {list(value)}); turn "
                "them round"
            )
        return value

    def traced(self) -> "Crop":
        """Return its numbers as arrays."""
        import numpy as np

        logs = [math.log(each) for each in self.aspect]
        return Crop(np.array(self.area, np.float32), np.array(logs, np.float32))


class Crop(NamedTuple):
    """Numbers of a `CropConfig`, traced.

    Attributes:
        area: Least and largest share of the image.
        log_aspect: Logarithms of the least and the largest width over height.
    """

    area: Float32[Array, "2"]
    log_aspect: Float32[Array, "2"]


class AugmentConfig(Section):
    """Random changes to each training image, drawn anew at every visit."""

    translate: CountFromZero = Field(0, description="pixels, reflected at the border")
    flip: bool = Field(False, description="mirror half of the images")
    crop: CropConfig | None = Field(
        None, description="keys train on a random box of each image"
    )
    cutout: CountFromZero = Field(
        0, description="side of the square in stored pixels, 0 for none"
    )
    cutout_ramp: PositiveShare | None = Field(
        None, description="share of the schedule in which the side grows from 0"
    )


class Augmentation(NamedTuple):
    """Strengths of the random changes, traced scalars.

    Attributes:
        translate: Largest shift in pixels, each way and direction; less than the side.
        flip: Whether half of the images are mirrored.
        cutout: Side of the square set to the mean colour, in stored pixels; 0 for none.
        cutout_ramp: Share of the schedule in which the side grows up to this, above 0;
            None where it does not.
        crop: Which boxes are seen; None where it is the whole image.
    """

    translate: Int32[Array, ""]
    flip: Bool[Array, ""]
    cutout: Int32[Array, ""]
    cutout_ramp: Float32[Array, ""] | None = None
    crop: Crop | None = None

    def at(self, progress: Float32[Array, ""]) -> "Augmentation":
        """Return the strengths at a point of the schedule, where the square grows.

        Args:
            progress: Share of the schedule that is over.
        """
        import jax.numpy as jnp

        share = jnp.minimum(progress / self.cutout_ramp, 1.0)
        side = jnp.round(share * self.cutout.astype(jnp.float32)).astype(jnp.int32)
        return self._replace(cutout=side, cutout_ramp=None)


def normalise(
    images: UInt8[Array, "b h w c"] | Float32[Array, "b h w c"],
    mean: Float32[Array, " c"],
    std: Float32[Array, " c"],
) -> Float32[Array, "b h w c"]:
    """Scale pixels to [0, 1], subtract the mean, divide by the standard deviation."""
    import jax.numpy as jnp

    mean, std = (values[None, None, None] for values in (mean, std))
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def gather_augmented(
    key: Key[Array, ""],
    images: UInt8[Array, "n h w c"],
    rows: Int32[Array, " b"],
    augmentation: Augmentation,
    side: int | None = None,
    mesh: Any = None,
) -> tuple[
    UInt8[Array, "b h2 w2 c"] | Float32[Array, "b h2 w2 c"], Bool[Array, "b h2 w2 1"]
]:
    """Gather rows, each shifted and mirrored at random, with their cutout squares.

    Where there is a box or another side, what was shifted and mirrored is resampled.

    Args:
        key: One key for the batch.
        images: The whole data set, or those of it that are on the device.
        rows: Which of them, each in [0, n).
        augmentation: Strengths.
        side: Of what the network sees, in pixels; by default that of the images.
        mesh: Devices that each have images of their own, among which its part of the
            rows counts; by default all have all.

    Returns:
        The batch, pixels of 0 to 255, and a mask that is False inside each image's
        cutout square. The square's centre is uniform over the image; at the border the
        square is clipped. It grows with the image that the network sees.

    Source:
        DeVries & Taylor (2017), "Improved Regularization of Convolutional Neural
        Networks with Cutout", for the mask.
    """
    import jax
    import jax.numpy as jnp

    batch, (height, width) = rows.shape[0], images.shape[1:3]
    shift_key, flip_key, cutout_key = jax.random.split(key, 3)
    shift = jax.random.randint(
        shift_key, (2, batch, 1), -augmentation.translate, augmentation.translate + 1
    )
    mirrored = augmentation.flip & jax.random.bernoulli(flip_key, 0.5, (batch, 1))
    source_row = _reflect(jnp.arange(height)[None] + shift[0], height)
    source_column = _reflect(jnp.arange(width)[None] + shift[1], width)
    source_column = jnp.where(mirrored, width - 1 - source_column, source_column)

    def gather(images, rows, source_row, source_column):
        return images[
            rows[:, None, None], source_row[:, :, None], source_column[:, None, :]
        ]

    gather = on_each_device(mesh, gather)
    gathered = gather(images, rows, source_row, source_column)

    seen = (height, width) if side is None else (side, side)
    if augmentation.crop is not None:
        # the keys of the split are those folded with 0 to 2, and dropout's is the next
        box_key = jax.random.fold_in(key, 4)
        box = random_boxes(box_key, augmentation.crop, batch, (height, width))
        gathered = resampled(gathered, box, seen)
    else:
        gathered = resized(gathered, seen)

    centre = jax.random.uniform(cutout_key, (2, batch, 1))
    high = _rescaled(augmentation.cutout, height, seen[0])
    wide = _rescaled(augmentation.cutout, width, seen[1])
    inside_row = _inside(centre[0], seen[0], high)
    inside_column = _inside(centre[1], seen[1], wide)
    cut = inside_row[:, :, None] & inside_column[:, None, :]
    return gathered, ~cut[..., None]


def on_each_device(mesh: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Let each device of a mesh call a function on its parts of all arguments.

    Args:
        mesh: Its one axis is called "data"; None to call the function on the whole.
        call: The function.
    """
    import jax
    from jax.sharding import PartitionSpec

    if mesh is None:
        return call
    parts = PartitionSpec("data")
    return jax.shard_map(call, mesh=mesh, in_specs=parts, out_specs=parts)


def random_boxes(
    key: Key[Array, ""], crop: Crop, count: int, size: tuple[int, int]
) -> Box:
    """Draw a box for each of some images; see `CropConfig`.

    Args:
        key: One key for all.
        crop: Which boxes.
        count: How many images.
        size: Height and width of an image.
    """
    import jax
    import jax.numpy as jnp

    height, width = size
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    tries = (_TRIES, count)
    low, high = crop.area
    area = jax.random.uniform(area_key, tries, minval=low, maxval=high)
    low, high = crop.log_aspect
    root = jnp.exp(0.5 * jax.random.uniform(aspect_key, tries, minval=low, maxval=high))
    edge = jnp.sqrt(area * (height * width))
    rows, columns = edge / root, edge * root
    fits = (rows <= height) & (columns <= width)
    # of the whole image, as much as the nearest allowed aspect lets in
    nearest = jnp.exp(jnp.clip(jnp.log(width / height), low, high))
    first, any_fits = jnp.argmax(fits, axis=0)[None], fits.any(axis=0)

    def chosen(drawn, most):
        taken = jnp.take_along_axis(drawn, first, axis=0)[0]
        return jnp.where(any_fits, taken, most)

    rows = chosen(rows, jnp.minimum(height, width / nearest))
    columns = chosen(columns, jnp.minimum(width, height * nearest))
    place = jax.random.uniform(place_key, (2, count))
    top, left = jnp.where(any_fits[None], place, 0.5)
    return Box(top * (height - rows), left * (width - columns), rows, columns)


def _rescaled(side, stored, seen):
    """Return the side of a square in pixels that are seen."""
    import jax.numpy as jnp

    if stored == seen:
        return side
    scaled = jnp.round(side.astype(jnp.float32) * (seen / stored))
    return scaled.astype(jnp.int32)


def _reflect(index, size):
    """Mirror an index at the borders without repeating the border pixel."""
    import jax.numpy as jnp

    index = jnp.abs(index)
    return jnp.where(index >= size, 2 * (size - 1) - index, index)


def _inside(centre, size, side):
    import jax.numpy as jnp

    start = jnp.floor(centre * size).astype(jnp.int32) - side // 2
    position = jnp.arange(size)[None]
    return (position >= start) & (position < start + side)
