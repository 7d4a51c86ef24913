"""Squared lengths of per-example gradients from one backward pass over any function.

The function is read as a jaxpr of ONE example, so that it can be run again with a probe
beside every operation in which a parameter meets the example. A probe changes nothing;
its cotangent is the squared length of the gradient of that parameter. As all operations
share one probe, autodiff adds the lengths up, and as no parameter is differentiated, no
gradient of one is formed unless a layer's length needs it. Callers `jax.vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.extend.core import primitives as prim
from jaxtyping import Array, Float32

from dpet_jax.scores.gradient.rules import (
    Origin,
    Rule,
    Value,
    bind,
    in_primitives,
    rule_of,
)


class NoRuleError(ValueError):
    """Raised, with the reason, where a function has no one-pass gradient lengths."""


class Layer(NamedTuple):
    """An operation in which parameters meet the example.

    Attributes:
        operation: Name of JAX's primitive.
        parameters: Paths of the parameters that reach it.
        form: How the length of their gradient is computed; "gradient" where it is
            formed.
        multiply_adds: What that costs for one example; None for "gradient".
    """

    operation: str
    parameters: tuple[str, ...]
    form: str
    multiply_adds: int | None


#: Operations that hand their contents on to an inner jaxpr.
_CALLS = {
    prim.jit_p: "jaxpr",
    prim.closed_call_p: "call_jaxpr",
    prim.remat_p: "jaxpr",
}

#: Operations that move or cast a parameter, but keep the length of its gradient.
_REARRANGEMENTS = {
    prim.reshape_p,
    prim.transpose_p,
    prim.squeeze_p,
    prim.rev_p,
    prim.copy_p,
    prim.convert_element_type_p,
}


class Reader:
    """One example's logits, with a probe for the lengths of its gradient.

    Args:
        function: `function(params, image) -> logits` of one example.
        params: Parameters; a tree of arrays or of their shapes.
        image: One example, or its shape; an array or a tree of them.

    Attributes:
        layers: Every operation in which parameters met the example, once it was run.
    """

    def __init__(
        self, function: Callable[[Any, Any], Any], params: Any, image: Any
    ) -> None:
        self._jaxpr: ClosedJaxpr = jax.make_jaxpr(function)(params, image)
        leaves, _ = jax.tree_util.tree_flatten_with_path(params)
        self._paths = [jax.tree_util.keystr(path) for path, _ in leaves]
        self.layers: list[Layer] = []
        self._met: set[str] = set()

    def __call__(self, params: Any, image: Any, probe: Float32[Array, ""]) -> Any:
        """Return the logits; their gradient by the probe is a sum of squared lengths.

        Raises:
            NoRuleError: If a parameter is used twice, or meets the example in an
                operation that has no rule.
        """
        self.layers, self._met = [], set()
        arguments = [
            Value(leaf, origin=Origin((path,), _itself(path), rearranged=True))
            for path, leaf in zip(self._paths, jax.tree.leaves(params), strict=True)
        ]
        arguments += [Value(leaf, on_example=True) for leaf in jax.tree.leaves(image)]
        constants = [Value(value) for value in self._jaxpr.consts]
        (logits,) = self._run(self._jaxpr.jaxpr, constants, arguments, probe)
        if not logits.on_example:
            raise NoRuleError("the logits do not depend on the image")
        return logits.array

    def _run(self, jaxpr, constants, arguments, probe) -> list[Value]:
        values: dict[Any, Value] = dict(
            zip(
                [*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True
            )
        )

        def read(atom):
            return Value(atom.val) if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            outputs = self._step(
                equation, [read(atom) for atom in equation.invars], probe
            )
            values |= zip(equation.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, equation: JaxprEqn, inputs: list[Value], probe: Any) -> list[Value]:
        from_parameters = any(value.origin for value in inputs)
        on_example = any(value.on_example for value in inputs)
        if not from_parameters:
            outputs = bind(equation, [value.array for value in inputs])
            return [Value(array, on_example) for array in outputs]
        equation = in_primitives(equation)
        if equation.primitive in _CALLS:
            inner = equation.params[_CALLS[equation.primitive]]
            constants = [Value(value) for value in getattr(inner, "consts", ())]
            return self._run(getattr(inner, "jaxpr", inner), constants, inputs, probe)
        if not on_example:
            return _of_parameters(equation, inputs)
        return [Value(self._meet(equation, inputs, probe), on_example=True)]

    def _meet(self, equation: JaxprEqn, inputs: list[Value], probe: Any) -> Any:
        """Run an operation in which parameters meet the example, with the probe."""
        paths = [
            path for value in inputs if value.origin for path in value.origin.paths
        ]
        name = equation.primitive.name
        for path in paths:
            if path in self._met or paths.count(path) > 1:
                raise NoRuleError(
                    f"the parameter {path} is used twice, the second time in {name}; "
                    "the squared length of a sum of gradients is not the sum of theirs"
                )
            self._met.add(path)
        rule = rule_of(equation, inputs)
        if rule is None:
            raise NoRuleError(
                f"the parameter {', '.join(paths)} meets the example in {name}, which "
                "has no rule"
            )
        self.layers.append(Layer(name, tuple(paths), rule.form, rule.multiply_adds))
        return _probed(rule)(
            [value.array for value in inputs if value.origin is None],
            [value.array for value in inputs if value.origin],
            probe,
        )


def _probed(rule: Rule) -> Callable[[list[Any], list[Any], Any], Any]:
    """Give a rule's operation the probe whose cotangent is the squared length."""

    @jax.custom_vjp
    def run(others, parameters, probe):
        del probe
        return rule.forward(others, parameters)

    def forward(others, parameters, probe):
        del probe
        # what does not depend on the probe, as the image, gets nothing sent back
        moving = [leaf.value if leaf.perturbed else None for leaf in others]
        others, parameters = ([leaf.value for leaf in x] for x in (others, parameters))

        def of_moving(moving):
            pairs = zip(moving, others, strict=True)
            values = [still if moved is None else moved for moved, still in pairs]
            return rule.forward(values, parameters)

        result, pull = jax.vjp(of_moving, moving)
        return result, (others, parameters, pull)

    def backward(residuals, cotangent):
        others, parameters, pull = residuals
        length = rule.squared_norm(others, parameters, cotangent)
        return pull(cotangent)[0], [None] * len(parameters), length

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run


