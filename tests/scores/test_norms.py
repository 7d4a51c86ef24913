"""Exact gradient norms: of a perceptron by hand, of residual networks by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.models.families import ResNet18
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.scores import gradient_norms, gradient_path
from dpet_jax.scores.gradient.norms import GradientPath
from dpet_jax.scores.gradient.one_pass import NoRuleError

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(7, 6))
CLASSES = RNG.integers(0, 4, 7)
WEIGHTS = {
    "hidden": RNG.normal(size=(6, 5)),
    "hidden bias": RNG.normal(size=5),
    "out": RNG.normal(size=(5, 4)),
    "out bias": RNG.normal(size=4),
}


def mlp(params, rows):
    hidden = jax.nn.relu(rows @ params["hidden"] + params["hidden bias"][None])
    return hidden @ params["out"] + params["out bias"][None]


def mlp_norms():
    """Differentiate the perceptron by hand, example by example; float64."""
    norms = []
    for row, label in zip(FEATURES, CLASSES, strict=True):
        before = row @ WEIGHTS["hidden"] + WEIGHTS["hidden bias"]
        hidden = np.maximum(before, 0)
        logits = hidden @ WEIGHTS["out"] + WEIGHTS["out bias"]
        error = np.exp(logits - logits.max())
        error = error / error.sum() - np.eye(4)[label]
        back = (WEIGHTS["out"] @ error) * (before > 0)
        parts = [np.outer(hidden, error), error, np.outer(row, back), back]
        norms.append(np.sqrt(sum(np.sum(part**2) for part in parts)))
    return np.array(norms)


PARAMS = {name: jnp.asarray(value, jnp.float32) for name, value in WEIGHTS.items()}
ROWS, LABELS = jnp.asarray(FEATURES, jnp.float32), jnp.asarray(CLASSES, jnp.int32)


@pytest.mark.parametrize("method", ["auto", "one_pass", "vmap"])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_norms_of_a_perceptron_equal_those_derived_by_hand(method, batch_size):
    norms = gradient_norms(
        mlp, PARAMS, ROWS, LABELS, method=method, batch_size=batch_size
    )
    np.testing.assert_allclose(norms, mlp_norms(), rtol=1e-5)


def trained(spec, seed=1):
    """Draw a network, and running statistics and parameters off their start."""
    rng = np.random.default_rng(seed)
    params, stats = spec.init(jax.random.key(seed))

    def moved(path, leaf):
        low, high = (0.5, 2.0) if path[-1].key == "var" else (-0.2, 0.2)
        start = 0.0 if path[-1].key == "var" else np.asarray(leaf)
        return jnp.asarray(start + rng.uniform(low, high, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(moved, (params, stats))


NETWORKS = {
    "resnet10": (
        ResNet18(width_multiplier=0.125, depth_multiplier=0.5).build(10, (16, 16, 3)),
        16,
    ),
    "odd image": (ResidualNetwork(8, (8, 32), (1, 1), 3, 1), 9),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_of_a_network_equal_those_of_its_formed_gradients(name):
    spec, side = NETWORKS[name]
    rng = np.random.default_rng(3)
    images = jnp.asarray(
        rng.normal(size=(5, side, side, spec.in_channels)), jnp.float32
    )
    labels = jnp.asarray(rng.integers(0, spec.num_classes, 5), jnp.int32)
    params, stats = trained(spec)
    apply_fn = spec.bind(stats)
    norms = gradient_norms(
        apply_fn, params, images, labels, method="one_pass", batch_size=2
    )

    def loss(params, image, label):
        logits = apply_fn(params, image[None])[0]
        return -jax.nn.log_softmax(logits)[label]

    one = jax.jit(jax.grad(loss))
    for norm, image, label in zip(norms, images, labels, strict=True):
        leaves = jax.tree.leaves(one(params, image, label))
        squares = [np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in leaves]
        np.testing.assert_allclose(norm, np.sqrt(sum(squares)), rtol=1e-4)


def test_every_parameter_of_a_network_meets_the_example_once():
    spec = ResNet18(width_multiplier=0.125).build(10, (32, 32, 3))
    params, stats = spec.init(jax.random.key(0))
    path = gradient_path(spec.bind(stats), params, jnp.zeros((1, 32, 32, 3)))
    met = [name for layer in path.layers for name in layer.parameters]
    assert len(met) == len(set(met)) == len(jax.tree.leaves(params))
    forms = {layer.form for layer in path.layers}
    assert forms == {"product", "ghost", "pixel ghost", "gradient"}


def test_a_wider_loss_gives_longer_gradients():
    def doubled(logits, label):
        return -2 * jax.nn.log_softmax(logits)[label]

    norms = gradient_norms(mlp, PARAMS, ROWS, LABELS, loss_fn=doubled)
    np.testing.assert_allclose(norms, 2 * mlp_norms(), rtol=1e-5)


def test_an_apply_fn_may_return_features_beside_its_logits():
    norms = gradient_norms(lambda p, x: (mlp(p, x), x), PARAMS, ROWS, LABELS)
    np.testing.assert_allclose(norms, mlp_norms(), rtol=1e-5)


def test_an_order_of_examples_changes_no_norm():
    order = jnp.asarray([6, 2, 0, 5, 1, 4, 3])
    straight = gradient_norms(mlp, PARAMS, ROWS, LABELS, batch_size=4)
    shuffled = gradient_norms(mlp, PARAMS, ROWS[order], LABELS[order], batch_size=4)
    np.testing.assert_allclose(shuffled, straight[order], rtol=1e-6)


def tied(params, rows):
    return jnp.tanh(rows @ params["out"].T) @ params["out"]


def test_auto_says_which_way_it_took_and_why():
    assert gradient_path(mlp, PARAMS, ROWS).method == "one_pass"
    path = gradient_path(tied, PARAMS, ROWS[:, :4])
    assert (path.method, path.layers) == ("vmap", ())
    assert "['out'] is used twice" in path.reason
    with pytest.warns(
        UserWarning, match=r"forms the gradient.*\['out'\] is used twice"
    ):
        norms = gradient_norms(tied, PARAMS, ROWS[:, :4], LABELS)
    asked = gradient_norms(tied, PARAMS, ROWS[:, :4], LABELS, method="vmap")
    np.testing.assert_array_equal(norms, asked)
    assert gradient_path(mlp, PARAMS, ROWS, method="vmap") == GradientPath(
        "vmap", "as asked for", ()
    )


def test_one_pass_refuses_what_it_cannot_do():
    with pytest.raises(NoRuleError, match=r"\['out'\] is used twice"):
        gradient_norms(tied, PARAMS, ROWS[:, :4], LABELS, method="one_pass")


@pytest.mark.parametrize("method", ["auto", "one_pass", "vmap"])
def test_batch_statistics_are_refused_with_an_explanation(method):
    def normalised(params, rows):
        return mlp(params, rows - rows.mean(0, keepdims=True))

    with pytest.raises(ValueError, match="running statistics"):
        gradient_norms(normalised, PARAMS, ROWS, LABELS, method=method)


def test_a_network_in_training_mode_is_refused():
    spec, images = NETWORKS["odd image"][0], jnp.zeros((2, 9, 9, 1))
    params, stats = spec.init(jax.random.key(0))

    def in_training(params, images):
        return spec.apply_train(jax.random.key(0), params, stats, images)[0].logits

    with pytest.raises(ValueError, match="examples of a batch influence each other"):
        gradient_norms(in_training, params, images, jnp.zeros(2, jnp.int32))


def test_an_empty_pool_has_no_norms():
    assert gradient_norms(mlp, PARAMS, ROWS[:0], LABELS[:0]).shape == (0,)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_norms_lower_for_accelerators(platform):
    spec, side = NETWORKS["odd image"]
    params, stats = spec.init(jax.random.key(0))
    arguments = (params, jnp.zeros((4, side, side, 1)), jnp.zeros(4, jnp.int32))
    traced = gradient_norms.trace(spec.bind(stats), *arguments, method="one_pass")
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text
