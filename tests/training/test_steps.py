"""The compiled training program against an independent loop of optax steps."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes.networks import BATCH, NUM_TRAIN, TINY, device_data
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.data.augment import Augmentation
from dpet_jax.training.compilation import compile_counts, compiled
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.schedule import Constant, Cosine, Linear, traced_schedule
from dpet_jax.training.state import StepSpec, init_state
from dpet_jax.training.steps import Hyper, train_steps
from dpet_jax.training.traced import numbers_of, without_numbers

N = NUM_TRAIN
OPTIMIZER = without_numbers(Sgd())
SPEC = StepSpec(TINY, OPTIMIZER, BATCH, "float32", data_mesh())
#: Where everything lies, so that one program serves all tests.
PLACE = NamedSharding(SPEC.mesh, PartitionSpec())


def hyper(
    *,
    schedule=Linear(),  # noqa: B008
    peak=0.1,
    horizon=24,
    label_smoothing=0.0,
    **changes,
):
    traced = traced_schedule(schedule, peak)._replace(horizon=np.float32(horizon))
    still = Augmentation(np.int32(0), np.bool_(False), np.int32(0))
    numbers = numbers_of(Sgd(**changes))
    return Hyper(traced, numbers, np.float32(label_smoothing), still)


@pytest.fixture(scope="module")
def data():
    return jax.device_put(device_data())


@jax.jit
def fresh():
    return init_state(TINY, OPTIMIZER, N, jax.random.key(1))


def run(
    state,
    data,
    rows,
    *,
    steps=None,
    weights=None,
    first_visit=0,
    hyper=hyper(),  # noqa: B008
    spec=SPEC,
):
    padded = np.zeros(N, np.int32)
    padded[: len(rows)] = rows
    steps = len(rows) // BATCH if steps is None else steps
    weights = np.ones(N) if weights is None else weights
    counts = np.int32(steps), np.int32(first_visit)
    given = state, data, padded, *counts, np.float32(weights), hyper
    return train_steps(spec, *jax.device_put(given, PLACE))


@jax.jit
def reference_step(data, params, stats, opt_state, smoothing, rate, rows, coefficients):
    def loss(params):
        images = (data.images[rows].astype(jnp.float32) / 255 - 0.5) / 0.25
        labels = data.labels[rows]
        key = jax.random.key(0)
        outputs, after = TINY.apply_train(key, params, stats, images)
        target = optax.smooth_labels(jax.nn.one_hot(labels, 3), smoothing)
        each = optax.softmax_cross_entropy(outputs.logits, target)
        plain = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return jnp.sum(each * coefficients), (after, plain)

    grads, aux = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = with_decay(rate).update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, *aux


def with_decay(rate):
    return optax.chain(
        optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9, nesterov=True)
    )


def reference(data, batches, weights, *, smoothing, rates):
    """Train with optax, batch by batch, on the real rows' loss."""
    state = fresh()
    params, stats, losses = state.params, state.batch_stats, []
    opt_state = with_decay(0.1).init(params)
    for (rows, num_real), rate in zip(batches, rates, strict=True):
        coefficients = np.where(np.arange(BATCH) < num_real, weights[rows], 0)
        params, opt_state, stats, plain = reference_step(
            *(data, params, stats, opt_state, *np.float32((smoothing, rate)), rows),
            np.float32(coefficients / num_real),
        )
        losses.append(np.asarray(plain)[:num_real])
    return params, stats, losses


def assert_close(left, right, rtol=2e-4):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_train_steps_equals_optax_on_weighted_tail_batches(data, smoothing):
    weights = jnp.linspace(0.5, 1.5, N)
    first, second = np.array([3, 1, 7, 2]), np.array([5, 9, 3, 1])
    rows = np.concatenate([first, [5, 9, ~3, ~1]])
    state, stats = run(
        fresh(), data, rows, weights=weights, hyper=hyper(label_smoothing=smoothing)
    )
    params, batch_stats, losses = reference(
        data,
        [(first, 4), (second, 2)],
        weights,
        smoothing=smoothing,
        rates=(0.1, 0.1 * (1 - 4 / 24)),
    )
    assert_close(state.params, params)
    assert_close(state.batch_stats, batch_stats)
    np.testing.assert_allclose(
        state.losses[np.array([7, 2, 5, 9])],
        [losses[0][2], losses[0][3], *losses[1]],
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        stats.loss, sum(batch.sum() for batch in losses), rtol=1e-4
    )
    assert (int(stats.visits), int(state.step)) == (6, 2)


