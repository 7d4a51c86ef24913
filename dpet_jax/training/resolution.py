"""How large training images are, by how far a run is.

Smaller images at first cost less; the last part of a run, and every evaluation, has
their own size.
"""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Resolution:
    """Sizes of the images over the visits of a run.

    Attributes:
        stages: The visits of the main model until which a size is used, ascending, and
            the pixels of the shorter side; after the last stage it is their own size.
    """

    stages: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_shares(
        cls, shares: tuple[tuple[float, int], ...], planned_visits: int
    ) -> "Resolution":
        """Return the sizes of a run of so many visits.

        Args:
            shares: Of the visits, until which a size is used, ascending; and the size.
            planned_visits: What the method plans in all.
        """
        return cls(
            tuple((round(share * planned_visits), pixels) for share, pixels in shares)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every size but the images' own, once."""
        return tuple(dict.fromkeys(pixels for _, pixels in self.stages))

    def pixels(self, visits: int) -> int | None:
        """Return the size of a step after so many visits; None for their own size."""
        return next((pixels for until, pixels in self.stages if visits < until), None)

    def steps_left(self, visits: int, batch_size: int) -> int:
        """Count the steps of the size that a step after so many visits has.

        A step keeps the size that it begins with. At their own size that is more steps
        than any run takes.
        """
        end = next((until for until, _ in self.stages if visits < until), None)
        return sys.maxsize if end is None else -(-(end - visits) // batch_size)


#: Images are of their own size throughout.
FULL = Resolution()


def shrunk(shape: tuple[int, ...], pixels: int | None) -> tuple[int, int]:
    """Return height and width when the shorter side has so many pixels.

    Args:
        shape: Height and width.
        pixels: Of the shorter side; None leaves the shape as it is.
    """
    height, width = shape
    if pixels is None:
        return height, width
    share = pixels / min(shape)
    return max(1, round(height * share)), max(1, round(width * share))
