"""The data set on the device, an argument of every compiled program."""

from typing import NamedTuple

from jaxtyping import Array, Float32, Int32, UInt8


class DeviceData(NamedTuple):
    """Training, validation and test rows in one block.

    One block means one shape: a single scoring program serves the pool and both
    evaluation splits.

    Attributes:
        images: Raw pixels; normalised inside the compiled programs.
        labels: Class of each image, in [0, k).
        mean: Of the training split's pixels, in [0, 1].
        std: Of the training split's pixels, in [0, 1].
    """

    images: UInt8[Array, "n h w c"]
    labels: Int32[Array, " n"]
    mean: Float32[Array, " c"]
    std: Float32[Array, " c"]
