"""The chain of convolutions and dense layers of the energy-practices study."""

import json
import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from dpet_jax.errors import UserError
from dpet_jax.models.cnn import ChainNetwork, halved
from dpet_jax.models.families import Cnn, Linear, Poly, even_widths, halving_widths
from dpet_jax.models.network import network_from_json
from dpet_jax.models.pruning import cut, masked
from dpet_jax.scores import gradient_norms, gradient_path

FASHION, CIFAR = (28, 28, 1), (32, 32, 3)
SMALL = ChainNetwork((3, 6), (5, 4), num_classes=3, image_shape=(9, 8, 2))
DENSE = ChainNetwork((), (6, 5), 3, (4, 4, 1), dense_relu=True)
NETWORKS = pytest.mark.parametrize("network", [SMALL, DENSE], ids=["cnn", "dense"])


def draw(network, count=5):
    """Parameters and statistics as training leaves them, and images."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if leaf.ndim > 1:
            scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
            return jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)
        values = rng.normal(size=leaf.shape)
        if path[-1].key in ("scale", "var"):
            values = np.exp(0.5 * values)
        return jnp.asarray(values, jnp.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params, stats = jax.tree_util.tree_map_with_path(fill, shapes)
    images = rng.normal(size=(count, *network.image_shape))
    return params, stats, jnp.asarray(images, jnp.float32)


@partial(jax.jit, static_argnums=0, static_argnames="dtype")
def run(network, params, stats, images, dtype="float32"):
    return network.apply(params, stats, images, dtype=dtype)


@partial(jax.jit, static_argnums=0, static_argnames="dtype")
def run_folded(network, params, stats, images, dtype="float32"):
    folded = network.fold(params, stats)
    return network.apply_folded(folded, images, dtype=dtype)


@partial(jax.jit, static_argnums=0)
def train(network, params, stats, images):
    return network.apply_train(jax.random.key(0), params, stats, images)


def count(network):
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def dense_count(widths):
    return sum((a + 1) * b for a, b in pairwise(widths))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("n_conv", [1, 4])
@pytest.mark.parametrize("n_linear", [3, 7])
def test_the_cells_of_the_study_have_its_channels_widths_and_parameters(
    n_linear, n_conv, relu
):
    section = Cnn(n_linear=n_linear, n_conv=n_conv, relu=relu)
    for shape in (FASHION, CIFAR):
        network = section.build(10, shape)
        side, _, c = shape
        channels = [c * 3 ** (depth + 1) for depth in range(n_conv)]
        widths = [
            max(math.floor(c * side**2 / 2 ** (depth + 1)), c)
            for depth in range(n_linear - 1)
        ]
        assert network.convolutions == tuple(channels)
        assert network.dense == tuple(widths)
        flat = (side // 2**n_conv) ** 2 * channels[-1]
        kernels = sum(9 * a * b for a, b in zip([c, *channels], channels, strict=False))
        # the study has a bias a channel besides, which the normalisation takes out
        normalised = kernels + 2 * sum(channels)
        assert count(network) == normalised + dense_count([flat, *widths, 10])
        name = f"CNN {n_conv}+{n_linear}" + ("" if relu else " without ReLU")
        assert section.describe(network) == name


def test_dense_networks_have_the_widths_and_parameters_of_the_study():
    assert halving_widths(FASHION, 7) == [392, 196, 98, 49, 24, 12]
    assert even_widths(FASHION, 7) == [672, 560, 448, 336, 224, 112]
    assert halving_widths(CIFAR, 12)[-3:] == [6, 3, 3]
    assert even_widths((2, 2, 3), 12)[-3:] == [3, 3, 3]
    poly, linear = (kind(n_linear=7).build(10, FASHION) for kind in (Poly, Linear))
    assert count(poly) == dense_count([784, 392, 196, 98, 49, 24, 12, 10])
    assert count(linear) == dense_count([784, 672, 560, 448, 336, 224, 112, 10])
    assert not poly.dense_relu
    assert not linear.dense_relu
    assert Poly(n_linear=7).describe(poly) == "poly of 7 dense layers"


def test_operations_are_those_of_the_closed_form():
    network = Cnn(n_conv=4, n_linear=3).build(10, FASHION)
    convolutions = 9 * (28**2 * 1 * 3 + 14**2 * 3 * 9 + 7**2 * 9 * 27 + 3**2 * 27 * 81)
    dense = 81 * 392 + 392 * 196 + 196 * 10
    assert network.forward_flops(28, 28) == 2 * (convolutions + dense)
    of_images = 9 * 28**2 * 3
    assert network.backward_flops(28, 28) == 2 * (convolutions + dense - of_images)


def float64_forward(network, params, stats, images):
    """The evaluation-mode forward pass in float64 NumPy, pixel by pixel."""
    params, stats, x = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (params, stats, images)
    )
    for number, _ in enumerate(network.convolutions, 1):
        kernel = params[f"conv{number}"]["kernel"]
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = sum(
            padded[:, i : i + height, j : j + width] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        )
        affine, run = (tree[f"norm{number}"]["norm"] for tree in (params, stats))
        x = (x - run["mean"]) / np.sqrt(run["var"] + 1e-5)
        x = x * affine["scale"] + affine["bias"]
        x = np.maximum(x, 0) if network.relu else x
        pixels = [
            x[:, i : height // 2 * 2 : 2, j : width // 2 * 2 : 2]
            for i in (0, 1)
            for j in (0, 1)
        ]
        x = np.max(pixels, axis=0)
    x = x.reshape(len(x), -1)
    for number, _ in enumerate(network.dense, 1):
        layer = params[f"dense{number}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = np.maximum(x, 0) if network.dense_relu else x
    return x @ params["head"]["kernel"] + params["head"]["bias"], x


@pytest.mark.parametrize(
    "network",
    [SMALL, DENSE, ChainNetwork((3,), (), 3, (5, 5, 1), relu=False)],
    ids=["cnn", "dense", "without ReLU"],
)
def test_logits_are_those_of_a_float64_reference_folded_or_not(network):
    params, stats, images = draw(network)
    logits, features = float64_forward(network, params, stats, images)
    assert features.shape[1] == network.num_features
    for outputs in (
        run(network, params, stats, images),
        run_folded(network, params, stats, images),
    ):
        assert outputs.logits.dtype == outputs.features.dtype == jnp.float32
        np.testing.assert_allclose(outputs.logits, logits, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(outputs.features, features, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_bfloat16_gives_about_the_same_logits_folded_or_not():
    network = SMALL
    params, stats, images = draw(network)
    exact = run(network, params, stats, images).logits
    for outputs in (
        run(network, params, stats, images, dtype="bfloat16"),
        run_folded(network, params, stats, images, dtype="bfloat16"),
    ):
        assert outputs.logits.dtype == jnp.float32
        error = np.abs(outputs.logits - exact).max()
        assert 0 < error < 0.05 * np.abs(exact).max()


def test_training_mode_uses_the_batch_and_moves_the_running_statistics():
    params, stats, images = draw(SMALL)
    outputs, moved = train(SMALL, params, stats, images)
    others, _ = train(SMALL, params, stats, images.at[2:].multiply(3))
    assert np.abs(outputs.logits[:2] - others.logits[:2]).max() > 1e-3
    old, new = (tree["norm1"]["norm"]["mean"] for tree in (stats, moved))
    kernel = np.asarray(params["conv1"]["kernel"], np.float64)
    padded = np.pad(np.asarray(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    given = sum(
        padded[:, i : i + 9, j : j + 8] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    expected = 0.9 * np.asarray(old) + 0.1 * given.mean((0, 1, 2))
    np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6)
    assert train(DENSE, *draw(DENSE))[1] == {}


@NETWORKS
def test_gradient_norms_come_from_one_pass(network):
    params, stats, images = draw(network)
    path = gradient_path(network.bind(stats), params, images)
    assert path.method == "one_pass", path.reason
    weights = [name for layer in path.layers for name in layer.parameters]
    assert len(weights) == len(set(weights)) == len(jax.tree.leaves(params))


@pytest.mark.parametrize(
    "network", [ChainNetwork((2,), (), 3, (3, 3, 1)), DENSE], ids=["cnn", "dense"]
)
def test_gradient_norms_equal_those_of_formed_gradients(network):
    params, stats, images = draw(network)
    apply_fn, labels = network.bind(stats), jnp.arange(5) % 3
    one_pass, formed = (
        gradient_norms(apply_fn, params, images, labels, method=method)
        for method in ("one_pass", "vmap")
    )
    np.testing.assert_allclose(one_pass, formed, rtol=1e-4)


def test_pooling_leaves_out_an_odd_edge_and_equal_maxima_share_the_gradient():
    x = jnp.asarray(np.arange(30.0).reshape(1, 5, 6, 1), jnp.float32)
    np.testing.assert_array_equal(halved(x)[0, :, :, 0], [[7, 9, 11], [19, 21, 23]])
    slope = jax.grad(lambda x: halved(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(slope, np.full((1, 2, 2, 1), 0.25))


@NETWORKS
def test_network_survives_json_equal_and_goes_to_other_classes(network):
    again = network_from_json(json.loads(json.dumps(network.to_json())))
    assert again == network
    assert hash(again) == hash(network)
    other = network.with_classes(7)
    params, _ = jax.eval_shape(other.init, jax.random.key(0))
    before, _ = jax.eval_shape(network.init, jax.random.key(0))
    head = params.pop(other.head)
    before.pop(network.head)
    assert head["kernel"].shape == (network.num_features, 7)
    assert params == before


def test_a_linear_network_keeps_the_size_of_what_goes_through_it():
    network = Poly(n_linear=6).build(10, (32, 32, 1))
    params, _ = jax.jit(network.init)(jax.random.key(0))
    kernels = [np.asarray(params[f"dense{n}"]["kernel"]) for n in range(1, 6)]
    x = np.random.default_rng(0).normal(size=(64, 1024))
    for kernel in kernels:
        x = x @ kernel
    assert 0.7 < np.std(x) < 1.4
    assert np.std(kernels[0]) == pytest.approx(1024**-0.5, rel=0.02)
    assert np.abs(params["head"]["kernel"]).max() <= 32**-0.5


def test_channels_between_convolutions_can_be_cut_out():
    network = ChainNetwork((4, 6, 3), (5,), 3, (8, 8, 1))
    assert [(g.name, g.size) for g in network.channel_groups] == [
        *(("conv1", 4), ("conv2", 6))
    ]
    params, stats, images = draw(network)
    masks = (np.arange(4) != 2, np.arange(6) < 4)
    groups = network.channel_groups
    whole = run(network, masked(params, groups, masks), stats, images)
    smaller = network.with_channels((3, 4))
    assert smaller.convolutions == (3, 4, 3)
    plain = jax.tree.map(np.asarray, (params, stats))
    slim = [cut(tree, groups, masks) for tree in plain]
    logits = run(smaller, *slim, images).logits
    np.testing.assert_allclose(logits, whole.logits, rtol=1e-4, atol=1e-5)
    assert DENSE.channel_groups == ()
    with pytest.raises(ValueError, match="no channels that can be cut out"):
        DENSE.with_channels((3,))


def test_width_multiplies_channels_and_widths_and_a_base_sets_the_first():
    section = Cnn(n_conv=2, n_linear=3, base=8, width_multiplier=0.5)
    network = section.build(10, (8, 8, 1))
    assert (network.convolutions, network.dense) == ((4, 12), (16, 8))
    assert section.describe(network) == "CNN 2+3 width 0.5"
    for kind in (Cnn(), Poly(), Linear()):
        networks = [kind.scaled(scale).build(10, FASHION) for scale in kind.scales]
        counts = [count(one) for one in networks]
        assert counts == sorted(set(counts))
        assert networks[kind.scales.index(1.0)] == kind.build(10, FASHION)
        assert kind.narrower(networks[2], 0.5) == networks[1]


def test_a_network_that_cannot_be_narrower_is_refused():
    section = Cnn(n_conv=1, n_linear=1, base=1)
    with pytest.raises(ValueError, match=r"widths \[1\] as they are; .*wider model"):
        section.narrower(section.build(2, (4, 4, 1)), 0.5)


@pytest.mark.parametrize(
    ("section", "shape", "told"),
    [
        (Cnn(n_conv=4), (8, 28, 1), r"model.n_conv: 4 halvings .* at most 3"),
        (Cnn(n_conv=8, base=10_000), (512, 512, 1), r"model.n_conv: .*choose fewer"),
    ],
)
def test_too_many_convolutions_are_refused_with_what_to_do(section, shape, told):
    with pytest.raises(UserError, match=told):
        section.build(10, shape)


@pytest.mark.parametrize(
    "keys", [{"n_conv": 0}, {"n_linear": 0}, {"relu": 1}, {"base": 0}]
)
def test_keys_out_of_range_are_refused(keys):
    with pytest.raises(ValidationError):
        Cnn(**keys)


@pytest.mark.parametrize(
    "wrong",
    [
        {"convolutions": (3, 0)},
        {"dense": (0,)},
        {"num_classes": 1},
        {"image_shape": (3, 8, 1)},
    ],
)
def test_a_shape_that_is_no_network_is_refused(wrong):
    right = {"convolutions": (3, 3), "dense": (), "num_classes": 3}
    with pytest.raises(ValueError, match=r"at least|nothing of images"):
        ChainNetwork(**{**right, "image_shape": (8, 8, 1), **wrong})
