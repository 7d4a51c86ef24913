"""Config sections whose numbers are arguments of a compiled program.

A section is split into its numbers, which are traced, and the rest, which is static:
changing a number then never compiles again. Put back together, the section's own
methods compute with traced numbers.
"""

from typing import Any, TypeVar

import numpy as np

from dpet_jax.section import Section

S = TypeVar("S", bound=Section)


def numbers_of(section: Section, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the numbers and switches of a section, by key, as NumPy scalars.

    Args:
        section: The section.
        but: Keys to leave out.
    """
    return {
        name: np.bool_(value) if isinstance(value, bool) else np.float32(value)
        for name, value in section
        if isinstance(value, bool | int | float) and name not in but
    }


def without_numbers(section: S) -> S:
    """Return the static rest: sections that differ in numbers alone become equal."""
    return section.model_copy(update=dict.fromkeys(numbers_of(section), 0.0))


def with_numbers(static: S, numbers: dict[str, Any]) -> S:
    """Return a section that holds the numbers given, which may be traced."""
    return static.model_copy(update=numbers)