def test_a_fill_row_leaves_its_table_entries_alone(data):
    known = fresh()._replace(
        losses=np.full(N, 7, np.float32),
        correct=np.ones(N, bool),
        forgetting=np.full(N, 5, np.int32),
    )
    # labels that no network predicts: every row that is visited is forgotten
    never = data._replace(labels=jnp.full_like(data.labels, -1))
    state, _ = run(known, never, [0, 1, ~2, ~3])
    np.testing.assert_array_equal(state.losses[2:], np.full(N - 2, 7.0))
    np.testing.assert_array_equal(state.correct, [False] * 2 + [True] * (N - 2))
    np.testing.assert_array_equal(state.forgetting, [6, 6] + [5] * (N - 2))


def test_forgetting_counts_falls_between_visits_before_each_update(data):
    # a peak so high that predictions jump about
    wild = hyper(peak=0.8, horizon=10**6, momentum=0.0)
    rng = np.random.default_rng(1)
    batches = [rng.permutation(N)[:BATCH] for _ in range(60)]
    state, seen = fresh(), {row: [] for row in range(N)}
    for step, rows in enumerate(batches):
        state, _ = run(state, data, rows, first_visit=step * BATCH, hyper=wild)
        for row in rows.tolist():
            seen[row].append(bool(state.correct[row]))
    falls = [
        sum(a and not b for a, b in pairwise(seen[row])) if any(seen[row]) else -1
        for row in range(N)
    ]
    np.testing.assert_array_equal(state.forgetting, falls)
    assert max(falls) > 2
    whole = fresh()
    for first in range(0, len(batches), 3):
        rows = np.concatenate(batches[first : first + 3])
        whole, _ = run(whole, data, rows, first_visit=first * BATCH, hyper=wild)
    assert_equal(whole, state)


def test_example_twice_in_a_batch_counts_as_the_visit_of_its_last_row(data):
    known = fresh()._replace(
        correct=jnp.ones(N, bool), forgetting=jnp.full(N, 5, jnp.int32)
    )
    never = data._replace(labels=jnp.full_like(data.labels, -1))
    state, stats = run(known, never, [3, 0, 3, 3])
    assert state.forgetting[jnp.array([0, 3])].tolist() == [6, 6]
    assert int(stats.visits) == 4
    # each row is augmented another way, which shows which of them the table holds
    shaken = hyper()._replace(
        augmentation=Augmentation(jnp.int32(2), jnp.bool_(True), jnp.int32(4))
    )
    twice, _ = run(fresh(), data, [0, 3, 3, 1], hyper=shaken)
    reverse, _ = run(fresh(), data, [0, 3, ~3, 1], hyper=shaken)
    last, _ = run(fresh(), data, [0, ~3, 3, 1], hyper=shaken)
    assert twice.losses[3] == last.losses[3]
    assert twice.losses[3] != reverse.losses[3]


def test_margins_are_those_of_the_step_itself_where_they_are_asked_for(data):
    start = fresh()._replace(margins=jnp.full(N, jnp.inf, jnp.float32))
    images = (data.images.astype(jnp.float32) / 255 - 0.5) / 0.25
    first = np.array([3, 1, 7, 2])
    outputs, _ = jax.jit(TINY.apply_train)(
        jax.random.key(0), start.params, start.batch_stats, images[first]
    )
    p = np.asarray(jax.nn.softmax(outputs.logits), np.float64)
    mine = np.eye(3, dtype=bool)[np.asarray(data.labels[first])]
    expected = 1 - (p[mine] - np.where(mine, 0, p).max(axis=1))
    rows = np.concatenate([first, [5, 9, ~3, ~1]])
    state, _ = run(start, data, rows, spec=replace(SPEC, margins=True))
    # the fill rows of the second step leave the entries of the first
    np.testing.assert_allclose(state.margins[first], expected, rtol=1e-4)
    visited = np.isfinite(state.margins)
    assert np.flatnonzero(visited).tolist() == [1, 2, 3, 5, 7, 9]
    np.testing.assert_array_equal(visited, np.isfinite(state.losses))
    plain, _ = run(fresh(), data, rows)
    assert plain.margins is None
    for field in ("params", "batch_stats", "losses", "correct", "forgetting"):
        assert_close(getattr(plain, field), getattr(state, field))


