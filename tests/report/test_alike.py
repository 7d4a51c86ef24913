import pytest
from fakes.runs import fake_run

from dpet_jax.errors import UserError
from dpet_jax.report.alike import comparable, mixed_settings
from dpet_jax.report.rows import Row
from dpet_jax.report.runs import read_run


def rows(tmp_path, *facts):
    runs = [read_run(fake_run(tmp_path / str(n), **f)) for n, f in enumerate(facts)]
    return [Row(r.folder.name, r.folder.name, {0.6: (r,)}, (r,)) for r in runs]


def left(found):
    return [row.key for row in found if row.runs and row.by_target[0.6]]


@pytest.mark.parametrize(
    "other", [{"fingerprint": "beef" * 16}, {"every": 0.5}, {"targets_on": "test"}]
)
def test_another_data_set_grid_or_split_is_left_out_and_said(tmp_path, other):
    problems = []
    found = comparable(rows(tmp_path, {}, {}, other), "epochs", problems)
    assert left(found) == ["0", "1"]
    (problem,) = problems
    assert "left out, it has another data set, split or evaluation grid" in problem
    assert str(tmp_path / "2") in problem


def test_devices_may_be_mixed_in_epochs_but_that_is_said(tmp_path):
    problems = []
    found = comparable(rows(tmp_path, {}, {}, {"device": "TPU v9"}), "epochs", problems)
    assert left(found) == ["0", "1", "2"]
    assert len(problems) == 1
    assert "several devices" in problems[0]
    assert "TPU v9" in problems[0]


@pytest.mark.parametrize("by", ["seconds", "wh"])
def test_another_device_is_left_out_of_seconds_and_wh(tmp_path, by):
    problems, wh = [], {"wh_per_epoch": 1.0}
    found = comparable(rows(tmp_path, wh, wh, wh | {"device": "TPU"}), by, problems)
    assert left(found) == ["0", "1"]
    assert "another device" in problems[0]


@pytest.mark.parametrize("other", [{"quality": "modelled"}, {"included": ["cpu"]}])
def test_another_energy_is_left_out_of_wh_only(tmp_path, other):
    wh = {"wh_per_epoch": 1.0}
    made, problems = rows(tmp_path, wh, wh, wh | other), []
    assert left(comparable(made, "wh", problems)) == ["0", "1"]
    assert "another energy quality or boundary" in problems[0]
    assert left(comparable(made, "seconds", [])) == ["0", "1", "2"]


def test_few_measured_runs_win_over_many_that_measured_nothing(tmp_path):
    problems = []
    made = rows(tmp_path, {}, {}, {"wh_per_epoch": 1.0})
    assert left(comparable(made, "wh", problems)) == ["2"]
    assert sum("has not measured energy (Wh)" in problem for problem in problems) == 2


def test_cost_that_nobody_measured_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no run has measured energy .*--by=epochs"):
        comparable(rows(tmp_path, {}, {}), "wh", [])


def test_settings_that_differ_within_a_row_are_found(tmp_path):
    one, two = rows(
        tmp_path,
        {"settings": {"train": {"batch_size": 5}}},
        {"settings": {"train": {"batch_size": 6}}, "seed": 1},
    )
    both = (*one.runs, *two.runs)
    assert mixed_settings(Row("a", "a", {0.6: both}, both)) == ["train.batch_size"]
    assert mixed_settings(Row("a", "a", {0.6: one.runs, 0.8: two.runs}, ())) == []
