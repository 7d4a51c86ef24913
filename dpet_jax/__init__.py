"""Data- and parameter-efficient training of image classifiers, on the fewest joules.

Three ways in:

- experiments from the shell: `dpet run`, then `dpet predict`; or from Python::

      run = dpet_jax.run("config.yaml", {"seed": 3})
      run.summary["test_accuracy"], run.curves["epochs"], run.coreset, run.report()
      print(dpet_jax.compare("suite.yaml"))

- kernels for your own JAX code, on plain arrays and callables::

      from dpet_jax.scores import margin, score_pool
      from dpet_jax.selection import top_k

- the model of a run, back in Python::

      model = dpet_jax.load_run("runs/quickstart/seed0")
      logits = model.apply_fn(model.params, images)
"""

from types import ModuleType
from typing import Any

from dpet_jax import run


class _Runs(ModuleType):
    """The package `dpet_jax.run`, which `dpet_jax.run(config)` calls as well."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run an experiment; see `dpet_jax.interactive.run`."""
        from dpet_jax.interactive import run

        return run(*arguments, **named)


# a package has one name, and whoever imports a part of it makes it this attribute
run.__class__ = _Runs


def __getattr__(name: str) -> Any:
    """Look names and the version up when asked for, so that importing is light."""
    if name == "load_run":
        from dpet_jax.run.load import load_run

        return load_run
    if name == "read_run":
        from dpet_jax.report.runs import read_run

        return read_run
    if name == "measured":
        from dpet_jax.run.measure import measured

        return measured
    if name == "compare":
        from dpet_jax.interactive import compare

        return compare
    if name == "StopRun":
        from dpet_jax.run.callbacks import StopRun

        return StopRun
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dpet-jax")
        except PackageNotFoundError:  # a bare tree that nobody installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
