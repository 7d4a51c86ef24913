"""What is not ours, measured: programs, functions, and what Prometheus scrapes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, counter, power
from fakes.work import is_waited_for, pending_work

import dpet_jax
from dpet_jax.energy import EnergyMeter, Found, Unavailable
from dpet_jax.energy.report.export import csv_row
from dpet_jax.errors import UserError
from dpet_jax.run import measure as measuring
from dpet_jax.run.measure import measure_command

NO_CPU = Unavailable("cpu", "powercap: permission denied", "as root, chgrp")


@pytest.fixture
def clock():
    return FakeClock()


def meter_of(clock, *probes, unavailable=(NO_CPU,)):
    return EnergyMeter(Found(probes, unavailable), clock=clock)


def gpu(clock):
    return FakeProbe(clock, power(100.0, rel_uncertainty=0.1))


@pytest.fixture
def lasting(clock, monkeypatch):
    """Let programs last 36 s on the clock, whatever they take."""

    class Program(subprocess.Popen):
        def wait(self, timeout=None):
            clock.wait(36.0)
            return super().wait(timeout)

    monkeypatch.setattr(measuring.subprocess, "Popen", Program)


# programs


@pytest.mark.usefixtures("lasting")
def test_a_program_costs_what_the_sensors_say_while_it_runs(clock):
    inside = FakeProbe(
        clock, power(40.0), id="dram:0", component="dram", scope="package"
    )
    meter = meter_of(clock, gpu(clock), inside)
    found = measure_command(["sh", "-c", "exit 7"], meter)
    assert found.exit_code == 7
    data = found.report.data
    assert data["phases"]["command"]["wh"] == pytest.approx(1.4)
    assert data["phases"]["command"]["s"] == pytest.approx(36.0)
    assert data["run_id"] == "sh -c 'exit 7'"
    assert data["complete"]
    row = csv_row(data)
    assert (row["gpu_wh"], row["gpu_wh_quality"]) == (pytest.approx(1.0), "measured")
    lines = found.lines()
    assert lines[0] == "seconds     36.00"
    assert lines[1].startswith("energy      1.4 Wh [")
    assert "            gpu:A: 1 Wh measured by power" in lines
    assert "            dram:0: 0.4 Wh measured by power" in lines
    reason = "without cpu: powercap: permission denied; as root, chgrp"
    assert f"            {reason}" in lines


@pytest.mark.usefixtures("lasting")
def test_without_a_source_there_are_seconds_and_the_reason_alone(clock):
    found = measure_command(["true"], meter_of(clock))
    assert found.lines() == [
        "seconds     36.00",
        "energy      not measurable here (cpu: powercap: permission denied)",
    ]


@pytest.mark.usefixtures("lasting")
def test_a_model_has_its_interval_and_no_line_of_its_own(clock):
    sources = [
        power(watts, quality="modelled", rel_uncertainty=0.0)
        for watts in (50.0, 20.0, 90.0)
    ]
    cpu = FakeProbe(clock, *sources, id="cpu:m", component="cpu", scope="package")
    found = measure_command(["true"], meter_of(clock, cpu, unavailable=()))
    assert found.lines()[1:] == [
        "energy      ≈ 0.5 Wh [0.2, 0.9] MODELLED (cpu); not valid: modelled"
    ]


def test_a_program_that_is_not_there_is_named_and_the_sensors_are_released(clock):
    probe = gpu(clock)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UserError, match=r"no-such: cannot be started \(No such file"):
        measure_command(["no-such"], meter_of(clock, probe))
    assert probe.closed == 1
    assert signal.getsignal(signal.SIGINT) is before


def dpet_measure(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "dpet_jax", "measure", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_program_has_the_pipes_and_its_exit_code_and_arguments(tmp_path):
    out = tmp_path / "energy.json"
    script = 'read line; echo "$line $*"; echo oops >&2; exit 9'
    arguments = ("--out", out, "--", "sh", "-c", script, "sh", "--", "--out=x")
    process = dpet_measure(*arguments)
    printed, errors = process.communicate("given\n")
    assert (process.returncode, printed) == (9, "given -- --out=x\n")
    assert errors.startswith("oops\nseconds     ")
    assert errors.endswith(f"\nreport      {out}\n")
    assert json.loads(out.read_text())["schema"] == "dpet-jax/energy-report/1"


@pytest.mark.parametrize(
    ("number", "script", "code"),
    [
        (
            signal.SIGTERM,
            "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done",
            5,
        ),
        (signal.SIGINT, "echo ready; exec sleep 600", 128 + signal.SIGINT),
    ],
)
def test_signals_reach_the_program_and_the_record_is_still_written(
    tmp_path, number, script, code
):
    out = tmp_path / "energy.json"
    # a session of its own has no terminal that would send the signal to both
    process = dpet_measure(f"--out={out}", "sh", "-c", script, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert json.loads(out.read_text())["complete"]


def test_ctrl_c_in_a_terminal_reaches_the_program_once(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""\
        import signal, time
        taken = []
        signal.signal(signal.SIGINT, lambda *_: taken.append(1))
        print("ready", flush=True)
        while not taken:
            time.sleep(0.01)
        time.sleep(0.3)
        print("interrupts:", len(taken), flush=True)
        """)
    )
    out = tmp_path / "energy.json"
    command = [sys.executable, "-m", "dpet_jax", "measure", f"--out={out}", "--"]
    command += [sys.executable, str(program)]
    terminal = subprocess.Popen(
        [sys.executable, "-c", f"import pty; pty.spawn({command})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal.stdout.fileno(), 1024)
    terminal.stdin.write(b"\x03")
    terminal.stdin.flush()
    shown += terminal.communicate()[0]
    assert b"interrupts: 1" in shown, shown
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a program to measure"),
        (["--"], "give a program to measure"),
        (["--out=/no/such/energy.json", "--", "true"], "/no/such is no folder"),
        (["--prometheus=x", "--", "true"], "is no [HOST:]PORT"),
        (["--prometheus=70000", "--", "true"], "70000 is no port"),
        (["--nonsense", "--", "true"], "unknown argument"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, message, capsys):
    from dpet_jax.cli import main

    assert main(["measure", *arguments]) == 2
    assert message in capsys.readouterr().err


# functions


def test_calls_of_a_function_have_their_own_seconds_and_energy(clock, tmp_path):
    out = tmp_path / "energy.json"

    @dpet_jax.measured(meter=meter_of(clock, gpu(clock)), out=out)
    def train(seconds, result=None):
        """Train."""
        clock.wait(seconds)
        return result

    assert train.last is None
    assert train(36.0, result="done") == "done"
    assert (train.last.s, train.last.energy.wh) == pytest.approx((36.0, 1.0))
    clock.wait(100.0)  # between two calls
    train(72.0)
    assert train.last.energy.wh == pytest.approx(2.0)
    assert (train.__name__, train.__doc__) == ("train", "Train.")
    for data in (train.report().data, json.loads(out.read_text())):
        assert data["phases"]["train"]["wh"] == pytest.approx(3.0)
        assert data["phases"]["train"]["count"] == 2
    train.stop()
    with pytest.raises(RuntimeError, match="does not run"):
        train(1.0)


def test_a_call_that_fails_is_measured_too(clock):
    @dpet_jax.measured(meter=meter_of(clock, gpu(clock)))
    def fail():
        clock.wait(36.0)
        raise KeyError("no")

    with pytest.raises(KeyError):
        fail()
    assert fail.last.energy.wh == pytest.approx(1.0)


def test_a_call_lasts_until_the_arrays_it_returns_are_there(clock):
    work = dpet_jax.measured(pending_work, meter=meter_of(clock))
    assert is_waited_for(work)
    assert work.last.waited == "explicit"
    nothing = dpet_jax.measured(lambda: {"loss": 0.5}, meter=meter_of(clock))
    nothing()
    assert nothing.last.waited == "barrier"


def test_a_block_is_measured_and_reported(clock, tmp_path):
    out, probe = tmp_path / "energy.json", gpu(clock)
    with dpet_jax.measured(meter=meter_of(clock, probe), out=out) as window:
        clock.wait(18.0)
    assert (window.s, window.energy.wh) == pytest.approx((18.0, 0.5))
    assert probe.closed == 1
    data = json.loads(out.read_text())
    assert data["phases"]["block"]["wh"] == pytest.approx(0.5)
    assert data["complete"]


# prometheus


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_prometheus_is_told_joules_by_source(clock):
    pytest.importorskip("prometheus_client", reason="the extra prometheus is missing")
    from dpet_jax.energy.report.prometheus import serving

    rising = FakeProbe(clock, counter(lambda t: 50 * t), id="cpu:0", component="cpu")
    with meter_of(clock, gpu(clock), rising) as meter, serving(meter, 0) as port:
        with pytest.raises(UserError, match=f"{port} cannot be served"):
            serving(meter, port).__enter__()
        first = scraped(port)
        clock.wait(10.0)
        second = scraped(port)
    gained = {name: float(second[name]) - float(first[name]) for name in first}
    name = (
        'dpet_energy_joules_total{{component="{0}",counted="true",method="{2}",'
        'quality="measured",source="{1}"}}'
    )
    assert gained == {
        name.format("gpu", "gpu:A", "power"): pytest.approx(1000.0),
        name.format("cpu", "cpu:0", "counter"): pytest.approx(500.0),
        "dpet_measured_seconds_total": pytest.approx(10.0),
    }


def test_a_missing_client_is_named(clock, monkeypatch):
    from dpet_jax.energy.report.prometheus import serving

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UserError, match=r"pip install 'dpet-jax\[prometheus\]'"):
        serving(meter_of(clock), 0).__enter__()


def test_prometheus_is_told_the_ends_of_a_model(clock):
    pytest.importorskip("prometheus_client", reason="the extra prometheus is missing")
    from dpet_jax.energy.report.prometheus import MeterCollector

    model = {"quality": "modelled", "rel_uncertainty": 0.0}
    cpu = FakeProbe(clock, *(power(watts, **model) for watts in (50.0, 20.0, 90.0)))
    with meter_of(clock, cpu, unavailable=()) as meter:
        clock.wait(10.0)
        found = {f.name: f.samples for f in MeterCollector(meter).collect()}
    ends = [found[f"dpet_modelled_{end}_joules"][0].value for end in ("low", "high")]
    assert ends == pytest.approx([200.0, 900.0], rel=0.02)
