"""Suites that are run whole, cut short, and with something broken in them."""

import csv
import errno
import io
import re
import shutil
import threading
import time

import numpy as np
import pytest
from fakes import dpet_with_fake_gpus
from fakes.runs import events_of
from rich.console import Console

from dpet_jax.cli import main
from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.files import read_json
from dpet_jax.methods.base import Learner
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.end_sheets import ratio_sheet
from dpet_jax.report.equal_accuracy import end_table
from dpet_jax.report.formats import to_csv
from dpet_jax.report.table import cost_table
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.run.costs import Spent
from dpet_jax.run.folder import EVENTS, read_events
from dpet_jax.run.profiling import Profiles
from dpet_jax.suite import duration
from dpet_jax.suite.compare import Comparing
from dpet_jax.suite.dry_run import CountingLearner, estimate
from dpet_jax.suite.duration import Speed, evaluated
from dpet_jax.suite.variants import load_suite
from dpet_jax.training.checkpoint import Checkpoints

#: One network and batch size for all runs of this file: they share their programs.
BASE = """
model: {kind: resnet, stem: 16, channels: [16], blocks: [1]}
train: {batch_size: 64, augment: {translate: 1}}
method: {kind: standard, passes: 2}
evaluate: {every: 1}
energy: {include: visible}
"""
TUNED = """
name: some
base: base.yaml
seeds: [0, 1]
targets: [0.2]
variants:
  full: {role: standard}
  tried:
    role: tuned
    tune: {seeds: [90], grid: {method.passes: [1, 3]}}
"""
# as small as a suite can be cut into two
PAIR = """
name: some
base: base.yaml
seeds: [0]
targets: [0.2, 0.99]
variants:
  full: {role: standard}
  less: {set: {method.passes: 1}}
"""


def make(folder, text=PAIR, overrides=(), only=()):
    """Return a suite in a folder, and the stream that it shows its progress on."""
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(BASE)
    (folder / "suite.yaml").write_text(text)
    suite = load_suite(folder / "suite.yaml", overrides)
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    return Comparing(suite, folder / "runs", console, only), shown


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of the pair, run whole on a machine with two measured cards."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        dpet_with_fake_gpus.install(monkeypatch)
        comparing, _ = make(tmp_path_factory.mktemp("pair"))
        outcome = comparing.run()
    assert outcome.finished
    return outcome.folder


@pytest.fixture
def ran(monkeypatch):
    """The folders of the runs that were begun or resumed, in order."""
    folders, run = [], experiment.run

    def noting(config, out, **options):
        folders.append(f"{config.name}/seed{config.seed}")
        return run(config, out, **options)

    monkeypatch.setattr(experiment, "run", noting)
    return folders


def numbers(folder):
    """Everything in the table but times, which are never the same twice."""
    table = cost_table(read_comparison([folder]), "epochs")
    return [
        (row.row.key, [*row.cells.values()], row.test_accuracy, row.coreset_size)
        for row in table.rows
    ]


def test_a_suite_is_tuned_then_run_seed_by_seed_and_never_twice(tmp_path, ran):
    comparing, shown = make(tmp_path, TUNED)
    outcome = comparing.run()
    assert outcome.finished
    assert not outcome.interrupted
    assert outcome.problems == ()
    assert ran[:2] == [
        "some/tuning/tried/passes_1/seed90",
        "some/tuning/tried/passes_3/seed90",
    ]
    rest = ran[2:]
    assert {"some/full/seed0", "some/full/seed1"} <= {*rest}
    firsts = [folder for folder in rest if folder.endswith("seed0")]
    assert rest[: len(firsts)] == firsts
    assert len(numbers(outcome.folder)) == 2
    lines, total = shown.getvalue().splitlines(), len(ran)
    assert len(lines) == total
    assert lines[-1].startswith(f"[{total:>3}/{total}] ")
    assert lines[0].startswith("[  1/")
    assert "tuning tried passes_1 seed 90" in lines[0]
    assert "min left" in lines[0] or "under a minute left" in lines[0]
    assert "left" not in lines[-1]
    before = numbers(outcome.folder)
    ran.clear()
    assert make(tmp_path, TUNED)[0].run() == outcome
    assert ran == []
    assert numbers(outcome.folder) == before


