import numpy as np
import pytest
from fakes.runs import fake_run, small_suite

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.plots.coreset import (
    class_balance,
    coreset_growth,
    gallery,
    read_arrays,
)
from dpet_jax.report.runs import read_run


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return read_comparison([small_suite(tmp_path_factory.mktemp("suite"))])


def test_growth_is_the_size_after_each_round(suite):
    lines = coreset_growth(suite).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["random", "margin"]
    np.testing.assert_array_equal(lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines[0].get_ydata(), [4, 8, 12])


def test_balance_is_each_classs_share_against_equal_ones(suite):
    _, margin = class_balance(suite).axes
    assert [bar.get_height() for bar in margin.patches] == [0.75, 0.25]
    assert set(margin.get_lines()[0].get_ydata()) == {0.5}
    assert margin.get_title(loc="left") == "margin"


def test_balance_is_held_against_the_pool_where_it_is_known(tmp_path):
    folder = fake_run(tmp_path / "a" / "seed0", coreset=[0, 0, 1, 2])
    arrays = read_arrays(folder / "coreset.npz")
    np.savez(folder / "coreset.npz", **arrays, pool_class_counts=[50, 30, 20])
    figure = class_balance(read_comparison([tmp_path]))
    np.testing.assert_allclose(
        figure.axes[0].get_lines()[0].get_ydata(), [0.5, 0.5, 0.3, 0.2, 0.2]
    )
    assert figure.legends[0].get_texts()[0].get_text() == "share of the pool"


def test_gallery_shows_first_and_last_with_class_and_score(tmp_path):
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (100, 4, 4, 3), np.uint8
    )
    folder = fake_run(tmp_path / "a", coreset=[0, 1] * 50, images=images)
    figure = gallery(read_run(folder))
    axes = figure.axes[0]
    shown = [int(image.get_array()[0, 0, 0]) for image in axes.images]
    assert shown == [*range(16), *range(84, 100)]
    assert {image.get_interpolation() for image in axes.images} == {"nearest"}
    texts = [text.get_text() for text in axes.texts]
    assert texts[:2] == ["first to enter", "class 0\n1"]
    assert texts[-1] == "class 1\n0.001"


def test_small_coreset_is_shown_once(tmp_path):
    figure = gallery(read_run(fake_run(tmp_path / "a", coreset=[0, 1] * 9)))
    assert len(figure.axes[0].images) == 18


def test_scores_of_chance_are_told_as_such(tmp_path):
    folder = fake_run(tmp_path / "a", coreset=[0, 1])
    arrays = read_arrays(folder / "gallery.npz")
    arrays["score"][:] = np.nan
    arrays["images"] = arrays["images"][..., :1]
    np.savez(folder / "gallery.npz", **arrays)
    assert gallery(read_run(folder)).axes[0].texts[1].get_text() == "class 0\nchance"


def test_runs_without_a_coreset_have_no_plots(tmp_path):
    folder = fake_run(tmp_path / "a" / "seed0")
    comparison = read_comparison([tmp_path])
    assert coreset_growth(comparison) is None
    assert class_balance(comparison) is None
    assert gallery(read_run(folder)) is None


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_torn_coreset_is_none_and_no_crash(tmp_path, keep):
    folder = fake_run(tmp_path / "a" / "seed0", coreset=[0, 1])
    for name in ("coreset.npz", "gallery.npz"):
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    assert coreset_growth(read_comparison([tmp_path])) is None
    assert gallery(read_run(folder)) is None
