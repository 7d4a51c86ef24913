"""The folder of a suite: states of runs, chosen settings, the record for a report."""

import json

import pytest
from fakes.runs import fake_run

from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison
from dpet_jax.suite.folder import SuiteFolder
from dpet_jax.suite.variants import Answer, load_suite

SUITE = """
name: some
base: base.yaml
seeds: [0, 1]
targets: [0.6, 0.8]
statements: [Made small.]
variants:
  full: {set: {method.kind: standard}, role: standard, paper: standard}
  tried:
    label: full data, tuned
    role: tuned
    tune: {seeds: [90], grid: {method.warmup_passes: [1, 2]}}
"""
FAST = ((1.0, 0.65), (2.0, 0.70))
SLOW = ((2.0, 0.62), (5.0, 0.85))


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "base.yaml").write_text("method: {kind: dpet}\n")
    (tmp_path / "suite.yaml").write_text(SUITE)
    return load_suite(tmp_path / "suite.yaml")


@pytest.fixture
def folder(suite, tmp_path):
    folder = SuiteFolder(suite, tmp_path / "runs")
    folder.path.mkdir(parents=True)
    return folder


def finish(folder, name, **facts):
    return fake_run(folder.path / name, **facts)


def record(folder, problems=()):
    folder.write(problems)
    return json.loads((folder.path / "suite.json").read_text())


def test_a_run_is_missing_then_begun_then_finished(suite, folder):
    job = next(suite.variants[0].jobs([""], 0))
    assert folder.state(job) == "missing"
    folder.of(job).mkdir(parents=True)
    (folder.of(job) / "config.yaml").write_text("name: some/full\n")
    assert folder.state(job) == "begun"
    with pytest.raises(UserError, match="holds no run"):
        folder.read(job)
    finish(folder, "full/seed0")
    assert folder.state(job) == "finished"
    assert folder.read(job).seed == 0


def test_every_run_there_may_be_is_one_of_these(folder):
    folders = [job.folder for job in folder.every_job()]
    assert [name for name in folders if "tuning" in name] == [
        "some/tuning/tried/warmup_passes_1/seed90",
        "some/tuning/tried/warmup_passes_2/seed90",
    ]
    assert len({*folders}) == 2 + 2 + 4


def test_what_is_not_tuned_answers_as_it_is(suite, folder):
    assert folder.answers(suite.variants[0]) == {
        0.6: Answer("", True),
        0.8: Answer("", True),
    }


def test_trials_decide_what_answers(suite, folder):
    tried = suite.variants[1]
    assert folder.answers(tried) == {}
    finish(folder, "tuning/tried/warmup_passes_1/seed90", accuracies=FAST, seed=90)
    assert folder.answers(tried)[0.8] == Answer("warmup_passes_1", False)
    finish(folder, "tuning/tried/warmup_passes_2/seed90", accuracies=SLOW, seed=90)
    assert folder.answers(tried) == {
        0.6: Answer("warmup_passes_1", True),
        0.8: Answer("warmup_passes_2", True),
    }


def test_a_trial_that_cannot_be_read_decides_nothing(suite, folder):
    finish(folder, "tuning/tried/warmup_passes_1/seed90", accuracies=FAST, seed=90)
    broken = finish(folder, "tuning/tried/warmup_passes_2/seed90", accuracies=SLOW)
    (broken / "summary.json").write_text("{")
    assert folder.answers(suite.variants[1])[0.8] == Answer("warmup_passes_1", False)


def test_the_record_is_what_a_report_reads(folder):
    for seed in (0, 1):
        finish(folder, f"full/seed{seed}", seed=seed)
        name = f"tried/warmup_passes_1/seed{seed}"
        finish(folder, name, seed=seed, accuracies=FAST)
    finish(folder, "tried/warmup_passes_2/seed0", accuracies=SLOW)
    finish(folder, "tuning/tried/warmup_passes_1/seed90", accuracies=FAST, seed=90)
    finish(folder, "tuning/tried/warmup_passes_2/seed90", accuracies=SLOW, seed=90)
    written = record(folder, ["a problem", "a problem"])
    assert written["roles"] == {"standard": "full", "tuned": "tried"}
    assert written["problems"] == ["a problem"]
    comparison = read_comparison([folder.path])
    full, tried = comparison.rows
    assert comparison.statements == ("Made small.",)
    assert full.paper == "standard"
    assert [run.seed for run in full.by_target[0.6]] == [0, 1]
    assert [run.seed for run in tried.by_target[0.6]] == [0, 1]
    assert [run.seed for run in tried.by_target[0.8]] == [0]
    assert tried.label == "full data, tuned"
    assert tried.tuning.trials == 2
    assert tried.tuning.seeds == (90,)
    assert tried.tuning.cost["epochs"] == pytest.approx(2.0 + 5.0)
    assert tried.tuning.cost["wh"] is None
    assert tried.tuning.chosen == {0.6: "warmup passes 1", 0.8: "warmup passes 2"}


