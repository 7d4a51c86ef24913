"""A report of a run with one measured GPU, in the form that the meter writes."""

import copy

REPORT = {
    "schema": "dpet-jax/energy-report/1",
    "run_id": "run-7",
    "complete": True,
    "valid": True,
    "reason_codes": [],
    "time": {
        "start_utc": "2026-03-01T10:00:00Z",
        "end_utc": "2026-03-01T10:02:30Z",
        "wall_s": 150.0,
        "suspended_s": 0.0,
        "segments": 1,
    },
    "boundary": {
        "included": ["gpu"],
        "excluded": ["cpu", "dram"],
        "include_reserved": False,
        "exclusive": "yes",
    },
    "energy": {
        "measured_wh": 12.0,
        "measured_wh_k2": [11.4, 12.6],
        "quality": "measured",
        "modelled_wh": None,
        "modelled_interval_wh": None,
        "net_of_idle_wh": 7.5,
        "idle": {
            "method": "measured",
            "watts": {"gpu:GPU-4e1f": 72.0},
            "seconds": 10.0,
            "state": "jax_context",
        },
        "by_source": [
            {
                "id": "gpu:GPU-4e1f",
                "component": "gpu",
                "scope": "gpu",
                "kind": "counter",
                "method": "nvmlDeviceGetTotalEnergyConsumption",
                "quality": "measured",
                "wh": 12.0,
            }
        ],
        "unavailable": [
            {"component": "cpu", "reason": "powercap: denied", "remedy": "as root"}
        ],
    },
    "phases": {
        "train": {"wh": 9.0, "s": 110.0, "count": 40},
        "select": {"wh": 2.0, "s": 30.0, "count": 4},
        "eval": {},
        "other": None,
    },
    "energy_to_accuracy": [
        {"target": 0.8, "reached": True, "wh": 5.0, "wh_incl_eval": 5.5, "epochs": 9},
        {
            "target": 0.9,
            "reached": True,
            "wh": 8.0,
            "wh_incl_eval": 8.5,
            "epochs": 31,
            "best_accuracy": 0.93,
        },
    ],
    "budget": {"wh": 20.0, "stopped_by": "target"},
    "proxies": {"visits": 620000, "flops": 10**15, "updates": 4000},
    "carbon": {"g_co2e": None, "pue": 1.25, "facility_wh": 15.0},
    "system": {
        "gpus": [{"name": "NVIDIA H200", "uuid": "GPU-4e1f", "driver": "570.1"}],
        "cpu": "Xeon",
        "os": "Linux",
        "jax": "0.10.2",
    },
    "meter": {"version": "0.1.0", "period_s": 0.1},
}


def energy_report(**energy):
    """Return a copy of the report; keywords replace parts of its "energy"."""
    report = copy.deepcopy(REPORT)
    report["energy"] |= energy
    return report


def a_source(component, quality="measured", **values):
    """Return a line of "by_source"."""
    return {
        "id": f"{component}:x",
        "component": component,
        "method": f"{component} meter",
        "quality": quality,
        "wh": 1.0,
        **values,
    }


def nothing_measured():
    """Return the report of a run without any source."""
    return energy_report(
        measured_wh=None,
        measured_wh_k2=None,
        quality="unavailable",
        net_of_idle_wh=None,
        idle={"method": "none", "watts": {}, "seconds": None},
        by_source=[],
    )
