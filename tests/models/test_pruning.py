"""What stays of a network, and that nothing else changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.models.network import network_from_json
from dpet_jax.models.pruning import (
    PruneConfig,
    cut,
    final_masks,
    mask_distance,
    masked,
    scales,
    top_masks,
    widths_of,
    with_scales,
)
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.training.optimizer import Adam, Sgd, init_optimizer

NETWORK = ResidualNetwork(8, (16, 24), (1, 1), num_classes=3, in_channels=2)
GROUPS = NETWORK.channel_groups
#: Whose programs compile in a moment.
ONE_BLOCK = ResidualNetwork(4, (16,), (1,), num_classes=3, in_channels=2)
#: A bottleneck after the stem of ImageNet has two groups.
BOTTLENECK = ResidualNetwork(
    4, (16,), (1,), 3, 2, stem_kind="imagenet", block_kind="bottleneck"
)
KEY = jax.random.key(0)


def importances(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=size).astype(np.float32) for size in sizes)


@pytest.fixture(scope="module")
def variables():
    return filled(NETWORK)


def filled(network):
    """Draw parameters and statistics, none of which is still zero or one."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        values = scale * rng.normal(size=leaf.shape)
        return (values if leaf.ndim > 1 else rng.uniform(0.5, 1.5, leaf.shape)).astype(
            np.float32
        )

    return jax.tree.map(fill, jax.eval_shape(network.init, KEY))


@pytest.fixture(scope="module")
def masks():
    rng = np.random.default_rng(1)
    return tuple(rng.permutation(group.size) < 8 for group in GROUPS)


# which channels stay


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_as_many_stay_as_asked_and_none_that_goes_is_more_important(fraction):
    given = importances(5, 11, 4)
    masks = top_masks(given, fraction)
    assert [mask.size for mask in masks] == [5, 11, 4]
    flat, keep = np.concatenate(given), np.concatenate(masks)
    assert keep.sum() == round((1 - fraction) * 20)
    assert flat[keep].min() > flat[~keep].max()


def test_equal_importances_go_from_the_last_layer():
    masks = top_masks((np.ones(3), np.ones(3)), 0.5)
    assert [mask.tolist() for mask in masks] == [[True] * 3, [False] * 3]


def test_no_number_is_no_importance():
    with pytest.raises(ValueError, match="no finite number"):
        top_masks((np.array([1.0, np.nan]),), 0.5)


def test_kept_channels_are_whole_multiples_and_a_quarter_at_least():
    # all that is important lies in the first group
    given = (np.arange(100.0, 164.0), np.arange(64.0), np.arange(8.0))
    masks = final_masks(given, 0.5, 8)
    # of 136, 68 are wanted: 64 of the first and 4 of the second, where 16 is least
    assert widths_of(masks) == (64, 16, 8)
    assert np.flatnonzero(masks[1]).tolist() == list(range(48, 64))


@pytest.mark.parametrize(
    ("multiple", "widths"), [(1, (11, 45)), (8, (8, 48)), (16, (16, 48))]
)
def test_every_group_can_lose_the_same_share(multiple, widths):
    # 0.7 of 16 and 64 is 11.2 and 44.8
    given = importances(16, 64)
    masks = final_masks(given, 0.3, multiple, alike=True)
    assert widths_of(masks) == widths
    for values, mask in zip(given, masks, strict=True):
        assert values[mask].min() > values[~mask].max(initial=-9)


def test_the_distance_of_masks_is_the_share_that_differs():
    left = (np.array([True, True]), np.array([False, True, True]))
    right = (np.array([True, False]), np.array([True, True, True]))
    assert mask_distance(left, right) == pytest.approx(2 / 5)


def test_masks_have_settled_once_the_last_few_agree_with_the_newest():
    section = PruneConfig(looks=3, distance=0.2)
    base = np.arange(10) < 5
    one_off, two_off = np.arange(10) < 6, np.arange(10) < 7
    assert not section.settled([base, base])
    assert section.settled([two_off, base, base, one_off])
    assert not section.settled([two_off, base, base])  # 0.2 is not less than 0.2
    assert not section.settled([base, two_off, base, base][:3])


def test_who_does_not_watch_prunes_at_once():
    assert PruneConfig(by="taylor").starts_after == 0.0
    assert PruneConfig(by="random").starts_after is None
    assert PruneConfig(by="random", after=2).starts_after == 2


# what is left of a network


