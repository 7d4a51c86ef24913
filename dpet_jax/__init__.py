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

from importlib.metadata import version
from typing import Any

__version__ = version("dpet-jax")


def __getattr__(name: str) -> Any:
    """Import `load_run` when it is asked for, so that importing this stays light."""
    if name == "load_run":
        from dpet_jax.run.load import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
