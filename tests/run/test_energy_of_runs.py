"""Whole runs with a meter: two pretended cards, a model, nothing; kills and budgets."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from fakes import dpet_with_fake_gpus
from fakes.clock import FakeClock
from fakes.cpu import BusyCpu

from dpet_jax.cli import main
from dpet_jax.config.load import validate
from dpet_jax.energy import CallableProbe, Found
from dpet_jax.energy.accounts import journal
from dpet_jax.errors import UserError
from dpet_jax.files import read_json
from dpet_jax.run import experiment
from dpet_jax.run.energy_report import run_report
from dpet_jax.run.folder import read_events
from dpet_jax.training.learner import DeviceLearner
from dpet_jax.training.network import DeviceNetwork

PROGRAM = Path(dpet_with_fake_gpus.__file__)
TOTAL_W = sum(dpet_with_fake_gpus.WATTS)
TINY = {
    "name": "tiny",
    "model": {"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]},
    "train": {"batch_size": 32, "augment": {"translate": 1}},
    "method": {
        "kind": "dpet",
        "warmup_passes": 20,
        "query_size": 50,
        "passes_per_round": 5,
        "max_rounds": 2,
    },
    "evaluate": {"every": 1},
    "targets": [0.2, 0.9999],
}


def config(**changes):
    return validate(TINY | {"energy": {"include": "visible"}} | changes, "test")


STEP_S, EVALUATION_S = 0.01, 0.5


@pytest.fixture
def clock(monkeypatch):
    """Time that only steps and evaluations take, alike on every machine."""
    clock = FakeClock()
    monkeypatch.setattr("dpet_jax.energy.meter.Clock", lambda: clock)
    fake_time = SimpleNamespace(monotonic=clock)
    for module in ("run.loop", "run.selection_cost", "training.chunks"):
        monkeypatch.setattr(f"dpet_jax.{module}.time", fake_time)
    train, wait = DeviceNetwork.train, DeviceNetwork.wait
    evaluate = DeviceLearner.evaluate

    def start(self, rows, num_steps, *place):
        return num_steps, train(self, rows, num_steps, *place)

    def wait_for(_, started):
        num_steps, handle = started
        clock.wait(num_steps * STEP_S)
        return wait(handle)

    def evaluate_for(self, split):
        clock.wait(EVALUATION_S)
        return evaluate(self, split)

    monkeypatch.setattr(DeviceNetwork, "train", start)
    monkeypatch.setattr(DeviceNetwork, "wait", wait_for)
    monkeypatch.setattr(DeviceLearner, "evaluate", evaluate_for)
    return clock


@pytest.fixture
def cards(monkeypatch, clock):
    return dpet_with_fake_gpus.install(monkeypatch, clock)


@pytest.fixture
def nothing(monkeypatch, clock):
    """No sensor, whatever the machine has."""
    del clock  # but its time
    monkeypatch.setattr(
        "dpet_jax.energy.probes.nvml.probe.find", lambda *_: Found((), ())
    )
    monkeypatch.setattr("dpet_jax.energy.probes.rapl.find", lambda: Found((), ()))


def test_two_cards_give_a_report_whose_phases_add_up_to_the_total(cards, tmp_path):
    result = experiment.run(config(), tmp_path)
    data = read_json(result.folder / "energy_report.json")
    assert (data["complete"], data["valid"]) == (True, True)
    assert data["boundary"]["included"] == ["gpu"]
    energy, phases = data["energy"], data["phases"]
    assert energy["quality"] == "measured"
    total = sum(phase["wh"] for phase in phases.values())
    assert total == pytest.approx(energy["measured_wh"], rel=1e-9)
    by_source = [source["wh"] for source in energy["by_source"]]
    assert sum(by_source) == pytest.approx(total, rel=1e-9)
    # constant power: every Wh is power times seconds, but for the counter's 0.1 s
    wall_s = data["time"]["wall_s"]
    assert abs(total - TOTAL_W * wall_s / 3600) <= 0.11 * TOTAL_W / 3600
    # the last window of all evaluates two splits
    evaluations = phases["eval"]["count"] + 1
    assert phases["eval"]["s"] == pytest.approx(EVALUATION_S * evaluations)
    steps = result.summary["executed_visits"] / 32
    assert phases["train"]["s"] == pytest.approx(STEP_S * steps)
    low, high = energy["measured_wh_k2"]
    assert low < TOTAL_W * data["time"]["wall_s"] / 3600 < high
    assert sum(phase["s"] for phase in phases.values()) == pytest.approx(
        result.summary["wall_s"]
    )
    assert phases["train"]["wh"] > 0
    for phase in phases.values():
        assert phase["quality"] == "measured"
        assert phase["resolution_limited"] or phase["s"] == 0 or phase["s"] >= 1
    assert set(data["labels"]) == {"warm-up", "round 1", "round 2"}
    assert data["compile_s_outside_window"] <= 0.1
    assert data["run_id"] == "tiny/seed0"
    assert len(data["system"]["gpus"]) == 2
    assert cards.inits == cards.shutdowns


@pytest.mark.usefixtures("cards")
def test_summary_and_events_carry_the_same_wh_as_the_report(tmp_path):
    result = experiment.run(config(), tmp_path)
    data = read_json(result.folder / "energy_report.json")
    summary = result.summary
    assert summary["energy"]["wh"] == data["energy"]["measured_wh"]
    assert summary["energy"]["quality"] == "measured"
    for name, phase in summary["phases"].items():
        assert phase["wh"] == data["phases"][name]["wh"]
        assert phase["quality"] == "measured"
    events = read_events(result.folder / "events.jsonl")
    stop = next(event for event in events if event["event"] == "stop")
    assert stop["wh"]["train"] == pytest.approx(data["phases"]["train"]["wh"])
    reached, missed = summary["targets"]
    assert reached["bracket_wh"][0] <= reached["wh"] == reached["bracket_wh"][1]
    assert 0 < reached["wh_warm"] <= reached["wh"] <= reached["wh_incl_eval"]
    assert (missed["reached"], missed["wh"]) == (False, None)
    unreached = data["energy_to_accuracy"][1]
    assert unreached["best_accuracy"] > 0.2
    assert unreached["stopped_by"] == "finished"


@pytest.mark.usefixtures("cards")
def test_proxies_hold_what_the_run_counted_and_what_xla_counts(tmp_path):
    result = experiment.run(config(), tmp_path)
    proxies = read_json(result.folder / "energy_report.json")["proxies"]
    summary = result.summary
    for key in ("visits", "executed_visits", "scored_examples", "flops", "epochs"):
        assert proxies[key] == summary[key]
    assert proxies["updates"] == summary["executed_visits"] / 32
    check = proxies["flops_check"]
    assert check["xla_step"] > 0
    assert check["rel_diff"] == check["analytic_step"] / check["xla_step"] - 1
    assert proxies["bytes_loaded"] > 1797 * 64
    # here nothing takes time but steps, a first one of which is apart, and evaluations
    seconds = summary["wall_s"] - summary["phases"]["compile"]["s"]
    assert summary["phases"]["compile"]["s"] == pytest.approx(STEP_S)
    seconds *= jax.local_device_count()
    assert proxies["device_seconds"] == pytest.approx(seconds)


@pytest.mark.usefixtures("cards")
def test_a_budget_of_wh_stops_the_run_within_one_chunk(tmp_path):
    long = TINY["method"] | {"warmup_passes": 5000}
    limit = 10 * TOTAL_W / 3600  # ten seconds, of which evaluations are none
    result = experiment.run(config(method=long, budget={"wh": limit}), tmp_path)
    assert result.stopped_by == "budget.wh"
    budget = result.summary["budget"]
    assert budget["stopped_by"] == "budget.wh"
    # a chunk lasts a second, and what is left is a fraction of one
    assert abs(budget["spent_wh"] - limit) <= 1 * TOTAL_W / 3600
    assert budget["overshoot_wh"] == max(0, budget["spent_wh"] - limit)
    assert result.summary["phases"]["eval"]["wh"] > 0
    assert result.summary["targets"][0]["reached"]


@pytest.mark.usefixtures("nothing")
def test_a_budget_without_a_source_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"budget\.wh: 5 .* budget\.epochs"):
        experiment.run(config(budget={"wh": 5}), tmp_path)
    assert list(tmp_path.iterdir()) == []


MODEL = {
    "allow_modelled": True,
    "cpu_model": {"idle_w": 10, "max_w": 60, "source": "invented for this test"},
}


@pytest.mark.usefixtures("nothing")
def test_a_model_that_was_opted_in_is_labelled_and_can_hold_a_budget(
    tmp_path, clock, monkeypatch
):
    model = BusyCpu(tmp_path, clock).model
    monkeypatch.setattr("dpet_jax.run.build.CpuPowerModel", model)
    long = TINY["method"] | {"warmup_passes": 5000}
    changes = {"energy": MODEL, "method": long, "budget": {"wh": 0.05}}
    result = experiment.run(config(**changes), tmp_path)
    assert result.stopped_by == "budget.wh"
    data = read_json(result.folder / "energy_report.json")
    energy = data["energy"]
    assert (energy["quality"], energy["measured_wh"]) == ("modelled", None)
    # idle 10 W and half of 50; the process' tenth of 50 alone; all of 60
    watts = [energy["modelled_wh"], *energy["modelled_interval_wh"]]
    expected = [w * data["time"]["wall_s"] / 3600 for w in (35, 5, 60)]
    assert watts == pytest.approx(expected, rel=0.01)
    assert result.summary["budget"]["spent_wh"] == pytest.approx(0.05, rel=0.2)
    assert (data["valid"], data["reason_codes"]) == (False, ["modelled"])
    assert "MODELLED" in result.summary["energy"]["headline"]


@pytest.mark.usefixtures("clock")
def test_without_a_source_there_is_no_wh_but_a_reason_and_proxies(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("dpet_jax.energy.probes.rapl.ROOT", tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    result = experiment.run(config(), tmp_path)
    data = read_json(result.folder / "energy_report.json")
    assert (data["energy"]["quality"], data["reason_codes"]) == (
        "unavailable",
        ["unavailable"],
    )
    reasons = {entry["component"]: entry for entry in data["energy"]["unavailable"]}
    assert reasons["gpu"]["reason"]
    assert reasons["gpu"]["remedy"]
    assert numbers_of_wh(data) == []
    assert data["proxies"]["visits"] > 0


def numbers_of_wh(tree, path=""):
    """List where numbers of Wh stand."""
    if isinstance(tree, dict):
        found = [numbers_of_wh(value, f"{path}.{key}") for key, value in tree.items()]
    elif isinstance(tree, list):
        found = [numbers_of_wh(value, path) for value in tree]
    else:
        is_number = isinstance(tree, float | int) and not isinstance(tree, bool)
        return [path] if is_number and "wh" in path.rpartition(".")[2] else []
    return [entry for part in found for entry in part]


@pytest.mark.usefixtures("nothing")
def test_a_meter_of_the_users_own_is_measured_like_any_other(tmp_path):
    strip = CallableProbe(
        lambda: 250.0, name="strip", kind="power", unit="W", rel_uncertainty=0.02
    )
    result = experiment.run(config(), tmp_path, meters=[strip])
    energy = result.summary["energy"]
    assert energy["included"] == ["node"]
    assert energy["wh"] == pytest.approx(250 * result.summary["wall_s"] / 3600)


@pytest.mark.usefixtures("cards")
def test_the_idle_baseline_is_measured_in_a_window_of_its_own(tmp_path):
    changes = {"energy": {"include": "visible", "idle_s": 3.2}}
    result = experiment.run(config(**changes), tmp_path)
    data = read_json(result.folder / "energy_report.json")
    assert data["energy"]["idle"]["method"] == "measured"
    assert data["phases"]["idle"]["s"] == pytest.approx(3.2)
    watts = sum(data["energy"]["idle"]["watts"].values())
    assert watts == pytest.approx(TOTAL_W, rel=0.1)
    net = data["energy"]["net_of_idle_wh"]
    assert abs(net) < 0.1 * data["energy"]["measured_wh"]


def program(*arguments):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            # the fakes, and the package that is tested here
            "PYTHONPATH": os.pathsep.join(map(str, PROGRAM.parents[1:3])),
        },
    )


def kill_with_something_to_lose(process, folder):
    """Kill a run that has measured something since its last checkpoint.

    It is stopped to be looked at, for on a busy machine it might save meanwhile.
    """
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), process.communicate()
        saved = _text(folder / "events.jsonl").count('"event": "checkpoint"')
        _, _, since = _text(folder / "energy.jsonl").rpartition('"phase": "checkpoint"')
        begun = [d.name for d in folder.glob("checkpoints/*") if d.name.isdigit()]
        saving = max(map(int, begun), default=-1) >= saved
        # what the first sample measured may have been spent before the checkpoint
        if saved and not saving and since.count('"event": "sample"') > 1:
            process.kill()
            process.communicate()
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    pytest.fail("nothing was measured after a checkpoint")


@pytest.mark.slow
def test_a_killed_run_has_a_report_and_its_loss_is_counted_when_resumed(
    tmp_path, capsys
):
    path = tmp_path / "tiny.yaml"
    method = TINY["method"] | {"warmup_passes": 400}
    tree = TINY | {
        "method": method,
        "energy": {"include": "visible"},
        "checkpoint": {"every_s": 2.5},
    }
    path.write_text(json.dumps(tree))
    folder = tmp_path / "runs" / "tiny" / "seed0"
    process = program("run", path, f"--out={tmp_path / 'runs'}")
    kill_with_something_to_lose(process, folder)

    killed = run_report(folder)
    assert killed.data["complete"] is False
    assert killed.data["energy"]["measured_wh"] > 0
    assert main(["energy", str(folder), f"--csv={tmp_path / 'runs.csv'}"]) == 0
    told = capsys.readouterr().out
    assert "measured (gpu)" in told
    assert "incomplete: the run was stopped, killed, or still goes on" in told

    process = program("run", path, f"--out={tmp_path / 'runs'}", "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    data = read_json(folder / "energy_report.json")
    assert (data["complete"], data["time"]["segments"]) == (True, 2)
    lost = data["energy"]["lost"]
    assert lost["wh"] > 0
    assert lost["s"] > 0
    segments = journal.read(folder / "energy.jsonl").segments
    assert len(segments) == 2
    spent_wh = sum(total_wh(last) - total_wh(first) for first, last in segments)
    assert data["energy"]["measured_wh"] + lost["wh"] == pytest.approx(
        spent_wh, rel=1e-9
    )
    spent_s = sum(last.total_s - first.total_s for first, last in segments)
    assert data["time"]["wall_s"] + lost["s"] == pytest.approx(spent_s, rel=1e-9)
    summary = read_json(folder / "summary.json")
    assert summary["lost"]["wh"] == pytest.approx(lost["wh"])

    assert main(["energy", str(folder), f"--csv={tmp_path / 'runs.csv'}"]) == 0
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    # what the run counted and ran on has reached the columns made for it
    told = {key: rows[-1][key] for key in ("visits", "scored_examples", "flops")}
    assert told == {key: str(data["proxies"][key]) for key in told}
    assert float(rows[-1]["updates"]) == data["proxies"]["updates"]
    assert rows[-1]["jax"] == jax.__version__
    highest = data["energy_to_accuracy"][-1]
    epochs = highest["epochs"]
    assert rows[-1]["target_epochs"] == ("" if epochs is None else str(epochs))
    assert "incomplete" not in capsys.readouterr().out
    boamps = tmp_path / "boamps.json"
    assert main(["energy", str(folder), f"--boamps={boamps}"]) == 0
    document = json.loads(boamps.read_text())
    assert document["system"]["os"]
    assert document["software"]["version"]
    kwh = document["measures"][0]["powerConsumption"]
    assert kwh == pytest.approx(data["energy"]["measured_wh"] / 1000)


def _text(path):
    return path.read_text() if path.exists() else ""


def total_wh(accounts):
    return sum((accounts.wh() or {}).values())
