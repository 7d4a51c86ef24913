"""Scores and gradient norms of rows on the device, and what they cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import SHAPE, MlpModel, NormalisedModel, VitModel, device_data

from dpet_jax.data.augment import normalise
from dpet_jax.errors import UserError
from dpet_jax.models.flax_network import FlaxNetwork
from dpet_jax.models.network import ModelSection
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.scores import gradient_norms, lookup
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.scoring import (
    ScoreSpec,
    gradient_norm_flops,
    gradient_norms_of_data,
    score_data,
    scoring_flops,
)
from dpet_jax.training.state import DeviceData

NETWORK = ResidualNetwork(8, (8, 16), (1, 1), num_classes=3, in_channels=1)
NAMES = ("margin", "zero_one", "grand_last_layer")
EVERYTHING = (*NAMES, "logits", "features")
NUM, SIDE, CAPACITY, BATCH = 23, 6, 25, 5


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return DeviceData(
        jnp.asarray(rng.integers(0, 256, (NUM, SIDE, SIDE, 1)), jnp.uint8),
        jnp.asarray(rng.integers(0, 3, NUM), jnp.int32),
        jnp.array([0.4]),
        jnp.array([0.2]),
    )


@pytest.fixture(scope="module")
def variables():
    """A network that is sure of some of its predictions, and wrong about others."""
    params, stats = jax.jit(NETWORK.init)(jax.random.key(0))
    params["head"]["kernel"] = 8 * params["head"]["kernel"]
    return params, stats


def spec(names=(), dtype="float32", model=NETWORK):
    return ScoreSpec(model, names, BATCH, dtype, data_mesh(1))


def padded(rows, fill=0, capacity=CAPACITY):
    return jnp.asarray([*rows, *[fill] * (capacity - len(rows))], jnp.int32)


def test_the_data_sets_rows_score_as_apply_and_the_kernels(variables, data):
    rows = np.array([8, 2, 5, 0, 21, 7, 19])
    got = score_data(spec(EVERYTHING), *variables, data, padded(rows), jnp.int32(7))

    images = normalise(data.images[rows], data.mean, data.std)
    outputs = jax.jit(NETWORK.apply)(*variables, images)
    expected = {"logits": outputs.logits, "features": outputs.features}
    read = {"logits": outputs[:1], "features": outputs[1:]}
    for name in NAMES:
        score = lookup(name)
        extra = read["features"] if score.reads == "features" else ()
        kernel = jax.jit(jax.vmap(score.kernel()))
        expected[name] = kernel(outputs.logits, data.labels[rows], *extra)
    assert got.keys() == expected.keys()
    for name, known in expected.items():
        np.testing.assert_allclose(got[name][:7], known, rtol=3e-4, atol=1e-4)
        assert np.isneginf(np.asarray(got[name])[7:]).all()


def test_an_examples_score_does_not_depend_on_where_and_with_what_it_is_scored(
    variables, data
):
    def score(rows, fill=0, capacity=CAPACITY):
        rows = list(rows)
        got = score_data(
            spec(EVERYTHING),
            *variables,
            data,
            padded(rows, fill, capacity),
            jnp.int32(len(rows)),
        )
        return {name: np.asarray(each)[: len(rows)] for name, each in got.items()}

    whole = score(range(NUM))
    order = np.random.default_rng(1).permutation(NUM)
    for rows, others in (
        (order, score(order)),
        (order[:13], score(order[:13], fill=22)),
        (order[::-1][:4], score(order[::-1][:4], fill=3)),
        (np.arange(NUM), score(range(NUM), capacity=40)),
    ):
        for name in EVERYTHING:
            np.testing.assert_allclose(others[name], whole[name][rows], rtol=1e-6)


def test_one_compilation_scores_any_rows_and_computes_what_was_asked_alone(
    variables, data
):
    arguments = [
        (padded(rows), jnp.int32(len(rows)))
        for rows in (range(NUM), [], [4], range(7, 20))
    ]
    first = score_data(spec(NAMES), *variables, data, *arguments[0])
    assert first.keys() == set(NAMES)
    before = compile_counts().programs
    for each in arguments[1:]:
        score_data(spec(NAMES), *variables, data, *each)
    assert compile_counts().programs == before


def test_the_normalisation_is_folded_once_and_not_in_every_batch(variables, data):
    arguments = (*variables, data, padded(range(NUM)), jnp.int32(NUM))
    text = score_data.lower(spec(("margin",)), *arguments).as_text()
    loop = text[text.index("stablehlo.while") :]
    assert "stablehlo.dot_general" in loop
    assert "stablehlo.sqrt" in text
    assert "rsqrt" not in loop
    assert "stablehlo.sqrt" not in loop


# gradient norms


@pytest.fixture(scope="module")
def norms(variables, data):
    params, stats = variables
    images = normalise(data.images, data.mean, data.std)
    return np.asarray(gradient_norms(NETWORK.bind(stats), params, images, data.labels))


def test_rows_get_the_norms_of_their_examples_and_no_number_compiles_again(
    variables, data, norms
):
    def scored(rows):
        arguments = jax.device_put((np.asarray(padded(rows)), np.int32(len(rows))))
        return np.asarray(gradient_norms_of_data(spec(), *variables, data, *arguments))

    scored([1])
    before = compile_counts()
    for rows in (range(NUM), [7, 0, 10], [3], []):
        got = scored(rows)
        np.testing.assert_allclose(got[: len(rows)], norms[[*rows]], rtol=1e-5)
        assert np.all(got[len(rows) :] == -np.inf)
    assert compile_counts().since(before).programs == 0


def test_flops_of_a_norm_are_two_passes_and_the_lengths():
    # by hand, at 6 x 6: multiply-adds of each kernel's length in its cheapest form
    stem = 36 * 9 * 1 * 8
    same = 36 * 9 * 8 * 8
    halved = min(9 * 9 * 8 * 16, 9**2 * (9 * 8 + 16))
    last = 9**2 * 16 + 9**2 * (9 + 16)
    shortcut = min(9 * 8 * 16, 9**2 * (8 + 16))
    head = 16 + 3
    lengths = stem + 2 * same + halved + last + shortcut + head
    # no gradient goes to the images
    passes = 2 * NETWORK.forward_flops(SIDE, SIDE) - 2 * stem
    each = passes + 2 * lengths
    assert gradient_norm_flops(NETWORK, (SIDE, SIDE, 1)) == each

    def flops(*names):
        return scoring_flops(NETWORK, (SIDE, SIDE, 1), (500, 32), 33, names)

    forward = 500 * NETWORK.forward_flops(SIDE, SIDE)
    assert flops("grand") == 64 * each
    assert flops("margin", "el2n") == forward
    assert flops("margin", "grand") == 64 * each + forward


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_norms_in_bfloat16_lower_for_accelerators(variables, data, platform):
    arguments = (*variables, data, np.zeros(CAPACITY, np.int32), np.int32(3))
    traced = gradient_norms_of_data.trace(spec(dtype="bfloat16"), *arguments)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    convolutions = [
        line for line in text.splitlines() if "stablehlo.convolution" in line
    ]
    assert convolutions
    assert all(line.rstrip().endswith("xbf16>") for line in convolutions)


# networks of a user's own


class Tied(nn.Module):
    """A network that uses one layer twice."""

    @nn.compact
    def __call__(self, images):
        dense = nn.Dense(4)
        x = dense(nn.Dense(4)(images.reshape(images.shape[0], -1)))
        return nn.Dense(3)(nn.relu(dense(x)))


class TiedModel(ModelSection):
    def build(self, num_classes, image_shape):
        return FlaxNetwork(self, Tied(), num_classes, image_shape)


@pytest.fixture(scope="module")
def pool():
    return jax.device_put(device_data())


def test_norms_of_any_flax_network_are_those_of_its_formed_gradients(pool):
    network = VitModel().build(3, SHAPE)
    params, stats = jax.jit(network.init)(jax.random.key(1))
    arguments = (params, stats, pool, padded(range(7)), jnp.int32(7))
    got = gradient_norms_of_data(spec(model=network), *arguments)
    images = normalise(pool.images[:7], pool.mean, pool.std)
    expected = gradient_norms(
        network.bind(stats), params, images, pool.labels[:7], method="vmap"
    )
    np.testing.assert_allclose(got[:7], expected, rtol=1e-4)


def test_flops_of_any_network_are_its_own_and_the_lengths():
    network = MlpModel(width=16).build(3, SHAPE)
    # gradients of one position: lengths of inputs and of outputs
    lengths = (64 + 16) + (16 + 3)
    forward, backward = 2 * (64 * 16 + 16 * 3), 2 * 16 * 3
    assert gradient_norm_flops(network, SHAPE) == forward + backward + 2 * lengths


def test_a_network_without_gradient_norms_is_refused_with_what_has_no_rule(pool):
    tied = TiedModel().build(3, SHAPE)
    params, stats = jax.jit(tied.init)(jax.random.key(1))
    message = r"grand cannot.*TiedModel: .*\['Dense_0'\].*used twice.*grand_last_layer"
    arguments = (params, stats, pool, padded([1]), jnp.int32(1))
    with pytest.raises(UserError, match=message):
        gradient_norms_of_data(spec(model=tied), *arguments)
    with pytest.raises(UserError, match=message):
        gradient_norm_flops(tied, SHAPE)


def test_a_score_of_features_is_refused_where_a_network_gives_none(pool):
    network = NormalisedModel().build(3, SHAPE)
    params, stats = jax.jit(network.init)(jax.random.key(1))
    arguments = (params, stats, pool, padded([1]), jnp.int32(1))
    got = score_data(spec(("margin",), model=network), *arguments)
    assert np.isfinite(got["margin"][0])
    message = r"grand_last_layer needs the features .*NormalisedModel does not give"
    with pytest.raises(UserError, match=message):
        score_data(spec(("margin", "grand_last_layer"), model=network), *arguments)
