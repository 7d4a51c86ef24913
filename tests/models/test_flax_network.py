"""A linen module of the user's own as a network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import (
    SHAPE,
    MlpModel,
    NormalisedModel,
    VitModel,
    bright_images,
    normalised,
)

from dpet_jax.errors import UserError
from dpet_jax.models.flax_network import FlaxNetwork

IMAGES = normalised(bright_images(5)[0])


def drawn(section):
    network = section.build(3, SHAPE)
    return network, *jax.jit(network.init)(jax.random.key(0))


def test_parameters_are_those_that_the_module_draws():
    network, params, stats = drawn(MlpModel())
    draw = jax.jit(network.module.init)
    expected = draw(jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"]
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert stats == {}


def test_image_shape_may_decide_shapes_of_parameters():
    for shape, patches in ((SHAPE, 4), ((12, 8, 1), 6)):
        network = VitModel().build(3, shape)
        params, _ = jax.eval_shape(network.init, jax.random.key(0))
        assert params["position"].shape == (1, patches, 8)


def test_features_are_returned_or_what_the_last_dense_layer_reads_or_none():
    network, params, stats = drawn(MlpModel(width=6))
    outputs = jax.jit(network.apply)(params, stats, IMAGES)
    head = params["Dense_1"]
    np.testing.assert_allclose(
        outputs.features @ head["kernel"] + head["bias"][None],
        outputs.logits,
        rtol=1e-4,
        atol=1e-5,
    )
    shapes = {
        section: jax.eval_shape(drawn_outputs(section), jax.random.key(0)).features
        for section in (VitModel(), NormalisedModel())
    }
    assert shapes[VitModel()].shape == (5, 8)
    assert shapes[NormalisedModel()] is None


def drawn_outputs(section):
    network = section.build(3, SHAPE)
    return lambda key: network.apply(*network.init(key), IMAGES)


@pytest.mark.parametrize("section", [MlpModel(), NormalisedModel()])
def test_bfloat16_computes_in_it_and_returns_float32(section):
    network, params, stats = drawn(section)
    run = jax.jit(network.apply_train, static_argnames="dtype")
    arguments = jax.random.key(0), params, stats, IMAGES
    (wide, _), (narrow, new) = (
        run(*arguments, dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    assert narrow.logits.dtype == jnp.float32
    error = np.abs(narrow.logits - wide.logits).max()
    assert 1e-5 < error < 0.1
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} <= {jnp.dtype("float32")}


def test_running_statistics_move_in_training_mode_and_decide_in_evaluation_mode():
    network, params, stats = drawn(NormalisedModel())
    outputs, new = jax.jit(network.apply_train)(
        jax.random.key(0), params, stats, IMAGES
    )
    # normalised over the batch, so its mean is the offset of the layer: 0
    np.testing.assert_allclose(outputs.logits.mean(0), np.zeros(3), atol=1e-5)
    assert np.abs(new["BatchNorm_0"]["mean"]).max() > 1e-3
    before, after = (network.apply(params, s, IMAGES).logits for s in (stats, new))
    assert np.abs(before - after).max() > 1e-4


class Dropping(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, images, train: bool):
        x = images.reshape(images.shape[0], -1)
        return nn.Dense(3)(nn.Dropout(self.rate, deterministic=not train)(x))


def test_dropout_draws_from_the_key_of_the_step_and_only_in_training_mode():
    network, without = (
        FlaxNetwork(MlpModel(), Dropping(rate), 3, SHAPE) for rate in (0.5, 0.0)
    )
    params, stats = network.init(jax.random.key(0))
    train = jax.jit(network.apply_train)
    first, again, other = (
        np.asarray(train(jax.random.key(seed), params, stats, IMAGES)[0].logits)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    evaluated, plain = (
        str(jax.make_jaxpr(each.apply)(params, stats, IMAGES))
        for each in (network, without)
    )
    assert evaluated == plain


class Strange(nn.Module):
    """Fails in one of the ways that are refused."""

    fault: object

    @nn.compact
    def __call__(self, images):
        if self.fault == "cache":
            self.variable("cache", "count", lambda: jnp.zeros(()))
        x = nn.Dense(4 if self.fault == "classes" else 3)(
            images.reshape(images.shape[0], -1)
        )
        return x[0] if self.fault == "batch" else x


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cache", "Strange keeps cache; only params and batch_stats"),
        ("classes", r"shape \(3, 4\); give logits of shape \(3, 3\)"),
        ("batch", r"shape \(3,\); give logits of shape \(3, 3\)"),
        ([1], "must be hashable"),
    ],
    ids=str,
)
def test_module_that_cannot_be_trained_is_refused_when_it_is_built(fault, message):
    with pytest.raises(UserError, match=message):
        FlaxNetwork(MlpModel(), Strange(fault), 3, SHAPE)


def test_equal_sections_build_networks_that_share_a_compiled_program():
    traces = []

    @jax.jit
    def count(images):
        traces.append(1)
        return images

    run = jax.jit(
        lambda network, params, stats: count(network.apply(params, stats, IMAGES)),
        static_argnums=0,
    )
    _, params, stats = drawn(MlpModel())
    for width in (16, 16):
        run(MlpModel(width=width).build(3, SHAPE), params, stats)
    assert len(traces) == 1
    other = drawn(MlpModel(width=4))
    run(*other)
    assert run._cache_size() == 2