def test_a_target_that_no_trial_reached_is_answered_and_said(folder):
    finish(folder, "tuning/tried/warmup_passes_1/seed90", accuracies=FAST, seed=90)
    finish(folder, "tried/warmup_passes_1/seed0", accuracies=FAST)
    written = record(folder)["variants"][1]
    assert written["tuning"]["chosen"] == {"0.6": "warmup passes 1", "0.8": None}
    assert written["by_target"]["0.8"] == ["tried/warmup_passes_1/seed0"]


AT_END = """
name: some
base: base.yaml
read: end
seeds: [0, 1]
targets: [0.6]
variants:
  full:
    role: tuned
    set: {method.kind: standard}
    horizons: {method.passes: [2, 4]}
    tune: &rates
      seeds: [90]
      at: 2
      grow: 1
      grid: {train.optimizer.learning_rate: [0.1, 0.2]}
  other:
    arm: full
    set: {method.kind: standard, train.batch_size: 16}
    horizons: {method.passes: [2, 4]}
    tune: *rates
"""


@pytest.fixture
def at_end(tmp_path):
    (tmp_path / "base.yaml").write_text("method: {kind: dpet}\n")
    (tmp_path / "suite.yaml").write_text(AT_END)
    suite = load_suite(tmp_path / "suite.yaml")
    folder = SuiteFolder(suite, tmp_path / "runs")
    folder.path.mkdir(parents=True)
    return suite, folder


def try_rates(folder, variant, **accuracies):
    for rate, accuracy in accuracies.items():
        name = f"tuning/{variant}/learning_rate_0.{rate[1:]}-passes_2/seed90"
        finish(folder, name, accuracies=((2.0, accuracy),), seed=90)


def test_a_grid_grows_for_all_while_an_edge_wins_for_one(at_end):
    suite, folder = at_end
    key = "train.optimizer.learning_rate"
    full, other = suite.variants
    assert folder.growth() == {}
    try_rates(folder, "full", r1=0.7, r2=0.8)
    assert folder.growth() == {key: (0, 1)}
    # the other has one more to try as well, and has tried nothing yet
    assert len([*other.trials(folder.growth())]) == 3
    try_rates(folder, "other", r1=0.8, r2=0.7)
    # what each has tried says the same, whichever came first
    assert folder.growth() == {key: (1, 1)}
    try_rates(folder, "full", r4=0.75, r05=0.1)
    assert len([*full.trials(folder.growth())]) == 4
    try_rates(folder, "other", r4=0.75, r05=0.9)
    assert folder.growth() == {key: (1, 1)}  # there is no more
    best = folder.answers(full)
    assert best[2].setting == "learning_rate_0.2-passes_2"
    assert best[4].setting == "learning_rate_0.2-passes_4"
    text = "learning_rate 0.05 was chosen, the last value that was tried"
    assert [text in problem for problem in record(folder)["problems"]] == [True]


def test_a_record_of_runs_read_at_their_end(at_end):
    _, folder = at_end
    for variant in ("full", "other"):
        try_rates(folder, variant, r1=0.7, r2=0.8, r4=0.7)
        for passes in (2, 4):
            for seed in (0, 1):
                name = f"{variant}/learning_rate_0.2-passes_{passes}/seed{seed}"
                finish(folder, name, seed=seed, accuracies=((float(passes), 0.5),))
    written = record(folder)
    assert written["problems"] == []
    full, other = read_comparison([folder.path]).rows
    assert full.by_target == {}
    assert {h: len(runs) for h, runs in full.by_horizon.items()} == {2.0: 2, 4.0: 2}
    assert full.arm == other.arm
    assert full.runs == full.by_horizon[4.0]
    assert full.tuning.trials == 3
    assert full.tuning.chosen == dict.fromkeys((2.0, 4.0), "learning rate 0.2")


def test_a_grid_may_hold_whole_sections_beside_what_grows(tmp_path):
    sections = "train.augment: [{flip: true}, {flip: false}]"
    (tmp_path / "base.yaml").write_text("method: {kind: dpet}\n")
    text = AT_END.replace("grid: {", f"grid: {{{sections}, ")
    (tmp_path / "suite.yaml").write_text(text)
    folder = SuiteFolder(load_suite(tmp_path / "suite.yaml"), tmp_path / "runs")
    folder.path.mkdir(parents=True)
    assert folder.write([]) is False
    assert len([*folder.every_job()]) == 2 * (2 * 4 + 2 * 2 * 4 * 2)
