"""What every network can do: a name, a copy through JSON, a bound function."""

import json

import jax
import numpy as np
import pytest
from fakes.networks import SHAPE, TINY, MlpModel, VitModel, bright_images, normalised

from dpet_jax.models.families import ResNet18
from dpet_jax.models.network import ModelSection, network_from_json
from dpet_jax.models.resnet import ResidualNetwork

NETWORKS = (
    TINY,
    ResNet18(width_multiplier=0.25).build(10, (32, 32, 3)),
    MlpModel(width=5).build(3, SHAPE),
    VitModel(patch=2, dropout=0.1).build(3, SHAPE),
)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.label)
def test_network_survives_json_equal_and_as_a_static_argument(network):
    again = network_from_json(json.loads(json.dumps(network.to_json())))
    assert again == network
    assert hash(again) == hash(network)


def test_model_json_without_an_import_path_is_a_residual_network():
    saved = {"stem": 8, "channels": [8], "blocks": [1]}
    saved |= {"num_classes": 3, "in_channels": 1}
    assert network_from_json(saved) == TINY


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Net", "cannot import 'no_such_module:Net'"),
        ("fakes.networks:Net", "has no 'Net'"),
        ("fakes.networks:MlpModel", "is no class that extends"),
    ],
)
def test_network_that_cannot_be_imported_is_refused_by_its_path(path, message):
    with pytest.raises(ValueError, match=message):
        network_from_json({"network": path})


def test_labels_are_names_that_people_use():
    assert [network.label for network in NETWORKS] == [
        *("ResNet-4", "ResNet-18", "MlpModel", "VitModel")
    ]
    assert NETWORKS[1] == ResidualNetwork(16, (16, 32, 64, 128), (2,) * 4, 10, 3)


@pytest.mark.parametrize("network", [TINY, NETWORKS[2]], ids=["residual", "mlp"])
def test_bound_network_gives_the_logits_of_apply_in_either_form(network):
    params, stats = jax.jit(network.init)(jax.random.key(0))
    images = normalised(bright_images(4)[0])
    bound = network.bind(stats)
    expected = jax.jit(network.apply)(params, stats, images).logits
    for run in (bound, bound.in_primitives):
        np.testing.assert_allclose(
            jax.jit(run)(params, images), expected, rtol=1e-4, atol=1e-6
        )


def test_section_may_give_a_narrower_network_or_says_that_it_has_none():
    section = MlpModel(width=10)
    narrow = section.narrower(section.build(3, SHAPE), 0.5)
    assert narrow == MlpModel(width=5).build(3, SHAPE)
    vit = VitModel()
    with pytest.raises(ValueError, match=r"VitModel narrower; give VitModel a method"):
        vit.narrower(vit.build(3, SHAPE), 0.5)


def test_section_that_builds_nothing_cannot_be_made():
    class Nothing(ModelSection):
        pass

    with pytest.raises(TypeError, match="build"):
        Nothing()
