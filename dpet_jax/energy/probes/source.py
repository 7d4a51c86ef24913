"""Probes and their sources: what a meter asks of any sensor."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Kind = Literal["counter", "power"]
Quality = Literal["measured", "modelled", "unavailable"]

JOULES_PER_WH = 3600.0


@dataclass(frozen=True)
class Source:
    """One number that a sensor gives, and what it means.

    Attributes:
        method: What is asked, such as "nvmlDeviceGetTotalEnergyConsumption".
        kind: "counter" gives joules since some moment, "power" gives watts.
        rel_uncertainty: Half width of the k=2 interval of the sensor's gain, relative.
        update_period_s: How often the sensor gives a new number; None if unknown.
        sensor_window_s: Time that one number averages over; None if unknown, which is
            taken for a moment.
        wrap_j: Joules at which a counter starts at 0 again; None if it never does.
        max_w: Power beyond which a reading is not believed.
        quality: Whether a sensor or a model gives the number.
    """

    method: str
    kind: Kind
    rel_uncertainty: float = 0.05
    update_period_s: float | None = None
    sensor_window_s: float | None = None
    wrap_j: float | None = None
    max_w: float = 2000.0
    quality: Quality = "measured"

    def coverage(self, period_s: float) -> float:
        """Return the share of the time that readings tell of.

        Args:
            period_s: Seconds between two readings.
        """
        period_s = max(period_s, self.update_period_s or 0.0)
        if self.kind == "counter" or not period_s:
            return 1.0
        return min(1.0, (self.sensor_window_s or 0.0) / period_s)


@runtime_checkable
class Probe(Protocol):
    """One component that draws power: a GPU, a CPU package, a user's meter.

    Attributes:
        id: A name that no other probe has, such as "gpu:GPU-4e1f…".
        component: "gpu", "cpu", "dram", "node" or another word of the user's.
        scope: What its numbers cover: "gpu", "gpu_parent" (of a MIG instance),
            "module", "package", "dram", "psys" or "node".
        sources: Best first. The first that works counts; the others check it.
    """

    id: str
    component: str
    scope: str
    sources: tuple[Source, ...]

    def read(self) -> tuple[float | None, ...]:
        """Ask every source once; joules or watts each, None for one that failed.

        Called ten or twenty times a second from a thread; it may raise, which counts
        as a failure of all.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Return what changes slowly: name, driver, limits, temperature, other users.

        `foreign_processes` among them is True or False, or None if it is not known.
        Called at the start, at the end and every 30 s; may take milliseconds.
        """
        ...

    def close(self) -> None:
        """Release what the probe has opened."""
        ...


def as_number(reading: Any) -> float:
    """Return a reading as a number.

    Raises:
        TypeError: If it is a truth value, as a forgotten comparison gives; or any
            other thing that is no number.
        ValueError: If it is a text without one.
    """
    kind = getattr(getattr(reading, "dtype", None), "kind", None)  # of an array
    if isinstance(reading, bool) or kind == "b":
        raise TypeError(f"{reading} is a truth value, not a number")
    return float(reading)


class Unavailable(NamedTuple):
    """A component that cannot be measured here.

    Attributes:
        component: Which.
        reason: Why not.
        remedy: What a person could do about it.
    """

    component: str
    reason: str
    remedy: str


class Found(NamedTuple):
    """The result of a search for sensors.

    Attributes:
        probes: What can be measured.
        unavailable: What cannot, each with its reason.
    """

    probes: tuple[Probe, ...]
    unavailable: tuple[Unavailable, ...]
