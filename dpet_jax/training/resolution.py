"""Progressive resolution: a network that sees small images first, then ever larger."""

import math
import sys
from typing import NamedTuple

from pydantic import Field, model_validator

from dpet_jax.methods.base import Span
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD, Network
from dpet_jax.section import PositiveShare, Section, Share, Side


class ResolutionConfig(Section):
    """Train on small images first, whatever the method, and evaluate on large ones.

    The side grows by `step` pixels at a time, in equal parts of the schedule from
    `begin_at` to `end_at`, up to what the network sees anyway. A program is compiled
    for each side, before training begins. A visit costs the operations of its own side,
    so that a budget of epochs lasts for more visits.

    Source:
        Howard (2018), "Training ImageNet in 3 hours for USD 25", where it is called
        progressive resizing; the ramp is that of Leclerc et al. (2023), "FFCV:
        Accelerating Training by Removing Data Bottlenecks".
    """

    start: Side = Field(description="side of the first images, in pixels")
    step: Side = Field(32, description="pixels from one side to the next")
    begin_at: Share = Field(0.0, description="share of the schedule at the first side")
    end_at: PositiveShare = Field(
        0.8, description="share of the schedule from which the last side is seen"
    )

    @model_validator(mode="after")
    def _begins_before_its_end(self) -> "ResolutionConfig":
        if self.begin_at >= self.end_at:
            raise ValueError(
                f"begin_at is {self.begin_at:g} but end_at is {self.end_at:g}; the "
                "first comes before the second"
            )
        return self

    def ladder(self, last: int) -> "Ladder":
        """Return the sides and where each begins.

        Args:
            last: Side of what the network sees in the end, above `start`.
        """
        sides = (*range(self.start, last, self.step), last)
        part = (self.end_at - self.begin_at) / (len(sides) - 1)
        later = [self.begin_at + number * part for number in range(1, len(sides) - 1)]
        return Ladder(sides, (0.0, *later, self.end_at))


class Ladder(NamedTuple):
    """Sides of the images that a network is trained on, one after the other.

    Attributes:
        sides: In pixels, ascending; None stands for images as they are stored.
        starts: Share of the schedule from which each is seen; the first is 0.
    """

    sides: tuple[int | None, ...]
    starts: tuple[float, ...] = (0.0,)

    def at(self, span: Span, visits: int) -> tuple[int | None, int | None]:
        """Return the side at a place, and the visits until it is another one.

        It depends on the place alone, so that a run resumed there sees the same.

        Args:
            span: Where the plan lies on the schedule.
            visits: Of the plan so far.

        Returns:
            The side, and the visits, at least 1; None if it is the last side.
        """
        begins = [math.ceil(share * span.horizon) for share in self.starts]
        done = span.start + visits
        number = sum(begin <= done for begin in begins) - 1
        ahead = begins[number + 1 :]
        return self.sides[number], ahead[0] - done if ahead else None


class Level(NamedTuple):
    """How a network is trained at a place of the schedule.

    Attributes:
        train_flops: FLOPs of one example's training visit.
        visits_left: Visits until that is another number; None if it stays.
    """

    train_flops: int
    visits_left: int | None

    def steps(self, batch_size: int) -> int:
        """Count the steps until then, of which the last may go past it; many if never.

        Args:
            batch_size: Rows of a step.
        """
        left = self.visits_left
        return sys.maxsize if left is None else -(-left // batch_size)


def level_at(
    ladder: Ladder,
    network: Network,
    input_shape: tuple[int, int, int],
    span: Span,
    visits: int,
) -> Level:
    """Return how a network is trained at a place of the schedule.

    Args:
        ladder: Sides of its images.
        network: The network.
        input_shape: Height, width and channels of the last of them.
        span: Where the plan lies on the schedule.
        visits: Of the plan so far.
    """
    side, left = ladder.at(span, visits)
    size = input_shape[:2] if side is None else (side, side)
    return Level(TRAIN_FLOPS_PER_FORWARD * network.forward_flops(*size), left)
