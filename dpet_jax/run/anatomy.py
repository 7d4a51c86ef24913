"""The layers of any network, read from its jaxpr, and networks with some left out.

A layer is a stretch of the training-mode forward pass: what a module convolves,
multiplies or normalises, a ReLU, a pooling. Flax puts the name of a module on each of
its operations, so no network has to list its layers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jax.extend.core import Literal as Constant
from jax.extend.core import primitives as prim

from dpet_jax.models.network import Network, Outputs, Params
from dpet_jax.models.weights import flatten, nest
from dpet_jax.scores.gradient.rules import bind

Kind = Literal["convolution", "dense", "batch norm", "ReLU", "pooling"]

#: In the order in which they are left out: first what XLA fuses into its neighbours,
#: last what the others are fused into.
KINDS: tuple[Kind, ...] = ("ReLU", "batch norm", "pooling", "dense", "convolution")

_Shape = tuple[int, ...]


class Layer(NamedTuple):
    """One layer of a network at the shapes of a batch.

    Attributes:
        name: Where it lies; a ReLU is called by its place among those of its module.
        kind: What it is.
        reads: Shape of what it reads, the batch first.
        gives: Shape of its result.
        parameters: Shapes of its parameters.
        differentiates_input: Whether the backward pass goes on below it; not so where
            no parameter lies there.
    """

    name: str
    kind: Kind
    reads: _Shape
    gives: _Shape
    parameters: tuple[_Shape, ...]
    differentiates_input: bool


class _Stretch(NamedTuple):
    """Equations that belong together, and the values that go in and out of them."""

    layer: Layer | None  # None for what is no layer, such as a sum or a cast
    equations: tuple[JaxprEqn, ...]
    reads: tuple[Any, ...]
    gives: tuple[Any, ...]
    example: Any  # which of `reads` depends on the images


class _Traced(NamedTuple):
    """A training-mode forward pass as equations."""

    stretches: tuple[_Stretch, ...]
    constants: dict[Any, Any]
    inputs: dict[str, Any]  # variables by the flat name of parameter or statistic
    key: tuple[Any, ...]
    images: Any
    outputs: tuple[Any, ...]  # variables of the logits and the features
    new_stats: dict[str, Any]


def layers_of(
    network: Network, batch: int, image_shape: _Shape, dtype: str
) -> tuple[Layer, ...]:
    """Return the layers of a network, from the first to the last.

    Args:
        network: The network.
        batch: Examples of a step.
        image_shape: Height, width and channels.
        dtype: Name of the dtype that it computes in.
    """
    traced = _traced(network, batch, image_shape, dtype)
    return tuple(each.layer for each in traced.stretches if each.layer is not None)


class Alone(NamedTuple):
    """A layer as a function of its own.

    Attributes:
        forward: `forward(*inputs)` returns a tuple of results.
        backward: `backward(cotangent, *inputs)` returns the results and the gradients
            by all that is differentiated: its parameters and, but for a first layer,
            what it reads.
        inputs: Shapes and types of the inputs.
        cotangent: Those of the result's gradient.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    cotangent: jax.ShapeDtypeStruct


def alone(
    network: Network, batch: int, image_shape: _Shape, dtype: str, name: str
) -> Alone:
    """Return a layer of a network as a function of what it reads and its parameters.

    Args:
        network: The network.
        batch: As for `layers_of`, like the two that follow.
        image_shape: Height, width and channels.
        dtype: Name of the dtype that it computes in.
        name: Of the layer.
    """
    traced = _traced(network, batch, image_shape, dtype)
    stretch = next(s for s in traced.stretches if s.layer and s.layer.name == name)
    assert stretch.layer is not None
    params = {var for name, var in traced.inputs.items() if name.startswith("params/")}
    moving = [
        place
        for place, var in enumerate(stretch.reads)
        if var in params
        or (var is stretch.example and stretch.layer.differentiates_input)
    ]
    result = next(p for p, var in enumerate(stretch.gives) if _is_result(var, batch))

    def forward(*inputs: Any) -> Any:
        env = traced.constants | dict(zip(stretch.reads, inputs, strict=True))
        _run(stretch.equations, env)
        return tuple(env[var] for var in stretch.gives)

    def backward(cotangent: Any, *inputs: Any) -> Any:
        def of(values: list[Any]) -> Any:
            full = [*inputs]
            for place, value in zip(moving, values, strict=True):
                full[place] = value
            results = forward(*full)
            return results[result], results

        _, pull, results = jax.vjp(
            of, [inputs[place] for place in moving], has_aux=True
        )
        return results, pull(cotangent)

    return Alone(
        forward,
        backward,
        tuple(_shape_of(var) for var in stretch.reads),
        _shape_of(stretch.gives[result]),
    )


