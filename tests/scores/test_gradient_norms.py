"""Exact gradient norms by hand and by autodiff, and functions that have none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.models.families import ResNet18
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.scores import gradient_norms, gradient_path
from dpet_jax.scores.gradient.norms import GradientPath
from dpet_jax.scores.gradient.one_pass import NoRuleError
from dpet_jax.scores.gradient.rows_apart import refuse_mixed_rows

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


@pytest.mark.parametrize(
    ("method", "batch_size"),
    [("auto", 64), ("one_pass", 1), ("one_pass", 3), ("vmap", 3), ("vmap", 7)],
)
def test_norms_of_a_perceptron_equal_those_derived_by_hand(method, batch_size):
    norms = gradient_norms(
        mlp, PARAMS, ROWS, LABELS, method=method, batch_size=batch_size
    )
    np.testing.assert_allclose(norms, mlp_norms(), rtol=1e-5)


#: Small enough for all forms of lengths, with an odd side.
NETWORK, SIDE = ResidualNetwork(8, (8, 32), (1, 1), 3, 1), 7


def drawn(network, seed=1):
    """Draw parameters and running statistics, all off their start."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        low, high = (0.5, 2.0) if path[-1].key in ("var", "scale") else (-0.2, 0.2)
        values = rng.uniform(low, high, shape.shape)
        if len(shape.shape) > 1:  # a kernel: keep the size of what it gives
            values *= 10 * np.prod(shape.shape[:-1]) ** -0.5
        return jnp.asarray(values, jnp.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(seed))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


#: A bottleneck after the stem of ImageNet, whose maximum has overlapping windows.
BOTTLENECK = ResidualNetwork(
    4, (4,), (1,), 3, 1, stem_kind="imagenet", block_kind="bottleneck"
)


@pytest.mark.parametrize(
    ("network", "side"), [(NETWORK, SIDE), (BOTTLENECK, 13)], ids=["basic", "bottle"]
)
def test_norms_of_a_network_equal_those_of_its_formed_gradients(network, side):
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.normal(size=(5, side, side, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 5), jnp.int32)
    params, stats = drawn(network)
    apply_fn = network.bind(stats)
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


@pytest.mark.parametrize(
    ("network", "side"),
    [(NETWORK, SIDE), (ResNet18(width_multiplier=0.125).build(10, (32, 32, 3)), 32)],
)
def test_every_parameter_of_a_network_meets_the_example_once(network, side):
    params, stats = drawn(network)
    images = jnp.zeros((1, side, side, network.in_channels))
    path = gradient_path(network.bind(stats), params, images)
    met = [name for layer in path.layers for name in layer.parameters]
    assert len(met) == len(set(met)) == len(jax.tree.leaves(params))
    convolutions = [x for x in path.layers if x.operation == "conv_general_dilated"]
    assert {x.form for x in convolutions} == {"product", "ghost", "pixel ghost"}


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
    images = jnp.zeros((2, SIDE, SIDE, 1))
    params, stats = drawn(NETWORK)

    def in_training(params, images):
        return NETWORK.apply_train(jax.random.key(0), params, stats, images)[0].logits

    with pytest.raises(ValueError, match="examples of a batch influence each other"):
        gradient_norms(in_training, params, images, jnp.zeros(2, jnp.int32))


def test_an_empty_pool_has_no_norms():
    assert gradient_norms(mlp, PARAMS, ROWS[:0], LABELS[:0]).shape == (0,)


def test_norms_lower_for_accelerators():
    params, stats = drawn(NETWORK)
    arguments = (params, jnp.zeros((4, SIDE, SIDE, 1)), jnp.zeros(4, jnp.int32))
    traced = gradient_norms.trace(NETWORK.bind(stats), *arguments, method="one_pass")
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text


# examples that influence each other


SHAPE = jax.ShapeDtypeStruct((4, 4, 2), jnp.float32)
WEIGHTS_SHAPE = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def standardised(images, axes):
    images = images - images.mean(axes, keepdims=True)
    return images * jax.lax.rsqrt(jnp.square(images).mean(axes, keepdims=True) + 1e-5)


def classify(params, images):
    return images.mean((1, 2)) @ params


@jax.custom_vjp
def custom_mean(images):
    return images - images.mean(0, keepdims=True)


custom_mean.defvjp(lambda x: (custom_mean(x), None), lambda _, back: (back,))


@jax.custom_jvp
def custom_centre(images):
    return images - images.mean(0, keepdims=True)


custom_centre.defjvp(lambda x, t: (custom_centre(*x), t[0]))

MIXED = {
    "batch normalisation": lambda p, x: classify(p, standardised(x, (0, 1, 2))),
    "inside jit": lambda p, x: classify(
        p, jax.jit(standardised, static_argnums=1)(x, 0)
    ),
    "inside checkpoint": lambda p, x: classify(
        p, jax.checkpoint(lambda x: x / x.max())(x)
    ),
    "inside custom_vjp": lambda p, x: classify(p, custom_mean(x)),
    "inside custom_jvp": lambda p, x: classify(p, custom_centre(x)),
    "the neighbour": lambda p, x: classify(p, x[1:] - x[:-1]),
    "the first": lambda p, x: classify(p, x - x[:1]),
    "the mean alone": lambda p, x: jnp.zeros((len(x), 3)) + classify(p, x).mean(),
}

APART = {
    "means of an example": lambda p, x: classify(p, standardised(x, (1, 2))),
    "flattened": lambda p, x: x.reshape(len(x) * 16, 2) @ p,
    "channels first": lambda p, x: classify(
        p, jnp.moveaxis(x, 0, -1).transpose(3, 0, 1, 2)
    ),
    "a side that nobody reads": lambda p, x: (x.mean(), classify(p, x))[1],
    "a side in jit": lambda p, x: jax.jit(lambda x: (x.max(), x))(x)[1][:, 0, 0] @ p,
    "parameters alone": lambda p, x: classify(p / p.sum(), x),
    "relu": lambda p, x: jax.nn.relu(classify(p, x)),
    "vmap": lambda p, x: jax.vmap(lambda x: classify(p, x[None])[0])(x),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_function_that_mixes_examples_is_refused(name):
    with pytest.raises(ValueError, match="examples of a batch influence each other"):
        refuse_mixed_rows(MIXED[name], WEIGHTS_SHAPE, SHAPE)


@pytest.mark.parametrize("name", APART)
def test_a_function_that_keeps_examples_apart_is_accepted(name):
    refuse_mixed_rows(APART[name], WEIGHTS_SHAPE, SHAPE)


def test_the_message_names_the_operation_and_the_remedy():
    with pytest.raises(ValueError, match=r"reduce_sum reduces.*running statistics"):
        refuse_mixed_rows(MIXED["batch normalisation"], WEIGHTS_SHAPE, SHAPE)
