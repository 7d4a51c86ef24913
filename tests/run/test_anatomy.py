"""Layers read from a jaxpr, alone, and networks in which some are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import MlpModel, NormalisedModel

from dpet_jax.models.cnn import ChainNetwork
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run.anatomy import KINDS, Without, alone, layers_of

BATCH = 4
CHAIN = ChainNetwork((3,), (5,), 3, (5, 4, 1))
RESIDUAL = ResidualNetwork(4, (4, 6), (1, 1), num_classes=3, in_channels=1)
NETWORKS = [CHAIN, pytest.param(RESIDUAL, marks=pytest.mark.slow)]
KEY = jax.random.key(0)


def at(network, shape=(5, 4, 1), dtype="float32"):
    return network, BATCH, shape, dtype


def images(shape=(5, 4, 1)):
    values = np.random.default_rng(0).normal(size=(BATCH, *shape))
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_layers_of_a_chain_have_its_kinds_and_shapes(dtype):
    found = layers_of(*at(CHAIN, dtype=dtype))
    assert [(one.name, one.kind) for one in found] == [
        ("conv1", "convolution"),
        ("norm1", "batch norm"),
        ("ReLU 1", "ReLU"),
        ("pooling 1", "pooling"),
        ("dense1", "dense"),
        ("head", "dense"),
    ]
    assert [(one.reads[1:], one.gives[1:]) for one in found] == [
        ((5, 4, 1), (5, 4, 3)),
        ((5, 4, 3), (5, 4, 3)),
        ((5, 4, 3), (5, 4, 3)),
        ((5, 4, 3), (2, 2, 3)),
        ((12,), (5,)),
        ((5,), (3,)),
    ]
    assert found[0].parameters == ((3, 3, 1, 3),)
    assert found[4].parameters == ((12, 5), (5,))
    # nobody differentiates by the images
    assert [one.differentiates_input for one in found] == [False] + [True] * 5


def test_the_layers_of_a_residual_network_are_all_there():
    found = layers_of(*at(RESIDUAL))
    kinds = [one.kind for one in found]
    assert {kind: kinds.count(kind) for kind in KINDS} == {
        # the second block projects its shortcut
        **{"convolution": 6, "batch norm": 6, "ReLU": 5},
        **{"pooling": 1, "dense": 1},
    }
    assert len({one.name for one in found}) == len(found)
    assert "stage2_block1/shortcut" in {one.name for one in found}


@pytest.mark.parametrize(
    ("section", "kinds"),
    [
        (MlpModel(), ["dense", "ReLU", "dense"]),
        (NormalisedModel(), ["convolution", "batch norm", "pooling"]),
    ],
)
def test_layers_of_a_users_own_module_are_found(section, kinds):
    network = section.build(3, (8, 8, 1))
    found = layers_of(*at(network, (8, 8, 1)))
    assert [one.kind for one in found] == kinds


@pytest.mark.parametrize("network", NETWORKS, ids=["chain", "residual"])
def test_a_network_that_lacks_no_layer_is_the_network(network):
    same = Without(network, (), *at(network)[1:])
    params, stats = jax.jit(network.init)(KEY)

    def loss(of):
        def run(params):
            outputs, moved = of.apply_train(KEY, params, stats, images())
            return jnp.sum(outputs.logits**2), (outputs, moved)

        return jax.jit(jax.grad(run, has_aux=True))(params)

    left, right = loss(network), loss(same)
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_layers_that_are_left_out_take_their_parameters_with_them():
    found = layers_of(*at(CHAIN))
    names = tuple(one.name for one in found if one.kind in ("batch norm", "dense"))
    without = Without(CHAIN, names, *at(CHAIN)[1:])
    params, stats = jax.jit(without.init)(KEY)
    whole, _ = jax.jit(CHAIN.init)(KEY)
    assert [*params] == ["conv1"]
    assert stats == {}
    np.testing.assert_array_equal(params["conv1"]["kernel"], whole["conv1"]["kernel"])

    @jax.jit
    def run(params):
        return without.apply_train(KEY, params, stats, images())

    outputs, moved = run(params)
    assert moved == {}
    # convolution, ReLU and the maximum of 2 x 2; then three of the twelve values
    layer = alone(*at(CHAIN), "conv1")
    (given,) = layer.forward(images(), params["conv1"]["kernel"])
    pooled = np.maximum(np.asarray(given)[:, :4], 0).reshape(BATCH, 2, 2, 2, 2, 3)
    expected = pooled.max((2, 4)).reshape(BATCH, -1)[:, :3]
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS, ids=["chain", "residual"])
def test_each_kind_can_be_left_out_after_the_others(network):
    found, left_out, operations = layers_of(*at(network)), (), []
    for kind in KINDS:
        left_out += tuple(one.name for one in found if one.kind == kind)
        without = Without(network, left_out, *at(network)[1:])

        def logits(key, without=without):
            params, stats = without.init(key)
            return without.apply_train(key, params, stats, images())[0].logits

        shape = jax.eval_shape(logits, KEY)
        assert shape.shape == (BATCH, 3)
        operations.append(jax.jit(logits).lower(KEY).cost_analysis()["flops"])
    assert operations == sorted(operations, reverse=True)
    assert len(set(operations)) > 3
    params, stats = jax.eval_shape(without.init, KEY)
    assert (params, stats) == ({}, {})


def test_a_layer_alone_gives_its_result_and_the_gradients_that_training_needs():
    first, dense = (alone(*at(CHAIN), name) for name in ("conv1", "dense1"))
    kernel = jnp.ones((3, 3, 1, 3))
    (given,), grads = jax.jit(first.backward)(
        jnp.ones((BATCH, 5, 4, 3)), images(), kernel
    )
    # by the kernel alone: its middle meets every pixel
    assert [leaf.shape for leaf in jax.tree.leaves(grads)] == [(3, 3, 1, 3)]
    middle = jax.tree.leaves(grads)[0][1, 1, 0]
    np.testing.assert_allclose(middle, np.full(3, images().sum()), rtol=1e-4)
    np.testing.assert_allclose(given[0, 1, 1, 0], images()[0, :3, :3].sum(), rtol=1e-4)
    rng = np.random.default_rng(1)
    x, w, ct = (rng.normal(size=s) for s in ((BATCH, 12), (12, 5), (BATCH, 5)))
    inputs = [jnp.asarray(v, jnp.float32) for v in (ct, x, w, np.zeros(5))]
    _, grads = jax.jit(dense.backward)(*inputs)
    by_input, by_kernel, by_bias = jax.tree.leaves(grads)
    np.testing.assert_allclose(by_input, ct @ w.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_kernel, x.T @ ct, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_bias, ct.sum(0), rtol=1e-4, atol=1e-5)


def test_what_is_left_cannot_be_evaluated():
    without = Without(CHAIN, ("conv1",), *at(CHAIN)[1:])
    assert without.label == "CNN 1+2 without 1 layers"
    with pytest.raises(ValueError, match="has no evaluation"):
        without.apply({}, {}, images())
