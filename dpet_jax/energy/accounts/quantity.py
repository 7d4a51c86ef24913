"""An amount of energy with its quality and its k=2 interval."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dpet_jax.energy.probes.source import JOULES_PER_WH, Quality, Source
from dpet_jax.energy.sensing.curve import Totals


class QualityError(ValueError):
    """Energies of different quality cannot be added or compared."""


@dataclass(frozen=True)
class Energy:
    """An amount of energy and how well it is known.

    Attributes:
        wh: Watt-hours; None if unavailable.
        quality: Whether it comes from sensors or a model; "unavailable" without either.
        gain_wh: Half width of the k=2 interval that all measurements with the same
            sensors share; it cancels in their ratios.
        low_wh: Lower end of the k=2 interval without that share.
        high_wh: Its upper end.
        channels: What was measured.
        reasons: Why nothing was.
    """

    wh: float | None
    quality: Quality
    gain_wh: float = 0.0
    low_wh: float = 0.0
    high_wh: float = 0.0
    channels: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def interval_wh(self) -> tuple[float, float] | None:
        """The k=2 interval; for a model, its lowest and highest assumption."""
        if self.wh is None:
            return None
        return (
            max(0.0, self.wh - math.hypot(self.gain_wh, self.wh - self.low_wh)),
            self.wh + math.hypot(self.gain_wh, self.high_wh - self.wh),
        )

    def __add__(self, other: "Energy") -> "Energy":
        """Add another stretch of time of the same measurement.

        Raises:
            QualityError: If one is measured and the other is not.
        """
        if self.quality != other.quality:
            raise QualityError(
                f"cannot add {self.quality} and {other.quality} energy; report each"
            )
        if self.wh is None or other.wh is None:
            return self
        wh = self.wh + other.wh
        low = math.hypot(self.wh - self.low_wh, other.wh - other.low_wh)
        high = math.hypot(self.high_wh - self.wh, other.high_wh - other.wh)
        if self.quality == "modelled":  # assumptions do not average out
            low = self.wh - self.low_wh + other.wh - other.low_wh
            high = self.high_wh - self.wh + other.high_wh - other.wh
        return Energy(
            wh,
            self.quality,
            self.gain_wh + other.gain_wh,
            wh - low,
            wh + high,
            tuple(dict.fromkeys(self.channels + other.channels)),
        )

    def ratio(self, other: "Energy") -> tuple[float, float, float]:
        """Return this over another energy, and the k=2 interval of that.

        What the same sensors get wrong by the same factor cancels. Of models nothing
        does: the ends are those where the one assumes least and the other most.

        Raises:
            QualityError: If they differ in quality, or one is not available or zero.
        """
        if self.quality != other.quality or not self.wh or not other.wh:
            raise QualityError(
                f"cannot compare {self.quality} ({self.wh} Wh) with {other.quality} "
                f"({other.wh} Wh) energy"
            )
        ratio = self.wh / other.wh
        if self.quality == "modelled":
            most = self.high_wh / other.low_wh if other.low_wh > 0 else math.inf
            return ratio, max(0.0, self.low_wh) / other.high_wh, most
        shared = set(self.channels) == set(other.channels)
        relative = math.hypot(
            (self.high_wh - self.low_wh) / (2 * self.wh),
            (other.high_wh - other.low_wh) / (2 * other.wh),
            0.0 if shared else self.gain_wh / self.wh,
            0.0 if shared else other.gain_wh / other.wh,
        )
        return ratio, max(0.0, ratio * (1 - relative)), ratio * (1 + relative)

    def __str__(self) -> str:
        """Return it as a person would write it, with quality and interval."""
        interval = self.interval_wh
        if self.wh is None or interval is None:
            return f"not measurable here ({'; '.join(self.reasons) or 'no source'})"
        low, high = interval
        text = f"{self.wh:.4g} Wh [{low:.4g}, {high:.4g}]"
        return text if self.quality == "measured" else f"≈ {text} MODELLED"


def measured(parts: Iterable[tuple[str, Source, Totals, float, float]]) -> Energy:
    """Turn the sums of channels into an energy.

    Args:
        parts: For each channel its name, the source that counts, its sums, in
            how many seconds, and the variance of the edges in J².
    """
    energy_j = gain_j = variance_j2 = missed_j = below_j = above_j = 0.0
    channels = []
    for name, source, totals, seconds, edge_j2 in parts:
        channels.append(name)
        energy_j += totals.energy_j
        gain_j += source.rel_uncertainty * totals.energy_j
        variance_j2 += totals.variance_j2 + edge_j2
        variance_j2 += _unseen_j2(source, totals, seconds)
        # in seconds that were not measured it may have drawn all that it can
        missed_j += source.max_w * max(0.0, totals.unmeasured_s)
        # the interval reaches to what other sensors of the same component give
        below_j += max(0.0, totals.over_power_j, totals.over_counter_j)
        above_j += max(0.0, -totals.over_power_j, -totals.over_counter_j)
    wh, random_j = energy_j / JOULES_PER_WH, 2 * math.sqrt(max(0.0, variance_j2))
    return Energy(
        wh,
        "measured",
        gain_j / JOULES_PER_WH,
        wh - max(random_j, below_j) / JOULES_PER_WH,
        wh + (max(random_j, above_j) + missed_j) / JOULES_PER_WH,
        tuple(channels),
    )


def modelled(parts: Iterable[tuple[str, Totals]]) -> Energy:
    """Turn the sums of models into an energy; the interval is that of assumptions.

    Args:
        parts: For each channel its name and its sums.
    """
    named = list(parts)
    wh, low, high = (
        sum(getattr(totals, key) for _, totals in named) / JOULES_PER_WH
        for key in ("energy_j", "low_j", "high_j")
    )
    channels = tuple(name for name, _ in named)
    return Energy(wh, "modelled", 0.0, low, high, channels)


def _unseen_j2(source: Source, totals: Totals, seconds: float) -> float:
    """Return the variance from the time that a sensor does not sample."""
    if source.kind == "counter" or totals.samples < 2 or seconds <= 0:
        return 0.0
    period_s = seconds / totals.samples
    mean_w = totals.sum_w / totals.samples
    variance_w2 = max(0.0, totals.sum_w2 / totals.samples - mean_w**2)
    updates = max(1.0, seconds / max(period_s, source.update_period_s or 0.0))
    return variance_w2 * (1 - source.coverage(period_s)) / updates * seconds**2
