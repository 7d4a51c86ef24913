"""From the file of a suite to its runs, and from trials to the chosen settings."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dpet_jax.config.experiment import Config
from dpet_jax.errors import UserError
from dpet_jax.methods.rs2 import Rs2
from dpet_jax.report.runs import Run
from dpet_jax.suite.schema import SuiteConfig
from dpet_jax.suite.variants import Answer, answers, load_suite, setting_names

BASE = """
train: {batch_size: 32, optimizer: {kind: sgd, learning_rate: 0.1}}
method: {kind: dpet, score: margin, query_size: 7}
targets: [0.99]
seed: 5
"""
SUITE = """
name: some
base: base.yaml
set: {train.batch_size: 16}
seeds: [3, 4]
targets: [0.5, 0.6]
variants:
  full: {set: {method: {kind: standard, passes: 2}}, role: standard}
  chosen:
    label: chosen data
    paper: dpet_margin
    set: {method.query_size: 9}
  tried:
    set: {method.kind: standard}
    tune:
      seeds: [90, 91]
      grid: {train.optimizer.learning_rate: [0.1, 0.2], method.passes: [1, 2]}
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def load(text=SUITE, overrides=(), seeds=None):
        (tmp_path / "suite.yaml").write_text(text)
        return load_suite(tmp_path / "suite.yaml", overrides, seeds)

    return load


def by_key(suite):
    return {variant.key: variant for variant in suite.variants}


def test_layers_lie_above_each_other(load):
    variants = by_key(load(overrides=["--train.batch_size=8"]))
    chosen = variants["chosen"].settings[""].config
    assert chosen.train.batch_size == 8  # command line over suite over base
    assert chosen.method.query_size == 9  # variant over base
    assert chosen.method.score == "margin"  # base
    assert by_key(load())["chosen"].settings[""].config.train.batch_size == 16


def test_another_kind_starts_its_section_anew(load):
    full = by_key(load())["full"].settings[""].config
    assert full.method.model_dump() == {"kind": "standard", "passes": 2}


def settings_of(suite):
    return {
        (variant.key, name): setting.config
        for variant in suite.variants
        for name, setting in variant.settings.items()
    }


def test_a_suite_given_as_data_is_the_one_of_its_file(load, tmp_path):
    wanted = settings_of(load())
    keys = yaml.safe_load(BASE)
    bases = (
        keys,
        Config.model_validate(keys),
        tmp_path / "base.yaml",
        str(tmp_path / "base.yaml"),
    )
    for base in bases:
        given = yaml.safe_load(SUITE) | {"base": base}
        assert settings_of(load_suite(given)) == wanted
    assert keys == yaml.safe_load(BASE)  # and is left as it was


def test_a_base_may_be_packaged_or_hold_objects():
    given = yaml.safe_load(SUITE) | {"base": "quickstart", "set": {}}
    (config, *_) = settings_of(load_suite(given)).values()
    assert config.data.kind == "digits"
    assert config.train.optimizer.learning_rate == 0.05
    given |= {"base": {"method": Rs2(passes=4)}, "variants": {"as_it_is": {}}}
    (config,) = settings_of(load_suite(given)).values()
    assert config.method == Rs2(passes=4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"base": 3}, r"^the suite: base: must be a config, its keys, .* \(got 3\)"),
        (
            {"base": "quikstart"},
            r"^the suite: base: 'quikstart' is no file, and",
        ),
        (
            {"base": {"train": {"batch_siz": 3}}},
            r"variants\.full \(with the base\):",
        ),
        ({"nme": "x"}, r"^the suite: nme: unknown key, did you mean name\?"),
        (
            {"variants": {"a": {"set": {"seed": 1}}}},
            r"^the suite: variants\.a\.set",
        ),
    ],
)
def test_a_mistake_in_a_suite_given_as_data_names_its_key(given, told):
    with pytest.raises(UserError, match=told):
        load_suite(yaml.safe_load(SUITE) | {"base": {}} | given)


def test_a_suite_given_as_data_needs_a_base():
    given = yaml.safe_load(SUITE)
    del given["base"]
    with pytest.raises(UserError, match=r"^the suite: base: missing"):
        load_suite(given)


