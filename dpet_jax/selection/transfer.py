"""How well a network's features fit a data set: measures of transferability.

Each is a function of one forward pass over some labelled examples: features that the
last layer reads, or the network's probabilities of the classes that it was trained on.
Larger is better for all of them. They are computed once for each network on at most a
few thousand examples, so they are plain NumPy in float64.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

#: LogME: steps of its fixed point, and when it counts as reached.
_STEPS, _TOLERANCE = 11, 1e-3
#: LogME: added to what its precisions are divided by, as its authors do.
_FLOOR = 1e-5
#: NLEEP: share of the variance that is kept, and components of the mixture a class.
_VARIANCE, _COMPONENTS = 0.8, 5

Features = Float[np.ndarray, "n d"]
Labels = Int[np.ndarray, " n"]


def knn(features: Features, labels: Labels, *, num_neighbours: int = 5) -> float:
    """Return the leave-one-out accuracy of the nearest neighbours by cosine.

    Each example gets the class that most of its neighbours have; among classes with as
    many, that of the nearest. Features that are all zero are as far from everything as
    orthogonal ones.

    Args:
        features: What the last layer reads.
        labels: Class of each row.
        num_neighbours: At most n - 1 are used.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: If there are fewer than two rows, or a value is not finite.

    Source:
        arXiv:2503.18528, which found it the best of 23 measures on average.
    """
    features, labels = _checked(features, labels, least=2)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(num_neighbours, len(labels) - 1)
    # equal likenesses in the order of rows, wherever this is computed
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    classes, compact = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(labels), len(classes)))
    rows = np.arange(len(labels))
    for place in range(count):
        # less than one vote in all, and the more the nearer
        votes[rows, compact[nearest[:, place]]] += 1 + 2.0 ** -(place + 2)
    return float(np.mean(votes.argmax(axis=1) == compact))


def logme(features: Features, labels: Labels) -> float:
    """Return the logarithm of maximum evidence of a linear model, per example.

    For each class a Bayesian linear regression of its indicator on the features, with
    the precisions of weights and noise that make the indicator likeliest; the mean over
    the classes that occur.

    Args:
        features: What the last layer reads.
        labels: Class of each row.

    Returns:
        Nats per example.

    Raises:
        ValueError: If there are no rows, or a value is not finite.

    Source:
        You et al. (2021), "LogME: Practical Assessment of Pre-trained Models for
        Transfer Learning", algorithm 3, with the fixed point of the journal version.
    """
    features, labels = _checked(features, labels)
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    # directions without variance hold no evidence, and rounding alone has a say there
    kept = singular > singular.max(initial=0.0) * max(features.shape) * 2e-16
    squares, left = singular[kept] ** 2, left[:, kept]
    evidence = [
        _evidence(
            squares, left.T @ indicator, float(indicator @ indicator), len(labels)
        )
        for indicator in (
            (labels == label).astype(np.float64) for label in np.unique(labels)
        )
    ]
    return float(np.mean(evidence))


def _evidence(
    squares: np.ndarray, projected: np.ndarray, norm: float, count: int
) -> float:
    """Return the maximum log evidence per example of one regression.

    Args:
        squares: Squared singular values of the features.
        projected: The indicator in their left singular basis.
        norm: Squared length of the indicator.
        count: Examples, n.
    """
    alpha, beta = 1.0, 1.0
    outside = max(0.0, norm - float(projected @ projected))

    def moments(ratio: float) -> tuple[float, float]:
        weights = float(np.sum(squares * projected**2 / (ratio + squares) ** 2))
        residual = np.sum(projected**2 / (1 + squares / ratio) ** 2) + outside
        return weights, float(residual)

    weights, residual = moments(1.0)
    for _ in range(_STEPS):
        ratio = alpha / beta
        gamma = float(np.sum(squares / (squares + ratio)))
        weights, residual = moments(ratio)
        alpha = gamma / (weights + _FLOOR) if squares.size else 1.0
        beta = (count - gamma) / (residual + _FLOOR)
        if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
            break
    weights, residual = moments(alpha / beta)
    # the determinant without the dimensions in which there are no features
    total = -0.5 * np.sum(np.log1p(squares * beta / alpha))
    total += 0.5 * count * np.log(beta / (2 * np.pi))
    total -= 0.5 * (beta * residual + alpha * weights)
    return float(total) / count


def leep(probabilities: Float[np.ndarray, "n s"], labels: Labels) -> float:
    """Return the log expected empirical prediction.

    The mean log-probability of the labels under a classifier that draws a source class
    from the network's probabilities, then a label from those that go with it:
    log sum_z P(y | z) theta(x)_z.

    Args:
        probabilities: The network's, of its own classes; each row adds up to 1.
        labels: Class of each row.

    Returns:
        Nats per example, at most 0.

    Raises:
        ValueError: If there are no rows, a value is negative or not finite, or a row
            holds zeros alone.

    Source:
        Nguyen et al. (2020), "LEEP: A New Measure to Evaluate Transferability of
        Learned Representations".
    """
    probabilities, labels = _checked(probabilities, labels)
    if (probabilities < 0).any() or not (probabilities.sum(axis=1) > 0).all():
        raise ValueError("probabilities must be at least 0 and not all 0 in a row")
    classes, compact = np.unique(labels, return_inverse=True)
    joint = np.zeros((len(classes), probabilities.shape[1]))
    np.add.at(joint, compact, probabilities)
    sums = joint.sum(axis=0)
    given = np.divide(joint, sums, out=np.zeros_like(joint), where=sums > 0)
    expected = np.sum(given[compact] * probabilities, axis=1)
    return float(np.mean(np.log(expected)))


def nleep(features: Features, labels: Labels, *, seed: int = 0) -> float:
    """Return LEEP with a mixture of Gaussians in place of the network's classes.

    Principal components of the features that hold 80 % of their variance are clustered
    by a mixture of five Gaussians a class, whose posteriors are the probabilities. Its
    covariances are diagonal, where the paper's are full: some hundred components of a
    few thousand examples are too few for them.

    Args:
        features: What the last layer reads.
        labels: Class of each row.
        seed: Decides where the mixture starts.

    Returns:
        Nats per example, at most 0. Features without variance give that of one
        cluster: minus the entropy of the labels.

    Raises:
        ValueError: If there are no rows, or a value is not finite.

    Source:
        Li et al. (2021), "Ranking Neural Checkpoints".
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    features, labels = _checked(features, labels)
    if np.ptp(features, axis=0).max() == 0:
        return leep(np.ones((len(labels), 1)), labels)
    reduced = PCA(_VARIANCE, svd_solver="full").fit_transform(features)
    distinct = len(np.unique(reduced, axis=0))
    components = min(_COMPONENTS * len(np.unique(labels)), distinct)
    # of the order of 1, so that what is added to variances is little beside them
    reduced /= reduced.std(axis=0)[:1]
    mixture = GaussianMixture(components, covariance_type="diag", random_state=seed)
    with warnings.catch_warnings():
        # a mixture that is still moving is good enough to rank by
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(reduced)
    return leep(mixture.predict_proba(reduced), labels)


