"""From run folders to a comparison: what is read, which runs belong together."""

import json

import pytest
from fakes.runs import events_of, fake_run, fake_suite, small_suite, variant

from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.rows import (
    Comparison,
    Row,
    comparable,
    mixed_settings,
    setting_of,
)
from dpet_jax.report.runs import find_runs, read_run

# one run


def rewrite(folder, name, change):
    path = folder / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_cost_of_a_target_is_at_its_evaluation_with_its_test_accuracy(tmp_path):
    run = read_run(fake_run(tmp_path / "a", targets=(0.6, 0.95)))
    cost = run.target_cost(0.6)
    assert cost.spent.epochs == 2.0
    assert cost.test_accuracy == pytest.approx(0.69)
    assert run.target_cost(0.95) is None
    assert run.targets == (0.6, 0.95)


def test_cost_that_was_not_measured_is_none_and_not_nought(tmp_path):
    run = read_run(fake_run(tmp_path / "a"))
    assert run.spent("wh") is None
    # warm: without four seconds of compiling and half a one of reading
    assert run.spent("seconds") == pytest.approx(30.0)


def test_evaluations_without_an_accuracy_are_left_out(tmp_path):
    folder = fake_run(tmp_path / "a")
    events = events_of(folder)
    next(e for e in events if e["event"] == "evaluate")["accuracy"] = None
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    found = read_run(folder).evaluations()
    assert [event["accuracy"] for event in found] == [0.7, 0.9]


@pytest.mark.parametrize(
    ("facts", "method"),
    [
        ({"method": "active_learning", "method_label": "Margin sampling"}, None),
        # folders of an earlier version have no label
        ({"method": "active_learning"}, "active learning"),
        ({"method": "my_lab.methods:Mine"}, "Mine"),
    ],
)
def test_a_run_is_called_by_the_label_of_its_method(tmp_path, facts, method):
    run = read_run(fake_run(tmp_path, **facts))
    assert run.method == (method or facts["method_label"])


def test_run_that_is_not_finished_or_not_there_says_so(tmp_path):
    folder = fake_run(tmp_path / "a")
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match="has not finished; it is left out"):
        read_run(folder)
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path / "nothing")


def test_missing_file_is_named(tmp_path):
    folder = fake_run(tmp_path / "a")
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"No such file.*config\.yaml"):
        read_run(folder)


def test_torn_files_are_named(tmp_path):
    folder = fake_run(tmp_path / "a")
    events = folder / "events.jsonl"
    events.write_text(events.read_text()[:-40])
    with pytest.raises(UserError, match=r"events\.jsonl holds no stop event"):
        read_run(folder)
    (fake_run(tmp_path / "b") / "summary.json").write_text('{"seed": 0, "te')
    with pytest.raises(UserError, match="damaged: "):
        read_run(tmp_path / "b")


@pytest.mark.parametrize("key", ["select_flops", "energy", "targets", "phases"])
def test_summary_without_something_that_a_report_needs_is_refused(tmp_path, key):
    folder = fake_run(tmp_path / "a")
    rewrite(folder, "summary.json", lambda data: data.pop(key))
    with pytest.raises(
        UserError, match=f"as this version writes them .{key}: Field required"
    ):
        read_run(folder)


def test_runs_are_found_finished_or_not_at_and_below_a_folder(tmp_path):
    one, two = fake_run(tmp_path / "m" / "seed0"), fake_run(tmp_path / "m" / "seed1")
    (two / "summary.json").unlink()
    assert find_runs(tmp_path) == [one, two]
    assert find_runs(one) == [one]


# rows


def comparison(*runs):
    rows = tuple(
        Row(f"row {n}", "a row", {0.6: (run,)}, (run,)) for n, run in enumerate(runs)
    )
    return Comparison("a name", rows, (0.6,), {"tuned": "row 1"})


def test_every_run_is_counted_once_in_a_row_and_between_rows(tmp_path):
    one, two = read_run(fake_run(tmp_path / "a")), read_run(fake_run(tmp_path / "b"))
    row = Row("key", "label", {0.6: (one, two), 0.8: (two,)}, (two,))
    assert [run.folder.name for run in row.all_runs] == ["a", "b"]
    assert len(comparison(one, one).runs) == 1


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


def test_settings_that_differ_within_a_row_are_found_but_seed_and_name(tmp_path):
    one, two = rows_of(
        tmp_path,
        {"settings": {"train": {"batch_size": 5}}},
        {"settings": {"train": {"batch_size": 6}, "name": "another"}, "seed": 1},
    )
    assert setting_of(one.runs[0])["train.batch_size"] == 5
    both = (*one.runs, *two.runs)
    assert mixed_settings(Row("a", "a", {0.6: both}, both)) == ["train.batch_size"]
    assert mixed_settings(Row("a", "a", {0.6: one.runs, 0.8: two.runs}, ())) == []


# what can be compared


def rows_of(tmp_path, *facts):
    runs = [read_run(fake_run(tmp_path / str(n), **f)) for n, f in enumerate(facts)]
    return [Row(r.folder.name, r.folder.name, {0.6: (r,)}, (r,)) for r in runs]


def left(found):
    return [row.key for row in found if row.runs and row.by_target[0.6]]


