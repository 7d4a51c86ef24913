"""Scores of one example by its logits, against float64 NumPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import lookup
from dpet_jax.scores.artifact import artifact_importance
from dpet_jax.scores.error import label_margin
from dpet_jax.scores.softmax import gaps_below_best, weights_beside

UNCERTAINTIES = ("margin", "entropy", "least_confidence")
ERRORS = ("cross_entropy", "el2n", "zero_one")
NAMES = (*UNCERTAINTIES, *ERRORS)
#: All that keep their digits where a prediction is nearly certain.
CONTINUOUS = (*UNCERTAINTIES, "cross_entropy", "el2n")
ARTIFACTS = tuple(
    f"artifact_{score}_{dissimilarity}"
    for score in ("margin", "entropy", "least_confidence")
    for dissimilarity in ("none", "euclidean", "kl")
)
every_score = pytest.mark.parametrize("name", NAMES)


def one(name, logits, label=0):
    """Score one example without a compiler."""
    return lookup(name).kernel()(jnp.asarray(logits), jnp.int32(label))


@jax.jit
def _scores(logits, labels):
    kernels = {name: lookup(name).kernel() for name in (*NAMES, *ARTIFACTS)}
    return {name: jax.vmap(each)(logits, labels) for name, each in kernels.items()}


def score(name, logits, labels):
    """Score examples as the pipeline does: all scores in one program."""
    return _scores(logits, labels)[name]


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.normal(size=(7, 5)), jnp.float32)
    labels = rng.integers(0, 5, 7)
    labels[:3] = np.argmax(logits[:3], -1)
    return logits, jnp.asarray(labels, jnp.int32)


def reference(name, logits, labels):
    """The score of each row in float64 NumPy."""
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(-1, keepdims=True)
    rows, labels = np.arange(len(p)), np.asarray(labels)
    ordered = np.sort(p, axis=-1)
    return {
        "margin": 1 - ordered[:, -1] + ordered[:, -2],
        "entropy": -(p * np.log(p)).sum(-1),
        "least_confidence": 1 - ordered[:, -1],
        "cross_entropy": -np.log(p[rows, labels]),
        "el2n": np.sqrt(((p - np.eye(p.shape[1])[labels]) ** 2).sum(-1)),
        "zero_one": (p > p[rows, labels][:, None]).any(-1),
    }[name]


@every_score
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_match_numpy_float64(name, dtype, examples):
    # scored in bfloat16 they would lose the third digit
    logits, labels = examples[0].astype(dtype), examples[1]
    got = score(name, logits, labels)
    expected = reference(name, logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("margin", [1 - (0.5 - 0.3)] * 2),
        ("entropy", [1.0296530140645737] * 2),
        ("least_confidence", [0.5] * 2),
        ("cross_entropy", [-np.log(0.5), -np.log(0.2)]),
        ("el2n", [(0.25 + 0.09 + 0.04) ** 0.5, (0.64 + 0.25 + 0.09) ** 0.5]),
        ("zero_one", [0.0, 1.0]),
    ],
)
def test_scores_of_a_half_three_tenths_and_a_fifth_right_and_wrong(name, scores):
    logits = np.log(np.array([0.3, 0.5, 0.2], np.float32))
    got = [one(name, logits, label) for label in (1, 2)]
    np.testing.assert_allclose(got, scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "tie", "wrong"),
    [
        ("margin", 1.0, 0.0),
        ("entropy", np.log(4), 0.0),
        ("least_confidence", 0.75, 0.0),
        ("cross_entropy", np.log(4), 1e4),
        ("el2n", 0.75**0.5, 2**0.5),
        ("zero_one", 1.0, 1.0),
    ],
)
def test_scores_span_from_certainly_right_over_a_tie_to_certainly_wrong(
    name, tie, wrong
):
    rows = [[0.0, 0.0, 1e4, 0.0], [0.0] * 4, [0.0, 1e4, 0.0, 0.0]]
    got = score(name, jnp.array(rows), jnp.full(3, 2, jnp.int32))
    np.testing.assert_allclose(got, [0.0, tie, wrong], rtol=1e-6, atol=1e-7)


def test_only_the_margin_calls_a_tie_of_two_classes_a_full_tie():
    logits = [50.0, 50.0, 0.0, 0.0]
    got = [one(name, logits) for name in UNCERTAINTIES]
    np.testing.assert_allclose(got, [1.0, np.log(2), 0.5], rtol=1e-6)


@every_score
def test_scores_ignore_a_shift_of_the_logits_and_the_order_of_classes(name, examples):
    logits, labels = examples
    expected = score(name, logits, labels)
    np.testing.assert_allclose(score(name, logits + 100.0, labels), expected, atol=1e-4)
    turned = score(name, logits[:, ::-1], 4 - labels)
    np.testing.assert_allclose(turned, expected, rtol=1e-5)


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_uncertainties_ignore_the_label(name, examples):
    logits, labels = examples
    other = score(name, logits, (labels + 1) % 5)
    np.testing.assert_array_equal(other, score(name, logits, labels))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_scores_of_extreme_logits_are_finite_float32(dtype):
    most = float(jnp.finfo(dtype).max) / 2
    expected = {"margin": 1.0, "entropy": np.log(2), "least_confidence": 0.5}
    expected |= {"cross_entropy": 2 * most + np.log(2), "el2n": 1.5**0.5}
    expected |= {"zero_one": 1.0}
    logits = jnp.array([[most, -most, 0.0, most]], dtype)

    for name in NAMES:
        got = score(name, logits, jnp.ones(1, jnp.int32))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected[name], rtol=1e-6, err_msg=name)


def test_a_diverged_prediction_scores_nan():
    logits = jnp.broadcast_to(jnp.array([1.0, jnp.nan, 2.0]), (3, 3))
    for name in NAMES:
        assert np.isnan(score(name, logits, jnp.arange(3, dtype=jnp.int32))).all(), name


def test_the_margin_refuses_a_single_class():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        one("margin", [0.0])


# nearly certain predictions


@pytest.fixture(scope="module")
def confident():
    """Right predictions that leave 1e-1 to 1e-12 to the other classes."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 6))
    labels = rng.integers(0, 6, 40)
    logits[np.arange(40), labels] += np.linspace(4, 30, 40)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32)