def test_a_suite_that_was_cut_goes_on_and_ends_as_if_it_had_not_been(
    pair, tmp_path, ran, monkeypatch
):
    threads = threading.active_count()
    # its time is up at once
    outcome = make(tmp_path)[0].run(minutes=0.0)
    assert outcome.interrupted
    assert not outcome.finished
    assert len(ran) <= 1
    noting, calls = experiment.run, 0

    def interrupted(config, out, **options):
        nonlocal calls
        calls += 1
        options["interrupt"].requested = calls == 2
        return noting(config, out, **options)

    ran.clear()
    monkeypatch.setattr(experiment, "run", interrupted)
    assert make(tmp_path)[0].run().interrupted
    ended, begun = ran
    monkeypatch.setattr(experiment, "run", noting)
    ran.clear()
    outcome = make(tmp_path)[0].run(minutes=60.0)
    assert outcome.finished
    # the run that was cut is resumed, the one that had ended is left alone
    assert ran == [begun]
    assert ended != begun
    assert numbers(outcome.folder) == numbers(pair)
    # with time to spare the clock ended too
    assert threading.active_count() == threads


def test_one_that_cannot_be_run_does_not_stop_the_others(tmp_path, monkeypatch):
    text = PAIR.replace("full: {role", "full: {set: {method.passes: 0}, role")
    text = text.replace("method.passes: 1", "method.passe: 1") + (
        "  good: {}\n  large: {set: {train.batch_size: 5000}}\n  odd: {}\n"
    )
    run = experiment.run

    def failing(config, out, **options):
        if config.name == "some/odd":
            raise RuntimeError("a line\nand another")
        return run(config, out, **options)

    monkeypatch.setattr(experiment, "run", failing)
    outcome = make(tmp_path, text)[0].run()
    assert not outcome.finished
    problems = "\n".join(outcome.problems)
    assert "variants.full.set: method.passes: " in problems
    assert "did you mean method.passes?" in problems
    assert "some/large/seed0: not run: train.batch_size: 5000 is more" in problems
    assert (
        "some/odd/seed0: failed: RuntimeError: a line (see error.txt in its folder)"
        in problems
    )
    error = outcome.folder / "odd" / "seed0" / "error.txt"
    assert "and another" in error.read_text()
    comparison = read_comparison([outcome.folder])
    assert {row.key: len(row.runs) for row in comparison.rows} == {
        "good": 1,
        "large": 0,
        "odd": 0,
    }
    assert {*outcome.problems} <= {*comparison.problems}
    # once mended it is run, and what was wrong is no problem any more
    monkeypatch.setattr(experiment, "run", run)
    outcome = make(tmp_path, text)[0].run()
    assert not error.exists()
    assert "odd" not in "\n".join(outcome.problems)


def test_a_run_of_another_config_is_not_mistaken_for_one_of_the_suite(pair, tmp_path):
    shutil.copytree(pair, tmp_path / "runs" / "some")
    with pytest.raises(UserError, match=r"train\.batch_size was 64, is now 32"):
        make(tmp_path, overrides=["--train.batch_size=32"])
    (tmp_path / "runs/some/full/seed0/config.yaml").write_text("{")
    with pytest.raises(UserError, match=r"seed0/config\.yaml: damaged: .*another"):
        make(tmp_path)


def test_a_plan_shows_what_there_is_to_do_how_long_it_takes_and_what_does_not_fit(
    tmp_path, ran, monkeypatch
):
    reads, build = [], parts.build_data

    def noting(config):
        reads.append(config.data.label_noise)
        return build(config)

    monkeypatch.setattr(parts, "build_data", noting)
    text = TUNED + (
        "  large: {set: {train.batch_size: 5000}}\n"
        "  noisy: {set: {data.label_noise: 0.1}}\n"
    )
    comparing, _ = make(tmp_path, text)
    lines = [*comparing.plan_lines(profiles=Profiles(tmp_path / "profiles"))]
    assert ran == []
    assert not comparing.folder.path.exists()
    assert "tuning tried passes_3 seed 90" in lines[1]
    assert lines[1].split()[-3:] == ["missing", "3.04", "epochs"]
    (large,) = [line for line in lines if "large seed 0" in line]
    assert large.split()[-4:] == ["missing", "cannot", "be", "run"]
    told = "some/large/seed0 and 1 more: train.batch_size: 5000 is more"
    assert lines[-4].startswith(told)
    assert comparing.problems == [lines[-4]]
    assert lines[-3].startswith("10 runs, 10 of them to do: ")
    assert lines[-2].startswith("nothing like it was measured here")
    assert "--measure" in lines[-2]
    assert "most expensive setting" in lines[-1]
    # each data set is read once, whoever asks for it
    assert reads == [0.0, 0.1]


