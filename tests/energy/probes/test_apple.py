"""Apple's chips: estimates, labelled a model's and with a wide interval."""

import sys
from types import SimpleNamespace

import pytest
from fakes.clock import FakeClock

from dpet_jax.energy import EnergyMeter
from dpet_jax.energy.probes import apple


def package(clock, **fixed):
    watts = {"cpu_total_mj": 20.0, "gpu_mj": 10.0, "dram_mj": None}

    class Monitor:
        def get_cumulative_energy(self):
            counts = {k: w and int(1000 * w * clock()) for k, w in watts.items()}
            return SimpleNamespace(**(counts | fixed))

    return SimpleNamespace(AppleEnergyMonitor=Monitor)


def test_estimates_are_joules_of_a_model_with_an_interval_and_never_measured():
    clock = FakeClock()
    clock.skip(1.0)
    found = apple.find(package(clock))
    assert [probe.id for probe in found.probes] == ["cpu:apple", "gpu:apple"]
    assert found.probes[0].read() == (pytest.approx(clock() * 20.0, abs=1e-3),)
    with EnergyMeter(found, clock=clock) as meter, meter.window("train"):
        clock.wait(10.0)
    energy = meter.report().data["energy"]
    assert (energy["quality"], energy["measured_wh"]) == ("modelled", None)
    mid, (low, high) = energy["modelled_wh"], energy["modelled_interval_wh"]
    assert mid == pytest.approx(300 / 3600, rel=0.05)
    assert (low, high) == (pytest.approx(0), pytest.approx(2 * mid))


def test_chip_that_is_not_known_is_a_reason():
    def unknown():
        raise RuntimeError("no channels")

    found = apple.find(SimpleNamespace(AppleEnergyMonitor=unknown))
    (entry,) = found.unavailable
    assert entry.reason == "apple: nothing can be read (RuntimeError: no channels)"
    nothing = package(FakeClock(), cpu_total_mj=None, gpu_mj=None)
    assert "counts neither" in apple.find(nothing).unavailable[0].reason


def test_elsewhere_the_reason_is_said_without_importing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert apple.absent() == "apple: this is not macOS"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "pip install zeus-apple-silicon" in apple.absent()
