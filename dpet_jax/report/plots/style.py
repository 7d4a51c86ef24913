"""The style of all plots: one width, colour-blind safe, the same bytes every time."""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from dpet_jax.report.printed import change_of
from dpet_jax.report.rows import Row

#: Inches; a column of a paper.
WIDTH = 3.4
INK = "#1f2428"
GRID = "#d7dce1"
PAPER = "#fefefe"

#: First those of Okabe and Ito, but their yellow, which is hard to see on white, and
#: with a darker purple: without green cones theirs is the grey that their green is.
#: Then six that lie as far as can be from these, from one another and from the grey,
#: also for those who lack a kind of cones, and are seen on white and on dark ground. A
#: colour means a method on all of a page; the rest is ink and greys, which none has.
COLOURS = (
    *("#0072b2", "#d55e00", "#56b4e9", "#e69f00", "#009e73", "#aa4499"),
    *("#8080ff", "#8040ff", "#e00040", "#208040", "#c0a060", "#c02000"),
)
#: Methods that share a plot; of more, names stand beside it, or each has its own.
FEW = 6
MUTED = "#7d868e"
_MARKERS = "osD^vPX<>phd*8"
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
LONGEST = 30
#: Characters of a label that fit twice beside each other; labels beyond which a list of
#: one column is longer than its plot.
_HALF, _MANY = 24, 6
#: Inches that a name beside a plot needs, and that axes leave above and below.
_LINE, _AROUND = 0.14, 0.55
#: Characters of such a name.
BESIDE = 24

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.3,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "patch.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    # publishers refuse the bitmap fonts of type 3
    "pdf.fonttype": 42,
    "svg.hashsalt": "dpet-jax",
    "hatch.linewidth": 0.5,
}

#: Changes in percent that a logarithmic axis marks, and one that is so many
#: times as high as low.
_CHANGES = (-50, -40, -30, -20, -10, 0, 10, 20, 30, 50, 70, 100)
_FAR_CHANGES = (-95, -90, -80, -50, 0, 100, 400, 900, 1900)
_WIDE = 2.5
#: A linear axis would squeeze the shorter ones into a corner.
_LOG_FROM = 3.0

P = ParamSpec("P")
T = TypeVar("T")


class Look(NamedTuple):
    """How one method is drawn in every plot."""

    colour: str
    marker: str
    dashes: Any


#: How each method of a comparison is drawn, by its key.
Looks = Mapping[str, Look]


class End(NamedTuple):
    """A point of a plot that has a name beside the plot.

    Attributes:
        x: Its place.
        y: Likewise.
        name: What to write.
        colour: Of the line that leads there.
        dashes: Likewise.
    """

    x: float
    y: float
    name: str
    colour: str
    dashes: Any = "-"


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Make a function draw in this style, and leave that of others as it is."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