def test_a_dry_run_without_its_data_says_so_once_and_is_a_mistake(tmp_path, capsys):
    make(tmp_path)
    given = ["--data={kind: parquet, path: nowhere}", f"--out={tmp_path / 'runs'}"]
    assert main(["compare", str(tmp_path / "suite.yaml"), *given, "--dry-run"]) == 2
    told = capsys.readouterr().out
    assert told.count("cannot be run") == 2
    assert told.count("nowhere") == 1
    assert "some/full/seed0 and 1 more: " in told


def test_what_data_cannot_be_read_is_said_once_before_anything_is_run(
    tmp_path, capsys, ran, monkeypatch
):
    text = PAIR + "  lacking: {set: {data: {kind: parquet, path: nowhere}}}\n"
    make(tmp_path, text)
    given = ["compare", str(tmp_path / "suite.yaml"), f"--out={tmp_path / 'runs'}"]
    assert main([*given, "--seeds=0,1"]) == 2
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("some/lacking/seed0 and 1 more: not run: ")
    assert "nowhere" in first
    assert len(ran) == 4
    progress = [line for line in lines if line.startswith("[")]
    assert len(progress) == 4
    assert not any("nowhere" in line for line in progress)
    assert len([*read_comparison([tmp_path / "runs" / "some"]).problems]) == 1
    # what is finished needs no data to be reported on
    monkeypatch.setattr(parts, "build_data", lambda _: pytest.fail("read"))
    assert main([*given, "--seeds=0,1", "--only=full,less"]) == 0


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_tuned_suite_without_its_data_says_so_once(tmp_path, capsys, ran, more):
    make(tmp_path, TUNED)
    given = ["--data={kind: parquet, path: nowhere}", f"--out={tmp_path / 'runs'}"]
    assert main(["compare", str(tmp_path / "suite.yaml"), *given, *more]) == 2
    told = capsys.readouterr()
    assert told.out.count("nowhere") == 1
    assert "some/tuning/tried/passes_1/seed90 and 5 more: " in told.out
    assert told.err == ""
    assert ran == []


def test_a_plan_says_how_long_it_takes_by_what_was_measured_once(
    pair, tmp_path, ran, monkeypatch
):
    profiles = Profiles(tmp_path / "profiles")
    comparing, _ = make(tmp_path)
    *_, last = comparing.plan_lines(measure=True, profiles=profiles)
    assert len({*ran}) == 1  # of one step, and gone
    assert not comparing.folder.path.exists()
    assert re.fullmatch(r"about \d+ s here, as measured; the report comes after", last)
    # another process finds it, and is told what starting takes
    monkeypatch.setattr(duration, "measure", lambda *_: pytest.fail("measured anew"))
    for given in ({"measure": True}, {}):
        again, _ = make(tmp_path)
        *_, later = again.plan_lines(profiles=profiles, started_s=50.0, **given)
        told = [int(line.split()[1]) for line in (last, later)]
        assert told[1] - told[0] == pytest.approx(50, abs=2)
    # a score has a program of its own, which takes its time to be ready
    asking, _ = make(tmp_path, overrides=["--method={kind: dpet, score: margin}"])
    assert "--measure" in [*asking.plan_lines(profiles=profiles)][-1]
    *_, line = asking.plan_lines(measure=True, profiles=profiles)
    assert line.startswith("about ")
    (kept,) = profiles.of_this_machine()
    assert set(kept.scores_s) == {"margin"}
    # of another network, only by the FLOPs of those that were measured
    wider, _ = make(tmp_path, overrides=["--model.stem=8"])
    *_, one = wider.plan_lines(profiles=profiles)
    assert one.startswith("nothing like it")  # one rate is no range
    (kept,) = profiles.of_this_machine()
    slow = {"step_s": 1e5 * kept.step_s, "key": {**kept.key, "network": "slow"}}
    profiles.keep(kept.model_copy(update=slow), "slow")
    *_, two = wider.plan_lines(profiles=profiles)
    told = re.fullmatch(
        r"\d+ s to [\d.]+ (min|h) of training here, by FLOPs, at the rates of 2 .*",
        two,
    )
    assert told
    # nor are those of other versions a range
    other = {"key": {**kept.key, "versions": {}}}
    profiles.keep(kept.model_copy(update=other), "old")
    assert len(profiles.of_this_machine()) == 2
    # finished runs of its own are a measure too
    shutil.copytree(pair / "full", tmp_path / "runs" / "some" / "full")
    *_, run = make(tmp_path)[0].plan_lines(profiles=Profiles(tmp_path / "none"))
    assert re.fullmatch(
        r"about \d+ s here, by the finished runs' FLOPs, compiling aside", run
    )


