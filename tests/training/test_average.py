"""The average of the weights against NumPy, alone and beside training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import (
    BATCH,
    NAMES,
    NUM,
    TINY,
    bright_images,
    device_network,
    normalised,
)

from dpet_jax.config.load import validate
from dpet_jax.methods.base import Plan, Span
from dpet_jax.run import build
from dpet_jax.training.average import moved, new_average
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.learner import DeviceLearner

SPAN = Span(0, 1000)
ROWS = np.arange(3 * BATCH, dtype=np.int32)
COURSE = np.random.default_rng(0).normal(size=(11, 2, 3)).astype(np.float32)


def ema_of(course, decay):
    """Average in float64: a plain mean while it is shorter than the horizon."""
    mean = np.zeros(course[0].shape)
    for step, new in enumerate(course, start=1):
        share = max(1 - decay, 1 / step)
        mean = (1 - share) * mean + share * new
    return mean


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 11])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.8, 0.999])
def test_it_is_a_mean_at_first_and_then_forgets(decay, steps):
    drawn = jnp.full((2, 3), 7.0)
    average = new_average({"a": drawn})
    for new in COURSE[:steps]:
        average = moved(average, {"a": jnp.asarray(new)}, jnp.float32(decay))
    expected = ema_of(COURSE[:steps], decay) if steps else drawn
    np.testing.assert_allclose(average.mean["a"], expected, rtol=1e-5, atol=1e-6)
    assert average.steps == steps


# beside the training of a network


def copied(network):
    return jax.tree.map(np.asarray, network.snapshot())


def train(network, rows):
    network.wait(network.train(rows, len(rows) // BATCH, SPAN, 0))


def assert_close(left, right, rtol):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def trained_with(ema):
    """Return a network, and its weights after each of three steps."""
    network, course = device_network(ema=ema), []
    for step in range(3):
        train(network, ROWS[step * BATCH : (step + 1) * BATCH])
        now = copied(network)
        course.append({part: now[part] for part in ("params", "batch_stats")})
    return network, course


def test_the_average_of_the_steps_is_evaluated_and_training_never_reads_it():
    network, course = trained_with(0.5)
    plain, same = trained_with(None)
    assert_close(course, same, 0)
    expected = jax.tree.map(
        lambda *leaves: ema_of(np.stack(leaves), 0.5).astype(np.float32), *course
    )
    saved = copied(network)
    assert_close(saved["evaluated"], expected, 1e-5)
    rows = np.arange(4, dtype=np.int32)
    bound = TINY.bind(expected["batch_stats"])
    images, labels = bright_images(NUM)
    logits = jax.jit(bound)(expected["params"], normalised(images[rows]))
    log_p = jax.nn.log_softmax(logits)
    losses = -np.asarray(log_p)[rows, labels[rows]]
    got = network.score(rows, NAMES, evaluated=True)["cross_entropy"][:4]
    np.testing.assert_allclose(got, losses, rtol=1e-3, atol=1e-5)
    # a method's scores are those of the last weights
    last = network.score(rows, NAMES)["cross_entropy"][:4]
    without = plain.score(rows, NAMES)["cross_entropy"][:4]
    np.testing.assert_array_equal(last, without)
    assert np.abs(last - got).max() > 1e-4


def test_without_an_average_nothing_of_it_is_saved():
    network, _ = trained_with(None)
    assert not {"average", "evaluated"} & set(network.snapshot())
    rows = np.arange(4, dtype=np.int32)
    for name in NAMES:
        np.testing.assert_array_equal(
            network.score(rows, NAMES, evaluated=True)[name][:4],
            network.score(rows, NAMES)[name][:4],
        )


def test_a_network_that_starts_anew_starts_its_average_anew():
    network, _ = trained_with(0.9)
    before = copied(network)
    network.begin(Plan(ROWS, label="x", reset="optimizer"), 1)
    assert_close(copied(network)["average"], before["average"], 0)
    network.begin(Plan(ROWS, label="x", reset="all"), 2)
    after = copied(network)
    assert after["average"].steps == 0
    for part in ("params", "batch_stats"):
        assert_close(after["evaluated"][part], after[part], 0)


def test_a_restored_average_goes_on_to_the_same_bits_and_its_decay_compiles_nothing():
    first, _ = trained_with(0.9)
    saved = copied(first)
    before = compile_counts().programs
    device_network(ema=0.5, seed=1)
    second = device_network(ema=0.9, seed=1)
    second.restore(saved)
    for network in (first, second):
        train(network, ROWS)
    assert_close(first.snapshot(), second.snapshot(), 0)
    assert compile_counts().programs == before


def test_a_proxy_is_neither_averaged_nor_rounded():
    config = validate(
        {
            "model": {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]},
            "train": {"batch_size": 32, "ema": 0.9, "quantize": {"bits": 8}},
            "method": {"proxy": {"width_multiplier": 0.5}},
        },
        "test",
    )
    data = build.build_data(config)
    spec = build.build_learner_spec(config, build.build_model(config, data))
    learner = DeviceLearner(data, spec, build.build_hyper(config), seed=0)
    proxy = learner.network(spec.auxiliary[1], main=False)
    assert learner.main.transforms_weights
    assert not proxy.transforms_weights
