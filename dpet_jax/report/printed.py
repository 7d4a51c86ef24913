"""Numbers as text: three significant digits, and a dash where there is none."""

import math
import re
import textwrap
from collections.abc import Callable

NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_PERCENT = " %"
_NOTICED_S = 0.1


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


#: From here on a ratio is told as a factor, for 150 % more is easily read as 1.5 times.
_FACTOR_FROM = 2.0
#: And the end of a range, which has a sign and is not read so.
_FAR = 10.0


def dearer(
    ratio: float | None, low: float | None = None, high: float | None = None
) -> str:
    """Return what a ratio of costs means: "11 % dearer (+4 to +18 %)".

    Args:
        ratio: Of a cost to that of a baseline.
        low: Of its range, likewise a ratio; None where there is none.
        high: Its other end.
    """
    if ratio is None:
        return NONE
    text = _dearer(ratio)
    if low is None or high is None:
        return text
    if ratio >= _FACTOR_FROM:
        return f"{text} ({significant(low)} to {significant(high)} times)"
    if high >= _FAR:
        return f"{text} ({change_of(low)} % to {significant(high)} times)"
    return f"{text} ({change_of(low)} to {change_of(high)} %)"


def dearer_than(ratio: float, name: str) -> str:
    """Return what a ratio of costs means, with the name of what it is compared with."""
    text = _dearer(ratio)
    return f"{text} {'as' if text.endswith('as dear') else 'than'} {name}"


def _dearer(ratio: float) -> str:
    if ratio >= _FACTOR_FROM:
        return f"{significant(ratio)} times as dear"
    change = change_of(ratio)
    if change == "0":
        return "as dear"
    return f"{change[1:]} % {'dearer' if change[0] == '+' else 'cheaper'}"


def change_of(ratio: float) -> str:
    """Return by how many percent a cost is above or below another, with its sign."""
    change = 100 * (ratio - 1)
    text = f"{change:+.0f}"
    # nothing costs all of it less
    text = f"{change:+.2f}" if text == "-100" else text
    return "0" if text in ("+0", "-0") else text.replace("-", _MINUS)


def brief(seconds: float | None) -> str:
    """Return seconds, without digits for what is too short for anybody to notice."""
    if seconds is not None and 0 < seconds < _NOTICED_S:
        return f"< {_NOTICED_S:g}"
    return significant(seconds)


def target_name(target: float) -> str:
    """Return a target accuracy in percent, without needless decimals."""
    return f"{100 * target:.6g} %"


def span(
    low: float | None, high: float | None, number: Callable[[float], str] = significant
) -> str:
    """Return a range, or that there is none."""
    if low is None or high is None:
        return NONE
    if low == high:
        return "no spread"
    first, last = number(low), number(high)
    if last.endswith(_PERCENT):  # once is enough
        first = first.removesuffix(_PERCENT)
    return f"{first} to {last}"


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
