"""The probe for GPU machines, run against a fake whose blind spot is known."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.nvml import GPU, MODULE, FakeGpu, FakeNVML

from dpet_jax.energy.probes.nvml.probe import find

FOLDER = Path(__file__).parent.parent / "benchmarks"
IDLE_W, BUSY_W = 100.0, 400.0


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("nvml_probe")


class FakeLoad:
    """A plan of when to compute, which the fake's power follows."""

    def __init__(self, clock):
        self.clock = clock
        self.spans = []  # start, end, period

    def start(self, period_s):
        self.spans.append([self.clock(), float("inf"), period_s])

    def stop(self):
        self.spans[-1][1] = self.clock()
        return {"duty": 0.5}

    def watts(self, time):
        for start, end, period_s in self.spans:
            if start <= time < end:
                on = period_s is None or (time - start) % period_s < period_s / 2
                return BUSY_W if on else IDLE_W
        return IDLE_W


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    def go(*arguments, **board):
        clock = FakeClock()
        load = FakeLoad(clock)
        gpu = FakeGpu(power=load.watts, **board)
        nvml = FakeNVML([gpu], clock=clock, latency_s=2e-5)
        nvml.install(monkeypatch)
        out = tmp_path / "result.json"
        rows = script.main(
            ["--seconds=3", "--poll=0.005", f"--out={out}", *arguments],
            clock=clock,
            wait=clock.wait,
            load=load,
        )
        assert not nvml.initialised
        return rows, json.loads(out.read_text())

    return go


def by_load(rows, kind="load"):
    return {row["load"]: row for row in rows if row["row"] == kind}


def test_blind_spot_of_the_instant_reading_shows_only_in_step_with_it(run):
    rows, saved = run()
    assert saved["rows"] == json.loads(json.dumps(rows))
    assert saved.keys() >= {"question", "command", "when", "device", "versions"}
    loads = by_load(rows)
    assert list(loads) == ["idle", "constant", "square 100 ms", "square 130 ms"]
    for load in ("idle", "constant"):
        for ratio in loads[load]["over_counter"].values():
            assert ratio == pytest.approx(1.0, abs=0.01)
    assert loads["constant"]["mean_w"]["counter"] == pytest.approx(BUSY_W, rel=1e-2)
    locked = loads["square 100 ms"]["over_counter"]
    assert abs(locked["instant gpu"] - 1) > 0.3
    assert locked["average gpu"] == pytest.approx(1.0, abs=0.02)
    assert locked["power_usage"] == pytest.approx(1.0, abs=0.02)
    control = loads["square 130 ms"]["over_counter"]
    assert control["instant gpu"] == pytest.approx(1.0, abs=0.05)


def test_blind_spot_of_a_sensor_nearly_in_step_shows_as_coming_and_going(run):
    rows, _ = run("--seconds=12", update_period_s=0.099)
    locked = by_load(rows)["square 100 ms"]
    assert locked["over_counter"]["instant gpu"] == pytest.approx(1.0, abs=0.15)
    instant, average = (
        locked["one_second_w"][name]["max"] - locked["one_second_w"][name]["min"]
        for name in ("instant gpu", "average gpu")
    )
    assert instant > 200
    assert average < 20
    counter = locked["one_second_w"]["counter"]
    assert counter["max"] - counter["min"] < 20


def test_update_periods_and_latencies_are_those_of_the_sensor(run):
    rows, _ = run()
    sources = [row for row in rows if row["row"] == "source"]
    for row in sources:
        assert row["call_us"]["median"] == pytest.approx(20, rel=1e-3)
        assert row["failures"] == 0
    updates = {(row["load"], row["source"]): row["update_ms"] for row in sources}
    assert updates["idle", "counter"]["median"] == pytest.approx(100, abs=6)
    assert updates["square 130 ms", "instant gpu"]["min"] == pytest.approx(100, abs=6)
    assert updates["constant", "instant gpu"] is None


