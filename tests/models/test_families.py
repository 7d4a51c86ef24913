"""From the keys of a config to the shape of a residual network."""

from itertools import pairwise

import jax
import pytest
from pydantic import ValidationError

from dpet_jax.models.families import (
    ResNet,
    ResNet18,
    ResNet20,
    ResNet50,
    scaled_blocks,
    scaled_channels,
)

CIFAR = (32, 32, 3)
FOUR_STAGES = {"channels": (64, 128, 256, 512), "stem_kind": "imagenet"}


@pytest.mark.parametrize(
    ("section", "classes", "count", "million_multiply_adds"),
    [
        (ResNet18(), 10, 11_173_962, 555.42),
        (ResNet20(scale=1.0), 100, 278_324, 40.82),
        (ResNet20(scale=1.4), 100, 716_097, 103.43),
    ],
    ids=["resnet18", "scale 1.0", "scale 1.4"],
)
def test_parameters_and_operations_are_as_many_as_published(
    section, classes, count, million_multiply_adds
):
    network = section.build(classes, CIFAR)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    flops = network.forward_flops(32, 32)
    assert flops / 2e6 == pytest.approx(million_multiply_adds, abs=0.005)


@pytest.mark.parametrize(
    ("section", "count", "million_multiply_adds"),
    [
        # torchvision's tables of its weights: parameters, and giga operations
        (ResNet18(stem_kind="imagenet"), 11_689_512, 1814),
        (ResNet(stem=64, blocks=(3, 4, 6, 3), **FOUR_STAGES), 21_797_672, 3664),
        (ResNet50(), 25_557_032, 4089),
        (
            ResNet(
                stem=64, blocks=(3, 4, 23, 3), block_kind="bottleneck", **FOUR_STAGES
            ),
            *(44_549_160, 7801),
        ),
    ],
    ids=["ResNet-18", "ResNet-34", "ResNet-50", "ResNet-101"],
)
def test_networks_of_imagenet_are_as_large_as_torchvision_s(
    section, count, million_multiply_adds, request
):
    network = section.build(1000, (224, 224, 3))
    assert network.label == request.node.callspec.id
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    flops = network.forward_flops(224, 224)
    assert flops / 2e6 == pytest.approx(million_multiply_adds, abs=0.6)


@pytest.mark.parametrize(("side", "stem"), [(95, "cifar"), (96, "imagenet")])
def test_the_stem_that_suits_follows_the_pictures(side, stem):
    for section in (ResNet50(), ResNet18(stem_kind="auto")):
        assert section.build(7, (side, 200, 3)).stem_kind == stem


@pytest.mark.parametrize(
    ("section", "stem", "channels", "blocks", "description"),
    [
        (
            ResNet18(width_multiplier=0.25),
            *(16, (16, 32, 64, 128), (2, 2, 2, 2), "ResNet-18 width 0.25"),
        ),
        (
            ResNet18(depth_multiplier=0.5),
            *(64, (64, 128, 256, 512), (1, 1, 1, 1), "ResNet-10"),
        ),
        (ResNet20(scale=1.4), 16, (22, 44, 89), (4, 4, 4), "ResNet-26"),
        # the stem of this family is never scaled
        (
            ResNet20(width_multiplier=2.0),
            *(16, (32, 64, 128), (3, 3, 3), "ResNet-20 width 2"),
        ),
        (
            ResNet(stem=4, channels=(4, 6), blocks=(1, 2)),
            *(4, (4, 6), (1, 2), "ResNet-8"),
        ),
        (
            ResNet50(width_multiplier=0.25, depth_multiplier=0.5),
            *(16, (16, 32, 64, 128), (1, 2, 3, 1), "ResNet-23 width 0.25"),
        ),
    ],
)
def test_keys_decide_stem_channels_and_blocks(
    section, stem, channels, blocks, description
):
    network = section.build(7, (9, 9, 2))
    assert (network.stem, network.channels, network.blocks) == (stem, channels, blocks)
    assert (network.num_classes, network.in_channels) == (7, 2)
    assert section.describe(network) == description