def _itself(path: str) -> Callable[[Any], dict[str, Any]]:
    return lambda gradient: {path: gradient}


def _of_parameters(equation: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Run an operation on parameters alone, and keep its gradient by them."""
    moving = [value for value in inputs if value.origin]
    origins = [value.origin for value in moving if value.origin]
    paths = tuple(dict.fromkeys(path for origin in origins for path in origin.paths))

    def run(arrays):
        given = iter(arrays)
        return bind(equation, [next(given) if v.origin else v.array for v in inputs])

    outputs, pull = jax.vjp(run, [value.array for value in moving])
    kept = equation.primitive in _REARRANGEMENTS or (
        equation.primitive is prim.broadcast_in_dim_p
        and outputs[0].size == moving[0].array.size
    )

    def pull_output(index, gradient):
        cotangents = [jnp.zeros_like(output) for output in outputs]
        cotangents[index] = gradient
        (back,) = pull(cotangents)
        gradients: dict[str, Any] = {}
        for origin, part in zip(origins, back, strict=True):
            for path, value in origin.pull(part).items():
                gradients[path] = (
                    gradients[path] + value if path in gradients else value
                )
        return gradients

    return [
        Value(
            output,
            origin=Origin(
                paths,
                lambda gradient, index=index: pull_output(index, gradient),
                kept and len(moving) == 1 and origins[0].rearranged,
            ),
        )
        for index, output in enumerate(outputs)
    ]
