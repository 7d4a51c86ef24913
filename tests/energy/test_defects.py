"""What other energy meters got wrong, each as a run of this one that would show it.

P1 to P16 are the defects found by reading Zeus, CodeCarbon, carbontracker,
experiment-impact-tracker (EIT), pyJoules and Eco2AI.
"""

import _posixsubprocess
import ast
import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.cpu import BusyCpu
from fakes.nvml import COUNTER, FakeGpu, FakeNVML, no_libcuda
from fakes.probe import FakeProbe, counter, power
from fakes.rapl import FakePowercap, server, two_dies
from fakes.work import is_waited_for, pending_work

import dpet_jax.energy
from dpet_jax.energy import (
    CpuPowerModel,
    EnergyMeter,
    Found,
    QualityError,
    discover,
)
from dpet_jax.energy.probes import rapl

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
JOULES_PER_WH = 3600


@pytest.fixture
def clock():
    return FakeClock()


def meter_of(*probes, clock, **options):
    return EnergyMeter(Found(probes, ()), clock=clock, **options)


def meter_found(found, clock):
    return EnergyMeter(found, clock=clock, period_s=0.2)


def joules(window):
    return window.energy.wh * JOULES_PER_WH


def joules_in(meter, clock, seconds=10.0):
    """Run a started or fresh meter for a window of so many seconds."""
    with meter, meter.window("train") as window:
        clock.wait(seconds)
    assert window.s == pytest.approx(seconds)
    return joules(window)


def gpus(monkeypatch, *boards, clock, visible=None):
    """Let the process find these GPUs, which have run for two seconds."""
    nvml = FakeNVML([FakeGpu(**board) for board in boards], clock=clock)
    clock.skip(2.0)
    nvml.install(monkeypatch, visible)
    return nvml


def powercap(monkeypatch, tree):
    """Let the process find these CPUs."""
    monkeypatch.setattr(rapl, "find", functools.partial(rapl.find, tree.root))
    return tree


def uses(*ordinals):
    """JAX's devices of these numbers."""
    return [SimpleNamespace(platform="gpu", local_hardware_id=n) for n in ordinals]


@pytest.fixture
def no_processes(monkeypatch):
    """Forbid every way to start a process."""

    def forbidden(*arguments, **options):
        raise AssertionError(f"a process was started: {arguments} {options}")

    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen"):
        monkeypatch.setattr(os, name, forbidden)
    monkeypatch.setattr(_posixsubprocess, "fork_exec", forbidden)
    monkeypatch.setattr(subprocess.Popen, "__init__", forbidden)
    monkeypatch.setattr(multiprocessing.Process, "start", forbidden)
    monkeypatch.setattr(multiprocessing, "set_start_method", forbidden)


# P1: Zeus stores samples only when the value changes, and clips windows to samples


def test_p1_constant_power_is_not_0_joules_because_no_sample_differs(clock):
    meter = meter_of(FakeProbe(clock, power(250.0)), clock=clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0, rel=1e-9)


def test_p1_step_is_not_half_lost(clock):
    step = FakeProbe(clock, power(lambda t: 100.0 if t < 5.013 else 300.0))
    used = joules_in(meter_of(step, clock=clock), clock)
    assert abs(used - (501.3 + 300 * 4.987)) <= 200 * 0.05 / 2 + 1e-6


def test_p1_window_between_samples_is_not_clipped_to_them(clock):
    with meter_of(FakeProbe(clock, power(250.0)), clock=clock) as meter:
        clock.skip(0.013)
        with meter.window("train") as window:
            clock.skip(0.031)
        clock.skip(0.007)
    assert joules(window) == pytest.approx(250 * 0.031, rel=1e-9)


# P2: Zeus waits for JAX only where there is a GPU


def test_p2_asynchronous_work_on_a_cpu_is_waited_for():
    with EnergyMeter(Found((), ())) as meter:

        def attempt():
            with meter.window("train"):
                return pending_work()  # which the window never sees

        assert is_waited_for(attempt)
        with meter.window("train") as window:
            result = window.sync(pending_work())
        assert result.is_ready()


# P3: Zeus uses the wall clock, a process per RAPL domain, and says nothing without root