def test_targets_and_seeds_are_the_suites(load):
    suite = load()
    for variant in suite.variants:
        for config in (one.config for one in variant.settings.values()):
            assert config.targets == (0.5, 0.6)
    jobs = [job for seed in (3, 4) for job in by_key(suite)["full"].jobs([""], seed)]
    assert [job.config.seed for job in jobs] == [3, 4]
    assert [job.folder for job in jobs] == ["some/full/seed3", "some/full/seed4"]
    assert load(seeds=[8]).section.seeds == (8,)


def test_a_grid_is_every_combination_in_a_folder_of_its_own(load):
    tried = by_key(load())["tried"]
    trials = [*tried.trials({})]
    tested = {
        (job.config.train.optimizer.learning_rate, job.config.method.passes)
        for job in trials
    }
    assert tested == {(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)}
    assert [job.config.seed for job in trials] == [90] * 4 + [91] * 4
    assert len({job.folder for job in trials}) == 8
    assert trials[1].folder == "some/tuning/tried/learning_rate_0.1-passes_2/seed90"
    assert (
        tried.settings["learning_rate_0.1-passes_2"].text
        == "learning rate 0.1, passes 2"
    )
    (reported,) = tried.jobs(["learning_rate_0.2-passes_1"] * 2, 3)
    assert reported.folder == "some/tried/learning_rate_0.2-passes_1/seed3"
    assert not reported.trial
    assert all(job.trial for job in trials)


def test_settings_that_would_share_a_name_do_not():
    names = setting_names({"x.y": ["a b", "a_b", [1, 2]]})
    assert [*names.values()] == [("a b",), ("a_b",), ([1, 2],)]


def test_labels_are_for_people(load):
    variants = by_key(load())
    assert variants["chosen"].label == "chosen data"
    assert variants["full"].label == "full"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "method.query_size: 9",
            "method.query_siz: 9",
            r"suite\.yaml: variants\.chosen\.set: method\.query_siz: unknown key, did "
            r"you mean method\.query_size\?",
        ),
        (
            "paper: dpet_margin",
            "paper: dpet",
            r"variants\.chosen\.paper: unknown 'dpet'; one of standard, ",
        ),
        (
            "{method.query_size: 9}",
            "{seed: 9}",
            r"variants\.chosen\.set: seed: the suite says it for all runs",
        ),
        (
            "{method.query_size: 9}",
            "{train.batch_size.x: 9}",
            r"variants\.chosen\.set: train\.batch_size\.x: batch_size holds the value",
        ),
    ],
)
def test_a_wrong_variant_is_a_problem_and_leaves_the_others(load, old, new, problem):
    suite = load(SUITE.replace(old, new))
    assert [variant.key for variant in suite.variants] == ["full", "tried"]
    assert len(suite.problems) == 1
    with pytest.raises(UserError, match=problem):
        raise UserError(suite.problems[0])


def test_a_wrong_value_of_a_grid_names_the_grid(load):
    suite = load(SUITE.replace("[1, 2]", "[1, none]"))
    (problem,) = suite.problems
    assert "variants.tried.tune.grid: method.passes:" in problem
    assert "'none'" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SUITE.replace("role:", "rol:"),
            r"suite\.yaml: variants\.full\.rol: unknown key, did you mean "
            r"variants\.full\.role\?",
        ),
        (SUITE.replace("base.yaml", "bas.yaml"), r"bas\.yaml: cannot read the config"),
        (SUITE.replace("seeds: [3, 4]", "seeds: 3"), r"suite\.yaml: seeds: "),
        ("- a\n", "found list"),
        (
            SUITE.replace("set: {train.batch_size: 16}", "set: {train.batch_siz: 16}"),
            r"set: train\.batch_siz: unknown key",
        ),
    ],
)
def test_a_wrong_suite_is_refused(load, text, message):
    with pytest.raises(UserError, match=message):
        load(text)


def test_a_wrong_override_is_the_command_lines(load):
    with pytest.raises(UserError, match=r"command line: train\.batch_size"):
        load(overrides=["--train.batch_size=none"])
    with pytest.raises(UserError, match="is no override"):
        load(overrides=["train.batch_size=1"])