@dataclass(frozen=True)
class Without(Network):
    """A network with layers left out, for finding out what a step takes without them.

    In the place of such a layer values are only brought to the shape of its result:
    pixels and channels are skipped, or zeros put behind them. Its parameters and
    running statistics are no longer there, so that no optimizer moves them.

    Attributes:
        whole: The network.
        left_out: Names of its layers.
        batch: Examples of a step.
        image_shape: Height, width and channels of the images.
        dtype: Name of the dtype that it computes in.
    """

    whole: Network
    left_out: tuple[str, ...]
    batch: int
    image_shape: _Shape
    dtype: str

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Outputs of the last layer."""
        return self.whole.num_classes

    @property
    def in_channels(self) -> int:  # type: ignore[override]
        """Channels of the images."""
        return self.image_shape[2]

    @property
    def label(self) -> str:
        """The network's, and how many layers are left out."""
        return f"{self.whole.label} without {len(self.left_out)} layers"

    @property
    def _pass(self) -> _Traced:
        return _traced(self.whole, self.batch, self.image_shape, self.dtype)

    @property
    def _kept(self) -> list[_Stretch]:
        left_out = {*self.left_out}
        stretches = self._pass.stretches
        return [s for s in stretches if s.layer is None or s.layer.name not in left_out]

    def init(self, key: Any) -> tuple[Params, Params]:
        """Draw the parameters of the whole network, and keep those that are read."""
        params, stats = self.whole.init(key)
        used = {var for stretch in self._kept for var in stretch.reads}
        flat = flatten({"params": params, "batch_stats": stats})
        names = self._pass.inputs
        kept = nest({n: flat[n] for n in flat if names[n] in used})
        return kept.get("params", {}), kept.get("batch_stats", {})

    def apply(
        self, params: Params, stats: Params, images: Any, *, dtype: str = "float32"
    ) -> Outputs:
        """Refuse: what is left has no use but to be timed in training.

        Raises:
            ValueError: Always.
        """
        del params, stats, images, dtype
        raise ValueError(f"{self.label} is trained to be timed, and has no evaluation")

    def apply_train(
        self,
        key: Any,
        params: Params,
        stats: Params,
        images: Any,
        *,
        dtype: str = "float32",
    ) -> tuple[Outputs, Params]:
        """Run what is kept in training mode; see `Network.apply_train`."""
        del dtype  # that of the equations
        traced = self._pass
        given = flatten({"params": params, "batch_stats": stats})
        env = dict(traced.constants)
        env |= {traced.inputs[name]: value for name, value in given.items()}
        env |= zip(traced.key, jax.tree.leaves(key), strict=True)
        # all of each image is read, whatever is left to read it
        env[traced.images] = lax.optimization_barrier(images)
        left_out = {*self.left_out}
        for stretch in traced.stretches:
            if stretch.layer is not None and stretch.layer.name in left_out:
                for var in stretch.gives:
                    if _is_result(var, self.batch):
                        env[var] = _stand_in(env[stretch.example], _shape_of(var))
            else:
                _run(stretch.equations, env)
        logits, *features = (_value(env, var) for var in traced.outputs)
        moved = {
            name: _value(env, var)
            for name, var in traced.new_stats.items()
            if f"batch_stats/{name}" in given
        }
        return Outputs(logits, features[0] if features else None), nest(moved)


