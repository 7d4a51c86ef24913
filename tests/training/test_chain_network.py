"""The chain of convolutions and dense layers on the device: train, score, measure."""

import jax
import numpy as np
import pytest
from fakes.networks import (
    BATCH,
    NUM,
    NUM_TRAIN,
    SHAPE,
    bright_images,
    device_network,
    normalised,
)

from dpet_jax.methods.base import Plan, Span
from dpet_jax.models.cnn import ChainNetwork
from dpet_jax.scores import gradient_norms
from dpet_jax.training.chunks import Batches
from dpet_jax.training.optimizer import Adam

# compiling its programs takes long
pytestmark = pytest.mark.slow

IMAGES, LABELS = bright_images(NUM)
NETWORK = ChainNetwork((3,), (4,), 3, SHAPE)


@pytest.fixture(scope="module")
def trained():
    """The network after some passes, and the mean loss of each."""
    network = device_network(
        NETWORK, optimizer=Adam(learning_rate=0.02), names=("logits", "grand")
    )
    plan = Plan(np.arange(NUM_TRAIN, dtype=np.int32), passes=10, label="x")
    network.begin(plan, 0)
    batches, losses = Batches(plan, BATCH, 0, 0), []
    steps = plan.size // BATCH
    for first in range(0, batches.num_steps, steps):
        visits = batches.visits_before(first)
        rows = batches.rows(first, steps)
        chunk = network.train(rows, steps, Span(0, plan.visits), visits)
        loss, _, count = network.wait(chunk)
        losses.append(loss / count)
    return network, losses


def test_training_lowers_the_loss(trained):
    _, losses = trained
    assert losses[-1] < 0.8 * losses[0]


def test_scores_of_the_folded_network_are_those_of_the_whole_one(trained):
    network, _ = trained
    rows = np.array([9, 3, 19], np.int32)
    found = network.score(rows, ("logits", "grand"))
    state = network.snapshot()
    params, stats = state["params"], state["batch_stats"]
    images = normalised(IMAGES[rows])
    logits = jax.jit(NETWORK.apply)(params, stats, images).logits
    np.testing.assert_allclose(found["logits"][:3], logits, rtol=1e-3, atol=1e-4)
    formed = gradient_norms(
        NETWORK.bind(stats), params, images, LABELS[rows], method="vmap"
    )
    np.testing.assert_allclose(found["grand"][:3], formed, rtol=1e-3)
