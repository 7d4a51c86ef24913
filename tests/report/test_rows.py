import pytest
from fakes.runs import fake_run

from dpet_jax.report.rows import Comparison, Row, setting_of
from dpet_jax.report.runs import read_run


def comparison(*runs):
    rows = tuple(
        Row(f"row {n}", "a row", {0.6: (run,)}, (run,)) for n, run in enumerate(runs)
    )
    return Comparison("a name", rows, (0.6,), {"tuned": "row 1"})


def test_all_runs_of_a_row_are_told_once(tmp_path):
    one, two = read_run(fake_run(tmp_path / "a")), read_run(fake_run(tmp_path / "b"))
    row = Row("key", "label", {0.6: (one, two), 0.8: (two,)}, (two,))
    assert [run.folder.name for run in row.all_runs] == ["a", "b"]


def test_a_run_that_answers_in_two_rows_is_one_run(tmp_path):
    run = read_run(fake_run(tmp_path / "a"))
    assert len(comparison(run, run).runs) == 1


def test_role_without_a_row_is_none(tmp_path):
    run = read_run(fake_run(tmp_path / "a"))
    assert comparison(run).row("tuned") is None
    assert comparison(run, run).row("tuned").key == "row 1"
    assert comparison(run).row("random") is None


@pytest.mark.parametrize(
    ("other", "cost"),
    [
        ({"wh_per_epoch": 1.0}, "wh"),
        ({}, "epochs"),
        ({"wh_per_epoch": 1.0, "quality": "modelled"}, "epochs"),
        ({"wh_per_epoch": 1.0, "device": "another"}, "epochs"),
        ({"wh_per_epoch": 1.0, "included": ["cpu", "gpu"]}, "epochs"),
    ],
)
def test_wh_are_natural_only_where_all_measured_the_same(tmp_path, other, cost):
    one = read_run(fake_run(tmp_path / "a", wh_per_epoch=2.0))
    two = read_run(fake_run(tmp_path / "b", **other))
    assert comparison(one, two).natural_cost() == cost


def test_settings_are_told_without_seed_and_name(tmp_path):
    run = read_run(fake_run(tmp_path / "a", settings={"train": {"batch_size": 5}}))
    settings = setting_of(run)
    assert settings["train.batch_size"] == 5
    assert not settings.keys() & {"seed", "name"}
