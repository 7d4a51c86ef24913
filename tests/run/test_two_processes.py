"""Two processes share a run over gloo: the same run as alone, killed and resumed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes import dpet_on_a_host

from dpet_jax.config.load import load
from dpet_jax.files import read_json
from dpet_jax.run import experiment
from dpet_jax.run.folder import read_events
from dpet_jax.run.interrupt import EXIT_RESUMABLE

PROGRAM = Path(dpet_on_a_host.__file__)
WATTS = (50, 70)
TINY = """
name: tiny
evaluate: {batch_size: 64}
model: {kind: resnet, stem: 8, channels: [8, 8], blocks: [1, 1]}
train:
  batch_size: 32
  augment: {translate: 1}
  # at a high rate rounding grows to other choices, as docs/scaling.md tells
  optimizer: {kind: sgd, learning_rate: 0.001}
method:
  {kind: dpet, warmup_passes: 1, query_size: 50, passes_per_round: 1, max_rounds: 2}
"""

SLOW = """
checkpoint: {every_s: 0.1}
train:
  batch_size: 32
  augment: {translate: 1}
  optimizer: {kind: sgd, learning_rate: 0.001}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def start(config, out, *options, watts=WATTS, processes=2):
    """Start the processes of a run, each on a machine of its own."""
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    environment = os.environ | {
        "DPET_ROWS_READ": str(config.parent),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "PYTHONPATH": os.pathsep.join(
            [str(PROGRAM.parents[1]), str(PROGRAM.parents[2]), *sys.path]
        ),
    }
    shared = ["run", str(config), f"--out={out}", *options]
    program = [sys.executable, str(PROGRAM)]
    meeting = [f"--coordinator={address}", f"--processes={processes}"]
    return [
        subprocess.Popen(
            [*program, f"host{n}", str(watts[n]), *shared, *meeting, f"--process={n}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for n in range(processes)
    ]


def ended(processes):
    """Wait for the processes; return the exit code and what each has printed."""
    texts = [process.communicate(timeout=300) for process in processes]
    codes = [process.returncode for process in processes]
    # gloo says on stdout what it is connected with
    clean = [(re.sub(r"\[Gloo\].*\n", "", out), err) for out, err in texts]
    return codes, clean


def plans(folder):
    return [
        {key: event[key] for key in ("label", "size", "passes")}
        for event in read_events(folder / "events.jsonl")
        if event["event"] == "plan"
    ]


def assert_same(one, other):
    """Compare two runs: the same examples, and losses to 1e-5.

    Where two classes are as good as equal, one or the other is predicted.
    """
    assert plans(one) == plans(other)
    # two whose scores are as good as equal may enter in another order
    entered = [
        set(zip(found["source_rows"], found["round"], strict=True))
        for found in (np.load(folder / "coreset.npz") for folder in (one, other))
    ]
    assert entered[0] == entered[1]
    losses = [np.load(folder / "losses.npz") for folder in (one, other)]
    for key in ("source_rows", "looks"):
        np.testing.assert_array_equal(losses[0][key], losses[1][key])
    for key in ("correct", "forgetting"):
        assert np.mean(losses[0][key] != losses[1][key]) < 0.005
    np.testing.assert_allclose(losses[0]["loss"], losses[1]["loss"], atol=1e-5)


def test_two_processes_make_the_run_of_one_and_write_it_once(tiny, tmp_path):
    alone = experiment.run(load(tiny, []), tmp_path / "alone")
    # their pixels on the host, too many for a buffer but those of the coreset
    budget = "--data.device_budget_mib=0.04"
    codes, texts = ended(start(tiny, tmp_path / "two", budget))
    assert codes == [0, 0], texts
    (shown, _), (quiet, _) = texts
    assert "test accuracy" in shown
    assert quiet == ""
    folder = tmp_path / "two" / "tiny" / "seed0"
    assert_same(alone.folder, folder)
    begun = read_events(folder / "events.jsonl")[0]
    assert begun["event"] == "start"
    assert begun["device"]["count"] == 2
    names = {path.name for path in folder.iterdir()}
    assert names - {path.name for path in alone.folder.iterdir()} == {"hosts.json"}

    data = read_json(folder / "energy_report.json")
    hosts = {row["host"]: row for row in data["hosts"]}
    assert [hosts[f"host{n}"]["processes"] for n in range(2)] == [[0], [1]]
    each = [hosts[f"host{n}"]["wh"] for n in range(2)]
    assert data["energy"]["measured_wh"] == pytest.approx(sum(each))
    for n in range(2):
        assert hosts[f"host{n}"]["quality"] == "measured"
        assert hosts[f"host{n}"]["components"] == {"node": pytest.approx(each[n])}
    ids = [source["id"] for source in data["energy"]["by_source"]]
    assert ids == ["node:strip", "host1/node:strip"]
    summary = read_json(folder / "summary.json")
    # of all images that are trained on, scored and evaluated, each reads its half
    rows = [int((tmp_path / f"host{n}").read_text()) for n in range(2)]
    evaluated = 3 * 162 + 180
    most = summary["executed_visits"] + summary["scored_examples"] + evaluated
    assert 0.9 * most < sum(rows) < 1.1 * most
    assert max(rows) < 0.55 * sum(rows)
    assert summary["energy"]["wh"] == pytest.approx(sum(each))
    assert summary["hosts"] == data["hosts"]


@pytest.mark.slow
def test_pixels_on_the_host_give_the_bits_of_the_device_in_two_processes(
    tiny, tmp_path, assert_same_run
):
    for name, options in (("device", ()), ("host", ("--data.device_budget_mib=0.04",))):
        codes, texts = ended(start(tiny, tmp_path / name, *options))
        assert codes == [0, 0], texts
    assert_same_run(
        *(tmp_path / each / "tiny" / "seed0" for each in ("device", "host"))
    )


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_alone_goes_on(tmp_path):
    config = tmp_path / "tiny.yaml"
    # long enough to be cut short, at a rate at which rounding stays rounding
    longer = TINY.replace("warmup_passes: 2,", "warmup_passes: 40,")
    lines = [one for one in longer.splitlines() if not one.startswith("train:")]
    config.write_text("\n".join(lines) + SLOW)
    alone = experiment.run(load(config, []), tmp_path / "alone").folder
    for victim in (1, 0):
        out = tmp_path / f"killed{victim}"
        processes = start(config, out)
        wait_for_checkpoint(processes, out / "tiny" / "seed0" / "events.jsonl")
        processes[victim].send_signal(signal.SIGKILL)
        codes, texts = ended(processes)
        assert codes[1 - victim] == EXIT_RESUMABLE, texts
        message = texts[1 - victim][1]
        assert f"process {victim} of 2 (host{victim}) is gone; go on with: " in message
        assert message.count("\n") == 1
        done = experiment.run(load(config, []), out, resume=True)
        assert "device.count was 2, is now 1" in done.summary["warnings"][0]
        assert_same(alone, done.folder)
    folder = tmp_path / "asked" / "tiny" / "seed0"
    processes = start(config, tmp_path / "asked")
    wait_for_checkpoint(processes, folder / "events.jsonl")
    processes[1].send_signal(signal.SIGTERM)
    codes, texts = ended(processes)
    assert codes == [EXIT_RESUMABLE] * 2, texts
    codes, texts = ended(start(config, tmp_path / "asked", "--resume"))
    assert codes == [0, 0], texts
    hosts = read_json(folder / "energy_report.json")["hosts"]
    assert [row["host"] for row in hosts] == ["host0", "host1"]
    stopped = [
        e
        for e in read_events(folder / "events.jsonl", superseded=True)
        if e["event"] == "stop"
    ]
    assert [event["reason"] for event in stopped] == ["interrupted", "finished"]
    assert_same(alone, folder)


def wait_for_checkpoint(processes, path):
    """Wait until a run has saved; its processes must live that long."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if path.exists():
            lines = path.read_text().splitlines()
            if any('"event": "checkpoint"' in line for line in lines):
                return
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)
    raise AssertionError(f"{path}: no checkpoint")


REFUSALS = {
    "data": (["--data.validation_fraction=0.2"], "has another config: data.valid"),
    "folder": (["--out=/elsewhere"], "is not the folder that process 0 of 2 (host0)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSALS)
def test_processes_that_do_not_fit_are_refused_before_training(case, tiny, tmp_path):
    options, wanted = REFUSALS[case]
    options = [one.replace("/elsewhere", str(tmp_path / "b")) for one in options]
    first, other = start(tiny, tmp_path / "a")
    other.kill()
    other.communicate()
    arguments = [one for one in other.args if not one.startswith("--out")]
    out = [] if case == "folder" else [f"--out={tmp_path / 'a'}"]
    again = subprocess.Popen(
        [*arguments, *out, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    codes, texts = ended([first, again])
    assert codes == [2, 2], texts
    for _, message in texts:
        assert wanted in message
        assert "Traceback" not in message
    assert not (tmp_path / "a" / "tiny" / "seed0" / "config.yaml").exists()
