"""Searches compared: numbers worked out by hand."""

from pathlib import Path

import pytest

from dpet_jax.errors import DamagedFileError
from dpet_jax.report.plots.searches import best_over_cost
from dpet_jax.report.plots.style import settle, to_svg
from dpet_jax.report.searches import (
    Repeats,
    Trial,
    answer,
    area,
    best_so_far,
    compared_searches,
    cost_to,
    natural_unit,
    read_stops,
    search_lines,
)


def stop(number, accuracy, epochs, *, share=1.0, **changes):
    trial = Trial(
        number=number,
        share=share,
        values={"a": str(number)},
        accuracy=accuracy,
        epochs=epochs,
        flops=round(100 * epochs),
        seconds=epochs,
        wh=None,
        quality="unavailable",
        stopped_by="finished" if share == 1 else "paused",
        folder=Path("nowhere"),
    )
    return trial._replace(**changes)


# two searches, of two repeats each
FOUND = {
    ("one", 0): [stop(0, 0.5, 2.0), stop(1, None, 1.0), stop(2, 0.8, 2.0)],
    ("one", 1): [stop(0, 0.7, 2.0), stop(1, 0.6, 2.0)],
    # the first trial goes on after the second
    ("two", 0): [
        stop(0, 0.3, 1.0, share=0.5),
        stop(1, 0.2, 1.0, share=0.5),
        stop(0, 0.76, 2.0),
        stop(2, 0.75, 2.0),
    ],
    ("two", 1): [stop(0, None, 1.0), stop(1, 0.4, 3.0)],
}


def test_best_so_far_passes_over_what_diverged():
    assert best_so_far([None, 0.2, None, 0.1, 0.3]) == [None, 0.2, 0.2, 0.2, 0.3]
    assert best_so_far([]) == []


def test_cost_to_a_level_is_where_it_was_first_reached():
    costs, best = (1.0, 3.0, 4.0), [None, 0.5, 0.8]
    assert cost_to(costs, best, 0.5) == 3.0
    assert cost_to(costs, best, 0.51) == 4.0
    assert cost_to(costs, best, 0.9) is None


def test_area_is_the_mean_over_the_budget_with_nothing_before_the_first():
    costs, best = (1.0, 3.0, 4.0), [None, 0.5, 0.8]
    # 0 to 3, 0.5 for 1, 0.8 for 1
    assert area(costs, best, 5.0) == pytest.approx((0.5 + 0.8) / 5)
    assert area(costs, best, 3.5) == pytest.approx(0.25 / 3.5)
    assert area(costs, best, 1.0) == 0.0
    assert area(costs, best, 0.0) is None


def test_a_spread_has_a_mean_only_where_all_repeats_have_the_number():
    assert Repeats.of([1.0, 3.0]) == Repeats(2.0, 1.0, 3.0, 2, 2)
    assert Repeats.of([1.0, None]) == Repeats(None, 1.0, 1.0, 1, 2)
    assert Repeats.of([None]) == Repeats(None, None, None, 0, 1)
    texts = [Repeats.of(values).text() for values in ([1.0, 3.0], [1.0, None], [None])]
    assert texts == ["2.00 (1.00 to 3.00)", "1.00 or more (1 of 2)", "\N{EN DASH}"]
    assert Repeats.of([2.0, 2.0]).text() == "2.00"


