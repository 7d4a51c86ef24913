import json

import pytest
from fakes.runs import events_of, fake_run

from dpet_jax.errors import UserError
from dpet_jax.report.runs import find_runs, read_run


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
    # warm: without four seconds of compiling
    assert run.spent("seconds") == pytest.approx(30.5)


def test_evaluations_without_an_accuracy_are_left_out(tmp_path):
    folder = fake_run(tmp_path / "a")
    events = events_of(folder)
    next(e for e in events if e["event"] == "evaluate")["accuracy"] = None
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    found = read_run(folder).evaluations()
    assert [event["accuracy"] for event in found] == [0.7, 0.9]


def test_run_that_has_not_ended_says_so(tmp_path):
    folder = fake_run(tmp_path / "a")
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match="not come to its end; it is left out"):
        read_run(folder)


def test_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path / "nothing")


def test_missing_file_is_named(tmp_path):
    folder = fake_run(tmp_path / "a")
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"No such file.*config\.yaml"):
        read_run(folder)


def test_events_torn_before_the_stop_are_told(tmp_path):
    folder = fake_run(tmp_path / "a")
    events = folder / "events.jsonl"
    events.write_text(events.read_text()[:-40])
    with pytest.raises(UserError, match=r"events\.jsonl holds no stop event"):
        read_run(folder)


def test_torn_summary_is_told(tmp_path):
    folder = fake_run(tmp_path / "a")
    (folder / "summary.json").write_text('{"seed": 0, "te')
    with pytest.raises(UserError, match="cannot be read"):
        read_run(folder)


@pytest.mark.parametrize("key", ["select_flops", "energy", "targets", "phases"])
def test_summary_without_something_that_a_report_needs_is_told(tmp_path, key):
    folder = fake_run(tmp_path / "a")
    rewrite(folder, "summary.json", lambda data: data.pop(key))
    with pytest.raises(UserError, match="written by another version"):
        read_run(folder)


def test_runs_are_found_finished_or_not_at_and_below_a_folder(tmp_path):
    one, two = fake_run(tmp_path / "m" / "seed0"), fake_run(tmp_path / "m" / "seed1")
    (two / "summary.json").unlink()
    assert find_runs(tmp_path) == [one, two]
    assert find_runs(one) == [one]