def look(number: int) -> Look:
    """Return how the method of a comparison with this number is drawn."""
    return Look(
        COLOURS[number % len(COLOURS)],
        _MARKERS[number % len(_MARKERS)],
        _DASHES[number // FEW % len(_DASHES)],
    )


def looks_of(rows: Sequence[Row], baseline: Row | None = None) -> Looks:
    """Return how the methods of a page are drawn, the same in all of its plots.

    As many as there are colours have one each. Of more, none has: they are grey, the
    baseline is in ink, and their names stand beside them.

    Args:
        rows: Of the page; those without a run need no look.
        baseline: One of them, or None.
    """
    keys = [row.key for row in rows if row.all_runs]
    if len(keys) <= len(COLOURS):
        return {key: look(number) for number, key in enumerate(keys)}
    base = None if baseline is None else baseline.key
    return {k: Look(INK if k == base else MUTED, "o", "-") for k in keys}


def crowded(looks: Looks) -> bool:
    """Return whether there are more methods than can share a plot."""
    return len(looks) > FEW


def new_figure(height: float) -> Figure:
    """Return an empty figure as wide as a column, which arranges its parts itself."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def short(label: str, longest: int = LONGEST) -> str:
    """Return a label that fits into a plot."""
    return label if len(label) <= longest else f"{label[: longest - 1].rstrip()}…"


def finished(
    figure: Figure,
    axes: Axes,
    x: str,
    y: str = "",
    *,
    plain: str = "",
    percent: str = "",
) -> Figure:
    """Label the axes of a plot, format their numbers and put its legend below.

    Args:
        figure: The figure.
        axes: Its axes, drawn.
        x: What the x axis shows.
        y: What the y axis shows; "" leaves it without a label.
        plain: Axes, of "xy", whose numbers have thousands and no exponent.
        percent: Axes, of "xy", whose fractions are printed in percent.
    """
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for which in plain:
        plain_axis(axes, which)
    for which in percent:
        percent_axis(axes, which)
    legend_below(figure, axes)
    return figure


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend below a plot, and make the figure higher by that much."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    shorter = [short(label, _HALF) for label in labels]
    if len(labels) > _MANY and len({*shorter}) == len(labels):
        labels = shorter
    columns = 2 if max(map(len, labels), default=0) <= _HALF else 1
    lines = -(-len(labels) // columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.14 * lines + 0.06)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def label_ends(figure: Figure, axes: Axes, ends: Sequence[End]) -> None:
    """Write names beside a plot, in the order of their points, none on another.

    A line leads to each, for many points may lie at one place. The plot is made as high
    as its names need.

    Args:
        figure: The figure.
        axes: Its axes, with everything drawn, and their limits set.
        ends: The points and their names.
    """
    width, height = figure.get_size_inches()
    height = max(height, _AROUND + _LINE * len(ends))
    figure.set_size_inches(width, height)
    line = _LINE / (height - _AROUND)
    low, high = axes.get_ylim()
    to_axes = axes.transScale + axes.transLimits
    inside = [
        float(to_axes.transform((end.x, min(max(end.y, low), high)))[1]) for end in ends
    ]
    # of equal ends the first is above
    order = sorted(range(len(ends)), key=lambda k: (inside[k], -k))
    places = [inside[k] for k in order]
    for k in range(1, len(places)):  # each above the one before it
        places[k] = max(places[k], places[k - 1] + line)
    places[-1:] = [min(1.0, place) for place in places[-1:]]
    for k in reversed(range(len(places) - 1)):
        places[k] = min(places[k], places[k + 1] - line)
    for k, place in zip(order, places, strict=True):
        end = ends[k]
        axes.annotate(
            end.name,
            (end.x, max(end.y, low)),
            (1.1, place),
            textcoords=axes.transAxes,
            va="center",
            color=INK,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linestyle": end.dashes,
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
        )


def log_axis(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers on it, also on short ranges."""
    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    wide = high > 30 * low
    subs = (1.0,) if high > 1000 * low else (1.0, 3.0) if wide else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def cost_axis(axes: Axes, which: str, costs: Sequence[float]) -> None:
    """Make an axis of costs logarithmic where they are far apart."""
    known = [cost for cost in costs if cost > 0]
    if known and max(known) > _LOG_FROM * min(known):
        log_axis(axes, which)
    else:
        plain_axis(axes, which)


def plain_axis(axes: Axes, which: str) -> None:
    """Print the numbers of an axis with thousands and no exponent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(_plain))


def change_axis(axes: Axes, which: str) -> None:
    """Print the ratios of an axis as what they are dearer or cheaper, in percent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: change_of(value)))
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        changes = _CHANGES if high < _WIDE * low else _FAR_CHANGES
        axis.set_major_locator(FixedLocator([1 + change / 100 for change in changes]))


def percent_axis(axes: Axes, which: str) -> None:
    """Print the fractions of an axis in percent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}"))


def _plain(value: float, place: int | None = None) -> str:
    del place
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


@styled
def settle(figure: Figure) -> None:
    """Arrange the parts of a figure once; every output would do it again otherwise."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


@styled
def to_svg(figure: Figure) -> str:
    """Return a figure as SVG: its text as paths, no date, the same every time."""
    held = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(held, format="svg", metadata=nothing)
    # a hundredth of a point is finer than any eye, and half the length
    return re.sub(
        r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), held.getvalue()
    )


@styled
def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG with 200 pixels an inch."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=200, metadata={"Software": None})
    return held.getvalue()


@styled
def to_pdf(figure: Figure) -> bytes:
    """Return a figure as PDF, its text as text, the same every time."""
    held = io.BytesIO()
    nothing = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    figure.savefig(held, format="pdf", metadata=nothing)
    return held.getvalue()


def inline(svg: str, prefix: str, title: str) -> str:
    """Turn an SVG file into an element of a page.

    It takes its colours from the page, so that it is legible on light and dark ground,
    and refers to nothing outside itself.

    Args:
        svg: As `to_svg` returns it.
        prefix: Of all its ids, unique on the page.
        title: For people who do not see it; must be escaped.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(
        r' id="([^"]*)"',
        lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "",
        body,
    )
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = re.sub(
        r'<svg ([^>]*?)width="[^"]*"( [^>]*?)?height="[^"]*"', r"<svg \1\2", body
    )
    body = body.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, of_page in (
        (INK, "currentColor"),
        (GRID, "var(--grid)"),
        (PAPER, "none"),
    ):
        body = body.replace(colour, of_page)
    return body