def confident_reference(name, logits):
    """The score in float64 from e^(z - z_1), whose sums need no subtraction from 1."""
    logits = np.asarray(logits, np.float64)
    ordered = -np.sort(-logits, axis=-1)
    rest = np.exp(ordered[:, 1:] - ordered[:, :1])
    left = rest.sum(-1)
    if name == "margin":
        return (left + rest[:, 0]) / (1 + left)
    if name == "least_confidence":
        return left / (1 + left)
    if name == "cross_entropy":
        return np.log1p(left)
    if name == "el2n":
        return np.sqrt(left**2 + (rest**2).sum(-1)) / (1 + left)
    p = np.concatenate([np.ones((len(rest), 1)), rest], -1) / (1 + left)[:, None]
    return p[:, 0] * np.log1p(left) - (p[:, 1:] * np.log(p[:, 1:])).sum(-1)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_scores_of_confident_examples_keep_six_digits_and_differ(name, confident):
    logits, labels = confident
    got = score(name, logits, labels)
    np.testing.assert_allclose(got, confident_reference(name, logits), rtol=3e-6)
    assert np.unique(got).size == 40
    # 2e-6 is the last bit of a logit of 30, and moves a score by its own size only
    nudged = score(name, jnp.nextafter(logits, jnp.inf), labels)
    np.testing.assert_allclose(got, nudged, rtol=5e-6)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_scores_differ_down_to_the_smallest_float(name):
    # what is left over is 1e-22, whose square no float32 holds
    logits = np.array([50.0, 0.0, -1.0], np.float32)
    exact = confident_reference(name, logits[None])[0]
    np.testing.assert_allclose(one(name, logits), exact, rtol=1e-5)


def test_gaps_are_float32_distances_from_the_largest_logit():
    gaps = gaps_below_best(jnp.array([1.0, 3.0, -2.0, 3.0], jnp.bfloat16))
    assert gaps.dtype == jnp.float32
    np.testing.assert_array_equal(gaps, [2.0, 0.0, 5.0, 0.0])


