"""Features of a network and heads in closed form, against NumPy and scikit-learn."""

import jax
import numpy as np
import pytest
from fakes.networks import TINY, bright_images, normalised
from sklearn.linear_model import Ridge

from dpet_jax.data.view import View
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.pretrained.pool import arrays_of
from dpet_jax.pretrained.probe import (
    RIDGE,
    Normalisation,
    Probe,
    ridge_flops,
    ridge_head,
    softened,
    stratified,
)
from dpet_jax.training.compilation import compile_counts

HALF = Normalisation(np.full(1, 0.5, np.float32), np.full(1, 0.25, np.float32))


def probe(network, seed=0, **options):
    drawn = jax.device_get(jax.jit(network.init)(jax.random.key(seed)))
    return drawn, Probe(network, arrays_of(*drawn), HALF, "float32", 8, **options)


def test_features_are_those_of_what_the_network_sees():
    images, _ = bright_images(8)
    _, found = probe(TINY, view=View(input_size=4, evaluation_crop=0.5))
    _, plain = probe(TINY)
    middle = np.ascontiguousarray(images[:, 2:6, 2:6])
    seen, wanted = (
        np.concatenate(list(one.features(given)))
        for one, given in ((found, images), (plain, middle))
    )
    np.testing.assert_allclose(seen, wanted, rtol=1e-4, atol=1e-5)


def test_features_and_probabilities_are_those_of_the_network():
    images, _ = bright_images(20)
    (params, stats), found = probe(TINY)
    features = np.concatenate(list(found.features(images)))
    expected = jax.jit(TINY.apply)(params, stats, normalised(images))
    np.testing.assert_allclose(features, expected.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.probabilities(features), jax.nn.softmax(expected.logits), rtol=1e-4
    )
    assert found.images_done == 24


def test_networks_of_one_body_share_a_program_whatever_their_classes():
    images, _ = bright_images(4)
    list(probe(TINY)[1].features(images))
    drawn, more = probe(ResidualNetwork(8, (8,), (1,), 7, 1), seed=3)
    before = compile_counts().programs
    features = np.concatenate(list(more.features(images)))
    assert compile_counts().programs == before
    assert more.probabilities(features).shape == (4, 7)
    assert not np.allclose(
        features, np.concatenate(list(probe(TINY)[1].features(images)))
    )
    assert drawn[0]["head"]["bias"].shape == (7,)


def blobs(count=40, width=5, classes=3):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, count)
    centres = 3 * rng.normal(size=(classes, width))
    features = centres[labels] + rng.normal(size=(count, width))
    return features.astype(np.float32), labels


def test_the_head_is_a_ridge_regression_of_the_classes_whatever_the_batches():
    features, labels = blobs()
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    strength = RIDGE * np.trace(centred.T @ centred) / 5
    targets = np.eye(3)[labels]
    model = Ridge(strength, solver="cholesky").fit(features.astype(np.float64), targets)
    residual = np.mean((model.predict(features.astype(np.float64)) - targets) ** 2)
    for sizes in ([40], [7, 33], [13, 13, 14]):
        head = ridge_head(iter(np.split(features, np.cumsum(sizes)[:-1])), labels, 3)
        np.testing.assert_allclose(
            head["kernel"], model.coef_.T / residual, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            head["bias"], model.intercept_ / residual, rtol=1e-4, atol=1e-5
        )


def test_the_head_of_good_features_is_right_and_sure_and_of_constant_ones_neither():
    features, labels = blobs()
    head = ridge_head(iter([features]), labels, 3)
    logits = features @ head["kernel"] + head["bias"]
    assert np.mean(logits.argmax(axis=1) == labels) > 0.9
    assert jax.nn.softmax(logits).max(axis=1).mean() > 0.8
    constant = ridge_head(iter([np.ones_like(features)]), labels, 3)
    shares = np.bincount(labels) / len(labels)
    assert np.allclose(constant["kernel"], 0)
    assert constant["bias"].argmax() == shares.argmax()
    assert ridge_flops(40, 5, 3) == 2 * 40 * 5 * 8 + 2 * 125 // 3 + 2 * 25 * 3


def test_a_head_to_train_on_from_is_no_steeper_than_a_new_one_and_decides_the_same():
    features, labels = blobs()
    steep = ridge_head(iter([features]), labels, 3)
    assert np.linalg.norm(steep["kernel"]) > 3**0.5, "else there is nothing to soften"
    soft = softened(steep)
    assert np.linalg.norm(soft["kernel"]) == pytest.approx(3**0.5)
    assert all(values.dtype == np.float32 for values in soft.values())
    before, after = (features @ h["kernel"] + h["bias"] for h in (steep, soft))
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    flat = {"kernel": steep["kernel"] / 100, "bias": steep["bias"] / 100}
    np.testing.assert_array_equal(softened(flat)["kernel"], flat["kernel"])


def test_rows_are_drawn_in_proportion_and_again_by_the_same_seed():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    rows = stratified(labels, 20, 0)
    np.testing.assert_array_equal(np.bincount(labels[rows]), [12, 6, 2])
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, stratified(labels, 20, 0))
    assert not np.array_equal(rows, stratified(labels, 20, 1))
    np.testing.assert_array_equal(stratified(labels, 100, 0), np.arange(100))
    np.testing.assert_array_equal(stratified(labels, 2000, 0), np.arange(100))


def test_a_score_of_features_that_are_not_finite_is_none():
    _, found = probe(TINY)
    features, labels = blobs(width=8)
    assert 0 <= found.score("knn", features, labels) <= 1
    assert found.score("leep", features, labels) < 0
    features[3, 3] = np.inf
    for measure in ("knn", "leep"):
        with np.errstate(invalid="ignore"):
            assert found.score(measure, features, labels) is None
