"""Runs at a glance, and what two of them differ in."""

import json

import numpy as np
import pytest
from fakes.runs import fake_run, modelled

from dpet_jax.cli import main
from dpet_jax.errors import UserError
from dpet_jax.report.listing import (
    UNFINISHED,
    difference,
    glance,
    list_runs,
    runs_sheet,
)
from dpet_jax.report.printed import NONE


def started(folder, when="2026-11-27T07:10:25Z", **more):
    """Give a run the fields that real start events have and fake ones lack."""
    path = folder / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= {"when": when, **more}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = folder / "config.yaml"
    config.write_text(f"{config.read_text()}method: {{kind: dpet, score: margin}}\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs that ended, one that was killed, one that diverged, one damaged."""
    root = tmp_path / "runs"
    started(fake_run(root / "a" / "seed2", seed=2, method_label="DPET (margin)"))
    started(fake_run(root / "a" / "seed10", seed=10, wh_per_epoch=0.5))
    started(fake_run(root / "b" / "seed0")).joinpath("summary.json").unlink()
    started(fake_run(root / "b" / "seed1", seed=1, test_accuracy=None, stopped_by="x"))
    started(fake_run(root / "c" / "seed0"))
    (root / "c" / "seed0" / "events.jsonl").write_text('{"event": 3}\n{}\n')
    return root


def test_runs_are_listed_by_folder_with_numbers_by_their_value(runs):
    found = list_runs([runs])
    names = [run.folder.relative_to(runs).as_posix() for run in found.runs]
    assert names == ["a/seed2", "a/seed10", "b/seed0", "b/seed1"]
    # a folder that is given twice, or lies in another, is listed once
    assert list_runs([runs, runs / "a", runs]) == found


def test_a_damaged_run_is_skipped_and_named_with_its_reason(runs):
    (problem,) = list_runs([runs]).problems
    assert problem.startswith(f"{runs / 'c' / 'seed0' / 'events.jsonl'}: damaged")
    assert problem.endswith("; skipped")


def test_a_run_is_told_by_what_its_folder_holds(runs):
    first = glance(runs / "a" / "seed2")
    assert (first.method, first.seed, first.state) == ("DPET (margin)", 2, "finished")
    assert (first.test_accuracy, first.epochs, first.wh) == (0.88, 3.0, None)
    assert (first.when, first.dataset) == ("2026-11-27T07:10:25Z", "digits")
    assert first.seconds == 30.0  # of selection and training, not of compiling


def test_the_energy_of_a_run_is_of_everything_it_did(runs):
    # 30 s of training, 3 of evaluating, 4 of compiling, 0.75 of the rest, 0.05 Wh a s
    assert glance(runs / "a" / "seed10").wh == pytest.approx(0.05 * 37.75)


def test_a_run_without_an_end_is_told_with_what_it_has_spent(runs):
    cut = runs / "b" / "seed0" / "events.jsonl"
    lines = cut.read_text().splitlines()
    last = next(n for n, line in enumerate(lines) if '"epochs": 3.0' in line)
    cut.write_text("\n".join(lines[:last]) + '\n{"event": "torn')
    seen = glance(runs / "b" / "seed0")
    assert (seen.state, seen.method, seen.test_accuracy) == (UNFINISHED, "dpet", None)
    assert (seen.epochs, seen.validation_accuracy) == (2.0, 0.7)


def test_a_run_that_has_only_begun_is_listed_too(tmp_path):
    folder = started(fake_run(tmp_path / "seed0"))
    (folder / "summary.json").unlink()
    (folder / "events.jsonl").write_text("")
    (seen,) = list_runs([tmp_path]).runs
    assert (seen.state, seen.epochs, seen.when) == (UNFINISHED, 0.0, None)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run here; give a folder"):
        list_runs([tmp_path / "nothing"])


def test_the_list_fits_into_80_columns_and_names_what_was_skipped(runs, capsys):
    long = runs / "a_suite" / "a_variant_with_a_long_name" / "learning_rate_0.05"
    started(fake_run(long / "seed0", wh_per_epoch=0.5, method_label="DPET (random)"))
    assert main(["runs", str(runs)]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == [
        *("run", "method", "seed", "state", "test", "epochs", "Wh", "begun", "2026")
    ]
    text = " ".join(told.out.split())
    assert f"b/seed0 dpet 0 unfinished {NONE} 3.00 {NONE} 11-27 07:10" in text
    assert told.err.count("\n") == 1
    assert "skipped" in told.err


def test_the_list_as_json_holds_numbers_as_they_are(runs, capsys):
    assert main(["runs", str(runs / "a"), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["folder"] == str(runs / "a" / "seed2")
    assert first["wh"] is None
    assert second["wh"] == pytest.approx(0.05 * 37.75)
    assert (second["seed"], second["state"], second["epochs"]) == (10, "finished", 3.0)


def groups_of(one, other):
    return {group.title: group.rows for group in difference(one, other)[2]}


def test_two_runs_differ_by_key_result_data_and_machine(tmp_path):
    settings = {"train": {"batch_size": 64, "augment": {"flip": True}}}
    more = {"train": {"batch_size": 32, "augment": {"flip": True}}}
    one = fake_run(tmp_path / "one", settings=settings)
    other = fake_run(
        tmp_path / "other",
        [(1.0, 0.5), (2.0, 0.65)],
        settings=more,
        test_accuracy=0.8125,
        fingerprint="beef" * 16,
        device="H100",
    )
    for folder in (one, other):
        started(folder)
    found = groups_of(one, other)
    assert found["config"] == (("train.batch_size", "64", "32"),)
    assert ("test_accuracy", "0.88", "0.8125") in found["results"]
    assert ("epochs", "3", "2") in found["results"]
    assert found["data"] == (("fingerprint", "f00df00df00d", "beefbeefbeef"),)
    assert found["machine and versions"] == (("device.kind", "cpu", "H100"),)


def test_equal_runs_differ_in_nothing(tmp_path, capsys):
    one, other = (started(fake_run(tmp_path / name)) for name in "ab")
    assert all(not rows for rows in groups_of(one, other).values())
    assert main(["diff", str(one), str(other)]) == 0
    told = capsys.readouterr().out
    for what in ("config", "results", "data", "versions and device"):
        assert f"the same {what}\n" in told


def test_coresets_are_compared_by_what_they_have_in_common(tmp_path):
    one, other = (
        started(fake_run(tmp_path / name, coreset=[0, 1] * 4)) for name in "ab"
    )
    for folder, rows in ((one, [1, 2, 3, 4]), (other, [3, 4, 5, 6, 7, 8, 9, 10])):
        np.savez(folder / "coreset.npz", source_rows=np.array(rows))
    assert groups_of(one, other)["results"] == (
        ("coreset in both", "2 (50.0 %)", "2 (25.0 %)"),
    )


def test_a_difference_fits_into_80_columns(tmp_path, capsys):
    one, other = (started(fake_run(tmp_path / name)) for name in "ab")
    for folder, letter in ((one, "Q"), (other, "Z")):
        with (folder / "config.yaml").open("a") as file:
            file.write(f"model: {{kind: 'package.module:{letter * 50}'}}\n")
    assert main(["diff", str(one), str(other)]) == 0
    table = capsys.readouterr().out.partition("\n\n")[2]
    assert max(map(len, table.splitlines())) <= 80
    assert (table.count("Q"), table.count("Z")) == (50, 50)


def test_a_difference_to_something_that_is_no_run_is_refused(tmp_path, capsys):
    one = started(fake_run(tmp_path / "one"))
    assert main(["diff", str(one), str(tmp_path)]) == 2
    assert f"{tmp_path}: holds no run; give" in capsys.readouterr().err


def test_wh_of_a_model_are_listed_with_their_interval_or_not_at_all(tmp_path):
    facts = {"wh_per_epoch": 0.5, "quality": "modelled"}
    settings = {"method": {"kind": "standard"}, "energy": {"allow_modelled": True}}
    facts["settings"] = settings
    ended = modelled(fake_run(tmp_path / "a", **facts))
    begun = fake_run(tmp_path / "b", **facts)
    (begun / "summary.json").unlink()
    shown = runs_sheet(list_runs([tmp_path]), tmp_path)
    at = shown.header.index("Wh")
    assert [row[at].main for row in shown.rows] == ["≈ 1.89 [1.00, 9.00]", NONE]
    other = fake_run(tmp_path / "c", settings=settings)
    groups = {group.title: group.rows for group in difference(ended, other)[2]}
    assert ("wh", "≈ 4.00 [1.00, 9.00]", NONE) in groups["results"]
