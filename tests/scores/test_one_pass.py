"""Functions and single operations, read and probed, against the gradient itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dpet_jax.models.conv import convolution
from dpet_jax.scores.gradient.one_pass import NoRuleError, Reader
from dpet_jax.scores.gradient.rules import Origin, Value, bind, rule_of


def normal(*shape, seed=0, scale=0.5):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def lengths(function, params, image):
    """Return the probe's cotangent, and what it should be: the sum of all squares."""
    reader = Reader(function, params, image)

    def loss(logits):
        return jnp.sum(jnp.sin(logits) * jnp.arange(1.0, logits.size + 1))

    @jax.jit
    def both(params, image):
        probed = jax.grad(lambda probe: loss(reader(params, image, probe)))
        gradient = jax.grad(lambda params: loss(function(params, image)))
        return probed(jnp.float32(0.0)), gradient(params)

    found, gradient = both(params, image)
    squares = [
        np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(gradient)
    ]
    return found, sum(squares), reader


def dense(params, image):
    return jnp.tanh(image @ params["a"] + params["b"]) @ params["c"]


def kernel_on_the_left(params, image):
    return jnp.tanh(params["a"].T @ image) @ params["c"]


def standardised(params, image):
    kernel = params["a"] - jnp.mean(params["a"], axis=0, keepdims=True)
    kernel = kernel / jnp.linalg.norm(kernel)
    return jnp.tanh(image @ kernel) @ params["c"]


def two_in_one_kernel(params, image):
    return jnp.tanh(image @ (params["a"] * jnp.exp(params["b"])[None])) @ params["c"]


def called(params, image):
    hidden = jax.jit(lambda a, x: jax.nn.relu(x @ a))(params["a"], image)
    hidden = jax.checkpoint(lambda b, h: h * b)(params["b"], hidden)
    return jax.nn.gelu(hidden) @ params["c"]


def token_beside(params, image):
    rows = jnp.concatenate([params["b"][None, :4], jnp.sin(image)[None]])
    return jnp.tanh(rows.sum(0) ** 2)


def picked(params, image):
    places = (image > 0).astype(jnp.int32)
    row = params["c"][places[0]]
    return jnp.tanh(params["a"][places].sum(0)[:5] * row)


def rearranged(params, image):
    kernel = jnp.flip(params["a"].T.reshape(4, 6), axis=0)
    return (image @ kernel) @ params["c"].transpose().reshape(6, 5)


PARAMS = {"a": normal(4, 6), "b": normal(6), "c": normal(6, 5)}


@pytest.mark.parametrize(
    "function",
    [
        dense,
        kernel_on_the_left,
        standardised,
        two_in_one_kernel,
        called,
        token_beside,
        picked,
        rearranged,
    ],
)
def test_probe_gets_the_squared_length_of_the_gradient(function):
    found, expected, _ = lengths(function, PARAMS, normal(4, seed=1))
    assert expected > 0.01
    np.testing.assert_allclose(found, expected, rtol=2e-5)


CONVOLUTIONS = {
    "ours": ("NHWC", "HWIO", (1, 1), ((1, 1), (1, 1)), {}),
    "ours, stride 2": ("NHWC", "HWIO", (2, 2), ((1, 1), (1, 1)), {}),
    "SAME, stride 2": ("NHWC", "HWIO", (2, 2), ((0, 1), (0, 1)), {}),
    "uneven strides": ("NHWC", "HWIO", (2, 1), ((1, 1), (1, 1)), {}),
    "channels first": ("NCHW", "OIHW", (1, 1), ((1, 1), (1, 1)), {}),
    "dilated": ("NHWC", "HWIO", (1, 1), ((0, 0), (1, 2)), {"rhs_dilation": (2, 1)}),
    "grouped": ("NHWC", "HWIO", (1, 1), "SAME", {"feature_group_count": 2}),
    "transposed": (
        *("NHWC", "HWIO", (1, 1), ((1, 1), (1, 1))),
        {"lhs_dilation": (2, 2)},
    ),
}


