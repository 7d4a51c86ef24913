"""The GPUs of this process as probes, from starting NVML to the last reading."""

import os
import subprocess
import sys
import types

import pynvml
import pytest
from fakes.clock import FakeClock
from fakes.nvml import COUNTER, MODULE, FakeCuda, FakeGpu, FakeNVML, no_libcuda

from dpet_jax.energy.probes.nvml import probe as module
from dpet_jax.energy.probes.nvml.probe import find, foreign, start
from dpet_jax.energy.probes.source import Found, Probe, Unavailable

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
MIGS = [
    "MIG-6a000000-1111-4222-8333-444455556666",
    "MIG-6b000000-1111-4222-8333-444455556666",
]


def machine(*boards, **options):
    nvml = FakeNVML([FakeGpu(**board) for board in boards], **options)
    nvml.clock.skip(2)
    return nvml


def found_by(nvml, ordinals=None, visible=None, environ=None):
    return find(
        ordinals,
        nvml=nvml,
        environ=environ or {},
        load_cuda=lambda: nvml.libcuda(visible),
    )


def only(nvml):
    found = found_by(nvml)
    assert found.unavailable == ()
    (probe,) = found.probes
    return probe


# the start of NVML


@pytest.fixture
def import_raising(tmp_path, monkeypatch):
    """Let `import pynvml` run a text of ours."""

    def write(text):
        (tmp_path / "pynvml.py").write_text(text)
        monkeypatch.delitem(sys.modules, "pynvml")
        monkeypatch.syspath_prepend(tmp_path)

    return write


def test_module_comes_back_initialised(monkeypatch):
    nvml = FakeNVML()
    assert start(nvml) is nvml
    assert nvml.inits == 1
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert start() is nvml
    assert nvml.inits == 2


def test_missing_module_is_a_reason_with_the_right_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert start() == Unavailable(
        "gpu", "the Python module pynvml is missing", "pip install nvidia-ml-py"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise ImportError('half installed')", "ImportError: half installed"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def (", "SyntaxError"),
    ],
)
def test_broken_module_is_a_reason_with_what_it_said(text, said, import_raising):
    import_raising(text)
    absence = start()
    assert absence.reason.startswith("pynvml cannot be imported: ")
    assert said in absence.reason
    assert "--force-reinstall nvidia-ml-py" in absence.remedy


def test_warning_of_the_deprecated_package_is_not_the_users(import_raising):
    import_raising(
        "import warnings\nwarnings.warn('deprecated', FutureWarning)\n"
        "_nvmlGetFunctionPointer = NVML_FI_DEV_POWER_AVERAGE = None\n"
        "def nvmlInit(): pass\n"
    )
    assert start().__name__ == "pynvml"


@pytest.mark.parametrize(
    "lacking", ["_nvmlGetFunctionPointer", "NVML_FI_DEV_POWER_AVERAGE"]
)
def test_other_package_of_that_name_is_recognised_by_what_it_lacks(
    lacking, monkeypatch
):
    other = types.ModuleType("pynvml")
    for name in {"_nvmlGetFunctionPointer", "NVML_FI_DEV_POWER_AVERAGE", "nvmlInit"}:
        if name != lacking:
            setattr(other, name, None)
    monkeypatch.setitem(sys.modules, "pynvml", other)
    absence = start()
    assert absence.reason.endswith(f"it lacks {lacking}")
    assert "uninstall" in absence.remedy


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver here", "--gpus all"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver is not loaded", "modprobe"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions", "restart"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not start: Unknown Error", "nvidia-smi"),
    ],
)
def test_missing_driver_is_a_reason_with_a_remedy(code, reason, remedy):
    nvml = FakeNVML(errors={"nvmlInit": code})
    absence = start(nvml)
    assert absence.component == "gpu"
    assert reason in absence.reason
    assert remedy in absence.remedy
    assert not nvml.initialised


def test_start_that_fails_in_any_other_way_is_a_reason_too():
    nvml = FakeNVML()
    nvml.nvmlInit = lambda: 1 / 0
    assert start(nvml).reason == "NVML does not start: division by zero"


# the search


def test_gpu_is_found_with_what_it_measures():
    nvml = machine({"power": 250.0})
    probe = only(nvml)
    assert isinstance(probe, Probe)
    assert probe.id == f"gpu:{nvml.devices[0].uuid}"
    assert (probe.component, probe.scope) == ("gpu", "gpu")
    assert [source.kind for source in probe.sources] == ["counter", *["power"] * 3]
    assert probe.read() == (500.0, 250.0, 250.0, 250.0)


