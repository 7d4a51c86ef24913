"""The modelled power of the CPU: labelled a model, between low and high."""

import math
from pathlib import Path

import pytest
from fakes.clock import FakeClock

from dpet_jax.energy.probes.cpu_model import CpuPowerModel
from dpet_jax.energy.probes.source import Probe

HERTZ = 100
COLUMNS = [
    *("user", "nice", "system", "idle", "iowait", "irq", "softirq"),
    *("steal", "guest", "guest_nice"),
]


class Machine:
    """CPUs whose times pass only in `wait`, and one process on them."""

    def __init__(self, folder, num_cpus=4):
        self.path = folder / "stat"
        self.clock = FakeClock()
        self.num_cpus = num_cpus
        self.columns = dict.fromkeys(COLUMNS, 0)
        self.process = [5.0, 1.0, 0.5, 0.25]
        self.write()

    def wait(self, seconds, process_s=(0.0, 0.0, 0.0, 0.0), **cpu_s):
        """Let time pass; what nobody uses of the CPUs is idle."""
        self.clock.skip(seconds)
        rest_s = self.num_cpus * seconds
        for name, spent_s in cpu_s.items():
            self.columns[name] += round(spent_s * HERTZ)
            rest_s -= spent_s if not name.startswith("guest") else 0.0
        self.columns["idle"] += round(rest_s * HERTZ)
        self.process = [a + b for a, b in zip(self.process, process_s, strict=True)]
        self.write()

    def write(self):
        ticks = " ".join(str(value) for value in self.columns.values())
        lines = [f"cpu  {ticks}"]
        lines += [f"cpu{n} {ticks}" for n in range(self.num_cpus)]
        self.path.write_text("\n".join([*lines, "intr 12 0 0", "ctxt 99", ""]))

    def times(self):
        return (*self.process, self.clock())  # the last is no CPU time

    def model(self, idle_w=20.0, max_w=120.0, source="wall meter"):
        return CpuPowerModel(
            idle_w,
            max_w,
            source,
            stat=self.path,
            process_times=self.times,
            now=self.clock,
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# the three powers


def test_power_rises_from_idle_to_max_with_the_machines_busyness(machine):
    model = machine.model()
    for busy_s, expected_w in [(0, 20.0), (10, 45.0), (20, 70.0), (40, 120.0)]:
        machine.wait(10, user=busy_s)
        assert model.read()[0] == pytest.approx(expected_w)


@pytest.mark.parametrize("name", ["user", "nice", "system", "irq", "softirq"])
def test_every_kind_of_work_is_busy(name, machine):
    model = machine.model()
    machine.wait(10, **{name: 20})
    assert model.read()[0] == pytest.approx(70.0)


@pytest.mark.parametrize("name", ["idle", "iowait", "steal"])
def test_waiting_and_stolen_time_is_not_busy(name, machine):
    model = machine.model()
    machine.wait(10, **{name: 20})
    assert model.read()[0] == pytest.approx(20.0)


def test_guests_are_not_counted_twice(machine):
    model = machine.model()
    machine.wait(10, user=20, guest=20, guest_nice=5)
    assert model.read()[0] == pytest.approx(70.0)


def test_low_is_the_process_share_of_the_dynamic_part_alone(machine):
    model = machine.model()
    machine.wait(10, user=20, process_s=(4.0, 3.0, 2.0, 1.0))
    mid_w, low_w, high_w = model.read()
    assert low_w == pytest.approx(100.0 * 10 / 40)
    assert (mid_w, high_w) == (pytest.approx(70.0), 120.0)


def test_low_is_nothing_for_a_process_that_waits(machine):
    model = machine.model()
    machine.wait(10, user=40)
    assert model.read() == (pytest.approx(120.0), 0.0, 120.0)


def test_busyness_is_since_the_reading_before(machine):
    model = machine.model()
    machine.wait(10, user=40, process_s=(40.0, 0.0, 0.0, 0.0))
    model.read()
    machine.wait(10)
    assert model.read() == (pytest.approx(20.0), 0.0, 120.0)


@pytest.mark.parametrize("reaped_s", [15.0, 3600.0])
def test_child_that_ends_does_not_lift_low_above_mid(reaped_s, machine):
    model = machine.model()
    machine.wait(1, user=1, process_s=(0.0, 0.0, reaped_s, 0.0))
    mid_w, low_w, high_w = model.read()
    assert low_w <= mid_w <= high_w
    assert low_w == pytest.approx(25.0)


def test_rounding_does_not_lift_mid_above_max(machine):
    model = machine.model(idle_w=25.4, max_w=118.8)
    machine.wait(10, user=40)
    mid_w, _, high_w = model.read()
    assert mid_w <= high_w == 118.8
    assert model.sources[0].max_w >= mid_w


# when nothing has passed, or nothing can be read


def test_first_reading_is_of_what_passed_since_the_model_was_made(machine):
    model = machine.model()
    machine.wait(2, user=4)
    assert model.read()[0] == pytest.approx(70.0)


def test_reading_before_any_time_has_passed_is_none_for_all_three(machine):
    model = machine.model()
    assert model.read() == (None, None, None)
    machine.wait(10, user=20)
    assert model.read()[0] == pytest.approx(70.0)


def test_reading_twice_at_once_repeats_the_last(machine):
    model = machine.model()
    machine.wait(10, user=20, process_s=(5.0, 0.0, 0.0, 0.0))
    first = model.read()
    assert model.read() == first
    machine.clock.skip(0.004)  # less than a tick of the kernel
    assert model.read() == first


def test_work_between_ticks_is_not_lost(machine):
    model = machine.model()
    machine.wait(10)
    model.read()
    machine.process[0] += 1.0
    model.read()  # no tick since
    machine.wait(1, user=4)
    assert model.read()[1] == pytest.approx(25.0)


def test_times_that_run_backwards_repeat_the_last_and_begin_anew(machine):
    model = machine.model()
    machine.wait(10, user=20)
    before = model.read()
    machine.columns["iowait"] -= 9000
    machine.write()
    assert model.read() == before
    machine.wait(10, user=10)
    assert model.read()[0] == pytest.approx(45.0)


def test_busyness_never_leaves_zero_to_one(machine):
    model = machine.model()
    machine.wait(10, user=-5)
    assert model.read()[0] == pytest.approx(20.0)
    machine.wait(10, user=45)
    assert model.read()[0] == pytest.approx(120.0)


def test_file_that_vanishes_is_none_until_it_is_back(machine):
    model = machine.model()
    machine.wait(10, user=20)
    machine.path.unlink()
    assert model.read() == (None, None, None)
    machine.wait(10, user=40)
    assert model.read()[0] == pytest.approx(20 + 100 * 60 / 80)


@pytest.mark.parametrize("text", ["", "cpu 1 2\n", "intr 5\n", "cpu a b c d e f\n"])
def test_garbage_is_none(text, machine):
    model = machine.model()
    machine.path.write_text(text)
    assert model.read() == (None, None, None)


def test_old_kernels_without_stolen_time_are_understood(machine):
    for name in ("steal", "guest", "guest_nice"):
        del machine.columns[name]
    machine.write()
    model = machine.model()
    machine.wait(10, user=20)
    assert model.read()[0] == pytest.approx(70.0)


# what it says of itself


def test_all_of_it_is_labelled_a_model(machine):
    model = machine.model()
    assert isinstance(model, Probe)
    assert (model.id, model.component, model.scope) == ("cpu:model", "cpu", "package")
    assert len(model.sources) == 3
    for source in model.sources:
        assert (source.kind, source.quality) == ("power", "modelled")
        assert "model: idle 20 W, max 120 W (wall meter)" in source.method
    assert len({source.method for source in model.sources}) == 3


def test_facts_name_the_watts_and_where_they_come_from(machine):
    model = machine.model()
    assert model.facts() == {
        "name": "CPU power model",
        "idle_w": 20.0,
        "max_w": 120.0,
        "source": "wall meter",
        "num_cpus": 4,
        "shared": "package",
        "foreign_processes": None,
    }
    model.close()


@pytest.mark.parametrize("missing", ["idle_w", "max_w", "source"])
def test_no_figure_has_a_default(missing, machine):
    figures = {"idle_w": 20.0, "max_w": 120.0, "source": "wall meter"}
    del figures[missing]
    with pytest.raises(TypeError, match=missing):
        CpuPowerModel(**figures, stat=machine.path)


@pytest.mark.parametrize(
    ("idle_w", "max_w"),
    [(-1.0, 50.0), (50.0, 50.0), (60.0, 50.0), (0.0, math.inf), (math.nan, 50.0)],
)
def test_figures_out_of_order_are_refused(idle_w, max_w, machine):
    with pytest.raises(ValueError, match=f"idle_w is {idle_w} and max_w is {max_w}"):
        machine.model(idle_w=idle_w, max_w=max_w)


def test_watts_from_nowhere_are_refused(machine):
    with pytest.raises(ValueError, match="say where the watts come from"):
        machine.model(source=" ")


@pytest.mark.parametrize(
    "text", [None, "", "cpu 1 2 3 4 5 6 7 8\n", "cpu 1 2\ncpu0 1 2\n"]
)
def test_machine_that_shows_no_cpu_times_is_refused_with_a_remedy(text, machine):
    machine.path.unlink()
    if text is not None:
        machine.path.write_text(text)
    with pytest.raises(ValueError, match="the model needs Linux") as caught:
        machine.model()
    assert str(machine.path) in str(caught.value)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc here")
def test_this_machine_can_be_modelled():
    model = CpuPowerModel(10.0, 65.0, "a test")
    readings = model.read()
    assert len(readings) == 3
    known = [value for value in readings if value is not None]
    assert all(0 <= value <= 65.0 for value in known)
