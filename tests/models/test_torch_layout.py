"""Weights of torchvision's and timm's ResNets: names, both stems, PyTorch's logits."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes import torch_resnet

from dpet_jax.models.families import ResNet18
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.models.torch_layout import from_torch, is_torch_layout
from dpet_jax.models.weights import WeightsError, nest

#: What PyTorch 2.13 on the CPU makes of `torch_resnet.images()`, by the stem's side and
#: whether blocks are bottlenecks.
LOGITS = {
    (7, True): [
        [9.099190, -3.773985, -5.551509, -10.153437, 3.514703],
        [5.151325, -2.349195, -2.550654, -11.627734, 2.181946],
    ],
    (7, False): [
        [-2.087061, -0.504399, 1.257974, 4.826007, 1.599628],
        [-2.183989, -0.743708, 0.981391, 5.556327, 2.780938],
    ],
    (3, False): [
        [0.991902, 2.130869, 3.285541, 0.381017, -3.102120],
        [1.131645, 1.791974, 3.863969, -0.446463, -4.182342],
    ],
}
FILE = Path("model.safetensors")


@pytest.mark.parametrize(("side", "bottleneck"), LOGITS)
def test_converted_weights_give_pytorch_s_logits(side, bottleneck):
    tensors = torch_resnet.weights(side, bottleneck=bottleneck)
    network, arrays = from_torch(FILE, tensors)
    stem = "imagenet" if side == 7 else "cifar"
    kind = "bottleneck" if bottleneck else "basic"
    wanted = ResidualNetwork(
        8, (8, 16, 16, 24), (2, 2, 2, 2), 5, 3, stem, block_kind=kind
    )
    assert network == wanted
    assert network.label == ("ResNet-26" if bottleneck else "ResNet-18")
    tree = nest(arrays)
    images = torch_resnet.images()

    @jax.jit
    def logits(params, stats, images):
        plain = network.apply(params, stats, images)
        folded = network.apply_folded(network.fold(params, stats), images)
        return plain.logits, folded.logits

    for found in logits(tree["params"], tree["batch_stats"], images):
        np.testing.assert_allclose(found, LOGITS[side, bottleneck], atol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
@pytest.mark.parametrize(("side", "bottleneck"), LOGITS)
def test_the_numbers_here_are_pytorch_s(side, bottleneck):
    found = torch_resnet.torch_logits(side, bottleneck=bottleneck)
    np.testing.assert_allclose(found, LOGITS[side, bottleneck], atol=1e-5)


def test_the_imagenet_stem_is_an_option_of_a_config():
    model = ResNet18(width_multiplier=0.125, stem_kind="imagenet")
    network = model.build(10, (32, 32, 3))
    assert network.stem_kind == "imagenet"
    assert network.shapes()["params/stem/kernel"].shape == (7, 7, 3, 8)
    assert model.narrower(network, 1.0) == network
    assert ResNet18.model_validate(model.model_dump()).build(10, (32, 32, 3)) == network
    assert (
        type(network).from_json(
            {k: v for k, v in network.to_json().items() if k != "network"}
        )
        == network
    )
    # a quarter of the pixels after the stem, half of that a side after the maximum
    small = ResNet18(width_multiplier=0.125).build(10, (32, 32, 3))
    assert network.forward_flops(32, 32) < small.forward_flops(32, 32) / 8


def test_networks_saved_before_there_was_a_choice_begin_with_3x3():
    plain = ResidualNetwork(8, (8,), (1,), 3, 1).to_json()
    del plain["stem_kind"], plain["block_kind"], plain["network"]
    found = ResidualNetwork.from_json(plain)
    assert (found.stem_kind, found.block_kind) == ("cifar", "basic")


def without(*names):
    tensors = torch_resnet.weights()
    for name in names:
        del tensors[name]
    return tensors


def test_half_precision_is_widened_and_what_is_not_finite_refused():
    tensors = {n: a.astype(np.float16) for n, a in torch_resnet.weights().items()}
    _, arrays = from_torch(FILE, tensors)
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    tensors["fc.bias"][0] = np.nan
    with pytest.raises(WeightsError, match=r"fc\.bias holds values that are not"):
        from_torch(FILE, tensors)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("layer2.1.bn2.running_var"), "lacks batch_stats/stage2_block2/norm2/"),
        (
            without("layer3.0.downsample.0.weight"),
            "lacks params/stage3_block1/shortcut",
        ),
        (without("fc.weight", "fc.bias"), r"lacks 'fc\.weight'"),
        (
            without() | {"layer1.0.conv3.weight": np.ones((32, 8, 1, 1))},
            r"lacks 'layer2\.0\.conv3",
        ),
        (without() | {"layer1.0.se.weight": np.ones(1)}, r"has layer1\.0\.se"),
        (
            without() | {"layer1.0.conv1.bias": np.ones(8)},
            r"has layer1\.0\.conv1\.bias",
        ),
        (
            without() | {"fc.bias": np.ones(6)},
            r"params/head/bias is \(6,\), not \(5,\)",
        ),
        (without() | {"position": np.ones(1)}, "has position, which no ResNet"),
    ],
)
def test_missing_extra_and_odd_tensors_are_told(tensors, message):
    assert is_torch_layout(tensors)
    with pytest.raises(WeightsError, match=rf"^{FILE}: .*{message}"):
        from_torch(FILE, tensors)
