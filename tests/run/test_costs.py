"""What a target cost, from event lists by hand, and that all who say it agree."""

import csv
import io

import pytest
from fakes.runs import events_of, fake_run

from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.formats import to_csv
from dpet_jax.report.table import cost_table
from dpet_jax.run.costs import Spent, spent_at, target_cost, target_costs


def phases(**spent):
    names = ("compile", "data", "select", "train", "eval", "checkpoint", "idle")
    return dict.fromkeys((*names, "other"), 0.0) | spent


def look(accuracy, spent, visits=0, **changes):
    return {
        "event": "evaluate",
        "segment": 0,
        "accuracy": accuracy,
        "loss": 1 - accuracy,
        "wh": spent,
        "seconds": {name: 10 * value for name, value in spent.items()},
        "visits": visits,
        "epochs": visits / 100,
        "time_s": float(visits),
        **changes,
    }


def compiling(cache_hits=0, programs=1, segment=0, what="train_steps"):
    return {
        "event": "compile",
        "segment": segment,
        "what": what,
        "programs": programs,
        "cache_hits": cache_hits,
    }


def reached(target):
    # its own counters are later ones, and must not be taken for those of the target
    later = look(0.0, phases(compile=1.0, train=9.0, eval=9.0), 999)
    return later | {"event": "target", "target": target, "test_accuracy": 0.55}


EVENTS = [
    compiling(),
    look(0.3, phases(compile=1.0, train=1.0, eval=0.1, other=5.0), 100),
    look(0.6, phases(compile=1.0, train=2.0, select=0.5, eval=0.2, other=5.0), 200),
    reached(0.5),
    look(0.55, phases(compile=1.0, train=3.0, select=0.5, eval=0.3, other=5.0), 300),
]


def test_a_target_costs_what_was_spent_at_the_first_evaluation_that_reached_it():
    cost = target_cost(EVENTS, 0.5)
    assert cost.spent == pytest.approx(
        Spent(
            epochs=2.0,
            visits=200,
            wall_s=200.0,
            seconds=35.0,
            seconds_warm=25.0,
            wh=3.5,
            wh_warm=2.5,
            wh_eval=0.2,
            wh_incl_eval=3.7,
            wh_total=8.7,
        )
    )
    assert cost.wh_cold == pytest.approx(3.5)
    assert cost.bracket_wh == pytest.approx((2.0, 3.5))
    assert (cost.accuracy, cost.test_accuracy) == (0.6, 0.55)


def test_a_target_reached_at_the_first_evaluation_has_a_bracket_from_nothing():
    assert target_cost([*EVENTS[:2], reached(0.2)], 0.2).bracket_wh == (0.0, 2.0)


def test_an_evaluation_of_a_diverged_model_reaches_nothing():
    broken = look(0.95, phases(train=9.0), 400, loss=None)
    assert target_cost([*EVENTS, broken], 0.9) is None
    blind = broken | {"loss": 0.1, "accuracy": None}
    assert target_costs([*EVENTS, blind], [0.9])[0]["best_accuracy"] == 0.6


def test_a_run_killed_before_the_test_accuracy_was_measured_has_a_cost_all_the_same():
    cost = target_cost(EVENTS[:3], 0.5)
    assert cost.spent.wh == pytest.approx(3.5)
    assert cost.test_accuracy is None


@pytest.mark.parametrize(
    ("compilations", "cached"),
    [
        ([compiling()], False),
        ([compiling(cache_hits=1)], True),
        # an earlier run of the process had it ready
        ([compiling(programs=0)], True),
        # the auxiliary network has the program of the main one
        ([compiling(), compiling(programs=0, what="fresh train_steps")], False),
        # a resumed run was cold if its first segment was
        ([compiling(), compiling(cache_hits=1, segment=1)], False),
    ],
)
def test_a_cold_cost_is_that_of_a_run_that_compiled_its_own_programs(
    compilations, cached
):
    cost = target_cost([*compilations, *EVENTS[1:]], 0.5)
    assert cost.compile_cached is cached
    assert cost.wh_cold == (None if cached else cost.spent.wh)


def test_without_energy_targets_are_reached_at_no_wh_at_all():
    events = [e | {"wh": None} if "wh" in e else e for e in EVENTS]
    entries = target_costs(events, [0.5, 0.9])
    assert [entry["reached"] for entry in entries] == [True, False]
    assert entries[0]["seconds_warm"] == 25.0
    for entry in entries:
        assert {value for key, value in entry.items() if "wh" in key} == {None}


def test_entries_hold_the_cost_of_each_target_or_how_far_the_run_came():
    first, missed = target_costs(EVENTS, [0.5, 0.9])
    cost = target_cost(EVENTS, 0.5)
    assert first.items() >= cost.spent._asdict().items()
    assert (first["target"], first["reached"]) == (0.5, True)
    assert (first["accuracy"], first["test_accuracy"]) == (0.6, 0.55)
    assert first["bracket_wh"] == cost.bracket_wh
    assert missed.keys() == first.keys()
    known = {key: value for key, value in missed.items() if value is not None}
    assert known == {
        "target": 0.9,
        "reached": False,
        "best_accuracy": 0.6,
        "wh_total": pytest.approx(9.8),
    }


@pytest.mark.parametrize(
    ("by", "name"),
    [
        *(("epochs", "epochs"), ("visits", "visits")),
        *(("seconds", "seconds_warm"), ("wh", "wh_warm")),
    ],
)
def test_tables_of_a_report_hold_the_same_numbers_under_the_same_names(
    tmp_path, by, name
):
    folder = fake_run(tmp_path / "m" / "seed0", wh_per_epoch=0.3)
    events = events_of(folder)
    # compiling and reading are in one of the two numbers alone, so that one cannot be
    # taken for the other
    entries = {cost["target"]: cost for cost in target_costs(events, [0.6, 0.8])}
    assert entries[0.6]["wh"] - entries[0.6]["wh_warm"] == pytest.approx(0.12 + 0.015)
    comparison = read_comparison([tmp_path], by)
    cells = cost_table(comparison, by).rows[0].cells
    rows = csv.DictReader(io.StringIO(to_csv(comparison, tmp_path)))
    for row in rows:
        cost = entries[float(row["target"])]
        assert cells[cost["target"]].costs == (cost[name],)
        assert float(row[name]) == cost[name]
        # every number that is in both has one meaning
        assert {float(row[key]) for key in row.keys() & Spent._fields} == {
            float(cost[key]) for key in row.keys() & Spent._fields
        }


def test_what_a_whole_run_spent_is_read_from_its_last_event(tmp_path):
    folder = fake_run(tmp_path, wh_per_epoch=2.0, choosing_epochs=0.5)
    spent = spent_at(events_of(folder)[-1])
    # three epochs of ten seconds; half a second of data, 4 s of compiling and 3 s of
    # evaluation apart, a quarter of anything else
    assert spent.seconds_warm == pytest.approx(30.0)
    assert spent.seconds == pytest.approx(34.5)
    assert spent.wh_warm == pytest.approx(6.0)
    assert spent.wh == pytest.approx(6.9)
    assert spent.wh_incl_eval == pytest.approx(7.5)
    assert spent.wh_total == pytest.approx(7.55)
    assert (spent.epochs, spent.visits) == (3.0, 2500)
