"""A tuned run: what it records, what it costs, and what a resume makes of it."""

import pytest
from fakes.networks import MlpModel

from dpet_jax.config.load import validate
from dpet_jax.data.dataset import Data
from dpet_jax.errors import UserError
from dpet_jax.run import build, experiment
from dpet_jax.run.costs import WARM_PHASES, spent_at
from dpet_jax.run.folder import read_events
from dpet_jax.run.summary import summary_lines
from dpet_jax.section import import_path
from dpet_jax.suite.dry_run import estimate

MODEL = {"kind": import_path(MlpModel)}
METHOD = {"warmup_passes": 8, "query_size": 60, "passes_per_round": 6, "max_rounds": 4}


def config(tuner, name="tiny", **changes):
    tree = {
        "name": name,
        "model": MODEL,
        "train": {"batch_size": 32},
        "evaluate": {"every": 2},
        "method": METHOD | {"tuner": tuner, "replay": {"kind": "uniform"}},
    }
    return validate(tree | changes, "test")


def plans_of(folder):
    return [e for e in read_events(folder / "events.jsonl") if e["event"] == "plan"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return experiment.run(config({}), tmp_path_factory.mktemp("tuned"))


def test_every_decision_is_in_the_events(whole):
    plans = plans_of(whole.folder)
    facts = [plan.get("tuner", {}) for plan in plans]
    assert len({plan["label"] for plan in plans}) == 5
    assert len(plans) > 6  # in pieces
    begun = [f for f in facts if "unlearned" in f]
    assert len(begun) == 4
    for known in begun[1:]:
        assert {"learnt", "gain", "reward", "score", "query_size"} <= known.keys()
        assert 0 <= known["reward"] <= 1
        assert known["round_epochs"] > 0
    assert begun[0]["query_size"] == 60
    assert any("slope" in f for f in facts)
    assert "forgotten" in begun[-1]


def test_its_share_of_the_time_is_printed_and_counts_as_a_cost(whole):
    phases = {name: p["s"] for name, p in whole.summary["phases"].items()}
    work = phases["select"] + phases["tuner"] + phases["train"]
    (line,) = [row for row in summary_lines(whole.summary) if row.startswith("tuner ")]
    assert f"{100 * phases['tuner'] / work:.1f} %" in line
    assert phases["tuner"] > 0
    *_, stop = read_events(whole.folder / "events.jsonl")
    seconds = [stop["seconds"].get(name, 0.0) for name in WARM_PHASES]
    assert "tuner" in WARM_PHASES
    assert spent_at(stop).seconds_warm == pytest.approx(sum(seconds))


def test_a_tuned_run_that_was_cut_goes_on_to_the_same_bits(
    whole, tmp_path, stopped_after, assert_same_run
):
    cut = experiment.run(config({}), tmp_path, interrupt=stopped_after(30))
    assert cut.stopped_by == "interrupted"
    assert plans_of(cut.folder)[-1]["label"] == "round 2"  # and after a query's look
    done = experiment.run(config({}), tmp_path, resume=True)
    assert done.summary["segments"] == 2
    assert_same_run(whole.folder, done.folder)
    left, right = (
        [{k: e.get(k) for k in ("label", "size", "tuner", "epochs")} for e in plans]
        for plans in (plans_of(whole.folder), plans_of(done.folder))
    )
    assert left == right


def test_a_dry_run_plays_the_tuner(whole):
    tuned = config({})
    data = build.build_data(tuned)
    assert isinstance(data, Data)
    found = estimate(tuned, data)
    most = tuned.method.planned_visits(build.build_pool(data))
    assert 0 < found.visits <= most
    assert whole.summary["visits"] <= most
    assert found.epochs > 0


def test_joules_need_a_source_of_energy():
    with pytest.raises(UserError, match="joules needs a source of energy"):
        build.build_meter(config({"cost": "joules"}))


def test_one_schedule_of_all_rounds_is_refused_where_they_end_early():
    train = {"batch_size": 32, "schedule": {"kind": "linear", "horizon": "method"}}
    with pytest.raises(UserError, match="horizon is method, but method"):
        config({}, train=train)
    rules = ("warmup", "query_size", "passes", "replay")
    config(dict.fromkeys(rules), train=train)  # the score alone shortens nothing