def test_weights_beside_a_class_are_the_softmax_of_the_others():
    logits = np.array([0.5, 2.0, -1.0, 2.0])
    p = np.exp(logits) / np.exp(logits).sum()
    gaps = gaps_below_best(jnp.asarray(logits, jnp.float32))
    for index in range(4):
        weights, total = weights_beside(gaps, jnp.int32(index))
        assert weights[index] == 0.0
        np.testing.assert_allclose(
            np.delete(weights / total, index), np.delete(p, index), rtol=1e-6
        )


# the artifact's formulas


def artifact_reference(name, logits, labels):
    """What the authors take the smallest of, negated, in float64 NumPy."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    descending = -np.sort(-p, axis=-1)
    *_, dissimilarity = name.split("_")
    certainty = {
        "margin": descending[:, 0] - descending[:, 1],
        "entropy": (p * np.log(p + 1e-6)).sum(-1),
        "least": logits.max(-1),
    }[name.split("_")[1]]
    one_hot = np.eye(logits.shape[1])[labels]
    distance = {
        "none": 0.0,
        "euclidean": np.sqrt(((one_hot - logits) ** 2).sum(-1)),
        "kl": -(one_hot * logits).sum(-1),
    }[dissimilarity]
    return -(certainty + distance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARTIFACTS)
def test_the_artifacts_scores_match_numpy_float64(name, dtype, examples):
    logits, labels = examples[0].astype(dtype), examples[1]
    got = score(name, logits, labels)
    expected = artifact_reference(name, logits.astype(jnp.float32), labels)
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
def test_the_artifacts_scores_of_two_logits_of_three(score, dissimilarity, importance):
    got = artifact_importance(
        jnp.array([3.0, 3.0]), jnp.int32(0), score=score, dissimilarity=dissimilarity
    )
    np.testing.assert_allclose(got, importance, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_the_artifact_ranks_a_tie_above_certainty(name):
    tie, certain = [0.0] * 4, [9.0, 0.0, 0.0, 0.0]
    assert one(f"artifact_{name}_none", tie) > one(f"artifact_{name}_none", certain)


def test_the_artifacts_least_confidence_ranks_by_the_raw_logit():
    certain_but_short, tied_but_long = [2.0, -9.0, -9.0], [8.0, 8.0, 8.0]
    theirs, ours = "artifact_least_confidence_none", "least_confidence"
    assert one(theirs, certain_but_short) > one(theirs, tied_but_long)
    assert one(ours, certain_but_short) < one(ours, tied_but_long)


@pytest.mark.parametrize("name", ["margin", "entropy"])
def test_only_with_a_dissimilarity_does_a_shift_of_the_logits_matter(name, examples):
    logits, labels = examples

    def change(dissimilarity):
        kernel = f"artifact_{name}_{dissimilarity}"
        moved = score(kernel, logits + 5.0, labels) - score(kernel, logits, labels)
        return np.abs(np.asarray(moved))

    assert change("none").max() < 1e-5
    assert change("euclidean").min() > 0.1
    np.testing.assert_allclose(change("kl"), 5.0, rtol=1e-5)


# of a training step, which no config names as a score


def test_the_label_margin_says_how_little_the_label_stands_out(examples, confident):
    for logits, labels in (examples, confident):
        given = np.asarray(logits, np.float64)
        p = np.exp(given - given.max(-1, keepdims=True))
        rows, classes = np.arange(len(p)), np.asarray(labels)
        p[rows, classes], mine = 0.0, p[rows, classes]
        # (1 - p_y) + the largest other, without a subtraction
        expected = (p.sum(-1) + p.max(-1)) / (p.sum(-1) + mine)
        got = jax.jit(jax.vmap(label_margin))(logits, labels)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
        assert got.dtype == jnp.float32


def test_the_label_margin_spans_from_0_over_a_tie_to_2():
    logits = jnp.array([[1e4, 0.0, 0.0], [5.0, 5.0, -1e4], [0.0, 1e4, 0.0]])
    got = jax.vmap(label_margin)(logits, jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(got, [0.0, 1.0, 2.0], atol=1e-7)
    diverged = jnp.array([1.0, jnp.nan, 2.0])
    assert np.isnan(label_margin(diverged, jnp.int32(0)))