def _stand_in(x: Any, wanted: jax.ShapeDtypeStruct) -> Any:
    """Bring a value to another shape without computing anything."""
    if x.shape == wanted.shape:
        return x.astype(wanted.dtype)
    # what gave it computes all of it, not only what is taken
    x = lax.optimization_barrier(x)
    while x.ndim > len(wanted.shape):
        x = x[:, 0]
    for axis, size in enumerate(wanted.shape):
        have = x.shape[axis]
        if have > size:
            step = have // size if 0 < axis < x.ndim - 1 else 1
            x = lax.slice_in_dim(x, 0, (size - 1) * step + 1, step, axis)
        elif have < size:
            margins = [(0, 0)] * x.ndim
            margins[axis] = (0, size - have)
            x = jnp.pad(x, margins)
    return x.astype(wanted.dtype)


# reading the jaxpr


@cache
def _traced(network: Network, batch: int, image_shape: _Shape, dtype: str) -> _Traced:
    params, stats = network.abstract()
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)

    def forward(key: Any, params: Params, stats: Params, images: Any) -> Any:
        outputs, moved = network.apply_train(key, params, stats, images, dtype=dtype)
        return tuple(o for o in outputs if o is not None), flatten(moved)

    # shapes alone, for a caller may be tracing, and this is kept
    key = jax.eval_shape(lambda: jax.random.key(0))
    closed, shapes = jax.make_jaxpr(forward, return_shape=True)(
        key, params, stats, images
    )
    names = flatten({"params": params, "batch_stats": stats})
    ordered = [*_ordered(params, "params"), *_ordered(stats, "batch_stats")]
    assert {*ordered} == {*names}
    key_vars = len(jax.tree.leaves(key))
    jaxpr = closed.jaxpr
    inputs = dict(zip(ordered, jaxpr.invars[key_vars:-1], strict=True))
    num_outputs = len(shapes[0])
    stats_names = sorted(shapes[1])
    new_stats = dict(zip(stats_names, jaxpr.outvars[num_outputs:], strict=True))
    return _Traced(
        _stretches(jaxpr, inputs, jaxpr.invars[-1], batch),
        dict(zip(jaxpr.constvars, closed.consts, strict=True)),
        inputs,
        tuple(jaxpr.invars[:key_vars]),
        jaxpr.invars[-1],
        tuple(jaxpr.outvars[:num_outputs]),
        new_stats,
    )


