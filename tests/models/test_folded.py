from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.scores import lookup

SMALL = ResidualNetwork(8, (8, 16), (1, 2), num_classes=3, in_channels=2)


@partial(jax.jit, static_argnums=0, static_argnames="dtype")
def evaluate(network, params, stats, images, dtype="float32"):
    return network.apply(params, stats, images, dtype=dtype)


@partial(jax.jit, static_argnums=0, static_argnames="dtype")
def evaluate_folded(network, params, stats, images, dtype="float32"):
    folded = network.fold(params, stats)
    return network.apply_folded(folded, images, dtype=dtype)


def draw(network):
    """Parameters and statistics as training leaves them: none is zero or one."""
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
    return jax.tree_util.tree_map_with_path(fill, shapes)


def draw_images(network, count, height, width):
    shape = (count, height, width, network.in_channels)
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_folding_moves_no_logit_by_1e_5_of_the_largest():
    params, stats = draw(SMALL)
    images = draw_images(SMALL, 4, 5, 7)
    exact = evaluate(SMALL, params, stats, images)
    got = evaluate_folded(SMALL, params, stats, images)
    for folded, unfolded in zip(got, exact, strict=True):
        assert folded.dtype == jnp.float32
        largest = np.abs(unfolded).max()
        assert largest > 0.1
        assert np.abs(folded - unfolded).max() < 1e-5 * largest


def test_a_folded_layer_is_scaled_and_shifted_as_by_hand():
    params, stats = draw(SMALL)
    weights = SMALL.fold(params, stats)["stage2_block1"]["shortcut"]
    params, stats = params["stage2_block1"], stats["stage2_block1"]
    affine, running = params["shortcut_norm"]["norm"], stats["shortcut_norm"]["norm"]
    kernel, scale, bias, mean, var = (
        np.asarray(values, np.float64)
        for values in (
            *(params["shortcut"]["kernel"], affine["scale"], affine["bias"]),
            *(running["mean"], running["var"]),
        )
    )
    channel = 5
    factor = scale[channel] / np.sqrt(var[channel] + 1e-5)
    np.testing.assert_allclose(
        weights["kernel"][..., channel], kernel[..., channel] * factor, rtol=1e-6
    )
    np.testing.assert_allclose(
        weights["bias"][channel], bias[channel] - mean[channel] * factor, rtol=1e-5
    )


def test_a_folded_network_has_a_bias_for_each_normalisation_and_nothing_else():
    params, stats = draw(SMALL)
    folded = SMALL.fold(params, stats)
    assert folded.keys() == {name for name in params if name != "stem_norm"}
    convolutions = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    leaves = jax.tree.leaves(folded)
    assert len(leaves) == 2 * len(convolutions) + 2
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_a_folded_network_lowers_without_normalisation():
    params, stats = draw(SMALL)
    images = draw_images(SMALL, 2, 8, 8)
    run = jax.jit(partial(SMALL.apply_folded, dtype="bfloat16"))
    traced = run.trace(SMALL.fold(params, stats), images)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "rsqrt" not in text
    assert "stablehlo.sqrt" not in text
    convolutions = [line for line in text.splitlines() if "stablehlo.convo" in line]
    assert len(convolutions) == 8
    assert all(line.rstrip().endswith("xbf16>") for line in convolutions)


@pytest.fixture(scope="module")
def trained():
    """A small network after some steps on the digits, and images it has not seen."""
    network = ResidualNetwork(8, (8, 16), (1, 1), num_classes=10, in_channels=1)
    digits = load_digits()
    images = jnp.asarray((digits.images[..., None] - 4.9) / 6.0, jnp.float32)
    labels = jnp.asarray(digits.target, jnp.int32)

    unused = jax.random.key(0)

    def loss(params, stats, images, labels):
        outputs, stats = network.apply_train(unused, params, stats, images)
        log_p = jax.nn.log_softmax(outputs.logits)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1)), stats

    @jax.jit
    def train(params, stats):
        def step(carry, rows):
            params, momentum, stats = carry
            gradient, stats = jax.grad(loss, has_aux=True)(
                params, stats, images[rows], labels[rows]
            )
            momentum = jax.tree.map(lambda v, g: 0.9 * v + g, momentum, gradient)
            params = jax.tree.map(lambda w, v: w - 0.05 * v, params, momentum)
            return (params, momentum, stats), None

        orders = [np.random.default_rng(i).permutation(960) for i in range(8)]
        rows = np.concatenate(orders).reshape(-1, 64)
        momentum = jax.tree.map(jnp.zeros_like, params)
        (params, _, stats), _ = jax.lax.scan(step, (params, momentum, stats), rows)
        return params, stats

    params, stats = train(*jax.jit(network.init)(jax.random.key(0)))
    return network, params, stats, images[960:], labels[960:]


def spearman(left, right):
    return np.corrcoef(*(np.argsort(np.argsort(each)) for each in (left, right)))[0, 1]


def test_bfloat16_ranks_a_trained_networks_pool_as_float32(trained):
    network, params, stats, images, labels = trained
    wide, narrow = (
        evaluate_folded(network, params, stats, images, dtype=dtype).logits
        for dtype in ("float32", "bfloat16")
    )
    assert np.mean(np.argmax(np.asarray(narrow), -1) == np.asarray(labels)) > 0.9
    tenth = labels.size // 10
    for name in ("margin", "entropy", "least_confidence", "cross_entropy", "el2n"):
        score = jax.jit(jax.vmap(lookup(name).kernel()))
        ranks = [np.asarray(score(logits, labels)) for logits in (wide, narrow)]
        both = np.intersect1d(*(np.argsort(each)[-tenth:] for each in ranks))
        # 0.99995 and 0.988 when this was written; random ranks have 0 and 0.1
        assert spearman(*ranks) > 0.999, name
        assert both.size >= 0.95 * tenth, name


def test_folding_costs_bfloat16_no_digits(trained):
    network, params, stats, images, _ = trained
    exact = evaluate(network, params, stats, images).logits
    narrow = [
        run(network, params, stats, images, dtype="bfloat16").logits
        for run in (evaluate, evaluate_folded)
    ]
    errors = [np.abs(logits - exact).mean() for logits in narrow]
    assert errors[1] < 1.2 * errors[0]
