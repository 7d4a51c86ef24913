"""How many operations a network needs, counted in its own jaxpr."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jax.extend.core import primitives as prim

from dpet_jax.models.network import Network


class Flops(NamedTuple):
    """Floating-point operations, two for each multiply-add.

    Attributes:
        forward: Of a forward pass.
        to_inputs: Of the backward pass to whatever both parameters and images decide.
    """

    forward: int = 0
    to_inputs: int = 0


class _Depends(NamedTuple):
    """What a value depends on."""

    params: bool = False
    image: bool = False


def count_flops(network: Network, height: int, width: int) -> Flops:
    """Count the convolutions and matrix products that one example's logits need.

    Nothing is computed. A `lax.scan` counts as often as it runs, the body of a
    `lax.while_loop` once, of a `lax.cond` the costliest branch.
    """
    params, stats = network.abstract()
    image = jax.ShapeDtypeStruct((1, height, width, network.in_channels), jnp.float32)
    closed = jax.make_jaxpr(
        lambda *arguments: network.apply_in_primitives(*arguments).logits
    )(params, stats, image)
    num_params, num_stats = (len(jax.tree.leaves(tree)) for tree in (params, stats))
    inputs = [_Depends(params=True)] * num_params
    inputs += [_Depends()] * num_stats + [_Depends(image=True)]
    flops, _ = _of_jaxpr(closed.jaxpr, inputs)
    return flops


def _of_jaxpr(jaxpr: Jaxpr, inputs: Sequence[_Depends]) -> tuple[Flops, list[_Depends]]:
    """Count the operations of a jaxpr, and see what its results depend on."""
    known: dict[Any, _Depends] = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom):
        known_not = isinstance(atom, Literal) or atom not in known
        return _Depends() if known_not else known[atom]

    total = Flops()
    for equation in jaxpr.eqns:
        flops, outputs = _of_equation(equation, [of(atom) for atom in equation.invars])
        total = _plus(total, flops)
        known |= zip(equation.outvars, outputs, strict=True)
    return total, [of(atom) for atom in jaxpr.outvars]


def _of_equation(
    equation: JaxprEqn, inputs: list[_Depends]
) -> tuple[Flops, list[_Depends]]:
    params = equation.params
    if equation.primitive is prim.scan_p:
        first, num_carry = _scanned(params)
        flops, outputs = _of_loop(params["jaxpr"], inputs, first, num_carry)
        return Flops(*(params["length"] * count for count in flops)), outputs
    if equation.primitive is prim.while_p:
        inputs = inputs[params["cond_nconsts"] :]
        first = params["body_nconsts"]
        return _of_loop(params["body_jaxpr"], inputs, first, len(inputs) - first)
    if equation.primitive is prim.cond_p:
        branches = [_of_jaxpr(_open(each), inputs[1:]) for each in params["branches"]]
        every = zip(*(outputs for _, outputs in branches), strict=True)
        return max(flops for flops, _ in branches), [_either(*each) for each in every]
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None:
        return _of_jaxpr(_open(inner), inputs)
    cost = _of_product(equation)
    both = sum(depends == _Depends(params=True, image=True) for depends in inputs)
    return Flops(cost, both * cost), [_either(*inputs)] * len(equation.outvars)


def _of_loop(closed: Any, inputs: list[_Depends], first: int, num_carry: int):
    """Count one round of a loop, with all that its carry comes to depend on."""
    inputs = list(inputs)
    while True:
        flops, outputs = _of_jaxpr(_open(closed), inputs)
        carried = slice(first, first + num_carry)
        after = [
            _either(old, new)
            for old, new in zip(inputs[carried], outputs[:num_carry], strict=True)
        ]
        if after == inputs[carried]:
            return flops, outputs
        inputs[carried] = after


def _scanned(params: dict[str, Any]) -> tuple[int, int]:
    """Return how many constants and carries a scan has, before and from jax 0.11."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def _open(jaxpr: Any) -> Any:
    """Return the jaxpr without its constants, where it has come with them."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _of_product(equation: JaxprEqn) -> int:
    """Return two operations for each multiply-add; 0 for what is no product."""
    params = equation.params
    if equation.primitive is prim.conv_general_dilated_p:
        kernel = _shape(equation.invars[1])
        outgoing = kernel[params["dimension_numbers"].rhs_spec[0]]
        each = math.prod(kernel) // outgoing
    elif equation.primitive is prim.dot_general_p:
        (contracted, _), _ = params["dimension_numbers"]
        left = _shape(equation.invars[0])
        each = math.prod(left[axis] for axis in contracted)
    else:
        return 0
    return 2 * each * math.prod(_shape(equation.outvars[0]))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _either(*values: _Depends) -> _Depends:
    return _Depends(any(v.params for v in values), any(v.image for v in values))


def _plus(left: Flops, right: Flops) -> Flops:
    return Flops(left.forward + right.forward, left.to_inputs + right.to_inputs)
