"""Get NVML to run, or say why it does not and what a person can do about it."""

import importlib
import warnings
from typing import Any

from dpet_jax.energy.probes.source import Unavailable

START_IN_CONTAINER = "in a container, start it with the GPUs, such as by --gpus all"
_INSTALL = "pip install nvidia-ml-py"
_REPLACE = "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py"
#: What nvidia-ml-py has and other packages with a module of that name have not.
_NEEDED = ("_nvmlGetFunctionPointer", "NVML_FI_DEV_POWER_AVERAGE", "nvmlInit")


def start(nvml: Any = None) -> Any:
    """Import and initialise NVML.

    Args:
        nvml: The module `pynvml`; None imports it.

    Returns:
        The module, which the caller shuts down; or `Unavailable`.
    """
    if nvml is None:
        nvml = _import()
        if isinstance(nvml, Unavailable):
            return nvml
    try:
        nvml.nvmlInit()
    except Exception as error:  # the driver is what users lack most often
        return _not_started(nvml, error)
    return nvml


def _import() -> Any:
    try:
        with warnings.catch_warnings():
            # The deprecated package `pynvml` says so, but hands on the right module.
            warnings.simplefilter("ignore")
            nvml = importlib.import_module("pynvml")
    except Exception as error:  # a broken package may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "pynvml":
            return Unavailable("gpu", "the Python module pynvml is missing", _INSTALL)
        return Unavailable(
            "gpu",
            f"pynvml cannot be imported: {type(error).__name__}: {error}",
            _REPLACE,
        )
    absent = [name for name in _NEEDED if not hasattr(nvml, name)]
    if absent:
        return Unavailable(
            "gpu",
            "the module pynvml is not that of nvidia-ml-py, or too old: it lacks "
            + ", ".join(absent),
            _REPLACE,
        )
    return nvml


def _not_started(nvml: Any, error: Exception) -> Unavailable:
    known = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
            "there is no NVIDIA driver here (libnvidia-ml was not found)",
            f"with an NVIDIA GPU, install its driver; {START_IN_CONTAINER}",
        ),
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is not loaded",
            f"load it (modprobe nvidia); {START_IN_CONTAINER}",
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver and its library are of different versions",
            "restart the machine, or load the driver anew, after an update",
        ),
    }
    plain = (f"NVML does not start: {error}", "see whether nvidia-smi works")
    why, remedy = known.get(getattr(error, "value", None), plain)
    return Unavailable("gpu", why, remedy)
