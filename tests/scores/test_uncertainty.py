import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import entropy, least_confidence, margin

KERNELS = {
    "margin": margin,
    "entropy": entropy,
    "least_confidence": least_confidence,
}
CLASS = jnp.int32(0)
every_kernel = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.normal(size=(7, 5)), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, 5, 7), jnp.int32)


def reference(name, logits):
    """The score of each row in float64 NumPy."""
    p = np.exp(np.asarray(logits, np.float64))
    p = np.sort(p / p.sum(-1, keepdims=True), axis=-1)
    return {
        "margin": 1 - p[:, -1] + p[:, -2],
        "entropy": -(p * np.log(p)).sum(-1),
        "least_confidence": 1 - p[:, -1],
    }[name]


@every_kernel
def test_scores_match_numpy_float64(name, variant, examples):
    got = variant(KERNELS[name])(*examples)
    np.testing.assert_allclose(got, reference(name, examples[0]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("margin", 1 - (0.5 - 0.3)),
        ("entropy", 1.0296530140645737),
        ("least_confidence", 0.5),
    ],
)
def test_scores_of_a_half_three_tenths_and_a_fifth(name, score):
    logits = jnp.log(jnp.array([0.3, 0.5, 0.2]))
    np.testing.assert_allclose(KERNELS[name](logits, CLASS), score, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "largest"),
    [("margin", 1.0), ("entropy", np.log(4)), ("least_confidence", 0.75)],
)
def test_scores_span_from_certainty_to_a_tie(name, largest):
    kernel = KERNELS[name]
    tie, certain = jnp.zeros(4), jnp.array([0.0, 0.0, 1e4, 0.0])
    np.testing.assert_allclose(kernel(tie, CLASS), largest, rtol=1e-6)
    np.testing.assert_allclose(kernel(certain, CLASS), 0.0, atol=1e-7)


def test_only_the_margin_calls_a_tie_of_two_classes_a_full_tie():
    logits = jnp.array([50.0, 50.0, 0.0, 0.0])
    np.testing.assert_allclose(margin(logits, CLASS), 1.0)
    np.testing.assert_allclose(entropy(logits, CLASS), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(least_confidence(logits, CLASS), 0.5)


@every_kernel
def test_scores_ignore_a_shift_of_the_logits(name, examples):
    logits, labels = examples
    kernel = jax.vmap(KERNELS[name])
    np.testing.assert_allclose(
        kernel(logits + 100.0, labels), kernel(logits, labels), atol=1e-4
    )


@every_kernel
def test_scores_ignore_the_label_and_the_order_of_classes(name, examples):
    logits, labels = examples
    kernel = jax.vmap(KERNELS[name])
    np.testing.assert_allclose(
        kernel(logits[:, ::-1], (labels + 1) % 5), kernel(logits, labels), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@every_kernel
def test_scores_of_extreme_logits_are_finite_float32(name, dtype):
    most = float(jnp.finfo(dtype).max) / 2
    logits = jnp.array([most, -most, 0.0, most], dtype)
    score = KERNELS[name](logits, CLASS)
    assert score.dtype == jnp.float32
    expected = {"margin": 1.0, "entropy": np.log(2), "least_confidence": 0.5}
    np.testing.assert_allclose(score, expected[name], rtol=1e-6)


@every_kernel
def test_narrow_logits_are_scored_in_float32(name, examples):
    # half precision would lose the third digit
    logits = examples[0].astype(jnp.bfloat16)
    got = jax.vmap(KERNELS[name])(logits, examples[1])
    exact = reference(name, logits.astype(jnp.float32))
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-6)


def test_the_margin_refuses_a_single_class():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        margin(jnp.zeros(1), CLASS)
