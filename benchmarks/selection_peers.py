"""Selectors of others behind the signature of one's own, where they are installed.

Each reads the features alone. Kernels are Gaussian, as wide as the median distance of
two examples; coreax' herding is there with the linear kernel too, whose objective is
that of ours.
"""

import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.metrics import pairwise_distances

from dpet_jax.selection.by_name import Examples

Select = Callable[[Examples, int], Any]


def width_of(features: Any) -> float:
    """Return the median distance of two different examples."""
    distances = pairwise_distances(np.asarray(features, np.float64))
    upper = distances[np.triu_indices(len(distances), 1)]
    return float(np.median(upper)) or 1.0


@functools.cache
def _solved() -> Callable[[Any, Any], Any]:
    """Return a solver's call as one program for each solver and size."""
    import equinox as eqx
    from coreax.data import Data

    @eqx.filter_jit
    def solved(solver: Any, features: Any) -> Any:
        return solver.reduce(Data(features))[0].unweighted_indices

    return solved


def _coreax(make: Callable[[int, Any, Any], Any], *, linear: bool = False) -> Select:
    """Wrap a solver: `make(num_select, kernel, key)` of a class's features."""
    from coreax.kernels import LinearKernel, SquaredExponentialKernel

    def select(examples: Examples, num_select: int) -> Any:
        features, kernel = examples.features, LinearKernel()
        if not linear:
            # the width goes into the features: in the kernel, which is a constant of
            # the program, it would make each class a program of its own
            features = features / width_of(features)
            kernel = SquaredExponentialKernel(length_scale=1.0)
        solver = make(num_select, kernel, jax.random.key(0))
        # it mixes types and ranks, which whoever calls may have forbidden for ours
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return _solved()(solver, features)

    return select


def _thinning() -> Select:
    """Halve the examples again and again, and keep the best half of halves."""
    from coreax.kernels import SquaredExponentialKernel
    from coreax.solvers import KernelThinning

    def solver(m: int, kernel: Any, key: Any, n: int) -> Any:
        # the square root of a Gaussian is one that is narrower by the root of 2
        root = SquaredExponentialKernel(length_scale=kernel.length_scale / 2**0.5)
        delta = 1 / (n * math.log(max(3.0, math.log(n))))
        return KernelThinning(m, kernel, key, delta, root)

    def select(examples: Examples, num_select: int) -> Any:
        n = len(examples.labels)
        return _coreax(lambda m, k, key: solver(m, k, key, n))(examples, num_select)

    return select


def _disparity_min(examples: Examples, num_select: int) -> Any:
    """Greedy max-min dispersion, which is k-center's rule."""
    import submodlib

    distances = pairwise_distances(np.asarray(examples.features))
    with warnings.catch_warnings():
        # of SciPy's old names, which its compiled part imports when first called
        warnings.simplefilter("ignore", DeprecationWarning)
        function = submodlib.DisparityMinFunction(
            n=len(distances), mode="dense", sijs=1 - distances / distances.max()
        )
    picks = function.maximize(
        budget=num_select,
        optimizer="NaiveGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    return np.array([index for index, _ in picks])


def peers() -> tuple[dict[str, Select], list[str]]:
    """Return what is installed, and for the rest a sentence each why it is left out."""
    with warnings.catch_warnings():
        # of what they import in turn, of which nobody here can mend anything
        warnings.simplefilter("ignore", DeprecationWarning)
        return _imported()


def _imported() -> tuple[dict[str, Select], list[str]]:
    found: dict[str, Select] = {}
    reasons = []
    if _installed("coreax"):
        from coreax.solvers import KernelHerding, RPCholesky

        def herding(m: int, kernel: Any, key: Any) -> Any:
            del key
            return KernelHerding(m, kernel)

        found["coreax_herding_linear"] = _coreax(herding, linear=True)
        found["coreax_herding"] = _coreax(herding)
        found["coreax_rp_cholesky"] = _coreax(lambda m, k, key: RPCholesky(m, key, k))
        found["coreax_kernel_thinning"] = _thinning()
    else:
        reasons.append(_missing("coreax"))
    if _installed("submodlib"):
        importlib.import_module("submodlib")
        found["submodlib_disparity_min"] = _disparity_min
    else:
        reasons.append(_missing("submodlib"))
    return found, reasons


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _missing(package: str) -> str:
    return f"{package} is left out: it is not installed (pip install 'dpet-jax[peers]')"