def test_four_gpus_are_four_probes_that_each_report_their_own_power():
    nvml = machine(*({"power": watts} for watts in (100.0, 200.0, 300.0, 400.0)))
    probes = found_by(nvml).probes
    assert len({probe.id for probe in probes}) == 4
    assert [probe.read()[1] for probe in probes] == [100.0, 200.0, 300.0, 400.0]
    assert [probe.read()[0] for probe in probes] == [200.0, 400.0, 600.0, 800.0]


def test_only_the_gpus_in_use_are_measured_by_cudas_numbers():
    nvml = machine(*({"power": watts} for watts in (100.0, 200.0, 300.0, 400.0)))
    found = found_by(nvml, [1, 0], visible=[3, 2, 0])
    assert [probe.read()[1] for probe in found.probes] == [300.0, 400.0]
    assert len(found_by(nvml, visible=[3, 2, 0]).probes) == 3


def test_without_libcuda_the_variables_choose():
    nvml = machine({"power": 100.0}, {"power": 200.0})
    environ = {"CUDA_VISIBLE_DEVICES": "1"}
    found = find(nvml=nvml, environ=environ, load_cuda=no_libcuda)
    assert [probe.read()[1] for probe in found.probes] == [200.0]


def test_gpu_named_twice_is_one_probe():
    nvml = machine({})
    assert len(found_by(nvml, [0, 0]).probes) == 1


def test_module_in_sys_modules_is_found_without_being_handed_over(monkeypatch):
    nvml = machine({"power": 321.0})
    nvml.install(monkeypatch)
    (probe,) = find().probes
    assert probe.read()[1] == 321.0


@pytest.mark.parametrize(
    ("ordinals", "said"), [([5], "no CUDA device 5"), ([-1], "no CUDA device -1")]
)
def test_unknown_ordinal_is_unavailable_and_not_another_gpu(ordinals, said):
    nvml = machine({})
    found = found_by(nvml, ordinals)
    assert found.probes == ()
    assert [one.reason for one in found.unavailable] == [f"this process has {said}"]
    assert found.unavailable[0].remedy


def test_known_ordinals_are_measured_beside_an_unknown_one():
    found = found_by(machine({}), [0, 7])
    assert (len(found.probes), len(found.unavailable)) == (1, 1)


@pytest.mark.parametrize("load_cuda", [no_libcuda, lambda: FakeCuda([])])
def test_hidden_gpus_are_unavailable_for_that_reason(load_cuda):
    nvml = machine({}, {})
    environ = {"CUDA_VISIBLE_DEVICES": ""}
    found = find(nvml=nvml, environ=environ, load_cuda=load_cuda)
    assert found.probes == ()
    (absence,) = found.unavailable
    assert "none of 2 GPU(s)" in absence.reason
    assert "CUDA_VISIBLE_DEVICES" in absence.remedy


def test_driver_without_gpus_is_unavailable_for_that_reason():
    (absence,) = find(nvml=machine(), environ={}, load_cuda=no_libcuda).unavailable
    assert absence.reason == "the NVIDIA driver knows of no GPU"


def test_gpu_that_nvml_does_not_know_is_unavailable_and_the_others_are_found():
    nvml = machine({})
    stranger = "GPU-00000000-1111-4222-8333-444455556666"
    found = found_by(nvml, visible=[stranger, 0])
    assert [probe.id for probe in found.probes] == [f"gpu:{nvml.devices[0].uuid}"]
    (absence,) = found.unavailable
    assert stranger in absence.reason
    assert "Not Found" in absence.reason


def test_gpu_without_a_sensor_is_unavailable_with_every_refusal():
    refusals = {
        "nvmlDeviceGetFieldValues": NOT_SUPPORTED,
        "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
        "nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NO_PERMISSION,
    }
    nvml = machine({"errors": refusals}, {})
    found = found_by(nvml)
    assert [probe.id for probe in found.probes] == [f"gpu:{nvml.devices[1].uuid}"]
    (absence,) = found.unavailable
    assert nvml.devices[0].uuid in absence.reason
    assert "(field 83, scope gpu): Not Supported" in absence.reason
    assert "nvmlDeviceGetTotalEnergyConsumption: Not Supported" in absence.reason
    assert "nvmlDeviceGetPowerUsage: Insufficient Permissions" in absence.reason
    found.probes[0].close()
    assert not nvml.initialised


def test_missing_driver_and_missing_module_are_reasons_and_no_exceptions(monkeypatch):
    code = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    without_driver = find(nvml=FakeNVML(errors={"nvmlInit": code}))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    without_module = find()
    for found in (without_driver, without_module):
        assert found.probes == ()
        assert [one.component for one in found.unavailable] == ["gpu"]
    assert "no NVIDIA driver" in without_driver.unavailable[0].reason
    assert "missing" in without_module.unavailable[0].reason