def test_p3_wall_clock_that_jumps_changes_no_energy(clock, monkeypatch):
    days = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: 86400.0 * next(days))
    real = time.gmtime
    monkeypatch.setattr(time, "gmtime", lambda: real(86400.0 * next(days)))
    meter = meter_of(FakeProbe(clock, power(250.0)), clock=clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0)
    times = meter.report().data["time"]
    assert times["end_utc"] < times["start_utc"]
    assert times["wall_s"] == pytest.approx(10.0)


def test_p3_by_default_seconds_are_not_the_wall_clocks(monkeypatch):
    days = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 86400.0 * next(days))
    with EnergyMeter(Found((), ())) as meter, meter.window("train") as window:
        time.time()
    assert 0 < window.s < 86400


@pytest.mark.usefixtures("no_processes")
def test_p3_counters_that_wrap_need_no_process(tmp_path, clock, monkeypatch):
    tree = powercap(monkeypatch, server(tmp_path, clock))
    for domain in tree.domains.values():
        domain.watts = 100.0
    found = discover([])
    with meter_found(found, clock) as meter:
        assert meter.sensors.channels.keys() == {
            "cpu:package-0",
            "cpu:package-1",
            "dram:package-0",
            "dram:package-1",
        }
        with meter.window("train") as window:
            clock.wait(10.0)
    assert joules(window) == pytest.approx(4000.0, rel=1e-6)


def test_p3_lack_of_root_is_said_with_reason_and_remedy(tmp_path, clock, monkeypatch):
    powercap(monkeypatch, server(tmp_path, clock))
    real = os.open

    def open_as_user(path, *arguments, **options):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_as_user)
    with meter_found(discover([]), clock) as meter:
        clock.wait(1.0)
    report = meter.report()
    assert report.data["energy"]["measured_wh"] is None
    (cpu,) = (
        entry
        for entry in report.data["energy"]["unavailable"]
        if entry["component"] == "cpu"
    )
    assert "permission denied" in cpu["reason"]
    assert "chgrp" in cpu["remedy"]
    assert "permission denied" in str(report)


# P4: CodeCarbon takes a failed RAPL reading for 0, and the next one for a wrap


@pytest.mark.parametrize("text", ["", "\n", "not a number\n", "-1\n"])
def test_p4_failed_rapl_reading_is_neither_0_nor_a_wrap(text, tmp_path, clock):
    tree = FakePowercap(tmp_path, clock)
    domain = tree.add("intel-rapl:0", "package-0", energy_j=1000.0, watts=100.0)
    meter = meter_found(rapl.find(tree.root), clock)
    with meter, meter.window("train") as window:
        clock.wait(5.0)
        clock.skip(0.05)
        domain.write(text)
        meter.read()
        clock.wait(4.95)
    assert joules(window) == pytest.approx(1000.0)
    (source,) = meter.report().data["energy"]["by_source"]
    assert source["events"] == {"read_failed": 1}
    assert source["unmeasured_s"] == 0


def test_p4_failed_rapl_reading_at_an_edge_moves_no_energy_but_its_own(tmp_path, clock):
    tree = FakePowercap(tmp_path, clock)
    domain = tree.add("intel-rapl:0", "package-0", energy_j=1000.0, watts=100.0)
    with meter_found(rapl.find(tree.root), clock) as meter:
        clock.wait(10.0)
        clock.skip(0.05)
        domain.write("")
        with meter.window("train") as window:
            clock.wait(10.0)
    assert joules(window) == pytest.approx(1000.0, abs=100 * 0.05 + 1e-6)
    total = meter.report().data["energy"]["measured_wh"] * JOULES_PER_WH
    assert total == pytest.approx(2005.0)


# P5: CodeCarbon lists a GPU without a counter with 0 kWh


