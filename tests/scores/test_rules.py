"""Single operations: which have a rule, and what it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dpet_jax.scores.gradient.rules import Origin, Value, bind, rule_of

RNG = np.random.default_rng(0)


def single(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def operation(function, parameter, example, *, rearranged=True):
    """Return the one equation of a function, with what it reads."""
    jaxpr = jax.make_jaxpr(function)(parameter, example).jaxpr
    (equation,) = jaxpr.eqns
    origin = Origin(("w",), lambda gradient: {"w": gradient}, rearranged)
    values = {
        jaxpr.invars[0]: Value(parameter, origin=origin),
        jaxpr.invars[1]: Value(example, on_example=True),
    }
    return equation, [values[atom] for atom in equation.invars]


CASES = {
    "dense": (lambda w, x: lax.dot(x, w), (6, 4), (5, 6), "product"),
    "one position": (lambda w, x: lax.dot(x, w), (6, 4), (1, 6), "ghost"),
    "scale": (lambda w, x: lax.mul(x, w), (1, 6), (5, 6), "gradient"),
    "bias": (lambda w, x: lax.add(x, w), (5, 6), (5, 6), "gradient"),
    "denominator": (lambda w, x: lax.div(x, w), (5, 6), (5, 6), "gradient"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_runs_its_operation_and_gives_the_length_of_its_gradient(name):
    function, shape, example_shape, form = CASES[name]
    parameter, example = 2.0 + single(*shape), single(*example_shape)
    rule = rule_of(*operation(function, parameter, example))
    result = rule.forward([example], [parameter])
    np.testing.assert_array_equal(result, function(parameter, example))
    cotangent = single(*result.shape)
    _, pull = jax.vjp(lambda w: function(w, example), parameter)
    expected = np.sum(np.asarray(pull(cotangent)[0], np.float64) ** 2)
    found = rule.squared_norm([example], [parameter], cotangent)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert rule.form == form


def test_a_kernel_computed_from_its_parameter_needs_the_gradient_itself():
    function, shape, example_shape, _ = CASES["dense"]
    equation, inputs = operation(
        function, single(*shape), single(*example_shape), rearranged=False
    )
    assert rule_of(equation, inputs).form == "gradient"


def test_the_length_is_that_of_the_gradient_by_the_parameter_not_by_its_image():
    function, shape, example_shape, _ = CASES["dense"]
    parameter, example = single(*shape), single(*example_shape)
    equation, inputs = operation(function, parameter, example)
    thrice = Origin(("w",), lambda gradient: {"w": 3.0 * gradient}, rearranged=False)
    inputs = [
        Value(value.array, origin=thrice) if value.origin else value for value in inputs
    ]
    cotangent = single(5, 4)
    plain = np.sum((np.asarray(example).T @ np.asarray(cotangent)) ** 2)
    found = rule_of(equation, inputs).squared_norm([example], [parameter], cotangent)
    np.testing.assert_allclose(found, 9 * plain, rtol=1e-5)


def test_an_operation_that_is_not_listed_has_no_rule():
    def function(w, x):
        return lax.atan2(x, w)

    assert rule_of(*operation(function, single(3), single(3))) is None


def test_an_equation_runs_as_it_stood_with_its_custom_derivative():
    (equation,) = jax.make_jaxpr(jax.nn.relu)(jnp.zeros(3)).eqns
    values = jnp.asarray([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(bind(equation, [values])[0], [0.0, 0.0, 2.0])
    # the derivative of a plain maximum would be a half at zero
    one = jax.make_jaxpr(jax.nn.relu)(jnp.float32(0.0)).eqns[0]
    slope = jax.grad(lambda value: bind(one, [value])[0])
    assert slope(jnp.float32(0.0)) == 0.0
