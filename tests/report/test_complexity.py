"""What a larger network buys: slopes, knees and half the cost, against hand values."""

import pytest
from fakes.runs import fake_run, fake_suite, variant

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.complexity import (
    complexities,
    complexity_sheets,
    knee_of,
    slope_per_decade,
)
from dpet_jax.report.grid import grids
from dpet_jax.report.verdict import verdict


def test_a_slope_is_accuracy_for_a_tenfold_cost():
    assert slope_per_decade([1, 10, 100], [0.5, 0.6, 0.7]) == pytest.approx(0.1)
    assert slope_per_decade([2, 20], [0.7, 0.65]) == pytest.approx(-0.05)
    # least squares of 0, 3, 3 over 0, 1, 2: 1.5 a decade
    assert slope_per_decade([1, 10, 100], [0, 3, 3]) == pytest.approx(1.5)


def test_a_knee_lies_highest_above_the_chord_in_logarithms():
    assert knee_of([1, 10, 100, 1000], [0.2, 0.7, 0.75, 0.8]) == 1
    assert knee_of([1, 10, 100, 1000], [0.2, 0.25, 0.75, 0.8]) == 2
    assert knee_of([1, 10, 100], [0.5, 0.6, 0.7]) is None, "a straight line"
    assert knee_of([1, 10, 100], [0.5, 0.51, 0.7]) is None, "it bends upwards"
    assert knee_of([1, 10], [0.5, 0.6]) is None


def networks(folder, rows, key="model.width"):
    """Write a suite of one grid: seconds and test accuracies of two seeds by width."""
    variants = []
    for width, (seconds, accuracies) in rows.items():
        name = f"cnn/width_{width:g}"
        for seed, accuracy in enumerate(accuracies):
            fake_run(
                folder / name / f"seed{seed}",
                [(seconds / 10, 0.6)],  # 10 s an epoch
                seed=seed,
                targets=(0.4,),
                test_accuracy=accuracy,
            )
        runs = [f"{name}/seed{seed}" for seed in range(len(accuracies))]
        cell = {"of": "cnn", "factors": {key: width}}
        label = f"width {width:g}"
        variants.append(variant(name, {"0.4": runs}, label=label, arm="cnn", cell=cell))
    return read_comparison([fake_suite(folder, variants)])


ROWS = {
    0.25: (10, (0.50, 0.54)),
    0.5: (30, (0.60, 0.62)),
    0.75: (60, (0.59, 0.61)),  # beaten by the one before
    1.0: (100, (0.62, 0.64)),
}


def test_a_grid_of_networks_is_measured_along_its_front(tmp_path):
    comparison = networks(tmp_path, ROWS)
    (found,) = complexities(grids(comparison), "epochs")
    assert found.unit == "seconds", "epochs are those of each network's own"
    assert [p.row.label for p in found.front] == ["width 0.25", "width 0.5", "width 1"]
    assert found.knee.row.label == "width 0.5"
    up = slope_per_decade([10, 30], [0.50, 0.60])
    assert found.before.high == pytest.approx(up, rel=0.05)
    assert found.before.low < up
    assert found.after.high < found.before.low, "returns diminish"
    half = found.halved
    assert (half.whole.row.label, half.half.row.label) == ("width 1", "width 0.5")
    assert half.cost.median == pytest.approx(0.3, abs=0.02)
    # -0.02 for each seed
    assert half.accuracy[:] == pytest.approx((-0.02, -0.02, -0.02))
    (sheet,) = complexity_sheets(grids(comparison), "epochs")
    ((name, *_, knee, lost),) = sheet.rows
    assert (name.main, knee.main) == ("cnn", "width 0.5")
    assert lost.main == "\N{MINUS SIGN}2.0 points"
    (words,) = verdict(comparison, "epochs")
    assert "width 0.5 is 70 % cheaper than width 1 at" in words
    assert "\N{MINUS SIGN}2.0 points" in words
    assert words.endswith("beyond.")


def test_seeds_that_overlap_do_not_show_that_returns_diminish(tmp_path):
    rows = ROWS | {1.0: (100, (0.59, 0.72))}
    (words,) = verdict(networks(tmp_path, rows), "epochs")
    assert words.endswith("which seeds do not tell apart.")


def test_where_nothing_costs_half_it_is_said(tmp_path):
    rows = {0.5: (80, (0.6, 0.6)), 1.0: (100, (0.7, 0.7))}
    comparison = networks(tmp_path, rows)
    (found,) = complexities(grids(comparison), "seconds")
    assert found.halved is None
    assert found.knee is None
    (words,) = verdict(comparison, "seconds")
    assert words == (
        "No network of cnn costs half of width 1 or less; the front has no knee."
    )


def test_only_what_shapes_a_network_and_has_all_seeds_is_compared(tmp_path):
    other = networks(tmp_path / "other", ROWS, key="train.batch_size")
    assert complexity_sheets(grids(other), "seconds") == []
    uneven = ROWS | {1.0: (100, (0.62,))}
    held = networks(tmp_path / "uneven", uneven)
    assert complexities(grids(held), "seconds") == []
    flat = {0.5: (50, (0.7, 0.7)), 1.0: (100, (0.6, 0.6))}
    assert complexities(grids(networks(tmp_path / "flat", flat)), "seconds") == []