def test_searches_are_compared_over_the_cost_that_all_have_spent():
    record = compared_searches(FOUND, "epochs", "some")
    assert record.pooled_best == 0.8
    assert record.budget == 4.0  # of the second repeats
    assert [row.name for row in record.rows] == ["one", "two"]
    one, two = record.rows
    assert one.courses[0].costs == (2.0, 3.0, 5.0)
    assert one.courses[0].best == (0.5, 0.5, 0.8)
    # of the trial that went on only what it had not spent before
    assert two.courses[0].costs == (1.0, 2.0, 3.0, 5.0)
    assert two.courses[0].best == (0.3, 0.3, 0.76, 0.76)
    assert one.area.low == pytest.approx((2 * 0.5) / 4)
    assert one.area.high == pytest.approx((2 * 0.7) / 4)
    assert two.area.high == pytest.approx((0.3 + 0.3 + 0.76) / 4)
    # 95 % of 0.8 is 0.76
    to_95, to_99 = one.to_levels
    assert (to_95.mean, to_95.low, to_95.known) == (None, 5.0, 1)
    assert two.to_levels[0].low == 3.0
    assert two.to_levels[1].known == 0
    assert to_99.low == 5.0
    assert [course.good for course in one.courses] == [pytest.approx(1 / 3), 0.0]
    assert [course.good for course in two.courses] == [pytest.approx(1 / 3), 0.0]
    assert one.cost_per_trial.high == 2.0
    assert two.cost_per_trial.low == pytest.approx(5 / 3)
    assert one.courses[0].winner == {"a": "2"}
    assert one.best.mean == pytest.approx(0.75)
    assert [course.test for course in one.courses] == [None, None]


def test_the_answer_names_the_first_and_whether_chance_may_have_made_it_so():
    text = answer(compared_searches(FOUND, "epochs", "some"))
    assert text.startswith(
        "one found most for its cost: 30.0 (25.0 to 35.0) % over 4.00"
    )
    assert text.endswith("2 repeats do not tell one from two.")
    apart = FOUND | {("two", 0): FOUND["two", 1]}
    text = answer(compared_searches(apart, "epochs", "some"))
    assert text.endswith("ahead of all others in each of 2 repeats.")
    single = {key: stops for key, stops in FOUND.items() if key[1] == 0}
    text = answer(compared_searches(single, "epochs", "some"))
    assert text.endswith("one repeat tells nothing of chance.")
    nothing = compared_searches({("one", 0): [stop(0, None, 1.0)]}, "epochs")
    assert nothing.pooled_best is None
    assert "0.0 % over 1.00" in answer(nothing)
    assert best_over_cost(nothing) is None


def test_the_table_shows_every_search_on_a_narrow_terminal_too():
    record = compared_searches(FOUND, "epochs", "some")
    for width in (40, 100):
        lines = search_lines(record, width)
        assert sum("two" in line for line in lines) >= 2
        assert all(len(line) <= width for line in lines[: lines.index("")])


@pytest.mark.parametrize(
    ("changes", "unit"),
    [
        ({"wh": 1.0, "quality": "measured"}, "wh"),
        ({"wh": 1.0, "quality": "modelled"}, "epochs"),
        ({"wh": 1.0, "quality": "measured+modelled"}, "epochs"),
        ({}, "epochs"),
        ({"flops": 300}, "flops"),
    ],
)
def test_costs_are_in_wh_of_one_kind_or_in_what_means_the_same_for_all(changes, unit):
    like = {k: v for k, v in changes.items() if k != "flops"}
    stops = [stop(0, 0.5, 2.0, **like), stop(1, 0.5, 2.0, **changes)]
    assert natural_unit(stops) == unit


def test_a_line_that_is_no_stop_is_named(tmp_path):
    assert read_stops(tmp_path) == []
    (tmp_path / "stops.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(DamagedFileError, match=r"stops\.jsonl"):
        read_stops(tmp_path)


def test_the_plot_has_a_line_and_a_name_for_each_search():
    figure = best_over_cost(compared_searches(FOUND, "epochs", "some"))
    (axes,) = figure.axes
    one, two = axes.get_lines()
    # from where both repeats have something, to where the cheaper one ends
    assert [*one.get_xdata()] == [2.0, 3.0, 4.0]
    assert one.get_ydata() == pytest.approx([0.6, 0.6, 0.6])
    assert [*two.get_xdata()] == [4.0]
    assert two.get_ydata() == pytest.approx([0.58])
    assert len(axes.collections) == 2
    assert {text.get_text() for text in axes.texts} == {"one", "two"}
    places = sorted(text.xyann[1] for text in axes.texts)
    assert places[1] - places[0] >= 0.07
    settle(figure)
    assert to_svg(figure) == to_svg(figure)
