"""The fake is measured itself, for other tests lean on it."""

import time

import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.nvml import AVERAGE, COUNTER, GPU, INSTANT, FakeGpu, FakeNVML


@pytest.fixture
def clock():
    return FakeClock()


def started(clock, **board):
    nvml = FakeNVML([FakeGpu(**board)], clock=clock)
    nvml.nvmlInit()
    return nvml, nvml.nvmlDeviceGetHandleByIndex(0)


def field(nvml, handle, number, scope=GPU):
    (entry,) = nvml.nvmlDeviceGetFieldValues(handle, [(number, scope)])
    assert entry.nvmlReturn == pynvml.NVML_SUCCESS
    return entry.value.ullVal if number == COUNTER else entry.value.uiVal


def test_counter_of_constant_power_is_exact_to_the_update(clock):
    nvml, handle = started(clock, power=123.456)
    clock.skip(1234.56)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 152_406_432
    assert field(nvml, handle, COUNTER) == 152_406_432


@pytest.mark.parametrize(
    ("power", "joules"),
    [
        (lambda t: 100.0 + 30 * (t - 100), 100 * 20 + 15 * 400),
        (lambda t: 300.0 if t >= 105.5 else 100.0, 100 * 5.5 + 300 * 14.5),
        (lambda t: (t - 100) ** 3, 20**4 / 4),
        (lambda t: 400.0 if (t * 10) % 2 < 1 else 100.0, 250 * 20),
    ],
    ids=["ramp", "step", "cubic", "square"],
)
def test_counter_is_the_integral_of_the_trace_however_often_it_is_read(
    power, joules, clock
):
    nvml, handle = started(clock, power=power)
    for _ in range(200):
        clock.skip(0.1)
        read = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert read / 1000 == pytest.approx(joules, abs=2e-3)


def test_known_integral_stands_for_the_numerical_one(clock):
    nvml, handle = started(clock, power=lambda t: t, energy=lambda t: t * t / 2)
    clock.skip(10)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 1_050_000


def test_sensor_sees_only_its_window_before_the_last_update(clock):
    nvml, handle = started(
        clock, power=lambda t: 400.0 if (t - 100) % 0.1 > 0.075 else 100.0
    )
    clock.skip(10.05)
    assert field(nvml, handle, INSTANT) == pytest.approx(400_000, rel=1e-3)
    assert field(nvml, handle, AVERAGE) == pytest.approx(175_000, rel=1e-3)
    assert nvml.nvmlDeviceGetPowerUsage(handle) == field(nvml, handle, AVERAGE)


def test_sensor_stands_still_between_updates(clock):
    nvml, handle = started(clock, power=lambda t: t)
    clock.skip(0.2)
    first = field(nvml, handle, INSTANT)
    clock.skip(0.09)
    assert field(nvml, handle, INSTANT) == first
    clock.skip(0.02)
    assert field(nvml, handle, INSTANT) == first + 100


def test_power_readings_err_as_told_and_the_counter_does_not(clock):
    nvml, handle = started(clock, gain=1.1, offset_w=-2.0, quantum_mw=50)
    clock.skip(1)
    assert field(nvml, handle, INSTANT) == 108_000
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 100_000
    nvml.devices[0].gain = 1.10011
    assert field(nvml, handle, INSTANT) == 108_000


def test_counter_starts_anew_at_a_reset_and_at_its_wrap(clock):
    nvml, handle = started(clock, counter_resets=(105.0,))
    clock.skip(4)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 400_000
    clock.skip(2)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 100_000
    nvml.devices[0].counter_wrap_j = 30.0
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 10_000


def test_scripted_error_holds_in_its_time_only(clock):
    nvml, handle = started(clock)
    gpu = nvml.devices[0]
    gpu.fail("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_UNKNOWN, 101, 102)
    gpu.fail("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_GPU_IS_LOST, 104)
    seen = []
    for _ in range(5):
        try:
            nvml.nvmlDeviceGetPowerUsage(handle)
            seen.append(0)
        except pynvml.NVMLError as error:
            seen.append(error.value)
        clock.skip(1)
    assert seen == [0, 999, 999, 0, 15]


def test_field_fails_alone(clock):
    nvml, handle = started(clock, errors={INSTANT: pynvml.NVML_ERROR_NO_PERMISSION})
    entries = nvml.nvmlDeviceGetFieldValues(handle, [(INSTANT, GPU), (AVERAGE, GPU)])
    assert [entry.nvmlReturn for entry in entries] == [4, 0]
    assert entries[1].value.uiVal == 100_000


def test_nothing_answers_before_the_start_and_after_the_end():
    nvml = FakeNVML([FakeGpu()])
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    nvml.nvmlInit()
    assert nvml.nvmlDeviceGetCount() == 1
    nvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    assert (nvml.inits, nvml.shutdowns) == (1, 1)


def test_function_that_is_not_faked_never_reaches_a_driver():
    nvml = FakeNVML([FakeGpu()])
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        nvml.nvmlDeviceGetFanSpeed(None)
    assert nvml.NVMLError is pynvml.NVMLError


def test_every_call_takes_its_time(clock):
    nvml = FakeNVML([FakeGpu()], clock=clock, latency_s=0.5)
    nvml.nvmlInit()
    nvml.nvmlDeviceGetCount()
    assert clock() == 101


def test_fake_runs_by_itself_on_a_real_clock():
    nvml, handle = started(time.monotonic, update_period_s=0, power=lambda t: t)
    first = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    while nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == first:
        pass
