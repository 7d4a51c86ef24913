from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import TINY

from dpet_jax.models.conv import native_convolution
from dpet_jax.models.resnet import ResidualNetwork

NETWORK = ResidualNetwork(8, (8, 16), (1, 2), num_classes=3, in_channels=2)
KEY = jax.random.key(0)
evaluate = jax.jit(NETWORK.apply, static_argnames="dtype")
draw = jax.jit(TINY.init)
train = jax.jit(partial(NETWORK.apply_train, KEY), static_argnames="dtype")


@pytest.fixture(scope="module")
def variables():
    """Parameters and statistics, none of which is still zero or one."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        values = scale * rng.normal(size=leaf.shape)
        if leaf.ndim == 1:
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map(fill, jax.eval_shape(NETWORK.init, KEY))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(4, 8, 7, 2)), jnp.float32)


def reference(params, stats, images):
    """Run NETWORK in float64 NumPy with its running statistics."""
    params, stats, images = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), (params, stats, images)
    )

    def conv(name, x, stride, params):
        kernel = params[name]["kernel"]
        side, pad = kernel.shape[0], kernel.shape[0] // 2
        height, width = x.shape[1:3]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        return sum(
            x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
            for i, j in np.ndindex(side, side)
        )

    def norm(name, x, params, stats):
        params, stats = params[name]["norm"], stats[name]["norm"]
        x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        return x * params["scale"] + params["bias"]

    def block(name, x, stride):
        p, s = params[name], stats[name]
        y = np.maximum(norm("norm1", conv("conv1", x, stride, p), p, s), 0)
        y = norm("norm2", conv("conv2", y, 1, p), p, s)
        if "shortcut" in p:
            x = norm("shortcut_norm", conv("shortcut", x, stride, p), p, s)
        return np.maximum(x + y, 0)

    x = norm("stem_norm", conv("stem", images, 1, params), params, stats)
    x = block("stage1_block1", np.maximum(x, 0), 1)
    x = block("stage2_block2", block("stage2_block1", x, 2), 1)
    features = x.mean((1, 2))
    head = params["head"]
    return features @ head["kernel"] + head["bias"], features


def test_the_network_equals_an_independent_numpy_one(variables, images):
    outputs = evaluate(*variables, images)
    logits, features = reference(*variables, images)
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs.features, features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_and_features_are_float32_in_every_compute_dtype(
    dtype, variables, images
):
    for outputs in (
        evaluate(*variables, images, dtype=dtype),
        train(*variables, images, dtype=dtype)[0],
    ):
        assert outputs.logits.shape == (4, 3)
        assert outputs.features.shape == (4, 16)
        assert outputs.logits.dtype == outputs.features.dtype == jnp.float32


def test_bfloat16_computes_in_bfloat16_but_keeps_float32_statistics(variables, images):
    narrow, stats = train(*variables, images, dtype="bfloat16")
    wide, _ = train(*variables, images)
    error = np.abs(np.asarray(narrow.features - wide.features))
    assert 1e-4 < error.max() < 0.3
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}


def test_equal_keys_give_equal_parameters_and_other_keys_others():
    first, again, other = (draw(jax.random.key(seed)) for seed in (3, 3, 4))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [np.asarray(tree[0]["stem"]["kernel"]) for tree in (first, other)]
    assert (kernels[0] != kernels[1]).all()


def test_kernels_are_he_normal_by_fan_out_and_the_head_is_uniform():
    params, _ = draw(jax.random.key(5))
    head = np.ravel(params.pop("head")["kernel"])
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    scaled = [
        np.ravel(kernel) * (np.prod(kernel.shape[:2]) * kernel.shape[3] / 2) ** 0.5
        for kernel in kernels
    ]
    assert np.std(np.concatenate(scaled)) == pytest.approx(1, rel=0.1)
    assert all(0.75 < np.std(kernel) < 1.3 for kernel in scaled)
    bound = TINY.num_features**-0.5
    assert 0.8 * bound < np.abs(head).max() <= bound
    assert min((head > 0).mean(), (head < 0).mean()) > 0.2


def test_evaluation_does_not_depend_on_the_rest_of_the_batch(variables, images):
    other = images.at[1:].multiply(3.0)
    np.testing.assert_allclose(
        evaluate(*variables, images).logits[0],
        evaluate(*variables, other).logits[0],
        rtol=1e-6,
    )


def test_training_depends_on_the_rest_of_the_batch(variables, images):
    other = images.at[1:].multiply(3.0)
    first, second = (train(*variables, x)[0].logits[0] for x in (images, other))
    assert np.abs(np.asarray(first - second)).max() > 1e-3


def test_running_statistics_keep_nine_tenths_of_their_value(variables, images):
    params, old = variables
    shifted = jax.tree.map(lambda leaf: leaf + 1.0, old)
    (a, new), (b, new_shifted) = (train(params, s, images) for s in (old, shifted))
    np.testing.assert_array_equal(a.logits, b.logits)
    for x, y in zip(jax.tree.leaves(new), jax.tree.leaves(new_shifted), strict=True):
        np.testing.assert_allclose(y - x, 0.9, rtol=1e-4)


def test_running_statistics_take_a_tenth_of_the_batch(variables, images):
    params, old = variables
    new = train(params, old, images)[1]["stem_norm"]["norm"]
    old = old["stem_norm"]["norm"]
    stem = np.asarray(native_convolution(images, params["stem"]["kernel"], 1))
    for name, batch in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2)))):
        np.testing.assert_allclose(
            new[name], 0.9 * old[name] + 0.1 * batch, rtol=1e-4, atol=1e-6
        )


def test_every_stage_but_the_first_halves_the_image():
    sizes = []

    def recorded(images, kernel, stride):
        output = native_convolution(images, kernel, stride)
        sizes.append((*output.shape[1:3], kernel.shape[0]))
        return output

    network = ResidualNetwork(8, (8, 8, 16), (1, 2, 1), num_classes=2, in_channels=1)
    variables = jax.eval_shape(network.init, KEY)
    images = jax.ShapeDtypeStruct((1, 9, 8, 1), jnp.float32)
    jax.eval_shape(partial(network.apply, convolve=recorded), *variables, images)
    stem_and_first = [(9, 8, 3)] * 3
    second = [(5, 4, 3), (5, 4, 3), (5, 4, 1), (5, 4, 3), (5, 4, 3)]
    third = [(3, 2, 3), (3, 2, 3), (3, 2, 1)]
    assert sizes == stem_and_first + second + third


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ()}, "one entry a stage"),
        ({"blocks": (1, 1)}, "one entry a stage"),
        ({"channels": (0,)}, "at least 1"),
        ({"stem": 0}, "at least 1"),
        ({"in_channels": 0}, "at least 1"),
        ({"num_classes": 1}, "at least 2 classes, got 1"),
    ],
    ids=str,
)
def test_a_shape_that_is_no_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
