"""Measures of transferability against independent float64 computations."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

from dpet_jax.selection.transfer import (
    MEASURES,
    PROBABILISTIC,
    h_score,
    knn,
    leep,
    logme,
    nleep,
)

FEATURES = [knn, logme, nleep, h_score]


def clusters(spread, *, count=60, dimensions=6, classes=3, seed=0):
    """Draw features round one centre a class, as far from it as asked for."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, classes, count)).astype(np.int32)
    centres = rng.normal(size=(classes, dimensions))
    noise = rng.normal(size=(count, dimensions))
    return (centres[labels] + spread * noise).astype(np.float32), labels


def knn_of_loops(features, labels, neighbours=5):
    right = 0
    for row, one in enumerate(features.astype(np.float64)):
        likeness = {}
        for other, two in enumerate(features.astype(np.float64)):
            length = np.linalg.norm(one) * np.linalg.norm(two)
            likeness[other] = one @ two / length if length else 0.0
        del likeness[row]
        nearest = sorted(likeness, key=lambda i: (-likeness[i], i))[:neighbours]
        votes = [labels[i] for i in nearest]
        most = max(votes.count(label) for label in votes)
        right += next(v for v in votes if votes.count(v) == most) == labels[row]
    return right / len(labels)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_knn_is_what_loops_find(spread):
    features, labels = clusters(spread)
    assert knn(features, labels) == pytest.approx(knn_of_loops(features, labels))
    features[::7] = 0
    assert knn(features, labels) == pytest.approx(knn_of_loops(features, labels))


def test_knn_of_one_neighbour_is_scikit_learn_s():
    features, labels = clusters(1.0)
    right = 0
    for row in range(len(labels)):
        others = np.delete(np.arange(len(labels)), row)
        model = KNeighborsClassifier(1, metric="cosine")
        model.fit(features[others], labels[others])
        right += model.predict(features[row : row + 1])[0] == labels[row]
    assert knn(features, labels, num_neighbours=1) == pytest.approx(right / len(labels))


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_logme_is_the_largest_evidence_of_the_regressions(spread):
    features, labels = clusters(spread, count=30)
    gram = features.astype(np.float64) @ features.T.astype(np.float64)
    found = []
    for label in range(3):
        target = (labels == label).astype(np.float64)

        def minus_evidence(logs, target=target):
            alpha, beta = np.exp(logs)
            covariance = gram / alpha + np.eye(len(gram)) / beta
            return -multivariate_normal.logpdf(target, cov=covariance)

        best = minimize(minus_evidence, [0.0, 2.0], method="Nelder-Mead")
        found.append(-best.fun / len(labels))
    assert logme(features, labels) == pytest.approx(np.mean(found), abs=2e-3)


def leep_of_loops(probabilities, labels):
    total = 0.0
    for row, label in enumerate(labels):
        expected = 0.0
        for z in range(probabilities.shape[1]):
            joint = probabilities[labels == label, z].sum()
            everything = probabilities[:, z].sum()
            if everything:
                expected += joint / everything * probabilities[row, z]
        total += np.log(expected)
    return total / len(labels)


def test_leep_is_what_loops_find():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.3), 40)
    probabilities[:, 2] = 0  # a source class that nothing looks like
    labels = rng.integers(0, 3, 40)
    expected = leep_of_loops(probabilities, labels)
    assert leep(probabilities, labels) == pytest.approx(expected)


def test_leep_is_0_where_source_classes_decide_and_minus_the_entropy_where_not():
    labels = np.array([0, 0, 1, 1])
    assert leep(np.eye(3)[[2, 2, 0, 0]], labels) == pytest.approx(0.0)
    assert leep(np.full((4, 3), 1 / 3), labels) == pytest.approx(np.log(0.5))