def test_chunks_of_any_size_give_the_same_bits(data):
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ~8, ~9])
    whole, _ = run(fresh(), data, rows)
    parts = fresh()
    for step, visits in ((0, 0), (1, 4), (2, 8)):
        chunk = rows[step * BATCH : (step + 1) * BATCH]
        parts, _ = run(parts, data, chunk, first_visit=visits)
    assert_equal(whole, parts)


def test_rows_past_the_count_are_not_trained_on(data):
    rows = np.arange(N)
    state, stats = run(fresh(), data, rows, steps=2)
    assert int(stats.visits) == 8
    assert np.isinf(state.losses[8:]).all()


def test_no_step_changes_nothing(data):
    state, stats = run(fresh(), data, [], steps=0)
    assert_equal(state, fresh())
    assert int(stats.visits) == 0


def test_a_zero_weight_takes_an_example_out_of_the_gradient(data):
    weights = np.ones(N)
    weights[1] = 0
    state, _ = run(fresh(), data, [0, 1, 2, 3], weights=weights)
    other = data._replace(labels=data.labels.at[1].set((data.labels[1] + 1) % 3))
    same, _ = run(fresh(), other, [0, 1, 2, 3], weights=weights)
    assert_equal(state.params, same.params)


def test_hyper_parameters_counts_and_sets_share_one_executable(data):
    def program(state, rows, steps, values):
        arguments = jax.device_put(
            (state, data, rows, np.int32(steps), np.int32(0), np.ones(N, "f4"), values),
            PLACE,
        )
        ready, _ = compiled(train_steps, SPEC, *arguments)
        return ready.run(*arguments)

    rows = np.arange(N, dtype=np.int32)
    program(fresh(), rows, 1, hyper())
    state = fresh()
    values = hyper(
        schedule=Cosine(),
        peak=0.3,
        momentum=0.5,
        nesterov=False,
        label_smoothing=0.1,
        horizon=99,
    )
    before = compile_counts().programs
    program(state, rows[::-1], 3, values)
    assert compile_counts().programs == before


def test_the_state_is_donated(data):
    state = fresh()
    run(state, data, [0, 1, 2, 3])
    assert jax.tree.leaves(state.params)[0].is_deleted()


def test_augmentation_draws_anew_at_every_step(data):
    shaken = hyper()._replace(
        augmentation=Augmentation(jnp.int32(2), jnp.bool_(True), jnp.int32(0))
    )
    still = hyper(peak=0.0)._replace(augmentation=shaken.augmentation)
    once, _ = run(fresh(), data, [0, 1, 2, 3], hyper=still)
    twice, _ = run(once, data, [0, 1, 2, 3], hyper=still)
    again, _ = run(fresh(), data, [0, 1, 2, 3], hyper=still)
    assert not np.allclose(again.losses[:4], twice.losses[:4], rtol=1e-3)


def test_cutout_grows_over_the_share_of_the_schedule(data):
    rows = np.arange(BATCH, dtype=np.int32)

    def after_a_step(first_visit, side, ramp=None):
        augmentation = Augmentation(np.int32(0), np.bool_(False), np.int32(side), ramp)
        given = hyper(schedule=Constant())._replace(augmentation=augmentation)
        state, _ = run(fresh(), data, rows, first_visit=first_visit, hyper=given)
        return np.asarray(state.losses[:BATCH])

    half = np.float32(0.5)
    whole, none = after_a_step(0, 4), after_a_step(0, 0)
    assert np.abs(whole - none).max() > 1e-3
    # the horizon is 24 visits
    np.testing.assert_array_equal(after_a_step(0, 4, half), none)
    np.testing.assert_array_equal(after_a_step(12, 4, half), whole)
    np.testing.assert_array_equal(after_a_step(9, 4, half), after_a_step(0, 3))