def test_variants_can_be_chosen_and_the_others_stay_in_the_record(pair, tmp_path, ran):
    shutil.copytree(pair / "full", tmp_path / "runs" / "some" / "full")
    comparing, _ = make(tmp_path, only=["less"])
    assert [job.variant for job in comparing.reported()] == ["less"]
    outcome = comparing.run()
    assert outcome.finished
    assert ran == ["some/less/seed0"]
    assert numbers(outcome.folder) == numbers(pair)
    with pytest.raises(UserError, match="--only: 'lesss' is no variant of some"):
        make(tmp_path, only=["lesss"])


def test_what_is_missing_are_the_trials_and_then_the_runs_to_be_reported(
    pair, tmp_path
):
    comparing, _ = make(tmp_path, TUNED)
    assert [job.trial for job in comparing.missing()] == [True, True]
    shutil.copytree(pair / "full", tmp_path / "runs" / "some" / "full")
    comparing, _ = make(tmp_path)
    assert [job.folder for job in comparing.missing()] == ["some/less/seed0"]


def test_a_run_can_be_run_alone_by_its_folder_and_nothing_else_is_written(
    pair, tmp_path, ran
):
    for name, hows in (("full", []), ("less", ["some/less/seed0"])):
        shutil.copytree(pair / "full", tmp_path / "runs" / "some" / "full")
        ended = make(tmp_path)[0].run_alone(f"some/{name}/seed0")
        assert ended.how == "finished"
        assert ran == hows
        assert {path.name for path in (tmp_path / "runs/some").iterdir()} <= {
            "full",
            "less",
        }
        shutil.rmtree(tmp_path / "runs" / "some" / "full")
    with pytest.raises(UserError, match="--job: 'some/full' is no run of some; --pr"):
        make(tmp_path)[0].run_alone("some/full")


def test_a_full_disk_ends_a_suite_which_goes_on_when_there_is_space(
    pair, tmp_path, monkeypatch, ran
):
    save, saves = Checkpoints.save, []

    def full(self, *args):
        saves.append(args)
        if len(saves) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "somewhere")
        save(self, *args)

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)[0].run()
    assert ran == ["some/full/seed0", "some/less/seed0"]
    monkeypatch.setattr(Checkpoints, "save", save)
    assert numbers(make(tmp_path)[0].run().folder) == numbers(pair)


def test_a_plan_of_a_finished_suite_has_nothing_to_do_and_runs_nothing(
    pair, tmp_path, ran
):
    shutil.copytree(pair, tmp_path / "runs" / "some")
    lines = [*make(tmp_path)[0].plan_lines()]
    assert ran == []
    assert "finished" in lines[0]
    assert lines[-1].startswith("2 runs, 0 of them to do: 0.0 epochs")


def test_summary_energy_report_events_and_table_give_targets_the_same_costs(pair):
    comparison = read_comparison([pair], "wh")
    rows = [*csv.DictReader(io.StringIO(to_csv(comparison, pair)))]
    for line in cost_table(comparison, "wh").rows:
        (run,) = line.row.runs
        told = read_json(run.folder / "energy_report.json")["energy_to_accuracy"]
        assert told == run.summary["targets"]
        reached, missed = told
        assert (reached["reached"], missed["reached"]) == (True, False)
        (event,) = [e for e in events_of(run.folder) if e["event"] == "target"]
        shared = ("target", "accuracy", "test_accuracy", "epochs", "visits", "wall_s")
        assert [event[key] for key in shared] == [reached[key] for key in shared]
        for unit in ("wh", "seconds"):
            warm = sum(event[unit][phase] for phase in ("select", "train"))
            assert reached[f"{unit}_warm"] == warm
            once = event[unit]["compile"] + event[unit]["data"]
            assert reached[unit] == pytest.approx(warm + once)
        assert reached["wh_eval"] == event["wh"]["eval"]
        assert line.cells[reached["target"]].costs == (reached["wh_warm"],)
        (row,) = [r for r in rows if r["key"] == line.row.key and r["reached"] == "1"]
        shared = row.keys() & {*Spent._fields, "accuracy", "test_accuracy"}
        assert len(shared) == 6
        for key in shared:
            assert float(row[key]) == reached[key]


