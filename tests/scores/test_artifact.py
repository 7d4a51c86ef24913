import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import least_confidence
from dpet_jax.scores.artifact import ARTIFACT_SCORES, artifact_importance

UNCERTAINTIES = ("margin", "entropy", "least_confidence")
DISSIMILARITIES = ("none", "euclidean", "kl")
every_score = pytest.mark.parametrize("score", UNCERTAINTIES)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.normal(size=(7, 5)), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, 5, 7), jnp.int32)


def reference(score, dissimilarity, logits, labels):
    """What the authors take the smallest of, negated, in float64 NumPy."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    descending = -np.sort(-p, axis=-1)
    certainty = {
        "margin": descending[:, 0] - descending[:, 1],
        "entropy": (p * np.log(p + 1e-6)).sum(-1),
        "least_confidence": logits.max(-1),
    }[score]
    one_hot = np.eye(logits.shape[1])[labels]
    distance = {
        "none": 0.0,
        "euclidean": np.sqrt(((one_hot - logits) ** 2).sum(-1)),
        "kl": -(one_hot * logits).sum(-1),
    }[dissimilarity]
    return -(certainty + distance)


@pytest.mark.parametrize("dissimilarity", DISSIMILARITIES)
@every_score
def test_importance_matches_numpy_float64(score, dissimilarity, variant, examples):
    kernel = ARTIFACT_SCORES[f"artifact_{score}_{dissimilarity}"]
    expected = reference(score, dissimilarity, *examples)
    got = variant(kernel)(*examples)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize(
    ("score", "dissimilarity", "importance"),
    [
        ("margin", "none", 0.0),
        ("entropy", "none", -np.log(0.5 + 1e-6)),
        ("least_confidence", "none", -3.0),
        ("margin", "euclidean", -((2**2 + 3**2) ** 0.5)),
        ("least_confidence", "kl", -3.0 + 3.0),
    ],
)
def test_importance_of_two_logits_of_three(score, dissimilarity, importance):
    got = artifact_importance(
        jnp.array([3.0, 3.0]), jnp.int32(0), score=score, dissimilarity=dissimilarity
    )
    np.testing.assert_allclose(got, importance, rtol=1e-6, atol=1e-7)


@every_score
def test_a_tie_ranks_above_certainty(score):
    kernel = ARTIFACT_SCORES[f"artifact_{score}_none"]
    tie, certain = jnp.zeros(4), jnp.array([9.0, 0.0, 0.0, 0.0])
    assert kernel(tie, jnp.int32(0)) > kernel(certain, jnp.int32(0))


def test_least_confidence_ranks_by_the_raw_logit_not_by_the_probability():
    certain_but_short, tied_but_long = jnp.array([[2.0, -9.0, -9.0], [8.0, 8.0, 8.0]])
    label = jnp.int32(0)
    theirs = ARTIFACT_SCORES["artifact_least_confidence_none"]
    assert theirs(certain_but_short, label) > theirs(tied_but_long, label)
    assert least_confidence(certain_but_short, label) < least_confidence(
        tied_but_long, label
    )


@pytest.mark.parametrize("score", ["margin", "entropy"])
def test_only_with_a_dissimilarity_does_a_shift_of_the_logits_matter(score, examples):
    logits, labels = examples

    def change(dissimilarity):
        kernel = jax.vmap(ARTIFACT_SCORES[f"artifact_{score}_{dissimilarity}"])
        return np.abs(np.asarray(kernel(logits + 5.0, labels) - kernel(logits, labels)))

    assert change("none").max() < 1e-5
    assert change("euclidean").min() > 0.1
    np.testing.assert_allclose(change("kl"), 5.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ARTIFACT_SCORES)
def test_narrow_logits_are_scored_in_float32(name, dtype, examples):
    logits, labels = examples[0].astype(dtype), examples[1]
    _, score, dissimilarity = name.replace("least_", "least-").split("_")
    exact = reference(
        score.replace("-", "_"), dissimilarity, logits.astype(jnp.float32), labels
    )
    got = jax.vmap(ARTIFACT_SCORES[name])(logits, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5)
