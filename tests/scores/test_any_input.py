"""Scores of inputs that are not what a kernel takes, or that other callers have."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from dpet_jax.scores import gradient_norms, lookup, score_pool
from dpet_jax.scores.artifact import artifact_margin_euclidean, artifact_margin_kl
from dpet_jax.scores.error import error_vector
from dpet_jax.scores.factors import last_layer_gradients
from dpet_jax.scores.forgetting import ensemble_mean
from dpet_jax.scores.last_layer import last_layer_gram

READ_LABELS = ("cross_entropy", "el2n", "zero_one", "grand_last_layer")
IGNORE_LABELS = ("margin", "entropy", "least_confidence")
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 5, 6), jnp.int32)
FEATURES = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
WEIGHTS = {"out": jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)}


def net(params, rows):
    return rows @ params["out"], rows


@pytest.fixture
def without_type_checks():
    """What a user sees, who has no beartype."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def call(name, logits, label, features):
    score = lookup(name)
    more = (features,) if score.reads == "features" else ()
    return score.kernel()(logits, label, *more)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", [*READ_LABELS, *IGNORE_LABELS])
def test_kernels_refuse_batches_and_name_vmap(name):
    # margin gave five numbers over the wrong axis
    with pytest.raises(ValueError, match=r"shape \(6, [45]\); jax\.vmap"):
        call(name, LOGITS, LABELS, FEATURES)
    if name in READ_LABELS:
        with pytest.raises(ValueError, match=r"an array of shape \(6,\).*jax\.vmap"):
            call(name, LOGITS[0], LABELS, FEATURES[0])
        with pytest.raises(ValueError, match="dtype float32"):
            call(name, LOGITS[0], jnp.float32(1.0), FEATURES[0])
    with pytest.raises(ValueError, match=r"logits \[n, k\], labels \[n\]"):
        last_layer_gradients(LOGITS, LABELS[:5], FEATURES)


def test_labels_outside_the_classes_score_nan():
    # el2n(logits, 7) of five classes was 0.43
    labels = jnp.array([-1, 5, 7, 255, 0, 4], jnp.int32)
    outside = np.array([True, True, True, True, False, False])

    @jax.jit
    def scores(logits, labels, features):
        every = [error_vector, artifact_margin_euclidean, artifact_margin_kl]
        every += [lookup(name).kernel() for name in READ_LABELS[:3]]
        got = [jax.vmap(kernel)(logits, labels) for kernel in every]
        got.append(
            jax.vmap(lookup("grand_last_layer").kernel())(logits, labels, features)
        )
        got.append(last_layer_gradients(logits, labels, features).errors)
        got.append(gradient_norms(net, WEIGHTS, features, labels))
        got.append(gradient_norms(net, WEIGHTS, features, labels, method="vmap"))
        return [one.reshape(6, -1) for one in got]

    for values in scores(LOGITS, labels, FEATURES):
        np.testing.assert_array_equal(np.isnan(values).all(axis=1), outside)
        assert np.isfinite(values[~outside]).all()


def test_a_probability_of_zero_adds_no_entropy():
    logits = jnp.array([0.0, -jnp.inf, 0.0])
    for name, expected in (("entropy", np.log(2)), ("margin", 1.0)):
        np.testing.assert_allclose(lookup(name).kernel()(logits), expected, rtol=1e-6)
    certain = jnp.array([-jnp.inf, 3.0, -jnp.inf])
    assert lookup("entropy").kernel()(certain) == 0.0


def test_sums_that_leave_float32_give_what_fits():
    certain = jnp.array([200.0, 0.0, 0.0])
    right = lookup("grand_last_layer").kernel()(
        certain, jnp.int32(0), jnp.full(2, 1e30)
    )
    assert right == 0.0
    features = jnp.asarray([[1e19, 0.0], [0.0, 1e19]], jnp.float32)
    gram = last_layer_gram(jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32), features)
    np.testing.assert_allclose(gram[0, 1], 0.5, rtol=1e-6)
    many = jnp.full((4, 2), 3e38, jnp.float32)
    np.testing.assert_allclose(ensemble_mean(many), 3e38, rtol=1e-6)