def test_nleep_is_leep_of_the_posteriors_of_the_mixture():
    features, labels = clusters(0.5)
    reduced = PCA(0.8, svd_solver="full").fit_transform(features.astype(np.float64))
    reduced /= reduced[:, 0].std()
    mixture = GaussianMixture(15, covariance_type="diag", random_state=0).fit(reduced)
    density = np.stack(
        [
            weight * norm.pdf(reduced, mean, np.sqrt(variance)).prod(axis=1)
            for weight, mean, variance in zip(
                mixture.weights_, mixture.means_, mixture.covariances_, strict=True
            )
        ],
        axis=1,
    )
    posterior = density / density.sum(axis=1, keepdims=True)
    expected = leep_of_loops(posterior, labels)
    assert nleep(features, labels) == pytest.approx(expected, abs=1e-9)


def h_score_of_loops(features, labels):
    """Shrink as Ledoit and Wolf (2004), equations 14 and lemma 3.2 to 3.4, do."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    count, dimensions = centred.shape
    sample = centred.T @ centred / count
    mean = np.trace(sample) / dimensions
    distance = np.sum((sample - mean * np.eye(dimensions)) ** 2)
    noise = sum(np.sum((np.outer(x, x) - sample) ** 2) for x in centred) / count**2
    share = min(noise, distance) / distance
    shrunk = share * mean * np.eye(dimensions) + (1 - share) * sample
    means = np.stack([centred[labels == label].mean(axis=0) for label in labels])
    between = (1 - share) * means.T @ means / count
    return np.trace(np.linalg.inv(shrunk) @ between)


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_h_score_is_what_the_definition_gives(spread):
    features, labels = clusters(spread)
    expected = h_score_of_loops(features, labels)
    assert h_score(features, labels) == pytest.approx(expected)
    assert h_score(1e6 * features + 5, labels) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("measure", FEATURES)
def test_features_that_tell_classes_apart_are_worth_more(measure):
    values = [measure(*clusters(spread)) for spread in (0.3, 1.0, 4.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


@pytest.mark.parametrize("measure", FEATURES)
def test_a_measure_does_not_hang_on_the_names_or_the_numbers_of_classes(measure):
    features, labels = clusters(1.0)
    names = np.array([7, 900, 31])[labels]
    assert measure(features, names) == pytest.approx(measure(features, labels))


@pytest.mark.parametrize("measure", FEATURES)
@pytest.mark.parametrize("value", [0.0, 3.7])
def test_constant_features_give_finite_values_below_those_of_good_ones(measure, value):
    features, labels = clusters(0.3)
    constant = measure(np.full_like(features, value), labels)
    assert np.isfinite(constant)
    assert constant < measure(features, labels)


@pytest.mark.parametrize("measure", FEATURES)
def test_one_class_and_zero_rows_among_others_are_finite(measure):
    features, labels = clusters(0.3)
    assert np.isfinite(measure(features, np.zeros_like(labels)))
    features[:20] = 0
    assert np.isfinite(measure(features, labels))


def test_what_one_class_gives():
    features, labels = clusters(0.3)
    nothing = np.zeros_like(labels)
    assert knn(features, nothing) == 1
    assert nleep(features, nothing) == pytest.approx(0)
    assert h_score(features, nothing) == pytest.approx(0, abs=1e-12)
    assert leep(np.full((60, 2), 0.5), nothing) == pytest.approx(0)


def test_more_dimensions_than_examples_are_no_certainty():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 60)), np.arange(20) % 2
    assert h_score(features, labels) < 0.5  # 1 without shrinkage
    assert logme(features, labels) < logme(features + 3 * labels[:, None], labels)


@pytest.mark.parametrize("name", MEASURES)
def test_what_no_measure_is_defined_on_is_refused(name):
    measure = MEASURES[name]
    features, labels = np.ones((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="rows"):
        measure(np.ones((0, 2)), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="column"):
        measure(np.ones((4, 0)), labels)
    features[1, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        measure(features, labels)


def test_no_probabilities_are_refused():
    assert {"leep"} == PROBABILISTIC
    labels = np.array([0, 1])
    for wrong in ([[0.5, 0.5], [0.0, 0.0]], [[1.5, -0.5], [0.5, 0.5]]):
        with pytest.raises(ValueError, match="at least 0"):
            leep(np.array(wrong), labels)
