"""Several searches for the same settings: what is run, and what is left on disk."""

import json

import pytest
from fakes.trials import CONFIG, RATE

from dpet_jax.cli import main
from dpet_jax.errors import UserError
from dpet_jax.report.searches import read_searches, search_folder
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.by_name import searches_of
from dpet_jax.suite.searches import Searches, run_searches
from dpet_jax.suite.tuning import Limits

SMALL = "random,{kind: grid, values: 3},{kind: hyperband, stops: 2}"


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "some.yaml").write_text(CONFIG)

    def make(searches=SMALL, *, vary=(f"{RATE}=0.001..1 log",), **options):
        options = {"limits": Limits(epochs=9.0), "repeats": 2} | options
        return Searches(
            tmp_path / "some.yaml",
            (),
            tuple(Axis.of(text) for text in vary),
            searches_of(searches),
            **options,
        )

    return make


def quiet(line):
    del line


def test_every_search_spends_the_same_and_is_compared(asked, runs, tmp_path):
    assert not run_searches(asked(), tmp_path / "out", say=quiet)
    record = read_searches(tmp_path / "out")
    assert {row.name: len(row.courses) for row in record.rows} == {
        "random": 2,
        "grid_values=3": 2,
        "hyperband_stops=2": 2,
    }
    assert (record.config, record.unit) == ("some", "epochs")
    assert 9.0 <= record.budget < 9.0 + 3.0
    for row in record.rows:
        assert [course.seed for course in row.courses] == [0, 1]
        for course in row.courses:
            assert 9.0 <= course.costs[-1] < 9.0 + 3.0
            # of the winner alone, where its run came to its end
            assert course.test in (None, 0.5)
            assert course.validation == course.best[-1]
    accuracies = [a for row in record.rows for c in row.courses for a in c.best]
    assert record.pooled_best == max(accuracies)
    assert len({runs.begun[0][1], runs.begun[3][1]}) == 2  # a draw of its own each


def test_searches_that_were_interrupted_go_on(asked, runs, tmp_path):
    made = asked("random,{kind: hyperband, stops: 2}", limits=Limits(epochs=6.0))
    run_searches(made, tmp_path / "whole", say=quiet)
    whole = read_searches(tmp_path / "whole")
    flag = Interrupt()

    def after_one(line):
        flag.requested = line.startswith("trial 1")

    assert run_searches(made, tmp_path / "out", say=after_one, interrupt=flag)
    some = len(runs.stops)
    part = read_searches(tmp_path / "out")  # what there is can be read at any time
    assert [row.name for row in part.rows] == ["random"]
    assert not run_searches(made, tmp_path / "out", say=quiet)
    assert read_searches(tmp_path / "out") == whole
    done = len(runs.stops)
    assert done > some
    run_searches(made, tmp_path / "out", say=quiet)
    assert len(runs.stops) == done
    # more of the same may be asked
    run_searches(asked("tpe", repeats=1), tmp_path / "out", say=quiet)
    assert len(runs.stops) > done
    assert [row.name for row in read_searches(tmp_path / "out").rows] == ["tpe"]


def test_the_unit_is_what_all_trials_know_and_can_be_compared_by(asked, runs, tmp_path):
    runs.wh = lambda rate: 2 * rate
    run_searches(asked("random,tpe", repeats=1), tmp_path / "out", say=quiet)
    record = read_searches(tmp_path / "out")
    assert (record.unit, record.unit_name) == ("wh", "Wh")
    path = search_folder(tmp_path / "out", "tpe", 0) / "stops.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert record.rows[0].courses[0].costs[0] == pytest.approx(lines[0]["wh"])
    lines[0]["wh"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_searches(tmp_path / "out").unit == "epochs"
    with pytest.raises(UserError, match="not every trial measured energy"):
        read_searches(tmp_path / "out", "wh")
    # where an epoch of some costs more than of others, epochs compare nothing
    lines[0]["flops"] *= 2
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_searches(tmp_path / "out").unit == "flops"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": Limits()}, "nothing says when a search has to stop"),
        ({"limits": Limits(epochs=0.0)}, "--epochs: 0.0 is no number above 0"),
        ({"repeats": 0}, "--repeats: 0 is no number above 0"),
        ({"searches": "tpe,grid"}, "grid needs choices"),
        ({"vary": ("train.rate=1,2",)}, "train.rate: unknown key"),
        ({"vary": (f"{RATE}=-1..1",)}, "learning_rate"),
        ({"vary": ()}, "--vary: missing"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    options, message, asked, runs, tmp_path
):
    with pytest.raises(UserError, match=message):
        run_searches(asked(**options), tmp_path / "out", say=quiet)
    assert runs.begun == []


@pytest.mark.usefixtures("runs")
def test_a_folder_of_other_searches_is_refused(asked, tmp_path):
    run_searches(asked("tpe", limits=Limits(trials=1)), tmp_path / "out", say=quiet)
    with pytest.raises(UserError, match="their axes differ"):
        run_searches(asked("tpe", vary=(f"{RATE}=0.1,1",)), tmp_path / "out", say=quiet)
    with pytest.raises(UserError, match="holds no searches"):
        read_searches(tmp_path)


@pytest.mark.usefixtures("runs")
def test_the_command_ends_with_table_and_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.yaml").write_text(CONFIG)
    given = ["tune", "some.yaml", f"--vary={RATE}=0.01..0.5 log", "--epochs=6"]
    given += ["--compare=random,{kind: halving, eta: 2, stops: 2}", "--repeats=1"]
    assert main(given) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].endswith("some_searches/record.json")
    assert printed[-1].endswith("some_searches/searches.png")
    assert "one repeat tells nothing of chance" in printed[-4]
    record = json.loads((tmp_path / "tune/some_searches/record.json").read_text())
    assert {row["name"] for row in record["rows"]} == {
        *("random", "halving_eta=2_stops=2")
    }
