"""What the plots of a report show, and how they look."""

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from fakes.runs import fake_run, fake_suite, small_suite, variant
from matplotlib.colors import to_rgb

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.plots.coreset import (
    arrays_of,
    class_balance,
    coreset_growth,
    gallery,
)
from dpet_jax.report.plots.cost import cost_by_part, cost_to_accuracy, pareto
from dpet_jax.report.plots.course import accuracy_over_cost
from dpet_jax.report.plots.curves import accuracy_curve, front, mean_parts, parts_of
from dpet_jax.report.plots.pictures import missing, pictures
from dpet_jax.report.plots.power import power_trace, stretches
from dpet_jax.report.plots.style import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    PAPER,
    change_axis,
    finished,
    inline,
    log_axis,
    look,
    looks_of,
    new_figure,
    percent_axis,
    settle,
    short,
    styled,
    to_png,
    to_svg,
)
from dpet_jax.report.runs import read_run
from dpet_jax.report.table import cost_table

TRACE = [
    {"start_s": 0.0, "end_s": 10.0, "w": {"gpu:0": 100.0, "cpu": 50.0}},
    {"start_s": 10.0, "end_s": 30.0, "w": {"gpu:0": 300.0}},
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    return read_comparison([small_suite(folder, wh_per_epoch=0.3, trace=TRACE)], "wh")


def lines_of(axes):
    return {
        line.get_label(): line
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


METHODS = ["standard", "tuned", "random", "margin"]


# curves and parts


def runs(tmp_path, *courses, **facts):
    return [
        read_run(fake_run(tmp_path / str(n), course, seed=n, **facts))
        for n, course in enumerate(courses)
    ]


def test_curve_takes_the_latest_evaluation_of_each_seed_and_never_one_between(tmp_path):
    curve = accuracy_curve(
        runs(tmp_path, [(1.0, 0.1), (3.0, 0.5)], [(2.0, 0.3), (4.0, 0.9)]), "epochs"
    )
    # from 2, where both have one; the first has ended at 3 and keeps its last
    np.testing.assert_array_equal(curve.cost, [2.0, 3.0, 4.0])
    np.testing.assert_allclose(curve.low, [0.1, 0.3, 0.5])
    np.testing.assert_allclose(curve.high, [0.3, 0.5, 0.9])
    np.testing.assert_allclose(curve.median, [0.2, 0.4, 0.7])


def test_curves_and_parts_are_none_without_evaluations_or_measurements(tmp_path):
    found = runs(tmp_path, [(1.0, 0.5)])
    assert accuracy_curve(found, "wh") is None
    assert accuracy_curve([], "epochs") is None
    assert parts_of(found[0], "wh") is None
    assert mean_parts(found, "wh") is None
    assert mean_parts([], "epochs") is None


PLANS = (("warm-up", 0.5), ("round 1", 0.25), ("boost 2", 0.125), ("other", 0.125))
SECONDS = {
    **{"data": 0.5, "selection": 10.0, "warm-up": 20.0, "rounds": 15.0},
    **{"training": 5.0, "evaluation": 5.0, "compilation": 4.0, "rest": 0.25},
}


@pytest.mark.parametrize(
    ("by", "parts"),
    [
        (
            "epochs",
            {"selection": 1.0, "warm-up": 2.0, "rounds": 1.5, "training": 0.5},
        ),
        ("visits", {"warm-up": 2000.0, "rounds": 1500.0, "training": 500.0}),
        ("seconds", SECONDS),
        ("wh", {part: s / 10 for part, s in SECONDS.items()}),
    ],
)
def test_cost_is_divided_into_selection_and_kinds_of_plans(tmp_path, by, parts):
    facts = {"choosing_epochs": 1.0, "plans": PLANS, "wh_per_epoch": 1.0}
    (run,) = runs(tmp_path, [(5.0, 0.5)], **facts)
    assert parts_of(run, by) == pytest.approx(parts)


def test_training_without_a_recorded_plan_is_not_lost(tmp_path):
    (run,) = runs(tmp_path, [(2.0, 0.5)])
    bare = replace(run, events=tuple(e for e in run.events if e["event"] != "plan"))
    assert parts_of(bare, "epochs") == {"training": 2.0}


def test_mean_counts_a_part_that_a_seed_lacks_as_nought(tmp_path):
    (one,) = runs(tmp_path / "a", [(2.0, 0.5)])
    (two,) = runs(tmp_path / "b", [(2.0, 0.5)], choosing_epochs=1.0)
    assert mean_parts([one, two], "epochs") == pytest.approx(
        {"selection": 0.5, "training": 1.5}
    )


def test_front_holds_the_points_that_no_other_beats():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (1.0, 0.6), (4.0, 0.9), (5.0, 0.95)]
    assert front(points) == [(1.0, 0.6), (3.0, 0.9), (5.0, 0.95)]
    assert front([]) == []


# accuracy over cost


def test_accuracy_has_a_line_and_a_band_for_each_method(suite):
    axes = accuracy_over_cost(suite, "epochs").axes[0]
    line = lines_of(axes)["margin"]
    np.testing.assert_allclose(line.get_xdata(), [0.55, 1.0, 1.1, 1.5, 1.65, 2.0, 2.2])
    np.testing.assert_allclose(line.get_ydata()[-1], 0.92)
    assert line.get_drawstyle() == "steps-post"
    assert len(axes.collections) == 4
    assert axes.get_xlabel() == "epochs (full-pass equivalents)"
    assert axes.get_ylabel() == "accuracy, %"


def test_long_course_beside_short_ones_has_a_logarithmic_axis(suite, tmp_path):
    figure = accuracy_over_cost(suite, "epochs")
    assert figure.axes[0].get_xscale() == "log"
    for name, end in (("a", 2.0), ("b", 3.0)):
        fake_run(tmp_path / name / "seed0", [(1.0, 0.7), (end, 0.9)])
    figure = accuracy_over_cost(read_comparison([tmp_path]), "epochs")
    assert figure.axes[0].get_xscale() == "linear"


def test_axis_of_accuracies_starts_below_the_lowest_target(tmp_path):
    fake_run(tmp_path / "a" / "seed0", [(1.0, 0.01), (2.0, 0.9)])
    axes = accuracy_over_cost(read_comparison([tmp_path]), "epochs").axes[0]
    assert axes.get_ylim()[0] == pytest.approx(0.4)
    fake_run(tmp_path / "a" / "seed0", [(1.0, 0.01), (2.0, 0.02)])
    axes = accuracy_over_cost(read_comparison([tmp_path]), "epochs").axes[0]
    assert axes.get_ylim()[0] < 0.02


def test_many_methods_have_a_plot_each_over_all_others(tmp_path):
    folder = small_suite(tmp_path / "suite")
    for name in "abcd":
        course = [(1.0, 0.5), (2.0, 0.9)]
        fake_run(tmp_path / "loose" / name / "seed0", course, method=name)
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
        assert colours[-1] == COLOURS[place]
        assert colours.count(INK) == (place != tuned)
        assert colours.count(GRID) == len(many.rows) - 1 - (place != tuned)
        (mine,) = lines_of(axes)
        assert mine == many.rows[place].label


# what accuracy costs


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


def test_targets_are_a_list_and_no_scale(tmp_path):
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.99)], targets=(0.5, 0.9, 0.99))
    table = cost_table(read_comparison([tmp_path]), "epochs")
    axes = cost_to_accuracy(table).axes[0]
    assert [*axes.get_xticks()] == [0, 1, 2]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "90", "99"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Eight methods, more than can share a plot, and one that has not run."""
    folder = tmp_path_factory.mktemp("many")
    names = [f"method {n}" for n in range(8)]
    for n, name in enumerate(names):
        course = [(1.0 + n, 0.7), (2.0 + n, 0.9)]
        fake_run(folder / name, course, coreset=[0, 1] * 4, test_accuracy=0.9 - n / 99)
    rows = [variant(name, {"0.6": [name], "0.8": [name]}) for name in names]
    rows.append(variant("absent", {"0.6": [], "0.8": []}))
    return read_comparison([fake_suite(folder, rows, {"tuned": "method 3"})])


def test_of_more_methods_than_colours_none_has_one_and_the_baseline_is_ink(many, suite):
    rows = [replace(many.rows[0], key=f"method {n}") for n in range(len(COLOURS) + 1)]
    looks = looks_of(rows, rows[3])
    assert looks.pop("method 3").colour == INK
    assert {look.colour for look in looks.values()} == {MUTED}
    assert len({look.colour for look in looks_of(rows[1:], rows[3]).values()}) == 12
    few = looks_of(suite.rows)
    assert [look.colour for look in few.values()] == [*COLOURS[:4]]
    # a method that has not run takes no colour from those that have
    assert "absent" not in looks_of(many.rows)
    assert [*looks_of([many.rows[-1], *many.rows[:2]])] == ["method 0", "method 1"]
    assert not {INK, MUTED} & {*COLOURS}


def linear(colour):
    """Return the linear light of a colour, [3]."""
    light = np.array(to_rgb(colour))
    return np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)


def seen(colour, cones):
    """Return CIELAB, [3], of a colour as it is seen with these cones."""
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    x, y, z = np.cbrt(to_xyz @ (cones @ linear(colour)).clip(1e-2) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


#: Machado, Oliveira and Fernandes 2009, severity 1: all cones, and without one kind.
CONES = {
    "all": np.eye(3),
    "red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("lacking", CONES)
def test_colours_differ_for_every_eye(lacking):
    cones = np.array(CONES[lacking])
    colours = [seen(colour, cones) for colour in (*COLOURS, MUTED)]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]
    # 2.3 is just noticed; of those that lie nearest, dashes and markers differ too
    assert min(apart) > (12 if lacking == "all" else 7)


def test_colours_are_seen_on_light_and_on_dark_ground():
    def contrast(*both):
        low, high = sorted(linear(one) @ [0.2126, 0.7152, 0.0722] for one in both)
        return (high + 0.05) / (low + 0.05)

    for colour in COLOURS:
        assert contrast(colour, "#ffffff") > 2.1
        assert contrast(colour, "#1d2126") > 2.5


def test_many_methods_have_a_line_each_with_all_of_their_targets(many):
    table = cost_table(many, "epochs")
    figure = cost_to_accuracy(table)
    axes = figure.axes[0]
    names = [row.label for row in many.rows[:8]]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    places = [c.lines[0].get_xydata()[0] for c in axes.containers]
    medians = [
        (line.cells[t].median, n)
        for n, line in enumerate(table.rows[:8])
        for t in table.targets
    ]
    np.testing.assert_allclose(places, medians)
    assert labels_of(figure) == ["to 60 %", "to 80 %"]


@pytest.mark.parametrize(
    "draw", [coreset_growth, lambda c: pareto(cost_table(c, "epochs"))]
)
def test_names_of_many_methods_stand_beside_their_plot_in_order_and_apart(many, draw):
    figure = draw(many)
    (axes,) = figure.axes
    names = [row.label for row in many.rows[:8]]
    assert {text.get_text() for text in axes.texts} == {*names}
    places = sorted(text.xyann[1] for text in axes.texts)
    room = figure.get_size_inches()[1] - 0.55
    assert min(np.diff(places)) * room >= 0.13
    assert {text.xyann[0] for text in axes.texts} == {1.1}
    by_height = sorted(axes.texts, key=lambda text: text.xyann[1])
    heights = [text.xy[1] for text in by_height]
    assert heights == sorted(heights)
    in_legend = labels_of(figure) if figure.legends else []
    assert not {*in_legend} & {*names}


def test_target_that_the_median_seed_missed_is_not_drawn(tmp_path):
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.7), (2.0, 0.9)], seed=0)
    fake_run(tmp_path / "m" / "seed1", [(1.0, 0.7)], seed=1)
    figure = cost_to_accuracy(cost_table(read_comparison([tmp_path]), "epochs"))
    ((data, _, _),) = [one.lines for one in figure.axes[0].containers]
    assert list(data.get_ydata()) == [1.0]


def test_bars_are_stacked_to_the_whole_cost_and_hatched_where_reported_apart(suite):
    figure = cost_by_part(suite, "wh")
    containers = figure.axes[0].containers
    ends = {}
    for container in containers:
        for place, bar in enumerate(container):
            assert bar.get_x() == pytest.approx(ends.get(place, 0.0))
            ends[place] = bar.get_x() + bar.get_width()
    wholes = [
        np.mean([sum(run.end["wh"].values()) for run in row.runs]) for row in suite.rows
    ]
    np.testing.assert_allclose([ends[n] for n in range(4)], wholes)
    apart = {"evaluation (apart)", "compilation (apart)", "rest (apart)"}
    assert {"selection", "warm-up", "rounds", *apart} <= {*labels_of(figure)}
    assert {c.get_label() for c in containers if c[0].get_hatch()} == apart


def test_pareto_shows_medians_and_the_front(suite):
    table = cost_table(suite, "epochs")
    axes = pareto(table).axes[0]
    points = [c.lines[0].get_xydata()[0] for c in axes.containers]
    np.testing.assert_allclose(
        points, [(line.total.median, line.test_accuracy.median) for line in table.rows]
    )
    # margin is both the cheapest and the best
    best = lines_of(axes)["front of the medians"]
    np.testing.assert_allclose(best.get_xydata(), [points[3]])


def test_plot_without_anything_to_show_is_none(tmp_path):
    folder = fake_run(tmp_path / "m" / "seed0", [(1.0, 0.5)])
    nothing = read_comparison([tmp_path])
    assert accuracy_over_cost(nothing, "wh") is None
    assert cost_to_accuracy(cost_table(nothing, "epochs")) is None
    assert cost_by_part(nothing, "wh") is None
    assert pareto(cost_table(nothing, "wh")) is None
    assert coreset_growth(nothing) is None
    assert class_balance(nothing) is None
    assert gallery(read_run(folder)) is None


# coresets


def test_growth_is_the_size_after_each_round(suite):
    axes = coreset_growth(suite).axes[0]
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == ["random", "margin"]
    np.testing.assert_array_equal(lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines[0].get_ydata(), [4, 8, 12])
    assert axes.get_ylabel() == "examples in the coreset"


def test_balance_is_the_share_of_each_class_against_equal_ones(suite):
    _, margin = class_balance(suite).axes
    assert [bar.get_height() for bar in margin.patches] == [0.75, 0.25]
    assert set(margin.get_lines()[0].get_ydata()) == {0.5}
    assert margin.get_title(loc="left") == "margin"


def test_balance_is_compared_with_the_pool_where_it_is_known(tmp_path):
    folder = fake_run(tmp_path / "a" / "seed0", coreset=[0, 0, 1, 2])
    arrays = arrays_of(folder / "coreset.npz")
    np.savez(folder / "coreset.npz", **arrays, pool_class_counts=[50, 30, 20])
    figure = class_balance(read_comparison([tmp_path]))
    np.testing.assert_allclose(
        figure.axes[0].get_lines()[0].get_ydata(), [0.5, 0.5, 0.3, 0.2, 0.2]
    )
    assert labels_of(figure) == ["share of the pool"]


def test_gallery_shows_first_and_last_with_class_and_score(tmp_path):
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (100, 4, 4, 3), np.uint8
    )
    folder = fake_run(tmp_path / "a", coreset=[0, 1] * 50, images=images)
    axes = gallery(read_run(folder)).axes[0]
    shown = [int(image.get_array()[0, 0, 0]) for image in axes.images]
    assert shown == [*range(16), *range(84, 100)]
    assert {image.get_interpolation() for image in axes.images} == {"nearest"}
    texts = [text.get_text() for text in axes.texts]
    assert texts[:2] == ["first to enter", "class 0\n1"]
    assert texts[-1] == "class 1\n0.001"


def test_small_coreset_is_shown_once(tmp_path):
    figure = gallery(read_run(fake_run(tmp_path / "a", coreset=[0, 1] * 9)))
    assert len(figure.axes[0].images) == 18


def test_grey_examples_that_were_drawn_at_random_say_so(tmp_path):
    folder = fake_run(tmp_path / "a", coreset=[0, 1])
    arrays = arrays_of(folder / "gallery.npz")
    arrays["score"][:] = np.nan
    arrays["images"] = arrays["images"][..., :1]
    np.savez(folder / "gallery.npz", **arrays)
    assert gallery(read_run(folder)).axes[0].texts[1].get_text() == "class 0\nrandom"


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_torn_coreset_is_none_and_no_crash(tmp_path, keep):
    folder = fake_run(tmp_path / "a" / "seed0", coreset=[0, 1])
    for name in ("coreset.npz", "gallery.npz"):
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    assert coreset_growth(read_comparison([tmp_path])) is None
    assert gallery(read_run(folder)) is None


# power


def test_each_channel_is_drawn_over_the_bins(tmp_path):
    run = read_run(fake_run(tmp_path / "a", trace=TRACE))
    axes = power_trace(run).axes[0]
    stairs = {
        patch.get_label(): patch.get_data()
        for patch in axes.patches
        if hasattr(patch, "get_data")
    }
    np.testing.assert_array_equal(stairs["gpu:0"].values, [100.0, 300.0])
    np.testing.assert_array_equal(stairs["cpu"].values, [50.0, np.nan])
    np.testing.assert_array_equal(stairs["gpu:0"].edges, [0.0, 10.0, 30.0])


def test_phase_that_took_most_of_the_time_between_two_events_is_shaded(tmp_path):
    run = read_run(fake_run(tmp_path / "a", choosing_epochs=1.0, trace=TRACE))
    found = stretches(run)
    assert [one.phase for one in found] == ["select", "train"]
    assert found[0].end_s == found[1].start_s == 15.0
    assert found[1].end_s == 35.0
    assert {*labels_of(power_trace(run))} == {"select", "train", "cpu", "gpu:0"}


def test_no_power_is_no_plot(tmp_path):
    without = fake_run(tmp_path / "a")
    assert power_trace(read_run(without)) is None
    empty = [{"start_s": 0.0, "end_s": 1.0, "w": {}}]
    assert power_trace(read_run(fake_run(tmp_path / "b", trace=empty))) is None
    (without / "energy_report.json").write_text("{")
    assert power_trace(read_run(without)) is None


# all pictures of a report


def test_everything_there_is_to_show_is_drawn_under_a_safe_name_of_its_own(suite):
    rows = [replace(row, key=f"../{row.key} b") for row in suite.rows]
    comparison = replace(suite, rows=tuple(rows))
    found = pictures(comparison, cost_table(comparison, "epochs"), None)
    drawn = [picture for picture in found if picture.figure is not None]
    assert {picture.name for picture in drawn} >= {
        *("accuracy", "cost_to_accuracy", "parts", "pareto", "growth", "balance"),
        *("gallery_04__margin_b", "power_01__standard_b"),
    }
    assert len({picture.name for picture in found}) == len(found)
    assert drawn[-1].heading == "Power: margin"


def test_what_is_missing_is_listed_with_the_reason_a_line_for_each(tmp_path):
    for name in ("a", "b"):
        fake_run(tmp_path / name / "seed0", [(1.0, 0.5)], method=name)
    comparison = read_comparison([tmp_path])
    assert missing(pictures(comparison, cost_table(comparison, "epochs"), None)) == [
        "Cost to reach an accuracy: no method's median seed reached a target",
        "Growth of the coreset: no run selected a coreset",
        "Class balance of the coreset: no run selected a coreset",
        "First and last examples selected: the run selected no coreset (a; b)",
        "Power: the run recorded no power (a; b)",
    ]


# style


@styled
def drawn(labels=("one", "two")):
    figure = new_figure(1.5)
    axes = figure.add_subplot()
    for number, label in enumerate(labels):
        axes.plot([1, 100], [number, 1], label=label)
    return finished(figure, axes, "x", "y")


@pytest.fixture(scope="module")
def svg():
    return to_svg(drawn())


def test_same_figure_gives_the_same_bytes(svg):
    assert to_svg(drawn()) == svg
    assert to_png(drawn()) == to_png(drawn())


def test_svg_needs_no_font_and_no_date(svg):
    assert "<text" not in svg
    assert "<metadata" not in svg
    assert "date" not in svg.lower()
    ET.fromstring(svg)


def test_png_is_a_column_wide_at_200_pixels_an_inch():
    assert int.from_bytes(to_png(drawn())[16:20], "big") == 680


def test_styles_of_others_stay_as_they_are():
    before = dict(matplotlib.rcParams)
    to_png(drawn())
    assert dict(matplotlib.rcParams) == before


def test_looks_of_twenty_methods_all_differ_even_without_colour():
    looks = [look(number) for number in range(20)]
    assert len(set(looks)) == 20
    assert len({(one.marker, str(one.dashes)) for one in looks}) == 20


def test_legend_of_many_methods_is_below_the_plot_in_no_small_print():
    figure = drawn([f"a method of some length {n}" for n in range(14)])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.contains(box.x0 + 1, box.y0 + 1)
    assert figure.bbox.contains(box.x1 - 1, box.y1 - 1)
    assert box.y1 < figure.axes[0].get_window_extent().y0
    texts = figure.findobj(matplotlib.text.Text)
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 7


def test_long_labels_are_cut_but_never_made_equal():
    assert short("x" * 30) == "x" * 30
    assert short("x" * 31) == "x" * 29 + "…"
    figure = drawn([f"the same first twenty-four letters {n}" for n in range(8)])
    assert len({*labels_of(figure)}) == 8


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


@pytest.mark.parametrize(("low", "high"), [(0.8, 1.25), (0.4, 6.0)])
def test_logarithmic_axis_of_ratios_says_what_is_dearer(low, high):
    @styled
    def ratios():
        figure = new_figure(1.5)
        axes = figure.add_subplot()
        axes.plot([low, high], [1, 2])
        log_axis(axes, "x")
        change_axis(axes, "x")
        figure.draw_without_rendering()
        left, right = axes.get_xlim()
        ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        return [label.get_text() for x, label in ticks if left <= x <= right]

    labels = ratios()
    assert 3 <= len(labels) <= 8
    assert {"0", "+100" if high > 2 else "+20"} <= {*labels}


def test_fractions_are_printed_in_percent():
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


def test_inline_picture_takes_its_ink_from_the_page_and_points_nowhere_else(svg):
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
