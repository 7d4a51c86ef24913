"""Runs that read the same sensors at the same time, and those that only seem to."""

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, power

from dpet_jax.energy import EnergyMeter, Found
from dpet_jax.energy.probes.neighbours import Neighbours, watched


@pytest.fixture
def note(tmp_path):
    made = []

    def make(*ids):
        made.append(Neighbours(ids, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_runs_that_share_a_sensor_know_of_each_other_and_others_do_not(note):
    first, apart = note("cpu:package-0", "gpu:A"), note("gpu:B")
    assert not first.met("cpu:package-0")
    later = note("cpu:package-0", "gpu:C")
    assert first.met("cpu:package-0")
    assert later.met("cpu:package-0")
    assert not first.met("gpu:A")
    assert not later.met("gpu:C")
    assert not apart.met("gpu:B")


def test_what_has_been_met_is_known_after_it_has_gone(note):
    first, second = note("gpu:A"), note("gpu:A")
    second.close()
    assert first.met("gpu:A")
    first.close()
    assert not first.met("gpu:A")


def test_a_run_that_has_ended_or_was_killed_is_no_neighbour(note, tmp_path):
    note("gpu:A").close()
    # the note of a killed process: there, and locked by nobody
    (tmp_path / "dead.note").write_text('["gpu:A"]\n')
    assert not note("gpu:A").met("gpu:A")
    assert not (tmp_path / "dead.note").exists()


def test_energy_that_two_runs_read_at_once_is_not_valid(tmp_path):
    clock = FakeClock()

    def meter(identity):
        probe = FakeProbe(clock, power(100.0), id=identity, component="cpu")
        return EnergyMeter(watched(Found((probe,), ()), tmp_path), clock=clock)

    with meter("cpu:package-0") as first, meter("cpu:package-1") as alone:
        clock.wait(5.0)
        with meter("cpu:package-0") as second:
            clock.wait(5.0)
    for one, shared in ((first, True), (second, True), (alone, False)):
        reasons = one.report().data["reason_codes"]
        assert reasons == (["foreign_process"] if shared else [])
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written_leaves_the_probes_as_they_are(tmp_path):
    probe = FakeProbe(lambda: 0.0, power(1.0))
    (tmp_path / "file").touch()
    found = Found((probe,), ())
    assert watched(found, tmp_path / "file") == found
    assert watched(Found((), ()), tmp_path).probes == ()
