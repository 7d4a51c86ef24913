import json

import pytest
from fakes.runs import fake_run, fake_suite, small_suite, variant

from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison


def test_suite_says_rows_roles_tuning_and_statements(tmp_path):
    found = read_comparison([small_suite(tmp_path)])
    assert found.name == "a suite"
    assert [row.key for row in found.rows] == ["standard", "tuned", "random", "margin"]
    assert found.roles["tuned"] == "tuned"
    assert found.targets == (0.6, 0.8)
    assert found.statements == ("Made small.",)
    assert found.problems == ()
    tuning = found.row("tuned").tuning
    assert (tuning.trials, tuning.seeds) == (6, (100, 101))
    assert tuning.cost["epochs"] == 70.0
    assert tuning.chosen == {0.6: "peak 0.2, 4 epochs", 0.8: None}


def test_targets_may_be_answered_by_different_runs(tmp_path):
    fake_run(tmp_path / "short" / "seed0", seed=0)
    fake_run(tmp_path / "long" / "seed0", seed=0)
    names = {"0.6": ["short/seed0"], "0.8": ["long/seed0"]}
    (row,) = read_comparison([fake_suite(tmp_path, [variant("a", names)])]).rows
    assert [run.folder.parent.name for run in row.by_target[0.6]] == ["short"]
    assert [run.folder.parent.name for run in row.runs] == ["long"]


def test_loose_seeds_are_one_row_wherever_they_are_named(tmp_path):
    seeds = [fake_run(tmp_path / "m" / f"seed{s}", seed=s) for s in (1, 0)]
    for paths in ([tmp_path], [tmp_path / "m"], seeds, [tmp_path, *seeds]):
        found = read_comparison(paths)
        (row,) = found.rows
        assert row.key == "m"
        assert "seed0" not in found.name
        assert [run.seed for run in row.runs] == [0, 1]


def test_runs_of_a_suite_are_not_also_loose(tmp_path):
    suite = small_suite(tmp_path / "suite")
    fake_run(tmp_path / "other" / "seed0")
    keys = [row.key for row in read_comparison([tmp_path]).rows]
    assert keys == ["standard", "tuned", "random", "margin", "other"]
    assert len(read_comparison([suite, suite]).rows) == 4


def test_two_suites_keep_their_rows_apart(tmp_path):
    small_suite(tmp_path / "a")
    small_suite(tmp_path / "b")
    found = read_comparison([tmp_path])
    assert len({row.key for row in found.rows}) == 8
    assert found.row("tuned") is found.rows[1]


def test_broken_runs_are_problems_and_the_rest_is_reported(tmp_path):
    suite = small_suite(tmp_path)
    (tmp_path / "random/seed0/summary.json").unlink()
    (tmp_path / "random/seed1/summary.json").write_text("{")
    events = tmp_path / "margin/seed0/events.jsonl"
    events.write_text(events.read_text()[:300])
    fake_run(tmp_path / "margin/seed1", seed=1, stopped_by="diverged", accuracies=())
    found = read_comparison([suite])
    told = "\n".join(found.problems)
    assert "random/seed0: this run has not come to its end" in told
    assert "random/seed1: cannot be read" in told
    assert "margin/seed0: cannot be read" in told
    assert "margin/seed1: diverged" in told
    assert [len(row.runs) for row in found.rows] == [2, 2, 0, 1]


def test_problems_of_the_suite_are_kept(tmp_path):
    suite = fake_suite(
        fake_run(tmp_path / "a").parent,
        [variant("a", {"0.6": ["a"]})],
        problems=["Oh."],
    )
    assert "Oh." in read_comparison([suite]).problems


def test_mixture_within_a_row_is_said(tmp_path):
    for seed, size in enumerate((8, 9)):
        settings = {"train": {"batch_size": size}}
        fake_run(tmp_path / "m" / f"seed{seed}", seed=seed, settings=settings)
    assert any("train.batch_size" in p for p in read_comparison([tmp_path]).problems)


@pytest.mark.parametrize("made", [False, True])
def test_no_run_at_all_is_an_error_with_reasons(tmp_path, made):
    if made:
        (fake_run(tmp_path / "a") / "summary.json").unlink()
    with pytest.raises(UserError, match="no finished run to report on") as caught:
        read_comparison([tmp_path])
    assert ("not come to its end" in str(caught.value)) is made


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("roles"),
        lambda record: record["variants"][0].pop("by_target"),
        lambda record: record["variants"][1]["tuning"].pop("seeds"),
        lambda record: record.update(variants=[7]),
    ],
)
def test_broken_record_of_a_suite_is_an_error_that_names_it(tmp_path, change):
    path = small_suite(tmp_path) / "suite.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"suite\.json: cannot be read"):
        read_comparison([tmp_path])


def test_row_of_a_paper_that_is_not_known_is_none(tmp_path):
    fake_run(tmp_path / "a")
    suite = fake_suite(tmp_path, [variant("a", {"0.6": ["a"]}, paper="nobody")])
    assert read_comparison([suite]).rows[0].paper is None
