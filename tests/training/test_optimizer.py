import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpet_jax.data.augment import Augmentation
from dpet_jax.training import SCHEDULES, Hyper, Schedule
from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.optimizer import init_optimizer, learning_rate, update

PEAK, FINAL, START, PEAK_AT, HORIZON = 0.8, 0.2, 0.1, 0.25, 80
PARAMS = {"a": jnp.array([1.0, -2.0, 3.0]), "b": {"c": jnp.array([[0.5, -0.25]])}}
STEPS = 4


def schedule(kind, cyclic=False):
    numbers = (jnp.float32(x) for x in (PEAK, FINAL, START, PEAK_AT, HORIZON))
    return Schedule(jnp.int32(SCHEDULES.index(kind)), *numbers, jnp.bool_(cyclic))


def hyper(**changes):
    values = {
        "momentum": 0.0,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "gradient_decay": 0.0,
        "decoupled_decay": 0.0,
        "label_smoothing": 0.0,
    } | changes
    nesterov = jnp.bool_(values.pop("nesterov", False))
    singles = {name: jnp.float32(value) for name, value in values.items()}
    still = Augmentation(jnp.int32(0), jnp.bool_(False), jnp.int32(0))
    return Hyper(schedule("constant"), nesterov=nesterov, augmentation=still, **singles)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.725, 0.65, 0.5, 0.2, 0.2]),
        ("cosine", [0.8, 0.777164, 0.712132, 0.5, 0.2, 0.2]),
        ("triangular", [0.1, 0.45, 0.8, 0.6, 0.2, 0.2]),
    ],
)
def test_rates_at_start_rise_peak_middle_end_and_past_it(kind, rates, variant):
    visits = jnp.array([0, 10, 20, 40, 80, 200], jnp.int32)
    got = variant(lambda v: learning_rate(schedule(kind), v))(visits)
    np.testing.assert_allclose(got, rates, rtol=1e-5)
    assert got.dtype == jnp.float32


def test_the_cyclic_cosine_climbs_and_falls_as_pytorchs_closed_form():
    visits = np.arange(0, 4 * HORIZON + 1, 7)
    expected = FINAL + (PEAK - FINAL) * (1 + np.cos(np.pi * visits / HORIZON)) / 2
    got = jax.vmap(lambda v: learning_rate(schedule("cosine", cyclic=True), v))(
        jnp.asarray(visits, jnp.int32)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "linear", "triangular"])
def test_no_schedule_but_the_cosine_is_cyclic(kind):
    late = jnp.int32(3 * HORIZON)
    np.testing.assert_allclose(
        learning_rate(schedule(kind, cyclic=True), late),
        PEAK if kind == "constant" else FINAL,
        rtol=1e-5,
    )


def gradients():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield jax.tree.map(
            lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS
        )


def ours(family, **changes):
    step = jax.jit(update, static_argnums=0)
    params, state = PARAMS, init_optimizer(family, PARAMS)
    for grads in gradients():
        params, state = step(
            family, hyper(**changes), grads, state, params, jnp.float32(0.1)
        )
    return params


def theirs(optimizer):
    params, state = PARAMS, optimizer.init(PARAMS)
    # optax raises a float to an integer power
    with jax.numpy_dtype_promotion("standard"):
        for grads in gradients():
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    return params


def distance(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(np.abs(np.asarray(a - b)).max() for a, b in pairs)


@pytest.mark.parametrize(
    ("family", "changes", "optimizer"),
    [
        ("sgd", {}, optax.sgd(0.1)),
        ("sgd", {"momentum": 0.9}, optax.sgd(0.1, 0.9)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, optax.sgd(0.1, 0.9, True)),
        (
            "sgd",
            {"momentum": 0.8, "nesterov": True, "gradient_decay": 0.3},
            optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, 0.8, True)),
        ),
        (
            "adam",
            {"gradient_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-2},
            optax.chain(
                optax.add_decayed_weights(0.3), optax.adam(0.1, 0.8, 0.95, 1e-2)
            ),
        ),
        ("adam", {"decoupled_decay": 0.3}, optax.adamw(0.1, weight_decay=0.3)),
    ],
    ids=["plain", "momentum", "nesterov", "nesterov with L2", "adam with L2", "adamw"],
)
def test_update_equals_the_chain_of_optax(family, changes, optimizer):
    assert distance(ours(family, **changes), theirs(optimizer)) < 1e-5


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_coupled_decay_enters_the_accumulator_and_decoupled_does_not(family):
    coupled, decoupled, none = (
        ours(family, momentum=0.9, **decay)
        for decay in ({"gradient_decay": 0.3}, {"decoupled_decay": 0.3}, {})
    )
    for left, right in ((coupled, decoupled), (coupled, none), (decoupled, none)):
        assert distance(left, right) > 1e-2


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_one_compilation_serves_all_rates_and_switches(family):
    @jax.jit
    def step(values, visits, grads, state, params):
        rate = learning_rate(values.schedule, visits)
        return update(family, values, grads, state, params, rate)

    state = init_optimizer(family, PARAMS)
    grads = next(gradients())
    other = hyper(momentum=0.5, nesterov=True, b1=0.5, b2=0.6, decoupled_decay=0.1)
    other = other._replace(schedule=schedule("cosine", cyclic=True))
    visits = jnp.int32(0), jnp.int32(7)
    first, _ = step(hyper(), visits[0], grads, state, PARAMS)
    before = compile_counts().programs
    second, _ = step(other, visits[1], grads, state, PARAMS)
    assert compile_counts().programs == before
    assert distance(first, second) > 1e-3
