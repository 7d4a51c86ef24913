"""How accuracy rises: the lines that are drawn."""

import numpy as np
import pytest
from fakes.runs import fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.plots.course import accuracy_over_cost
from dpet_jax.report.plots.style import GRID, INK


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return read_comparison([small_suite(tmp_path_factory.mktemp("suite"))], "epochs")


def lines_of(axes):
    return {
        line.get_label(): line
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_accuracy_has_a_line_and_a_band_for_each_method(suite):
    axes = accuracy_over_cost(suite, "epochs").axes[0]
    line = lines_of(axes)["margin"]
    np.testing.assert_allclose(line.get_xdata(), [0.55, 1.0, 1.1, 1.5, 1.65, 2.0, 2.2])
    np.testing.assert_allclose(line.get_ydata()[-1], 0.92)
    assert line.get_drawstyle() == "steps-post"
    assert len(axes.collections) == 4


def test_long_course_beside_short_ones_has_a_logarithmic_axis(suite, tmp_path):
    figure = accuracy_over_cost(suite, "epochs")
    assert figure.axes[0].get_xscale() == "log"
    for name, end in (("a", 2.0), ("b", 3.0)):
        fake_run(tmp_path / name / "seed0", [(1.0, 0.7), (end, 0.9)])
    short = accuracy_over_cost(read_comparison([tmp_path]), "epochs")
    assert short.axes[0].get_xscale() == "linear"


def test_axis_of_accuracies_starts_below_the_lowest_target(tmp_path):
    fake_run(tmp_path / "a" / "seed0", [(1.0, 0.01), (2.0, 0.9)])
    axes = accuracy_over_cost(read_comparison([tmp_path]), "epochs").axes[0]
    assert axes.get_ylim()[0] == pytest.approx(0.4)
    fake_run(tmp_path / "a" / "seed0", [(1.0, 0.01), (2.0, 0.02)])
    axes = accuracy_over_cost(read_comparison([tmp_path]), "epochs").axes[0]
    assert axes.get_ylim()[0] < 0.02


def test_many_methods_have_a_plot_each_over_all_others(tmp_path):
    folder = small_suite(tmp_path / "suite")
    for name in "abcdef":
        fake_run(tmp_path / "loose" / name / "seed0", [(1.0, 0.5), (2.0, 0.9)])
    many = read_comparison([folder, tmp_path / "loose"])
    assert len(many.rows) > 7
    figure = accuracy_over_cost(many, "epochs")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        row.label for row in many.rows
    ]
    tuned = [row.key for row in many.rows].index("tuned")
    for place, axes in enumerate(panels):
        colours = [line.get_color() for line in axes.get_lines()]
        assert len(colours) == len(many.rows)
        assert colours.count(INK) == (place != tuned)
        assert colours.count(GRID) == len(many.rows) - 1 - (place != tuned)
        (mine,) = lines_of(axes)
        assert mine == many.rows[place].label


def test_without_a_course_there_is_no_plot(tmp_path):
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.5)])
    assert accuracy_over_cost(read_comparison([tmp_path]), "wh") is None
