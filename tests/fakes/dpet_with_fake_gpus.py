"""The program on a machine with two cards of 500 and 700 W, in a process of its own."""

import sys
import time

import pytest
from fakes.nvml import FakeGpu, FakeNVML

from dpet_jax import energy

WATTS = (500.0, 700.0)


def install(monkeypatch, clock=time.monotonic):
    """Give this process two cards and no RAPL, whatever the machine has."""
    cards = [
        FakeGpu(power=watts, uuid=f"GPU-4e00000{n}-0000-0000-0000-000000000000")
        for n, watts in enumerate(WATTS)
    ]
    fake = FakeNVML(cards, clock=clock)
    fake.install(monkeypatch)
    monkeypatch.setattr(
        "dpet_jax.energy.probes.rapl.find", lambda: energy.Found((), ())
    )
    return fake


if __name__ == "__main__":
    from dpet_jax.cli import main

    install(pytest.MonkeyPatch())
    sys.exit(main(sys.argv[1:]))
