"""What a run cost, from event lists by hand; whole runs are in test_energy_of_runs."""

import pytest

from dpet_jax.errors import UserError
from dpet_jax.run import energy_report as footprint


def wh(**phases):
    blank = dict.fromkeys(("compile", "data", "select", "train", "eval", "other"), 0.0)
    return blank | {"checkpoint": 0.0, "idle": 0.0} | phases


def look(accuracy, spent, visits=0):
    return {
        "event": "evaluate",
        "segment": 0,
        "accuracy": accuracy,
        "wh": spent,
        "visits": visits,
        "epochs": visits / 100,
        "time_s": float(visits),
    }


def compiling(cache_hits):
    return {"event": "compile", "segment": 0, "programs": 1, "cache_hits": cache_hits}


def reached(target):
    return {"event": "target", "segment": 0, "target": target, "test_accuracy": 0.55}


EVENTS = [
    compiling(0),
    look(0.3, wh(compile=1.0, train=1.0, eval=0.1, other=5.0), 100),
    look(0.6, wh(compile=1.0, train=2.0, select=0.5, eval=0.2, other=5.0), 200),
    reached(0.5),
    look(0.55, wh(compile=1.0, train=3.0, select=0.5, eval=0.3, other=5.0), 300),
]


def costs(events=EVENTS, targets=(0.5, 0.9), quality="measured"):
    return footprint.energy_to_accuracy(events, list(targets), "finished", quality)


def test_a_target_costs_what_was_spent_at_the_first_evaluation_that_reached_it():
    entry = costs()[0]
    assert entry["reached"] is True
    assert entry["wh"] == pytest.approx(3.5)
    assert entry["wh_warm"] == pytest.approx(2.5)
    assert entry["wh_cold"] == pytest.approx(3.5)
    assert entry["wh_eval"] == pytest.approx(0.2)
    assert entry["wh_incl_eval"] == pytest.approx(3.7)
    assert entry["spent_wh"] == pytest.approx(8.7)
    assert entry["bracket_wh"] == pytest.approx([2.0, 3.5])
    assert (entry["visits"], entry["accuracy"]) == (200, 0.6)
    assert entry["test_accuracy"] == 0.55


def test_a_target_reached_at_the_first_evaluation_has_a_bracket_from_nothing():
    events = [*EVENTS[:2], reached(0.2)]
    assert costs(events, (0.2,))[0]["bracket_wh"] == [0.0, 2.0]


def test_an_unreached_target_has_no_wh_but_says_how_far_it_came():
    entry = costs()[1]
    assert entry["reached"] is False
    assert [entry[key] for key in ("wh", "wh_warm", "wh_cold", "bracket_wh")] == (
        [None] * 4
    )
    assert (entry["best_accuracy"], entry["stopped_by"]) == (0.6, "finished")
    assert entry["spent_wh"] == pytest.approx(9.8)


def test_a_cold_cost_is_not_told_where_programs_came_from_a_cache():
    entry = costs([compiling(1), *EVENTS[1:]])[0]
    assert entry["compile_cached"] is True
    assert entry["wh_cold"] is None
    assert entry["wh"] == pytest.approx(3.5)


def test_a_resumed_run_was_cold_if_its_first_segment_was():
    later = compiling(1) | {"segment": 1}
    assert costs([*EVENTS, later])[0]["compile_cached"] is False


def test_without_a_source_targets_are_reached_at_no_wh_at_all():
    events = [e | {"wh": None} if "wh" in e else e for e in EVENTS]
    entry = costs(events, quality="unavailable")[0]
    assert entry["reached"] is True
    assert entry["quality"] == "unavailable"
    numbers = {key: value for key, value in entry.items() if "wh" in key}
    assert set(numbers.values()) == {None}


def report(spent, quality="measured"):
    phases = {name: {"wh": value, "s": 1.0} for name, value in spent.items()}
    return {"phases": phases, "energy": {"quality": quality}}


def test_cost_of_selection_adds_up_over_the_queries():
    asked = [
        {"event": "select", "select_flops": 10**15, "selection_visits": visits}
        for visits in (970, 50)
    ]
    begun = {
        "batch_size": 10,
        "flops_per_step": 60,
        "device": {"count": 2},
        "data_bytes": 7,
    }
    counted = {"event": "train", "visits": 90, "executed_visits": 100, "flops": 600}
    phases = {name: {"s": 1.5} for name in ("select", "train", "eval")}
    told = footprint.proxies([*asked, counted], begun, phases)
    assert (told["select_flops"], told["selection_visits"]) == (2 * 10**15, 1020)
    assert (told["visits"], told["updates"], told["device_seconds"]) == (90, 10, 9.0)
    assert footprint.proxies([], begun, phases)["select_flops"] == 0


NO_LIMITS = {"epochs": None, "visits": None, "seconds": None, "wh": None}


def test_overshoot_is_what_was_spent_beyond_the_budget_without_evaluation():
    data = report(wh(train=2.5, eval=9.0, checkpoint=0.25))
    told = footprint.budget(NO_LIMITS | {"wh": 2.0}, data, "budget.wh")
    assert told["spent_wh"] == pytest.approx(2.75)
    assert told["overshoot_wh"] == pytest.approx(0.75)
    assert told["stopped_by"] == "budget.wh"
    kept = footprint.budget(NO_LIMITS | {"wh": 3.0}, data, "finished")
    assert kept["overshoot_wh"] == 0
    assert footprint.budget(NO_LIMITS, data, "finished")["overshoot_wh"] is None


def test_carbon_needs_an_intensity_and_keeps_pue_apart_from_the_energy():
    energy = {"quality": "measured", "measured_wh": 500.0, "modelled_wh": None}
    given = {
        "intensity_g_per_kwh": 300.0,
        "intensity_source": "grid",
        "kind": "average",
        "pue": 1.2,
        "pue_source": "site",
        "embodied_g": 20.0,
    }
    told = footprint.carbon(given, energy)
    assert told["facility_wh"] == pytest.approx(600)
    assert told["g_co2e"] == pytest.approx(180)
    assert told["sci_g_per_run"] == pytest.approx(200)
    assert footprint.carbon(None, energy) is None
    nothing = energy | {"quality": "unavailable", "measured_wh": None}
    assert footprint.carbon(given, nothing)["g_co2e"] is None
    plain = footprint.carbon(given | {"embodied_g": None}, energy)
    assert plain["sci_g_per_run"] is None


@pytest.mark.parametrize(
    ("step_s", "locked"),
    [
        *[(period, True) for period in (0.1, 0.05, 0.02, 0.3, 0.104)],
        *[(period, False) for period in (0.13, 0.07, 0.037)],
    ],
)
def test_a_step_locked_to_the_sensor_is_told_as_a_risk(step_s, locked):
    assert footprint._locked(step_s / 0.1) is locked


def test_a_folder_without_a_run_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        footprint.run_report(tmp_path)
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match="before it began to measure"):
        footprint.run_report(tmp_path)