# dry runs

ONE_SHOT = {"kind": "one_shot", "keep_fraction": 0.2, "passes": 2, "pretrain_passes": 1}
DPET = {"kind": "dpet", "warmup_passes": 2, "query_size": 50, "passes_per_round": 2}
DPET |= {"max_rounds": 2}


def config(method, **changes):
    tree = {
        "model": {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]},
        "train": {"batch_size": 64, "augment": {"translate": 1}},
        "evaluate": {"every": 5},
        "method": method,
    }
    return validate(tree | changes, "test")


@pytest.fixture(scope="module")
def data():
    return parts.build_data(config(DPET))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (DPET | {"proxy": {"width_multiplier": 0.5}}, {}),
        (DPET, {"budget": {"epochs": 1.5}}),
        ({"kind": "dpet_anneal", "epochs": 4.3}, {}),
        ({"kind": "dpet_anneal", "epochs": 4.3, "by": "margin"}, {}),
        (ONE_SHOT | {"by": "el2n", "networks": 2}, {}),
        (ONE_SHOT | {"by": "glister"}, {}),
        (ONE_SHOT | {"by": "forgetting"}, {"budget": {"visits": 400}}),
    ],
    ids=[
        *("proxy", "budget of epochs", "anneal", "anneal by margin", "el2n"),
        *("glister", "budget of visits"),
    ],
)
def test_a_run_costs_what_its_dry_run_says(method, changes, data, tmp_path):
    run = config(method, **changes)
    expected = estimate(run, data)
    began = time.monotonic()
    summary = experiment.run(run, tmp_path, data=data).summary
    took_s = time.monotonic() - began
    assert summary["epochs"] == pytest.approx(expected.epochs)
    assert summary["visits"] == expected.visits
    flops = expected.train_flops + expected.score_flops
    assert flops == pytest.approx(summary["flops"])
    # and its seconds are made up of the same parts
    if summary["select_flops"] == 0:
        speed = Speed.of_run(summary, took_s, run, data)
        compiling_s = summary["phases"]["compile"]["s"]
        expected_s = took_s - compiling_s - summary["phases"]["select"]["s"]
        assert speed.seconds(run, data, expected) == pytest.approx(expected_s)
        assert Speed(1.0, 0.0, 0.0).seconds(run, data, expected) == pytest.approx(
            summary["executed_visits"] / 64
        )


def test_a_run_evaluates_as_many_batches_as_its_dry_run_says(data, tmp_path):
    changes = {"targets": [0.01, 0.02, 1.0], "evaluate": {"every": 0.5}}
    run = config({"kind": "standard", "passes": 1}, **changes)
    result = experiment.run(run, tmp_path, data=data)
    events = read_events(result.folder / EVENTS)
    looks = [event for event in events if event["event"] == "evaluate"]
    # of one batch each; 1.0 is not reached, and the end looks at both splits
    assert evaluated(run, data, result.summary["epochs"], 1) == len(looks) + 1 + 2
    assert evaluated(run, data, result.summary["epochs"]) == 2 * len(looks) + 2


def test_a_run_whose_plans_depend_on_losses_costs_roughly_what_its_dry_run_says(
    data, tmp_path
):
    run = config({"kind": "infobatch", "passes": 6})
    summary = experiment.run(run, tmp_path, data=data).summary
    assert summary["epochs"] == pytest.approx(estimate(run, data).epochs, rel=0.1)


def test_a_dry_run_refuses_a_config_that_does_not_fit_the_data(data):
    run = config(DPET, train={"batch_size": 2000})
    with pytest.raises(UserError, match=r"train\.batch_size: 2000 is more"):
        estimate(run, data)


def test_gradients_are_counted_and_a_network_that_a_run_does_not_have_is_not(data):
    run = config(DPET)
    spec = parts.build_learner_spec(run, parts.build_model(run, data), ())
    counting = CountingLearner(spec, data, 0)
    assert isinstance(counting, Learner)
    assert counting.batch_size == 64
    # a score of gradients is counted as such: every example has a backward pass
    costs = []
    for name in ("margin", "grand"):
        before = counting.flops
        counting.score((name,), np.arange(500, dtype=np.int32))
        costs.append(counting.flops - before)
    assert costs[1] > 2 * costs[0] > 0
    with pytest.raises(ValueError, match="no proxy model"):
        counting.train_flops("proxy")