def run_of(epochs, accuracy):
    """Make a run that reached targets after so many epochs."""
    common = {"event": "evaluate", "loss": 0.1, "visits": 0, "time_s": 0.0}
    events = [
        common | {"accuracy": target, "epochs": cost} for target, cost in epochs.items()
    ]
    return Run(Path("x"), {}, {"validation_accuracy": accuracy}, tuple(events))


def test_the_setting_with_the_lowest_median_cost_answers():
    trials = {
        "short": [
            run_of({0.5: 2.0}, 0.55),
            run_of({0.5: 4.0}, 0.55),
            run_of({0.5: 3.0}, 0.58),
        ],
        "long": [
            run_of({0.5: 3.5, 0.6: 5.0}, 0.62),
            run_of({0.5: 3.5, 0.6: 9.0}, 0.63),
            run_of({0.5: 0.5}, 0.57),
        ],
    }
    assert answers(trials, [0.5, 0.6]) == {
        0.5: Answer("short", True),
        0.6: Answer("long", True),
    }


def test_a_target_that_the_median_trial_misses_is_not_reached():
    trials = {
        "weak": [run_of({0.6: 1.0}, 0.61), run_of({}, 0.4)],
        "strong": [run_of({}, 0.59), run_of({}, 0.58)],
    }
    assert answers(trials, [0.6]) == {0.6: Answer("strong", False)}


# the keys of a suite

SMALLEST = {
    "name": "some",
    "base": "base.yaml",
    "seeds": [0, 1],
    "targets": [0.5],
    "variants": {"one": {}, "two": {"role": "random"}},
}


def test_a_suite_needs_no_more_than_this():
    suite = SuiteConfig.model_validate(SMALLEST)
    assert suite.variants["one"].role is None
    assert suite.variants["two"].tune is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "at least 1"),
        ({"variants": {"plots": {}}}, r"variants\.plots: the folder is compare's own"),
        ({"variants": {"../x": {}}}, "should match pattern"),
        (
            {"variants": {"a": {"role": "tuned"}, "b": {"role": "tuned"}}},
            r"variants\.b\.role: tuned is a's already",
        ),
        ({"seeds": [3, 3]}, r"seeds: \[3, 3\] holds one twice"),
        ({"seeds": []}, "at least 1"),
        ({"targets": []}, "at least 1"),
        (
            {"variants": {"a": {"tune": {"grid": {"seed": [1]}, "seeds": [9, 1]}}}},
            r"variants\.a\.tune\.seeds: 1 is reported as well",
        ),
        ({"variants": {"a": {"tune": {"grid": {}, "seeds": [9]}}}}, "at least 1"),
        (
            {"variants": {"a": {"tune": {"grid": {"x": []}, "seeds": [9]}}}},
            "at least 1",
        ),
    ],
)
def test_what_makes_no_suite_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        SuiteConfig.model_validate(SMALLEST | changes)


AT_END = """
name: some
base: base.yaml
read: end
seeds: [3]
targets: [0.5]
variants:
  full:
    role: tuned
    set: {method.kind: standard}
    horizons: {method.passes: [2, 4]}
    tune:
      seeds: [90]
      at: 2
      grow: 1
      grid: {train.optimizer.learning_rate: [0.1, 0.2]}
  dpet: {horizons: {budget.epochs: [1, 1.5]}}
"""


def test_each_horizon_is_a_setting_of_its_own(load):
    variants = by_key(load(AT_END))
    full, dpet = variants["full"], variants["dpet"]
    assert full.horizons == (2, 4)
    assert len(full.settings) == 4 * 2  # two values given, one below, one above
    name = full.named((0.2,), 4)
    assert name == "learning_rate_0.2-passes_4"
    setting = full.settings[name]
    assert setting.config.method.passes == 4
    assert setting.config.train.optimizer.learning_rate == 0.2
    assert setting.text == "learning rate 0.2"
    assert [*dpet.settings] == ["epochs_1", "epochs_1.5"]
    assert dpet.settings[dpet.named((), 1.5)].config.budget.epochs == 1.5


