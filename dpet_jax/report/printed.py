"""Numbers as text: three significant digits, and a dash where there is none."""

import math
import re
import textwrap
from collections.abc import Callable

NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"


def significant(value: float | None) -> str:
    """Return a number with three significant digits and without an exponent.

    Args:
        value: None gives a dash; a whole number from 1,000 on keeps its thousands.
    """
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    # rounding may add a digit before the point, as in 9.996
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{round(value, 2 - exponent):,.{max(0, 2 - exponent)}f}"


def signed(value: float | None) -> str:
    """Return a number with three significant digits and its sign."""
    if value is None:
        return NONE
    return ("+" if value > 0 else "") + significant(value).replace("-", _MINUS)


def percent(fraction: float | None) -> str:
    """Return a fraction in percent with one decimal."""
    return NONE if fraction is None else f"{100 * fraction:.1f} %"


def points(fraction: float | None) -> str:
    """Return a difference of fractions in percentage points with its sign."""
    if fraction is None:
        return NONE
    text = f"{100 * fraction:+.1f}".replace("-", _MINUS)
    return "0.0" if text in ("+0.0", f"{_MINUS}0.0") else text


def times(ratio: float | None) -> str:
    """Return a ratio as a factor."""
    return NONE if ratio is None else f"{significant(ratio)}{TIMES}"


def target_name(target: float) -> str:
    """Return a target accuracy in percent, without needless decimals."""
    return f"{100 * target:.6g} %"


def span(
    low: float | None, high: float | None, number: Callable[[float], str] = significant
) -> str:
    """Return a range, or that there is none."""
    if low is None or high is None:
        return NONE
    return "no spread" if low == high else f"{number(low)} to {number(high)}"


#: What begins a line: an indent, or a name and the blanks before its text.
_NAMED = re.compile(r"\s*(\S+( \S+)*\s{2,})?")
#: A command that people copy, which stays on one line.
_COMMAND = re.compile(r"(:|\s) dpet [a-z]")


def fitted(text: str, width: int) -> str:
    """Wrap lines at words, so that what follows stands below where the text began.

    A word that is wider stays whole, and so does a line that ends with a command.

    Args:
        text: Lines.
        width: Of the terminal, in characters.
    """
    return "\n".join(_fitted(line, width) for line in text.split("\n"))


def _fitted(line: str, width: int) -> str:
    if len(line) <= width or _COMMAND.search(line):
        return line
    found = _NAMED.match(line)
    indent = len(found[0]) if found else 0
    if indent > width // 2:  # rather a table than a name
        indent = 0
    parts = textwrap.wrap(
        line[indent:] if indent else line,
        width - max(indent, 2),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    below = " " * max(indent, 2)
    return line[:indent] + f"\n{below}".join(parts)
