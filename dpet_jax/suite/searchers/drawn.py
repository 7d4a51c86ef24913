"""Settings that optuna draws: by chance, or where good ones were denser than bad."""

from typing import Any, Literal

from dpet_jax.suite.searchers.base import Search, StudiedSearch


class Tpe(Search):
    """Tree-structured Parzen estimators of all keys at once, by optuna.

    Source:
        Bergstra et al., "Algorithms for hyper-parameter optimization" (NeurIPS 2011).
    """

    kind: Literal["tpe"] = "tpe"

    def sampler(self, seed: int) -> Any:
        """Return optuna's; what is still running counts as bad, so that others differ.

        Otherwise all workers would try the same.
        """
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


class ByChance(StudiedSearch):
    """Every setting as likely as any other.

    Source:
        Bergstra and Bengio, "Random search for hyper-parameter optimization" (JMLR
        2012).
    """

    kind: Literal["random"] = "random"