def test_scopes_that_do_not_answer_are_listed_with_the_reason(run):
    rows, _ = run(scopes={GPU: 1.0, MODULE: 1.5})
    gpu = rows[0]
    assert gpu["refusals"] == {
        name: "Not Supported"
        for name in (
            *("average memory", "instant memory"),
            *("energy_191 gpu", "energy_191 module", "energy_191 memory"),
        )
    }
    idle = by_load(rows)["idle"]["mean_w"]
    assert idle["instant module"] == pytest.approx(1.5 * IDLE_W)
    assert gpu["driver"] == "580.65.06"
    assert gpu["chosen"][0].startswith("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION")


def test_failed_readings_are_counted_and_do_not_end_the_probe(run):
    failing = {"nvmlDeviceGetPowerUsage": (pynvml.NVML_ERROR_UNKNOWN, 102.5, 1e9)}
    rows, _ = run(errors=failing)
    usage = [row for row in rows if row.get("source") == "power_usage"]
    assert usage[0]["failures"] > 0
    assert usage[0]["readings"] > 0
    assert usage[-1]["readings"] == 0
    assert usage[-1]["call_us"] is None
    assert by_load(rows)["constant"]["mean_w"]["power_usage"] is None


def test_board_without_a_counter_is_probed_without_ratios(run):
    unsupported = {
        83: pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
    rows, _ = run(errors=unsupported)
    for row in by_load(rows).values():
        assert row["over_counter"] == {}
        assert row["mean_w"]["instant gpu"] > 0


def test_without_a_driver_there_is_one_line_and_exit_code_2(
    script, monkeypatch, capsys
):
    code = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    FakeNVML(errors={"nvmlInit": code}).install(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        script.main([])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "no NVIDIA driver" in printed.err


def test_jax_without_that_gpu_is_one_line_and_exit_code_2(script, monkeypatch, capsys):
    if any(device.platform == "gpu" for device in jax.local_devices()):
        pytest.skip("JAX has a GPU here")
    nvml = FakeNVML([FakeGpu()])
    nvml.install(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        script.main([])
    assert caught.value.code == 2
    assert "JAX has no GPU 0" in "".join(capsys.readouterr())
    assert not nvml.initialised


def test_error_of_a_sensor_is_relative_to_the_counter(run):
    rows, _ = run(gain=1.2)
    ratios = by_load(rows)["constant"]["over_counter"]
    assert ratios["average gpu"] == pytest.approx(1.2, rel=1e-2)
    assert ratios["counter field"] == pytest.approx(1.0, rel=1e-3)


class Stop:
    """An event that is set at a time of the clock, which waiting for it passes."""

    def __init__(self, clock, at):
        self.clock, self.at = clock, at

    def is_set(self):
        return self.clock() >= self.at

    def wait(self, seconds):
        self.clock.wait(seconds)


@pytest.mark.parametrize(("period_s", "duty"), [(0.1, 0.5), (0.13, 0.5), (None, 1.0)])
def test_load_computes_half_of_every_period_and_does_not_drift(period_s, duty, script):
    clock = FakeClock()
    begins = []

    def burst():
        if not begins or clock() - begins[-1][1] > 0.01:
            begins.append([clock(), clock()])
        clock.wait(0.003)
        begins[-1][1] = clock()
        return 0.003

    realised = script.work(burst, period_s, Stop(clock, 113.0), clock)
    assert realised["duty"] == pytest.approx(duty, abs=0.02)
    if period_s is None:
        assert realised["period_s"] is None
        return
    assert realised["period_s"] == pytest.approx(period_s)
    for k, (begin, _) in enumerate(begins):
        assert begin == pytest.approx(100 + k * period_s)


@pytest.mark.parametrize("period_s", [None, 0.01])
def test_real_load_runs_until_it_is_stopped(period_s, script):
    load = script.MatmulLoad(jax.devices("cpu")[0], size=8, burst_s=1e-5)
    load.start(period_s)
    realised = load.stop()
    assert 0 <= realised["duty"] <= 1.01


def test_script_runs_by_itself_on_a_machine_without_a_driver():
    found = find()
    for probe in found.probes:
        probe.close()
    if found.probes:
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, FOLDER / "nvml_probe.py", "--seconds=0"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
    )
    assert done.returncode == 2, done.stderr
    assert "nothing to probe" in done.stderr
    assert "Traceback" not in done.stderr
