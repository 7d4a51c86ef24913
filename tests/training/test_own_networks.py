"""Networks of the user's own, all the way: train, score, measure, save, load."""

import jax
import numpy as np
import pytest
from fakes.networks import (
    BATCH,
    NUM,
    NUM_TRAIN,
    SHAPE,
    MlpModel,
    NormalisedModel,
    VitModel,
    bright_images,
    device_network,
    normalised,
)

from dpet_jax.methods.base import Plan, Span
from dpet_jax.models.network import network_from_json
from dpet_jax.scores import gradient_norms, gradient_path, margin
from dpet_jax.training.checkpoint import Checkpoints
from dpet_jax.training.chunks import Batches
from dpet_jax.training.optimizer import Adam

IMAGES, LABELS = bright_images(NUM)
PLAN = Plan(np.arange(NUM_TRAIN, dtype=np.int32), passes=10, label="x")
NAMES = ("margin", "logits")


def made(section, dtype="float32", seed=0):
    optimizer = Adam(learning_rate=0.01)
    return device_network(
        section.build(3, SHAPE),
        optimizer=optimizer,
        names=NAMES,
        dtype=dtype,
        seed=seed,
    )


def losses_of_passes(network):
    """Train the plan, and return the mean loss of each pass."""
    network.begin(PLAN, 0)
    batches = Batches(PLAN, BATCH, 0, 0)
    losses = []
    per_pass = PLAN.size // BATCH
    for first in range(0, batches.num_steps, per_pass):
        rows = batches.rows(first, per_pass)
        visits = batches.visits_before(first)
        span = Span(0, PLAN.visits)
        chunk = network.train(rows, len(rows) // BATCH, span, visits)
        loss, _, count = network.wait(chunk)
        losses.append(loss / count)
    return losses


@pytest.fixture(scope="module")
def mlp():
    """A trained perceptron, and the loss of each pass."""
    network = made(MlpModel())
    return network, losses_of_passes(network)


@pytest.fixture(scope="module")
def vit():
    """A trained vision transformer, and the loss of each pass."""
    network = made(VitModel(dropout=0.1), "bfloat16")
    return network, losses_of_passes(network)


@pytest.mark.parametrize(
    ("name", "section", "dtype"),
    [("mlp", MlpModel(), "float32"), ("vit", VitModel(), "bfloat16")],
)
def test_training_lowers_the_loss_and_scores_are_those_of_the_logits(
    name, section, dtype, request
):
    network, losses = request.getfixturevalue(name)
    assert losses[-1] < 0.9 * losses[0]
    rows = np.array([9, 3, 19], np.int32)
    scores = network.score(rows, NAMES)
    state = network.snapshot()
    outputs = jax.jit(section.build(3, SHAPE).apply, static_argnames="dtype")(
        state["params"], state["batch_stats"], normalised(IMAGES[rows]), dtype=dtype
    )
    close = {"float32": 1e-4, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(scores["logits"][:3], outputs.logits, atol=close)
    margins = jax.vmap(margin)(outputs.logits, LABELS[rows])
    np.testing.assert_allclose(scores["margin"][:3], margins, atol=close)


@pytest.mark.parametrize("section", [MlpModel(), VitModel(), NormalisedModel()])
def test_every_parameter_has_a_rule_for_the_length_of_its_gradient(section):
    network = section.build(3, SHAPE)
    params, stats = jax.eval_shape(network.init, jax.random.key(0))
    stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), stats)
    path = gradient_path(network.bind(stats), params, normalised(IMAGES[:1]))
    assert path.method == "one_pass", path.reason


def test_gradient_norms_of_a_transformer_equal_those_of_formed_gradients():
    network = VitModel().build(3, SHAPE)
    params, stats = jax.jit(network.init)(jax.random.key(0))
    apply_fn, images = network.bind(stats), normalised(IMAGES[:6])
    one_pass, formed = (
        gradient_norms(apply_fn, params, images, LABELS[:6], method=method)
        for method in ("one_pass", "vmap")
    )
    np.testing.assert_allclose(one_pass, formed, rtol=1e-5)


def test_networks_of_equal_sections_share_every_compiled_program(mlp):
    del mlp  # made, so compiled
    again = made(MlpModel(), seed=3)
    counts = {done.what: done.programs for done in again.compile()}
    names = ("init", "train_steps", "score_pool", "first calls")
    assert counts == dict.fromkeys(names, 0)


def test_checkpoint_restores_through_the_json_of_the_network(mlp, tmp_path):
    trained, _ = mlp
    saved = trained.snapshot()
    writer = Checkpoints(tmp_path)
    json = MlpModel().build(3, SHAPE).to_json()
    writer.save({"main": saved}, {}, {"model": json})
    writer.close()
    reader = Checkpoints(tmp_path, read_only=True)
    network = network_from_json(reader.read_meta()["model"])
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        dict(zip(("params", "batch_stats"), shapes, strict=True)),
    )
    part = reader.read_part("main", like)
    assert part["batch_stats"] == {}
    for left, right in zip(
        jax.tree.leaves(part["params"]), jax.tree.leaves(saved["params"]), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    # and training goes on from it, to the same bits
    again = made(MlpModel(), seed=1)
    again.restore(reader.restore({"main": again.snapshot()}).models["main"])
    reader.close()
    assert losses_of_passes(again) == losses_of_passes(trained)
