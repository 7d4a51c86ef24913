"""Analysis of variance: against hand values and a reference by contrasts."""

import numpy as np
import pytest
from fakes.runs import grid_suite

from dpet_jax.report.anova import analyse, anova_sheets
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.grid import grids
from dpet_jax.report.printed import NONE


def test_a_two_by_two_table_is_split_as_by_hand():
    # means 1, 3 / 5, 11; grand mean 5; rows -3, +3; columns -2, +2; together +1, -1
    values = np.array([[[0, 2], [3, 3]], [[4, 6], [11, 11]]])
    rows, columns, both, within = analyse(values)
    assert [one.axes for one in (rows, columns, both, within)] == [
        *((0,), (1,), (0, 1), ())
    ]
    assert [one.squares for one in (rows, columns, both, within)] == pytest.approx(
        [72, 32, 8, 4]
    )
    assert [one.degrees for one in (rows, columns, both, within)] == [1, 1, 1, 4]
    assert rows.share == pytest.approx(72 / 116)
    assert (rows.f, columns.f, both.f, within.f) == pytest.approx((72, 32, 8, None))
    # with 1 and 4 degrees of freedom F is t squared: p of |t| > sqrt(8) is 0.0474
    assert both.p == pytest.approx(0.04743, abs=1e-5)


def test_effects_of_a_three_way_design_are_those_of_orthogonal_contrasts():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 2, 2, 5)) + 1e3
    values[1] += 3
    found = {one.axes: one for one in analyse(values)}
    signs = np.array([-1.0, 1.0])
    for axes, one in found.items():
        if axes:
            contrast = np.ones((2, 2, 2, 1))
            for axis in axes:
                contrast = contrast * signs.reshape(
                    [-1 if a == axis else 1 for a in range(4)]
                )
            expected = np.sum(contrast * values) ** 2 / values.size
            assert one.squares == pytest.approx(expected, rel=1e-9)
    whole = np.sum((values - values.mean()) ** 2)
    assert sum(one.squares for one in found.values()) == pytest.approx(whole, rel=1e-9)
    assert sum(one.share for one in found.values()) == pytest.approx(1)
    assert max(found.values(), key=lambda one: one.share).axes == (0,)


def test_more_levels_are_the_squares_of_their_means():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 4, 2))
    rows, columns, both, within = analyse(values)
    for axis, one in ((0, rows), (1, columns)):
        means = values.mean(axis=tuple({0, 1, 2} - {axis}))
        per_level = values.size // len(means)
        expected = per_level * np.sum((means - values.mean()) ** 2)
        assert one.squares == pytest.approx(expected)
    cells = 2 * np.sum((values.mean(-1) - values.mean()) ** 2)
    assert both.squares == pytest.approx(cells - rows.squares - columns.squares)
    assert (both.degrees, within.degrees) == (6, 12)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shares_do_not_depend_on_order_scale_or_offset(order):
    values = np.random.default_rng(2).normal(size=(2, 3, 4))
    shares = {one.axes: one.share for one in analyse(values)}
    moved = 7 - 1e-3 * values.transpose(*order, 2)
    for one in analyse(moved):
        axes = tuple(sorted(order[axis] for axis in one.axes))
        assert one.share == pytest.approx(shares[axes])


def test_one_replicate_has_shares_and_nothing_to_test_them_by():
    *effects, within = analyse(np.arange(4.0).reshape(2, 2, 1))
    assert [one.share for one in effects] == pytest.approx([0.8, 0.2, 0])
    assert all(one.f is None and one.p is None for one in effects)
    assert (within.squares, within.degrees) == (0, 0)
    assert [one.share for one in analyse(np.ones((2, 2)))] == [0, 0]


@pytest.mark.parametrize(
    "values", [np.ones(3), np.ones((1, 2)), np.full((2, 2), np.nan)]
)
def test_what_is_no_design_is_refused(values):
    with pytest.raises(ValueError, match=r"two levels|no finite"):
        analyse(values)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = grid_suite(tmp_path_factory.mktemp("g"), ("a", "b"))
    return grids(read_comparison([folder]))


def test_the_sheet_of_a_crossed_grid_says_what_its_seconds_hang_on(found):
    first, second = anova_sheets(found, "epochs")
    assert first.name != second.name
    assert "seconds" in first.header[2]
    labels = [row[0].main for row in first.rows]
    assert labels[:3] == [
        *("scale (0.5, 1.0, 1.4)", "prune fraction (0, 0.3)", "batch size (64, 128)")
    ]
    assert labels[-2:] == ["scale with prune fraction with batch size", "between seeds"]
    # seconds grow tenfold with the scale
    assert [row[0].strong for row in first.rows].index(True) == 0
    assert float(first.rows[0][2].main.removesuffix(" %")) > 70
    assert first.rows[0][3].beside == "p < 0.001"
    assert first.rows[-1][3].main == NONE


def test_a_grid_that_is_not_whole_has_no_sheet(found):
    lacking = found[0]._replace(points=found[0].points[:-1])
    assert anova_sheets([lacking], "seconds") == []
    # nor has one whose watt-hours were not measured
    assert anova_sheets(found[:1], "wh") == []
    # a factor of one value is none
    narrow = tuple(p for p in found[0].points if p.factors["train.batch_size"] == 64)
    axes = found[0].axes | {"train.batch_size": [64]}
    (sheet,) = anova_sheets([found[0]._replace(axes=axes, points=narrow)], "seconds")
    assert "two-way" in sheet.title
    assert len(sheet.rows) == 4
