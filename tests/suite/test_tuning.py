"""Search for settings: what is drawn, who runs it, and what is left on disk."""

import csv
import json
import threading
import time

import pytest

from dpet_jax.cli import SEARCHES, main
from dpet_jax.config.load import load
from dpet_jax.errors import UserError
from dpet_jax.run import experiment
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite import tuning
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.by_name import NAMES, search_of
from dpet_jax.suite.tuning import Limits, Tuning, lines

RATE, DECAY = "train.optimizer.learning_rate", "train.optimizer.weight_decay"
CONFIG = """
name: some
data: {kind: digits}
model: {kind: resnet, stem: 8, channels: [8], blocks: [1]}
method: {kind: standard, passes: 1}
train: {batch_size: 256}
evaluate: {every: 10, batch_size: 180}
"""


class Runs:
    """Takes the place of `experiment.run`: accuracy falls away from a rate of 0.1."""

    def __init__(self):
        self.begun, self.interrupts, self.took_s = [], 0, 0.0
        self.diverges = lambda _: False

    def __call__(self, config, out, *, resume, data, interrupt, until):
        assert data is None
        assert until is None
        rate = config.train.optimizer.learning_rate
        self.begun.append((config.name, rate, resume))
        folder = experiment.run_folder(config, out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        time.sleep(self.took_s)
        if self.interrupts:
            self.interrupts -= 1
            interrupt.requested = True
            return experiment.Result(folder, "interrupted", None)
        ended = "diverged" if self.diverges(config) else "finished"
        phase = {"s": 2.0, "wh": None, "quality": "unavailable"}
        summary = {
            "validation_accuracy": 1 - abs(rate - 0.1),
            "stopped_by": ended,
            "epochs": 3.0,
            "flops": 3_000,
            "wall_s": 5.0,
            "phases": {"train": phase, "select": phase},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return experiment.Result(folder, ended, summary)


@pytest.fixture
def runs(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(experiment, "run", runs)
    monkeypatch.setattr(tuning.build, "build_data", lambda _: None)
    return runs


@pytest.fixture
def tune(tmp_path):
    (tmp_path / "some.yaml").write_text(CONFIG)

    def make(*vary, out="out", **options):
        axes = [Axis.of(text) for text in vary or (f"{RATE}=0.001..1 log",)]
        say = options.pop("say", lambda _: None)
        config = tmp_path / "some.yaml"
        if "search" in options:
            options["search"] = search_of(options["search"])
        return Tuning(config, (), axes, tmp_path / out, say=say, **options)

    return make


# what is varied


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("a.b=1,2,4", Axis("a.b", ("1", "2", "4"))),
        ("a=rs2, standard", Axis("a", ("rs2", "standard"))),
        ("a={kind: x},null", Axis("a", ('{"kind": "x"}', "null"))),
        ("a=0.1..1", Axis("a", low=0.1, high=1)),
        ("a=1..8", Axis("a", low=1, high=8, whole=True)),
        ("a=1e-3..1 log", Axis("a", low=0.001, high=1, log=True)),
    ],
)
def test_values_of_a_key(text, axis):
    assert Axis.of(text) == axis


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "names no key"),
        ("a..b=1,2", "names no key"),
        ("a=1", "leaves no choice"),
        ("a=1,1", "each once"),
        ("a=[1,2", "not YAML"),
        ("a=1..", "no range"),
        ("a=x..y", "no range"),
        ("a=2..1", "smaller first"),
        ("a=0..1 log", "above 0"),
        ("a=1..2 lin", "only log"),
    ],
)
def test_values_that_are_none(text, message):
    with pytest.raises(UserError, match=message) as caught:
        Axis.of(text)
    assert str(caught.value).startswith("--vary: ")


def test_a_value_that_the_config_refuses_is_refused_before_anything_runs(tune, runs):
    with pytest.raises(UserError, match="learning_rate"):
        tune(f"{RATE}=0.1,-1")
    with pytest.raises(UserError, match="did you mean"):
        tune("train.batch_siz=32,64")
    assert runs.begun == []


def test_rules_of_a_tuner_are_varied_like_any_other_key(tune, runs, tmp_path):
    text = CONFIG.replace("{kind: standard, passes: 1}", "{kind: dpet, tuner: {}}")
    axes = (
        "method.tuner.warmup.share=0.05..0.3",
        "method.tuner.query_size.doublings=0..2",
        "method.tuner.score={gamma: 0.1},null",
    )
    (tmp_path / "some.yaml").write_text(text)
    search = tune(*axes, out="rules")
    assert [axis.key.split(".")[2] for axis in search.axes] == [
        *("warmup", "query_size", "score"),
    ]
    changes = [f"--{axis.key}={axis.edges[1]}" for axis in search.axes]
    tuner = load(tmp_path / "some.yaml", changes).method.tuner
    assert tuner.warmup.share == 0.3
    assert (tuner.query_size.doublings, tuner.score) == (2, None)
    with pytest.raises(UserError, match=r"method\.tuner\.warmup\.share"):
        tune("method.tuner.warmup.share=0.05..1.5", out="wrong")
    assert runs.begun == []