AT_END = """
name: some
base: base.yaml
read: end
seeds: [0, 1, 2]
targets: [0.3]
variants:
  full:
    role: tuned
    horizons: {method.passes: [1, 3]}
    tune:
      {seeds: [90], at: 1, grow: 1, grid: {train.optimizer.learning_rate: [0.1, 0.2]}}
  anneal:
    set: {method.kind: dpet_anneal}
    horizons: {method.epochs: [1, 3]}
"""


@pytest.mark.slow
def test_runs_of_several_lengths_are_tuned_run_and_read_at_their_end(tmp_path):
    comparing, shown = make(tmp_path, AT_END)
    (line,) = [line for line in comparing.plan_lines() if "runs," in line]
    assert line.startswith("14 runs, 14 of them to do")
    outcome = comparing.run()
    assert outcome.finished
    record = read_json(outcome.folder / "suite.json")
    full = record["variants"][0]
    assert full["tuning"]["trials"] == 3  # one of two values is always an edge
    assert [len(runs) for runs in full["by_horizon"].values()] == [3, 3]
    tried = shown.getvalue().count("tuning full")
    assert tried == 3
    comparison = read_comparison([outcome.folder])
    table = end_table(comparison, "epochs")
    costs = [[round(g.cost, 1) for g in row.gains] for row in table.rows]
    assert costs == [[1.0, 3.0], [1.0, 3.0]]
    # started again, it finds everything
    again, shown = make(tmp_path, AT_END)
    assert again.run().finished
    assert shown.getvalue() == ""


def test_rows_that_were_left_out_are_named_and_take_no_range_from_the_others(tmp_path):
    comparing, _ = make(tmp_path, AT_END, only=["full"])
    outcome = comparing.run()
    record = read_json(outcome.folder / "suite.json")
    anneal = record["variants"][1]
    assert anneal["by_horizon"] == {"1": [], "3": []}
    comparison = read_comparison([outcome.folder], "epochs")
    table = end_table(comparison, "epochs")
    assert [row.row.key for row in table.rows] == ["full"]
    assert table.seeds == (0, 1, 2)
    assert "No run yet: anneal." in ratio_sheet(table, comparison).notes
    assert comparison.crossing.rows == ()


GRID = """
name: some
base: base.yaml
seeds: [0]
targets: [0.2]
variants:
  full: {set: {method.passes: 1}}
  cells:
    set: {method: {kind: loss_threshold, passes: 2, refresh_every: 2}}
    grid: {method.prune_fraction: [0, 0.5], train.augment.flip: [true, false]}
"""


def test_rows_of_a_grid_are_run_resumed_and_chosen_like_any_other(tmp_path, ran):
    first = "cells/prune_fraction_0-flip_true"
    assert make(tmp_path, GRID, only=[first])[0].run().finished
    assert ran == [f"some/{first}/seed0"]
    cells, _ = make(tmp_path, GRID, only=["cells"])
    lines = [*cells.plan_lines(profiles=Profiles(tmp_path / "none"))]
    assert re.match(rf"{first} seed 0 +finished ", lines[0])
    assert "4 runs, 3 of them to do" in lines[-2]
    assert "by the finished runs' FLOPs" in lines[-1]
    comparing, _ = make(tmp_path, GRID)
    outcome = comparing.run()
    assert outcome.finished
    assert len(ran) == 5
    comparison = read_comparison([outcome.folder])
    rows = [*csv.DictReader(io.StringIO(to_csv(comparison, outcome.folder)))]
    # at the end, beside those of targets
    ends = {
        (row["method.prune_fraction"], row["train.augment.flip"]): float(row["epochs"])
        for row in rows
        if not row["target"]
    }
    assert [*ends] == [(p, flip) for p in ("0", "0.5") for flip in ("True", "False")]
    assert ends["0.5", "True"] < 0.8 * ends["0", "True"]
    assert {row["key"] for row in rows if not row["method.prune_fraction"]} <= {"full"}
    inside = "'cells/x' is no variant of some; choose from cells/prune_fraction_0-flip"
    with pytest.raises(UserError, match=inside):
        make(tmp_path, GRID, only=["cells/x"])
    with pytest.raises(UserError, match=r"choose from full, cells$"):
        make(tmp_path, GRID, only=["sells"])
