"""How the learning rate changes: one class a schedule, its keys and its rate.

To add one, write its class and enter it in `SCHEDULES`. All of them are compiled into
every training program, and a traced number selects one, so that changing a schedule
never compiles again. Nothing here imports JAX before it is needed.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32
from pydantic import Field

from dpet_jax.section import Kind, NonNegative, Positive, PositiveShare, UpToOne
from dpet_jax.training.traced import numbers_of, with_numbers, without_numbers


class ScheduleSection(Kind):
    """How the learning rate changes.

    A schedule of your own is a subclass with keys and `rate`; a config names it by its
    import path.

    Attributes:
        climbs_again: Whether it goes on past its horizon where a plan says so, instead
            of staying at its last rate.
    """

    climbs_again: ClassVar[bool] = False

    @abstractmethod
    def rate(self, peak: Any, progress: Any) -> Any:
        """Return the learning rate; all numbers, the section's too, may be traced.

        Args:
            peak: Learning rate of the optimizer.
            progress: Share of the horizon that is over, from 0 to 1.
        """


class Constant(ScheduleSection):
    """The peak learning rate throughout."""

    kind: Literal["constant"] = "constant"

    def rate(self, peak: Any, progress: Any) -> Any:
        """Return the peak."""
        del progress
        return peak


HORIZON: Any = Field(
    "plan",
    description="plan: restarts with each; method: once over all the method plans; "
    "a number: once over so many epochs",
)


class _Falling(ScheduleSection):
    """What schedules with an end share."""

    horizon: Literal["plan", "method"] | Positive = HORIZON
    final_learning_rate: NonNegative = Field(
        0.0, description="at the end of the schedule"
    )


class Linear(_Falling):
    """A straight line from the peak to the final learning rate."""

    kind: Literal["linear"] = "linear"

    def rate(self, peak: Any, progress: Any) -> Any:
        """Return the rate at a point of the line."""
        return peak - (peak - self.final_learning_rate) * progress


class Cosine(_Falling):
    """Half a cosine from the peak to the final learning rate, no restarts inside."""

    kind: Literal["cosine"] = "cosine"
    #: As PyTorch's does.
    climbs_again: ClassVar[bool] = True

    def rate(self, peak: Any, progress: Any) -> Any:
        """Return the rate at a point of the half wave."""
        import jax.numpy as jnp

        span = peak - self.final_learning_rate
        return self.final_learning_rate + span * 0.5 * (
            1.0 + jnp.cos(jnp.pi * progress)
        )


class Step(ScheduleSection):
    """The peak learning rate, which falls by a factor after each stretch (StepLR)."""

    kind: Literal["step"] = "step"
    horizon: Literal["plan", "method"] | Positive = HORIZON
    every: PositiveShare = Field(1 / 3, description="share of the horizon, a stretch")
    factor: PositiveShare = Field(0.1, description="of the rate, at each fall")

    def rate(self, peak: Any, progress: Any) -> Any:
        """Return the rate of the stretch."""
        import jax.numpy as jnp

        # shares such as 1/3 have no exact float32: the last step of a stretch is in it
        stretches = jnp.floor(progress / self.every + 1e-6)
        last = jnp.ceil(1.0 / self.every - 1e-6) - 1.0
        return peak * self.factor ** jnp.minimum(stretches, last)


class Triangular(_Falling):
    """Up in a straight line to the peak, then down (one-cycle)."""

    kind: Literal["triangular"] = "triangular"
    start_fraction: UpToOne = Field(0.2, description="of the peak, at first")
    peak_at: PositiveShare = Field(0.25, description="share of the horizon")

    def rate(self, peak: Any, progress: Any) -> Any:
        """Return the rate at a point of the two lines."""
        import jax.numpy as jnp

        start = peak * self.start_fraction
        rising = start + (peak - start) * (progress / self.peak_at)
        falling = peak - (peak - self.final_learning_rate) * (
            progress - self.peak_at
        ) / (1.0 - self.peak_at)
        return jnp.where(progress < self.peak_at, rising, falling)


#: What `schedule.kind` may name without an import path; the first is the default.
SCHEDULES: tuple[type[ScheduleSection], ...] = (
    Cosine,
    Constant,
    Linear,
    Triangular,
    Step,
)


def _static(section: ScheduleSection) -> ScheduleSection:
    """Return what is compiled in; the horizon is the training loop's affair."""
    static = without_numbers(section)
    known = "horizon" in type(section).model_fields
    return static.model_copy(update={"horizon": "plan"}) if known else static


#: Those, as they are compiled into every training program.
BUILT_IN = tuple(_static(schedule()) for schedule in SCHEDULES)


class Schedule(NamedTuple):
    """A learning rate over the visits of its horizon, all numbers traced.

    Attributes:
        member: Position among the schedules that are compiled in.
        peak: Largest learning rate.
        keys: Numbers of each of them, by key; those of the others do not matter.
        horizon: Visits after which the schedule has ended and the rate stays.
        cyclic: Let a schedule that can climb again do so past its horizon.
    """

    member: Int32[Any, ""]
    peak: Float32[Any, ""]
    keys: tuple[dict[str, Any], ...]
    horizon: Float32[Any, ""]
    cyclic: Bool[Any, ""]

    def passed(self, visits: Int32[Any, ""]) -> Float32[Any, ""]:
        """Return the share of the horizon that is over; above 1 past it.

        Args:
            visits: Examples trained on since the schedule began.
        """
        return visits.astype("float32") / self.horizon


def schedules_with(section: ScheduleSection) -> tuple[ScheduleSection, ...]:
    """Return the schedules to compile in: ours, and after them one that is not."""
    own = _static(section)
    return BUILT_IN if own in BUILT_IN else (*BUILT_IN, own)


def traced_schedule(section: ScheduleSection, peak: float) -> Schedule:
    """Collect the traced numbers of a schedule, over a horizon of one visit.

    Args:
        section: The schedule.
        peak: Learning rate of the optimizer.
    """
    members = schedules_with(section)
    chosen = members.index(_static(section))
    sections = [
        section if position == chosen else type(member)()
        for position, member in enumerate(members)
    ]
    return Schedule(
        member=np.int32(chosen),
        peak=np.float32(peak),
        keys=tuple(numbers_of(each, but=("horizon",)) for each in sections),
        horizon=np.float32(1),
        cyclic=np.bool_(False),
    )


def learning_rate(
    schedule: Schedule,
    visits: Int32[Any, ""],
    members: tuple[ScheduleSection, ...] = BUILT_IN,
) -> Float32[Any, ""]:
    """Evaluate a schedule.

    Args:
        schedule: The schedule.
        visits: Examples trained on since the schedule began, before this step. A step
            over part of a batch thus moves the schedule by its real rows alone.
        members: From `schedules_with`.

    Returns:
        The learning rate of the step.
    """
    import jax.numpy as jnp

    passed = schedule.passed(visits)
    stopped = jnp.minimum(passed, 1.0)
    rates = []
    for member, keys in zip(members, schedule.keys, strict=True):
        progress = stopped
        if member.climbs_again:
            progress = jnp.where(schedule.cyclic, passed, stopped)
        rates.append(with_numbers(member, keys).rate(schedule.peak, progress))
    # all are computed, for at a branch an accelerator would wait for the host
    return jnp.stack(rates)[schedule.member]
