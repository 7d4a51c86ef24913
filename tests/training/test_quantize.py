"""Training of weights of few bits, on a network on the device."""

import jax
import numpy as np
from fakes.networks import (
    BATCH,
    NAMES,
    NUM,
    TINY,
    bright_images,
    device_network,
    normalised,
)

from dpet_jax.methods.base import Span
from dpet_jax.models.quantize import quantized_params
from dpet_jax.training.compilation import compile_counts

ROWS = np.arange(3 * BATCH, dtype=np.int32)


def trained(quantize, steps=3):
    network = device_network(quantize=quantize)
    for step in range(steps):
        rows = ROWS[step * BATCH : (step + 1) * BATCH]
        network.wait(network.train(rows, 1, Span(step * BATCH, steps * BATCH), 0))
    return network


def copied(network):
    return jax.tree.map(np.asarray, network.snapshot())


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_evaluated_is_rounded_and_a_method_scores_by_what_is_not():
    network = trained((3, 1.0))
    saved = copied(network)
    params = jax.tree.map(jax.numpy.asarray, saved["params"])
    assert_equal(saved["evaluated"]["params"], quantized_params(params, 3))
    assert_equal(saved["evaluated"]["batch_stats"], saved["batch_stats"])
    rows = np.arange(4, dtype=np.int32)
    images, labels = bright_images(NUM)
    bound = jax.jit(TINY.bind(saved["batch_stats"]))
    for evaluated, params in (
        (True, saved["evaluated"]["params"]),
        (False, saved["params"]),
    ):
        log_p = jax.nn.log_softmax(bound(params, normalised(images[rows])))
        losses = -np.asarray(log_p)[rows, labels[rows]]
        got = network.score(rows, NAMES, evaluated=evaluated)["cross_entropy"][:4]
        np.testing.assert_allclose(got, losses, rtol=1e-3, atol=1e-5)


def test_training_rounds_from_the_share_of_the_schedule_on():
    plain = copied(trained(None))
    never = trained((3, 1.0))
    before = compile_counts().programs
    late, always = trained((3, 0.6)), trained((3, 0.0))
    assert compile_counts().programs == before  # the share is no part of the program
    assert_equal(copied(never)["params"], plain["params"])
    # of three steps, at 0, 1/3 and 2/3 of the schedule, the last one rounds
    assert_equal(copied(trained((3, 0.6), 2))["opt_state"], plain_after(2)["opt_state"])
    for network in (late, always):
        different = copied(network)["params"]["head"]["kernel"]
        assert np.abs(different - plain["params"]["head"]["kernel"]).max() > 1e-6
    assert not np.array_equal(
        copied(late)["params"]["head"]["kernel"],
        copied(always)["params"]["head"]["kernel"],
    )


def plain_after(steps):
    return copied(trained(None, steps))
