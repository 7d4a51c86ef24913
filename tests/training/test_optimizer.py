"""Optimizer steps against float64 NumPy, and that no number of theirs compiles."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.optimizer import (
    OPTIMIZERS,
    Adam,
    AdamW,
    OptimizerSection,
    Sgd,
    init_optimizer,
    update,
)
from dpet_jax.training.traced import numbers_of, without_numbers

PARAMS = {"a": np.array([1.0, -2.0, 3.0]), "b": {"c": np.array([[0.5, -0.25]])}}
STEPS = 20


def gradients():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield jax.tree.map(lambda p: rng.normal(size=p.shape).astype("f4"), PARAMS)


def rates():
    return np.linspace(0.1, 0.01, STEPS, dtype=np.float32)


step = jax.jit(update, static_argnums=0)


def trained(section, params=PARAMS):
    static = without_numbers(section)
    params = jax.tree.map(jnp.float32, params)
    state = init_optimizer(static, params)
    for grads, rate in zip(gradients(), rates(), strict=True):
        params, state = step(static, numbers_of(section), rate, grads, state, params)
    return params


def reference(section):
    """Train in float64 by the papers' equations, as PyTorch places the decay."""
    moving = {name: 0.0 for name in ("velocity", "first", "second")}
    params, grads = (
        [np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in trees]
        for trees in ([PARAMS], gradients())
    )
    (params,) = params
    coupled = not isinstance(section, AdamW)
    for t, (grad, rate) in enumerate(zip(grads, rates(), strict=True), start=1):
        grad = grad.astype(np.float64) + coupled * section.weight_decay * params
        if isinstance(section, Sgd):
            moving["velocity"] = section.momentum * moving["velocity"] + grad
            ahead = grad + section.momentum * moving["velocity"]
            change = ahead if section.nesterov else moving["velocity"]
        else:
            b1, b2 = section.b1, section.b2
            moving["first"] = b1 * moving["first"] + (1 - b1) * grad
            moving["second"] = b2 * moving["second"] + (1 - b2) * grad**2
            mean, square = moving["first"] / (1 - b1**t), moving["second"] / (1 - b2**t)
            change = mean / (np.sqrt(square) + section.eps)
        if not coupled:
            change = change + section.weight_decay * params
        params = params - float(rate) * change
    return params


@pytest.mark.parametrize(
    "section",
    [
        Sgd(momentum=0.0, nesterov=False, weight_decay=0.0),
        Sgd(nesterov=False),
        Sgd(momentum=0.8, weight_decay=0.3),
        Adam(weight_decay=0.3, b1=0.8, b2=0.95, eps=1e-2),
        Adam(),
        AdamW(weight_decay=0.3),
    ],
    ids=["plain", "momentum", "nesterov and decay", "adam and decay", "adam", "adamw"],
)
def test_twenty_steps_equal_the_equations_in_float64(section):
    got = np.concatenate([np.ravel(x) for x in jax.tree.leaves(trained(section))])
    np.testing.assert_allclose(got, reference(section), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_compilation_serves_all_numbers_and_switches(optimizer):
    some = optimizer()
    trained(some)
    before = compile_counts().programs
    names = numbers_of(some)
    changed = {name: 0.5 for name in names if name != "nesterov"}
    changed |= {"nesterov": False} if "nesterov" in names else {}
    other = trained(some.model_copy(update=changed))
    assert compile_counts().programs == before
    assert np.abs(other["a"] - trained(some)["a"]).max() > 1e-3


def test_what_is_compiled_in_is_the_kind_alone():
    assert without_numbers(Sgd(momentum=0.1)) == without_numbers(Sgd(nesterov=False))
    assert hash(without_numbers(Adam())) == hash(without_numbers(Adam(b1=0.5)))
    assert without_numbers(Adam()) != without_numbers(AdamW())


class Lion(OptimizerSection):
    """A user's own optimizer, of another transformation of optax's."""

    b1: float = 0.9
    mask: str = "none"

    def transform(self) -> Any:
        assert self.mask == "none"  # no number, and not traced
        return optax.chain(
            optax.scale_by_lion(self.b1),
            optax.scale_by_learning_rate(self.learning_rate),
        )


def test_optimizer_of_the_users_own_steps_by_its_own_transformation():
    got = trained(Lion(learning_rate=1.0, b1=0.5))
    total = rates().sum(dtype=np.float64)
    # every step is the rate, up or down
    moved = np.abs(np.asarray(got["a"]) - PARAMS["a"])
    assert np.all(moved <= total + 1e-5)
    theirs, state = jax.tree.map(jnp.float32, PARAMS), None
    lion = partial(optax.lion, b1=0.5, weight_decay=0.0)
    state = lion(0.1).init(theirs)
    with jax.numpy_dtype_promotion("standard"):
        for grads, rate in zip(gradients(), rates(), strict=True):
            updates, state = lion(float(rate)).update(grads, state, theirs)
            theirs = optax.apply_updates(theirs, updates)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_old_layers_go_at_a_rate_of_their_own(kind):
    params = {"body": {"kernel": np.ones(3, "f4")}, "head": {"bias": np.ones(2, "f4")}}
    grads = jax.tree.map(lambda p: 2 * p, params)
    section = without_numbers(kind())
    state = init_optimizer(section, params)
    given = (section, numbers_of(kind()), np.float32(0.1), grads, state, params)
    alike, _ = update(*given)
    slow, _ = update(*given, np.float32(0.25), "head")
    np.testing.assert_array_equal(slow["head"]["bias"], alike["head"]["bias"])
    whole = 1 - alike["body"]["kernel"]
    assert (whole > 0).all()
    np.testing.assert_allclose(1 - slow["body"]["kernel"], 0.25 * whole, rtol=1e-5)
