"""Search for settings: what is drawn, who runs it, and what is left on disk."""

import csv
import threading

import pytest
from fakes.trials import CONFIG, RATE

from dpet_jax.cli import SEARCHES, main
from dpet_jax.config.load import load
from dpet_jax.errors import UserError
from dpet_jax.report.searches import read_stops
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.by_name import NAMES, search_of
from dpet_jax.suite.searchers.gp import Gp
from dpet_jax.suite.tuning import Limits, Outcome, Tuning, lines

DECAY = "train.optimizer.weight_decay"


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


def test_a_worker_that_was_killed_while_it_wrote_keeps_nobody_waiting(
    tune, runs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    search = tune()
    search.out = search.out.relative_to(tmp_path)
    # as optuna's own lock would be left behind
    (tmp_path / "out/journal.log.lock").symlink_to("out/journal.log")
    search.run(Limits(trials=1), interrupt=Interrupt())
    assert len(runs.begun) == 1


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


# trials that go on


def last(outcome):
    return {trial.number: trial for trial in outcome.trials}


def test_the_best_of_a_bracket_go_on_from_where_they_stopped(tune, runs, tmp_path):
    outcome = tune(search="hyperband").run(Limits(), interrupt=Interrupt())
    shares = [share for _, share in runs.stops]
    assert sorted(shares) == sorted(
        [0.111] * 9 + [0.333] * (3 + 5) + [1.0] * (1 + 1 + 3)
    )
    # all but the first part of a trial is a run that is resumed, on the same folder
    begun = {}
    for (name, _, resumed), (_, share) in zip(runs.begun, runs.stops, strict=True):
        assert resumed == (name in begun)
        assert share > begun.get(name, 0.0)
        begun[name] = share
    trials = last(outcome)
    assert len(trials) == 17
    of_first = sorted(range(9), key=lambda n: abs(float(trials[n].values[RATE]) - 0.1))
    assert [trials[n].share for n in of_first] == [
        *(1.0, pytest.approx(1 / 3), pytest.approx(1 / 3)),
        *[pytest.approx(1 / 9)] * 6,
    ]
    # only new parts count: the arithmetic of the brackets, in epochs of 3 a run
    cost = sum(trial.epochs for trial in outcome.trials)
    assert cost == pytest.approx(3 * (7 / 3 + 7 / 3 + 3))
    with (tmp_path / "out/trials.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["stopped_by"] for row in rows].count("paused") == 12
    study = tune(search="hyperband")._study()
    assert {t.state.name for t in study.get_trials()} == {"COMPLETE", "PRUNED"}


SMALL = "{kind: hyperband, stops: 2}"  # of 3 trials, one goes on; of 2, both are whole


def test_a_search_by_brackets_that_was_killed_promotes_the_same(tune, runs):
    limits = Limits(trials=8)
    whole = tune(search=SMALL).run(limits, interrupt=Interrupt())
    wanted, runs.stops = runs.stops, []
    assert len(wanted) == 10

    def step(interrupts):
        flag = Interrupt()

        def after_one(line):
            flag.requested = line.startswith("trial")

        runs.interrupts = interrupts
        search = tune(out="other", search=SMALL, say=after_one)
        return search.run(limits, interrupt=flag)

    for number in range(len(wanted)):
        if number % 3 == 0:
            step(interrupts=1)  # is cut before it stops
        outcome = step(interrupts=0)
    assert runs.stops == wanted
    assert [t[:4] for t in outcome.trials] == [t[:4] for t in whole.trials]


def test_workers_share_brackets_and_go_no_way_twice(tune, runs):
    limits = Limits(trials=8)
    alone = tune(search=SMALL).run(limits, interrupt=Interrupt())
    runs.stops, runs.took_s = [], 0.02
    workers = [
        threading.Thread(
            target=lambda: tune(out="other", search=SMALL).run(
                limits, interrupt=Interrupt()
            )
        )
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    outcome = tune(out="other", search=SMALL).run(limits, interrupt=Interrupt())
    assert len({*runs.stops}) == len(runs.stops) == 10
    assert [t[:4] for t in outcome.trials] == [t[:4] for t in alone.trials]


def test_one_that_diverges_on_its_way_is_never_promoted(tune, runs):
    runs.diverges = lambda config: config.train.optimizer.learning_rate > 0.05
    outcome = tune(search="halving").run(Limits(), interrupt=Interrupt())
    ended = [trial for trial in outcome.trials if trial.share == 1.0]
    assert {trial.stopped_by for trial in ended} == {"finished", "diverged"}
    assert all(float(t.values[RATE]) < 0.05 for t in ended if t.accuracy is not None)
    assert outcome.trials[0].accuracy is not None


def test_nothing_is_promoted_beyond_the_means(tune, runs):
    limits = Limits(epochs=3.0)  # the first stops of nine trials
    tune(search="halving").run(limits, interrupt=Interrupt())
    assert len(runs.stops) == 9
    tune(search="halving").run(limits, interrupt=Interrupt())
    assert len(runs.stops) == 9
    tune(search="halving").run(Limits(epochs=3.1), interrupt=Interrupt())
    assert runs.stops[9:] == [(runs.stops[9][0], 0.333)]


# what a search goes by


def test_a_search_that_minds_the_cost_goes_by_what_was_measured(tune, runs):
    seen = {}

    class Watching(Gp):
        def point(self, axes, past, seed):
            del axes, seed
            seen[runs.wh is None] = [one.cost for one in past]

    for wh in (None, lambda rate: 10 * rate):
        runs.wh = wh
        search = tune(out=str(wh is None))
        search.search = Watching(per_cost=True)
        search.run(Limits(trials=3), interrupt=Interrupt())
    rates = [rate for _, rate, _ in runs.begun[-3:]]
    assert seen[True] == [3_000.0] * 2  # FLOPs
    assert seen[False] == [pytest.approx(2 * 10 * rate) for rate in rates[:2]]


@pytest.mark.usefixtures("runs")
def test_an_axis_for_b2_changes_no_run_of_the_study(tune, tmp_path):
    adam = CONFIG.replace("256}", "256, optimizer: {kind: adam}}")
    b2 = "train.optimizer.b2"
    with pytest.raises(UserError, match=r"train\.optimizer\.b2: unknown key"):
        tune(f"{b2}=0.8..0.99", search="study_random")  # SGD has none
    (tmp_path / "some.yaml").write_text(adam)
    made = tune(f"{RATE}=0.001..0.1", f"{b2}=0.8..0.99", out="b", search="study_random")
    outcome = made.run(Limits(trials=2), interrupt=Interrupt())
    assert all(0.8 <= float(trial.values[b2]) < 0.99 for trial in outcome.trials)
    for trial in outcome.trials:
        assert load(trial.folder / "config.yaml").train.optimizer.b2 == 0.999


def test_a_folder_of_an_earlier_version_goes_on(tune, runs, tmp_path):
    tune().run(Limits(trials=4), interrupt=Interrupt())
    (tmp_path / "out/stops.jsonl").unlink()
    outcome = tune().run(Limits(trials=6), interrupt=Interrupt())
    assert len(outcome.trials) == len(runs.begun) == 6
    (tmp_path / "out/journal.log").unlink()
    with pytest.raises(UserError, match="lacks trial"):
        tune().run(Limits(trials=6), interrupt=Interrupt())


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


def test_real_trials_go_on_from_where_they_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.yaml").write_text(CONFIG.replace("passes: 1", "passes: 2"))
    search = "{kind: halving, eta: 2, stops: 2}"
    given = ["tune", "some.yaml", f"--vary={RATE}=0.02..0.2", f"--search={search}"]
    assert main(given) == 0
    assert "best of 2 trials" in capsys.readouterr().out
    first, second, again = read_stops(tmp_path / "tune/some")
    assert (first.stopped_by, second.stopped_by) == ("paused", "paused")
    assert (again.number, again.stopped_by) == (
        max(first, second, key=lambda trial: (trial.accuracy, -trial.number)).number,
        "finished",
    )
    before = (first, second)[again.number]
    # a pass is 6 steps of 256 of 1,455 rows
    assert before.epochs == pytest.approx(768 / 1455 * 2, abs=1e-3)
    assert again.epochs == pytest.approx(2 * before.epochs, abs=1e-3)
    assert 0 < before.seconds < again.seconds
    assert again.values == before.values


def test_the_command_knows_every_search():
    assert NAMES == SEARCHES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--vary=a=1,2"], "nothing says when to stop"),
        (["--trials=0", "--vary=a=1,2"], "--trials: 0 is no number above 0"),
        (["--trials=2"], "--vary: missing"),
        (["--trials=2", "--vary=seed"], "names no key and values"),
        (["--search=best", "--vary=a=1,2"], "--search: unknown 'best'; one of tpe"),
        (["--compare=tpe,tp", "--vary=a=1,2"], "--compare: unknown 'tp'"),
        (["--compare=tpe", "--vary=a=1,2"], "nothing says when a search has to stop"),
        (
            ["--compare=tpe", "--vary=seed=1,2", "--trials=1", "--repeats=0"],
            "--repeats: 0 is no number above 0",
        ),
    ],
)
def test_the_command_refuses(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.yaml").write_text(CONFIG)
    assert main(["tune", "some.yaml", *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("runs")
def test_energy_of_trials_is_not_told_by_a_model(tune):
    trial = tune().run(Limits(trials=1), interrupt=Interrupt()).trials[0]
    measured, modelled = (
        trial._replace(wh=0.5, quality=quality) for quality in ("measured", "modelled")
    )
    for one, told in ((measured, True), (modelled, False)):
        text = "\n".join(lines(Outcome((one,), False, None), "again"))
        assert (" 0.5 Wh" in text) == told
