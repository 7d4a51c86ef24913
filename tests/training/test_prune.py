"""The main network cut on the device: what it has learnt, and the way back."""

import jax
import numpy as np
import pytest

from dpet_jax.config.load import validate
from dpet_jax.methods.base import Span
from dpet_jax.models.pruning import cut, masked, scales
from dpet_jax.run import build as parts
from dpet_jax.run.prune import Cutter
from dpet_jax.training.learner import UNPRUNED, DeviceLearner
from dpet_jax.training.prune import Shears

RATE, L1 = 0.05, 0.01
CONFIG = validate(
    {
        "model": {"kind": "resnet", "stem": 8, "channels": [16], "blocks": [1]},
        "train": {
            "batch_size": 32,
            "optimizer": {"learning_rate": RATE},
            "schedule": {"kind": "constant"},
        },
        "method": {"kind": "standard", "passes": 1},
        "prune": {"l1": L1},
    },
    "test",
)
ROWS = np.arange(64, dtype=np.int32)
MASKS = (np.arange(16) % 2 == 0,)


@pytest.fixture(scope="module")
def data():
    return parts.build_data(CONFIG)


@pytest.fixture(scope="module")
def spec(data):
    return parts.build_learner_spec(CONFIG, parts.build_model(CONFIG, data))


@pytest.fixture
def learner(data, spec):
    learner = DeviceLearner(data, spec, parts.build_hyper(CONFIG), seed=0)
    list(learner.compile())
    train(learner.main)
    return learner


@pytest.fixture
def shears(learner):
    return Shears(learner)


def train(network):
    network.wait(network.train(ROWS, len(ROWS) // 32, Span(0, 1000), 0))


def weights_of(network):
    return jax.device_get(network.weights())


def prune(shears):
    list(shears.prepare(MASKS))
    shears.cut(MASKS)


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_penalty_moves_scales_towards_zero_and_nothing_else(learner):
    groups = learner.main.model.channel_groups
    snapshot = jax.device_get(learner.snapshot())
    (before,) = jax.device_get(scales(weights_of(learner.main)["params"], groups))
    train_one = ROWS[:32]
    after = []
    for _ in range(2):
        learner.restore(snapshot)
        handle = learner.main.train(train_one, 1, Span(0, 1000), 0)
        learner.main.wait(handle)
        after.append(weights_of(learner.main)["params"])
        learner.main.end_penalty()
    penalised, free = after
    # Nesterov's step is gradient + 0.9 velocity, of which the gradient is a part
    expected = -RATE * 1.9 * L1 * np.sign(before)
    moved = penalised[groups[0].name]["norm1"]["norm"]["scale"]
    moved = moved - free[groups[0].name]["norm1"]["norm"]["scale"]
    np.testing.assert_allclose(moved, expected, rtol=1e-3)
    for name in ("stem", "stem_norm", "head"):
        assert_equal(penalised[name], free[name])


def test_a_cut_network_goes_on_as_the_masked_one_would(learner, shears):
    assert isinstance(shears, Cutter)
    whole = learner.main
    snapshot = jax.tree.map(np.array, jax.device_get(whole.snapshot()))
    groups = whole.model.channel_groups
    prune(shears)
    assert learner.main is not whole
    assert shears.widths == (8,)
    assert learner.main.train_flops < whole.train_flops
    assert_equal(weights_of(learner.main), cut(weights_of(whole), groups, MASKS))
    # the same without cutting: scale, bias and their velocity are 0
    train(learner.main)
    whole.restore(snapshot)
    weights = weights_of(whole)
    decay, momentum, *others = weights["opt_state"]
    momentum = momentum._replace(trace=masked(momentum.trace, groups, MASKS))
    weights["params"] = masked(weights["params"], groups, MASKS)
    weights["opt_state"] = (decay, momentum, *others)
    whole.take_over(whole, weights)
    whole.end_penalty()
    train(whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        weights_of(learner.main),
        cut(weights_of(whole), groups, MASKS),
    )
    tables = [jax.device_get(n.snapshot()) for n in (whole, learner.main)]
    for name in ("step", "key", "correct", "forgetting"):
        assert_equal(tables[0][name], tables[1][name])


def test_what_is_put_back_is_as_it_was_but_for_the_tables(learner, shears):
    before = weights_of(learner.main)
    prune(shears)
    train(learner.main)
    during = jax.device_get(learner.main.snapshot())
    assert set(learner.snapshot()) == {"main", UNPRUNED}
    names = [done.what for done in shears.put_back()]
    assert names == ["init", "train_steps", "score_pool", "first calls"]
    assert shears.widths == (16,)
    assert_equal(weights_of(learner.main), before)
    after = jax.device_get(learner.main.snapshot())
    for name in ("step", "key", "losses", "correct", "forgetting", "plans"):
        assert_equal(after[name], during[name])
    assert set(learner.snapshot()) == {"main"}


def test_a_checkpoint_on_trial_restores_both_networks(learner, shears, data, spec):
    before = weights_of(learner.main)
    prune(shears)
    train(learner.main)
    saved, model = jax.device_get(learner.snapshot()), shears.model()
    other = DeviceLearner(data, spec, parts.build_hyper(CONFIG), seed=0)
    again = Shears(other)
    again.reopen(model, on_trial=True)
    list(other.compile())
    shapes = jax.tree.map(np.shape, jax.device_get(other.snapshot()))
    assert shapes == jax.tree.map(np.shape, saved)
    other.restore(saved)
    assert_equal(jax.device_get(other.snapshot()), saved)
    list(again.put_back())
    assert_equal(weights_of(other.main), before)


def test_first_order_importance_is_what_the_loss_says(learner, shears):
    batches = 2
    worth, flops = shears.taylor(ROWS[: batches * 32])
    network = learner.main
    model = network.model
    assert flops == batches * 32 * (
        model.forward_flops(8, 8) + model.backward_flops(8, 8)
    )
    weights = weights_of(network)
    (group,) = model.channel_groups

    def loss(batch, channel, factor):
        factors = np.ones(16, np.float32)
        factors[channel] = factor
        params = jax.tree.map(np.array, weights["params"])
        params[group.name]["norm1"]["norm"]["scale"] *= factors
        network.take_over(network, weights | {"params": params})
        scored = network.score(batch, ("cross_entropy",))["cross_entropy"]
        return float(np.mean(np.asarray(scored[:32], np.float64)))

    for channel in (0, 5, 11):
        slopes = [
            (loss(batch, channel, 1.05) - loss(batch, channel, 0.95)) / 0.1
            for batch in ROWS[: batches * 32].reshape(batches, 32)
        ]
        expected = np.mean(np.abs(slopes))
        np.testing.assert_allclose(worth[0][channel], expected, rtol=0.03, atol=2e-5)


def test_both_networks_are_timed_and_counted(learner, shears):
    before = weights_of(learner.main)
    seconds, flops = shears.time_step()
    assert seconds > 0
    assert flops == 4 * 32 * learner.main.train_flops
    names = [done.what for done in shears.prepare(MASKS)]
    assert names == ["init", "train_steps", "score_pool", "first calls"]
    one, other, flops = shears.compare_steps(0.02)
    assert min(one, other) > 0
    each = 3 * (shears.forward_flops((16,)) + shears.forward_flops((8,)))
    assert flops == 3 * 10 * 32 * each
    # timing trains nothing
    assert_equal(weights_of(learner.main), before)