@pytest.mark.parametrize(
    "call", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"]
)
def test_driver_that_cannot_list_its_gpus_is_a_reason_and_is_shut_down(call):
    nvml = machine({}, errors={call: pynvml.NVML_ERROR_GPU_IS_LOST})
    found = find(nvml=nvml, environ={}, load_cuda=no_libcuda)
    assert "GPU is lost" in found.unavailable[0].reason
    assert not nvml.initialised


def test_doubt_about_which_gpu_it_is_is_in_the_facts():
    nvml = machine({"name": "T4"}, {"name": "H100"})
    found = find([0], nvml=nvml, environ={}, load_cuda=no_libcuda)
    (warning,) = found.probes[0].facts()["warnings"]
    assert "CUDA_DEVICE_ORDER" in warning
    assert found_by(nvml, [0]).probes[0].facts()["warnings"] == []


def test_search_and_readings_start_no_process_and_open_no_pipe(monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError(arguments, options)

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen"):
        monkeypatch.setattr(os, name, forbidden)
    for name in ("execv", "execve", "_exit"):
        monkeypatch.setattr(os, name, forbidden)
    probe = only(machine({"processes": [os.getpid()]}))
    assert probe.read()[0] == 200.0
    assert probe.facts()["foreign_processes"] is False
    probe.close()


# MIG


def test_instances_of_one_gpu_are_one_probe_on_the_parent():
    nvml = machine({"mig": MIGS, "power": 400.0}, {"power": 100.0})
    found = found_by(nvml, visible=[*MIGS, 1])
    parent, other = found.probes
    assert parent.id == f"gpu:{nvml.devices[0].uuid}"
    assert parent.scope == "gpu_parent"
    assert parent.read()[:2] == (800.0, 400.0)
    facts = parent.facts()
    assert facts["mig"] is True
    assert facts["attribution"] == "shared_upper_bound"
    assert other.scope == "gpu"
    assert other.facts()["mig"] is False
    assert other.facts()["attribution"] == "whole"


def test_gpu_in_mig_mode_is_a_parent_even_if_cuda_names_the_gpu():
    probe = only(machine({"mig": MIGS}))
    assert (probe.scope, probe.facts()["mig"]) == ("gpu_parent", True)


def test_instance_named_in_the_variable_is_measured_at_its_parent():
    nvml = machine({}, {"mig": MIGS})
    environ = {"CUDA_VISIBLE_DEVICES": "MIG-6b"}
    (probe,) = find(nvml=nvml, environ=environ, load_cuda=no_libcuda).probes
    assert probe.id == f"gpu:{nvml.devices[1].uuid}"


def test_module_scope_of_a_parent_still_says_that_it_holds_a_cpu():
    probe = only(machine({"mig": MIGS, "scopes": {MODULE: 1.2}}))
    assert probe.scope == "module"
    assert probe.facts()["attribution"] == "shared_upper_bound"


# readings


def test_gpu_without_a_counter_falls_to_power_and_never_to_zero():
    unsupported = {
        COUNTER: NOT_SUPPORTED,
        "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED,
    }
    probe = only(machine({"errors": unsupported, "power": 250.0}))
    assert {source.kind for source in probe.sources} == {"power"}
    assert probe.read() == (250.0,) * 3


def test_failed_reading_is_none_and_comes_back():
    clock = FakeClock()
    nvml = machine({"power": 250.0}, clock=clock)
    probe = only(nvml)
    gpu = nvml.devices[0]
    gpu.fail(COUNTER, pynvml.NVML_ERROR_TIMEOUT, 103, 104)
    gpu.fail("*", pynvml.NVML_ERROR_UNKNOWN, 105, 106)
    assert None not in probe.read()
    clock.now = 103.5
    assert probe.read() == (None, 250.0, 250.0, 250.0)
    clock.now = 105.5
    assert probe.read() == (None,) * 4
    clock.now = 107.0
    assert probe.read() == (1750.0, 250.0, 250.0, 250.0)


def test_facts_say_why_readings_failed():
    nvml = machine({})
    probe = only(nvml)
    assert probe.facts()["errors"] == {}
    nvml.devices[0].fail("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_GPU_IS_LOST)
    probe.read()
    assert probe.facts()["errors"] == {"nvmlDeviceGetPowerUsage": "GPU is lost"}


def test_reading_asks_for_power_and_energy_and_nothing_slow():
    nvml = machine({})
    probe = only(nvml)
    nvml.calls.clear()
    for _ in range(10):
        probe.read()
    assert nvml.calls == {
        "nvmlDeviceGetFieldValues": 10,
        "nvmlDeviceGetPowerUsage": 10,
    }


def test_what_is_believed_is_twice_the_limit_or_a_lot_if_that_is_unknown():
    known = only(machine({"limit_w": 350.0}))
    unknown = only(
        machine({"errors": {"nvmlDeviceGetEnforcedPowerLimit": NOT_SUPPORTED}})
    )
    assert {source.max_w for source in known.sources} == {700.0}
    assert {source.max_w for source in unknown.sources} == {2000.0}


# facts


def test_facts_are_those_of_the_gpu():
    nvml = machine({"limit_w": 350.0, "temperature_c": 55, "processes": [os.getpid()]})
    assert only(nvml).facts() == {
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": nvml.devices[0].uuid,
        "driver": "580.65.06",
        "architecture": "hopper",
        "power_limit_w": 350.0,
        "temperature_c": 55,
        "mig": False,
        "attribution": "whole",
        "foreign_processes": False,
        "warnings": [],
        "errors": {},
    }


def test_fact_that_fails_is_none_and_takes_no_other_with_it():
    nvml = machine({})
    probe = only(nvml)
    for call, key in {
        "nvmlDeviceGetTemperature": "temperature_c",
        "nvmlDeviceGetEnforcedPowerLimit": "power_limit_w",
        "nvmlDeviceGetComputeRunningProcesses": "foreign_processes",
    }.items():
        nvml.devices[0].errors = {call: NOT_SUPPORTED}
        facts = probe.facts()
        assert facts[key] is None
        assert facts["name"]
    nvml.errors["nvmlSystemGetDriverVersion"] = NOT_SUPPORTED
    assert probe.facts()["driver"] is None


@pytest.mark.parametrize(
    ("call", "key"),
    [
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetArchitecture", "architecture"),
    ],
)
def test_gpu_that_does_not_say_what_it_is_is_measured_all_the_same(call, key):
    probe = only(machine({"errors": {call: NOT_SUPPORTED}, "power": 250.0}))
    assert probe.facts()[key] is None
    assert probe.read()[0] == 500.0


def test_name_in_bytes_becomes_text():
    nvml = machine({"name": b"Tesla T4"})
    assert only(nvml).facts()["name"] == "Tesla T4"


# other processes


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Let there be our process 50 with child 60 and grandchild 70, and a stranger."""
    for pid, parent in {50: 1, 60: 50, 70: 60, 80: 1}.items():
        (tmp_path / str(pid)).mkdir()
        # a name may look like what follows it
        stat = f"{pid} (a) R 9 (b) S {parent} 60 60 0\n"
        (tmp_path / str(pid) / "stat").write_text(stat)
    monkeypatch.setattr(module.os, "getpid", lambda: 50)
    monkeypatch.setattr(module, "PROC", tmp_path)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("pids", "expected"),
    [
        ([50], False),
        ([50, 60, 70], False),
        ([70], False),
        ([], None),
        ([50, 80], True),
        ([80], True),
        ([4711], None),
        ([4711, 80], True),
        ([50, 4711], True),
        ([1], None),
    ],
)
def test_others_are_those_who_are_not_ours(pids, expected):
    assert foreign(pids) is expected


def test_this_process_is_ours_and_the_one_that_started_it_is_not():
    assert foreign([os.getpid()]) is False
    if os.getppid() > 1:
        assert foreign([os.getppid()]) is True


# the end


def test_nvml_is_started_once_and_shut_down_with_the_last_probe():
    nvml = machine({}, {})
    first, second = found_by(nvml).probes
    assert nvml.inits == 1
    first.close()
    first.close()
    assert nvml.initialised
    assert second.read()[0] is not None
    second.close()
    assert (nvml.inits, nvml.shutdowns) == (1, 1)


def test_nvml_that_another_started_is_left_running():
    nvml = machine({})
    nvml.nvmlInit()
    only(nvml).close()
    assert nvml.initialised


def test_search_that_finds_nothing_shuts_nvml_down():
    nvml = machine({})
    found_by(nvml, [9])
    assert (nvml.inits, nvml.shutdowns) == (1, 1)


def test_reading_after_the_end_is_a_failure_and_not_a_number():
    probe = only(machine({}))
    probe.close()
    assert probe.read() == (None,) * 4


def test_end_that_fails_raises_nothing():
    nvml = machine({}, errors={"nvmlShutdown": pynvml.NVML_ERROR_UNKNOWN})
    only(nvml).close()


def test_search_on_this_machine_ends_in_a_result_whatever_it_has():
    found = find()
    assert isinstance(found, Found)
    assert found.probes or found.unavailable
    for probe in found.probes:
        probe.close()
