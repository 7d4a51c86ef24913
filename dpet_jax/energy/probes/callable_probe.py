"""A power or energy meter of the user's own, read by a Python function."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from dpet_jax.energy.probes.source import JOULES_PER_WH, Kind, Source, as_number

Unit = Literal["W", "mW", "kW", "J", "mJ", "Wh", "kWh"]

_WATTS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
_JOULES = {"J": 1.0, "mJ": 1e-3, "Wh": JOULES_PER_WH, "kWh": 1e3 * JOULES_PER_WH}
_UNITS = {"power": _WATTS, "counter": _JOULES}


@dataclass
class CallableProbe:
    """Ask a function for the power of something, or for the energy it has used.

    The meter may be a PDU, IPMI or a smart plug. What the function raises counts as a
    failed reading, as do None, NaN, an infinity, a negative number and a truth value:
    none of them is ever taken for zero.

    A counter that moves in large steps, such as a smart plug's 0.01 kWh, is known only
    to a step, which the meter sees and counts in; before the first nothing is known.

    Attributes:
        ask: Returns the reading in `unit`; called ten times a second, so it should
            answer at once from what it read last.
        name: What the meter is, such as "PDU outlet 7".
        kind: "power" for what is drawn now, "counter" for the energy up to now.
        unit: "W", "mW" or "kW" of a power, "J", "mJ", "Wh" or "kWh" of a counter.
        rel_uncertainty: Half width of the meter's k=2 interval, relative, in [0, 1):
            0.01 for a meter good to 1 %; see the meter's data sheet.
        component: What is measured.
        scope: What its numbers cover.
        update_period_s: How often the meter has a new number; None if unknown.
        sensor_window_s: Time that one number averages over; None if unknown, which is
            taken for a moment: what happens between two readings is then not seen.
        wrap: Reading, in `unit`, at which a counter starts at 0 again.
        max_w: Power in watts beyond which a reading is not believed; a node of eight
            accelerators draws 10 kW.

    Raises:
        ValueError: If an argument is out of range or does not fit `kind`.
    """

    ask: Callable[[], Any]
    _: KW_ONLY
    name: str
    kind: Kind
    unit: Unit
    rel_uncertainty: float
    component: str = "node"
    scope: str = "node"
    update_period_s: float | None = None
    sensor_window_s: float | None = None
    wrap: float | None = None
    max_w: float = 20_000.0
    id: str = field(init=False)
    sources: tuple[Source, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Check the arguments and turn them into a source."""
        _check(self)
        self._factor = _UNITS[self.kind][self.unit]
        self.id = f"{self.component}:{self.name}"
        self.sources = (
            Source(
                self.name,
                self.kind,
                rel_uncertainty=self.rel_uncertainty,
                update_period_s=self.update_period_s,
                sensor_window_s=self.sensor_window_s,
                wrap_j=None if self.wrap is None else self.wrap * self._factor,
                max_w=self.max_w,
            ),
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the reading in joules or watts; None if there is no such number."""
        reading = self.ask()
        if reading is None:
            return (None,)
        value = as_number(reading) * self._factor
        return (value if math.isfinite(value) and value >= 0 else None,)

    def facts(self) -> dict[str, Any]:
        """Return the name of the meter; what else is connected to it is not known."""
        return {"name": self.name, "unit": self.unit, "foreign_processes": None}

    def close(self) -> None:
        """Do nothing: the function is the user's."""


def _check(probe: CallableProbe) -> None:
    if not probe.name.strip():
        raise ValueError("name is empty; say what the meter is, such as 'PDU outlet 7'")
    if probe.kind not in _UNITS:
        raise ValueError(f"kind is {probe.kind!r}; give one of {tuple(_UNITS)}")
    units = tuple(_UNITS[probe.kind])
    if probe.unit not in units:
        raise ValueError(
            f"unit is {probe.unit!r}, which is not of a {probe.kind}; give one of "
            f"{units}, or another kind"
        )
    if probe.rel_uncertainty is False or not 0 <= probe.rel_uncertainty < 1:
        raise ValueError(
            f"rel_uncertainty is {probe.rel_uncertainty}; give a share in [0, 1), such "
            "as 0.01 for a meter good to 1 %"
        )
    if probe.wrap is not None and probe.kind != "counter":
        raise ValueError(f"wrap is {probe.wrap}, but only a counter starts at 0 again")
    for key in ("update_period_s", "sensor_window_s", "wrap", "max_w"):
        value = getattr(probe, key)
        if value is not None and (value is True or not 0 < value < math.inf):
            raise ValueError(f"{key} is {value}; give a number above 0")