def h_score(features: Features, labels: Labels) -> float:
    """Return the share of the features' variance that lies between classes, summed.

    tr(C^-1 B), with the covariance C of the features and B of their class means; the
    number of classes less one at most. C is shrunk towards a multiple of the identity
    as Ledoit and Wolf do, and B by the same share, so that more features than examples
    give no false certainty.

    Args:
        features: What the last layer reads.
        labels: Class of each row.

    Returns:
        At least 0; 0 for features without variance, or one class.

    Raises:
        ValueError: If there are no rows, or a value is not finite.

    Source:
        Bao et al. (2019), "An Information-Theoretic Approach to Transferability in Task
        Transfer Learning"; Ibrahim et al. (2021), "Newer is not always better:
        Rethinking transferability metrics", for the shrinkage.
    """
    from sklearn.covariance import ledoit_wolf

    features, labels = _checked(features, labels)
    centred = features - features.mean(axis=0)
    spread = np.abs(centred).max()
    # what rounding leaves of constant features is no variance
    if spread <= 1e-12 * np.abs(features).max():
        return 0.0
    centred /= spread
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    _, compact, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), centred.shape[1]))
    np.add.at(sums, compact, centred)
    between = (sums / counts[:, None]).T @ sums / len(labels)
    ratio = np.linalg.lstsq(covariance, between, rcond=None)[0]
    return max(0.0, float((1 - shrinkage) * np.trace(ratio)))


def _checked(
    values: np.ndarray, labels: np.ndarray, *, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return values in float64 and labels, or refuse what no measure is defined on."""
    if len(labels) < least or values.shape[1] == 0:
        raise ValueError(f"needs at least {least} rows and a column: {values.shape}")
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("every value must be finite")
    return values, np.asarray(labels)


#: What a network can be chosen by, by name; each takes features or, as `PROBABILISTIC`
#: says, probabilities, and labels.
MEASURES: dict[str, Callable[..., Any]] = {
    "knn": knn,
    "logme": logme,
    "leep": leep,
    "nleep": nleep,
    "h_score": h_score,
}
#: Of these, those that take the network's probabilities.
PROBABILISTIC = frozenset({"leep"})
