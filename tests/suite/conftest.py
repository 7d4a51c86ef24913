"""Searches whose trials are played, not trained."""

import pytest
from fakes.trials import Runs

from dpet_jax.run import experiment
from dpet_jax.suite import tuning


@pytest.fixture
def runs(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(experiment, "run", runs)
    monkeypatch.setattr(tuning.build, "build_data", lambda _: None)
    return runs