def test_trials_are_of_one_horizon_and_of_the_values_grown_to(load):
    full = by_key(load(AT_END))["full"]
    key = "train.optimizer.learning_rate"
    assert [*full.tried({})] == [
        *("learning_rate_0.1-passes_2", "learning_rate_0.2-passes_2")
    ]
    assert len([*full.tried({key: (1, 0)})]) == 3
    assert len([*full.tried({key: (5, 5)})]) == 4
    assert [*full.edges("learning_rate_0.1-passes_2", {})] == [(key, 0)]
    assert [*full.edges("learning_rate_0.2-passes_2", {})] == [(key, 1)]
    assert [*full.edges("learning_rate_0.1-passes_2", {key: (1, 0)})] == []
    # nothing more is given below
    assert [*full.edges("learning_rate_0.05-passes_2", {key: (1, 0)})] == []


GRID = """
name: some
base: base.yaml
seeds: [3, 4]
targets: [0.5]
variants:
  plain: {}
  cells:
    label: by loss
    set: {method: {kind: loss_threshold, passes: 2}, train.batch_size: 9}
    grid: {method.prune_fraction: [0, 0.3], train.batch_size: [8, 16]}
"""


def test_each_combination_of_a_grid_is_a_row_of_one_arm(load):
    plain, *cells = load(GRID, ["--train.optimizer.learning_rate=0.5"]).variants
    assert (plain.key, plain.factors) == ("plain", {})
    found = {
        (one.config.method.prune_fraction, one.config.train.batch_size)
        for cell in cells
        for one in cell.settings.values()
    }
    assert found == {(0, 8), (0, 16), (0.3, 8), (0.3, 16)}
    assert [cell.name for cell in cells] == ["cells"] * 4
    last = cells[-1]
    assert last.key == "cells/prune_fraction_0.3-batch_size_16"
    assert last.label == "by loss, prune fraction 0.3, batch size 16"
    assert last.factors == {"method.prune_fraction": 0.3, "train.batch_size": 16}
    assert last.settings[""].config.train.optimizer.learning_rate == 0.5
    (job,) = last.jobs([""], 4)
    assert job.folder == f"some/{last.key}/seed4"


def test_each_row_of_a_grid_can_be_tuned(load):
    text = f"{GRID}    tune: {{seeds: [90], grid: {{method.passes: [1, 2]}}}}\n"
    _, first, *others = load(text).variants
    assert len(others) == 3
    (trial, _) = first.trials({})
    folder = "some/tuning/cells/prune_fraction_0-batch_size_8/passes_1/seed90"
    assert trial.folder == folder
    assert trial.config.method.passes == 1
    assert trial.config.train.batch_size == 8


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[0, 0.3]", "[0, none]", r"cells\.grid: method\.prune_fraction: .*'none'"),
        ("{method.prune_fraction", "{seed", r"cells\.grid: seed: the suite says it"),
    ],
)
def test_a_wrong_value_in_a_grid_of_rows_names_the_grid(load, old, new, problem):
    suite = load(GRID.replace(old, new))
    assert [variant.key for variant in suite.variants] == ["plain"]
    with pytest.raises(UserError, match=problem):
        raise UserError(suite.problems[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"grid": {"x": [1, 1]}}, r"variants\.a: .*grid\.x: \[1, 1\] holds one twice"),
        ({"grid": {"x": []}}, "at least 1"),
        ({"grid": {"x": [1, 2]}, "role": "random"}, "role: random is one row"),
        (
            {"grid": {"x": [1]}, "tune": {"grid": {"x": [1, 2]}, "seeds": [9]}},
            r"tune\.grid\.x: grid reports a row for each",
        ),
        (
            {"grid": {"x": [1]}, "horizons": {"y": [1, 2]}},
            "grid: each of its rows has one length",
        ),
        (
            {"grid": {"x": [*range(40)], "y": [*range(26)]}},
            "grid: 1,040 combinations, of which nobody runs",
        ),
        (
            {
                "grid": {"x": [*range(40)]},
                "tune": {"grid": {"y": [*range(26)]}, "seeds": [9]},
            },
            "grid: 1,040 combinations",
        ),
    ],
)
def test_a_grid_of_rows_that_contradicts_itself_is_refused(keys, message):
    with pytest.raises(ValidationError) as caught:
        SuiteConfig.model_validate(SMALLEST | {"variants": {"a": keys}})
    (error,) = caught.value.errors()
    place = ".".join(map(str, error["loc"]))
    assert re.search(message, f"{place}: {error['msg']}")
