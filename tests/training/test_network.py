"""One network on a tiny data set: aligned scores, resets, tables, snapshots."""

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

from dpet_jax.methods.base import Plan, Span
from dpet_jax.scores import gradient_norms, lookup
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.scoring import gradient_norm_flops

SPAN = Span(0, 1000)
IMAGES, LABELS = bright_images(NUM)
#: Two steps of them.
ROWS = np.arange(2 * BATCH, dtype=np.int32)


@pytest.fixture
def network():
    return device_network()


def train(network, rows):
    rows = np.asarray(rows, np.int32)
    network.wait(network.train(rows, len(rows) // BATCH, SPAN, 0))


def copied(network):
    return jax.tree.map(np.asarray, network.snapshot())


def changed(part, before, after):
    pairs = zip(
        jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True
    )
    return any(not np.array_equal(a, b) for a, b in pairs)


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_programs_are_made_ready_by_name_and_only_once():
    device_network()
    before = compile_counts().programs
    names = [compilation.what for compilation in device_network(seed=2).compile()]
    assert names == ["init", "train_steps", "score_pool", "first calls"]
    assert compile_counts().programs == before


def test_scores_are_aligned_with_the_rows_and_end_in_minus_infinity(network):
    rows = np.array([17, 3, 19, 4], np.int32)
    scores = network.score(rows, NAMES)
    state = network.snapshot()
    bound = TINY.bind(state["batch_stats"])
    logits = jax.jit(bound)(state["params"], normalised(IMAGES[rows]))
    for name in NAMES:
        expected = jax.vmap(lookup(name).kernel())(logits, LABELS[rows])
        np.testing.assert_allclose(scores[name][:4], expected, rtol=1e-4, atol=1e-6)
        assert (np.asarray(scores[name][4:]) == -np.inf).all()


@pytest.mark.parametrize(("asked", "rows"), [(0, 0), (1, 4), (4, 4), (5, 8)])
def test_flops_of_scoring_count_the_padding(network, asked, rows):
    each = TINY.forward_flops(8, 8)
    assert network.score_flops(asked, NAMES) == rows * each
    assert network.train_flops == 3 * each


def test_gradient_norms_are_scored_beside_the_rest_and_counted():
    network = device_network(names=(*NAMES, "grand"))
    rows = np.array([17, 3, 19, 4], np.int32)
    both = network.score(rows, ("margin", "grand"))
    assert network.score(rows, ("grand",)).keys() == {"grand"}
    assert "grand" not in network.score(rows, ("margin",))
    state = network.snapshot()
    bound = TINY.bind(state["batch_stats"])
    expected = gradient_norms(
        bound, state["params"], normalised(IMAGES[rows]), LABELS[rows]
    )
    np.testing.assert_allclose(both["grand"][:4], expected, rtol=1e-4)
    assert (np.asarray(both["grand"][4:]) == -np.inf).all()
    each = gradient_norm_flops(TINY, (8, 8, 1))
    assert network.score_flops(4, ("grand",)) == BATCH * each
    forward = network.score_flops(4, ("margin",))
    assert network.score_flops(4, ("margin", "grand")) == BATCH * each + forward


def test_a_network_starts_from_what_it_is_given_and_so_does_each_new_start():
    params, stats = jax.device_get(jax.jit(TINY.init)(jax.random.key(77)))
    del params["head"]
    network = device_network(start=(params, stats))

    def body():
        found = copied(network)["params"]
        return found.pop("head"), found

    first, found = body()
    jax.tree.map(np.testing.assert_array_equal, found, params)
    train(network, ROWS)
    assert not np.array_equal(body()[1]["stem"]["kernel"], params["stem"]["kernel"])
    network.begin(Plan(ROWS, label="x", reset="all"), 1)
    second, found = body()
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert not np.array_equal(second["kernel"], first["kernel"])
    jax.tree.map(
        np.testing.assert_array_equal, copied(network)["batch_stats"], dict(stats)
    )


def test_resets_touch_what_they_name(network):
    train(network, ROWS)
    before = copied(network)
    network.begin(Plan(ROWS, label="x"), 1)
    same = copied(network)
    assert not any(changed(part, before, same) for part in before if part != "plans")
    network.begin(Plan(ROWS, label="x", reset="optimizer"), 2)
    after = copied(network)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(after["opt_state"]))
    kept = set(before) - {"opt_state", "plans"}
    assert not any(changed(part, before, after) for part in kept)


def test_network_that_starts_anew_empties_its_tables_and_keeps_its_key(network):
    train(network, ROWS)
    before = copied(network)
    network.begin(Plan(ROWS, label="x", reset="all"), 1)
    after = copied(network)
    assert changed("params", before, after)
    assert changed("batch_stats", before, after)
    # the augmentation must not repeat itself
    assert not changed("step", before, after)
    assert not changed("key", before, after)
    assert np.isinf(after["losses"]).all()
    assert not after["correct"].any()
    assert (after["forgetting"] == -1).all()


def test_margins_survive_with_the_rest_where_they_are_asked_for(network):
    asked = device_network(margins=True)
    train(asked, ROWS[:BATCH])
    saved = copied(asked)
    assert saved.keys() - copied(network).keys() == {"margins"}
    other = device_network(margins=True, seed=3)
    other.restore(saved)
    for each in (asked, other):
        train(each, ROWS[BATCH:])
    margins = other.result(ROWS).margins
    np.testing.assert_array_equal(margins, asked.result(ROWS).margins)
    assert ((margins > 0) & (margins < 2)).all()
    assert network.result(ROWS).margins is None
    # right where the label is the likeliest class: it stands out from every other
    np.testing.assert_array_equal(margins < 1, other.result(ROWS).correct)


def test_every_plan_that_starts_anew_draws_other_parameters(network):
    drawn = []
    for plan_index in (1, 2, 1):
        network.begin(Plan(ROWS, label="x", reset="all"), plan_index)
        drawn.append(copied(network))
    assert changed("params", drawn[0], drawn[1])
    assert not changed("params", drawn[0], drawn[2])


def test_weights_multiply_the_loss_as_they_are(network):
    rows = ROWS[:BATCH]
    start = copied(network)
    results = []
    for weights in (None, np.ones(BATCH), np.full(BATCH, 5.0), np.zeros(BATCH)):
        network.restore(start)
        given = None if weights is None else weights.astype(np.float32)
        network.set_up(Plan(rows, label="x", weights=given))
        train(network, rows)
        results.append(copied(network)["params"])
    assert_equal(*results[:2])
    # five times the gradient of the last layer's bias, which nothing normalises
    before = start["params"]["head"]["bias"]
    moved = [params["head"]["bias"] - before for params in results[1:]]
    decayed = moved[2]
    np.testing.assert_allclose(
        moved[1] - decayed, 5 * (moved[0] - decayed), rtol=1e-4, atol=1e-7
    )


def test_a_plan_may_have_a_learning_rate_of_its_own(network):
    twin = device_network(optimizer=Sgd(learning_rate=0.02))
    start, before = copied(network), compile_counts().programs
    results = []
    for rates in (
        {},
        {"learning_rate": 0.02},
        {"learning_rate": 0.04, "learning_rate_factor": 0.5},
        {"learning_rate_factor": 0.5},
        {},
    ):
        network.restore(start)
        network.begin(Plan(ROWS, label="x", **rates), 0)
        train(network, ROWS)
        results.append(copied(network)["params"])
    twin.restore(start)
    train(twin, ROWS)
    usual, *own, half, again = results
    for params in own:
        assert_equal(params, twin.snapshot()["params"])
    assert_equal(usual, again)
    bias = [params["head"]["bias"] for params in (usual, own[0], half)]
    assert not np.array_equal(bias[0], bias[1])
    assert not np.array_equal(bias[0], bias[2])
    assert compile_counts().programs == before


def test_a_restored_snapshot_trains_on_to_the_same_bits():
    first, second = device_network(), device_network(seed=1)
    rows = ROWS
    first.begin(Plan(rows, label="x"), 4)
    train(first, rows)
    saved = copied(first)
    train(first, rows)
    before = compile_counts().programs
    second.restore(saved)
    assert second.plans == 5
    train(second, rows)
    assert compile_counts().programs == before
    assert_equal(first.snapshot(), second.snapshot())


def test_result_reads_the_tables_of_the_plan(network):
    rows = np.array([5, 9, 2, 11], np.int32)
    train(network, rows)
    result = network.result(rows[::-1])
    np.testing.assert_array_equal(result.index_set, np.sort(rows))
    assert np.isfinite(result.losses).all()
    # one visit: right is learned and never forgotten, wrong is never learned
    np.testing.assert_array_equal(
        result.forgetting, np.where(result.correct, 0, np.inf)
    )
    other = network.result(np.array([6], np.int32))
    assert np.isinf(other.losses).all()
    assert np.isinf(other.forgetting).all()


def test_nothing_is_transferred_unasked_while_training_and_scoring(network):
    rows = ROWS
    with jax.transfer_guard("disallow"):
        for reset in ("none", "optimizer", "all"):
            network.begin(Plan(rows, label="x", reset=reset), 1)
            train(network, rows)
        jax.block_until_ready(network.score(rows, NAMES))
        network.result(rows)
        network.barrier()
        network.snapshot()