@pytest.mark.parametrize("method", ["one_pass", "vmap"])
def test_gradient_norms_of_small_slopes_and_large_inputs_keep_their_digits(method):
    def small(logits, label):
        return logits[label] * 1e-30

    rows, params = jnp.array([[60.0, 0.0]]), {"out": jnp.eye(2)}
    label = jnp.zeros(1, jnp.int32)
    got = gradient_norms(net, params, rows, label, method=method, loss_fn=small)
    np.testing.assert_allclose(got, 60.0 * 1e-30, rtol=1e-5)
    got = gradient_norms(
        net, params, rows * 1e25, jnp.ones(1, jnp.int32), method=method
    )
    np.testing.assert_allclose(got, np.sqrt(2) * 6e26, rtol=1e-5)


def test_scores_without_labels_of_a_dict_by_a_list_of_names():
    def apply_fn(params, inputs):
        return net(params, inputs["left"] + inputs["right"])

    halves = {"left": FEATURES / 2, "right": FEATURES / 2}
    names = ["margin", "entropy", "logits"]
    got = score_pool(apply_fn, WEIGHTS, halves, None, names, batch_size=4)
    expected = score_pool(net, WEIGHTS, FEATURES, LABELS, tuple(names), batch_size=4)
    for name in names:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)
    norms = gradient_norms(apply_fn, WEIGHTS, halves, LABELS)
    plain = gradient_norms(net, WEIGHTS, FEATURES, LABELS)
    np.testing.assert_allclose(norms, plain, rtol=1e-6)


@pytest.mark.usefixtures("without_type_checks")
def test_inputs_that_do_not_fit_are_refused():
    def pool(images=FEATURES, labels=LABELS, names=("margin",), **options):
        return score_pool(net, WEIGHTS, images, labels, names, **options)

    for run, message in (
        (lambda: pool(labels=None, names=["el2n"]), "el2n reads labels"),
        (lambda: pool(labels=LABELS[:5]), r"\(6, 4\), \(5,\)"),
        (lambda: pool(labels=LOGITS), "one integer for each example"),
        (lambda: pool(names="margin"), r"\['margin'\]"),
        (lambda: pool(batch_size=0), "cannot hold 0 examples"),
        (lambda: pool(rows=np.array([True] * 6)), "at most 6 positions"),
        (lambda: jax.jit(lambda r: pool(rows=r))(LABELS), r"outside jax\.jit"),
        (lambda: gradient_norms(net, WEIGHTS, FEATURES, None), "reads labels"),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_wide_numbers_score_alike():
    names = [*READ_LABELS, *IGNORE_LABELS]

    def all_of(floating, integer):
        params = {"out": WEIGHTS["out"].astype(floating)}
        rows, labels = FEATURES.astype(floating), LABELS.astype(integer)
        scores = score_pool(net, params, rows, labels, names, batch_size=4)
        for method in ("one_pass", "vmap"):
            scores[method] = gradient_norms(net, params, rows, labels, method=method)
        scores["errors"] = last_layer_gradients(rows @ params["out"], labels, rows)[0]
        return scores

    expected = all_of(jnp.float32, jnp.int32)
    with jax.enable_x64(True):
        got = all_of(jnp.float64, jnp.int64)
        for name in expected:
            assert got[name].dtype == jnp.float32
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6)


def test_scores_inside_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("data"), PartitionSpec()

    def scores(params, rows, labels):
        got = score_pool(net, params, rows, labels, ["margin", "el2n"], batch_size=4)
        for method in ("one_pass", "vmap"):
            got[method] = gradient_norms(net, params, rows, labels, method=method)
        return got

    sharded = jax.shard_map(
        scores, mesh=mesh, in_specs=(whole, split, split), out_specs=split
    )
    expected = scores(WEIGHTS, FEATURES, LABELS)
    for name, values in jax.jit(sharded)(WEIGHTS, FEATURES, LABELS).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)
