"""Grids: the front, its table and the pictures, from made-up runs."""

import pytest
from fakes.runs import fake_run, fake_suite, grid_suite, variant
from matplotlib.collections import QuadMesh

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.grid import front_sheet, grids
from dpet_jax.report.page import answer
from dpet_jax.report.plots.grid import accuracy_over_seconds, heat_map, panels
from dpet_jax.report.plots.pictures import missing, pictures
from dpet_jax.report.table import cost_table


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two grids of 3 scales, 2 shares of pruning and 2 batch sizes, two seeds each."""
    return read_comparison([grid_suite(tmp_path_factory.mktemp("g"), ("a", "b"))])


@pytest.fixture
def grid(comparison):
    return grids(comparison)[0]


def test_points_are_warm_seconds_and_test_accuracies_over_seeds(grid):
    assert grid.label == "a"
    assert grid.axes == {
        "model.scale": [0.5, 1.0, 1.4],
        "method.prune_fraction": [0, 0.3],
        "train.batch_size": [64, 128],
    }
    whole = grid.points[4]
    assert whole.factors == dict(zip(grid.axes, (1.0, 0, 64), strict=True))
    # ten seconds an epoch and ten epochs, two percent more with the second seed;
    # evaluating and compiling are not in it
    assert (whole.seconds.low, whole.seconds.high) == pytest.approx((100, 102))
    assert whole.accuracy.median == pytest.approx(0.502)


def test_front_leaves_out_what_another_row_beats_in_both(grid):
    front = grid.front
    for point in grid.points:
        mine = (point.seconds.median, point.accuracy.median)
        beaten = any(
            other.seconds.median <= mine[0]
            and other.accuracy.median >= mine[1]
            and other is not point
            for other in grid.points
        )
        assert (mine in front) != beaten
    assert 1 < len(front) < len(grid.points)


def test_front_is_a_table_that_answers_first(comparison):
    found = grids(comparison)
    sheet = front_sheet(found)
    assert len(sheet.rows) == sum(len(grid.front) for grid in found)
    # b is two points better at the same seconds, so that a is on no common front
    strong = {row[0].main.partition(",")[0] for row in sheet.rows if row[0].strong}
    assert strong == {"b"}
    assert answer(comparison, "epochs").startswith("Pareto front")
    assert front_sheet([]) is None


def test_every_row_has_its_own_look_and_the_front_is_drawn(grid):
    (axes,) = accuracy_over_seconds(grid).axes
    drawn = [line for line in axes.get_lines() if line.get_marker() != "None"]
    points = [line for line in drawn if line.get_xdata().size]
    looks = {
        (one.get_marker(), one.get_color(), one.get_markersize()) for one in points
    }
    assert len(looks) == len(points) == len(grid.points)
    (front,) = (line for line in axes.get_lines() if line.get_marker() == "None")
    assert [*front.get_xdata()] == [seconds for seconds, _ in grid.front]
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("scale 0.5", "scale 1.0", "scale 1.4", "prune fraction 0"),
        *("prune fraction 0.3", "batch size 64", "batch size 128"),
    ]


def test_panels_hold_the_rows_of_one_scale_each(grid):
    figure = panels(grid)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [
        "scale 0.5",
        "scale 1.0",
        "scale 1.4",
    ]
    assert [len(axes.containers) for axes in shown] == [4, 4, 4]


def test_heat_maps_print_the_mean_over_what_they_do_not_show(grid):
    (axes, _) = heat_map(grid, "seconds").axes
    (mesh,) = (held for held in axes.collections if isinstance(held, QuadMesh))
    # medians of 100 and 102 s with batches of 64, and of 0.8 times that with 128
    assert mesh.get_array().reshape(2, 3)[0, 1] == pytest.approx(101 * 0.9)
    assert [text.get_text() for text in axes.texts][1] == "90.9"
    (axes, _) = heat_map(grid, "accuracy").axes
    assert [text.get_text() for text in axes.texts][1] == "49.2"


def test_a_combination_that_has_not_run_is_empty(grid):
    some = grid._replace(points=grid.points[:-2])
    (axes, _) = heat_map(some, "seconds").axes
    assert len(axes.texts) == 5
    one_key = grid._replace(axes={"model.scale": grid.axes["model.scale"]})
    assert heat_map(one_key, "seconds") is None
    assert panels(grid._replace(axes={"model.scale": [1.0]})) is None


def test_rows_of_a_grid_are_in_no_picture_of_methods(comparison):
    drawn = pictures(comparison, cost_table(comparison.crossing, "epochs"), None)
    kinds = ("front", "panels", "seconds", "accuracy")
    names = [f"grid{number}_{kind}" for number in (1, 2) for kind in kinds]
    assert [picture.name for picture in drawn] == names


def test_a_method_beside_a_grid_keeps_its_pictures(tmp_path):
    for name in ("plain", "cells/x_1"):
        fake_run(tmp_path / name / "seed0")
    cell = {"of": "cells", "factors": {"method.x": 1}}
    rows = [
        variant("plain", {"0.6": ["plain/seed0"]}),
        variant("cells/x_1", {"0.6": ["cells/x_1/seed0"]}, cell=cell),
        variant("cells/x_2", {"0.6": []}, cell=cell | {"factors": {"method.x": 2}}),
    ]
    found = read_comparison([fake_suite(tmp_path, rows)])
    drawn = pictures(found, cost_table(found.crossing, "epochs"), None)
    names = {picture.name for picture in drawn if picture.figure is not None}
    assert {"grid1_front", "pareto"} <= names
    assert found.counted == "1 method, cells: a grid of 2 settings"
    assert "grid1_panels" not in names
    assert "The same, by x: cells: the grid has one x" in missing(drawn)


def test_seconds_of_several_devices_make_no_grid(tmp_path):
    folder = grid_suite(tmp_path)
    row = "adam/scale_0.5-prune_fraction_0-batch_size_64"
    fake_run(folder / row / "seed0", device="another")
    found = read_comparison([folder])
    assert any("several devices" in problem for problem in found.problems)
    assert grids(found) == []
