"""The ranking law: which of two trainings of a family ends with the lower error."""

import math
from collections.abc import Hashable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from dpet_jax.section import NonNegative, Number, Positive, Section

#: Where the logarithms of the law are 0.
_VISITS, _PARAMETERS = 1e4, 1e5
#: Examples beyond which small networks have learnt most of what they can.
_MANY = 6.4e5
#: ln of examples over those that nobody will ever see.
_LONGEST = 40.0
#: Steps below which a run says nothing about its network: the largest of the grid were
#: at chance after 78 of them.
LEAST_STEPS = 150
#: What the accuracy of one run differs by from seed to seed, as a standard deviation.
SEED_NOISE = 0.0066
#: Slope of the error where it was steepest: on four classes of CIFAR-10, one of the two
#: data sets that the law of ResNet-20 was fitted to.
STEEPEST = -0.336
#: How far a refit may move the coefficients from where they were, as a standard
#: deviation: twice what two data sets differed by.
_LEEWAY = (0.02, 0.02, 0.01, 0.02)
#: How many times as far those of another family may lie, as those of ResNet-18 do.
_OTHER_FAMILY = 8.0

Coefficient = Annotated[float, Field(gt=-1, lt=1), Number]


class Law(Section):
    """A score of examples seen and parameters that ranks trainings of one family.

        g = L + a Q + b L Q + c L^2 + d Q^2,    ln error = k0 + kappa g,  kappa < 0
        L = ln(examples seen / 10^4),  Q = ln(parameters / 10^5)

    and for networks of fewer than 10^5 parameters what L has above ln 64, that is, of
    examples beyond 640,000, counts 1 / (1 - late Q),

    for runs whose rate has decayed to 0. The level k0 and the slope kappa belong to the
    data set and cancel where two trainings on it are compared; the four coefficients
    of two data sets agreed within 0.003, so that no run on new data is needed. A larger
    network pays only with examples seen, which is what b says.

    The defaults are those of ResNet-20 at scales 0.25 to 1.4, fitted to 53 cells of two
    data sets of 16 x 16 pixels in batches of 64: residuals of 0.56 points.

    Attributes:
        late: How much less small networks learn late.
        families: The kinds of models that it was calibrated on.
        visits: Range of examples seen within which it was.
        parameters: Range of parameters within which it was.
        batch_size: Of the runs that it was calibrated on.
        critical_batch: Batch size that halves the examples seen in effect, against the
            smallest batches; 260 and 380 in two runs on a CPU, hence rough.
        residual: Of its fit, in accuracy.
        origin: Where the coefficients come from.
    """

    a: Coefficient = -0.039
    b: Coefficient = 0.122
    c: Coefficient = -0.0085
    d: Coefficient = -0.040
    late: NonNegative = 3.0
    families: tuple[str, ...] = ("resnet20",)
    visits: tuple[Positive, Positive] = (5e3, 6.4e5)
    parameters: tuple[Positive, Positive] = (6e3, 7.1e5)
    batch_size: Positive = 64.0
    critical_batch: Positive = 300.0
    residual: NonNegative = 0.0056
    origin: str = (
        "shipped: 53 cells of ResNet-20 on 10 classes of CIFAR-100 and 4 of CIFAR-10, "
        "16 x 16 pixels"
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Law":
        for name in ("visits", "parameters"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(
                    f"{name} is from {low:g} to {high:g}; give the smaller number first"
                )
        return self

    @property
    def coefficients(self) -> tuple[float, float, float, float]:
        """The four, a to d."""
        return self.a, self.b, self.c, self.d

    def score(self, visits: int | float, parameters: int | float) -> float:
        """Return g: of two trainings the one with the larger ends with less error.

        Args:
            visits: Examples seen, above 0.
            parameters: Of the network, above 0.
        """
        size = math.log(parameters / _PARAMETERS)
        length = self.length(visits, size)
        return length + float(np.dot(self.coefficients, _terms(length, size)))

    def length(self, visits: int | float, size: float) -> float:
        """Return L of a training.

        Args:
            visits: Examples seen, above 0.
            size: Q of its network.
        """
        return _bent(math.log(visits / _VISITS), 1 / self._fading(size))

    def _fading(self, size: float) -> float:
        return 1 + self.late * max(0.0, -size)

    def visits_to(self, score: int | float, parameters: int | float) -> float | None:
        """Return the examples after which a network's g is a value; None if never.

        Args:
            score: g.
            parameters: Of the network.
        """
        size = math.log(parameters / _PARAMETERS)
        slope = 1 + self.b * size
        rest = self.a * size + self.d * size**2 - score
        discriminant = slope**2 - 4 * self.c * rest
        if slope <= 0 or discriminant < 0:
            return None
        # the root at which g still rises, in the form that c = 0 does not break
        counted = -2 * rest / (slope + math.sqrt(discriminant))
        length = _bent(counted, self._fading(size))
        return _VISITS * math.exp(length) if length < _LONGEST else None

    def in_effect(self, visits: int | float, batch_size: int) -> float:
        """Return the examples that as good a run in batches of `batch_size` sees.

        Args:
            visits: Examples seen.
            batch_size: In batches of so many.
        """
        share = (1 + self.batch_size / self.critical_batch) / (
            1 + batch_size / self.critical_batch
        )
        return visits * min(1.0, share)

    def beyond(
        self, family: str, visits: int | float, parameters: int | float
    ) -> tuple[str, ...]:
        """Return what of a training lies where the law was not calibrated.

        Args:
            family: Kind of the model.
            visits: Examples seen.
            parameters: Of the network.
        """
        found = []
        if family not in self.families:
            found.append(
                f"no coefficients were fitted to {family}; those of "
                f"{', '.join(self.families)} are used"
            )
        for value, (low, high), what in (
            (visits, self.visits, "examples"),
            (parameters, self.parameters, "parameters"),
        ):
            if not low <= value <= high:
                found.append(f"{value:,.0f} {what}, not {low:,.0f} to {high:,.0f}")
        return tuple(found)

    def deviation(self, accuracy: int | float) -> float:
        """Return by how much a run's accuracy differs from what is predicted.

        A standard deviation, of the fit and of the seed together. Both were measured
        near one half; towards 0 and 1 it falls as that of counted examples does.

        Args:
            accuracy: Predicted; below 0 where the law goes on too far.
        """
        near_half = math.hypot(self.residual, SEED_NOISE)
        share = min(1.0, max(0.0, accuracy))
        return 2 * math.sqrt(share * (1 - share)) * near_half

    def aim(self, target: int | float) -> float:
        """Return the accuracy to plan for so that most runs reach a target.

        It lies a standard deviation above, so that five runs in six do: of those that
        are planned for the target itself every other one would end below it.

        Args:
            target: Accuracy to reach, in (0, 1).
        """
        # no error is more than halved for it
        return min(target + self.deviation(target), (1 + target) / 2)


def _bent(length: float, factor: float) -> float:
    """Count what a length has beyond that of many examples by a factor."""
    most = math.log(_MANY / _VISITS)
    return min(length, most) + factor * max(0.0, length - most)


SHIPPED = Law()

#: Networks of four stages are a hundred times as large, and largeness costs them less:
#: where all take as long, the law of ResNet-20 alone loses up to 4 points on average.
_RESNET18 = Law(
    a=0.2241,
    b=0.2671,
    c=0.0672,
    d=-0.0703,
    families=("resnet18",),
    visits=(1e4, 1.6e5),
    parameters=(1.7e5, 1.2e7),
    residual=0.0086,
    origin="shipped: the law of ResNet-20 calibrated on 52 cells of ResNet-18 on twice "
    "20 classes of CIFAR-100, 4 of CIFAR-10 and Fashion-MNIST, 16 x 16 pixels",
)


def shipped(family: str) -> Law:
    """Return the law of a family, by default that of ResNet-20.

    Args:
        family: Kind of the model.
    """
    return _RESNET18 if family in _RESNET18.families else SHIPPED


class Observation(NamedTuple):
    """How a finished run ended whose rate had decayed.

    Attributes:
        group: What it shares level and slope with: its data set and its recipe.
        visits: Examples seen.
        parameters: Of its network.
        accuracy: Of its end, in (0, 1).
    """

    group: Hashable
    visits: int | float
    parameters: int | float
    accuracy: float


class Level(NamedTuple):
    """Where the error of a data set lies: ln error = k0 + kappa g.

    Attributes:
        k0: Logarithm of the error at g = 0.
        kappa: Its slope, below 0.
    """

    k0: float
    kappa: float

    def accuracy(self, score: int | float) -> float:
        """Return the accuracy that a training of a score g ends with."""
        return 1 - math.exp(self.k0 + self.kappa * score)

    def score(self, accuracy: float) -> float:
        """Return the g that an accuracy in (0, 1) takes."""
        return (math.log(1 - accuracy) - self.k0) / self.kappa


def steepest_level(one: Observation, law: Law = SHIPPED) -> Level:
    """Return the level through one run if the error falls as steeply as any known.

    Args:
        one: The run.
        law: Gives its g.
    """
    score = law.score(one.visits, one.parameters)
    return Level(math.log(1 - one.accuracy) - STEEPEST * score, STEEPEST)


def fit_level(observations: Sequence[Observation], law: Law = SHIPPED) -> Level:
    """Fit level and slope of one data set to runs on it.

    Args:
        observations: At least two, of different g.
        law: Gives g.

    Raises:
        ValueError: If they fix no slope, or one that does not fall.
    """
    if len(observations) < 2:
        raise ValueError("level and slope of the error take two runs at least")
    scores = np.array([law.score(one.visits, one.parameters) for one in observations])
    errors = np.array([1 - one.accuracy for one in observations])
    if np.ptp(scores) < 0.1:
        raise ValueError(
            "the runs are too much alike to tell how the error falls; let one see at "
            "least twice the examples of another"
        )
    # residuals as points of accuracy, to first order
    kappa, k0 = np.polyfit(scores, np.log(errors), 1, w=errors)
    if kappa >= 0:
        raise ValueError(
            "the error of these runs does not fall with examples and parameters"
        )
    return Level(float(k0), float(kappa))


def refit(
    observations: Sequence[Observation],
    prior: Law = SHIPPED,
    *,
    strength: int | float = 1.0,
    family: str | None = None,
) -> Law:
    """Fit the coefficients to runs, held to those of a prior law by a ridge.

    Level and slope of each group are free. The residuals are points of accuracy, to
    first order, in units of the noise from seed to seed; the ridge is a coefficient's
    distance from the prior's in units of what two data sets differed by, or, for a
    family that the prior was not calibrated on, of what two families did.

    Args:
        observations: Groups of at least three runs.
        prior: The law that a few runs should hardly move.
        strength: Of the ridge; 0 for none.
        family: Kind of the networks; by default one that the prior was calibrated on.

    Raises:
        ValueError: If no group says anything.
    """
    from scipy.optimize import least_squares

    groups = sorted({str(one.group) for one in observations})
    members = [groups.index(str(one.group)) for one in observations]
    if not groups or np.bincount(members).min() < 3:
        raise ValueError(
            "a fit takes at least three runs with the same data and recipe, for two "
            "only fix level and slope"
        )
    sizes = np.log([one.parameters / _PARAMETERS for one in observations])
    lengths = np.array(
        [
            prior.length(one.visits, float(size))
            for one, size in zip(observations, sizes, strict=True)
        ]
    )
    errors = np.array([1 - one.accuracy for one in observations])
    terms, known = _terms(lengths, sizes), np.array(prior.coefficients)
    same = family is None or family in prior.families
    leeway = np.array(_LEEWAY) * (1.0 if same else _OTHER_FAMILY)

    def residuals(point: np.ndarray) -> np.ndarray:
        coefficients, levels = point[:4], point[4:].reshape(-1, 2)[members]
        scores = lengths + coefficients @ terms
        wrong = np.log(errors) - levels[:, 0] - levels[:, 1] * scores
        ridge = math.sqrt(strength) * (coefficients - known) / leeway
        return np.r_[errors * wrong / SEED_NOISE, ridge]

    start = lengths + known @ terms
    levels = [
        np.polyfit(start[here], np.log(errors[here]), 1, w=errors[here])[::-1]
        for here in (np.array(members) == group for group in range(len(groups)))
    ]
    fitted = least_squares(residuals, np.concatenate([known, *levels]))
    if fitted.x[5::2].max() >= 0:
        raise ValueError(
            "the error of these runs does not fall with examples and parameters; were "
            "all of them trained to the end of their schedule?"
        )
    a, b, c, d = (float(value) for value in fitted.x[:4])
    wrong = fitted.fun[: len(errors)] * SEED_NOISE
    seen = {
        "visits": [one.visits for one in observations],
        "parameters": [one.parameters for one in observations],
    }
    ranges = {
        name: _range([*values, *getattr(prior, name)] if same else values)
        for name, values in seen.items()
    }
    return prior.model_copy(
        update={
            **dict(zip("abcd", (a, b, c, d), strict=True)),
            **ranges,
            "families": prior.families if same else (family,),
            "residual": float(np.sqrt(np.mean(wrong**2))),
            "origin": f"refitted to {len(observations)} runs in {len(groups)} groups",
        }
    )


def _range(values: Sequence[int | float]) -> tuple[float, float]:
    # runs of one network leave a range of no width
    return min(values) / 1.01, max(values) * 1.01


def _terms(length: "float | np.ndarray", size: "float | np.ndarray") -> np.ndarray:
    """Return what the coefficients multiply, of ln examples and ln parameters."""
    return np.array([size, length * size, length**2, size**2])
