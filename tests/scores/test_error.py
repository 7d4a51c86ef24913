import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.scores import cross_entropy, el2n, zero_one

KERNELS = {"cross_entropy": cross_entropy, "el2n": el2n, "zero_one": zero_one}
every_kernel = pytest.mark.parametrize("name", KERNELS)


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
    return {
        "cross_entropy": -np.log(p[rows, labels]),
        "el2n": np.sqrt(((p - np.eye(p.shape[1])[labels]) ** 2).sum(-1)),
        "zero_one": (p > p[rows, labels][:, None]).any(-1),
    }[name]


@every_kernel
def test_scores_match_numpy_float64(name, variant, examples):
    got = variant(KERNELS[name])(*examples)
    np.testing.assert_allclose(got, reference(name, *examples), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("cross_entropy", -np.log(0.5), -np.log(0.2)),
        ("el2n", (0.25 + 0.09 + 0.04) ** 0.5, (0.64 + 0.25 + 0.09) ** 0.5),
        ("zero_one", 0.0, 1.0),
    ],
)
def test_scores_of_a_half_three_tenths_and_a_fifth(name, right, wrong):
    logits = jnp.log(jnp.array([0.3, 0.5, 0.2]))
    scores = [KERNELS[name](logits, jnp.int32(label)) for label in (1, 2)]
    np.testing.assert_allclose(scores, [right, wrong], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "wrong"), [("cross_entropy", 1e4), ("el2n", 2**0.5), ("zero_one", 1.0)]
)
def test_scores_rise_from_certainly_right_to_certainly_wrong(name, wrong):
    kernel = KERNELS[name]
    logits = jnp.array([1e4, 0.0, 0.0])
    np.testing.assert_allclose(kernel(logits, jnp.int32(0)), 0.0, atol=1e-7)
    np.testing.assert_allclose(kernel(logits, jnp.int32(2)), wrong, rtol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "el2n"])
def test_scores_rank_a_tie_above_a_certain_and_right_example(name):
    tie, certain = jnp.zeros(4), jnp.array([9.0, 0.0, 0.0, 0.0])
    label = jnp.int32(0)
    assert KERNELS[name](tie, label) > KERNELS[name](certain, label) + 0.5


@every_kernel
def test_scores_ignore_a_shift_of_the_logits(name, examples):
    logits, labels = examples
    kernel = jax.vmap(KERNELS[name])
    np.testing.assert_allclose(
        kernel(logits + 100.0, labels), kernel(logits, labels), atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@every_kernel
def test_scores_of_extreme_logits_are_finite_float32(name, dtype):
    most = float(jnp.finfo(dtype).max) / 2
    score = KERNELS[name](jnp.array([most, -most, 0.0], dtype), jnp.int32(1))
    assert score.dtype == jnp.float32
    expected = {"cross_entropy": 2 * most, "el2n": 2**0.5, "zero_one": 1.0}
    np.testing.assert_allclose(score, expected[name], rtol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "el2n"])
def test_narrow_logits_are_scored_in_float32(name, examples):
    # half precision would lose the third digit
    logits, labels = examples[0].astype(jnp.bfloat16), examples[1]
    got = jax.vmap(KERNELS[name])(logits, labels)
    exact = reference(name, logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_diverged_prediction_is_neither_right_nor_wrong(label, variant):
    logits = jnp.array([[1.0, jnp.nan, 2.0]])
    score = variant(zero_one)(logits, jnp.array([label], jnp.int32))
    assert np.isnan(score).all()
