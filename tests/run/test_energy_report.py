"""The energy report of a run, by hand; whole runs are in test_energy_of_runs."""

import pytest

from dpet_jax.errors import UserError
from dpet_jax.run import energy_report


def wh(**phases):
    blank = dict.fromkeys(("compile", "data", "select", "train", "eval", "other"), 0.0)
    return blank | {"checkpoint": 0.0, "idle": 0.0} | phases


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
    # a run that was killed right after a resume; what was lost is not what was done
    lost = {"event": "lost", "visits": 30, "scored_examples": 0}
    found = energy_report.proxies([*asked, counted, lost], begun, phases)
    assert (found["select_flops"], found["selection_visits"]) == (2 * 10**15, 1020)
    assert (found["visits"], found["updates"], found["device_seconds"]) == (90, 10, 9.0)
    assert energy_report.proxies([], begun, phases)["select_flops"] == 0


NO_LIMITS = {"epochs": None, "visits": None, "seconds": None, "wh": None}


def test_overshoot_is_what_was_spent_beyond_the_budget_without_evaluation():
    data = report(wh(train=2.5, eval=9.0, checkpoint=0.25))
    found = energy_report.budget(NO_LIMITS | {"wh": 2.0}, data, "budget.wh")
    assert found["spent_wh"] == pytest.approx(2.75)
    assert found["overshoot_wh"] == pytest.approx(0.75)
    assert found["stopped_by"] == "budget.wh"
    kept = energy_report.budget(NO_LIMITS | {"wh": 3.0}, data, "finished")
    assert kept["overshoot_wh"] == 0
    assert energy_report.budget(NO_LIMITS, data, "finished")["overshoot_wh"] is None


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
    found = energy_report.carbon(given, energy)
    assert found["facility_wh"] == pytest.approx(600)
    assert found["g_co2e"] == pytest.approx(180)
    assert found["sci_g_per_run"] == pytest.approx(200)
    assert energy_report.carbon(None, energy) is None
    nothing = energy | {"quality": "unavailable", "measured_wh": None}
    assert energy_report.carbon(given, nothing)["g_co2e"] is None
    plain = energy_report.carbon(given | {"embodied_g": None}, energy)
    assert plain["sci_g_per_run"] is None


@pytest.mark.parametrize(
    ("step_s", "locked"),
    [
        *[(period, True) for period in (0.1, 0.05, 0.02, 0.3, 0.104)],
        *[(period, False) for period in (0.13, 0.07, 0.037)],
    ],
)
def test_a_step_locked_to_the_sensor_is_told_as_a_risk(step_s, locked):
    assert energy_report._locked(step_s / 0.1) is locked


def test_a_folder_without_a_run_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        energy_report.run_report(tmp_path)
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match="before it began to measure"):
        energy_report.run_report(tmp_path)
