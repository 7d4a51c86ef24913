import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from dpet_jax.report.plots.style import (
    GRID,
    INK,
    PAPER,
    inline,
    legend_below,
    log_axis,
    look,
    new_figure,
    percent_axis,
    settle,
    short,
    styled,
    to_png,
    to_svg,
)


@styled
def drawn(labels=("one", "two")):
    figure = new_figure(1.5)
    axes = figure.add_subplot()
    for number, label in enumerate(labels):
        axes.plot([1, 100], [number, 1], label=label)
    legend_below(figure, axes)
    return figure


def test_same_figure_gives_the_same_bytes():
    assert to_svg(drawn()) == to_svg(drawn())
    assert to_png(drawn()) == to_png(drawn())


def test_svg_needs_no_font_and_no_date():
    svg = to_svg(drawn())
    assert "<text" not in svg
    assert "<metadata" not in svg
    assert "date" not in svg.lower()
    ET.fromstring(svg)


def test_png_is_a_column_wide_at_200_pixels_an_inch():
    assert int.from_bytes(to_png(drawn())[16:20], "big") == 680


def test_styles_of_others_stay_as_they_are():
    before = dict(matplotlib.rcParams)
    to_svg(drawn())
    assert dict(matplotlib.rcParams) == before


def test_looks_of_twenty_methods_all_differ_even_without_colour():
    looks = [look(number) for number in range(20)]
    assert len(set(looks)) == 20
    assert len({(one.marker, str(one.dashes)) for one in looks}) == 20


def test_no_text_is_smaller_than_seven_points():
    figure = drawn()
    figure.draw_without_rendering()
    texts = figure.findobj(matplotlib.text.Text)
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 7


def test_legend_of_fourteen_methods_lies_below_the_plot_and_on_the_figure():
    figure = drawn([f"a method of some length {n}" for n in range(14)])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.contains(box.x0 + 1, box.y0 + 1)
    assert figure.bbox.contains(box.x1 - 1, box.y1 - 1)
    assert box.y1 < figure.axes[0].get_window_extent().y0


def test_long_labels_are_cut_but_never_made_equal():
    assert short("x" * 30) == "x" * 30
    assert short("x" * 31) == "x" * 29 + "…"
    figure = drawn([f"the same first twenty-four letters {n}" for n in range(8)])
    texts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert len(texts) == 8


def test_dollars_in_labels_are_no_formulas():
    assert to_svg(drawn(["a $\\broken formula", "b"]))


@pytest.mark.parametrize(("high", "most"), [(3.0, 6), (100.0, 8), (1e6, 12)])
def test_logarithmic_axis_has_plain_numbers(high, most):
    @styled
    def logarithmic():
        figure = new_figure(1.5)
        axes = figure.add_subplot()
        axes.plot([1.0, high], [1, 2])
        log_axis(axes, "x")
        figure.draw_without_rendering()
        return [label.get_text() for label in axes.get_xticklabels()]

    labels = [label for label in logarithmic() if label]
    assert 2 <= len(labels) <= most
    assert all(re.fullmatch(r"[\d,.]+", label) for label in labels)


def test_fractions_are_told_in_percent():
    axes = drawn().axes[0]
    percent_axis(axes, "y")
    assert axes.yaxis.get_major_formatter()(0.925, 0) == "92.5"
    assert axes.yaxis.get_major_formatter()(0.7, 0) == "70"


def test_settled_figure_stays_as_it_was_arranged():
    figure = drawn()
    settle(figure)
    before = figure.axes[0].get_position().bounds
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().bounds == before
    assert to_svg(figure) == to_svg(figure)


def test_inline_picture_takes_its_ink_from_the_page_and_points_nowhere_else():
    svg = to_svg(drawn())
    element = inline(svg, "p1", "A title")
    assert element.startswith("<svg ")
    assert "http" not in element
    assert not any(colour in element for colour in (INK, GRID, PAPER))
    ids = set(re.findall(r' id="([^"]*)"', element))
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', element))
    assert used
    assert used == ids
    assert all(name.startswith("p1-") for name in ids)
    assert 'aria-label="A title"' in element
    head = element[: element.index(">")]
    assert "viewBox" in head
    assert "height" not in head
