"""Augmentation inside the training step, as a choice of source coordinates.

Translating with a reflected border and mirroring only decide which pixel of the stored
image each output pixel reads, so both are one gather and no padded copy of the data
exists. All strengths are traced: changing them never compiles again. JAX is imported
by the functions, so that a config can be read without it.
"""

from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Bool, Float32, Int32, Key, UInt8
from pydantic import Field

from dpet_jax.section import CountFromZero, PositiveShare, Section

Array: TypeAlias = Any  # of JAX, or while nothing is on the device of NumPy


class AugmentConfig(Section):
    """Random changes to each training image, drawn anew at every visit."""

    translate: CountFromZero = Field(0, description="pixels, reflected at the border")
    flip: bool = Field(False, description="mirror half of the images")
    cutout: CountFromZero = Field(0, description="side of the square, 0 for none")
    cutout_ramp: PositiveShare | None = Field(
        None, description="share of the schedule in which the side grows from 0"
    )


class Augmentation(NamedTuple):
    """Strengths of the random changes, traced scalars.

    Attributes:
        translate: Largest shift in pixels, each way and direction; less than the side.
        flip: Whether half of the images are mirrored.
        cutout: Side of the square set to the mean colour, 0 for none.
        cutout_ramp: Share of the schedule in which the side grows up to this, above 0;
            None where it does not.
    """

    translate: Int32[Array, ""]
    flip: Bool[Array, ""]
    cutout: Int32[Array, ""]
    cutout_ramp: Float32[Array, ""] | None = None

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
    images: UInt8[Array, "b h w c"],
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
) -> tuple[UInt8[Array, "b h w c"], Bool[Array, "b h w 1"]]:
    """Gather rows, each shifted and mirrored at random, with their cutout squares.

    Args:
        key: One key for the batch.
        images: The whole data set, or those of it that are on the device.
        rows: Which of them, each in [0, n).
        augmentation: Strengths.

    Returns:
        The batch, and a mask that is False inside each image's cutout square. The
        square's centre is uniform over the image; at the border the square is clipped.

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
    gathered = images[
        rows[:, None, None], source_row[:, :, None], source_column[:, None, :]
    ]

    centre = jax.random.uniform(cutout_key, (2, batch, 1))
    inside_row = _inside(centre[0], height, augmentation.cutout)
    inside_column = _inside(centre[1], width, augmentation.cutout)
    cut = inside_row[:, :, None] & inside_column[:, None, :]
    return gathered, ~cut[..., None]


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
