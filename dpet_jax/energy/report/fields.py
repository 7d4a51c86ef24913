"""What a report's dictionary says, and None where it says nothing."""

import math
from collections.abc import Mapping
from typing import Any


def part(whole: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a dictionary inside another; an empty one if there is none."""
    return whole.get(key) or {}


def parts(whole: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return a list of dictionaries inside one; an empty one if there is none."""
    return whole.get(key) or []


def number(value: Any) -> int | float | None:
    """Return a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def text(value: Any) -> str | None:
    """Return a text, truth in lower case as JSON has it; None if it is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None or value == "" else str(value)


def joined(values: Any) -> str | None:
    """Return several texts as one; None if there are none."""
    return "; ".join(str(one) for one in values or () if one is not None) or None


def ends(interval: Any) -> tuple[int | float | None, int | float | None]:
    """Return the low and the high end of an interval; None where there is none."""
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return None, None
    return number(interval[0]), number(interval[1])


def known(**values: Any) -> dict[str, Any]:
    """Leave out what is None."""
    return {key: value for key, value in values.items() if value is not None}