def _ordered(tree: Any, name: str) -> list[str]:
    """Return the flat names of a tree's leaves in the order in which JAX has them."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return ["/".join([name, *(part.key for part in path)]) for path, _ in paths]


def _stretches(
    jaxpr: Any, inputs: dict[str, Any], images: Any, batch: int
) -> tuple[_Stretch, ...]:
    groups = _grouped(jaxpr.eqns)
    used_after = [{*_variables(jaxpr.outvars)}]
    for group in reversed(groups):
        read = {var for eqn in group for var in _variables(eqn.invars)}
        used_after.append(used_after[-1] | read)
    used_after.reverse()
    params = {var for name, var in inputs.items() if name.startswith("params/")}
    on_example, on_params = {images}, set(params)
    found: list[_Stretch] = []
    counts: dict[str, int] = {}
    for group, later in zip(groups, used_after[1:], strict=True):
        made: list[Any] = [var for eqn in group for var in eqn.outvars]
        reads = tuple(
            dict.fromkeys(
                var
                for eqn in group
                for var in _variables(eqn.invars)
                if var not in made
            )
        )
        gives = tuple(var for var in made if var in later)
        example = next((var for var in reads if var in on_example), None)
        differentiates = example in on_params
        if example is not None:
            on_example.update(made)
        if any(var in on_params for var in reads):
            on_params.update(made)
        results = [var for var in gives if _is_result(var, batch)]
        kind = _kind(group)
        layer = None
        if kind is not None and example is not None and len(results) == 1:
            name = _name(group, kind, counts)
            layer = Layer(
                name,
                kind,
                example.aval.shape,
                results[0].aval.shape,
                tuple(var.aval.shape for var in reads if var in params),
                differentiates,
            )
        found.append(_Stretch(layer, tuple(group), reads, gives, example))
    return tuple(found)


def _grouped(equations: Sequence[JaxprEqn]) -> list[list[JaxprEqn]]:
    """Put the equations of a module, and of a mean over pixels, together."""
    groups: list[list[JaxprEqn]] = []
    modules = {_scope(e) for e in equations if _primitives(e) & _OF_MODULES}
    modules |= {_scope(e) for e in equations if _scope(e).endswith(_POOL)}
    for equation in equations:
        scope = _scope(equation)
        last = groups[-1] if groups else []
        together = last and _scope(last[-1]) == scope and scope in modules
        if together or (last and _completes_mean(last, equation)):
            last.append(equation)
        else:
            groups.append([equation])
    return groups


#: What says that the operations of a module are one layer.
_OF_MODULES = {"conv_general_dilated", "dot_general", "rsqrt"}
_POOL = "max_pool"


def _kind(group: Sequence[JaxprEqn]) -> Kind | None:
    names = set().union(*map(_primitives, group))
    if "conv_general_dilated" in names:
        return "convolution"
    if "dot_general" in names:
        return "dense"
    if "rsqrt" in names:
        return "batch norm"
    pools = _scope(group[0]).endswith(_POOL) or "reduce_window_max" in names
    if pools or _is_pixel_mean(group[0]):
        return "pooling"
    calls = {"jit", "pjit", "custom_jvp_call"}
    if group[0].primitive is prim.custom_jvp_call_p and names - calls == {"max"}:
        return "ReLU"
    return None


def _is_pixel_mean(equation: JaxprEqn) -> bool:
    summed = equation.primitive.name == "reduce_sum"
    return summed and equation.params["axes"] == (1, 2)


def _completes_mean(group: Sequence[JaxprEqn], equation: JaxprEqn) -> bool:
    sums = len(group) == 1 and _is_pixel_mean(group[0])
    reads = {*_variables(equation.invars)}
    return sums and equation.primitive is prim.div_p and reads == {*group[0].outvars}


def _scope(equation: JaxprEqn) -> str:
    """Return the modules that an equation lies in, but the outermost one."""
    return str(equation.source_info.name_stack).partition("/")[2]


def _name(group: Sequence[JaxprEqn], kind: Kind, counts: dict[str, int]) -> str:
    scope = _scope(group[0]).removesuffix("/norm")
    if kind in ("ReLU", "pooling"):
        scope = f"{scope.removesuffix(_POOL).rstrip('/')}/{kind}".lstrip("/")
    counts[scope] = counts.get(scope, 0) + 1
    numbered = kind in ("ReLU", "pooling") or counts[scope] > 1
    return f"{scope} {counts[scope]}" if numbered else scope


@cache
def _inner_names(jaxpr: Any) -> frozenset[str]:
    return frozenset().union(*map(_primitives, jaxpr.eqns))


def _primitives(equation: JaxprEqn) -> frozenset[str]:
    """Return the names of an equation's primitive and of those inside it."""
    found = {equation.primitive.name}
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                found |= _inner_names(inner)
    return frozenset(found)


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Constant)]


def _is_result(var: Any, batch: int) -> bool:
    """Return whether a value is an activation, not a statistic."""
    shape = var.aval.shape
    return len(shape) > 1 and shape[0] == batch


def _shape_of(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


def _value(env: dict[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Constant) else env[atom]


def _run(equations: Sequence[JaxprEqn], env: dict[Any, Any]) -> None:
    """Run equations on the values of an environment, and add their results."""
    for equation in equations:
        arrays = [_value(env, atom) for atom in equation.invars]
        env |= zip(equation.outvars, bind(equation, arrays), strict=True)


def size_of(shapes: Sequence[Any]) -> int:
    """Return the bytes of arrays of some shapes and types."""
    return sum(math.prod(s.shape) * cast(int, s.dtype.itemsize) for s in shapes)