@pytest.mark.parametrize(
    ("vary", "options", "message"),
    [
        ((f"{RATE}=0.1,1", f"{RATE}=1,2"), {}, "twice"),
        ((f"{RATE}=0.1..1",), {"search": "grid"}, "is a range"),
    ],
)
def test_searches_that_make_no_sense(vary, options, message, tune):
    with pytest.raises(UserError, match=message):
        tune(*vary, **options)


# trials


def test_the_best_trial_is_a_config_and_all_are_a_table(tune, runs, tmp_path):
    shown = []
    outcome = tune(say=shown.append).run(Limits(trials=12), interrupt=Interrupt())
    assert len(shown) == len(runs.begun) == len(outcome.trials) == 12
    accuracies = [trial.accuracy for trial in outcome.trials]
    assert accuracies == sorted(accuracies, reverse=True)
    config = load(outcome.best)
    assert config.name == "some_tuned"
    rate = config.train.optimizer.learning_rate
    assert rate == float(outcome.trials[0].values[RATE])
    # log-uniform draws lie 0.1 from 0.1 in a quarter of all cases; the search is nearer
    assert abs(rate - 0.1) < 0.03
    with (tmp_path / "out/trials.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["validation_accuracy"]) for row in rows] == accuracies
    assert rows[0]["folder"] == f"trials/trial{outcome.trials[0].number:04d}/seed0"
    text = "\n".join(lines(outcome, "again"))
    assert "best of 12 trials (36 epochs, 48 s): validation" in text
    assert "interrupted" not in text


def test_a_search_that_goes_on_draws_what_it_would_have_drawn(tune, runs):
    tune().run(Limits(trials=6), interrupt=Interrupt())
    whole, runs.begun = runs.begun, []
    for count in (2, 2, 6):
        tune(out="other").run(Limits(trials=count), interrupt=Interrupt())
    assert runs.begun == whole


def test_a_trial_that_was_cut_is_finished_first(tune, runs):
    runs.interrupts = 1
    first = tune().run(Limits(trials=3), interrupt=Interrupt())
    assert first.interrupted
    assert first.trials == ()
    assert first.best is None
    outcome = tune().run(Limits(trials=3), interrupt=Interrupt())
    assert len(outcome.trials) == 3
    (cut, again, *others) = runs.begun
    assert cut == (*again[:2], False)
    assert again[2]
    assert not any(resume for *_, resume in others)


def test_workers_share_a_search_and_run_no_trial_twice(tune, runs):
    runs.took_s = 0.05
    workers = [
        threading.Thread(
            target=lambda: tune().run(Limits(trials=7), interrupt=Interrupt())
        )
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    names = [name for name, *_ in runs.begun]
    assert sorted(names) == [f"trial{k:04d}" for k in range(7)]


def test_one_that_diverges_has_no_accuracy_and_is_last(tune, runs):
    runs.diverges = lambda config: config.train.optimizer.learning_rate > 0.05
    outcome = tune(f"{RATE}=0.01,0.1", search="grid").run(
        Limits(), interrupt=Interrupt()
    )
    assert [trial.accuracy for trial in outcome.trials] == [pytest.approx(0.91), None]


def test_a_grid_is_gone_through_once(tune, runs):
    vary = f"{RATE}=0.1,0.2", f"{DECAY}=0,1e-4,5e-4"
    outcome = tune(*vary, search="grid").run(Limits(), interrupt=Interrupt())
    assert len({tuple(trial.values.values()) for trial in outcome.trials}) == 6
    assert len(runs.begun) == 6


def test_epochs_of_all_trials_are_a_limit(tune, runs):
    tune().run(Limits(epochs=7.0), interrupt=Interrupt())
    assert len(runs.begun) == 3


def test_watt_hours_that_nobody_measures_are_no_limit(tune, runs):
    with pytest.raises(UserError, match="nothing measures energy here"):
        tune().run(Limits(wh=1.0), interrupt=Interrupt())
    assert len(runs.begun) == 1


def test_a_folder_of_another_search_is_refused(tune):
    tune()
    tune()
    with pytest.raises(UserError, match="its axes differ"):
        tune(f"{RATE}=0.1,1")
    with pytest.raises(UserError, match="its seed differ"):
        tune(seed=1)


def test_without_optuna_it_is_said_how_to_get_it(tune, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'dpet-jax\[tune\]'"):
        tune()


# the command


def test_the_command_ends_with_the_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.yaml").write_text(CONFIG)
    given = ["tune", "some.yaml", f"--vary={RATE}=0.02,0.2", "--search=grid"]
    assert main(given) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("config      tune/some/best.yaml; train it with")
    assert printed[-2].startswith("best of 2 trials")
    assert main(given) == 0  # nothing is left to do
    again = capsys.readouterr().out.splitlines()
    assert again[-2:] == printed[-2:]


def test_the_command_knows_every_search():
    assert NAMES == SEARCHES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--vary=a=1,2"], "nothing says when to stop"),
        (["--trials=0", "--vary=a=1,2"], "--trials: 0 is no number above 0"),
        (["--trials=2"], "--vary: missing"),
        (["--trials=2", "--vary=seed"], "names no key and values"),
    ],
)
def test_the_command_refuses(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.yaml").write_text(CONFIG)
    assert main(["tune", "some.yaml", *given]) == 2
    assert message in capsys.readouterr().err
