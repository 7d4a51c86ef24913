"""What a search finds for this process, and the reason for what it does not."""

import functools
from types import SimpleNamespace

import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.nvml import FakeGpu, FakeNVML
from fakes.probe import FakeProbe, power
from fakes.rapl import server

from dpet_jax.energy import CpuPowerModel, EnergyMeter
from dpet_jax.energy.probes import amd, apple, rapl, zeusd
from dpet_jax.energy.probes.discover import absent_tools, discover
from dpet_jax.energy.probes.nvml import probe as nvml_probe
from dpet_jax.energy.probes.source import Found, Unavailable


def device(platform, number=0):
    return SimpleNamespace(platform=platform, local_hardware_id=number)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def two_gpus(monkeypatch, clock):
    nvml = FakeNVML([FakeGpu(), FakeGpu()], clock=clock)
    nvml.install(monkeypatch)
    return nvml


@pytest.fixture
def no_driver(monkeypatch):
    errors = {"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}
    FakeNVML(errors=errors).install(monkeypatch)


@pytest.fixture
def a_cpu(tmp_path, monkeypatch, clock):
    tree = server(tmp_path, clock, sockets=1)
    monkeypatch.setattr(rapl, "find", functools.partial(rapl.find, tree.root))


@pytest.fixture
def no_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(rapl, "find", functools.partial(rapl.find, tmp_path))


@pytest.fixture
def model(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 0 0 1 0 0 0 0\ncpu0 1 0 0 1 0 0 0 0\n")
    return CpuPowerModel(10.0, 65.0, "data sheet", stat=stat)


def ids(found):
    return [probe.id for probe in found.probes]


def reasons(found):
    return {entry.component: entry.reason for entry in found.unavailable}


def test_without_devices_every_gpu_that_cuda_shows_is_found(two_gpus):
    assert ids(discover(host=False)) == [f"gpu:{g.uuid}" for g in two_gpus.devices]


@pytest.mark.parametrize("platform", ["gpu", "cuda"])
def test_only_the_gpus_in_use_are_found(platform, two_gpus):
    found = discover([device(platform, 1)], host=False)
    assert ids(found) == [f"gpu:{two_gpus.devices[1].uuid}"]
    assert found.unavailable == ()


def test_gpus_held_but_not_used_count_where_that_is_asked_for(two_gpus):
    for devices in ([device("gpu", 1)], [device("cpu")], []):
        found = discover(devices, host=False, include="visible")
        assert ids(found) == [f"gpu:{g.uuid}" for g in two_gpus.devices]


@pytest.mark.parametrize(
    ("driver", "extra"),
    [("580.65.06", "cuda13"), ("579.99", "cuda12"), ("600", "cuda13"), ("?", "cuda12")],
)
def test_gpus_that_jax_does_not_compute_on_are_named_as_unavailable(
    two_gpus, driver, extra
):
    two_gpus.driver = driver
    found = discover([device("cpu")], host=False)
    assert found.probes == ()
    (entry,) = found.unavailable
    assert entry.component == "gpu"
    assert entry.reason == "2 found, but JAX does not compute on them"
    assert entry.remedy.startswith(f"install dpet-jax[{extra}], or ")
    assert not two_gpus.initialised, "NVML was left running"


@pytest.mark.usefixtures("no_driver")
def test_reason_is_the_drivers_where_there_is_no_gpu():
    for devices in (None, [device("cpu")], [device("gpu")]):
        found = discover(devices, host=False)
        assert found.probes == ()
        assert "no NVIDIA driver" in reasons(found)["gpu"]


@pytest.mark.usefixtures("no_driver")
def test_chip_that_publishes_no_energy_says_so_once():
    found = discover([device("tpu", n) for n in range(4)], host=False)
    entries = [entry for entry in found.unavailable if entry.component == "tpu"]
    assert [entry.reason for entry in entries] == [
        "it publishes neither power nor energy"
    ]
    assert "CallableProbe" in entries[0].remedy


@pytest.mark.usefixtures("no_driver", "a_cpu")
def test_cpu_and_memory_are_found_only_by_the_process_that_takes_the_host():
    assert ids(discover([device("cpu")])) == ["cpu:package-0", "dram:package-0"]
    found = discover([device("cpu")], host=False)
    assert found.probes == ()
    assert reasons(found).keys() == {"gpu"}


@pytest.mark.usefixtures("no_driver", "a_cpu")
def test_model_stays_out_where_the_cpu_is_measured(model):
    assert ids(discover([], cpu_model=model)) == ["cpu:package-0", "dram:package-0"]


@pytest.mark.usefixtures("no_driver", "no_cpu")
def test_model_is_used_where_the_cpu_cannot_be_measured_and_says_why(model):
    found = discover([], cpu_model=model)
    assert found.probes == (model,)
    assert "no RAPL domain" in reasons(found)["cpu"]


@pytest.mark.usefixtures("no_driver", "no_cpu")
def test_no_model_appears_that_nobody_asked_for(model):
    assert discover([]).probes == ()
    assert discover([], cpu_model=model, host=False).probes == ()


@pytest.mark.usefixtures("no_driver", "no_cpu")
def test_meter_of_the_users_own_is_found_beside_all_others(clock):
    pdu = FakeProbe(clock, power(100.0), id="node:PDU", component="node", scope="node")
    assert ids(discover([], meters=[pdu], host=False)) == ["node:PDU"]


@pytest.mark.usefixtures("two_gpus", "no_cpu")
def test_meter_discovers_by_itself(clock):
    meter = EnergyMeter(clock=clock)
    assert len(meter.sensors.channels) == 2
    assert meter.quality == "measured"


@pytest.mark.usefixtures("no_driver")
def test_two_meters_of_one_name_are_refused_instead_of_taken_for_one(clock):
    strips = [FakeProbe(clock, power(9.0), id="node:strip") for _ in range(2)]
    with pytest.raises(ValueError, match="two meters are called 'node:strip'"):
        EnergyMeter(discover(meters=strips))
    assert len(discover(meters=strips[:1]).probes) >= 1


@pytest.mark.parametrize("during", ["cpu", "gpu"])
def test_interrupt_during_the_search_releases_the_driver(during, two_gpus, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if during == "cpu":
        monkeypatch.setattr(rapl, "find", interrupt)
    else:
        monkeypatch.setattr(nvml_probe, "generation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        discover()
    assert (two_gpus.inits, two_gpus.initialised) == (1, False)


# tools of others, asked only for what cannot be read directly


@pytest.fixture
def tools(monkeypatch, clock):
    """Let every tool be there, with a reading of each component."""
    asked = []

    def answer(name, *parts):
        def find(*arguments):
            asked.append((name, *arguments))
            probes = (
                FakeProbe(clock, power(9.0), id=f"{c}:{name}", component=c, scope=s)
                for c, s in parts
                if name != "zeusd" or c == "gpu" or c in arguments[0]
            )
            return Found(tuple(probes), ())

        return find

    monkeypatch.setattr(amd, "find", answer("amd", ("gpu", "gpu")))
    monkeypatch.setattr(zeusd, "gpus", answer("zeusd", ("gpu", "gpu")))
    both = (("cpu", "package"), ("dram", "dram"))
    monkeypatch.setattr(zeusd, "cpus", answer("zeusd", *both))
    monkeypatch.setattr(apple, "find", answer("apple", *both))
    for tool, there in ((amd, True), (zeusd, True), (apple, False)):
        reason = None if there else "apple: this is not macOS"
        monkeypatch.setattr(tool, "absent", lambda reason=reason: reason)
    return asked


@pytest.mark.usefixtures("two_gpus", "a_cpu")
def test_nothing_is_counted_twice_where_it_can_be_read_directly(tools):
    found = discover([device("gpu", 0)])
    assert [i.split(":")[0] for i in ids(found)] == ["gpu", "cpu", "dram"]
    assert tools == []


@pytest.mark.usefixtures("no_driver", "no_cpu")
def test_tools_of_others_stand_in_for_what_cannot_be_read(tools, monkeypatch):
    found = discover([device("rocm", 1)])
    assert ids(found) == ["gpu:amd", "cpu:zeusd", "dram:zeusd"]
    assert found.unavailable == ()
    assert tools == [("amd", [1]), ("zeusd", frozenset({"cpu", "dram"}))]
    refusal = Found((), (Unavailable("gpu", "amd: no", "look"),))
    monkeypatch.setattr(amd, "find", lambda _: refusal)
    assert ids(discover(host=False)) == ["gpu:zeusd"]
    monkeypatch.setattr(zeusd, "gpus", lambda _: Found((), ()))
    told = [entry.reason for entry in discover(host=False).unavailable]
    assert "no NVIDIA driver" in told[0]
    assert told[1:] == ["amd: no"]


@pytest.mark.usefixtures("no_driver", "no_cpu", "tools")
def test_a_model_that_was_asked_for_replaces_one_of_the_system(model, monkeypatch):
    estimate = FakeProbe(FakeClock(), power(9.0, quality="modelled"), id="cpu:apple")
    monkeypatch.setattr(apple, "absent", lambda: None)
    monkeypatch.setattr(apple, "find", lambda: Found((estimate,), ()))
    assert discover([]).probes == (estimate,)
    assert discover([], cpu_model=model).probes == (model,)
    metal = discover([device("METAL")], host=False)
    assert "METAL" not in reasons(metal)


@pytest.mark.usefixtures("tools")
def test_reasons_of_tools_that_are_not_there_stand_in_one_place():
    assert absent_tools() == ("apple: this is not macOS",)
