"""Whatever stands between us and NVML becomes a reason and a remedy."""

import sys
import types

import pynvml
import pytest
from fakes.nvml import FakeNVML

from dpet_jax.energy.probes.nvml.probe import start
from dpet_jax.energy.probes.source import Unavailable


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
    ("text", "told"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise ImportError('half installed')", "ImportError: half installed"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def (", "SyntaxError"),
    ],
)
def test_broken_module_is_a_reason_with_what_it_said(text, told, import_raising):
    import_raising(text)
    absence = start()
    assert absence.reason.startswith("pynvml cannot be imported: ")
    assert told in absence.reason
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
def test_other_package_of_that_name_is_told_by_what_it_lacks(lacking, monkeypatch):
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
