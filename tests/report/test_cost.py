import numpy as np
import pytest
from fakes.runs import fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.plots.cost import cost_by_part, cost_to_accuracy, pareto
from dpet_jax.report.table import cost_table


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = small_suite(tmp_path_factory.mktemp("suite"), wh_per_epoch=0.3)
    return read_comparison([folder], "wh")


@pytest.fixture
def nothing(tmp_path):
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.5)])
    return read_comparison([tmp_path])


def lines_of(axes):
    return {
        line.get_label(): line
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


METHODS = ["standard", "tuned", "random", "margin"]


def test_cost_of_each_target_is_that_of_the_table(suite):
    table = cost_table(suite, "epochs")
    figure = cost_to_accuracy(table)
    assert labels_of(figure) == METHODS
    for line, container in zip(table.rows, figure.axes[0].containers, strict=True):
        data, _, (bars,) = container.lines
        np.testing.assert_allclose(
            data.get_ydata().astype(float),
            [line.cells[t].median for t in table.targets],
        )
        ends = [segment[:, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [line.cells[t].spread for t in table.targets])


def test_target_that_the_median_seed_missed_is_not_drawn(tmp_path):
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.7), (2.0, 0.9)], seed=0)
    fake_run(tmp_path / "m" / "seed1", [(1.0, 0.7)], seed=1)
    figure = cost_to_accuracy(cost_table(read_comparison([tmp_path]), "epochs"))
    ((data, _, _),) = [one.lines for one in figure.axes[0].containers]
    assert list(data.get_ydata()) == [1.0]


def test_bars_are_stacked_to_the_whole_cost(suite):
    figure = cost_by_part(suite, "wh")
    axes = figure.axes[0]
    ends = {}
    for container in axes.containers:
        for place, bar in enumerate(container):
            assert bar.get_x() == pytest.approx(ends.get(place, 0.0))
            ends[place] = bar.get_x() + bar.get_width()
    # 21.75 epochs of ten seconds with overheads, half of standard's seeds
    wholes = [
        np.mean([sum(run.end["wh"].values()) for run in row.runs]) for row in suite.rows
    ]
    np.testing.assert_allclose([ends[n] for n in range(4)], wholes)
    assert {"choosing", "warm-up", "rounds", "evaluating (apart)"} <= {
        *labels_of(figure)
    }


def test_what_is_told_apart_is_hatched(suite):
    figure = cost_by_part(suite, "wh")
    hatched = {c.get_label() for c in figure.axes[0].containers if c[0].get_hatch()}
    assert hatched == {"evaluating (apart)", "compiling (apart)", "rest (apart)"}


def test_pareto_shows_medians_and_the_front(suite):
    table = cost_table(suite, "epochs")
    figure = pareto(table)
    axes = figure.axes[0]
    points = [c.lines[0].get_xydata()[0] for c in axes.containers]
    np.testing.assert_allclose(
        points, [(line.total.median, line.test_accuracy.median) for line in table.rows]
    )
    # margin is both the cheapest and the best
    best = lines_of(axes)["front of the medians"]
    np.testing.assert_allclose(best.get_xydata(), [points[3]])


def test_plot_without_anything_to_show_is_none(nothing):
    assert cost_to_accuracy(cost_table(nothing, "epochs")) is None
    assert cost_by_part(nothing, "wh") is None
    assert pareto(cost_table(nothing, "wh")) is None
