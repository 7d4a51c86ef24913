"""Averages of the weights against NumPy, alone and beside the training of a network."""

from dataclasses import replace

import jax
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
from dpet_jax.methods.base import PROXY, Plan, Span
from dpet_jax.run import build
from dpet_jax.training.average import AVERAGES, LAST, Ema, Lawa
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


def lawa_of(course, snapshots, every):
    """Mean of the last step and of those at the ends of the stretches before it."""
    taken = [*range(every, len(course), every), len(course)]
    return np.mean([course[step - 1] for step in taken[-snapshots:]], axis=0)


def averaged(section, course):
    state = section.init({"a": 0 * course[0]})
    for new in course:
        state = section.update(state, {"a": new})
    return section.read(state)["a"]


@pytest.mark.parametrize("steps", [1, 2, 4, 11])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.8, 0.999])
def test_ema_is_a_mean_at_first_and_then_forgets(decay, steps):
    got = averaged(Ema(decay=decay), COURSE[:steps])
    np.testing.assert_allclose(got, ema_of(COURSE[:steps], decay), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 9, 11])
@pytest.mark.parametrize(("snapshots", "every"), [(1, 3), (2, 3), (3, 1), (4, 2)])
def test_lawa_is_the_mean_of_the_latest_snapshots(snapshots, every, steps):
    got = averaged(Lawa(snapshots=snapshots, every=every), COURSE[:steps])
    expected = lawa_of(COURSE[:steps], snapshots, every)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("section", [Ema(), Lawa(snapshots=3)])
def test_before_the_first_step_there_are_the_weights_as_drawn(section):
    state = section.init({"a": COURSE[0]})
    np.testing.assert_array_equal(section.read(state)["a"], COURSE[0])
    held = sum(leaf.size for leaf in jax.tree.leaves(state)) - 1
    assert held == section.copies * COURSE[0].size


def test_the_last_weights_need_no_state():
    assert LAST.copies == 0
    assert LAST.init({"a": COURSE[0]}) is None
    assert LAST.update(None, {"a": COURSE[0]}) is None
    assert AVERAGES[0] is type(LAST)


# beside the training of a network


def copied(network):
    return jax.tree.map(np.asarray, network.snapshot())


def train(network, rows):
    network.wait(network.train(rows, len(rows) // BATCH, SPAN, 0))


def assert_close(left, right, rtol):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def trained_with(section):
    """Return a network, and its weights after each of three steps."""
    network, course = device_network(average=section), []
    for step in range(3):
        train(network, ROWS[step * BATCH : (step + 1) * BATCH])
        now = copied(network)
        course.append({part: now[part] for part in ("params", "batch_stats")})
    return network, course


@pytest.mark.parametrize(
    ("section", "of"),
    [
        (Ema(decay=0.5), lambda course: ema_of(course, 0.5)),
        (Lawa(snapshots=2, every=2), lambda course: lawa_of(course, 2, 2)),
    ],
    ids=["ema", "lawa"],
)
def test_the_average_of_the_steps_is_evaluated_and_training_never_reads_it(section, of):
    network, course = trained_with(section)
    plain, same = trained_with(LAST)
    assert_close(course, same, 0)
    expected = jax.tree.map(
        lambda *leaves: of(np.stack(leaves)).astype(np.float32), *course
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
    network, _ = trained_with(LAST)
    assert not {"average", "evaluated"} & set(network.snapshot())
    rows = np.arange(4, dtype=np.int32)
    for name in NAMES:
        np.testing.assert_array_equal(
            network.score(rows, NAMES, evaluated=True)[name][:4],
            network.score(rows, NAMES)[name][:4],
        )


@pytest.mark.parametrize("section", [Ema(), Lawa(snapshots=2, every=2)])
def test_a_network_that_starts_anew_starts_its_average_anew(section):
    network, _ = trained_with(section)
    before = copied(network)
    network.begin(Plan(ROWS, label="x", reset="optimizer"), 1)
    assert_close(copied(network)["average"], before["average"], 0)
    network.begin(Plan(ROWS, label="x", reset="all"), 2)
    after = copied(network)
    assert after["average"]["steps"] == 0
    for part in ("params", "batch_stats"):
        assert_close(after["evaluated"][part], after[part], 0)


def test_a_restored_average_goes_on_to_the_same_bits_and_numbers_compile_nothing():
    section = Lawa(snapshots=2, every=2)
    first, _ = trained_with(section)
    saved = copied(first)
    before = compile_counts().programs
    second = device_network(average=section.model_copy(update={"every": 5}), seed=1)
    assert compile_counts().programs == before
    second = device_network(average=section, seed=1)
    second.restore(saved)
    for network in (first, second):
        train(network, ROWS)
    assert_close(first.snapshot(), second.snapshot(), 0)
    assert compile_counts().programs == before


def test_a_proxy_is_not_averaged():
    config = validate(
        {
            "model": {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]},
            "train": {"batch_size": 32, "average": {"kind": "lawa", "snapshots": 3}},
            "method": {"proxy": {"width_multiplier": 0.5}},
        },
        "test",
    )
    data = build.build_data(config)
    spec = build.build_learner_spec(config, build.build_model(config, data))
    assert spec.step.average == Lawa(snapshots=3, every=1).model_copy(
        update={"every": 0.0}
    )
    learner = DeviceLearner(data, replace(spec), build.build_hyper(config), seed=0)
    list(learner.compile())
    saved = learner.snapshot()
    assert "average" in saved["main"]
    assert "average" not in saved[PROXY]
