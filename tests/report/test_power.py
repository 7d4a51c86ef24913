import numpy as np
from fakes.runs import fake_run

from dpet_jax.report.plots.power import power_trace, stretches
from dpet_jax.report.runs import read_run

TRACE = [
    {"start_s": 0.0, "end_s": 10.0, "w": {"gpu:0": 100.0, "cpu": 50.0}},
    {"start_s": 10.0, "end_s": 30.0, "w": {"gpu:0": 300.0}},
]


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
    labels = {text.get_text() for text in power_trace(run).legends[0].get_texts()}
    assert labels == {"select", "train", "cpu", "gpu:0"}


def test_no_power_is_no_plot(tmp_path):
    without = fake_run(tmp_path / "a")
    assert power_trace(read_run(without)) is None
    empty = [{"start_s": 0.0, "end_s": 1.0, "w": {}}]
    assert power_trace(read_run(fake_run(tmp_path / "b", trace=empty))) is None
    (without / "energy_report.json").write_text("{")
    assert power_trace(read_run(without)) is None
