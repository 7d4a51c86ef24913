"""Data- and parameter-efficient training of image classifiers, on the fewest joules.

Three ways in:

- experiments from the shell: `dpet run configs/quickstart.yaml`, then `dpet predict`;
- kernels for your own JAX code, on plain arrays and callables::

      from dpet_jax.scores import margin, score_pool
      from dpet_jax.selection import top_k

- a finished run, back in Python::

      run = dpet_jax.load_run("runs/quickstart/seed0")
      logits = run.apply_fn(run.params, images)
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Look `load_run` and the version up when asked for, so that importing is light."""
    if name == "load_run":
        from dpet_jax.run.load import load_run

        return load_run
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dpet-jax")
        except PackageNotFoundError:  # a bare tree that nobody installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