def test_p5_gpu_without_a_counter_is_measured_by_its_power(monkeypatch, clock):
    errors = {
        COUNTER: NOT_SUPPORTED,
        "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
    }
    gpus(monkeypatch, {"power": 250.0, "errors": errors}, clock=clock)
    meter = meter_found(discover(host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0)
    (source,) = meter.report().data["energy"]["by_source"]
    assert (source["kind"], source["quality"]) == ("power", "measured")


def test_p5_gpu_that_reports_nothing_is_unavailable_and_not_0(monkeypatch, clock):
    refused = (
        *(COUNTER, 185, 186, "nvmlDeviceGetPowerUsage"),
        "nvmlDeviceGetTotalEnergyConsumption",
    )
    errors = dict.fromkeys(refused, NOT_SUPPORTED)
    gpus(monkeypatch, {"errors": errors}, clock=clock)
    with meter_found(discover(host=False), clock) as meter:
        clock.wait(10.0)
    energy = meter.report().data["energy"]
    assert (energy["measured_wh"], energy["quality"]) == (None, "unavailable")
    assert energy["by_source"] == []
    (entry,) = energy["unavailable"]
    assert "reports neither energy nor power" in entry["reason"]


def test_p5_counter_that_stops_answering_does_not_count_0_from_then_on(
    monkeypatch, clock
):
    nvml = gpus(monkeypatch, {"power": 250.0, "update_period_s": 0.0}, clock=clock)
    meter = meter_found(discover(host=False), clock)
    with meter, meter.window("train") as window:
        clock.wait(5.0)
        nvml.devices[0].fail(COUNTER, NOT_SUPPORTED)
        clock.wait(5.0)
    assert joules(window) == pytest.approx(2500.0, rel=1e-3)
    (source,) = meter.report().data["energy"]["by_source"]
    assert (source["kind"], source["events"]["demoted"]) == ("power", 1)


def test_p5_counter_that_does_not_move_is_not_used_before_it_counts_0(
    monkeypatch, clock
):
    gpus(monkeypatch, {"power": 250.0, "counter_gain": 0.0}, clock=clock)
    meter = meter_found(discover(host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0)
    events = meter.report().data["events"]
    assert [event["what"] for event in events] == ["counter_suspect"]


# P6: CodeCarbon strips the characters of "MIG-" from UUIDs, and "G" of "GPU-" with them


@pytest.mark.parametrize(
    "uuid",
    [
        "GPU-4e1f00ab-0000-4000-8000-0000000000aa",
        "GPU-61600000-0000-4000-8000-0000000000aa",
    ],
)
def test_p6_gpu_is_found_by_its_uuid_whatever_letters_it_has(uuid, monkeypatch, clock):
    gpus(monkeypatch, {"power": 700.0}, {"power": 250.0, "uuid": uuid}, clock=clock)
    monkeypatch.setattr("dpet_jax.energy.probes.nvml.identity.load_libcuda", no_libcuda)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid)
    meter = meter_found(discover(host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0, rel=0.02)
    assert meter.report().data["energy"]["by_source"][0]["id"] == f"gpu:{uuid}"


# P7: the CPU's figure differs 2.3 times by the choice of a model, which is not labelled


def test_p7_model_says_that_it_is_one_and_how_far_others_could_be_off(tmp_path, clock):
    cpu = BusyCpu(tmp_path, clock)
    meter = meter_of(cpu.model(), clock=clock)
    clock.skip(1.0)
    with meter, meter.window("train") as window:
        clock.wait(10.0)
    low, high = window.energy.interval_wh
    assert window.energy.quality == "modelled"
    assert joules(window) == pytest.approx(350.0)
    assert low * JOULES_PER_WH == pytest.approx(50.0)
    assert high * JOULES_PER_WH == pytest.approx(600.0)
    report = meter.report()
    energy = report.data["energy"]
    assert (energy["measured_wh"], energy["quality"]) == (None, "modelled")
    assert energy["modelled_wh"] * JOULES_PER_WH == pytest.approx(350.0)
    assert "MODELLED" in str(report)
    assert "wall meter" in energy["by_source"][0]["method"]
    assert not report.data["valid"]


def test_p7_modelled_energy_is_never_added_to_measured(tmp_path, clock):
    modelled = meter_of(BusyCpu(tmp_path, clock).model(), clock=clock)
    measured = meter_of(FakeProbe(clock, power(250.0)), clock=clock)
    clock.skip(1.0)
    with modelled, measured:
        with modelled.window("train") as guess:
            clock.wait(1.0)
        with measured.window("train") as real:
            clock.wait(1.0)
    with pytest.raises(QualityError, match="cannot add"):
        real.energy + guess.energy
    with pytest.raises(QualityError, match="cannot compare"):
        real.energy.ratio(guess.energy)


# P8: CodeCarbon's timer overlaps itself, is not waited for, and loses time in its loop


class SlowProbe(FakeProbe):
    """A constant load whose readings in the thread take longer than the period."""

    def __init__(self):
        super().__init__(None, power(100.0))
        self.inside, self.overlaps, self.threads = 0, 0, set()
        self.enough = threading.Event()

    def read(self):
        thread = threading.current_thread()
        if thread.name == "dpet-energy-sampler":
            self.reads += 1
            self.threads.add(thread)
            self.overlaps += self.inside
            self.inside += 1
            time.sleep(0.05)
            self.inside -= 1
            if self.reads >= 4:
                self.enough.set()
        return (100.0,)


def test_p8_ticks_do_not_overlap_and_the_loop_is_over_when_stop_returns():
    probe = SlowProbe()
    meter = EnergyMeter(Found((probe,), ()), period_s=0.02)
    assert meter.start() is meter.start(), "starting twice starts once"
    with meter.window("train"):
        assert probe.enough.wait(60)
    meter.stop()
    (thread,) = probe.threads
    assert not thread.is_alive()
    meter.stop()
    assert (probe.closed, probe.overlaps) == (1, 0)
    assert meter.report().data["meter"]["missed_ticks"] > 0


def test_p8_time_that_readings_take_is_not_lost(clock):
    probe = FakeProbe(clock, power(100.0))
    probe.took_s = 0.3
    with meter_of(probe, clock=clock) as meter, meter.window("train") as window:
        clock.wait(30.0)
    assert window.s >= 30.0
    assert joules(window) == pytest.approx(100 * window.s, rel=0.01)
    data = meter.report().data
    assert data["meter"]["missed_ticks"] >= 5 * data["meter"]["ticks"] - 5
    assert data["event_counts"]["slow_read"] > 50


# P9: CodeCarbon waits half a second in every task to see how busy the CPU is


@pytest.mark.skipif(sys.platform != "linux", reason="the model reads /proc/stat")
def test_p9_window_with_a_cpu_model_never_sleeps(tmp_path, monkeypatch):
    def asleep(*arguments):
        raise AssertionError(f"slept {arguments} s to open or close a window")

    model = CpuPowerModel(10.0, 60.0, "data sheet")
    with EnergyMeter(Found((model,), ())) as meter:
        monkeypatch.setattr(time, "sleep", asleep)
        meter.keep_journal(tmp_path / "energy.jsonl")
        for _ in range(10):
            with meter.window("train"):
                meter.wh(), meter.report()


def test_p9_nothing_passes_time_when_windows_open_and_close(tmp_path, clock):
    model = BusyCpu(tmp_path, clock).model()
    clock.skip(1.0)
    with meter_of(model, clock=clock) as meter:
        began = clock()
        for _ in range(10):
            with meter.window("train"):
                meter.wh(), meter.report()
        assert clock() == began


# P10: CodeCarbon counts the whole machine once for every rank


def test_p10_machine_is_counted_once_by_two_processes(tmp_path, monkeypatch, clock):
    gpus(
        monkeypatch,
        {"power": 300.0, "update_period_s": 0.0},
        {"power": 200.0, "update_period_s": 0.0},
        clock=clock,
    )
    tree = powercap(monkeypatch, server(tmp_path, clock, sockets=1))
    tree["intel-rapl:0"].watts = 50.0
    total_j, ids = 0.0, []
    for rank in range(2):
        found = discover(uses(rank), host=rank == 0)
        with meter_found(found, clock) as meter:
            clock.wait(10.0)
        energy = meter.report().data["energy"]
        ids += [source["id"] for source in energy["by_source"]]
        total_j += energy["measured_wh"] * JOULES_PER_WH
    assert total_j == pytest.approx(10 * (300 + 200 + 50))
    assert len(ids) == len(set(ids)) == 4  # two GPUs, a package, its memory


def test_p10_sensor_that_is_named_twice_is_refused_and_never_counted_twice(clock):
    twins = [FakeProbe(clock, power(100.0), id="node:PDU") for _ in range(2)]
    with pytest.raises(ValueError, match="two meters are called 'node:PDU'"):
        meter_of(*twins, clock=clock)


def test_p10_mig_instances_of_one_board_count_it_once(monkeypatch, clock):
    migs = [f"MIG-6{n}000000-1111-4222-8333-444455556666" for n in "ab"]
    gpus(
        monkeypatch,
        {"power": 300.0, "mig": migs, "update_period_s": 0.0},
        clock=clock,
        visible=migs,
    )
    meter = meter_found(discover(uses(0, 1), host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(3000.0)


# P11: carbontracker takes the mean over GPUs for their sum


def test_p11_four_gpus_at_a_kilowatt_use_40_kj_in_10_s(monkeypatch, clock):
    board = {"power": 1000.0, "limit_w": 1200.0, "update_period_s": 0.0}
    gpus(monkeypatch, board, board, board, board, clock=clock)
    meter = meter_found(discover(uses(0, 1, 2, 3), host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(40_000.0, rel=1e-6)
    assert meter.report().data["energy"]["measured_wh"] == (
        pytest.approx(40_000 / JOULES_PER_WH, rel=1e-6)
    )


# P12: carbontracker gives an epoch whose counter ran backwards its neighbour's power


def test_p12_counter_that_ran_backwards_loses_the_interval_and_says_so(tmp_path, clock):
    tree = FakePowercap(tmp_path, clock)
    domain = tree.add(
        "intel-rapl:0", "package-0", energy_j=5e4, range_j=None, watts=100.0
    )
    with meter_found(rapl.find(tree.root), clock) as meter:
        with meter.window("train") as before:
            clock.wait(10.0)
        with meter.window("train") as during:
            clock.skip(2.0)
            domain.set_j(3.0)
            meter.read()
        with meter.window("train") as after:
            clock.wait(10.0)
    assert joules(before) == pytest.approx(1000.0)
    assert joules(during) == 0.0
    assert joules(after) == pytest.approx(1000.0)
    data = meter.report().data
    (source,) = data["energy"]["by_source"]
    assert source["unmeasured_s"] == pytest.approx(2.0)
    assert source["events"] == {"counter_reset": 1, "gap": 1}
    assert [event["what"] for event in data["events"]] == ["counter_reset", "gap"]


# P13: carbontracker ends the process where a sensor fails


FAILURES = [
    RuntimeError("broken"),
    OSError(5, "Input/output error"),
    MemoryError(),
    ZeroDivisionError(),
    pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_p13_sensor_that_fails_for_good_ends_nothing_and_is_recorded(
    error, clock, monkeypatch
):
    def exits(*arguments):
        raise AssertionError(f"the process was ended with {arguments}")

    monkeypatch.setattr(os, "_exit", exits)
    monkeypatch.setattr(sys, "exit", exits)
    broken = FakeProbe(clock, power(100.0), id="gpu:broken")
    sound = FakeProbe(clock, power(50.0), id="gpu:sound")
    meter = meter_of(broken, sound, clock=clock)
    with meter, meter.window("train") as window:
        clock.wait(5.0)
        broken.error = error
        clock.wait(5.0)
    sources = {s["id"]: s for s in meter.report().data["energy"]["by_source"]}
    assert joules(window) == pytest.approx(1000.0, abs=20.0)
    assert sources["gpu:sound"]["wh"] * JOULES_PER_WH == pytest.approx(500.0)
    assert sources["gpu:broken"]["events"]["read_failed"] >= 90
    assert sources["gpu:broken"]["unmeasured_s"] == pytest.approx(5.0, abs=0.2)
    assert "unmeasured" in meter.report().data["reason_codes"]


# P14: Eco2AI reads the power once an epoch, of every GPU of the machine


@pytest.mark.parametrize("sensor", ["counter", "power"])
def test_p14_burst_in_the_middle_of_an_epoch_is_seen(sensor, monkeypatch, clock):
    def watts(t):
        return 600.0 if 105.0 <= t < 109.0 else 60.0

    errors = {}
    if sensor == "power":
        refused = COUNTER, "nvmlDeviceGetTotalEnergyConsumption"
        errors = dict.fromkeys(refused, NOT_SUPPORTED)
    gpus(monkeypatch, {"power": watts, "errors": errors}, clock=clock)
    meter = meter_found(discover(host=False), clock)
    with meter, meter.window("train") as window:
        clock.wait(10.0)
    assert window.s == pytest.approx(10.0)
    assert joules(window) == pytest.approx(4 * 600 + 6 * 60, rel=0.03)


def test_p14_gpus_of_others_are_not_counted(monkeypatch, clock):
    nvml = gpus(
        monkeypatch,
        {"power": 600.0},
        {"power": 100.0, "update_period_s": 0.0},
        clock=clock,
    )
    meter = meter_found(discover(uses(1), host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(1000.0)
    (source,) = meter.report().data["energy"]["by_source"]
    assert source["id"] == f"gpu:{nvml.devices[1].uuid}"


# P15: EIT reads nvidia-smi's text, and sets the start method of processes


@pytest.mark.usefixtures("no_processes")
def test_p15_gpus_are_measured_without_any_process(monkeypatch, clock):
    gpus(monkeypatch, {"power": 250.0, "update_period_s": 0.0}, clock=clock)
    method = multiprocessing.get_start_method(allow_none=True)
    meter = meter_found(discover(uses(0), host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0)
    assert multiprocessing.get_start_method(allow_none=True) == method


@pytest.mark.usefixtures("no_processes")
def test_p15_thread_of_the_meter_is_a_thread():
    with EnergyMeter(Found((FakeProbe(FakeClock(), power(1.0)),), ())):
        names = [thread.name for thread in threading.enumerate()]
    assert "dpet-energy-sampler" in names


def test_p15_no_module_knows_how_to_start_a_process():
    folder = Path(dpet_jax.energy.__file__).parent
    imported = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert not imported & {"subprocess", "multiprocessing", "xml", "psutil"}


# P16: pyJoules misses a second wrap, fails on a GPU's negative difference, skips dies


def test_p16_two_wraps_within_a_window_are_both_counted(tmp_path, clock):
    tree = FakePowercap(tmp_path, clock)
    tree.add("intel-rapl:0", "package-0", energy_j=900.0, range_j=1000.0, watts=100.0)
    meter = meter_found(rapl.find(tree.root), clock)
    with meter, meter.window("train") as window:
        clock.wait(18.0)
    assert joules(window) == pytest.approx(1800.0)
    (source,) = meter.report().data["energy"]["by_source"]
    assert source["events"] == {"wrap": 2}
    assert source["unmeasured_s"] == 0


def test_p16_wraps_that_nobody_could_count_are_unmeasured(tmp_path, clock):
    tree = FakePowercap(tmp_path, clock)
    tree.add("intel-rapl:0", "package-0", energy_j=900.0, range_j=1000.0, watts=100.0)
    meter = meter_found(rapl.find(tree.root), clock)
    with meter, meter.window("train") as window:
        clock.wait(2.0)
        clock.skip(18.0)  # suspended: nobody reads
        clock.wait(2.0)
    assert joules(window) <= 2200.0
    data = meter.report().data
    (source,) = data["energy"]["by_source"]
    assert source["unmeasured_s"] == pytest.approx(18.0)
    assert source["events"]["wrap_ambiguous"] == 1
    assert data["reason_codes"] == ["unmeasured"]


def test_p16_dies_of_a_socket_count_whatever_they_are_called(tmp_path, clock):
    tree = two_dies(tmp_path, clock)
    for die in range(2):
        tree[f"intel-rapl:{die}"].watts = 50.0
        tree[f"intel-rapl:{die}:0"].watts = 40.0  # its cores, inside it
    meter = meter_found(rapl.find(tree.root), clock)
    with meter, meter.window("train") as window:
        clock.wait(10.0)
    assert joules(window) == pytest.approx(1000.0)


def test_p16_gpu_counter_that_starts_anew_raises_nothing_and_power_fills_in(
    monkeypatch, clock
):
    board = {"power": 250.0, "counter_resets": (107.0,), "update_period_s": 0.0}
    gpus(monkeypatch, board, clock=clock)
    meter = meter_found(discover(host=False), clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0, rel=1e-6)
    (source,) = meter.report().data["energy"]["by_source"]
    assert source["events"] == {"counter_reset": 1}
    assert (source["kind"], source["unmeasured_s"]) == ("counter", 0)


def test_p16_gpu_counter_that_starts_anew_without_power_is_unmeasured(clock):
    probe = FakeProbe(clock, counter(lambda t: 250 * t if t < 5 else 250 * (t - 5)))
    meter = meter_of(probe, clock=clock)
    assert joules_in(meter, clock) == pytest.approx(2500.0, abs=25.1)
    (source,) = meter.report().data["energy"]["by_source"]
    assert source["unmeasured_s"] == pytest.approx(0.1)