@pytest.mark.parametrize(
    ("base", "multiplier", "multiple", "expected"),
    [
        (64, 1.0, 8, 64),
        (64, 0.7, 8, 48),  # 44.8, to the nearest multiple
        (64, 0.3, 8, 16),  # 19.2
        (64, 0.01, 8, 8),
        (16, 1.4, 1, 22),  # 22.4, floored
        (16, 1.99, 1, 31),
        (16, 0.1, 1, 8),
        (64, 0.01, 16, 16),
    ],
)
def test_channels_round_to_the_multiple_and_stay_at_least_eight(
    base, multiplier, multiple, expected
):
    assert scaled_channels(base, multiplier, multiple) == expected


@pytest.mark.parametrize(
    ("multiplier", "blocks"), [(0.1, 1), (1.0, 3), (1.3, 3), (1.34, 4), (1.4, 4)]
)
def test_depth_grows_only_by_whole_blocks(multiplier, blocks):
    assert scaled_blocks(3, multiplier) == blocks


@pytest.mark.parametrize(
    ("section", "share", "stem", "channels"),
    [
        (ResNet18(), 0.25, 16, (16, 32, 64, 128)),
        (ResNet18(width_multiplier=0.5), 0.25, 8, (8, 16, 32, 64)),
        (ResNet50(width_multiplier=0.5), 0.25, 8, (8, 16, 32, 64)),
        # channel_multiple is 8, so a tenth of 32 is 8 and of 256 is 24
        (ResNet18(width_multiplier=0.5), 0.1, 8, (8, 8, 16, 24)),
        (ResNet20(), 0.7, 11, (11, 22, 44)),  # floored at multiple 1
        (ResNet20(channel_multiple=8), 0.7, 8, (8, 24, 48)),
        # never wider than the model, where that is narrower than 8
        (ResNet(stem=4, channels=(4, 40), blocks=(1, 2)), 0.5, 4, (4, 16)),
        (ResNet(stem=4, channels=(4, 40), blocks=(1, 2)), 1.0, 4, (4, 40)),
    ],
)
def test_narrower_network_has_a_share_of_the_channels_and_all_the_rest(
    section, share, stem, channels
):
    network = section.build(10, (8, 8, 1))
    narrow = section.narrower(network, share)
    assert (narrow.stem, narrow.channels) == (stem, channels)
    kept = ("blocks", "num_classes", "in_channels")
    assert all(getattr(narrow, name) == getattr(network, name) for name in kept)


def test_channels_that_cannot_be_fewer_are_refused():
    section = ResNet(stem=8, channels=(8, 8), blocks=(1, 1))
    with pytest.raises(ValueError, match=r"\[8, 8\] .*multiples of 8; .*wider model"):
        section.narrower(section.build(10, CIFAR), 0.5)


@pytest.mark.parametrize(
    "section", [ResNet18(), ResNet20(channel_multiple=4), ResNet50()]
)
def test_the_scales_of_a_family_are_ever_larger_networks_and_1_is_itself(section):
    networks = [section.scaled(scale).build(10, CIFAR) for scale in section.scales]
    for small, large in pairwise(networks):
        assert small.channels < large.channels
        assert small.blocks <= large.blocks
    at_one = networks[section.scales.index(1.0)]
    assert at_one == section.build(10, CIFAR)


def test_a_scale_keeps_the_other_keys():
    section = ResNet20(
        channel_multiple=8, compute_dtype="bfloat16", stem_kind="imagenet"
    )
    changed = section.scaled(1.4)
    assert (changed.scale, changed.channel_multiple) == (1.4, 8)
    assert (changed.compute_dtype, changed.stem_kind) == ("bfloat16", "imagenet")
    assert ResNet18(depth_multiplier=0.5).scaled(0.25) == ResNet18(
        width_multiplier=0.25, depth_multiplier=0.5
    )


def test_one_network_is_no_family():
    section = ResNet(stem=8, channels=(8,), blocks=(1,))
    assert section.scales == ()
    with pytest.raises(ValueError, match="resnet has one size"):
        section.scaled(0.5)


def test_scale_excludes_the_multipliers_that_it_stands_for():
    with pytest.raises(ValidationError, match="in tandem"):
        ResNet20(scale=1.2, width_multiplier=1.2)


def test_a_network_needs_one_entry_a_stage():
    with pytest.raises(ValidationError, match="one entry a stage"):
        ResNet(stem=8, channels=(8, 16), blocks=(1,))