@pytest.mark.parametrize("network", [ONE_BLOCK, BOTTLENECK], ids=["basic", "bottle"])
def test_a_cut_network_computes_what_the_masked_one_does(network, masks):
    groups = network.channel_groups
    masks = tuple(np.roll(masks[0], number) for number in range(len(groups)))
    assert {group.size for group in groups} == {16}
    whole = filled(network)
    params, stats = jax.device_put(whole)
    smaller = network.with_channels(widths_of(masks))
    less, less_stats = jax.device_put(cut(whole, groups, masks))
    shapes = jax.eval_shape(smaller.init, KEY)
    assert jax.tree.map(np.shape, (less, less_stats)) == jax.tree.map(np.shape, shapes)
    hidden = masked(params, groups, masks)
    rng = np.random.default_rng(2)
    images = jnp.asarray(rng.normal(size=(4, 9, 9, 2)), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def evaluate(network, params, stats):
        folded = network.apply_folded(network.fold(params, stats), images)
        trained, updated = network.apply_train(KEY, params, stats, images)
        return [network.apply(params, stats, images), folded, trained], updated

    before, updated_before = evaluate(network, hidden, stats)
    after, updated_after = evaluate(smaller, less, less_stats)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b.logits, a.logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(b.features, a.features, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5),
        cut(jax.device_get(updated_before), groups, masks),
        updated_after,
    )
    # and that is another function than before
    unmasked = evaluate(network, params, stats)[0][0].logits
    assert np.abs(unmasked - before[0].logits).max() > 0.1


@pytest.mark.parametrize("optimizer", [Sgd(), Adam()])
def test_moments_and_averages_are_cut_like_parameters(variables, masks, optimizer):
    params, stats = variables
    rng = np.random.default_rng(3)
    opt_state = jax.tree.map(
        lambda zero: rng.normal(size=zero.shape),
        jax.eval_shape(partial(init_optimizer, optimizer), params),
    )
    tree = {"opt_state": opt_state, "average": {"params": params, "stats": stats}}
    less = cut(tree, GROUPS, masks)
    expected = cut(params, GROUPS, masks)
    shapes = jax.eval_shape(partial(init_optimizer, optimizer), expected)
    shapes = jax.tree.map(np.shape, shapes)
    assert jax.tree.map(np.shape, less["opt_state"]) == shapes
    jax.tree.map(np.testing.assert_array_equal, less["average"]["params"], expected)
    kernel = params[GROUPS[0].name]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        expected[GROUPS[0].name]["conv1"]["kernel"], kernel[..., masks[0]]
    )
    # what belongs to no group is not even copied
    assert expected["stem"]["kernel"] is params["stem"]["kernel"]
    assert expected[GROUPS[0].name]["shortcut"] == params[GROUPS[0].name]["shortcut"]


def test_scales_are_read_and_replaced(variables):
    params, _ = variables
    found = scales(params, GROUPS)
    assert [scale.shape for scale in found] == [(16,), (24,)]
    again = with_scales(params, GROUPS, [2 * scale for scale in found])
    np.testing.assert_array_equal(scales(again, GROUPS)[1], 2 * found[1])
    np.testing.assert_array_equal(scales(params, GROUPS)[1], found[1])


def test_a_pruned_network_survives_json_and_a_whole_one_is_as_before():
    smaller = NETWORK.with_channels((8, 24))
    assert smaller.inner == (8, 24)
    assert network_from_json(smaller.to_json()) == smaller
    assert smaller.with_channels((16, 24)) == NETWORK
    # checkpoints of earlier versions say nothing of it
    plain = NETWORK.to_json()
    del plain["inner"]
    assert network_from_json(plain) == NETWORK
    with pytest.raises(ValueError, match="needs 2 counts"):
        NETWORK.with_channels((8,))
    slim = BOTTLENECK.with_channels((8, 16))
    assert network_from_json(slim.to_json()) == slim
    assert [group.size for group in slim.channel_groups] == [8, 16]
    assert slim.num_features == BOTTLENECK.num_features == 64


def test_flops_fall_by_what_is_cut():
    smaller = NETWORK.with_channels((8, 16))
    # 8x8 images: 64 places, and 16 in the second stage; 3x3 kernels
    first = 64 * 9 * (8 * 8 + 8 * 16)
    second = 16 * 9 * (8 * 16 + 8 * 24)
    removed = 2 * (first + second)
    before, after = (one.forward_flops(8, 8) for one in (NETWORK, smaller))
    assert before - after == removed