@pytest.mark.parametrize(
    ("name", "side"),
    [*((name, 4) for name in CONVOLUTIONS), ("ours", 16), ("ours, stride 2", 16)],
)
def test_every_convolution_gets_the_length_of_its_kernel_gradient(name, side):
    layout, kernel_layout, strides, padding, options = CONVOLUTIONS[name]
    inputs = 4 // options.get("feature_group_count", 1)
    kernel = {"HWIO": (3, 3, inputs, 6), "OIHW": (6, inputs, 3, 3)}[kernel_layout]
    image = {"NHWC": (side, side, 4), "NCHW": (4, side, side)}[layout]

    def function(params, image):
        maps = lax.conv_general_dilated(
            image[None],
            params["k"],
            strides,
            padding,
            dimension_numbers=(layout, kernel_layout, layout),
            **options,
        )
        return jnp.tanh(maps).mean((2, 3) if layout == "NCHW" else (1, 2))[0]

    found, expected, reader = lengths(function, {"k": normal(*kernel)}, normal(*image))
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    formed = {"grouped", "transposed"}
    assert (reader.layers[0].form == "gradient") == (name in formed)


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 1, 16), (3, 1, 4), (3, 2, 4), (1, 2, 4)]
)
def test_the_convolution_of_this_package_is_read_as_the_plain_one(kernel, stride, side):
    def function(params, image):
        return jnp.tanh(convolution(image[None], params["k"], stride)).mean((1, 2))[0]

    params, image = {"k": normal(kernel, kernel, 3, 5)}, normal(side, side, 3)
    found, expected, reader = lengths(function, params, image)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    (layer,) = reader.layers
    assert layer.operation == "conv_general_dilated"
    assert layer.form != "gradient"


def test_layers_say_what_meets_the_example_and_how():
    _, _, reader = lengths(dense, PARAMS, normal(4))
    assert reader.layers == [
        ("dot_general", ("['a']",), "ghost", 4 + 6),
        ("add", ("['b']",), "gradient", None),
        ("dot_general", ("['c']",), "ghost", 6 + 5),
    ]


def test_the_gradient_of_a_large_kernel_is_never_formed():
    params, image = {"a": normal(200, 300), "c": normal(300, 5)}, normal(200)

    def function(params, image):
        return jnp.tanh(image @ params["a"]) @ params["c"]

    def probed(params, image):
        reader = Reader(function, params, image)
        return jax.grad(lambda probe: reader(params, image, probe).sum())(
            jnp.float32(0.0)
        )

    program = jax.jit(probed).lower(params, image).compile()
    forward = 2 * 200 * 300
    # an outer product, its squares and their sum would be 1.5 times as much again
    assert program.cost_analysis()["flops"] < 1.25 * forward


def tied(params, image):
    return jnp.tanh(image @ params["a"]) @ params["a"].T


def tied_by_casting(params, image):
    kernel = params["a"].astype(jnp.bfloat16)
    return image @ params["a"] + (image @ kernel.astype(jnp.float32))


def scanned(params, image):
    def layer(hidden, kernel):
        return jnp.tanh(hidden @ kernel), None

    return lax.scan(layer, image, params["a"].reshape(2, 4, 3)[:, :3, :])[0]


@jax.custom_vjp
def straight_through(kernel, image):
    return image @ jnp.round(kernel)


straight_through.defvjp(
    lambda kernel, image: (straight_through(kernel, image), (kernel, image)),
    lambda kept, back: (jnp.outer(kept[1], back), back @ kept[0].T),
)


@pytest.mark.parametrize(
    ("function", "image", "message"),
    [
        (tied, normal(4), r"\['a'\] is used twice, the second time in dot_general"),
        (tied_by_casting, normal(4), r"\['a'\] is used twice"),
        (scanned, normal(3), r"\['a'\] meets the example in scan, which has no rule"),
        (
            lambda params, image: straight_through(params["a"], image),
            normal(4),
            r"\['a'\] meets the example in custom_vjp_call",
        ),
        (
            lambda params, image: jax.vmap(
                lambda part: convolution(part, params["a"].reshape(1, 1, 4, 6), 1)
            )(image),
            normal(2, 1, 3, 3, 4),
            r"\['a'\] meets the example in custom_vjp_call",
        ),
        (
            lambda params, image: params["c"][0] + 0 * image.size,
            normal(4),
            "do not depend on the image",
        ),
    ],
)
def test_what_has_no_one_pass_form_is_refused_by_name(function, image, message):
    reader = Reader(function, PARAMS, image)
    with pytest.raises(NoRuleError, match=message):
        reader(PARAMS, image, jnp.float32(0.0))


