"""Versions, devices, and what can be measured: found or not, with its reason."""

import re

import jax
import numpy as np
import pytest
import yaml
from fakes.nvml import FakeGpu, FakeNVML
from fakes.rapl import server
from pydantic import ValidationError

from dpet_jax.config.experiment import EnergyConfig
from dpet_jax.energy import Found, Unavailable
from dpet_jax.energy.probes import rapl
from dpet_jax.energy.probes.nvml import probe as nvml
from dpet_jax.run import machine
from dpet_jax.run.machine import (
    device_facts,
    differences,
    environment,
    pinned,
    use_compilation_cache,
    versions,
)


def test_versions_are_those_in_use():
    found = versions()
    assert (found["jax"], found["numpy"]) == (jax.__version__, np.__version__)
    assert all(re.match(r"\d+\.\d+", text) for text in found.values())


def test_device_facts_count_the_devices():
    facts = device_facts()
    assert facts["platform"] == "cpu"
    assert facts["count"] == len(jax.local_devices())
    assert facts["cpu_cores"] >= 1


def test_types_and_random_numbers_are_pinned_and_given_back():
    def made():
        key = jax.random.key(0)
        return key.dtype, str(jax.numpy.arange(3.0).dtype), jax.random.bits(key, (5,))

    dtype, real, bits = made()
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
    ):
        assert made()[:2] != (dtype, real)
        with pinned():
            found = made()
        assert made()[:2] != (dtype, real)
    assert found[:2] == (dtype, real)
    np.testing.assert_array_equal(found[2], bits)


def test_what_differs_between_two_environments_is_named(monkeypatch):
    before = environment()
    assert differences(before, environment()) == []
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    monkeypatch.setenv("NPROC", "3")
    after = environment()
    after["versions"] |= {"jax": "0.0.1"}
    after["device"] |= {"count": 8}
    old = {"event": "start", **before}
    assert differences(old, after) == [
        f"versions.jax was {jax.__version__}, is now 0.0.1",
        f"device.count was {before['device']['count']}, is now 8",
        f"settings.XLA_FLAGS was {before['settings'].get('XLA_FLAGS')}, is now "
        "--xla_cpu_enable_fast_math=true",
        f"settings.NPROC was {before['settings'].get('NPROC')}, is now 3",
    ]
    # a run of an earlier version recorded no settings
    del old["settings"]
    assert len(differences(old, after)) == 2


# what `dpet doctor` finds


def findings(monkeypatch, *parts, cache=None):
    """Run the doctor where a search for sensors comes to these parts."""
    found = Found(
        tuple(probe for part in parts for probe in part.probes),
        tuple(entry for part in parts for entry in part.unavailable),
    )
    monkeypatch.setattr(machine, "discover", lambda _: found)
    return list(machine.findings(cache))


def test_what_is_missing_comes_with_reason_and_remedy(monkeypatch, tmp_path):
    absent = Found((), (Unavailable("gpu", "no driver", "install one"),))
    told = dict(findings(monkeypatch, absent, cache=tmp_path / "cache"))
    assert told["GPU energy"] == "not measurable: no driver; install one"
    assert "writable" in told["compile cache"]
    assert "CallableProbe" in told["other meters"]


def test_every_source_that_is_found_is_told_with_its_checks(monkeypatch, tmp_path):
    cards = FakeNVML([FakeGpu(), FakeGpu()])
    cards.install(monkeypatch)
    told = findings(monkeypatch, nvml.find(), rapl.find(server(tmp_path).root))
    gpus = [text for name, text in told if name == "GPU energy"]
    assert len(gpus) == 2
    assert all("(counter), checked by " in text for text in gpus)
    assert len([name for name, _ in told if name == "CPU energy"]) == 2
    assert len([name for name, _ in told if name == "DRAM energy"]) == 2
    assert cards.inits == cards.shutdowns


def test_company_on_the_card_is_told(monkeypatch):
    card = FakeGpu(processes=[1])
    FakeNVML([card]).install(monkeypatch)
    told = dict(findings(monkeypatch, nvml.find()))
    assert "ANOTHER PROCESS" in told["GPU energy"]


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.1), (0, 0), (7.0, 7.0)])
def test_programs_are_kept_from_a_tenth_of_a_second_on_or_from_what_is_set(
    before, after
):
    name = "jax_persistent_cache_min_compile_time_secs"
    found = jax.config.values[name]
    try:
        jax.config.update(name, before)
        use_compilation_cache()
        assert jax.config.values[name] == after
    finally:
        jax.config.update(name, found)


def test_a_cache_that_is_switched_off_is_told(monkeypatch):
    told = dict(findings(monkeypatch, Found((), ())))
    assert told["compile cache"].startswith("off")


def test_config_line_for_a_model_is_offered_where_nothing_measures_the_cpu(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(machine, "absent_tools", lambda: ("amd: no", "zeusd: no"))
    told = dict(findings(monkeypatch, Found((), ())))
    line = told["CPU model"].partition(":\n")[2]
    blanks = {"idle_w": None, "max_w": None, "source": None}
    section = yaml.safe_load(line)["energy"]
    assert section == {"allow_modelled": True, "cpu_model": blanks}
    with pytest.raises(ValidationError, match=r"cpu_model\.idle_w"):
        EnergyConfig.model_validate(section)  # before it is filled
    section["cpu_model"] = {"idle_w": 20, "max_w": 95, "source": "a wall meter"}
    assert EnergyConfig.model_validate(section).allow_modelled
    assert told["not asked"] == "amd: no; zeusd: no"
    measured = rapl.find(server(tmp_path).root)
    assert "CPU model" not in dict(findings(monkeypatch, measured))
