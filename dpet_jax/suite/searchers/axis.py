"""What a search varies: the values that a key of a config may have."""

import json
import math
from dataclasses import dataclass
from typing import Any

from dpet_jax.config import yaml12
from dpet_jax.errors import UserError


@dataclass(frozen=True)
class Axis:
    """The values that a key of a config may have.

    Attributes:
        key: Dotted, as on the command line.
        choices: Its values as they are written, or empty for a range.
        low: Least value of a range.
        high: Largest value, included.
        log: Whether equal factors are equally likely, instead of equal steps.
        whole: Whether the values of the range are whole numbers.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: int | float = 0.0
    high: int | float = 0.0
    log: bool = False
    whole: bool = False

    @classmethod
    def of(cls, text: str) -> "Axis":
        """Read `KEY=A,B,C` or `KEY=LOW..HIGH`, after which ` log` may stand.

        Raises:
            UserError: If it is neither.
        """
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not all(key.split(".")):
            raise UserError(
                f"--vary: {text!r} names no key and values; write KEY=A,B,C or "
                "KEY=LOW..HIGH or KEY='LOW..HIGH log'"
            )
        if ".." not in values:
            choices = _choices(key, values)
            return cls(key, choices)
        ends, *flags = values.split()
        try:
            low, high = (yaml12.read(end) for end in ends.split(".."))
        except (ValueError, yaml12.NotYamlError):
            low = high = None
        numbers = [isinstance(end, int | float) for end in (low, high)]
        if not all(numbers) or isinstance(low, bool) or isinstance(high, bool):
            raise UserError(
                f"--vary: {key}: {ends!r} is no range; write LOW..HIGH, such as 0.01..1"
            )
        if flags not in ([], ["log"]):
            raise UserError(
                f"--vary: {key}: {' '.join(flags)!r} after a range; only log may "
                "stand there"
            )
        if not -math.inf < low < high < math.inf:
            raise UserError(f"--vary: {key}: {ends} is empty; give the smaller first")
        if flags and low <= 0:
            raise UserError(
                f"--vary: {key}: {ends} log: a logarithm needs numbers above 0"
            )
        whole = isinstance(low, int) and isinstance(high, int)
        log = bool(flags)
        return cls(key, low=float(low), high=float(high), log=log, whole=whole)

    @property
    def edges(self) -> tuple[str, ...]:
        """The values to try a config with: all choices, or the ends of the range."""
        return self.choices or tuple(map(self.text_of, (self.low, self.high)))

    @property
    def distribution(self) -> Any:
        """Optuna's form of it."""
        from optuna import distributions as kinds

        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        if self.whole:
            low, high = int(self.low), int(self.high)
            return kinds.IntDistribution(low, high, log=self.log)
        return kinds.FloatDistribution(self.low, self.high, log=self.log)

    def text_of(self, value: Any) -> str:
        """Return a value of optuna's as it is written on the command line."""
        if self.choices:
            return str(value)
        return str(int(value)) if self.whole else f"{value:.4g}"

    def share_of(self, value: Any) -> float:
        """Return where a value of optuna's lies, from 0 for the first to 1."""
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        low, high, value = map(self.scaled, (self.low, self.high, value))
        return float((value - low) / (high - low))

    def value_at(self, share: float) -> Any:
        """Return the value of optuna's that lies at a share, in [0, 1].

        Choices and whole numbers have equal parts of it each.
        """
        if self.choices:
            place = min(int(share * len(self.choices)), len(self.choices) - 1)
            return self.choices[place]
        low, high = self.low, self.high
        if self.whole:  # every number is as wide as the next
            low, high = low - 0.5, high + 0.5
        low, high = self.scaled(low), self.scaled(high)
        value = self.unscaled(low + share * (high - low))
        if self.whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(value, float(self.low)), float(self.high))

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """What the choices are as numbers; None if one of them is none."""
        read = [yaml12.read(text) for text in self.choices]
        if not all(isinstance(n, int | float) for n in read):
            return None
        if any(isinstance(n, bool) for n in read):
            return None
        return tuple(map(float, read))

    def scaled(self, value: Any) -> float:
        """Return a number of the range on the scale where all are equally likely."""
        return math.log(value) if self.log else float(value)

    def unscaled(self, value: float) -> float:
        """Return the number that `scaled` turned into this."""
        return math.exp(value) if self.log else value


def _choices(key: str, values: str) -> tuple[str, ...]:
    """Split values at the commas that stand in no bracket."""
    try:
        read = yaml12.read(f"[{values}]")
    except yaml12.NotYamlError as error:
        raise UserError(f"--vary: {key}: not YAML: {error}") from error
    written = tuple(
        one if isinstance(one, str) else json.dumps(one)
        for one in (read if isinstance(read, list) else ())
    )
    if len(written) < 2 or len({*written}) < len(written):
        raise UserError(
            f"--vary: {key}: {values!r} leaves no choice; give two values or more, "
            "each once"
        )
    return written