def test_a_parameter_nobody_uses_adds_nothing():
    params = PARAMS | {"idle": normal(7)}
    alone, _, _ = lengths(dense, PARAMS, normal(4))
    beside, _, _ = lengths(dense, params, normal(4))
    assert alone == beside


def test_the_probe_changes_nothing():
    reader, image = Reader(dense, PARAMS, normal(4)), normal(4)
    for probe in (0.0, 5.0):
        np.testing.assert_array_equal(
            reader(PARAMS, image, jnp.float32(probe)), dense(PARAMS, image)
        )


def test_a_batch_gets_the_lengths_of_its_examples():
    reader = Reader(dense, PARAMS, normal(4))
    images = normal(3, 4, seed=2)

    def one(image):
        return jax.grad(lambda probe: reader(PARAMS, image, probe).sum())(
            jnp.float32(0.0)
        )

    alone = [one(image) for image in images]
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(images), alone, rtol=1e-6)


# single operations


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


OPERATIONS = {
    "dense": (lambda w, x: lax.dot(x, w), (6, 4), (5, 6), "product"),
    "one position": (lambda w, x: lax.dot(x, w), (6, 4), (1, 6), "ghost"),
    "scale": (lambda w, x: lax.mul(x, w), (1, 6), (5, 6), "gradient"),
    "bias": (lambda w, x: lax.add(x, w), (5, 6), (5, 6), "gradient"),
    "denominator": (lambda w, x: lax.div(x, w), (5, 6), (5, 6), "gradient"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_rule_runs_its_operation_and_gives_the_length_of_its_gradient(name):
    function, shape, example_shape, form = OPERATIONS[name]
    parameter, example = 2.0 + normal(*shape), normal(*example_shape)
    rule = rule_of(*operation(function, parameter, example))
    result = rule.forward([example], [parameter])
    np.testing.assert_array_equal(result, function(parameter, example))
    cotangent = normal(*result.shape)
    _, pull = jax.vjp(lambda w: function(w, example), parameter)
    expected = np.sum(np.asarray(pull(cotangent)[0], np.float64) ** 2)
    found = rule.squared_norm([example], [parameter], cotangent)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert rule.form == form


def test_a_kernel_computed_from_its_parameter_needs_the_gradient_itself():
    function, shape, example_shape, _ = OPERATIONS["dense"]
    equation, inputs = operation(
        function, normal(*shape), normal(*example_shape), rearranged=False
    )
    assert rule_of(equation, inputs).form == "gradient"


def test_the_length_is_that_of_the_gradient_by_the_parameter_not_by_its_image():
    function, shape, example_shape, _ = OPERATIONS["dense"]
    parameter, example = normal(*shape), normal(*example_shape)
    equation, inputs = operation(function, parameter, example)
    thrice = Origin(("w",), lambda gradient: {"w": 3.0 * gradient}, rearranged=False)
    inputs = [
        Value(value.array, origin=thrice) if value.origin else value for value in inputs
    ]
    cotangent = normal(5, 4)
    plain = np.sum((np.asarray(example).T @ np.asarray(cotangent)) ** 2)
    found = rule_of(equation, inputs).squared_norm([example], [parameter], cotangent)
    np.testing.assert_allclose(found, 9 * plain, rtol=1e-5)


def test_an_operation_that_is_not_listed_has_no_rule():
    def function(w, x):
        return lax.atan2(x, w)

    assert rule_of(*operation(function, normal(3), normal(3))) is None


def test_an_equation_runs_as_it_stood_with_its_custom_derivative():
    (equation,) = jax.make_jaxpr(jax.nn.relu)(jnp.zeros(3)).eqns
    values = jnp.asarray([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(bind(equation, [values])[0], [0.0, 0.0, 2.0])
    # the derivative of a plain maximum would be a half at zero
    one = jax.make_jaxpr(jax.nn.relu)(jnp.float32(0.0)).eqns[0]
    slope = jax.grad(lambda value: bind(one, [value])[0])
    assert slope(jnp.float32(0.0)) == 0.0
