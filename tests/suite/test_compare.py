"""Suites that are run whole, cut short, and with something broken in them."""

import io
import threading

import pytest
from rich.console import Console

from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.table import cost_table
from dpet_jax.run import experiment
from dpet_jax.suite import compare
from dpet_jax.suite.compare import Comparing
from dpet_jax.suite.variants import load_suite

BASE = """
model: {kind: resnet, stem: 8, channels: [8], blocks: [1]}
train: {batch_size: 64, augment: {translate: 1}}
method: {kind: standard, passes: 2}
evaluate: {every: 1}
"""
SUITE = """
name: some
base: base.yaml
seeds: [0, 1]
targets: [0.2, 0.99]
variants:
  full: {role: standard}
  tried:
    role: tuned
    tune: {seeds: [90], grid: {method.passes: [1, 3]}}
  chosen:
    set:
      method: {kind: dpet, warmup_passes: 2, query_size: 50, passes_per_round: 1}
      method.max_rounds: 1
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


@pytest.fixture
def comparing(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    told = io.StringIO()

    def make(text=SUITE, overrides=()):
        (tmp_path / "suite.yaml").write_text(text)
        suite = load_suite(tmp_path / "suite.yaml", overrides)
        console = Console(file=told, width=200)
        return Comparing(suite, tmp_path / "runs", console)

    make.told = told
    return make


@pytest.fixture
def ran(monkeypatch):
    """The folders of the runs that were begun or taken up, in order."""
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


def test_a_suite_is_tuned_then_run_seed_by_seed_and_never_twice(comparing, ran):
    outcome = comparing().run()
    assert outcome.finished
    assert not outcome.interrupted
    assert outcome.problems == ()
    assert ran[:2] == [
        "some/tuning/tried/passes_1/seed90",
        "some/tuning/tried/passes_3/seed90",
    ]
    rest = ran[2:]
    assert {"some/full/seed0", "some/chosen/seed1"} <= {*rest}
    firsts = [folder for folder in rest if folder.endswith("seed0")]
    assert rest[: len(firsts)] == firsts
    before = numbers(outcome.folder)
    assert len(before) == 3
    told_of_progress(comparing.told.getvalue().splitlines(), len(ran))
    ran.clear()
    again = comparing().run()
    assert ran == []
    assert again == outcome
    assert numbers(outcome.folder) == before


def told_of_progress(lines, total):
    assert len(lines) == total
    assert lines[-1].startswith(f"[{total:>3}/{total}] ")
    assert lines[0].startswith("[  1/")
    assert "tuning tried passes_1 seed 90" in lines[0]
    assert "min left" in lines[0] or "under a minute left" in lines[0]
    assert "left" not in lines[-1]


def test_a_suite_that_was_cut_goes_on_and_ends_as_if_it_had_not_been(
    comparing, ran, monkeypatch
):
    whole = comparing(PAIR).run().folder
    expected = numbers(whole)
    whole.rename(whole.with_name("elsewhere"))
    ran.clear()
    cut = comparing(PAIR)
    noting, calls = experiment.run, 0

    def interrupted(config, out, **options):
        nonlocal calls
        calls += 1
        options["interrupt"].requested = calls == 2
        return noting(config, out, **options)

    monkeypatch.setattr(experiment, "run", interrupted)
    outcome = cut.run()
    assert outcome.interrupted
    assert not outcome.finished
    assert len(ran) == 2
    monkeypatch.setattr(experiment, "run", noting)
    ended, begun = ran
    ran.clear()
    outcome = comparing(PAIR).run()
    assert outcome.finished
    # the run that was cut is taken up, the one that had ended is left alone
    assert ran == [begun]
    assert ended != begun
    assert numbers(outcome.folder) == expected


def test_a_suite_stops_when_its_time_is_up(comparing, ran):
    threads = threading.active_count()
    outcome = comparing(PAIR).run(minutes=0.0)
    assert outcome.interrupted
    assert len(ran) <= 1
    # with time to spare it ends by itself, and so does the clock
    assert comparing(PAIR).run(minutes=60.0).finished
    assert threading.active_count() == threads


def test_one_that_cannot_be_run_does_not_stop_the_others(comparing, monkeypatch):
    text = SUITE.replace("full: {role", "full: {set: {method.passes: 0}, role")
    text = text.replace("query_size: 50", "query_siz: 50") + (
        "  large: {set: {train.batch_size: 5000}}\n  odd: {}\n"
    )
    run = experiment.run

    def failing(config, out, **options):
        if config.name == "some/odd":
            raise RuntimeError("a line\nand another")
        return run(config, out, **options)

    monkeypatch.setattr(experiment, "run", failing)
    outcome = comparing(text).run()
    assert not outcome.finished
    problems = "\n".join(outcome.problems)
    assert "variants.full.set: method.passes: " in problems
    assert "did you mean method.query_size?" in problems
    assert "some/large/seed0: not run: train.batch_size: 5000 is more" in problems
    assert (
        "some/odd/seed1: failed: RuntimeError: a line (see error.txt in its folder)"
        in problems
    )
    error = outcome.folder / "odd" / "seed0" / "error.txt"
    assert "and another" in error.read_text()
    comparison = read_comparison([outcome.folder])
    assert {row.key: len(row.runs) for row in comparison.rows} == {
        "tried": 2,
        "large": 0,
        "odd": 0,
    }
    assert {*outcome.problems} <= {*comparison.problems}
    # once mended it is run, and what was wrong is no problem any more
    monkeypatch.setattr(experiment, "run", run)
    outcome = comparing(text).run()
    assert not error.exists()
    assert "odd" not in "\n".join(outcome.problems)


def test_a_run_of_another_config_is_not_mistaken_for_one_of_the_suite(comparing):
    folder = comparing(PAIR).run().folder
    with pytest.raises(UserError, match=r"train\.batch_size was 64, is now 32"):
        comparing(PAIR, overrides=["--train.batch_size=32"])
    (folder / "full" / "seed0" / "config.yaml").write_text("{")
    with pytest.raises(UserError, match=r"seed0/config\.yaml: cannot be read"):
        comparing(PAIR)


def test_a_plan_tells_what_is_there_and_how_long_the_rest_takes(comparing, ran):
    lines = comparing().plan_lines()
    # the pace comes from a trial run, which is forgotten
    assert len({*ran}) == 1
    assert not comparing().folder.path.exists()
    assert "tuning tried passes_3 seed 90" in lines[1]
    assert lines[1].split()[-3:] == ["missing", "3.00", "epochs"]
    assert lines[-2].startswith("8 runs, 8 of them to do: ")
    assert "dearest setting alone" in lines[-1]
    comparing(PAIR).run()
    ran.clear()
    done = comparing(PAIR).plan_lines()
    assert ran == []
    assert "finished" in done[0]
    assert done[-1].startswith("2 runs, 0 of them to do: 0.0 epochs")


def test_a_plan_names_what_does_not_fit(comparing):
    lines = comparing(PAIR + "  large: {set: {train.batch_size: 5000}}\n").plan_lines()
    assert any("some/large/seed0: train.batch_size: 5000" in line for line in lines)


def test_a_data_set_is_read_once(comparing, monkeypatch):
    reads, build = [], compare.parts.build_data

    def noting(config):
        reads.append(config.data)
        return build(config)

    monkeypatch.setattr(compare.parts, "build_data", noting)
    text = PAIR + "  noisy: {set: {data.label_noise: 0.1}}\n"
    comparing(text).run()
    assert [data.label_noise for data in reads] == [0.0, 0.1]