@pytest.mark.parametrize(
    "other", [{"fingerprint": "beef" * 16}, {"every": 0.5}, {"targets_on": "test"}]
)
def test_another_data_set_grid_or_split_is_left_out_and_said(tmp_path, other):
    problems = []
    found = comparable(rows_of(tmp_path, {}, {}, other), "epochs", problems)
    assert left(found) == ["0", "1"]
    (problem,) = problems
    assert "left out, it has another data set, split or evaluation grid" in problem
    assert str(tmp_path / "2") in problem


def test_devices_may_be_mixed_in_epochs_but_that_is_said(tmp_path):
    problems = []
    rows = rows_of(tmp_path, {}, {}, {"device": "TPU v9"})
    assert left(comparable(rows, "epochs", problems)) == ["0", "1", "2"]
    (problem,) = problems
    assert "several devices" in problem
    assert "TPU v9" in problem


@pytest.mark.parametrize("by", ["seconds", "wh"])
def test_another_device_is_left_out_of_seconds_and_wh(tmp_path, by):
    problems, wh = [], {"wh_per_epoch": 1.0}
    rows = rows_of(tmp_path, wh, wh, wh | {"device": "TPU"})
    assert left(comparable(rows, by, problems)) == ["0", "1"]
    assert "another device" in problems[0]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"quality": "modelled"}, "it has not measured energy"),
        ({"included": ["cpu"]}, "another energy quality or boundary"),
    ],
)
def test_another_energy_is_left_out_of_wh_only(tmp_path, other, why):
    wh = {"wh_per_epoch": 1.0}
    rows, problems = rows_of(tmp_path, wh, wh, wh | other), []
    assert left(comparable(rows, "wh", problems)) == ["0", "1"]
    assert why in problems[0]
    assert left(comparable(rows, "seconds", [])) == ["0", "1", "2"]


def test_few_measured_runs_win_over_many_that_measured_nothing(tmp_path):
    problems = []
    rows = rows_of(tmp_path, {}, {}, {"wh_per_epoch": 1.0})
    assert left(comparable(rows, "wh", problems)) == ["2"]
    assert sum("has not measured energy (Wh)" in problem for problem in problems) == 2


def test_cost_that_no_run_measured_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no run has measured energy .*--by=epochs"):
        comparable(rows_of(tmp_path, {}, {}), "wh", [])


# from folders to rows


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
    assert tuning.cost == {
        **{"epochs": 70.0, "seconds": 700.0, "visits": 70_000.0, "wh": None}
    }
    assert tuning.chosen == {0.6: "peak 0.2, 4 epochs", 0.8: None}


def test_record_of_an_earlier_version_is_read_all_the_same(tmp_path):
    suite = small_suite(tmp_path)
    expected = read_comparison([suite]).row("tuned").tuning
    text = (suite / "suite.json").read_text()
    old = text.replace('"wh_warm"', '"wh"').replace('"seconds_warm"', '"seconds"')
    assert old != text
    (suite / "suite.json").write_text(old)
    assert read_comparison([suite]).row("tuned").tuning == expected


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


def test_loose_rows_are_called_by_their_method_and_by_their_folder_if_need_be(
    tmp_path,
):
    fake_run(tmp_path / "mine", method="my.own:Kind", method_label="My own")
    fake_run(tmp_path / "a" / "seed0", method="rs2")
    fake_run(tmp_path / "b" / "seed0", method="rs2")
    labels = {row.key: row.label for row in read_comparison([tmp_path]).rows}
    assert labels == {tmp_path.name: "My own", "a": "rs2, a", "b": "rs2, b"}
    # the label of a suite is taken as it is, and never given to another row
    suite = small_suite(tmp_path / "suite")
    fake_run(tmp_path / "a" / "seed0", method="margin")
    labels = {
        row.key: row.label for row in read_comparison([tmp_path / "a", suite]).rows
    }
    assert (labels["margin"], labels["a"]) == ("margin", "margin, a")


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
    problems = "\n".join(found.problems)
    assert "random/seed0: this run has not finished" in problems
    assert "random/seed1/summary.json: damaged: " in problems
    assert "margin/seed0: its files are not as this version" in problems
    assert "margin/seed1: diverged" in problems
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
    assert ("has not finished" in str(caught.value)) is made


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
    rewrite(small_suite(tmp_path), "suite.json", change)
    with pytest.raises(UserError, match=r"suite\.json: cannot be read"):
        read_comparison([tmp_path])


def test_row_of_a_paper_that_is_not_known_is_none(tmp_path):
    fake_run(tmp_path / "a")
    suite = fake_suite(tmp_path, [variant("a", {"0.6": ["a"]}, paper="nobody")])
    assert read_comparison([suite]).rows[0].paper is None


def test_wh_of_models_are_not_compared_for_their_interval_holds_any_saving(tmp_path):
    modelled = {"wh_per_epoch": 1.0, "quality": "modelled"}
    rows = rows_of(tmp_path, modelled, modelled)
    with pytest.raises(UserError, match=r"no run has measured energy .*--by=epochs"):
        comparable(rows, "wh", [])
    assert rows[0].runs[0].spent("wh") is None
    assert rows[0].runs[0].spent("epochs") == 3.0
