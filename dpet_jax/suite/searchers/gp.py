"""Bayesian search by Gaussian processes: the best accuracy, or the best for its cost.

Nothing here needs PyTorch, as optuna's own does.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtr

from dpet_jax.section import Count, CountFromZero
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.base import Observed, StudiedSearch

#: Of the random candidates, as many are drawn around the best setting so far, this far
#: away on axes from 0 to 1.
_NEAR_SHARE, _NEAR = 0.25, 0.08
#: Of the study: candidates, and what it adds to a deviation before it divides by it.
_STUDIED_CANDIDATES, _STUDIED_FLOOR = 10_000, 1e-9

_Values = dict[str, Any]


class Gp(StudiedSearch):
    """The setting whose accuracy is expected to improve most, or most for its cost.

    A Gaussian process (Matérn 5/2, a length for each axis, and noise) is fitted to the
    accuracies over axes from 0 to 1; the next setting is the candidate with the largest
    expected improvement

        EI(x) = (mu - best) Phi(z) + sigma phi(z),    z = (mu - best) / sigma.

    With `per_cost`, a second one is fitted to the logarithms of the measured costs, and
    EI(x) / exp(mu_cost(x)) is the largest, so that a dear setting has to promise more.
    A setting that diverged counts as the worst so far, and so does one that another
    worker is trying, lest both try the same; neither says what a setting costs.

    In `compat: study` the process has scikit-learn's default kernel (RBF of length 1,
    nothing fitted), the values go in as they are, one setting is drawn by chance, and
    of 10,000 uniform candidates that with the largest probability of improvement is
    next. The study fitted the accuracies of eight runs of each setting; here there is
    one.

    Source:
        Snoek et al., "Practical Bayesian optimization of machine learning algorithms"
        (NeurIPS 2012), with expected improvement per second. Lee et al., "Cost-aware
        Bayesian optimization" (arXiv:2003.10870), on its leaning to cheap settings,
        which their cooling of the cost avoids; that is not done here.
    """

    kind: Literal["gp"] = "gp"
    per_cost: bool = Field(
        False,
        description="divide by the expected cost: Wh where all trials measured it, "
        "FLOPs elsewhere",
    )
    initial: Count = Field(5, description="settings drawn by chance before the first")
    candidates: Count = Field(2000, description="settings to choose the next from")
    restarts: CountFromZero = Field(
        1, description="of fitting the kernel, from lengths drawn by chance"
    )

    @property
    def name(self) -> str:
        """As of any search; `energy_aware` with `per_cost`, `study` in its mode."""
        found = super().name.replace("study_gp", "study", 1)
        return found.replace("gp_per_cost", "energy_aware", 1)

    def point(
        self, axes: Sequence[Axis], past: Sequence[Observed], seed: int
    ) -> _Values | None:
        """Return the most promising candidate; None while too little is known."""
        studied = self.compat == "study"
        known = [one for one in past if one.accuracy is not None]
        if len(past) < (1 if studied else self.initial) or not known:
            return None
        rng = np.random.default_rng([seed, len(past)])
        if studied:
            return _studied(axes, known, rng)
        found = _candidates(axes, known, self.candidates, rng)
        tried = {_texts(axes, one.values) for one in past}
        # all of a few choices may have been tried
        found = [v for v in found if _texts(axes, v) not in tried] or found
        worst = min(one.accuracy for one in known if one.accuracy is not None)
        x = _coordinates(axes, [one.values for one in past])
        y = np.array([worst if one.accuracy is None else one.accuracy for one in past])
        at = _coordinates(axes, found)
        mean, deviation = self._predicted(x, y, at, rng)
        gain = expected_improvement(mean, deviation, float(y.max()))
        if self.per_cost:
            paid = [one for one in known if one.cost]
            if paid:
                x = _coordinates(axes, [one.values for one in paid])
                logs = np.log([one.cost for one in paid if one.cost])
                expected, _ = self._predicted(x, logs, at, rng)
                gain = gain / np.exp(expected - expected.min())
        return found[int(np.argmax(gain))]

    def _predicted(
        self, x: np.ndarray, y: np.ndarray, at: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of a process fitted to y at x, elsewhere."""
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        if np.ptp(y) == 0:  # nothing to fit, and nothing to divide by
            return np.full(len(at), y[0]), np.ones(len(at))
        lengths = np.full(x.shape[1], 0.5)
        kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(
            lengths, (0.05, 20.0), nu=2.5
        ) + WhiteKernel(1e-3, (1e-6, 0.5))
        return _predicted(
            x,
            y,
            at,
            kernel=kernel,
            normalize_y=True,
            n_restarts_optimizer=self.restarts,
            random_state=int(rng.integers(2**31)),
        )


def expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, best: float
) -> np.ndarray:
    """Return by how much normal values are expected to exceed the best, at least 0.

    Args:
        mean: Of each.
        deviation: Of each, 0 or more.
        best: What is to be exceeded.
    """
    above = mean - best
    with np.errstate(divide="ignore", invalid="ignore"):
        z = above / deviation
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        gain = above * ndtr(z) + deviation * density
    return np.where(deviation > 0, np.maximum(gain, 0.0), np.maximum(above, 0.0))


def probability_of_improvement(
    mean: np.ndarray, deviation: np.ndarray, best: float
) -> np.ndarray:
    """Return how likely normal values exceed the best, as the study computed it."""
    return ndtr((mean - best) / (deviation + _STUDIED_FLOOR))


def _studied(
    axes: Sequence[Axis], known: Sequence[Observed], rng: np.random.Generator
) -> _Values:
    """Return the next setting of the study."""
    found = _uniform(axes, _STUDIED_CANDIDATES, rng)
    x, at = (_plain(axes, values) for values in ([o.values for o in known], found))
    y = np.array([one.accuracy for one in known])
    mean, deviation = _predicted(x, y, at)
    chance = probability_of_improvement(mean, deviation, float(y.max()))
    return found[int(np.argmax(chance))]


def _predicted(
    x: np.ndarray, y: np.ndarray, at: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.gaussian_process import GaussianProcessRegressor

    with warnings.catch_warnings():
        # a length at the end of its range, or a variance of 0: nothing that anyone
        # could do about
        warnings.simplefilter("ignore")
        process = GaussianProcessRegressor(**options).fit(x, y)
        mean, deviation = process.predict(at, return_std=True)
    return mean, deviation


def _uniform(
    axes: Sequence[Axis], count: int, rng: np.random.Generator
) -> list[_Values]:
    return _settings(axes, rng.random((count, len(axes))))


def _candidates(
    axes: Sequence[Axis], known: Sequence[Observed], count: int, rng: Any
) -> list[_Values]:
    """Return settings from all over, and some around the best of those that ended."""
    best = max(known, key=lambda one: one.accuracy or 0.0).values
    near = round(_NEAR_SHARE * count)
    shares = np.array([axis.share_of(best[axis.key]) for axis in axes])
    around = np.clip(shares + _NEAR * rng.standard_normal((near, len(axes))), 0, 1)
    return [*_uniform(axes, count - near, rng), *_settings(axes, around)]


def _settings(axes: Sequence[Axis], shares: np.ndarray) -> list[_Values]:
    return [
        {axis.key: axis.value_at(share) for axis, share in zip(axes, row, strict=True)}
        for row in shares.tolist()
    ]


def _texts(axes: Sequence[Axis], values: _Values) -> tuple[str, ...]:
    return tuple(axis.text_of(values[axis.key]) for axis in axes)


def _coordinates(axes: Sequence[Axis], settings: Sequence[_Values]) -> np.ndarray:
    """Return settings as points [n, d] between 0 and 1.

    Choices that are numbers lie in their order, evenly; others have an axis each, so
    that all are equally far apart.
    """
    columns = []
    for axis in axes:
        values = [setting[axis.key] for setting in settings]
        if axis.choices and axis.numbers is None:
            rows = [[float(value == c) for c in axis.choices] for value in values]
            columns.append(np.array(rows) / np.sqrt(2))
        elif axis.choices and axis.numbers is not None:
            order = np.argsort(np.argsort(axis.numbers)) / (len(axis.choices) - 1)
            columns.append(
                np.array([[order[axis.choices.index(value)]] for value in values])
            )
        else:
            columns.append(np.array([[axis.share_of(value)] for value in values]))
    return np.concatenate(columns, axis=1)


def _plain(axes: Sequence[Axis], settings: Sequence[_Values]) -> np.ndarray:
    """Return settings as the study took them: numbers as they are, others counted."""
    columns = []
    for axis in axes:
        values = [setting[axis.key] for setting in settings]
        if axis.choices:
            numbers = axis.numbers or tuple(map(float, range(len(axis.choices))))
            values = [numbers[axis.choices.index(value)] for value in values]
        columns.append(values)
    return np.array(columns, float).T
