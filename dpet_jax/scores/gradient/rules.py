"""How to run and measure an operation in which parameters meet an example.

A convolution or matrix product with a parameter has the forms of `layer_norms`; of the
other operations listed here the gradient is small, and is formed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jax.extend.core import primitives as prim

from dpet_jax.models.conv import convolution
from dpet_jax.scores.gradient.layer_norms import (
    Choice,
    Window,
    choose_convolution,
    choose_dense,
    squared_convolution_norm,
    squared_dense_norm,
)

_MULTIPLICATIONS = {prim.dot_general_p, prim.conv_general_dilated_p}

#: Operations whose gradient by a parameter is small enough to form.
_FORMED = {
    prim.add_p,
    prim.add_jaxvals_p,
    prim.sub_p,
    prim.mul_p,
    prim.div_p,
    prim.max_p,
    prim.min_p,
    prim.pow_p,
    prim.select_n_p,
    prim.concatenate_p,
    prim.gather_p,
    prim.dynamic_slice_p,
}


@dataclass(frozen=True)
class Origin:
    """Origin of a value that is computed from parameters alone.

    Attributes:
        paths: The parameters.
        pull: Maps a gradient by the value to the gradients by them.
        rearranged: Whether the value is one parameter in another shape or dtype.
    """

    paths: tuple[str, ...]
    pull: Callable[[Any], dict[str, Any]]
    rearranged: bool


@dataclass(frozen=True)
class Value:
    """Value of a variable of the jaxpr.

    Attributes:
        array: Its value.
        on_example: Whether it depends on the example.
        origin: Set where it depends on parameters but not on the example.
    """

    array: Any
    on_example: bool = False
    origin: Origin | None = None


@dataclass(frozen=True)
class Rule:
    """How to run an operation, and to measure its gradient.

    Attributes:
        forward: Maps arrays that are no parameters, and those that are, to the result.
        squared_norm: Maps the same and the cotangent of the result to the length.
        form: As in `Layer`.
        multiply_adds: As in `Layer`.
    """

    forward: Callable[[list[Any], list[Any]], Any]
    squared_norm: Callable[[list[Any], list[Any], Any], Any]
    form: str
    multiply_adds: int | None


def bind(equation: JaxprEqn, arrays: Sequence[Any]) -> list[Any]:
    """Run an operation of the jaxpr unchanged."""
    params = equation.primitive.get_bind_params(equation.params)
    result = equation.primitive.bind(*arrays, **params)
    return list(result) if equation.primitive.multiple_results else [result]


def in_primitives(equation: JaxprEqn) -> JaxprEqn:
    """Return the plain convolution that a call of `models.conv.convolution` equals.

    That function has a derivative of its own, equal to the plain one's but for
    rounding, so it may be read as the plain one. Every other equation is returned as
    it is: what other functions make of their own derivatives is not known.
    """
    if equation.primitive is not prim.custom_vjp_call_p:
        return equation
    if getattr(equation.params["bwd"], "f", None) is not convolution.bwd:
        return equation
    # one branch for each platform; the last one is the plain convolution
    branches = equation.params["call_jaxpr"].jaxpr.eqns[-1].params.get("branches", ())
    inner = branches[-1].jaxpr if branches else None
    if inner is None or len(inner.eqns) != 1:
        return equation
    (plain,) = inner.eqns
    if plain.primitive is not prim.conv_general_dilated_p:
        return equation
    return plain if plain.invars == inner.invars else equation


def rule_of(equation: JaxprEqn, inputs: list[Value]) -> Rule | None:
    """Return how to run an operation and measure its gradient; None if it has no rule.

    A kernel that is a function of its parameters, not one of them in another shape,
    needs the gradient itself.

    Args:
        equation: The operation.
        inputs: What it reads; some of it depends on the example, some on parameters.
    """
    if equation.primitive not in (*_MULTIPLICATIONS, *_FORMED):
        return None
    formed = _formed(equation, inputs)
    moving = [index for index, value in enumerate(inputs) if value.origin]
    origin = inputs[moving[0]].origin
    if origin is None or not origin.rearranged or len(moving) > 1:
        return formed
    if equation.primitive is prim.dot_general_p:
        return _dense(equation, inputs, moving[0], formed)
    if equation.primitive is prim.conv_general_dilated_p:
        return _convolution(equation, inputs, moving[0], formed)
    return formed


def _formed(equation: JaxprEqn, inputs: list[Value]) -> Rule:
    """Form the gradients, and take their length."""

    def forward(others, parameters):
        other, parameter = iter(others), iter(parameters)
        (result,) = bind(
            equation,
            [next(parameter) if value.origin else next(other) for value in inputs],
        )
        return result

    def squared_norm(others, parameters, cotangent):
        _, pull = jax.vjp(lambda moving: forward(others, moving), parameters)
        origins = [value.origin for value in inputs if value.origin]
        total = jnp.float32(0.0)
        for origin, gradient in zip(origins, pull(cotangent)[0], strict=True):
            for part in origin.pull(gradient).values():
                total += jnp.sum(jnp.square(part.astype(jnp.float32)))
        return total

    return Rule(forward, squared_norm, "gradient", None)


def _dense(equation, inputs, position, formed) -> Rule:
    (contract, batch) = equation.params["dimension_numbers"]
    if batch[0]:
        return formed
    other = inputs[1 - position].array
    axes = contract[1 - position]
    free = [axis for axis in range(other.ndim) if axis not in axes]
    rows = [other.shape[axis] for axis in free]
    positions, width = math.prod(rows), math.prod(other.shape[axis] for axis in axes)
    outputs = inputs[position].array.size // width
    choice = choose_dense(positions, width, outputs)

    def squared_norm(others, parameters, cotangent):
        del parameters
        values = others[0].transpose(*free, *axes).reshape(positions, width)
        # the result has the free axes of its left operand first
        shape = (positions, outputs) if position == 1 else (outputs, positions)
        cotangents = cotangent.reshape(shape)
        cotangents = cotangents if position == 1 else cotangents.T
        return squared_dense_norm(values, cotangents, choice.form)

    return replace(formed, squared_norm=squared_norm, **choice._asdict())


def _convolution(equation, inputs, position, formed) -> Rule:
    params = equation.params
    groups = params["feature_group_count"] * params["batch_group_count"]
    if position != 1 or groups > 1 or max(params["lhs_dilation"]) > 1:
        return formed
    numbers = params["dimension_numbers"]
    image_axes = _channels_last(numbers.lhs_spec)
    result_axes = _channels_last(numbers.out_spec)
    kernel = inputs[1].array
    image = inputs[0].array.transpose(image_axes)
    (result,) = jax.eval_shape(lambda: bind(equation, [v.array for v in inputs]))
    outputs = tuple(result.shape[axis] for axis in result_axes)
    window = Window(
        tuple(kernel.shape[axis] for axis in numbers.rhs_spec[2:]),
        tuple(params["window_strides"]),
        tuple(params["padding"]),
        tuple(params["rhs_dilation"]),
    )
    if image.shape[0] != 1:
        return formed
    choice: Choice = choose_convolution(
        window, image.shape[1:-1], outputs[1:-1], (image.shape[-1], outputs[-1])
    )

    def squared_norm(others, parameters, cotangent):
        del parameters
        return squared_convolution_norm(
            others[0].transpose(image_axes)[0],
            cotangent.transpose(result_axes)[0],
            window,
            choice.form,
        )

    rule = replace(formed, squared_norm=squared_norm, **choice._asdict())
    if not _is_ours(params, window):
        return rule
    stride = window.strides[0]
    return replace(
        rule, forward=lambda others, kernels: convolution(others[0], kernels[0], stride)
    )


def _is_ours(params: dict[str, Any], window: Window) -> bool:
    """Return whether `models.conv` has a fast form of a convolution."""
    (side, *sides), strides = window.kernel, window.strides
    numbers = params["dimension_numbers"]
    native = lax.conv_dimension_numbers(
        (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
    )
    return (
        sides == [side]
        and side % 2 == 1
        and numbers == native
        and strides[0] == strides[1]
        and window.padding == ((side // 2, side // 2),) * 2
        and max(window.dilation) == 1
        and params["preferred_element_type"] is None
        and params["precision"] is None
    )


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    batch, channels, *spatial = spec
    return (batch, *spatial, channels)
