"""Length of one example's gradient by a layer, formed only where that is cheaper.

A layer that multiplies its inputs U (t positions, p values each) by a kernel has, for
an example with cotangent D (t positions, o channels), the gradient U^T D. Its squared
length is that of the product, or <U U^T, D D^T>, which never forms the p x o gradient
(the "ghost norm"). For a convolution the p values of a position are a patch, and U U^T
follows from the Gram matrix of the pixels alone.

Source:
    Goodfellow (2015), "Efficient Per-Example Gradient Computations"; Rochette et al.
    (2019), "Efficient Per-Example Gradient Computations in Convolutional Neural
    Networks"; Bu et al. (2022), "Scalable and Efficient Training of Large Convolutional
    Neural Networks with Differential Privacy" (the choice by cost).
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Float32

Form = Literal["product", "ghost", "pixel ghost"]


class Choice(NamedTuple):
    """How the length of a layer's gradient is computed.

    Attributes:
        form: The cheapest of the forms that apply.
        multiply_adds: What it costs for one example.
    """

    form: Form
    multiply_adds: int


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its inputs; one entry a spatial axis.

    Attributes:
        kernel: Side of the kernel.
        strides: Step between output positions.
        padding: Zeros before and after.
        dilation: Step between kernel positions.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def slides_by_one(self) -> bool:
        """Whether neighbouring outputs see neighbouring pixels."""
        return max(*self.strides, *self.dilation) == 1


def choose_dense(positions: int, inputs: int, outputs: int) -> Choice:
    """Choose the form for a dense layer by its cost.

    Args:
        positions: How often the layer is applied to one example, t.
        inputs: Values of a position, p.
        outputs: Channels, o.
    """
    return _cheapest(
        {
            "product": positions * inputs * outputs,
            "ghost": positions**2 * (inputs + outputs),
        }
    )


def choose_convolution(
    window: Window,
    pixels: tuple[int, ...],
    outputs: tuple[int, ...],
    channels: tuple[int, int],
) -> Choice:
    """Choose the form for a convolution by its cost.

    Args:
        window: How it slides.
        pixels: Spatial shape of its input.
        outputs: Spatial shape of its output.
        channels: Of its input and output.
    """
    patch, positions = math.prod(window.kernel), math.prod(outputs)
    costs: dict[Form, int] = {
        "product": positions * patch * channels[0] * channels[1],
        "ghost": positions**2 * (patch * channels[0] + channels[1]),
    }
    if window.slides_by_one and patch > 1:
        gram = math.prod(pixels) ** 2 * channels[0]
        costs["pixel ghost"] = gram + positions**2 * (patch + channels[1])
    return _cheapest(costs)


def _cheapest(costs: dict[Any, int]) -> Choice:
    form = min(costs, key=lambda name: costs[name])
    return Choice(form, costs[form])


def squared_dense_norm(
    inputs: Float[Array, "t p"], cotangent: Float[Array, "t o"], form: Form
) -> Float32[Array, ""]:
    """Return ||inputs^T cotangent||^2.

    Args:
        inputs: What the layer multiplied.
        cotangent: Gradient of the loss by what it gave.
        form: "product" or "ghost"; they differ by rounding alone.
    """
    if form == "product":
        return jnp.sum(jnp.square(_dot("tp,to->po", inputs, cotangent)))
    return jnp.vdot(_gram(inputs), _gram(cotangent))


def squared_convolution_norm(
    images: Float[Array, "*s c"],
    cotangent: Float[Array, "*t o"],
    window: Window,
    form: Form,
) -> Float32[Array, ""]:
    """Return the squared length of a convolution's kernel gradient.

    Args:
        images: What the convolution saw, channels last.
        cotangent: Gradient of the loss by what it gave, channels last.
        window: How it slid.
        form: How to compute it; the forms differ by rounding alone.
    """
    run = _pixel_ghost if form == "pixel ghost" else partial(_patches, form)
    run = partial(run, window)
    # what one example needs fits the cache of a CPU, what a batch needs does not
    return lax.platform_dependent(
        images, cotangent, cpu=sequential_vmap(run), default=run
    )


def _patches(form, window, images, cotangent):
    spatial, channels = cotangent.shape[:-1], images.shape[-1]
    padded = jnp.pad(images, (*window.padding, (0, 0)))
    seen = [
        _shift(padded, offset, spatial, window).reshape(-1, channels)
        for offset in np.ndindex(window.kernel)
    ]
    cotangents = cotangent.reshape(-1, cotangent.shape[-1])
    return squared_dense_norm(jnp.concatenate(seen, axis=1), cotangents, form)


def _pixel_ghost(window, images, cotangent):
    """Add up the Gram matrix of the pixels, shifted alike on both sides."""
    sides, spatial = images.shape[:-1], cotangent.shape[:-1]
    gram = _gram(images.reshape(-1, images.shape[-1])).reshape(*sides, *sides)
    padded = jnp.pad(gram, window.padding * 2)
    patches = jnp.zeros(spatial * 2, jnp.float32)
    for offset in np.ndindex(window.kernel):
        patches += _shift(padded, offset * 2, spatial * 2, window)
    cotangents = _gram(cotangent.reshape(-1, cotangent.shape[-1]))
    return jnp.vdot(patches.reshape(cotangents.shape), cotangents)


def _shift(padded, offset, spatial, window):
    """Take what one kernel position sees, for every output position."""
    index = tuple(
        slice(
            step * dilation,
            step * dilation + (count - 1) * stride + 1,
            stride,
        )
        for step, dilation, count, stride in zip(
            offset,
            itertools.cycle(window.dilation),
            spatial,
            itertools.cycle(window.strides),
            strict=False,
        )
    )
    return padded[index]


def _gram(rows):
    return _dot("tp,up->tu", rows, rows)


def _dot(equation, left, right):
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)
